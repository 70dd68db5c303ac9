// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the auditing disk saw: pages that changed on their way, and by whom. Only changes by DMA of this case become
//! observations; stores of a CPU into a page under writeback are legal where nobody asked for stable pages, and so is a
//! write of a device that faulted for the page and was let in.

use super::mirror::let_in;
use crate::replay::{Ledger, Replay};
use longpin_proto::disk::{Author, Change, Hit, HoldEnd, HoldReport, PAGE_BYTES, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;

/// The audit of a case in its result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Writes that were audited.
    pub writes: u64,
    /// Pages that were looked at to the end.
    pub pages: u64,
    /// Pages whose memory had left the guest before the last look.
    #[serde(default)]
    pub pages_unread: u64,
    /// Pages to which our DMA wrote in flight, at least: also bytes that were there already.
    #[serde(default)]
    pub pages_touched: u64,
    /// Pages that our DMA changed in flight.
    pub hits_by_dma: u64,
    /// Pages that somebody else changed in flight, or of which it is not known who did.
    pub hits_by_others: u64,
    /// Pages that changed in flight beyond the disk's limit: counted only.
    pub hits_left_out: u64,
    /// Holds that are over, in the order of their requests.
    pub holds: Vec<HoldLine>,
    /// The first page that changed, by DMA if there is one.
    pub first_hit: Option<HitLine>,
}

/// A hold that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldLine {
    /// Rule.
    pub rule: String,
    /// Disk.
    pub disk: u32,
    /// First sector.
    pub sector: u64,
    /// Bytes.
    pub bytes: u64,
    /// Microseconds from submission to the end of the hold.
    pub held_us: u64,
    /// How it ended.
    pub end: HoldEnd,
}

/// A page that changed in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitLine {
    /// File, if it is known.
    pub path: Option<String>,
    /// Offset of the page in it.
    pub file_offset: Option<u64>,
    /// Disk.
    pub disk: u32,
    /// First sector of the page.
    pub sector: u64,
    /// When.
    pub change: Change,
    /// By whom.
    pub author: Author,
    /// Largest generation in the page at submission.
    pub generation_before: Option<u64>,
    /// Largest generation in the page before completion.
    pub generation_after: Option<u64>,
    /// Bytes that differ; 0 if the bytes of the submission were not kept.
    pub differing_bytes: u32,
    /// Microseconds from submission to the first DMA write that the ledger has for this page and time.
    pub after_us: Option<u64>,
    /// The first bytes that differ.
    pub first_bytes: Option<Span>,
}

/// The audit of a case, if there was one.
pub fn audit(replay: &Replay<'_>) -> Option<Audit> {
    let report = replay.audit?;
    let by_dma = report.hits.iter().filter(|hit| by_dma(replay, hit)).count() as u64;
    let first = dma_hits(replay).next().or_else(|| report.hits.first());
    Some(Audit {
        writes: report.writes,
        pages: report.pages,
        pages_unread: report.pages_unread,
        pages_touched: report.pages_touched,
        hits_by_dma: by_dma,
        hits_by_others: report.hits.len() as u64 - by_dma,
        hits_left_out: report.hits_left_out,
        holds: replay.holds.values().map(|hold| hold_line(hold)).collect(),
        first_hit: first.map(|hit| hit_line(replay, hit)),
    })
}

/// A page of the case that our DMA changed. What other pinners wrote the device cannot know; their generations are
/// nobody else's.
fn by_dma(replay: &Replay<'_>, hit: &Hit) -> bool {
    let placed = hit.region.is_some() || hit.file_offset.is_some();
    let stated = |generation| hit.generation_before < Some(generation) && replay.ledger.states(generation);
    placed && (hit.author.by_dma() || hit.generation_after.is_some_and(stated)) && !let_in(replay, hit)
}

/// Pages that our DMA changed in flight.
fn dma_hits<'a, 's>(replay: &'a Replay<'s>) -> impl Iterator<Item = &'s Hit> + use<'a, 's> {
    replay.audit.into_iter().flat_map(|report| &report.hits).filter(|hit| by_dma(replay, hit))
}

/// Some page did.
pub fn changed_by_dma(replay: &Replay<'_>) -> bool {
    dma_hits(replay).next().is_some()
}

/// Changes that were only counted, or of which nobody knows who made them, may be ours: where DMA was done, nothing can
/// be said then.
pub fn gap(replay: &Replay<'_>) -> Option<String> {
    let report = replay.audit?;
    if changed_by_dma(replay) || replay.ledger.last().is_none() {
        return None;
    }
    if report.hits_left_out > 0 {
        return Some(format!(
            "{} pages that changed in flight were not kept, and DMA may have changed some of them",
            report.hits_left_out
        ));
    }
    if report.pages_unread > 0 {
        return Some(format!(
            "{} pages of audited writes were not in the guest's memory any more at the last look, and DMA may have \
             changed some of them",
            report.pages_unread
        ));
    }
    let unknown = report.hits.iter().filter(|hit| hit.author == Author::Unknown).count();
    (unknown > 0).then(|| {
        format!("{unknown} pages changed in flight, and too little was kept of them to say whether DMA changed them")
    })
}

/// Pages of which the disk got a mix that DMA made, by file offset, and by path where that is known.
pub fn torn_pages(replay: &Replay<'_>) -> BTreeSet<(Option<String>, u64)> {
    dma_hits(replay)
        .filter(|hit| hit.change == Change::Torn)
        .filter_map(|hit| {
            let (path, offset) = replay.place_of(hit);
            Some((path, offset?))
        })
        .collect()
}

/// File offsets of all pages that changed, whoever did it, and whether that is all of them.
pub fn changed_pages(replay: &Replay<'_>) -> (BTreeSet<u64>, bool) {
    let hits = replay.audit.map_or(&[][..], |report| &report.hits);
    let pages: Vec<Option<u64>> = hits.iter().map(|hit| replay.place_of(hit).1).collect();
    let complete = replay.audit.is_none_or(|report| report.hits_left_out + report.pages_unread == 0);
    let all = complete && pages.iter().all(Option::is_some);
    (pages.into_iter().flatten().map(page_of).collect(), all)
}

/// The device wrote into a page of some file at this offset.
pub fn written_by_dma(replay: &Replay<'_>, page: u64) -> bool {
    replay.ledger.first_into(page..page.saturating_add(PAGE_BYTES), 0..=u64::MAX).is_some()
}

/// First byte of the page of an offset.
pub fn page_of(offset: u64) -> u64 {
    offset / PAGE_BYTES * PAGE_BYTES
}

fn hold_line(hold: &HoldReport) -> HoldLine {
    HoldLine {
        rule: hold.rule.clone(),
        disk: hold.disk,
        sector: hold.byte / SECTOR_BYTES,
        bytes: hold.len,
        held_us: hold.ended_ns.saturating_sub(hold.submitted_ns) / 1000,
        end: hold.end,
    }
}

fn hit_line(replay: &Replay<'_>, hit: &Hit) -> HitLine {
    let (path, file_offset) = replay.place_of(hit);
    HitLine {
        path,
        file_offset,
        disk: hit.disk,
        sector: hit.byte / SECTOR_BYTES,
        change: hit.change,
        author: hit.author,
        generation_before: hit.generation_before,
        generation_after: hit.generation_after,
        differing_bytes: hit.differing_bytes,
        after_us: file_offset.and_then(|offset| after_us(&replay.ledger, hit, offset)),
        first_bytes: hit.spans.first().cloned(),
    }
}

/// Microseconds from submission to the first DMA write into the page before its completion.
fn after_us(ledger: &Ledger<'_>, hit: &Hit, file_offset: u64) -> Option<u64> {
    let page = page_of(file_offset);
    let at = ledger.first_into(page..page + PAGE_BYTES, hit.submitted_ns..=hit.completed_ns)?;
    Some((at - hit.submitted_ns) / 1000)
}

/// The audit's sentence, if DMA changed something.
pub fn sentence(audit: &Audit) -> Option<String> {
    let hit = audit.first_hit.as_ref().filter(|_| audit.hits_by_dma > 0)?;
    let place = match (&hit.path, hit.file_offset) {
        (Some(path), Some(offset)) => format!("page at byte {offset} of {path} (sector {})", hit.sector),
        (None, Some(offset)) => format!("page at byte {offset} of its file (sector {})", hit.sector),
        _ => format!("page at sector {}", hit.sector),
    };
    let mut parts = vec![format!("{place} changed in flight"), generations(hit)];
    parts.extend((hit.differing_bytes > 0).then(|| format!("{} bytes", hit.differing_bytes)));
    parts.extend(hit.after_us.map(|us| format!("{} ms after submission", us as f64 / 1000.0)));
    let more = match audit.hits_by_dma - 1 {
        0 => String::new(),
        1 => ", and one more page likewise".to_owned(),
        n => format!(", and {n} more pages likewise"),
    };
    Some(format!("{}; {}{more}", parts.join(", "), disk_has(hit)))
}

fn generations(hit: &HitLine) -> String {
    let word = |generation: Option<u64>| generation.map_or("no stamp".to_owned(), |g| g.to_string());
    format!("DMA generation {} -> {}", word(hit.generation_before), word(hit.generation_after))
}

fn disk_has(hit: &HitLine) -> String {
    let got = |generation: Option<u64>| match generation {
        Some(generation) => format!("the disk got {generation}"),
        None => "the disk got what has no stamp".to_owned(),
    };
    match hit.change {
        Change::BeforeFetch => got(hit.generation_after),
        Change::AfterFetch => got(hit.generation_before),
        Change::Torn => "the disk got a mix of both".to_owned(),
        Change::Back => "the disk got what was there for a moment only".to_owned(),
    }
}
