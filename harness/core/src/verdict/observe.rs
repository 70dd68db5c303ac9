// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From evidence to observations. Every word follows from something in the record: cells that differ, an errno, a log
//! line, counters. What should have been shown and was not makes the case an error, never a pass.

use super::content::{content, describe};
use super::refusal::Refusal;
use super::story::{Reading, Story, Told, Wanted};
use super::words::{Cause, Observation};
use crate::dmesg;
use crate::record::{CaseRecord, Trouble};
use longpin_proto::facts::CellState;
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
    let mut seen = Observed::default();
    log(&story, &mut seen);
    if trouble(&story, &mut seen) {
        return finish(&story, seen);
    }
    let mut key = None;
    for reading in &story.readings {
        compare(reading, story.run, &mut seen.findings, &mut key);
    }
    seen.observations.extend(seen.findings.iter().map(|finding| finding.word));
    if !story.orphans.is_empty() {
        seen.observations.insert(Observation::Orphaned);
    }
    refusals(&story, &mut seen);
    pins(&story, &mut seen);
    if seen.observations.contains(&Observation::Detected) {
        seen.observations.remove(&Observation::Lost);
    }
    seen.generations = generations(&story, key);
    seen.problem = problem(&story, &seen);
    if seen.observations.is_empty() && seen.problem.is_none() && seen.skip.is_none() {
        seen.observations.insert(Observation::Intact);
    }
    finish(&story, seen)
}

fn log(story: &Story<'_>, seen: &mut Observed) {
    let console: &[String] = match story.trouble {
        Some(Trouble::Panic { console } | Trouble::Hang { console, .. }) => console,
        _ => &[],
    };
    // The console remembers earlier cases of the boot; what was there before the case is not its evidence.
    let ours = |line: &&String| match (console_line(line), story.log_starts_us) {
        (Some((time, _)), Some(start)) => time > start,
        _ => true,
    };
    let console = console.iter().filter(ours).map(|line| console_text(line));
    let lines = story.log.iter().map(|line| line.text.as_str()).chain(console);
    for text in lines {
        let Some(pattern) = dmesg::classify(text) else { continue };
        seen.log.push(LogLine {
            class: pattern.class,
            text: text.to_owned(),
            meaning: pattern.meaning.clone(),
        });
    }
    let has = |class| seen.log.iter().any(|line| line.class == class);
    let (splat, detector) = (has(dmesg::Class::Splat), has(dmesg::Class::Detector));
    seen.observations.extend(splat.then_some(Observation::Splat));
    seen.observations.extend(detector.then_some(Observation::Detected));
}

/// Microseconds and text of a console line: `[   11.828306] text`.
fn console_line(line: &str) -> Option<(u64, &str)> {
    let (time, text) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = time.trim().split_once('.')?;
    Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?, text))
}

fn console_text(line: &str) -> &str {
    console_line(line).map_or(line, |(_, text)| text)
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

/// Compare one reading cell by cell. `key` becomes the first cell that differs, over all readings.
fn compare(reading: &Reading<'_>, run: u64, findings: &mut Vec<Finding>, key: &mut Option<(String, u64)>) {
    let reader = if reading.host { Reader::Host } else { Reader::Guest };
    let mut groups: BTreeMap<Observation, Finding> = BTreeMap::new();
    let snapshot: BTreeMap<u64, &CellState> = match reading.wanted {
        Wanted::Snapshot(cells) => cells.iter().collect(),
        Wanted::Writes(_) => BTreeMap::new(),
    };
    let sighted = |offset: u64| !reading.blind.iter().any(|(from, to)| (*from..*to).contains(&offset));
    for (offset, state) in reading.cells.iter().filter(|(offset, _)| sighted(*offset)) {
        let (word, wanted) = match &reading.wanted {
            Wanted::Writes(file) => (file.judge(offset, state, run), file.wanted(offset).to_string()),
            Wanted::Snapshot(_) => {
                let before = snapshot.get(&offset).copied().unwrap_or(&CellState::Absent);
                (against_snapshot(before, state), describe(before, run))
            }
        };
        let Some(word) = word else { continue };
        key.get_or_insert_with(|| (reading.path.clone(), offset));
        groups.entry(word).and_modify(|finding| finding.cells += 1).or_insert_with(|| Finding {
            word,
            path: reading.path.clone(),
            reader,
            cells: 1,
            first_byte: offset + first_bad_byte(state),
            wanted,
            found: describe(state, run),
        });
    }
    findings.extend(groups.into_values());
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.word));
}

fn first_bad_byte(state: &CellState) -> u64 {
    match state {
        CellState::Torn { first_bad_byte, .. } => u64::from(*first_bad_byte),
        _ => 0,
    }
}

fn against_snapshot(before: &CellState, now: &CellState) -> Option<Observation> {
    match now {
        _ if before == now => None,
        CellState::Unreadable { .. } => Some(Observation::Detected),
        CellState::Torn { .. } | CellState::Foreign { .. } => Some(Observation::Torn),
        CellState::Absent | CellState::Zero => Some(Observation::Lost),
        CellState::Whole(_) | CellState::Displaced { .. } => Some(Observation::Bleed),
    }
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

fn errno_name(errno: i32) -> String {
    match errno {
        5 => "EIO".into(),
        117 => "EUCLEAN".into(),
        other => format!("errno {other}"),
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
fn problem(story: &Story<'_>, seen: &Observed) -> Option<Problem> {
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
    if seen.skip.is_some() || seen.observations.contains(&Observation::Refused) {
        return None;
    }
    if let Some(path) = story.host_missing() {
        return infra(format!("the host did not read {path}"));
    }
    if let Some(message) = disagreement(story) {
        return infra(message);
    }
    if let Some(message) = story.unproven.first() {
        return unproven(message.clone());
    }
    if story.pins_before.is_none() || story.pins_after.is_none() {
        return unproven("pin counters were not read before and after the case".into());
    }
    story.readings.is_empty().then(|| unproven("no file was compared".into())).flatten()
}

/// After a remount both read what is on the disk; if they differ, one of the two readings is wrong.
fn disagreement(story: &Story<'_>) -> Option<String> {
    for host in story.readings.iter().filter(|reading| reading.host && reading.after_remount) {
        let guest = story.readings.iter().find(|reading| !reading.host && reading.path == host.path)?;
        let guest: BTreeMap<u64, &CellState> = guest.cells.iter().collect();
        for (offset, state) in host.cells.iter() {
            let blind = host.blind.iter().any(|(from, to)| (*from..*to).contains(&offset));
            let Some(other) = guest.get(&offset).filter(|_| !blind) else { continue };
            let unread = matches!(other, CellState::Unreadable { .. } | CellState::Absent);
            if !unread && *other != state {
                return Some(format!(
                    "guest and host read different bytes of {} at {offset}: {} and {}",
                    host.path,
                    describe(other, story.run),
                    describe(state, story.run)
                ));
            }
        }
    }
    None
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
    seen.reason = super::judge::sentence(story, &seen);
    seen
}
