// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Readings, cell by cell, against what should be there.

use super::Observation;
use super::audit::{page_of, torn_pages};
use super::content::describe;
use super::observe::{Finding, Reader};
use super::story::{Reading, Story, Wanted};
use longpin_proto::disk::PAGE_BYTES;
use longpin_proto::facts::CellState;
use std::collections::{BTreeMap, BTreeSet};

/// What differs, gravest first, and the first cell that does, over all readings.
pub fn compare(story: &Story<'_>) -> (Vec<Finding>, Option<(String, u64)>) {
    let torn = torn_pages(story);
    let (mut findings, mut key) = (Vec::new(), None);
    for reading in &story.readings {
        let mut judged = judged(reading, story.run);
        tear(reading, &torn, &mut judged);
        if key.is_none() {
            key = judged
                .iter()
                .find(|(_, cell)| cell.word.is_some())
                .map(|(offset, _)| (reading.path.clone(), *offset));
        }
        findings.extend(grouped(reading, story.run, &judged));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.word));
    (findings, key)
}

/// A cell, what it shows, and what should be there.
struct Judged<'r> {
    state: &'r CellState,
    word: Option<Observation>,
    wanted: String,
}

fn judged<'r>(reading: &Reading<'r>, run: u64) -> BTreeMap<u64, Judged<'r>> {
    let snapshot: BTreeMap<u64, &CellState> = match reading.wanted {
        Wanted::Snapshot(cells) => cells.iter().collect(),
        Wanted::Writes(_) => BTreeMap::new(),
    };
    let sighted = |offset: u64| !reading.blind.iter().any(|(from, to)| (*from..*to).contains(&offset));
    let judge = |(offset, state)| {
        let (word, wanted) = match &reading.wanted {
            Wanted::Writes(file) => (file.judge(offset, state, run), file.wanted_words(offset)),
            Wanted::Snapshot(_) => {
                let before = snapshot.get(&offset).copied().unwrap_or(&CellState::Absent);
                (against_snapshot(before, state), describe(before, run))
            }
        };
        (offset, Judged { state, word, wanted })
    };
    reading.cells.iter().filter(|(offset, _)| sighted(*offset)).map(judge).collect()
}

/// A page of which the audit saw the disk get a mix, and which holds one still: its old cells are not lost, the page is
/// torn.
fn tear(
    reading: &Reading<'_>,
    torn: &BTreeSet<(Option<String>, u64)>,
    judged: &mut BTreeMap<u64, Judged<'_>>,
) {
    let of_reading = |(path, _): &&(Option<String>, u64)| path.as_ref().is_none_or(|p| *p == reading.path);
    for (_, page) in torn.iter().filter(of_reading) {
        let cells = || page_of(*page)..page_of(*page) + PAGE_BYTES;
        let mixed = judged.range(cells()).any(|(_, cell)| cell.word.is_none());
        for (_, cell) in judged.range_mut(cells()).filter(|_| mixed) {
            if cell.word == Some(Observation::Lost) {
                cell.word = Some(Observation::Torn);
            }
        }
    }
}

/// One finding for each word.
fn grouped(reading: &Reading<'_>, run: u64, judged: &BTreeMap<u64, Judged<'_>>) -> Vec<Finding> {
    let reader = if reading.host { Reader::Host } else { Reader::Guest };
    let mut groups: BTreeMap<Observation, Finding> = BTreeMap::new();
    for (offset, cell) in judged {
        let Some(word) = cell.word else { continue };
        groups.entry(word).and_modify(|finding| finding.cells += 1).or_insert_with(|| Finding {
            word,
            path: reading.path.clone(),
            reader,
            cells: 1,
            first_byte: offset + first_bad_byte(cell.state),
            wanted: cell.wanted.clone(),
            found: describe(cell.state, run),
        });
    }
    groups.into_values().collect()
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

/// After a remount both read what is on the disk; if they differ, one of the two readings is wrong.
pub fn disagreement(story: &Story<'_>) -> Option<String> {
    for host in story.readings.iter().filter(|reading| reading.host && reading.after_remount) {
        let guest = story.readings.iter().find(|reading| !reading.host && reading.path == host.path);
        let Some(guest) = guest else { continue };
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
