// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Translations of a revocable region: which of its pages are where, as far as the device knows, and who is using
//! that just now.
//!
//! Like the cache of a device's own MMU: bounded, so that pages are forgotten that the driver still believes to be
//! known (the device faults again), and revoked by the driver at any time. Whoever moves data enters first and stays
//! for one batch. [`Translations::invalidate`] waits until all who had entered have left, so that after it nothing
//! is written through a translation that it took away. A batch is bounded, and enters never while something waits to
//! invalidate (`parking_lot` is fair to writers), so the wait is, too: no program can hold the driver up, which holds
//! up the kernel.
//!
//! The lock is taken after a view of guest memory, and before the locks of ledger and trace.

use crate::mem::Gpa;
use indexmap::IndexMap;
use longpin_wire::dma::PAGE_BYTES;
use parking_lot::{RwLock, RwLockReadGuard};
use std::collections::HashMap;
use std::sync::Arc;

/// Most translations of a region, if nothing else is said.
pub const DEFAULT_BOUND: usize = 4096;

/// Most that can be said: what all regions together may have (`region::MAX_SEGMENTS`).
pub const MAX_BOUND: usize = 4 << 20;

/// Which translation goes when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// The one that has been here for longest.
    #[default]
    Oldest,
    /// One by a sequence of pseudo-random numbers, the same in each run.
    Random,
}

/// A contiguous piece of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the region.
    pub offset: u64,
    /// Where that is.
    pub gpa: Gpa,
    /// Bytes.
    pub len: u64,
}

/// Pages that a driver makes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Populate {
    /// Region.
    pub region: u32,
    /// First byte, at the start of a page.
    pub offset: u64,
    /// Whole pages, one after the other.
    pub segments: Vec<(Gpa, u64)>,
    /// They may be written.
    pub write: bool,
    /// The fault that asked, or 0.
    pub fault: u64,
}

/// A range that a driver takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalidate {
    /// Region.
    pub region: u32,
    /// First byte, at the start of a page.
    pub offset: u64,
    /// Whole pages.
    pub length: u64,
    /// A `dma::INVALIDATE_` constant, for the ledger.
    pub reason: u32,
}

/// Size and habit of a region's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Most translations, at least one.
    pub bound: usize,
    /// What goes first.
    pub eviction: Eviction,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { bound: DEFAULT_BOUND, eviction: Eviction::default() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Page {
    gpa: Gpa,
    writable: bool,
}

#[derive(Debug, Default)]
struct Cache {
    /// By index of the page in the region; in order of age.
    pages: IndexMap<u64, Page>,
    /// State of the pseudo-random sequence.
    sequence: u64,
}

impl Cache {
    fn insert(&mut self, index: u64, page: Page, options: CacheOptions) {
        self.pages.shift_remove(&index);
        while self.pages.len() >= options.bound.max(1) {
            match options.eviction {
                Eviction::Oldest => self.pages.shift_remove_index(0),
                Eviction::Random => {
                    let victim = self.draw() % self.pages.len() as u64;
                    self.pages.swap_remove_index(victim as usize)
                }
            };
        }
        self.pages.insert(index, page);
    }

    /// The next number of `splitmix64`.
    fn draw(&mut self) -> u64 {
        self.sequence = self.sequence.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.sequence;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Translations {
    cache: RwLock<Cache>,
    options: CacheOptions,
    places: Arc<Places>,
}

/// Each is equal to itself only: those of two regions are never the same.
impl PartialEq for Translations {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Translations {}

impl Translations {
    /// No page is known.
    pub fn new(options: CacheOptions) -> Self {
        let places = Arc::new(Places { bound: options.bound.max(1), known: RwLock::default() });
        Self { cache: RwLock::default(), options, places }
    }

    /// Where its pages are, or were last.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Most translations.
    pub fn bound(&self) -> usize {
        self.options.bound
    }

    /// Translations that are known now.
    pub fn len(&self) -> usize {
        self.cache.read().pages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Use translations until the result is dropped. Keep it short: invalidations wait for it.
    pub fn enter(&self) -> Entered<'_> {
        Entered(self.cache.read())
    }

    /// Pages from `offset` on are at `segments`; both in whole pages. `publish` is called when nobody can use them yet.
    pub fn populate(&self, offset: u64, segments: &[(Gpa, u64)], writable: bool, publish: impl FnOnce()) {
        let mut cache = self.cache.write();
        publish();
        let mut index = offset / PAGE_BYTES;
        for (gpa, len) in segments {
            for page in 0..len / PAGE_BYTES {
                let gpa = Gpa(gpa.0 + page * PAGE_BYTES);
                cache.insert(index, Page { gpa, writable }, self.options);
                self.places.note(index, gpa);
                index += 1;
            }
        }
    }

    /// Forget the pages of a range. When this returns, nobody moves data by them, or will. `publish` is called when
    /// that is so.
    pub fn invalidate(&self, offset: u64, len: u64, publish: impl FnOnce()) {
        let range = offset / PAGE_BYTES..offset.saturating_add(len).div_ceil(PAGE_BYTES);
        let mut cache = self.cache.write();
        if range.end - range.start < cache.pages.len() as u64 {
            range.for_each(|index| {
                cache.pages.shift_remove(&index);
            });
        } else {
            cache.pages.retain(|index, _| !range.contains(index));
        }
        publish();
    }
}

/// See [`Translations::enter`].
pub struct Entered<'a>(RwLockReadGuard<'a, Cache>);

impl Entered<'_> {
    /// Where the byte at `offset` is, if the device knows and may do that.
    pub fn find(&self, offset: u64, write: bool) -> Option<Gpa> {
        let page = self.0.pages.get(&(offset / PAGE_BYTES)).filter(|page| page.writable || !write)?;
        Some(Gpa(page.gpa.0 + offset % PAGE_BYTES))
    }

    /// The range, which has a page everywhere ([`Self::first_missing`]), cut at pages.
    pub fn pieces(&self, offset: u64, len: u64, write: bool) -> impl Iterator<Item = Segment> {
        let end = offset + len;
        let starts = std::iter::successors(Some(offset), |at| Some((at / PAGE_BYTES + 1) * PAGE_BYTES));
        starts.take_while(move |at| *at < end).filter_map(move |offset| {
            let len = (end - offset).min(PAGE_BYTES - offset % PAGE_BYTES);
            Some(Segment { offset, gpa: self.find(offset, write)?, len })
        })
    }

    /// The first byte of the range whose page cannot be used so; `None` if all can.
    pub fn first_missing(&self, offset: u64, len: u64, write: bool) -> Option<u64> {
        let mut at = offset;
        while at < offset + len {
            if self.find(at, write).is_none() {
                return Some(at);
            }
            at = (at / PAGE_BYTES + 1) * PAGE_BYTES;
        }
        None
    }
}

#[derive(Debug, Default)]
struct Known {
    by_index: IndexMap<u64, u64>,
    /// Index of the region's page by guest page.
    by_gpa: HashMap<u64, u64>,
}

/// Where the pages of a revocable region are, or were last: for whoever looks at guest memory and asks whose page that
/// is. A page that was taken back stays here until another takes its place in the region or the memory, since a device
/// that keeps writing to it is just what must be found. As many as there may be translations.
#[derive(Debug)]
pub struct Places {
    bound: usize,
    known: RwLock<Known>,
}

impl Places {
    fn note(&self, index: u64, gpa: Gpa) {
        let mut known = self.known.write();
        if let Some(older) = known.by_index.shift_remove(&index) {
            known.by_gpa.remove(&older);
        }
        while known.by_index.len() >= self.bound {
            if let Some((_, oldest)) = known.by_index.shift_remove_index(0) {
                known.by_gpa.remove(&oldest);
            }
        }
        if let Some(other) = known.by_gpa.insert(gpa.0, index) {
            known.by_index.shift_remove(&other);
        }
        known.by_index.insert(index, gpa.0);
    }

    /// Offset in the region of the byte at `gpa`.
    pub fn find(&self, gpa: Gpa) -> Option<u64> {
        let page = gpa.0 - gpa.0 % PAGE_BYTES;
        let index = *self.known.read().by_gpa.get(&page)?;
        Some(index * PAGE_BYTES + gpa.0 % PAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    const READ: bool = false;
    const WRITE: bool = true;

    fn of(bound: usize, eviction: Eviction) -> Translations {
        Translations::new(CacheOptions { bound, eviction })
    }

    fn know(translations: &Translations, index: u64, gpa: u64, writable: bool) {
        translations.populate(index * PAGE_BYTES, &[(Gpa(gpa), PAGE_BYTES)], writable, || ());
    }

    #[test]
    fn a_segment_of_many_pages_is_found_byte_by_byte() {
        let all = of(64, Eviction::Oldest);
        all.populate(2 * PAGE_BYTES, &[(Gpa(0x8000), 0x2000), (Gpa(0x1000), 0x1000)], true, || ());
        let entered = all.enter();
        let find = |at| entered.find(at, WRITE).map(|gpa| gpa.0);
        assert_eq!(
            [0x1fff, 0x2000, 0x3004, 0x4fff, 0x5000].map(find),
            [None, Some(0x8000), Some(0x9004), Some(0x1fff), None]
        );
        assert_eq!(entered.first_missing(0x2000, 0x3000, WRITE), None);
        assert_eq!(entered.first_missing(0x2800, 0x3000, WRITE), Some(0x5000));
        assert_eq!(entered.first_missing(0x1800, 0x1000, WRITE), Some(0x1800));
    }

    #[test]
    fn a_page_for_reading_is_none_for_writing_until_it_is_populated_so() {
        let all = of(64, Eviction::Oldest);
        know(&all, 0, 0x8000, false);
        assert_eq!(all.enter().find(5, READ), Some(Gpa(0x8005)));
        assert_eq!(all.enter().find(5, WRITE), None);
        know(&all, 0, 0x9000, true);
        assert_eq!(all.enter().find(5, WRITE), Some(Gpa(0x9005)));
    }

    #[test]
    fn the_bound_holds_and_the_oldest_goes_first() {
        let all = of(2, Eviction::Oldest);
        (0..3).for_each(|index| know(&all, index, 0x10000 + index * PAGE_BYTES, true));
        let missing = |index| all.enter().find(index * PAGE_BYTES, WRITE).is_none();
        assert_eq!([0, 1, 2].map(missing), [true, false, false]);
        know(&all, 1, 0x20000, true);
        know(&all, 3, 0x30000, true);
        assert_eq!([1, 2, 3].map(missing), [false, true, false], "a page populated again is young again");
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn random_eviction_keeps_the_bound_and_does_not_always_take_the_oldest() {
        let all = of(8, Eviction::Random);
        (0..64).for_each(|index| know(&all, index, index * PAGE_BYTES, true));
        assert_eq!(all.len(), 8);
        let young = (56..64).filter(|index| all.enter().find(index * PAGE_BYTES, READ).is_some()).count();
        assert!(young < 8, "the last eight are those that the oldest-first order would have kept");
    }

    #[test]
    fn an_invalidation_waits_for_who_has_entered_and_reports_after() {
        let all = of(64, Eviction::Oldest);
        know(&all, 0, 0x8000, true);
        know(&all, 1, 0x9000, true);
        let gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let entered = all.enter();
            scope.spawn(|| all.invalidate(0, PAGE_BYTES, || gone.store(true, Ordering::SeqCst)));
            // Whatever the other thread does meanwhile: as long as this one is in, the page stays.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(entered.find(0, WRITE), Some(Gpa(0x8000)));
            assert!(!gone.load(Ordering::SeqCst));
            drop(entered);
        });
        assert!(gone.load(Ordering::SeqCst));
        assert_eq!(all.enter().find(0, WRITE), None);
        assert_eq!(all.enter().find(PAGE_BYTES, WRITE), Some(Gpa(0x9000)));
    }

    #[test]
    fn a_page_that_was_taken_back_has_its_place_until_another_takes_it() {
        let all = of(64, Eviction::Oldest);
        know(&all, 3, 0x8000, true);
        all.invalidate(0, 1 << 20, || ());
        assert_eq!(all.places().find(Gpa(0x8010)), Some(3 * PAGE_BYTES + 0x10));
        know(&all, 3, 0x9000, true);
        assert_eq!(all.places().find(Gpa(0x8010)), None);
        know(&all, 4, 0x9000, true);
        assert_eq!(
            all.places().find(Gpa(0x9001)),
            Some(4 * PAGE_BYTES + 1),
            "the memory is another page's now"
        );
        know(&all, 4, 0xa000, true);
        assert_eq!(all.places().find(Gpa(0x9001)), None);
    }

    proptest! {
        /// Whatever comes and goes: what is found is what came last and was not taken since, and never more than the
        /// bound.
        #[test]
        fn it_agrees_with_a_model(
            bound in 1usize..6,
            ops in proptest::collection::vec((0u64..8, 0u64..32, any::<bool>(), any::<bool>()), 1..80),
        ) {
            let all = of(bound, Eviction::Oldest);
            let mut model: Vec<(u64, u64, bool)> = Vec::new();
            for (index, page, writable, take) in ops {
                model.retain(|known| known.0 != index);
                if take {
                    all.invalidate(index * PAGE_BYTES, PAGE_BYTES, || ());
                } else {
                    model.push((index, page * PAGE_BYTES, writable));
                    if model.len() > bound {
                        model.remove(0);
                    }
                    know(&all, index, page * PAGE_BYTES, writable);
                }
                prop_assert_eq!(all.len(), model.len());
                for index in 0..8 {
                    let known = model.iter().find(|known| known.0 == index);
                    let entered = all.enter();
                    prop_assert_eq!(entered.find(index * PAGE_BYTES, READ).map(|g| g.0), known.map(|k| k.1));
                    let writable = known.filter(|k| k.2).map(|k| k.1);
                    prop_assert_eq!(entered.find(index * PAGE_BYTES, WRITE).map(|g| g.0), writable);
                }
            }
        }
    }
}
