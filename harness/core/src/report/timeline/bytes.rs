// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes before and after, and who holds what. The audit keeps the bytes that changed in flight; of other differences
//! the cells are known, and a whole cell is nothing but its stamp, so its bytes can be written down again.

use super::history::{self, History};
use super::words::{self, PAGE};
use crate::record::Role;
use crate::replay::{Content, Reader, Replay, Wanted};
use crate::report::CaseResult;
use crate::verdict::Finding;
use longpin_proto::disk::Hit;
use longpin_proto::facts::{CellState, Cells, Source, Writer};
use longpin_wire::dma::{MAX_CELL_BYTES, MIN_CELL_BYTES};
use longpin_wire::stamp::{self, Stamp};
use serde::Serialize;

/// Bytes of a cell that are shown: its header and the first body word.
const SHOWN: usize = 64;
/// Stretches of one page.
const MAX_LINES: usize = 4;

/// Content of pages at the end, by who says so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// `pages 0–15 of /mnt/a`.
    pub pages: String,
    /// Last content of the memory.
    pub memory: String,
    /// As the guest reads it.
    pub guest: String,
    /// As the host reads the image.
    pub host: String,
    /// They differ.
    pub differ: bool,
}

/// Two versions of the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HexDiff {
    /// Where.
    pub title: String,
    /// What the first version is.
    pub before: String,
    /// What the second is.
    pub after: String,
    /// Where the bytes come from.
    pub note: String,
    /// In ascending order.
    pub lines: Vec<HexLine>,
}

/// A stretch of bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HexLine {
    /// Offset of the first byte in the page.
    pub offset: u64,
    /// Hex.
    pub before: String,
    /// Hex, as many.
    pub after: String,
}

/// Who holds what, a row for each history.
pub fn placed(replay: &Replay<'_>, histories: &[History]) -> Vec<Placed> {
    let none = || "–".to_owned();
    let row = |history: &History| {
        let key = (history.path.clone(), history.pages[0]);
        let read = |reader: Reader| {
            let mut edges = history.edges.iter().rev();
            edges.find_map(|edge| match &edge.code {
                history::Code::Read { who, role, found, good }
                    if *who == reader && *role != Role::Snapshot =>
                {
                    Some((found.clone(), *good))
                }
                _ => None,
            })
        };
        let (guest, host) = (read(Reader::Guest), read(Reader::Host));
        let memory = history::memory_words(replay.memory.at(&key, u64::MAX)).unwrap_or_else(none);
        let left = if replay.memory.left.contains_key(&key) { ", no longer the file's" } else { "" };
        let differ = [&guest, &host].into_iter().flatten().any(|(_, good)| !good);
        Placed {
            pages: format!("{} of {}", words::pages(&history.pages), history.path),
            memory: memory + left,
            guest: guest.map_or_else(none, |(found, _)| found),
            host: host.map_or_else(none, |(found, _)| found),
            differ,
        }
    };
    let told = histories.iter().filter(|history| !history.edges.is_empty());
    told.take(super::MAX_PAGE_LANES).map(row).collect()
}

/// Bytes that differ: those that the audit kept, else those of the first cells that differ.
pub fn hex(replay: &Replay<'_>, result: &CaseResult, histories: &[History]) -> Vec<HexDiff> {
    let hits = replay.hits().iter().filter(|hit| hit.author.by_dma() && !hit.spans.is_empty());
    let first = hits.clone().next().map(|hit| of_hit(replay, hit, hits.count() - 1));
    first
        .or_else(|| histories.iter().find_map(|history| of_cells(replay, result, history)))
        .into_iter()
        .collect()
}

fn of_hit(replay: &Replay<'_>, hit: &Hit, others: usize) -> HexDiff {
    let place = match replay.place_of(hit) {
        (Some(path), Some(offset)) => format!("page {} of {path}", offset / PAGE),
        _ => format!("byte {} of the disk", hit.byte),
    };
    let generation =
        |generation: Option<u64>| generation.map(|g| format!(": generation {g}")).unwrap_or_default();
    let line = |span: &longpin_proto::disk::Span| HexLine {
        offset: u64::from(span.offset),
        before: span.before.clone(),
        after: span.after.clone(),
    };
    HexDiff {
        title: place,
        before: format!("submitted{}", generation(hit.generation_before)),
        after: format!("completed{}", generation(hit.generation_after)),
        note: match others {
            0 => format!(
                "in memory when its write was submitted, and when it was completed; {} of 4096 bytes differ",
                hit.differing_bytes
            ),
            _ => format!(
                "in memory when its write was submitted, and when it was completed; {} of 4096 bytes differ, and {} \
                 changed as well",
                hit.differing_bytes,
                words::count(others as u64, "more page")
            ),
        },
        lines: hit.spans.iter().take(MAX_LINES).map(line).collect(),
    }
}

/// The first cell of a page with which the result finds fault.
fn of_cells(replay: &Replay<'_>, result: &CaseResult, history: &History) -> Option<HexDiff> {
    let page = *history.pages.first()?;
    let offset = page * PAGE;
    let of_page = |finding: &&Finding| finding.path == history.path && finding.touches(offset, PAGE);
    let finding = result.findings.iter().find(of_page)?;
    let reading = replay.readings.iter().find(|reading| reading.compared == Some(finding.reading))?;
    let found = state_at(reading.cells.ok()?, offset)?;
    let wanted = match replay.compared.get(finding.reading)?.wanted {
        Wanted::Snapshot(before) => state_at(before, offset)?.clone(),
        Wanted::Writes(ref file) => {
            let (run, content) = (replay.run(), file.wanted(offset));
            let Content::Stamp { source: Source::Dma, generation } = content else { return None };
            let region = replay.pins.iter().find(|pin| pin.path == history.path)?.number?;
            CellState::Whole(Writer { run, region, generation, source: Source::Dma })
        }
    };
    let (run, cell_bytes) = (replay.run(), replay.record.cell_bytes);
    let line = HexLine {
        offset: 0,
        before: bytes_of(&wanted, offset, cell_bytes)?,
        after: bytes_of(found, offset, cell_bytes)?,
    };
    Some(HexDiff {
        title: format!("page {page} of {}, first bytes", history.path),
        before: format!("should be: {}", history::state_words(&wanted, run)),
        after: format!("is: {}", history::state_words(found, run)),
        note: "written out from the stamps, which the readers found whole".into(),
        lines: vec![line],
    })
}

fn state_at(cells: &Cells, offset: u64) -> Option<&CellState> {
    let cell = u64::from(cells.cell_bytes);
    let mut runs = cells.runs.iter();
    runs.find(|run| (run.offset..run.offset + run.count * cell).contains(&offset)).map(|run| &run.state)
}

/// The first bytes of a cell, if its state says what they are.
fn bytes_of(state: &CellState, file_offset: u64, cell_bytes: u32) -> Option<String> {
    if !(MIN_CELL_BYTES..=MAX_CELL_BYTES).contains(&cell_bytes) || !cell_bytes.is_multiple_of(8) {
        return None;
    }
    let mut cell = vec![0u8; cell_bytes as usize];
    match state {
        CellState::Zero => {}
        CellState::Whole(writer) => {
            let source = writer.source.to_wire();
            let (run, region, generation) = (writer.run, writer.region, writer.generation);
            stamp::encode(&mut cell, &Stamp { run, file_offset, generation, region, source });
        }
        _ => return None,
    }
    Some(cell.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect())
}
