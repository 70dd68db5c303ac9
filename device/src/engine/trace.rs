// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which bytes of a page DMA has written since when: asked by the disks' audit for pages that changed in flight.
//!
//! Only pages that are in flight are traced, whether pinned or not, so an ordinary program pays for one fence a batch
//! and one load a page. A disk enters the pages of a write before it reads them for the first time, and leaves them
//! after the last look.
//!
//! Nothing is missed: a program records a batch after its bytes are in memory, and before it gives up its view of the
//! memory. With a full fence on both sides, a write that comes after the first look finds the page entered. A disk
//! that sees bytes whose writer has not got so far yet calls [`Trace::settle`], which waits for the end of all views.
//!
//! Memory: [`MAX_RANGES`] ranges (24 bytes each) for all pages, and 256 KiB of counters. Beyond the limit
//! [`Covered::whole`] says that something may be missing.
//!
//! Lock order: the gate, a shard.

use super::PageBits;
use crate::mem::{Gpa, GuestRam};
use crate::program::PAGE_BYTES;
use longpin_wire::ledger::{Entry, KIND_DMA_WRITE};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Duration;

/// Most ranges that are kept, over all pages: 24 MiB.
pub const MAX_RANGES: usize = 1 << 20;
/// Counters of pages in flight. Pages that share one are traced when either is in flight.
const BUCKETS: usize = 1 << 16;
const SHARDS: usize = 64;
/// No byte of a file of at most 2^63 bytes lies there.
const NO_REGION: u64 = u64::MAX;
/// Bit of a counter: there are ranges of its pages.
const KEPT: u32 = 1 << 31;
/// A batch of DMA takes some 50 µs. On a machine that is so busy, the answer is what is known by then.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Ranges by page.
type Shard = HashMap<u64, Vec<Range>>;

#[derive(Debug, Clone, Copy)]
struct Range {
    offset: u16,
    len: u16,
    /// Of the latest write to exactly these bytes, like all that follows.
    region: u32,
    /// Of the first of these bytes; [`NO_REGION`] where a disk wrote by itself.
    file_offset: u64,
    time_ns: u64,
}
const _: () = assert!(size_of::<Range>() == 24);

/// The trace.
pub struct Trace {
    in_flight: Box<[AtomicU32]>,
    shards: Box<[Mutex<Shard>]>,
    ranges: AtomicUsize,
    /// When something was left out for the last time.
    left_out_ns: AtomicU64,
    /// The engine's memory: its views are the batches.
    ram: Arc<GuestRam>,
    /// Read-locked by writers other than the engine.
    gate: RwLock<()>,
}

/// The region through which a piece of a page was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBy {
    /// Region.
    pub region: u32,
    /// Where the piece begins in the region's file.
    pub file_offset: u64,
}

/// What DMA has written to a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// These bytes of the page.
    pub bytes: PageBits,
    /// And surely no others.
    pub whole: bool,
}

fn bucket_of(page: u64) -> usize {
    page as usize % BUCKETS
}

impl Trace {
    /// An empty trace of an engine that writes through `ram`.
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self {
            in_flight: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ranges: AtomicUsize::new(0),
            left_out_ns: AtomicU64::new(0),
            ram,
            gate: RwLock::new(()),
        }
    }

    /// Pages (numbers) are in flight from here on. Call it before they are read for the first time.
    pub fn enter(&self, pages: impl Iterator<Item = u64>) {
        pages.for_each(|page| {
            self.in_flight[bucket_of(page)].fetch_add(1, Ordering::Relaxed);
        });
        // Against the one in `record`: either the writer sees the count, or the reader sees the bytes.
        fence(Ordering::SeqCst);
    }

    /// They are not any more. Each page is left as often as it was entered.
    pub fn leave(&self, pages: impl Iterator<Item = u64>) {
        pages.for_each(|page| {
            let bucket = bucket_of(page);
            if self.in_flight[bucket].fetch_sub(1, Ordering::Relaxed) == KEPT | 1 {
                self.forget(bucket);
            }
        });
    }

    fn shard(&self, bucket: usize) -> &Mutex<Shard> {
        &self.shards[bucket % SHARDS]
    }

    fn forget(&self, bucket: usize) {
        let mut shard = self.shard(bucket).lock();
        // Someone may have entered again; whoever leaves last cleans up.
        let count = &self.in_flight[bucket];
        if count.compare_exchange(KEPT, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let before: usize = shard.values().map(Vec::len).sum();
            shard.retain(|page, _| bucket_of(*page) != bucket);
            let after: usize = shard.values().map(Vec::len).sum();
            self.ranges.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// DMA writes whose bytes are in memory. The caller still holds the view through which it wrote, or the guard of
    /// [`Self::writing`].
    pub fn record(&self, entries: &[Entry]) {
        fence(Ordering::SeqCst);
        for entry in entries {
            let page = entry.dma_addr / PAGE_BYTES;
            let counter = &self.in_flight[bucket_of(page)];
            if counter.load(Ordering::Relaxed) & !KEPT != 0 && entry.kind == KIND_DMA_WRITE {
                let Entry { dma_addr, len, region, file_offset, time_ns, .. } = *entry;
                self.keep(dma_addr, len, region, file_offset, time_ns);
            }
        }
    }

    /// A disk's own writes, those of a read that is over: pieces that each lie in one page. They have been in memory
    /// for some time by now, and [`Self::settle`] does not wait for them.
    pub fn record_read(&self, pieces: impl Iterator<Item = (Gpa, u32)>, time_ns: u64) {
        fence(Ordering::SeqCst);
        for (gpa, len) in pieces {
            if self.in_flight[bucket_of(page_of(gpa))].load(Ordering::Relaxed) & !KEPT != 0 {
                self.keep(gpa.0, len.into(), 0, NO_REGION, time_ns);
            }
        }
    }

    /// At most a page, in one page (`longpin_wire::ledger::KIND_DMA_WRITE`).
    fn keep(&self, gpa: u64, len: u64, region: u32, file_offset: u64, time_ns: u64) {
        let page = gpa / PAGE_BYTES;
        let bucket = bucket_of(page);
        let (offset, len) = ((gpa % PAGE_BYTES) as u16, len.min(PAGE_BYTES) as u16);
        let range = Range { offset, len, region, file_offset, time_ns };
        let mut shard = self.shard(bucket).lock();
        let marked = self.in_flight[bucket].fetch_or(KEPT, Ordering::Relaxed);
        let ranges = shard.entry(page).or_default();
        if let Some(same) = ranges.iter_mut().find(|range| (range.offset, range.len) == (offset, len)) {
            if same.time_ns <= time_ns {
                *same = range;
            }
        } else if self.ranges.load(Ordering::Relaxed) < MAX_RANGES {
            self.ranges.fetch_add(1, Ordering::Relaxed);
            ranges.push(range);
        } else {
            self.left_out_ns.fetch_max(time_ns, Ordering::Relaxed);
        }
        drop(shard);
        if marked & !KEPT == 0 {
            // The last of them left in between, and did not see the mark.
            self.forget(bucket);
        }
    }

    /// What was written to a page since a time at which it was in flight already.
    pub fn covered(&self, page: u64, since_ns: u64) -> Covered {
        let shard = self.shard(bucket_of(page)).lock();
        let ranges = shard.get(&page).map_or(&[][..], Vec::as_slice);
        let mut bytes = PageBits::default();
        ranges.iter().filter(|range| range.time_ns >= since_ns).for_each(|range| {
            bytes.insert(range.offset.into(), range.len.into());
        });
        Covered { bytes, whole: self.left_out_ns.load(Ordering::Relaxed) < since_ns }
    }

    /// Whether something was written to these bytes since then, each range in one page. Cheap where nothing was.
    pub fn touched(&self, gpa: Gpa, len: u32, since_ns: u64) -> bool {
        self.latest(gpa, len, since_ns, |_| true).is_some()
    }

    /// The region through which these bytes were written to last.
    pub fn written_by(&self, gpa: Gpa, len: u32, since_ns: u64) -> Option<WrittenBy> {
        let range = self.latest(gpa, len, since_ns, |range| range.file_offset != NO_REGION)?;
        let file_offset =
            range.file_offset.wrapping_sub(range.offset.into()).wrapping_add(gpa.0 % PAGE_BYTES);
        Some(WrittenBy { region: range.region, file_offset })
    }

    fn latest(&self, gpa: Gpa, len: u32, since_ns: u64, counts: impl Fn(&Range) -> bool) -> Option<Range> {
        let page = page_of(gpa);
        let bucket = bucket_of(page);
        if self.in_flight[bucket].load(Ordering::Relaxed) & KEPT == 0 {
            return None;
        }
        let from = gpa.0 % PAGE_BYTES;
        let over = |range: &Range| {
            let start = u64::from(range.offset);
            start < from + u64::from(len) && from < start + u64::from(range.len)
        };
        let shard = self.shard(bucket).lock();
        let ranges = shard.get(&page)?.iter().filter(|range| range.time_ns >= since_ns && over(range));
        ranges.filter(|range| counts(range)).max_by_key(|range| range.time_ns).copied()
    }

    /// Wait until every write whose bytes can be seen now has been recorded. The caller holds no view of the engine's
    /// memory; one of a disk's is fine.
    pub fn settle(&self) {
        if !self.ram.settle_within(SETTLE_LIMIT) || self.gate.try_write_for(SETTLE_LIMIT).is_none() {
            log::warn!("DMA goes on for more than {} s in one batch", SETTLE_LIMIT.as_secs());
        }
    }

    /// For a writer other than the engine: hold the guard from before the first byte until it is recorded.
    pub fn writing(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }
}

/// Number of the page that holds an address.
pub fn page_of(gpa: Gpa) -> u64 {
    gpa.0 / PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry;

    fn trace() -> Trace {
        Trace::new(Arc::default())
    }

    fn write(gpa: u64, len: u64, time_ns: u64) -> Entry {
        Entry { dma_addr: gpa, len, ..entry(KIND_DMA_WRITE, time_ns) }
    }

    fn spans(trace: &Trace, page: u64, since_ns: u64) -> Vec<(usize, usize)> {
        let covered = trace.covered(page, since_ns);
        assert!(covered.whole);
        covered.bytes.spans().collect()
    }

    #[test]
    fn only_pages_in_flight_are_traced() {
        let trace = trace();
        trace.record(&[write(0x1000, 512, 5)]);
        assert_eq!(spans(&trace, 1, 1), []);
        trace.enter([1].into_iter());
        trace.record(&[write(0x1200, 512, 6), write(0x1800, 64, 7), write(0x2000, 64, 7)]);
        assert_eq!(spans(&trace, 1, 1), [(0x200, 512), (0x800, 64)]);
        assert_eq!(spans(&trace, 1, 7), [(0x800, 64)], "only what was written since");
        assert_eq!(spans(&trace, 2, 1), []);
        trace.record(&[write(0x1200, 512, 9)]);
        assert_eq!(spans(&trace, 1, 9), [(0x200, 512)], "the latest write to a range counts");
    }

    #[test]
    fn the_last_writer_of_a_piece_is_known() {
        let trace = trace();
        let of =
            |region, file_offset, gpa, time_ns| Entry { region, file_offset, ..write(gpa, 512, time_ns) };
        trace.enter([1].into_iter());
        let by = |gpa, len| trace.written_by(Gpa(gpa), len, 5).map(|by| (by.region, by.file_offset));
        assert!(!trace.touched(Gpa(0x1000), 4096, 5));
        trace.record(&[of(1, 0x8200, 0x1200, 5), of(2, 0x200, 0x1200, 6), of(3, 0x9800, 0x1800, 4)]);
        assert_eq!(by(0x1000, 4096), Some((2, 0)));
        assert_eq!(by(0x1300, 16), Some((2, 0x300)));
        assert_eq!((by(0x1000, 512), by(0x1400, 512)), (None, None), "beside it");
        assert_eq!(by(0x1800, 512), None, "earlier");
        trace.record_read([(Gpa(0x1400), 512)].into_iter(), 7);
        assert!(trace.touched(Gpa(0x1400), 1, 5));
        assert_eq!(by(0x1400, 512), None, "a disk has no region");
        assert_eq!(by(0x1000, 4096), Some((2, 0)));
    }

    #[test]
    fn pages_are_forgotten_when_the_last_request_leaves() {
        let trace = trace();
        let page = 1 + BUCKETS as u64;
        trace.enter([1].into_iter());
        trace.enter([1, page].into_iter());
        trace.record(&[write(0x1000, 64, 5), write(page * 4096, 64, 5)]);
        trace.leave([1].into_iter());
        assert_eq!(spans(&trace, 1, 1).len(), 1);
        trace.leave([1, page].into_iter());
        assert_eq!(spans(&trace, 1, 1), []);
        assert_eq!(spans(&trace, page, 1), []);
        assert_eq!(trace.ranges.load(Ordering::Relaxed), 0);
        assert_eq!(trace.in_flight[1].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let trace = trace();
        trace.ranges.store(MAX_RANGES, Ordering::Relaxed);
        trace.enter([1].into_iter());
        trace.record(&[write(0x1000, 64, 5)]);
        assert!(!trace.covered(1, 5).whole);
        assert!(trace.covered(1, 6).whole);
    }

    #[test]
    fn threads_that_enter_record_and_leave_forget_everything() {
        let trace = trace();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..20_000u64 {
                        let pages = [round % 7, round % 5];
                        trace.enter(pages.into_iter());
                        trace.leave(pages.into_iter());
                    }
                });
                scope.spawn(|| {
                    for round in 0..20_000u64 {
                        trace.record(&[write(round % 7 * 4096, 64, round)]);
                    }
                });
            }
        });
        // Whatever a late writer left behind goes with the next request.
        trace.enter(0..7);
        trace.leave(0..7);
        assert_eq!(trace.ranges.load(Ordering::Relaxed), 0);
        assert!(trace.in_flight.iter().all(|count| count.load(Ordering::Relaxed) == 0));
    }
}
