// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From observations to an outcome, and the sentence that says why.

use super::observe::{Observed, Reader};
use super::refusal::Refusal;
use super::story::Story;
use super::words::{Cause, Observation, Outcome};
use crate::dmesg;
use crate::record::{CaseRecord, Evidence, Trouble};
use crate::scenario::Expectation;
use longpin_proto::agent::{Outcome as StepOutcome, Step};
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
    let wanted = list(&expected.observe);
    let same_errno = expected.errno.is_none() || expected.errno == seen.errno;
    match (seen.observations == expected.observe, expected.is_known_bad()) {
        (true, _) if !same_errno => {
            let (got, want) =
                (seen.errno.as_deref().unwrap_or("none"), expected.errno.as_deref().unwrap_or_default());
            of(Outcome::Fail, format!("{}; expected errno {want}, got {got}", seen.reason))
        }
        (true, false) => of(Outcome::Pass, seen.reason.clone()),
        (true, true) => of(Outcome::Xfail, format!("{}; known: {}", seen.reason, expected.reason)),
        (false, true) if seen.headline().is_some_and(|word| !word.is_bad()) => {
            of(Outcome::Xpass, format!("{}; expected {wanted}: mend the scenario", seen.reason))
        }
        (false, _) => of(Outcome::Fail, format!("{}; expected {wanted}: {}", seen.reason, expected.reason)),
    }
}

/// The boot is not fit for another case: the kernel is damaged or dead, pins are held, or clean-up failed.
pub fn spoils_boot(record: &CaseRecord, seen: &Observed) -> bool {
    let damaged = [Observation::Splat, Observation::Leak, Observation::Panic, Observation::Hang];
    damaged.iter().any(|word| seen.observations.contains(word))
        || record.evidence.iter().any(|evidence| match evidence {
            Evidence::Trouble(_) => true,
            Evidence::Step { step: Step::Cleanup, outcome, .. } => {
                !matches!(outcome, StepOutcome::Done { .. })
            }
            _ => false,
        })
}

fn list(words: &BTreeSet<Observation>) -> String {
    words.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" + ")
}

/// One sentence with bytes and generations, from the gravest observation down.
pub(super) fn sentence(story: &Story<'_>, seen: &Observed) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(problem) = &seen.problem {
        parts.push(problem.message.clone());
    }
    for word in seen.observations.iter().rev() {
        parts.extend(clause(*word, story, seen));
    }
    match (parts.is_empty(), &seen.skip) {
        (true, Some(missing)) => missing.clone(),
        _ => parts.join("; "),
    }
}

fn clause(word: Observation, story: &Story<'_>, seen: &Observed) -> Option<String> {
    match word {
        Observation::Intact => Some(intact(story, seen)),
        Observation::Refused | Observation::Detected => {
            let wanted = if word == Observation::Refused { Refusal::Denied } else { Refusal::Told };
            let told = story.refusals.iter().find(|told| told.refusal == wanted);
            let told =
                told.map(|told| format!("{}: {} gave {}", told.step, told.errno.call, told.errno.name));
            told.or_else(|| finding(word, seen)).or_else(|| logged(dmesg::Class::Detector, seen))
        }
        Observation::Orphaned => {
            let (path, offset) = story.orphans.first()?;
            let pages = story.orphans.len();
            Some(format!("the device wrote {pages} pages that had left {path}, the first at byte {offset}"))
        }
        Observation::Splat => logged(dmesg::Class::Splat, seen),
        Observation::Leak => {
            let (before, after) = (story.pins_before?, story.pins_after?);
            let held = |acquired: u64, released: u64| acquired.wrapping_sub(released) as i64;
            let (before, after) =
                (held(before.acquired, before.released), held(after.acquired, after.released));
            Some(format!("{before} pins were held before the case and {after} after it"))
        }
        Observation::Panic => logged(dmesg::Class::Panic, seen).or(Some("the guest kernel panicked".into())),
        Observation::Hang => match story.trouble {
            Some(Trouble::Hang { waited, .. }) => Some(format!("no answer: {waited}")),
            _ => None,
        },
        Observation::Lost | Observation::Unstable | Observation::Torn | Observation::Bleed => {
            finding(word, seen)
        }
    }
}

fn intact(story: &Story<'_>, seen: &Observed) -> String {
    let readers = match story.readings.iter().any(|reading| reading.host) {
        true => "guest and host read",
        false => "guest reads",
    };
    match (seen.generations.device, seen.generations.guest) {
        (Some(device), Some(guest)) if device == guest => format!("{readers} DMA generation {device}"),
        (Some(device), _) => format!("{readers} what was written; DMA generation {device} went elsewhere"),
        (None, Some(guest)) => format!("{readers} generation {guest}; no DMA"),
        (None, None) => format!("{readers} zeros; no DMA"),
    }
}

fn finding(word: Observation, seen: &Observed) -> Option<String> {
    let first = seen.findings.iter().find(|finding| finding.word == word)?;
    let same =
        |reader| seen.findings.iter().any(|f| f.word == word && f.path == first.path && f.reader == reader);
    let who = match (same(Reader::Guest), same(Reader::Host)) {
        (true, true) => "guest and host find",
        (true, false) => "guest finds",
        _ => "host finds",
    };
    Some(format!(
        "{who} {} where {} should be, in {} cells of {}, the first at byte {}",
        first.found, first.wanted, first.cells, first.path, first.first_byte
    ))
}

fn logged(class: dmesg::Class, seen: &Observed) -> Option<String> {
    // Markers frame a report and say nothing of it.
    let of_class = || seen.log.iter().filter(|line| line.class == class);
    let line = of_class().find(|line| !line.text.contains("---[")).or_else(|| of_class().next())?;
    Some(format!("kernel log: {}", line.text))
}
