// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Readings, cell by cell, against what should be there.

use super::Observation;
use super::audit::{page_of, torn_pages};
use super::observe::{Finding, Reader};
use crate::replay::{Compared, Content, FileContent, Replay, Wanted, content, describe};
use longpin_proto::disk::PAGE_BYTES;
use longpin_proto::facts::CellState;
use std::collections::{BTreeMap, BTreeSet};

/// What differs, gravest first, and the first cell that does, over all readings.
pub fn compare(replay: &Replay<'_>) -> (Vec<Finding>, Option<(String, u64)>) {
    let torn = torn_pages(replay);
    let (mut findings, mut key) = (Vec::new(), None);
    for (index, compared) in replay.compared.iter().enumerate() {
        let mut judged = judged(compared, replay.run());
        tear(compared, &torn, &mut judged);
        if key.is_none() {
            key = judged
                .iter()
                .find(|(_, cell)| cell.word.is_some())
                .map(|(offset, _)| (compared.path.clone(), *offset));
        }
        findings.extend(grouped(compared, index, replay.run(), &judged));
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

fn judged<'r>(compared: &Compared<'r>, run: u64) -> BTreeMap<u64, Judged<'r>> {
    let snapshot: BTreeMap<u64, &CellState> = match compared.wanted {
        Wanted::Snapshot(cells) => cells.iter().collect(),
        Wanted::Writes(_) => BTreeMap::new(),
    };
    let sighted = |offset: u64| !compared.blind.iter().any(|(from, to)| (*from..*to).contains(&offset));
    let judge = |(offset, state)| {
        let (word, wanted) = match &compared.wanted {
            Wanted::Writes(file) => (against_writes(file, offset, state, run), file.wanted_words(offset)),
            Wanted::Snapshot(_) => {
                let before = snapshot.get(&offset).copied().unwrap_or(&CellState::Absent);
                (against_snapshot(before, state), describe(before, run))
            }
        };
        (offset, Judged { state, word, wanted })
    };
    compared.cells.iter().filter(|(offset, _)| sighted(*offset)).map(judge).collect()
}

/// A page of which the audit saw the disk get a mix, and which holds one still: its old cells are not lost, the page is
/// torn.
fn tear(
    compared: &Compared<'_>,
    torn: &BTreeSet<(Option<String>, u64)>,
    judged: &mut BTreeMap<u64, Judged<'_>>,
) {
    let of_reading = |(path, _): &&(Option<String>, u64)| path.as_ref().is_none_or(|p| *p == compared.path);
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
fn grouped(
    compared: &Compared<'_>,
    reading: usize,
    run: u64,
    judged: &BTreeMap<u64, Judged<'_>>,
) -> Vec<Finding> {
    let reader = if compared.host { Reader::Host } else { Reader::Guest };
    let cell_bytes = u64::from(compared.cells.cell_bytes);
    let mut groups: BTreeMap<Observation, Finding> = BTreeMap::new();
    for (offset, cell) in judged {
        let Some(word) = cell.word else { continue };
        let finding = groups.entry(word).or_insert_with(|| Finding {
            word,
            path: compared.path.clone(),
            reader,
            cells: 0,
            first_byte: offset + first_bad_byte(cell.state),
            wanted: cell.wanted.clone(),
            found: describe(cell.state, run),
            ranges: Vec::new(),
            reading,
        });
        finding.cells += 1;
        match finding.ranges.last_mut() {
            Some((from, len)) if *from + *len == *offset => *len += cell_bytes,
            _ => finding.ranges.push((*offset, cell_bytes)),
        }
    }
    groups.into_values().collect()
}

fn first_bad_byte(state: &CellState) -> u64 {
    match state {
        CellState::Torn { first_bad_byte, .. } => u64::from(*first_bad_byte),
        _ => 0,
    }
}

/// What a found cell shows; none: it is as it should be.
fn against_writes(file: &FileContent, offset: u64, state: &CellState, run: u64) -> Option<Observation> {
    match (state, content(state, run)) {
        (CellState::Absent, _) => (offset < file.sure_size()).then_some(Observation::Lost),
        (CellState::Unreadable { .. }, _) => Some(Observation::Detected),
        (CellState::Torn { .. } | CellState::Foreign { .. }, _) => Some(Observation::Torn),
        (_, Some(found)) if file.may_hold(offset, found) => None,
        // Old content of a page that was written since is a loss; old content of a page that was cut off since
        // is data in the wrong place.
        (_, Some(found)) if file.wanted(offset) != Content::Zero && file.held(offset, found) => {
            Some(Observation::Lost)
        }
        (_, Some(Content::Zero)) => Some(Observation::Lost),
        _ => Some(Observation::Bleed),
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
pub fn disagreement(replay: &Replay<'_>) -> Option<String> {
    for host in replay.compared.iter().filter(|compared| compared.host && compared.after_remount) {
        let mut after = replay.compared.iter().filter(|compared| !compared.host && compared.after_remount);
        let guest = after.find(|compared| compared.path == host.path);
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
                    describe(other, replay.run()),
                    describe(state, replay.run())
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::facts::{Source, Writer};

    const RUN: u64 = 5;

    fn cpu(generation: u64) -> Content {
        Content::Stamp { source: Source::Cpu, generation }
    }

    fn found(content: Content) -> CellState {
        match content {
            Content::Zero => CellState::Zero,
            Content::Stamp { source, generation } => {
                CellState::Whole(Writer { run: RUN, region: 0, generation, source })
            }
        }
    }

    fn judged(file: &FileContent, offset: u64, content: Content) -> Option<Observation> {
        against_writes(file, offset, &found(content), RUN)
    }

    #[test]
    fn a_loss_of_power_leaves_what_was_promised_or_anything_later() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        file.append(0, 512, cpu(2));
        let before_the_fsync = file.changes();
        file.append(0, 512, cpu(3));
        file.promise(before_the_fsync);
        file.append(0, 512, cpu(4));
        let left = file.cut();
        for generation in 2..=4 {
            assert_eq!(judged(&left, 0, cpu(generation)), None, "generation {generation}");
        }
        assert_eq!(judged(&left, 0, cpu(1)), Some(Observation::Lost));
        assert_eq!(judged(&left, 0, Content::Zero), Some(Observation::Lost));
        assert_eq!(left.wanted_words(0), "CPU generation 2 or CPU generation 3 or CPU generation 4");
        assert_eq!(judged(&file, 0, cpu(3)), Some(Observation::Lost), "without a loss the last write counts");
    }

    #[test]
    fn what_was_never_promised_need_not_be_there() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        file.promise(file.changes());
        file.append(512, 512, cpu(2));
        let left = file.cut();
        assert_eq!(against_writes(&left, 512, &CellState::Absent, RUN), None);
        assert_eq!(against_writes(&left, 512, &CellState::Zero, RUN), None);
        assert_eq!(against_writes(&left, 0, &CellState::Absent, RUN), Some(Observation::Lost));
        assert_eq!(left.size(), 1024, "the longest file that may be found");
    }

    #[test]
    fn a_write_after_the_loss_is_certain_again() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        let mut left = file.cut();
        left.write(0, 512, cpu(7));
        assert_eq!(judged(&left, 0, cpu(7)), None);
        assert_eq!(judged(&left, 0, cpu(1)), Some(Observation::Lost));
    }
}
