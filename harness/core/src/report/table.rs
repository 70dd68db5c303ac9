// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table for people. Colour and width are the caller's decision: it knows the terminal and NO_COLOR.

use super::document::{RunResult, Summary};
use crate::aggregate::Aggregate;
use crate::result::CaseResult;
use crate::verdict::{Observation, Outcome};
use comfy_table::TableComponent::{
    HorizontalLines, LeftBorderIntersections, MiddleIntersections, RightBorderIntersections,
};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use std::collections::BTreeSet;

/// How the table looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStyle {
    /// Escape sequences for colours.
    pub color: bool,
    /// Columns of the terminal; none: as wide as it needs.
    pub width: Option<u16>,
}

/// The verdict table, the reasons of what did not pass, and the line of numbers.
pub fn table(run: &RunResult, style: TableStyle) -> String {
    let mut table = empty_table(style);
    let mut header = vec!["scenario", "fs", "pin", "release", "observed", "outcome", "device/guest/host"];
    // Most runs have none, and a column of zeros says less than its absence.
    let with_hits = run.cases.iter().any(|case| hits(case) > 0);
    header.extend(with_hits.then_some("hits"));
    let with_attempts = run.cases.iter().any(|case| !case.attempts.is_empty());
    header.extend(with_attempts.then_some("attempts"));
    table.set_header(header);
    for case in &run.cases {
        let mut row = row(case);
        row.extend(with_hits.then(|| Cell::new(hits(case))));
        row.extend(with_attempts.then(|| Cell::new(attempts(case))));
        table.add_row(row);
    }
    let stopped = run.stopped.iter().map(|why| format!("{why}: {} cases never ran\n", run.missing.len()));
    let stopped: String = stopped.collect();
    let (cases, repeated) = (table_text(&table), repeated(run, style));
    format!("{cases}{repeated}{}{stopped}{}\n", reasons(run, style.width), numbers(&run.summary))
}

/// A table as all of ours look.
pub(crate) fn empty_table(style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    // A line between any two rows doubles the length and says nothing.
    for line in [HorizontalLines, MiddleIntersections, LeftBorderIntersections, RightBorderIntersections] {
        table.remove_style(line);
    }
    if let Some(width) = style.width {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
    }
    match style.color {
        true => table.enforce_styling(),
        false => table.force_no_tty(),
    };
    table
}

/// Its lines, without blanks at their ends.
pub(crate) fn table_text(table: &Table) -> String {
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A row for each case that ran more than once; nothing if none did.
fn repeated(run: &RunResult, style: TableStyle) -> String {
    if run.aggregates.is_empty() {
        return String::new();
    }
    let mut table = empty_table(style);
    table.set_header(["case", "as expected", "95 %", "seen, each with its 95 %"]);
    for aggregate in &run.aggregates {
        let [expected, bounds, seen] = together(aggregate);
        let never = if aggregate.is_never_won() { " (never won)" } else { "" };
        table.add_row([aggregate.id.clone(), expected, bounds, format!("{seen}{never}")]);
    }
    table_text(&table)
}

/// `15 of 16`, `72-99 %`, `lost 15 (72-99 %), intact 1 (1-28 %)`.
pub(super) fn together(aggregate: &Aggregate) -> [String; 3] {
    let unproven = match aggregate.unproven {
        0 => String::new(),
        n => format!(", and {n} that prove nothing"),
    };
    let seen = aggregate.seen.iter().map(|seen| {
        let words = seen.observations.iter().rev().map(|word| word.as_str()).collect::<Vec<_>>().join(" ");
        format!("{words} {} ({})", seen.share.runs, seen.share.bounds())
    });
    [
        format!("{} of {}{unproven}", aggregate.as_expected.runs, aggregate.runs),
        aggregate.as_expected.bounds(),
        seen.collect::<Vec<_>>().join(", "),
    ]
}

/// Pages that DMA changed in flight.
fn hits(case: &CaseResult) -> u64 {
    case.audit.as_ref().map_or(0, |audit| audit.hits_by_dma)
}

/// `fail, pass`: how each attempt came out, where there was more than one.
fn attempts(case: &CaseResult) -> String {
    case.attempts.iter().map(CaseResult::outcome_words).collect::<Vec<_>>().join(", ")
}

fn row(case: &CaseResult) -> Vec<Cell> {
    let scenario = match &case.variant {
        Some(variant) => format!("{} ({variant})", case.scenario),
        None => case.scenario.clone(),
    };
    let observed = case.observations.iter().rev().map(|word| word.as_str()).collect::<Vec<_>>().join(" ");
    let generations = [case.generations.device, case.generations.guest, case.generations.host];
    let generations =
        generations.map(|generation| generation.map_or("-".into(), |g| g.to_string())).join("/");
    vec![
        Cell::new(scenario),
        Cell::new(&case.fs),
        Cell::new(&case.pin),
        Cell::new(&case.release),
        Cell::new(observed).fg(color_of(case.headline)),
        mark(Cell::new(case.outcome_words()), case.outcome),
        Cell::new(generations),
    ]
}

/// Columns of the reasons where nobody says how many there are.
const REASON_COLUMNS: usize = 120;

/// Scenario, outcome and reason.
type Why<'r> = (&'r str, Outcome, &'r str);

/// Why each case that did not pass came out as it did. Cases of a scenario with the same reason share a paragraph.
fn reasons(run: &RunResult, width: Option<u16>) -> String {
    let mut paragraphs: Vec<(Why<'_>, BTreeSet<String>)> = Vec::new();
    for case in run.cases.iter().filter(|case| case.outcome != Outcome::Pass) {
        let key = (case.scenario.as_str(), case.outcome, case.reason.as_str());
        let place = format!("{}/{}", case.fs, case.pin);
        match paragraphs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, places)) => drop(places.insert(place)),
            None => paragraphs.push((key, BTreeSet::from([place]))),
        }
    }
    let columns = width.map_or(REASON_COLUMNS, usize::from);
    let options = textwrap::Options::new(columns).subsequent_indent("    ").break_words(false);
    let lines = paragraphs.into_iter().map(|((scenario, outcome, reason), places)| {
        let places = places.into_iter().collect::<Vec<_>>().join(", ");
        textwrap::fill(&format!("{outcome}: {scenario} on {places}: {reason}"), &options) + "\n"
    });
    lines.collect()
}

fn color_of(headline: Option<Observation>) -> Color {
    match headline {
        Some(word) if !word.is_bad() => Color::Green,
        Some(_) => Color::Red,
        None => Color::Grey,
    }
}

fn mark(cell: Cell, outcome: Outcome) -> Cell {
    match outcome {
        Outcome::Pass => cell.fg(Color::Green),
        Outcome::Xfail | Outcome::Skip => cell.fg(Color::Yellow),
        Outcome::Fail | Outcome::Xpass | Outcome::Flaky | Outcome::Error => {
            cell.fg(Color::Red).add_attribute(Attribute::Bold)
        }
    }
}

/// `60 of 60 cases: 45 pass, 15 xfail; ...`.
pub(super) fn numbers(summary: &Summary) -> String {
    let counts = [
        (summary.pass, "pass"),
        (summary.xfail, "xfail"),
        (summary.fail, "fail"),
        (summary.xpass, "xpass"),
        (summary.flaky, "flaky"),
        (summary.skip, "skip"),
        (summary.error, "error"),
    ];
    let words: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    format!(
        "{} of {} cases: {}; {:.1} s, {} cases a minute",
        counts.iter().map(|(n, _)| n).sum::<usize>(),
        summary.planned,
        words.join(", "),
        summary.seconds,
        summary.cases_per_minute
    )
}
