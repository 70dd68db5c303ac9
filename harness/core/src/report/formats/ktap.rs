// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KTAP version 1, as `Documentation/dev-tools/ktap.rst` of the kernel has it: scenarios, and in each its cases. The
//! kernel's own reader is `tools/testing/kunit/kunit_parser.py`.

use super::{Entry, Suite, environment, one_line, suites};
use crate::report::RunResult;
use crate::verdict::Outcome;
use std::fmt::Write as _;

/// The whole run.
pub fn ktap(run: &RunResult) -> String {
    let suites = suites(run);
    let mut text = String::from("KTAP version 1\n");
    for (name, value) in environment(run) {
        diagnostic(&mut text, "", &format!("{name}: {value}"));
    }
    if run.interrupted {
        diagnostic(&mut text, "", "the run was interrupted");
    }
    if let Some(why) = &run.stopped {
        diagnostic(&mut text, "", &one_line(why, usize::MAX));
    }
    line(&mut text, "", &format!("1..{}", suites.len()));
    for (number, suite) in (1..).zip(&suites) {
        suite_lines(&mut text, number, suite);
    }
    text
}

/// Cases are indented by this.
const INDENT: &str = "  ";

fn suite_lines(text: &mut String, number: usize, suite: &Suite<'_>) {
    let scenario = name(suite.name);
    line(text, INDENT, "KTAP version 1");
    line(text, INDENT, &format!("# Subtest: {scenario}"));
    line(text, INDENT, &format!("1..{}", suite.entries.len()));
    for (number, entry) in (1..).zip(&suite.entries) {
        case_lines(text, number, entry);
    }
    let skipped = suite.entries.iter().all(|entry| entry.outcome == Outcome::Skip);
    let directive = if skipped { " # SKIP every case was skipped" } else { "" };
    let result = word(suite.entries.iter().all(Entry::is_good));
    line(text, "", &format!("{result} {number} {scenario}{directive}"));
}

/// Diagnostics stand before the result that they belong to.
fn case_lines(text: &mut String, number: usize, entry: &Entry<'_>) {
    if entry.is_worth_a_look() {
        diagnostic(text, INDENT, &format!("{}: {}", entry.outcome_words(), entry.reason()));
        for detail in entry.details() {
            diagnostic(text, INDENT, &detail);
        }
    }
    let directive = match entry.outcome {
        Outcome::Xfail => Some("XFAIL"),
        Outcome::Skip => Some("SKIP"),
        Outcome::Pass | Outcome::Fail | Outcome::Xpass | Outcome::Flaky | Outcome::Error => None,
    };
    // A second `#` would begin a second directive.
    let directive =
        directive.map(|word| format!(" # {word} {}", entry.reason().replace('#', "@"))).unwrap_or_default();
    let result = word(entry.is_good());
    line(text, INDENT, &format!("{result} {number} {}{directive}", name(&entry.label)));
}

fn word(good: bool) -> &'static str {
    if good { "ok" } else { "not ok" }
}

/// `#` begins a directive and white space ends nothing, but readers cut at it: `lost-update/ext4/pin/clean@2`.
fn name(label: &str) -> String {
    let safe = |c: char| match c {
        '#' => '@',
        c if c.is_whitespace() || c.is_control() => '_',
        c => c,
    };
    label.chars().map(safe).collect()
}

fn diagnostic(text: &mut String, indent: &str, what: &str) {
    line(text, indent, &format!("# {what}"));
}

/// Last words of a kernel: kunit_parser.py reads a log to its end, and takes these for it wherever they stand in a line.
const ENDS: [&str; 3] =
    ["List of all partitions:", "Kernel panic - not syncing: VFS:", "reboot: System halted"];

fn line(text: &mut String, indent: &str, what: &str) {
    let mut what = what.to_owned();
    for end in ENDS {
        what = what.replace(end, &end.replace(':', ";"));
    }
    // Writing to a string does not fail.
    let _ = writeln!(text, "{indent}{}", what.trim_end());
}
