// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to the disk: put together from the disk's ledger, and tied to the pages that they carry. A page is known
//! by the list of a held request, by its guest address while it is pinned, or by the file's extents.

use super::facts::{PageKey, PageWrite};
use super::walk::Walk;
use super::words::PAGE;
use super::{Bar, BarKind, Lane, MAX_MARKS, Row, RowKind, Tick, TickKind, words};
use crate::record::{DiskLedgerEntry, Evidence};
use longpin_proto::disk::{Change, Held, Hit};
use longpin_wire::ledger;
use std::collections::{BTreeMap, BTreeSet};

/// VIRTIO_BLK_T_OUT and VIRTIO_BLK_T_IN of virtio 1.3, 5.2.6.
const OUT: u32 = 1;
const IN: u32 = 0;
/// VIRTIO_BLK_T_FLUSH.
const FLUSH: u32 = 4;

/// A request from submission to completion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiskRequest {
    pub disk: u32,
    pub number: u64,
    pub op: u32,
    pub byte: u64,
    pub len: u64,
    pub submit: u64,
    pub hold: Option<u64>,
    pub release: Option<u64>,
    /// It was not released by order.
    pub hold_broken: bool,
    pub fetch: Option<u64>,
    pub complete: Option<u64>,
    pub failed: bool,
    /// Pages of files that it carries, each with its place on the disk.
    pub pages: Vec<(PageKey, u64)>,
}

impl DiskRequest {
    pub fn is_write(&self) -> bool {
        self.op == OUT
    }

    pub fn is_read(&self) -> bool {
        self.op == IN
    }

    /// The moment from which its bytes count.
    pub fn taken(&self) -> u64 {
        self.fetch.unwrap_or(self.submit)
    }
}

/// All requests of the case, in the order of submission.
pub fn requests(walk: &Walk<'_>, entries: &[DiskLedgerEntry], held: &[&Held]) -> Vec<DiskRequest> {
    let mut known: BTreeMap<(u32, u64), DiskRequest> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.kind <= ledger::KIND_DISK_HIT) {
        let at = walk.since(entry.time_ns);
        let request = known.entry((entry.disk, entry.request)).or_insert_with(|| DiskRequest {
            disk: entry.disk,
            number: entry.request,
            op: entry.op,
            submit: at,
            ..DiskRequest::default()
        });
        match entry.kind {
            ledger::KIND_DISK_SUBMIT => {
                (request.byte, request.len) = (entry.byte, entry.len);
                request.submit = at;
                request.pages = by_address(walk, entry, at);
            }
            ledger::KIND_DISK_HOLD => request.hold = Some(at),
            ledger::KIND_DISK_RELEASE => {
                (request.release, request.hold_broken) = (Some(at), entry.detail != 0);
            }
            ledger::KIND_DISK_FETCH => request.fetch = Some(at),
            ledger::KIND_DISK_COMPLETE => {
                (request.complete, request.failed) = (Some(at), entry.detail != 0);
            }
            _ => {}
        }
    }
    let mut requests: Vec<DiskRequest> = known.into_values().collect();
    for request in &mut requests {
        name_pages(walk, request, held);
    }
    requests.sort_by_key(|request| request.submit);
    requests
}

/// Pages by the guest address of the first, which is in a region that is pinned at this moment. The pages of one
/// request follow each other in the file, since they do so on the disk.
fn by_address(walk: &Walk<'_>, entry: &DiskLedgerEntry, at: u64) -> Vec<(PageKey, u64)> {
    let ledger = walk.record.evidence.iter().rev().find_map(|evidence| match evidence {
        Evidence::Ledger { entries, .. } => Some(entries),
        _ => None,
    });
    let segment = ledger.into_iter().flatten().find(|segment| {
        let pin = walk.pin_of(segment.region);
        segment.kind == ledger::KIND_SEGMENT
            && (segment.dma_addr..segment.dma_addr + segment.len).contains(&entry.gpa)
            && pin.is_some_and(|pin| pin.from <= at && pin.to.is_none_or(|to| at <= to))
    });
    let Some((segment, pin)) = segment.and_then(|s| Some((s, walk.pin_of(s.region)?))) else {
        return Vec::new();
    };
    let first = (segment.file_offset + (entry.gpa - segment.dma_addr) + pin.offset).saturating_sub(pin.label);
    let end = pin.offset + pin.len;
    let pages = (0..entry.len.div_ceil(PAGE)).map(|i| (first / PAGE + i, entry.byte + i * PAGE));
    pages
        .take_while(|(page, _)| page * PAGE < end)
        .map(|(page, byte)| ((pin.path.clone(), page), byte))
        .collect()
}

/// What other evidence says of the pages of a request.
fn name_pages(walk: &Walk<'_>, request: &mut DiskRequest, held: &[&Held]) {
    let mut add = |key: PageKey, byte: u64| {
        if !request.pages.iter().any(|(known, _)| *known == key) {
            request.pages.push((key, byte));
        }
    };
    let listed = held.iter().filter(|h| (h.disk, h.request) == (request.disk, request.number));
    let listed = listed.flat_map(|held| &held.pages).map(|page| (page.region, page.file_offset, page.byte));
    let hits = walk.hits.iter().filter(|hit| (hit.disk, hit.request) == (request.disk, request.number));
    for (region, offset, byte) in listed.chain(hits.map(|hit| (hit.region, hit.file_offset, hit.byte))) {
        if let (Some(path), Some(offset)) = (walk.path_of(region), offset) {
            add((path.clone(), offset / PAGE), byte);
        }
    }
    // The extents are those of the first disk.
    if request.disk == 0 {
        for (path, extents) in &walk.extents {
            for extent in extents.iter().filter(|extent| extent.located) {
                let from = request.byte.max(extent.physical);
                let to = (request.byte + request.len).min(extent.physical + extent.len);
                for byte in (from.next_multiple_of(PAGE)..to).step_by(PAGE as usize) {
                    add((path.clone(), (extent.logical + byte - extent.physical) / PAGE), byte);
                }
            }
        }
    }
    // Where nothing in memory is known that could have gone there, the place belonged to something else then.
    let empty: Vec<u64> = request.pages.iter().map(|(_, byte)| *byte).collect();
    let empty: BTreeSet<u64> =
        empty.into_iter().filter(|byte| carried(walk, request, *byte).is_empty()).collect();
    request.pages.retain(|(_, byte)| !empty.contains(byte));
    request.pages.sort();
}

/// What a write brought to a place on the disk: the content of the memory that it was taken from.
pub fn carried<'w>(walk: &'w Walk<'_>, request: &DiskRequest, byte: u64) -> &'w [PageWrite] {
    let sources = request.pages.iter().filter(|(_, at)| *at == byte);
    let contents = sources.map(|(key, _)| walk.memory_at(key, request.taken()));
    // A clone shares the block and was never written: the page that has a content is the one that was in flight.
    contents.max_by_key(|writes| writes.last().map_or(0, |write| write.at)).unwrap_or_default()
}

/// The audit's word on a page of a request.
pub fn hit_of<'r>(walk: &Walk<'r>, request: &DiskRequest, byte: u64) -> Option<&'r Hit> {
    let same = |hit: &&&Hit| (hit.disk, hit.request, hit.byte) == (request.disk, request.number, byte);
    walk.hits.iter().find(same).copied()
}

/// What a change in flight means.
pub fn change_words(change: Change) -> &'static str {
    match change {
        Change::BeforeFetch => "the disk has the new content, which nobody had submitted",
        Change::AfterFetch => "the disk has what was submitted, the memory has moved on",
        Change::Torn => "the disk has a mix that the page never was",
        Change::Back => "the memory changed there and back, the disk has what was between",
    }
}

/// One lane for everything else that the disk was asked.
pub fn lane_of_others(walk: &Walk<'_>) -> Option<Lane> {
    let files = walk.paths();
    let ours = |request: &DiskRequest| {
        !request.is_read() && request.pages.iter().any(|((path, _), _)| files.contains(path))
    };
    let mut stretches: Vec<Stretch> = Vec::new();
    for request in walk.requests.iter().filter(|request| !ours(request)) {
        stretches.push(Stretch::of(request));
    }
    let mut row = Row::new(RowKind::Others);
    row.bars = merge(stretches).into_iter().map(Stretch::bar).collect();
    row.ticks = power(walk);
    let note = "metadata, journal, reads".to_owned();
    (!row.is_empty()).then(|| Lane { name: "disk, other requests".into(), note, rows: vec![row] })
}

fn power(walk: &Walk<'_>) -> Vec<Tick> {
    let last = walk.record.evidence.iter().rev().find_map(|evidence| match evidence {
        Evidence::Ledger { disk, .. } => Some(disk),
        _ => None,
    });
    let tick = |entry: &DiskLedgerEntry| {
        let (text, detail) = match entry.kind {
            ledger::KIND_DISK_POWER_CUT => {
                ("power cut", "the content that a loss of power would leave was noted")
            }
            ledger::KIND_DISK_RESTORE => ("restored", "the noted content is the disk's again"),
            _ => return None,
        };
        let at = walk.since(entry.time_ns);
        Some(Tick { kind: TickKind::Power, at, text: text.into(), detail: detail.into(), later: false })
    };
    last.into_iter().flatten().filter_map(tick).collect()
}

/// Requests that overlap or follow closely, as one bar.
#[derive(Debug, Clone, PartialEq)]
struct Stretch {
    from: u64,
    to: u64,
    reads: u64,
    writes: u64,
    flushes: u64,
    others: u64,
    bytes: u64,
    failed: u64,
}

impl Stretch {
    fn of(request: &DiskRequest) -> Self {
        let is = |op: u32| u64::from(request.op == op);
        Self {
            from: request.submit,
            to: request.complete.unwrap_or(request.submit),
            reads: is(IN),
            writes: is(OUT),
            flushes: is(FLUSH),
            others: u64::from(![IN, OUT, FLUSH].contains(&request.op)),
            bytes: request.len,
            failed: u64::from(request.failed),
        }
    }

    fn take(&mut self, other: &Self) {
        self.to = self.to.max(other.to);
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.others += other.others;
        self.bytes += other.bytes;
        self.failed += other.failed;
    }

    fn bar(self) -> Bar {
        let parts = [
            (self.reads, "read"),
            (self.writes, "write"),
            (self.flushes, "flush"),
            (self.others, "other request"),
            (self.failed, "failure"),
        ];
        let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| match (*n, *word) {
            (1, word) => format!("1 {word}"),
            (n, "flush") => format!("{n} flushes"),
            (n, word) => format!("{n} {word}s"),
        });
        let detail = format!("{}, {} KiB", parts.collect::<Vec<_>>().join(", "), self.bytes / 1024);
        let kind = match (self.writes + self.flushes + self.others, self.reads) {
            (0, _) => BarKind::Read,
            _ => BarKind::Other,
        };
        Bar { kind, from: self.from, to: self.to, text: String::new(), detail }
    }
}

/// Join what overlaps, then the nearest neighbours until few enough are left.
fn merge(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_by_key(|stretch| stretch.from);
    let mut gap = 0;
    loop {
        let mut merged: Vec<Stretch> = Vec::new();
        for stretch in &stretches {
            match merged.last_mut() {
                Some(last) if stretch.from <= last.to.saturating_add(gap) => last.take(stretch),
                _ => merged.push(stretch.clone()),
            }
        }
        if merged.len() <= MAX_MARKS / 3 {
            return merged;
        }
        stretches = merged;
        gap = (gap * 4).max(10_000);
    }
}

/// `write of 64 KiB at byte 98304`.
pub fn request_words(request: &DiskRequest) -> String {
    let op = match request.op {
        OUT => "write",
        IN => "read",
        _ => "request",
    };
    let mut text = format!("{op} {} of {} KiB at byte {}", request.number, request.len / 1024, request.byte);
    if let Some(complete) = request.complete {
        text += &format!(", in flight {}", words::duration(complete - request.submit.min(complete)));
    }
    if request.failed {
        text += ", answered with an error";
    }
    text
}
