// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison for people at a terminal: what differs, why, and the line of numbers.

use super::{Cell, Comparison, Relation, Row};
use crate::report::{TableStyle, empty_table, table_text};
use comfy_table::{Cell as TableCell, Color};

/// Columns of the reasons where nobody says how many there are.
const REASON_COLUMNS: usize = 120;

/// The runs, the rows that differ with their reasons, and the numbers. `all`: the other rows too.
pub fn table(comparison: &Comparison, all: bool, style: TableStyle) -> String {
    let mut text = String::new();
    for side in &comparison.runs {
        text.push_str(&format!("{}: {} ({})\n", side.name, side.kernel, side.source));
    }
    text.extend(comparison.notes.iter().map(|note| format!("note: {note}\n")));
    let shown = |row: &&Row| all || row.relation == Relation::Differs;
    let rows: Vec<&Row> = comparison.rows.iter().filter(shown).collect();
    if !rows.is_empty() {
        let mut table = empty_table(style);
        let names = comparison.runs.iter().map(|side| side.name.clone());
        table.set_header(std::iter::once("case".to_owned()).chain(names));
        for row in &rows {
            let cells = row.cells.iter().map(|cell| TableCell::new(cell.words()).fg(color_of(cell)));
            table.add_row(std::iter::once(TableCell::new(&row.id)).chain(cells));
        }
        text.push_str(&table_text(&table));
    }
    let columns = style.width.map_or(REASON_COLUMNS, usize::from);
    text.extend(comparison.rows_that(Relation::Differs).map(|row| reasons(comparison, row, columns)));
    text + &comparison.numbers() + "\n"
}

/// What each run says of the case.
fn reasons(comparison: &Comparison, row: &Row, columns: usize) -> String {
    let options = |indent| textwrap::Options::new(columns).subsequent_indent(indent).break_words(false);
    let mut text = format!("{}:\n", row.id);
    for (side, cell) in comparison.runs.iter().zip(&row.cells) {
        for (words, reason) in cell.reasons() {
            let line = format!("  {}: {words}: {reason}", side.name);
            text.push_str(&(textwrap::fill(&line, options("      ")) + "\n"));
        }
    }
    text
}

fn color_of(cell: &Cell) -> Color {
    match cell.is_bad() {
        Some(true) => Color::Red,
        Some(false) => Color::Green,
        None => Color::Grey,
    }
}
