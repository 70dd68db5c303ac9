// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs side by side: where two kernels, drivers or device models did not do the same. Only what was seen counts, not
//! what a scenario expects: an xfail on both sides is no difference.
//!
//! [`Comparison`] is the document that `longpin compare --format json` prints; `docs/comparing.md` describes it.

mod markdown;
mod page;
mod table;

pub use markdown::markdown;
pub use page::html;
pub use table::table;

use crate::exit_code::ExitCode;
use crate::report::RunResult;
use crate::report::formats::gravest_first;
use crate::result::{CaseResult, Environment, id_of};
use crate::words::{Observation, Outcome};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the document; while it stays, fields are only added.
pub const COMPARISON_SCHEMA: u32 = 1;

/// Several runs, case by case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// [`COMPARISON_SCHEMA`].
    pub schema: u32,
    /// The runs, in the order in which they were named.
    pub runs: Vec<Side>,
    /// What keeps the runs from being alike beside what is compared: another accelerator, another longpin.
    pub notes: Vec<String>,
    /// Every case of any run: those that differ first, the gravest of them first.
    pub rows: Vec<Row>,
    /// How many there are of each.
    pub summary: Summary,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// As it was named: a directory or a kernel.
    pub name: String,
    /// `uname -r` of its guest.
    pub kernel: String,
    /// Package, directory or name that the kernel came from.
    pub source: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// The command line that repeats it.
    pub command: String,
}

/// How a case fared in the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// At least two runs saw something, and not the same.
    Differs,
    /// Fewer than two runs saw something: it was skipped, an error, or not planned.
    NotCompared,
    /// All that saw something saw the same.
    Same,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `scenario/fs/pin/release[/variant]`.
    pub id: String,
    /// The word for it.
    pub relation: Relation,
    /// What each run has of it, in the order of the runs.
    pub cells: Vec<Cell>,
}

/// A case in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// What its attempts saw, the most frequent first.
    pub verdicts: Vec<Verdict>,
    /// Why there is none, or not of every attempt: the outcome (`skip`, `error`) and the reason of each. Empty with no
    /// verdict: the run did not have the case.
    pub without: Vec<Without>,
}

/// What attempts of a case saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The set.
    pub observations: BTreeSet<Observation>,
    /// Name of the errno of a refusal; else null: after a loss it is a matter of where it is looked for first.
    pub errno: Option<String>,
    /// Attempts.
    pub times: usize,
    /// Of the first of them.
    pub reason: String,
}

/// An attempt that saw nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Without {
    /// `skip` or `error`.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// Numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rows that differ.
    pub differs: usize,
    /// Rows that could not be compared.
    pub not_compared: usize,
    /// Rows that are the same.
    pub same: usize,
    /// Cases of any run that were errors or never reported.
    pub errors: usize,
}

impl Comparison {
    /// Compare runs, each with the name that it goes by.
    pub fn of(runs: &[(String, RunResult)]) -> Self {
        let mut rows: Vec<Row> = ids(runs).into_iter().map(|id| Row::of(id, runs)).collect();
        // Stable: within a rank the library's order stays.
        rows.sort_by_key(|row| (row.relation, Reverse(row.gravity())));
        let count = |relation| rows.iter().filter(|row| row.relation == relation).count();
        let summary = Summary {
            differs: count(Relation::Differs),
            not_compared: count(Relation::NotCompared),
            same: count(Relation::Same),
            errors: runs.iter().map(|(_, run)| run.summary.error).sum(),
        };
        let sides = runs.iter().map(|(name, run)| Side::of(name, run)).collect();
        Self { schema: COMPARISON_SCHEMA, runs: sides, notes: notes(runs), rows, summary }
    }

    /// As of diff(1): `Good` says "the same", `Bad` "not the same". `Error`: no difference was seen, and not every case
    /// reported. `AllSkipped`: no case could be compared.
    pub fn exit_code(&self) -> ExitCode {
        match self.summary {
            Summary { differs: 1.., .. } => ExitCode::Bad,
            Summary { errors: 1.., .. } => ExitCode::Error,
            Summary { same: 0, .. } => ExitCode::AllSkipped,
            _ => ExitCode::Good,
        }
    }

    /// The rows of a word.
    pub fn rows_that(&self, relation: Relation) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.relation == relation)
    }

    /// `3 of 60 cases differ, 55 the same, 2 not compared`.
    pub fn numbers(&self) -> String {
        let Summary { differs, not_compared, same, errors } = self.summary;
        let mut text = format!("{differs} of {} cases differ, {same} the same", self.rows.len());
        if not_compared > 0 {
            text.push_str(&format!(", {not_compared} not compared"));
        }
        if errors > 0 {
            text.push_str(&format!("; errors in the runs: {errors}"));
        }
        text
    }
}

impl Side {
    fn of(name: &str, run: &RunResult) -> Self {
        let kernel = &run.environment.kernel;
        Self {
            name: name.to_owned(),
            kernel: kernel.release.clone(),
            source: kernel.source.clone(),
            started: run.started.clone(),
            command: run.command.clone(),
        }
    }
}

impl Row {
    fn of(id: &str, runs: &[(String, RunResult)]) -> Self {
        let cells: Vec<Cell> = runs.iter().map(|(_, run)| Cell::of(id, run)).collect();
        let seen: Vec<BTreeSet<_>> =
            cells.iter().filter(|cell| !cell.verdicts.is_empty()).map(Cell::kinds).collect();
        let relation = match seen.as_slice() {
            [] | [_] => Relation::NotCompared,
            [first, rest @ ..] if rest.iter().all(|other| other == first) => Relation::Same,
            _ => Relation::Differs,
        };
        Self { id: id.to_owned(), relation, cells }
    }

    /// The gravest word of any run.
    fn gravity(&self) -> Option<Observation> {
        self.cells.iter().flat_map(|cell| &cell.verdicts).filter_map(|v| v.observations.last().copied()).max()
    }
}

impl Cell {
    fn of(id: &str, run: &RunResult) -> Self {
        let mut cell = Self::default();
        for case in run.cases.iter().filter(|case| case.id == id) {
            if case.observations.is_empty() || matches!(case.outcome, Outcome::Skip | Outcome::Error) {
                cell.without.push(Without { outcome: case.outcome, reason: case.reason.clone() });
            } else {
                cell.take(case);
            }
        }
        let missing = run.missing.iter().filter(|label| id_of(label) == id);
        cell.without.extend(
            missing.map(|_| Without { outcome: Outcome::Error, reason: "never reported".to_owned() }),
        );
        cell.verdicts.sort_by_key(|verdict| Reverse(verdict.times));
        cell
    }

    fn take(&mut self, case: &CaseResult) {
        let verdict = Verdict {
            observations: case.observations.clone(),
            errno: case.errno.clone().filter(|_| case.observations.contains(&Observation::Refused)),
            times: 1,
            reason: case.reason.clone(),
        };
        match self.verdicts.iter_mut().find(|known| known.kind() == verdict.kind()) {
            Some(known) => known.times += 1,
            None => self.verdicts.push(verdict),
        }
    }

    fn kinds(&self) -> BTreeSet<(&BTreeSet<Observation>, Option<&str>)> {
        self.verdicts.iter().map(Verdict::kind).collect()
    }

    /// What it saw or did not see, and why, in the order of [`Self::words`].
    fn reasons(&self) -> impl Iterator<Item = (String, &str)> {
        let seen = self.verdicts.iter().map(|verdict| (verdict.words(), verdict.reason.as_str()));
        let mut known = BTreeSet::new();
        let without = self.without.iter().filter(move |without| known.insert(&without.reason));
        seen.chain(without.map(|without| (without.outcome.to_string(), without.reason.as_str())))
    }

    /// Different things that it saw, and different reasons why it saw none.
    fn kinds_in_all(&self) -> usize {
        self.reasons().count()
    }

    /// Is the gravest word of any attempt a bad one? None: nothing was seen.
    fn is_bad(&self) -> Option<bool> {
        let gravest = self.verdicts.iter().filter_map(|verdict| verdict.observations.last()).max()?;
        Some(gravest.is_bad())
    }

    fn tone(&self) -> &'static str {
        match self.is_bad() {
            Some(true) => "bad",
            Some(false) => "good",
            None => "none",
        }
    }

    /// `lost warned`, `intact 19x, lost 1x`, `skip`, `-` where the run had no such case.
    fn words(&self) -> String {
        let several = self.verdicts.len() > 1;
        let seen = self.verdicts.iter().map(|verdict| match several {
            true => format!("{} {}x", verdict.words(), verdict.times),
            false => verdict.words(),
        });
        let without: BTreeSet<&str> = self.without.iter().map(|without| without.outcome.as_str()).collect();
        let all: Vec<String> = seen.chain(without.into_iter().map(str::to_owned)).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(", ") }
    }
}

impl Verdict {
    fn kind(&self) -> (&BTreeSet<Observation>, Option<&str>) {
        (&self.observations, self.errno.as_deref())
    }

    /// The gravest first, and the errno of a refusal.
    fn words(&self) -> String {
        let seen = gravest_first(&self.observations);
        self.errno.iter().fold(seen, |words, errno| format!("{words} {errno}"))
    }
}

/// Every case of any run, in the order in which they come up.
fn ids(runs: &[(String, RunResult)]) -> Vec<&str> {
    let mut known = BTreeSet::new();
    let all = runs.iter().flat_map(|(_, run)| {
        let missing = run.missing.iter().map(|label| id_of(label));
        run.cases.iter().map(|case| case.id.as_str()).chain(missing)
    });
    all.filter(|id| known.insert(*id)).collect()
}

/// What differs between the runs beside their kernels.
fn notes(runs: &[(String, RunResult)]) -> Vec<String> {
    type Look = fn(&Environment) -> String;
    let looks: [(&str, Look); 5] = [
        ("longpin", |e| short(&e.longpin.hash)),
        ("device daemon", |e| short(&e.device.hash)),
        ("accelerator", |e| e.accel.clone()),
        ("disk", |e| e.disk.clone()),
        ("QEMU", |e| e.qemu.version.clone()),
    ];
    let mut notes = Vec::new();
    for (what, look) in looks {
        let mut by_value: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, run) in runs {
            by_value.entry(look(&run.environment)).or_default().push(name);
        }
        if by_value.len() > 1 {
            let values = by_value.iter().map(|(value, names)| format!("{value} in {}", names.join(", ")));
            notes.push(format!("not the same {what}: {}", values.collect::<Vec<_>>().join("; ")));
        }
    }
    let cut = runs.iter().filter(|(_, run)| run.interrupted || !run.missing.is_empty());
    notes.extend(cut.map(|(name, run)| format!("{name}: {} cases never reported", run.missing.len())));
    notes
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::TableStyle;
    use Observation::{Intact, Lost, Refused, Warned};

    fn case(id: &str, attempt: u32, seen: &[Observation]) -> CaseResult {
        let words: Vec<&str> = id.split('/').collect();
        let outcome = if seen.is_empty() { "skip" } else { "pass" };
        let document = serde_json::json!({
            "id": id, "attempt": attempt, "scenario": words[0], "fs": words[1], "pin": words[2], "release": words[3],
            "variant": null, "control": false, "boot": 1, "observations": seen, "headline": seen.last(),
            "expected": [], "outcome": outcome, "error": null, "reason": format!("why {seen:?}"),
            "generations": {"device": null, "guest": null, "host": null}, "errno": null, "findings": [],
            "seconds": 0.0, "log": [],
        });
        serde_json::from_value(document).unwrap()
    }

    fn run(name: &str, cases: Vec<CaseResult>) -> (String, RunResult) {
        let mut run = RunResult { cases, ..RunResult::default() };
        run.environment.kernel.release = format!("{name}-release");
        (name.to_owned(), run)
    }

    const A: &str = "lost-update/ext4/pin/clean";
    const B: &str = "reflink-bleed/xfs/pin/dirty/pin-before";
    const C: &str = "late-dirty/tmpfs/pin/dirty";

    #[test]
    fn only_what_was_seen_counts_and_what_differs_comes_first_by_gravity() {
        let left = run("6.1", vec![case(C, 1, &[Intact]), case(A, 1, &[Intact]), case(B, 1, &[Refused])]);
        let mut same = case(C, 1, &[Intact]);
        same.outcome = Outcome::Xpass;
        let right = run("7.3", vec![same, case(B, 1, &[Intact]), case(A, 1, &[Lost, Warned])]);
        let comparison = Comparison::of(&[left, right]);
        let rows: Vec<(&str, Relation)> =
            comparison.rows.iter().map(|row| (row.id.as_str(), row.relation)).collect();
        assert_eq!(rows, [(A, Relation::Differs), (B, Relation::Differs), (C, Relation::Same)]);
        assert_eq!(comparison.summary, Summary { differs: 2, not_compared: 0, same: 1, errors: 0 });
        assert_eq!(comparison.exit_code(), ExitCode::Bad);
        let text = table(&comparison, false, TableStyle { color: false, width: None });
        assert!(text.contains("lost warned") && !text.contains(C), "{text}");
        assert!(text.ends_with("2 of 3 cases differ, 1 the same\n"), "{text}");
        let all = table(&comparison, true, TableStyle { color: false, width: None });
        assert!(all.contains(C), "{all}");
    }

    #[test]
    fn a_refusal_with_another_errno_differs_and_a_loss_with_another_does_not() {
        let with = |seen: &[Observation], errno: &str| {
            let mut case = case(A, 1, seen);
            case.errno = Some(errno.to_owned());
            case
        };
        let relation = |seen: &[Observation]| {
            let runs = ["EFAULT", "EOPNOTSUPP"].map(|errno| run(errno, vec![with(seen, errno)]));
            Comparison::of(&runs).rows[0].relation
        };
        assert_eq!(relation(&[Refused]), Relation::Differs);
        assert_eq!(relation(&[Lost]), Relation::Same);
    }

    #[test]
    fn attempts_are_counted_and_a_verdict_that_only_one_side_ever_had_is_a_difference() {
        let left = (1..=20).map(|n| case(A, n, if n == 3 { &[Lost] } else { &[Intact] })).collect();
        let right = (1..=20).map(|n| case(A, n, &[Intact])).collect();
        let comparison = Comparison::of(&[run("a", left), run("b", right)]);
        assert_eq!(comparison.rows[0].relation, Relation::Differs);
        let words: Vec<String> = comparison.rows[0].cells.iter().map(Cell::words).collect();
        assert_eq!(words, ["intact 19x, lost 1x", "intact"]);
    }

    #[test]
    fn what_one_run_has_not_seen_is_not_compared_and_never_the_same() {
        let mut left = run("a", vec![case(A, 1, &[]), case(B, 1, &[Intact])]);
        left.1.missing = vec![format!("{C}#2")];
        left.1.summary.error = 1;
        let comparison = Comparison::of(&[left, run("b", vec![case(A, 1, &[Lost]), case(C, 2, &[Lost])])]);
        assert_eq!(comparison.summary, Summary { differs: 0, not_compared: 3, same: 0, errors: 1 });
        let words: Vec<Vec<String>> =
            comparison.rows.iter().map(|row| row.cells.iter().map(Cell::words).collect()).collect();
        assert!(words.contains(&vec!["skip".into(), "lost".into()]), "{words:?}");
        assert!(words.contains(&vec!["intact".into(), "-".into()]), "{words:?}");
        assert!(words.contains(&vec!["error".into(), "lost".into()]), "{words:?}");
        assert_eq!(comparison.exit_code(), ExitCode::Error);
        assert!(comparison.notes.iter().any(|note| note == "a: 1 cases never reported"));
    }

    #[test]
    fn of_three_runs_the_two_that_saw_it_decide() {
        let runs = ["6.1", "6.12", "7.3"].map(|name| {
            let seen: &[Observation] = if name == "6.1" { &[] } else { &[Lost] };
            run(name, vec![case(A, 1, seen)])
        });
        let comparison = Comparison::of(&runs);
        assert_eq!(comparison.rows[0].relation, Relation::Same);
        assert_eq!(comparison.exit_code(), ExitCode::Good);
        assert_eq!(Comparison::of(&[run("a", vec![]), run("b", vec![])]).exit_code(), ExitCode::AllSkipped);
    }

    #[test]
    fn another_accelerator_is_a_note() {
        let mut other = run("b", vec![]);
        other.1.environment.accel = "kvm".into();
        let comparison = Comparison::of(&[run("a", vec![]), other]);
        assert_eq!(comparison.notes, ["not the same accelerator:  in a; kvm in b"]);
    }

    #[test]
    fn no_view_lets_a_reason_of_the_guest_become_markup() {
        let mut evil = case(A, 1, &[Lost]);
        evil.reason = "<script>alert(1)</script> | [x](y)".into();
        let comparison = Comparison::of(&[run("<a>", vec![evil]), run("b", vec![case(A, 1, &[Intact])])]);
        let page = html(&comparison).unwrap();
        assert!(!page.contains("<script") && !page.contains("<a>"), "{page}");
        assert!(
            page.contains("&#60;script&#62;alert(1)") || page.contains("&lt;script&gt;alert(1)"),
            "{page}"
        );
        let text = markdown(&comparison);
        assert!(!text.contains("<script") && text.contains("\\[x\\](y)") && text.contains("\\| "), "{text}");
    }
}
