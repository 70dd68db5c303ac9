// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From evidence to observations. Every word follows from something in the record: cells that differ, an errno, a log
//! line, counters. What should have been shown and was not makes the case an error, never a pass.

use super::agreement::{Agreement, agreement};
use super::audit::{self, Audit};
use super::compare::{compare, disagreement};
use super::content::{content, errno_name};
use super::fsck::{Fsck, Structure};
use super::log::log;
use super::refusal::Refusal;
use super::story::{Story, Told, Wanted};
use super::words::{Cause, Kind, Observation};
use crate::dmesg;
use crate::record::{CaseRecord, Trouble};
use longpin_proto::facts::CellState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

vocabulary! {
    /// Who read the bytes.
    pub enum Reader {
        /// The guest, by `pread`.
        Guest = "guest",
        /// The host, from the raw image at the file's extents.
        Host = "host",
    }
}

/// The three generations behind a verdict, at one cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// What the device last completed before the release.
    pub device: Option<u64>,
    /// What the guest reads.
    pub guest: Option<u64>,
    /// What the host reads.
    pub host: Option<u64>,
}

/// Cells of a file that are not as they should be, in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it shows.
    pub word: Observation,
    /// Path in the guest.
    pub path: String,
    /// Who read it.
    pub reader: Reader,
    /// Number of such cells.
    pub cells: u64,
    /// File offset of the first byte that differs, as far as the cell tells.
    pub first_byte: u64,
    /// What should be there.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

/// A line of the kernel log that means something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its class.
    pub class: dmesg::Class,
    /// Text.
    pub text: String,
    /// What it means.
    pub meaning: String,
}

/// A job that waited in the kernel for something that did not come by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Its name.
    pub job: String,
    /// Functions in which it waited, innermost first.
    pub stack: Vec<String>,
    /// Microseconds since it began, when it was looked at last.
    pub waited_us: u64,
}

/// Why a case proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Kind.
    pub cause: Cause,
    /// What happened.
    pub message: String,
}

/// Everything that was concluded from one record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The set.
    pub observations: BTreeSet<Observation>,
    /// See [`Generations`].
    pub generations: Generations,
    /// Name of the first errno that says something: a refusal, or a report of damage.
    pub errno: Option<String>,
    /// What differs, gravest first.
    pub findings: Vec<Finding>,
    /// Log lines that mean something.
    pub log: Vec<LogLine>,
    /// Why the case proves nothing, if so.
    pub problem: Option<Problem>,
    /// What is missing to try the case at all, if so.
    pub skip: Option<String>,
    /// What the auditing disk saw, if it was there.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// A detector of the kernel and the audit name the same pages: which.
    #[serde(default)]
    pub agreement: Option<String>,
    /// Jobs that were found asleep, in the order in which they were.
    #[serde(default)]
    pub blocked: Vec<Blocked>,
    /// The word of the file system's own checker, if it looked.
    #[serde(default)]
    pub fsck: Option<Fsck>,
    /// One sentence with bytes and generations.
    pub reason: String,
}

impl Observed {
    /// The gravest observation.
    pub fn headline(&self) -> Option<Observation> {
        self.observations.last().copied()
    }
}

/// Conclude from the evidence of a case.
pub fn observe(record: &CaseRecord) -> Observed {
    let story = Story::of(record);
    let mut seen = Observed {
        log: log(&story),
        skip: story.skip.cloned(),
        audit: audit::audit(&story),
        blocked: story.blocked.clone(),
        fsck: story.fsck.map(Fsck::of),
        ..Observed::default()
    };
    logged(&mut seen);
    if seen.skip.is_some() || trouble(&story, &mut seen) {
        return finish(&story, seen);
    }
    let (findings, key) = compare(&story);
    seen.observations.extend(findings.iter().map(|finding| finding.word));
    seen.findings = findings;
    if !story.orphans.is_empty() {
        seen.observations.insert(Observation::Orphaned);
    }
    if story.verified.iter().any(|(_, code, _)| *code != 0) {
        seen.observations.insert(Observation::Torn);
    }
    refusals(&story, &mut seen);
    pins(&story, &mut seen);
    checked(&mut seen);
    in_flight(&story, &mut seen);
    only_logged(&mut seen);
    seen.generations = generations(&story, key);
    let agreement = agreement(&story, &seen.log);
    seen.problem = problem(&story, &seen, agreement.as_ref());
    if let Some(Agreement::Same(sentence)) = agreement {
        seen.agreement = Some(sentence);
    }
    intact(&mut seen);
    finish(&story, seen)
}

/// What the kernel log says.
fn logged(seen: &mut Observed) {
    let has = |class| seen.log.iter().any(|line| line.class == class);
    let (splat, detector) = (has(dmesg::Class::Splat), has(dmesg::Class::Detector));
    seen.observations.extend(splat.then_some(Observation::Splat));
    seen.observations.extend(detector.then_some(Observation::Warned));
}

/// Whoever had an errno needs no log to know.
fn only_logged(seen: &mut Observed) {
    if seen.observations.contains(&Observation::Detected) {
        seen.observations.remove(&Observation::Warned);
    }
}

/// The bytes are right unless something says otherwise; whether somebody was told does not matter.
fn intact(seen: &mut Observed) {
    let content = seen.observations.iter().any(|word| word.kind() == Kind::Content);
    if !content && all_readable(seen) && seen.problem.is_none() && seen.skip.is_none() {
        seen.observations.insert(Observation::Intact);
    }
}

/// A cell that a reader or the checker could not read is no right cell.
fn all_readable(seen: &Observed) -> bool {
    let checked = seen.fsck.as_ref().is_none_or(|fsck| fsck.state != Structure::DataDamaged);
    checked && seen.findings.iter().all(|finding| finding.word != Observation::Detected)
}

/// What the file system's own checker says. A checksum of data that does not match is a detector's word.
fn checked(seen: &mut Observed) {
    match seen.fsck.as_ref().map(|fsck| fsck.state) {
        Some(Structure::Damaged) => _ = seen.observations.insert(Observation::Damaged),
        Some(Structure::DataDamaged) => _ = seen.observations.insert(Observation::Detected),
        Some(Structure::Clean | Structure::Unusable) | None => {}
    }
}

/// Pages that DMA changed on their way, where the bytes that arrived are nevertheless right.
fn in_flight(story: &Story<'_>, seen: &mut Observed) {
    let wrong = [Observation::Lost, Observation::Torn, Observation::Bleed];
    let right = all_readable(seen) && !wrong.iter().any(|word| seen.observations.contains(word));
    if right && audit::changed_by_dma(story) {
        seen.observations.insert(Observation::Unstable);
    }
}

/// Trouble ends the evidence: true if nothing more can be concluded.
fn trouble(story: &Story<'_>, seen: &mut Observed) -> bool {
    let Some(trouble) = story.trouble else { return false };
    let message = match trouble {
        Trouble::Panic { .. } => {
            seen.observations.insert(Observation::Panic);
            return true;
        }
        Trouble::Hang { .. } => {
            seen.observations.insert(Observation::Hang);
            return true;
        }
        Trouble::AgentLost { message } => format!("the agent is lost: {message}"),
        Trouble::DeviceLost { message } => format!("the device daemon is lost: {message}"),
        Trouble::QemuExited { message } => format!("QEMU ended: {message}"),
        Trouble::Interrupted => "interrupted by the user".into(),
        Trouble::Other { message } => message.clone(),
    };
    seen.problem = Some(Problem { cause: Cause::Infra, message });
    true
}

fn refusals(story: &Story<'_>, seen: &mut Observed) {
    for Told { step, errno, refusal } in &story.refusals {
        match refusal {
            Refusal::Denied => _ = seen.observations.insert(Observation::Refused),
            Refusal::Told => _ = seen.observations.insert(Observation::Detected),
            Refusal::Missing => {
                seen.skip
                    .get_or_insert(format!("{step}: {} is not supported here ({})", errno.call, errno.name));
            }
            Refusal::Harmless | Refusal::Infra => {}
        }
        if matches!(refusal, Refusal::Denied | Refusal::Told) {
            seen.errno.get_or_insert(errno.name.clone());
        }
    }
    let unreadable = story.readings.iter().flat_map(|r| r.cells.iter()).find_map(|(_, state)| match state {
        CellState::Unreadable { errno } => Some(*errno),
        _ => None,
    });
    if let (None, Some(errno)) = (&seen.errno, unreadable) {
        seen.errno = Some(errno_name(errno));
    }
}

fn pins(story: &Story<'_>, seen: &mut Observed) {
    if let (Some(before), Some(after)) = (story.pins_before, story.pins_after) {
        let held = |pins: longpin_proto::facts::PinCounters| pins.acquired.wrapping_sub(pins.released);
        if held(before) != held(after) {
            seen.observations.insert(Observation::Leak);
        }
    }
}

/// The first reason why the case proves nothing; faults of ours come before gaps in the argument.
fn problem(story: &Story<'_>, seen: &Observed, agreement: Option<&Agreement>) -> Option<Problem> {
    let infra = |message: String| Some(Problem { cause: Cause::Infra, message });
    let unproven = |message: String| Some(Problem { cause: Cause::Unproven, message });
    if let Some(message) = story.infra.first() {
        return infra(message.clone());
    }
    if let Some(told) = story.refusals.iter().find(|told| told.refusal == Refusal::Infra) {
        return infra(format!("{}: {} gave {}", told.step, told.errno.call, told.errno.name));
    }
    if let Some(late) = story.ledger.write_after_release() {
        return infra(format!("the device wrote generation {} after the release", late.generation));
    }
    if seen.skip.is_some() {
        return None;
    }
    if story.log_overrun {
        return unproven("the kernel log was overrun: what the lost lines said is not known".into());
    }
    if seen.observations.contains(&Observation::Refused) {
        return None;
    }
    if let Some(path) = story.host_missing() {
        return infra(format!("the host did not read {path}"));
    }
    if let Some(message) = disagreement(story) {
        return infra(message);
    }
    if let Some(Agreement::Contradiction(message)) = agreement {
        return infra(message.clone());
    }
    if let Some(message) = story.unproven.first() {
        return unproven(message.clone());
    }
    if story.pins_before.is_none() || story.pins_after.is_none() {
        return unproven("pin counters were not read before and after the case".into());
    }
    if let Some(message) = audit::gap(story) {
        return unproven(message);
    }
    let compared = !story.readings.is_empty() || !story.verified.is_empty();
    (!compared).then(|| unproven("no file was compared".into())).flatten()
}

/// Generations at the cell that differs; else at the last DMA; else at the start of the first compared file.
fn generations(story: &Story<'_>, key: Option<(String, u64)>) -> Generations {
    let first_dma = || {
        let reading = story.readings.iter().find_map(|reading| match &reading.wanted {
            Wanted::Writes(file) => Some((reading.path.clone(), file.first_dma()?)),
            Wanted::Snapshot(_) => None,
        });
        reading.or_else(|| {
            let (offset, _) = story.ledger.last()?;
            Some((story.readings.first()?.path.clone(), offset))
        })
    };
    let start = || story.readings.first().map(|reading| (reading.path.clone(), 0));
    let Some((path, offset)) = key.or_else(first_dma).or_else(start) else {
        return Generations {
            device: story.ledger.last().map(|(_, generation)| generation),
            ..Default::default()
        };
    };
    let read = |host: bool| {
        let reading = story.readings.iter().find(|reading| reading.host == host && reading.path == path)?;
        let (_, state) = reading.cells.iter().find(|(at, _)| *at == offset)?;
        content(state, story.run)?.generation()
    };
    Generations { device: story.ledger.last_at(offset), guest: read(false), host: read(true) }
}

fn finish(story: &Story<'_>, mut seen: Observed) -> Observed {
    seen.reason = super::sentence::sentence(story, &seen);
    seen
}
