// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A summary in GitHub's Markdown, for `$GITHUB_STEP_SUMMARY` or a comment: numbers, and what somebody has to look at.

use super::{Entry, environment, gravest_first, labels, one_line, unexpected};
use crate::report::RunResult;
use crate::report::table::together;
use std::fmt::Write as _;

/// Rows of unexpected results; GitHub takes a megabyte.
const MOST: usize = 50;

/// The whole run.
pub fn markdown(run: &RunResult) -> String {
    let groups = unexpected(run);
    let mut page = String::from("## longpin\n\n");
    page.push_str(&numbers(run));
    if run.interrupted {
        page.push_str("\nThe run was interrupted.\n");
    }
    if let Some(why) = &run.stopped {
        // Writing to a string does not fail.
        let _ = writeln!(page, "\n{}.", escaped(why));
    }
    if groups.is_empty() {
        page.push_str("\nNothing unexpected.\n");
    } else {
        page.push_str("\n### Unexpected\n\n| outcome | cases | observed | reason |\n|---|---|---|---|\n");
        page.extend(groups.iter().take(MOST).map(|group| row(group)));
        let more = groups.len().saturating_sub(MOST);
        if more > 0 {
            let _ = writeln!(page, "\n{more} more reasons are not shown.");
        }
    }
    page.push_str(&repeated(run));
    page.push_str("\n### Where it ran\n\n| | |\n|---|---|\n");
    for (name, value) in environment(run) {
        let _ = writeln!(page, "| {name} | {} |", escaped(&value));
    }
    page
}

/// What the runs of each case come to together, where there was more than one.
fn repeated(run: &RunResult) -> String {
    if run.aggregates.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n### Repeated\n\n| case | as expected | 95 % | seen, each with its 95 % |\n|---|---|---|---|\n",
    );
    for aggregate in run.aggregates.iter().take(MOST) {
        let [expected, bounds, seen] = together(aggregate);
        let cells = [aggregate.id.clone(), expected, bounds, seen].map(|cell| escaped(&cell));
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    let more = run.aggregates.len().saturating_sub(MOST);
    if more > 0 {
        let _ = writeln!(text, "\n{more} more cases are not shown.");
    }
    text
}

fn numbers(run: &RunResult) -> String {
    let summary = &run.summary;
    format!(
        "| planned | pass | xfail | fail | xpass | flaky | skip | error | seconds |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n\
         | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |\n",
        summary.planned,
        summary.pass,
        summary.xfail,
        summary.fail,
        summary.xpass,
        summary.flaky,
        summary.skip,
        summary.error,
        summary.seconds
    )
}

fn row(group: &[Entry<'_>]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let observed = first.case.map(|case| gravest_first(&case.observations));
    let cells = [first.outcome_words(), labels(group), observed.unwrap_or_default(), first.reason()];
    format!("| {} |\n", cells.map(|cell| escaped(&cell)).join(" | "))
}

/// Text that is text: no cell ends, nothing is emphasised, linked, or a tag.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text, usize::MAX).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}
