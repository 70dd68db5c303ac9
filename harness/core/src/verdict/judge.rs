// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From observations to an outcome, and the sentence that says why.

use super::observe::Observed;
use crate::record::{CaseRecord, Evidence};
use crate::scenario::Expectation;
use crate::words::{Cause, Observation, Outcome};
use longpin_proto::agent::{Outcome as StepOutcome, Step};
use longpin_proto::control::Answer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What CI is told of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The word.
    pub outcome: Outcome,
    /// Of an error.
    pub cause: Option<Cause>,
    /// What was seen, and how it compares with what was expected.
    pub reason: String,
}

/// Compare what was observed with what the scenario expects.
pub fn judge(seen: &Observed, expected: &Expectation) -> Judgement {
    let of = |outcome, reason: String| Judgement { outcome, cause: None, reason };
    if let Some(problem) = &seen.problem {
        let reason = format!("{}: {}", problem.cause, problem.message);
        return Judgement { outcome: Outcome::Error, cause: Some(problem.cause), reason };
    }
    if let Some(missing) = &seen.skip {
        return of(Outcome::Skip, missing.clone());
    }
    let wanted = wanted(expected);
    let blocked: BTreeSet<String> = seen.blocked.iter().map(|blocked| blocked.job.clone()).collect();
    // Of a race the errno is that of the set that must come.
    let same_errno =
        expected.errno.is_none() || expected.errno == seen.errno || seen.observations != expected.observe;
    let accepted = expected.accepts(&seen.observations);
    let known_bad = match accepted {
        true => seen.observations.iter().any(|word| word.is_bad()),
        false => expected.is_known_bad(),
    };
    match (accepted, known_bad) {
        (true, _) if !same_errno => {
            let (got, want) =
                (seen.errno.as_deref().unwrap_or("none"), expected.errno.as_deref().unwrap_or_default());
            of(Outcome::Fail, format!("{}; expected errno {want}, got {got}", seen.reason))
        }
        (true, _) if blocked != expected.blocked => {
            let wanted = waiting(&expected.blocked);
            let got = if blocked.is_empty() { "; no job waits" } else { "" };
            of(Outcome::Fail, format!("{}{got}; expected that {wanted}: {}", seen.reason, expected.reason))
        }
        (true, false) if expected.race.is_some() => {
            of(Outcome::Pass, format!("{}; a race: {}", seen.reason, expected.reason))
        }
        (true, false) => of(Outcome::Pass, seen.reason.clone()),
        (true, true) => of(Outcome::Xfail, format!("{}; known: {}", seen.reason, expected.reason)),
        (false, true) if seen.headline().is_some_and(|word| !word.is_bad()) => {
            of(Outcome::Xpass, format!("{}; expected {wanted}: correct the scenario", seen.reason))
        }
        (false, _) => of(Outcome::Fail, format!("{}; expected {wanted}: {}", seen.reason, expected.reason)),
    }
}

/// The boot is not fit for another case: the kernel is damaged or dead, pins are held, clean-up failed, the case
/// was cut short by a fault of ours, or the disks do not do as they are told.
pub fn spoils_boot(record: &CaseRecord, seen: &Observed) -> bool {
    let damaged = [Observation::Splat, Observation::Leak, Observation::Panic, Observation::Hang];
    damaged.iter().any(|word| seen.observations.contains(word))
        // A kernel is not whole because somebody knows why.
        || seen.reports.iter().any(|report| report.ignored.is_some())
        // A case that was cut short leaves devices and processes of its own behind.
        || seen.problem.as_ref().is_some_and(|problem| problem.cause == Cause::Infra)
        || record.evidence.iter().any(|evidence| match evidence {
            Evidence::Trouble(_) => true,
            Evidence::Step { step: Step::Cleanup, outcome, .. } => {
                !matches!(outcome, StepOutcome::Done { .. })
            }
            Evidence::Disk { answer: Err(_) | Ok(Answer::Error { .. }), .. } => true,
            Evidence::Disk { answer: Ok(Answer::Disks { disks }), .. } => {
                disks.iter().any(|disk| disk.last_error.is_some())
            }
            _ => false,
        })
}

fn waiting(jobs: &BTreeSet<String>) -> String {
    match jobs.len() {
        0 => "no job waits".to_owned(),
        _ => jobs.iter().map(|job| format!("job `{job}` waits")).collect::<Vec<_>>().join(" and "),
    }
}

/// `lost`, and of a race `lost or intact`.
fn wanted(expected: &Expectation) -> String {
    let others = expected.race.iter().flat_map(|race| &race.or);
    std::iter::once(&expected.observe).chain(others).map(list).collect::<Vec<_>>().join(" or ")
}

fn list(words: &BTreeSet<Observation>) -> String {
    words.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" + ")
}
