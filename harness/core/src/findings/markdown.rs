// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Findings as a page of Markdown, to stand in documentation or to be quoted in a mail.

use super::prose::prose;
use super::{Cell, Findings, Harm, Overview, Scenario, Worst};
use crate::report::RunResult;
use crate::report::formats::escaped;
use std::fmt::Write as _;

/// Cases that are named of those with the same verdict; the table has all.
const NAMED: usize = 4;

/// The page. `others` are the names and results that the findings stand beside.
pub fn markdown(findings: &Findings, name: &str, run: &RunResult, others: &[(String, RunResult)]) -> String {
    let mut page =
        String::from("## longpin findings\n\n| run | kernel | from | repeat |\n|---|---|---|---|\n");
    // Writing to a string does not fail.
    for (name, run) in
        std::iter::once((name, run)).chain(others.iter().map(|(name, run)| (name.as_str(), run)))
    {
        let kernel = &run.environment.kernel;
        let cells = [name, &kernel.release, &kernel.source, &run.command].map(escaped);
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    let _ = writeln!(page, "\n{}.", numbers(findings, run));
    overview(&mut page, &findings.overview);
    for scenario in &findings.scenarios {
        section(&mut page, scenario);
    }
    page
}

/// What each word of the table means stands in docs/verdicts.md.
fn overview(page: &mut String, overview: &Overview) {
    let _ = writeln!(
        page,
        "\nThe gravest verdict of each scenario on each file system, over all pins and variants. **Bold**: also where the \
         pages were set dirty when they were given back. *clean*: only where the driver forgets that.\n"
    );
    let columns: Vec<String> = overview.file_systems.iter().map(|fs| escaped(fs)).collect();
    let _ = writeln!(page, "| | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
    for (name, cells) in &overview.rows {
        let cells: Vec<String> = cells.iter().map(worst).collect();
        // The anchor of the section's heading.
        let _ = writeln!(page, "| [{}](#{}) | {} |", escaped(name), name.to_lowercase(), cells.join(" | "));
    }
}

fn worst(cell: &Option<Worst>) -> String {
    match cell {
        None => String::new(),
        Some(Worst { word, .. }) if !word.is_bad() => word.to_string(),
        Some(Worst { word, clean_only: true }) => format!("{word}, *clean*"),
        Some(Worst { word, clean_only: false }) => format!("**{word}**"),
    }
}

/// `60 cases, 12 with a bad verdict; 1 skipped or an error`.
fn numbers(findings: &Findings, run: &RunResult) -> String {
    let bad: usize =
        findings.scenarios.iter().flat_map(|scenario| &scenario.harm).map(|harm| harm.cases.len()).sum();
    let without: usize = findings.scenarios.iter().map(|scenario| scenario.without.len()).sum();
    let mut text = format!("{} cases, {bad} with a bad verdict", run.cases.len());
    if without > 0 {
        let _ = write!(text, "; {without} without one");
    }
    if !run.missing.is_empty() {
        let _ = write!(text, "; {} never reported", run.missing.len());
    }
    text
}

fn section(page: &mut String, scenario: &Scenario) {
    let _ = writeln!(page, "\n### {}\n", escaped(&scenario.name));
    if !scenario.title.is_empty() {
        let _ = writeln!(page, "{}\n", escaped(&scenario.title));
    }
    if !scenario.mechanism.is_empty() {
        let _ = writeln!(page, "{}\n", prose(&scenario.mechanism));
    }
    let columns: Vec<String> = scenario.columns.iter().map(|column| escaped(column)).collect();
    let _ = writeln!(page, "| | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
    for (name, cells) in &scenario.rows {
        let cells: Vec<String> = cells.iter().map(|of_column| cell(of_column.as_ref())).collect();
        let _ = writeln!(page, "| {} | {} |", escaped(name), cells.join(" | "));
    }
    for harm in &scenario.harm {
        item(page, harm);
    }
    for (label, reason) in &scenario.without {
        let _ = writeln!(page, "\nNo verdict: {}: {}", escaped(label), escaped(reason));
    }
}

fn cell(cell: Option<&Cell>) -> String {
    match cell {
        None => String::new(),
        Some(Cell { words, bad: true }) => format!("**{}**", escaped(words)),
        Some(Cell { words, bad: false }) => escaped(words),
    }
}

fn item(page: &mut String, harm: &Harm) {
    let _ = writeln!(page, "\n**{}**, {}:\n", escaped(&harm.words), count(harm.cases.len()));
    let named: Vec<String> = harm.cases.iter().take(NAMED).map(|id| escaped(id)).collect();
    let more = harm.cases.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let _ = writeln!(page, "- where: {}{more}", named.join(", "));
    let why =
        if harm.why.is_empty() { "not explained: the scenario expects something else" } else { &harm.why };
    let _ = writeln!(page, "- why: {}", prose(why));
    let _ = writeln!(page, "- seen: {}", escaped(&harm.seen));
    if let Some(first) = harm.cases.first() {
        let _ = writeln!(page, "- again: `longpin run {first}`");
    }
    for (name, words) in &harm.elsewhere {
        let words: Vec<String> = words.iter().map(|(words, n)| format!("{words} ({n})")).collect();
        let _ = writeln!(page, "- {}: {}", escaped(name), escaped(&words.join(", ")));
    }
}

fn count(cases: usize) -> String {
    if cases == 1 { "1 case".to_owned() } else { format!("{cases} cases") }
}
