// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From evidence to observations. Every word follows from something in the record: cells that differ, an errno, a log
//! line, counters. What should have been shown and was not makes the case an error, never a pass.

use super::agreement::{Agreement, agreement};
use super::audit::{self, Audit};
use super::compare::{compare, disagreement};
use super::fsck::Fsck;
use super::log::{Log, log};
use super::mirror::{self, MirrorCounts};
use crate::dmesg;
use crate::dmesg::frames::Frame;
use crate::dmesg::ignored::Ignored;
use crate::dmesg::reports::Report;
use crate::operations::{Refusal, refusal};
use crate::record::{CaseRecord, Role, Trouble};
use crate::replay::{Job, Refused, Replay, Wanted, content, errno_name};
use crate::words::{Cause, Kind, Observation};
use longpin_proto::facts::CellState;
use longpin_proto::filesystem::Structure;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Byte ranges of the file in which such cells lie: first byte and length.
    #[serde(default)]
    pub ranges: Vec<(u64, u64)>,
    /// Which comparison of the case it is of, from 0 in the order of the record.
    #[serde(default)]
    pub reading: usize,
}

impl Finding {
    /// Some of its cells lie in this range of the file.
    pub fn touches(&self, offset: u64, len: u64) -> bool {
        self.ranges.iter().any(|(from, bytes)| *from < offset + len && offset < from + bytes)
    }
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
    /// Reports that the kernel made of itself.
    #[serde(default)]
    pub reports: Vec<Report>,
    /// Traces of these as the kernel printed them, by fingerprint: for a look into debug information, and no part of what is
    /// kept.
    #[serde(skip)]
    pub frames: BTreeMap<String, Vec<Frame>>,
    /// Why the case proves nothing, if so.
    pub problem: Option<Problem>,
    /// What is missing to try the case at all, if so.
    pub skip: Option<String>,
    /// What the auditing disk saw, if it was there.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// What regions that nobody pins have counted, if there are some.
    #[serde(default)]
    pub mirror: Option<MirrorCounts>,
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

/// Conclude from the evidence of a case. Everything that the kernel says counts.
pub fn observe(record: &CaseRecord) -> Observed {
    observe_but(record, &Ignored::default())
}

/// The same, but for what of the kernel's log does not count.
pub fn observe_but(record: &CaseRecord, ignored: &Ignored) -> Observed {
    let replay = Replay::of(record);
    let Log { lines, reports, frames } = log(&replay, ignored);
    let mut seen = Observed {
        log: lines,
        reports,
        frames,
        skip: replay.skip.cloned(),
        audit: audit::audit(&replay),
        mirror: mirror::counts(&replay),
        blocked: blocked(&replay),
        fsck: replay.fsck.map(Fsck::of),
        ..Observed::default()
    };
    logged(&mut seen);
    if seen.skip.is_some() || trouble(&replay, &mut seen) {
        return finish(&replay, seen);
    }
    let (findings, key) = compare(&replay);
    seen.observations.extend(findings.iter().map(|finding| finding.word));
    seen.findings = findings;
    if !replay.orphans.is_empty() {
        seen.observations.insert(Observation::Orphaned);
    }
    if replay.verified.iter().any(|(_, code, _)| *code != 0) {
        seen.observations.insert(Observation::Torn);
    }
    if !replay.kept_off.is_empty() {
        seen.observations.insert(Observation::DmaBlocked);
    }
    refusals(&replay, &mut seen);
    pins(&replay, &mut seen);
    checked(&mut seen);
    in_flight(&replay, &mut seen);
    only_logged(&mut seen);
    seen.generations = generations(&replay, key);
    let agreement = agreement(&replay, &seen.log);
    seen.problem = problem(&replay, &seen, agreement.as_ref());
    if let Some(Agreement::Same(sentence)) = agreement {
        seen.agreement = Some(sentence);
    }
    intact(&mut seen);
    finish(&replay, seen)
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
fn in_flight(replay: &Replay<'_>, seen: &mut Observed) {
    let wrong = [Observation::Lost, Observation::Torn, Observation::Bleed];
    let right = all_readable(seen) && !wrong.iter().any(|word| seen.observations.contains(word));
    if right && audit::changed_by_dma(replay) {
        seen.observations.insert(Observation::Unstable);
    }
}

/// Trouble ends the evidence: true if nothing more can be concluded.
fn trouble(replay: &Replay<'_>, seen: &mut Observed) -> bool {
    let Some(trouble) = replay.trouble else { return false };
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

/// A job waits if the machine looked until it was over or asleep, and it was not over.
fn blocked(replay: &Replay<'_>) -> Vec<Blocked> {
    let looks = |job: &Job<'_>| {
        let first = job.looks.iter().find(|look| look.settling)?;
        let (stack, waited_us) = (first.state.stack.clone(), first.state.elapsed_us);
        Some((first.at, Blocked { job: job.name.clone(), stack, waited_us }))
    };
    let mut blocked: Vec<(u64, Blocked)> = replay.jobs.iter().filter_map(looks).collect();
    blocked.sort_by_key(|(at, _)| *at);
    blocked.into_iter().map(|(_, blocked)| blocked).collect()
}

/// What a refusal means, in its place.
pub fn meaning(refused: &Refused<'_>) -> Refusal {
    match refused.role {
        // The machine's own reading of counters and log must work.
        Role::Before | Role::After | Role::Drain => Refusal::Infra,
        _ => refusal(refused.step, refused.errno),
    }
}

fn refusals(replay: &Replay<'_>, seen: &mut Observed) {
    for refused in &replay.refused {
        let (meaning, errno) = (meaning(refused), refused.errno);
        match meaning {
            Refusal::Denied => _ = seen.observations.insert(Observation::Refused),
            Refusal::Told => _ = seen.observations.insert(Observation::Detected),
            Refusal::Missing => {
                let step = refused.step.name();
                seen.skip
                    .get_or_insert(format!("{step}: {} is not supported here ({})", errno.call, errno.name));
            }
            Refusal::Harmless | Refusal::Infra => {}
        }
        if matches!(meaning, Refusal::Denied | Refusal::Told) {
            seen.errno.get_or_insert(errno.name.clone());
        }
    }
    let unreadable = replay.compared.iter().flat_map(|compared| compared.cells.iter()).find_map(
        |(_, state)| match state {
            CellState::Unreadable { errno } => Some(*errno),
            _ => None,
        },
    );
    if let (None, Some(errno)) = (&seen.errno, unreadable) {
        seen.errno = Some(errno_name(errno));
    }
}

fn pins(replay: &Replay<'_>, seen: &mut Observed) {
    if let (Some(before), Some(after)) = (replay.pins_before, replay.pins_after) {
        let held = |pins: longpin_proto::facts::PinCounters| pins.acquired.wrapping_sub(pins.released);
        if held(before) != held(after) {
            seen.observations.insert(Observation::Leak);
        }
    }
}

/// `pin: ioctl gave EFAULT`.
pub fn refused_words(refused: &Refused<'_>) -> String {
    format!("{}: {} gave {}", refused.step.name(), refused.errno.call, refused.errno.name)
}

/// The first reason why the case proves nothing; faults of ours come before gaps in the argument.
fn problem(replay: &Replay<'_>, seen: &Observed, agreement: Option<&Agreement>) -> Option<Problem> {
    let infra = |message: String| Some(Problem { cause: Cause::Infra, message });
    let unproven = |message: String| Some(Problem { cause: Cause::Unproven, message });
    if let Some(message) = replay.faults.first() {
        return infra(message.clone());
    }
    if let Some(refused) = replay.refused.iter().find(|refused| meaning(refused) == Refusal::Infra) {
        return infra(refused_words(refused));
    }
    if let Some(late) = replay.ledger.write_after_release() {
        return infra(format!("the device wrote generation {} after the release", late.generation));
    }
    if seen.skip.is_some() {
        return None;
    }
    if replay.log_overrun {
        return unproven("the kernel log was overrun: what the lost lines said is not known".into());
    }
    if seen.observations.contains(&Observation::Refused) {
        return None;
    }
    if let Some(path) = replay.host_missing() {
        return infra(format!("the host did not read {path}"));
    }
    if let Some(message) = disagreement(replay) {
        return infra(message);
    }
    if let Some(Agreement::Contradiction(message)) = agreement {
        return infra(message.clone());
    }
    if let Some(message) = replay.gaps.first() {
        return unproven(message.clone());
    }
    if replay.pins_before.is_none() || replay.pins_after.is_none() {
        return unproven("pin counters were not read before and after the case".into());
    }
    if let Some(message) = audit::gap(replay) {
        return unproven(message);
    }
    let compared = !replay.compared.is_empty() || !replay.verified.is_empty();
    (!compared).then(|| unproven("no file was compared".into())).flatten()
}

/// Generations at the cell that differs; else at the last DMA; else at the start of the first compared file.
fn generations(replay: &Replay<'_>, key: Option<(String, u64)>) -> Generations {
    let first_dma = || {
        let reading = replay.compared.iter().find_map(|reading| match &reading.wanted {
            Wanted::Writes(file) => Some((reading.path.clone(), file.first_dma()?)),
            Wanted::Snapshot(_) => None,
        });
        reading.or_else(|| {
            let (offset, _) = replay.ledger.last()?;
            Some((replay.compared.first()?.path.clone(), offset))
        })
    };
    let start = || replay.compared.first().map(|reading| (reading.path.clone(), 0));
    let Some((path, offset)) = key.or_else(first_dma).or_else(start) else {
        return Generations {
            device: replay.ledger.last().map(|(_, generation)| generation),
            ..Default::default()
        };
    };
    let read = |host: bool| {
        let reading = replay.compared.iter().find(|reading| reading.host == host && reading.path == path)?;
        let (_, state) = reading.cells.iter().find(|(at, _)| *at == offset)?;
        content(state, replay.run())?.generation()
    };
    Generations { device: replay.ledger.last_at(offset), guest: read(false), host: read(true) }
}

fn finish(replay: &Replay<'_>, mut seen: Observed) -> Observed {
    seen.reason = super::sentence::sentence(replay, &seen);
    seen
}
