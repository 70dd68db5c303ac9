// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison as a page of Markdown: for a summary in CI, or to stand in documentation.

use super::{Comparison, Relation, Row};
use crate::report::formats::escaped;
use std::fmt::Write as _;

/// Runs, numbers, and tables of what differs and of what could not be compared.
pub fn markdown(comparison: &Comparison) -> String {
    let mut page =
        String::from("## longpin compare\n\n| run | kernel | from | repeat |\n|---|---|---|---|\n");
    // Writing to a string does not fail.
    for side in &comparison.runs {
        let cells = [&side.name, &side.kernel, &side.source, &side.command].map(|cell| escaped(cell));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    let _ = writeln!(page, "\n{}.", comparison.numbers());
    for note in &comparison.notes {
        let _ = writeln!(page, "\n{}", escaped(note));
    }
    let differs: Vec<&Row> = comparison.rows_that(Relation::Differs).collect();
    if !differs.is_empty() {
        page.push_str("\n### What differs\n\n");
        rows(&mut page, comparison, &differs);
        page.push_str("\n### Why\n");
        for row in differs {
            let _ = writeln!(page, "\n- {}", escaped(&row.id));
            for (side, cell) in comparison.runs.iter().zip(&row.cells) {
                for (words, reason) in cell.reasons() {
                    let line = [side.name.as_str(), &words, reason].map(escaped).join(": ");
                    let _ = writeln!(page, "  - {line}");
                }
            }
        }
    }
    let not_compared: Vec<&Row> = comparison.rows_that(Relation::NotCompared).collect();
    if !not_compared.is_empty() {
        page.push_str("\n### Not compared\n\n");
        rows(&mut page, comparison, &not_compared);
    }
    page
}

fn rows(page: &mut String, comparison: &Comparison, rows: &[&Row]) {
    let names: Vec<String> = comparison.runs.iter().map(|side| escaped(&side.name)).collect();
    let _ = writeln!(page, "| case | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<String> = row.cells.iter().map(|cell| escaped(&cell.words())).collect();
        let _ = writeln!(page, "| {} | {} |", escaped(&row.id), cells.join(" | "));
    }
}
