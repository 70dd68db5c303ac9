// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA into the pages of held reads: a device may write there at any time before it completes a read, and the guest's
//! kernel keeps the pages pinned until then. So a disk can be the device that this laboratory is about, without a
//! driver of ours in the guest.
//!
//! In the ledger it is the story of any region: a map entry with the time at which the first read was taken from the
//! ring, its segments, writes, and an unmap entry when the last of its reads is over. A write is recorded as DMA for
//! the audit too.
//!
//! The desk is locked while bytes are written, so none is written after its read was let go.

use super::desk::Waiting;
use super::error::WatchError;
use super::held_regions::{HeldRegions, of_region, whole};
use super::record::Disk;
use super::ticket::Ticket;
use super::watch::Watch;
use crate::clock;
use crate::engine::{Pin, PinIndex};
use crate::mem::View;
use crate::region::{Label, Region, Segment};
use longpin_proto::disk::{Op, PAGE_BYTES};
use longpin_wire::dma;
use longpin_wire::ledger::{Entry, KIND_DMA_WRITE, KIND_MAP, KIND_SEGMENT};
use longpin_wire::stamp::{self, SOURCE_DMA, Stamp};
use longpin_wire::uapi;
use std::ops::Range;
use std::sync::Arc;

/// What is to be written, as in `longpin_proto::control::Request::HeldDma`. With a `len` of 0 the region is announced
/// and nothing is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDma {
    /// Rule that holds the reads.
    pub rule: String,
    /// Region for stamps and ledger.
    pub region: u32,
    /// File offset of the first byte of the reads, in the order of their place on the disk.
    pub file_offset: u64,
    /// First byte, counted from there.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Of each cell.
    pub generation: u64,
    /// Label of the case.
    pub run: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
}

impl Watch {
    /// Write stamped cells into the pages of held reads.
    pub fn held_dma(&self, order: &HeldDma) -> Result<(), WatchError> {
        check_cells(order)?;
        let index = self.shared.desk.lock().rules.get(&order.rule)?.disk;
        let disk = self.shared.disk(index).ok_or_else(|| WatchError::NoReads(order.rule.clone()))?;
        disk.log().make_room(None)?;
        let view = disk.ram.view();
        let _writing = self.shared.instruments.trace.writing();
        let mut desk = self.shared.desk.lock();
        let desk = &mut *desk;
        let mut reads: Vec<&mut Waiting> = desk
            .holds
            .of_rule(&order.rule)
            .filter(|(_, place, waiting)| place.hold && waiting.held.op == Op::Read)
            .map(|(_, _, waiting)| waiting)
            .collect();
        reads.sort_by_key(|waiting| waiting.held.byte);
        let (region, places) = region_of(&reads, order);
        let have = region.label.total_bytes;
        if reads.is_empty() {
            return Err(WatchError::NoReads(order.rule.clone()));
        }
        if !region.contains(order.offset, order.len) {
            let HeldDma { rule, offset, len, .. } = order.clone();
            return Err(WatchError::OutsideReads { rule, offset, len, have });
        }
        announce(&mut desk.regions, &self.shared.instruments.pins, &disk, &region, &reads, &places)?;
        if order.len == 0 {
            return Ok(());
        }
        let entries = write(&view, &disk, &region, order)?;
        self.shared.instruments.trace.record(&entries);
        let end = order.offset + order.len;
        for (waiting, place) in reads.iter_mut().zip(&places) {
            waiting.ticket.filled |= place.start < end && order.offset < place.end;
        }
        Ok(())
    }
}

fn check_cells(order: &HeldDma) -> Result<(), WatchError> {
    let HeldDma { offset, len, cell_bytes, .. } = *order;
    let sane =
        (dma::MIN_CELL_BYTES..=dma::MAX_CELL_BYTES).contains(&cell_bytes) && cell_bytes.is_power_of_two();
    let whole = |bytes: u64| bytes.is_multiple_of(u64::from(cell_bytes));
    if sane && whole(offset) && whole(len) {
        Ok(())
    } else {
        Err(WatchError::Cells { offset, len, cell_bytes })
    }
}

/// The reads as one region, and the place of each in it.
fn region_of(reads: &[&mut Waiting], order: &HeldDma) -> (Region, Vec<Range<u64>>) {
    let (mut segments, mut places, mut at) = (Vec::new(), Vec::new(), 0);
    for waiting in reads {
        let start = at;
        for (gpa, len) in &waiting.ticket.segments {
            segments.push(Segment { offset: at, gpa: *gpa, len: u64::from(*len) });
            at += u64::from(*len);
        }
        places.push(start..at);
    }
    let label = Label {
        region: order.region,
        total_bytes: at,
        file_offset: order.file_offset,
        run: order.run,
        // What direct I/O takes: FOLL_PIN, without FOLL_LONGTERM (`iov_iter_extract_user_pages()`).
        pin_mode: uapi::MODE_PIN,
    };
    (Region { label, segments, translations: None }, places)
}

/// Make the region known, if it is new: to the audit, and in the ledger.
fn announce(
    regions: &mut HeldRegions,
    pins: &PinIndex,
    disk: &Arc<Disk>,
    region: &Region,
    reads: &[&mut Waiting],
    places: &[Range<u64>],
) -> Result<(), WatchError> {
    let label = &region.label;
    match regions.label(label.region) {
        Some(known) if known == label => return Ok(()),
        Some(_) => return Err(WatchError::RegionExists(label.region)),
        None if pins.has_region(label.region) => return Err(WatchError::RegionExists(label.region)),
        None => {}
    }
    for (waiting, place) in reads.iter().zip(places) {
        let Ticket { about, segments, .. } = &waiting.ticket;
        let file_offset = label.file_offset.wrapping_add(place.start);
        pins.insert(Pin::of_read(about.id, segments, Some(label.region), label.run, Some(file_offset)));
    }
    let pinned_ns = reads.iter().map(|waiting| waiting.ticket.submitted_ns).min().unwrap_or(0);
    let mut log = disk.log().begin();
    for segment in &region.segments {
        log.record(Entry {
            dma_addr: segment.gpa.0,
            len: segment.len,
            file_offset: label.file_offset.wrapping_add(segment.offset),
            ..of_region(label, KIND_SEGMENT, pinned_ns)
        });
    }
    log.record(Entry { detail: label.pin_mode, ..whole(label, KIND_MAP, pinned_ns) });
    let reads = reads.iter().map(|waiting| waiting.ticket.about.id).collect();
    regions.begin(*label, disk.clone(), reads);
    Ok(())
}

/// Write the cells, a page at a time, and record each piece; the entries.
fn write(view: &View<'_>, disk: &Disk, region: &Region, order: &HeldDma) -> Result<Vec<Entry>, WatchError> {
    let label = &region.label;
    for piece in region.pieces(order.offset, order.len) {
        view.check(piece.gpa, piece.len)?;
    }
    let mut log = disk.log().begin();
    let first = log.len();
    let mut page = [0; PAGE_BYTES as usize];
    for at in (order.offset..order.offset + order.len).step_by(page.len()) {
        let bytes = &mut page[..(order.offset + order.len - at).min(PAGE_BYTES) as usize];
        for (cell, offset) in
            bytes.chunks_exact_mut(order.cell_bytes as usize).zip((at..).step_by(order.cell_bytes as usize))
        {
            let stamp = Stamp {
                run: order.run,
                file_offset: label.file_offset.wrapping_add(offset),
                generation: order.generation,
                region: order.region,
                source: SOURCE_DMA,
            };
            stamp::encode(cell, &stamp);
        }
        for piece in region.pieces(at, bytes.len() as u64) {
            let from = (piece.offset - at) as usize;
            view.write(piece.gpa, &bytes[from..from + piece.len as usize])?;
            log.record(Entry {
                dma_addr: piece.gpa.0,
                len: piece.len,
                generation: order.generation,
                file_offset: label.file_offset.wrapping_add(piece.offset),
                ..of_region(label, KIND_DMA_WRITE, clock::monotonic_ns())
            });
        }
    }
    Ok(log.since(first).to_vec())
}
