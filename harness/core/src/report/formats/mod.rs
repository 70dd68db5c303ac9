// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What continuous integration reads of a run. Each format is one file and one view of the [`RunResult`]; what they share
//! is here: every planned case has an entry, also one that never reported, and text of the guest is made harmless.

mod github;
mod junit;
mod kcidb;
mod ktap;
mod markdown;

pub use github::{Place, github};
pub use junit::junit;
pub use kcidb::kcidb;
pub use ktap::ktap;
pub(crate) use markdown::escaped;
pub use markdown::markdown;

use super::{CaseResult, RunResult};
use crate::result::id_of;
use crate::verdict::{Cause, Observation, Outcome};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Characters of a reason: a reason is a sentence, and what reads reports has limits of its own.
const REASON_CHARS: usize = 1000;
/// Lines of the kernel log that go with a case.
const LOG_LINES: usize = 20;
/// Characters of such a line.
const LOG_CHARS: usize = 300;

/// A planned case.
struct Entry<'r> {
    /// Id and attempt; no two entries of a run have the same.
    label: String,
    /// Id alone.
    id: &'r str,
    scenario: &'r str,
    outcome: Outcome,
    cause: Option<Cause>,
    reason: &'r str,
    /// None: it never reported.
    case: Option<&'r CaseResult>,
    /// A flaky case is as good as one that passed.
    allow_flaky: bool,
}

impl<'r> Entry<'r> {
    fn reported(case: &'r CaseResult, allow_flaky: bool) -> Self {
        Self {
            label: case.label(),
            id: &case.id,
            scenario: &case.scenario,
            outcome: case.outcome,
            cause: case.error.as_ref().map(|error| error.cause),
            reason: &case.reason,
            case: Some(case),
            allow_flaky,
        }
    }

    /// A case that never reported is an error, whatever the reason.
    fn missing(label: &'r str, run: &'r RunResult) -> Self {
        let id = id_of(label);
        let reason = match (&run.stopped, run.interrupted) {
            (Some(why), false) => why,
            (_, true) => "never reported: the run was interrupted",
            (None, false) => "never reported",
        };
        Self {
            label: label.to_owned(),
            id,
            scenario: id.split_once('/').map_or(id, |(scenario, _)| scenario),
            outcome: Outcome::Error,
            cause: None,
            reason,
            case: None,
            allow_flaky: false,
        }
    }

    fn is_good(&self) -> bool {
        match self.outcome {
            Outcome::Pass | Outcome::Xfail | Outcome::Skip => true,
            Outcome::Flaky => self.allow_flaky,
            Outcome::Fail | Outcome::Xpass | Outcome::Error => false,
        }
    }

    /// Somebody has to look at it: also at a flaky case that is allowed to be one.
    fn is_worth_a_look(&self) -> bool {
        !self.is_good() || self.outcome == Outcome::Flaky
    }

    /// `fail`, `error (infra)`, `error (missing)`.
    fn outcome_words(&self) -> String {
        match (self.outcome, self.cause, self.case) {
            (Outcome::Error, Some(cause), _) => format!("{} ({cause})", self.outcome),
            (Outcome::Error, None, None) => format!("{} (missing)", self.outcome),
            _ => self.outcome.to_string(),
        }
    }

    fn reason(&self) -> String {
        one_line(self.reason, REASON_CHARS)
    }

    /// What else helps to understand it: one line each.
    fn details(&self) -> Vec<String> {
        let Some(case) = self.case else { return Vec::new() };
        let (observed, expected) = (gravest_first(&case.observations), gravest_first(&case.expected));
        let mut lines = vec![format!("observed: {observed}; expected: {expected}")];
        lines.extend(case.attempts.iter().map(|attempt| {
            let (seen, reason) = (gravest_first(&attempt.observations), one_line(&attempt.reason, LOG_CHARS));
            let (number, boot) = (attempt.attempt, attempt.boot);
            format!("attempt {number} (boot {boot}): {}: {seen}: {reason}", attempt.outcome_words())
        }));
        let source = case.reports.iter().filter(|report| report.ignored.is_none()).flat_map(|it| &it.source);
        lines.extend(source.take(LOG_LINES).map(|line| format!("source: {}", one_line(line, LOG_CHARS))));
        let log = case.log.iter().take(LOG_LINES);
        lines.extend(log.map(|line| format!("log ({}): {}", line.class, one_line(&line.text, LOG_CHARS))));
        let left_out = case.log.len().saturating_sub(LOG_LINES);
        lines.extend((left_out > 0).then(|| format!("log: {left_out} more lines in result.json")));
        lines
    }

    /// The gravest first: what the kernel did before what the laboratory could not do.
    fn gravity(&self) -> (u8, Reverse<Option<Observation>>) {
        let rank = match (self.outcome, self.cause, self.case) {
            (Outcome::Fail, ..) => 0,
            (Outcome::Xpass, ..) => 1,
            (Outcome::Flaky, ..) => 2,
            (Outcome::Error, Some(Cause::Unproven), _) => 3,
            (Outcome::Error, _, Some(_)) => 4,
            (Outcome::Error, _, None) => 5,
            (Outcome::Pass | Outcome::Xfail | Outcome::Skip, ..) => 6,
        };
        (rank, Reverse(self.case.and_then(|case| case.headline)))
    }
}

/// `lost warned`.
pub(crate) fn gravest_first(words: &BTreeSet<Observation>) -> String {
    words.iter().rev().map(|word| word.as_str()).collect::<Vec<_>>().join(" ")
}

/// All that was planned: what reported, then what did not.
fn entries(run: &RunResult) -> Vec<Entry<'_>> {
    let reported = run.cases.iter().map(|case| Entry::reported(case, run.allow_flaky));
    reported.chain(run.missing.iter().map(|label| Entry::missing(label, run))).collect()
}

/// The cases of one scenario.
struct Suite<'r> {
    name: &'r str,
    entries: Vec<Entry<'r>>,
}

/// Scenarios in the order of their first case.
fn suites(run: &RunResult) -> Vec<Suite<'_>> {
    let mut suites: Vec<Suite<'_>> = Vec::new();
    for entry in entries(run) {
        match suites.iter_mut().find(|suite| suite.name == entry.scenario) {
            Some(suite) => suite.entries.push(entry),
            None => suites.push(Suite { name: entry.scenario, entries: vec![entry] }),
        }
    }
    suites
}

/// Cases that somebody has to look at, the gravest first. Those of a scenario with the same outcome and reason are one
/// group.
fn unexpected(run: &RunResult) -> Vec<Vec<Entry<'_>>> {
    let mut bad: Vec<Entry<'_>> = entries(run).into_iter().filter(Entry::is_worth_a_look).collect();
    bad.sort_by_key(Entry::gravity);
    let mut groups: Vec<Vec<Entry<'_>>> = Vec::new();
    for entry in bad {
        let alike = |group: &&mut Vec<Entry<'_>>| {
            let first = &group[0];
            (first.scenario, first.outcome, first.cause, first.reason)
                == (entry.scenario, entry.outcome, entry.cause, entry.reason)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

/// Labels that a group names; the others are counted.
const NAMED: usize = 4;

/// `a/ext4/pin/clean, a/xfs/pin/clean and 3 more`.
fn labels(group: &[Entry<'_>]) -> String {
    let named: Vec<&str> = group.iter().take(NAMED).map(|entry| entry.label.as_str()).collect();
    let more = match group.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// Where it ran, by name: every format says it in its own way.
fn environment(run: &RunResult) -> Vec<(&'static str, String)> {
    let environment = &run.environment;
    let words = [
        ("longpin", environment.longpin.version.clone()),
        ("kernel", environment.kernel.release.clone()),
        ("kernel-source", environment.kernel.source.clone()),
        ("qemu", environment.qemu.version.clone()),
        ("accel", environment.accel.clone()),
        ("disk", environment.disk.clone()),
        ("seed", environment.seed.to_string()),
        ("started", run.started.clone()),
        ("command", run.command.clone()),
    ];
    words.map(|(name, value)| (name, one_line(&value, REASON_CHARS))).into()
}

/// Text that ends no line, moves no cursor and is of bounded length.
fn one_line(text: &str, limit: usize) -> String {
    let harmless = |c: char| match c {
        // The last two are no characters, and XML cannot carry them.
        '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    let mut chars = text.chars().map(harmless);
    let mut line: String = chars.by_ref().take(limit).collect();
    if chars.next().is_some() {
        line.push_str(" [...]");
    }
    line
}
