// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to the disk: put together from the disk's ledger, and tied to the pages that they carry. A page is known
//! by the list of a held request, by its guest address while it is pinned, or by the file's extents.

use super::{PageKey, PageWrite, Replay};
use crate::record::DiskLedgerEntry;
use longpin_proto::disk::Hit;
use longpin_proto::disk::PAGE_BYTES;
use longpin_wire::ledger;
use std::collections::{BTreeMap, BTreeSet};

/// VIRTIO_BLK_T_OUT of virtio 1.3, 5.2.6.
pub const OUT: u32 = 1;
/// VIRTIO_BLK_T_IN.
pub const IN: u32 = 0;
/// VIRTIO_BLK_T_FLUSH.
pub const FLUSH: u32 = 4;

/// A request from submission to completion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiskRequest {
    /// Index of the disk.
    pub disk: u32,
    /// Number in the ledger.
    pub number: u64,
    /// VIRTIO_BLK_T_ constant.
    pub op: u32,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// When the guest submitted it.
    pub submit: u64,
    /// When the disk began to hold it.
    pub hold: Option<u64>,
    /// When the hold was over.
    pub release: Option<u64>,
    /// It was not released by order.
    pub hold_broken: bool,
    /// When the disk took the bytes out of the memory.
    pub fetch: Option<u64>,
    /// When it was answered.
    pub complete: Option<u64>,
    /// The answer was an error.
    pub failed: bool,
    /// Pages of files that it carries, each with its place on the disk.
    pub pages: Vec<(PageKey, u64)>,
}

impl DiskRequest {
    /// It brings bytes to the disk.
    pub fn is_write(&self) -> bool {
        self.op == OUT
    }

    /// It takes bytes from the disk.
    pub fn is_read(&self) -> bool {
        self.op == IN
    }

    /// The moment from which its bytes count.
    pub fn taken(&self) -> u64 {
        self.fetch.unwrap_or(self.submit)
    }
}

/// All requests of the case, in the order of submission.
pub(super) fn requests(replay: &Replay<'_>) -> Vec<DiskRequest> {
    let mut known: BTreeMap<(u32, u64), DiskRequest> = BTreeMap::new();
    for entry in replay.ledger.disk.iter().filter(|entry| entry.kind <= ledger::KIND_DISK_HIT) {
        let at = replay.clock.since(entry.time_ns);
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
                request.pages = by_address(replay, entry, at);
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
        name_pages(replay, request);
    }
    requests.sort_by_key(|request| request.submit);
    requests
}

/// Pages by the guest address of the first, which is in a region that is pinned at this moment. The pages of one
/// request follow each other in the file, since they do so on the disk.
fn by_address(replay: &Replay<'_>, entry: &DiskLedgerEntry, at: u64) -> Vec<(PageKey, u64)> {
    let segment = replay.ledger.entries.iter().find(|segment| {
        let pin = replay.pin_of(segment.region);
        segment.kind == ledger::KIND_SEGMENT
            && (segment.dma_addr..segment.dma_addr + segment.len).contains(&entry.gpa)
            && pin.is_some_and(|pin| pin.from <= at && pin.to.is_none_or(|to| at <= to))
    });
    let Some((segment, pin)) = segment.and_then(|s| Some((s, replay.pin_of(s.region)?))) else {
        return Vec::new();
    };
    let first = pin.offset_of(segment.file_offset + (entry.gpa - segment.dma_addr));
    let end = pin.offset + pin.len;
    let pages =
        (0..entry.len.div_ceil(PAGE_BYTES)).map(|i| (first / PAGE_BYTES + i, entry.byte + i * PAGE_BYTES));
    pages
        .take_while(|(page, _)| page * PAGE_BYTES < end)
        .map(|(page, byte)| ((pin.path.clone(), page), byte))
        .collect()
}

/// What other evidence says of the pages of a request.
fn name_pages(replay: &Replay<'_>, request: &mut DiskRequest) {
    let mut add = |key: PageKey, byte: u64| {
        if !request.pages.iter().any(|(known, _)| *known == key) {
            request.pages.push((key, byte));
        }
    };
    let listed = replay.held.iter().filter(|h| (h.disk, h.request) == (request.disk, request.number));
    let listed = listed.flat_map(|held| &held.pages).map(|page| (page.region, page.file_offset, page.byte));
    let hits = replay.hits().iter().filter(|hit| (hit.disk, hit.request) == (request.disk, request.number));
    for (region, offset, byte) in listed.chain(hits.map(|hit| (hit.region, hit.file_offset, hit.byte))) {
        if let (Some(path), Some(offset)) = (replay.file_of(region), offset) {
            add((path, offset / PAGE_BYTES), byte);
        }
    }
    // The extents are those of the first disk.
    if request.disk == 0 {
        for (path, extents) in &replay.extents {
            for extent in extents.iter().filter(|extent| extent.located) {
                let from = request.byte.max(extent.physical);
                let to = (request.byte + request.len).min(extent.physical + extent.len);
                for byte in (from.next_multiple_of(PAGE_BYTES)..to).step_by(PAGE_BYTES as usize) {
                    add((path.clone(), (extent.logical + byte - extent.physical) / PAGE_BYTES), byte);
                }
            }
        }
    }
    // Where nothing in memory is known that could have gone there, the place belonged to something else then.
    let empty: Vec<u64> = request.pages.iter().map(|(_, byte)| *byte).collect();
    let empty: BTreeSet<u64> =
        empty.into_iter().filter(|byte| replay.carried(request, *byte).is_empty()).collect();
    request.pages.retain(|(_, byte)| !empty.contains(byte));
    request.pages.sort();
}

impl<'r> Replay<'r> {
    /// What a write brought to a place on the disk: the content of the memory that it was taken from.
    pub fn carried(&self, request: &DiskRequest, byte: u64) -> &[PageWrite] {
        let sources = request.pages.iter().filter(|(_, at)| *at == byte);
        let contents = sources.map(|(key, _)| self.memory.at(key, request.taken()));
        // A clone shares the block and was never written: the page that has a content is the one that was in flight.
        contents.max_by_key(|writes| writes.last().map_or(0, |write| write.at)).unwrap_or_default()
    }

    /// The audit's word on a page of a request.
    pub fn hit_of(&self, request: &DiskRequest, byte: u64) -> Option<&'r Hit> {
        let same = |hit: &&Hit| (hit.disk, hit.request, hit.byte) == (request.disk, request.number, byte);
        self.hits().iter().find(same)
    }
}
