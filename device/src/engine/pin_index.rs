// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From guest page to region: which pages are pinned now, by whom, and where they lie in their file.
//!
//! Read for every page that a disk writes, changed at each pin and release. Without pins, a look is one atomic load;
//! with them, one binary search for each. Entries are made for runs of neighbouring memory, not for pages, so that a
//! guest that announces 4096 regions of a GiB cannot make the index grow: 16 bytes a segment, 64 MiB with
//! [`crate::region::MAX_SEGMENTS`].
//!
//! A region is here from before the driver hears that it is mapped, until after it is quiet.

use crate::mem::Gpa;
use crate::region::Region;
use crate::translations::Places;
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who keeps pages pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The driver, for this region.
    Region(u32),
    /// The guest's kernel, for a read which a disk holds.
    HeldRead(u64),
}

/// What is known of a pinned byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinnedBy {
    /// Region; `None` for a held read to which nobody has given one yet.
    pub region: Option<u32>,
    /// Label of the pinner.
    pub run: u64,
    /// Where the byte lies in its file.
    pub file_offset: Option<u64>,
}

/// Pages that one owner keeps.
#[derive(Debug)]
pub struct Pin {
    owner: Owner,
    region: Option<u32>,
    run: u64,
    /// Of offset 0.
    file_offset: Option<u64>,
    pages: Pages,
}

#[derive(Debug)]
enum Pages {
    /// In ascending order of `gpa`, none over another.
    Kept(Vec<Extent>),
    /// Of a revocable region: where they are, or were last.
    Revocable(Arc<Places>),
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    gpa: u64,
    /// Regions and requests are smaller than 4 GiB.
    len: u32,
    /// From the start of the region or request.
    offset: u32,
}

impl Pin {
    /// All pages of a region.
    pub fn of_region(region: &Region) -> Self {
        let label = &region.label;
        let segments = region.segments.iter().map(|segment| (segment.gpa, segment.len, segment.offset));
        Self {
            owner: Owner::Region(label.region),
            region: Some(label.region),
            run: label.run,
            file_offset: Some(label.file_offset),
            pages: match &region.translations {
                Some(translations) => Pages::Revocable(translations.places().clone()),
                None => Pages::Kept(extents(segments)),
            },
        }
    }

    /// All pages of a read; `file_offset` is that of its first byte.
    pub fn of_read(
        request: u64,
        segments: &[(Gpa, u32)],
        region: Option<u32>,
        run: u64,
        file_offset: Option<u64>,
    ) -> Self {
        let mut at = 0;
        let placed = segments.iter().map(|(gpa, len)| {
            let offset = at;
            at += u64::from(*len);
            (*gpa, u64::from(*len), offset)
        });
        Self {
            owner: Owner::HeldRead(request),
            region,
            run,
            file_offset,
            pages: Pages::Kept(extents(placed)),
        }
    }

    fn find(&self, gpa: Gpa, len: u32) -> Option<PinnedBy> {
        let offset = match &self.pages {
            Pages::Kept(extents) => offset_in(extents, gpa, len)?,
            Pages::Revocable(places) => places.find(gpa)?,
        };
        let file_offset = self.file_offset.map(|base| base.wrapping_add(offset));
        Some(PinnedBy { region: self.region, run: self.run, file_offset })
    }
}

/// Offset of `gpa`, for a range of which at least one byte is in an extent; wraps where `gpa` itself is before it.
fn offset_in(extents: &[Extent], gpa: Gpa, len: u32) -> Option<u64> {
    let end = gpa.0.saturating_add(u64::from(len));
    let before = extents.partition_point(|extent| extent.gpa < end);
    let extent = extents[..before].last()?;
    if extent.gpa + u64::from(extent.len) <= gpa.0 {
        return None;
    }
    Some(u64::from(extent.offset).wrapping_add(gpa.0.wrapping_sub(extent.gpa)))
}

/// Sorted, neighbours joined, and of those that lie over one another each byte once: a search looks at one extent.
fn extents(segments: impl Iterator<Item = (Gpa, u64, u64)>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (gpa, len, offset) in segments {
        // A region has at most a GiB (`Region::contains`), a request is bounded by the disk.
        let (Ok(len), Ok(offset)) = (u32::try_from(len), u32::try_from(offset)) else { continue };
        match extents.last_mut() {
            Some(last) if last.gpa + u64::from(last.len) == gpa.0 && last.len.checked_add(len).is_some() => {
                last.len += len;
            }
            _ => extents.push(Extent { gpa: gpa.0, len, offset }),
        }
    }
    extents.sort_unstable_by_key(|extent| extent.gpa);
    let mut covered = 0;
    extents.retain_mut(|extent| {
        let end = extent.gpa + u64::from(extent.len);
        if end <= covered {
            return false;
        }
        // Shorter than the extent, whose length is 32 bits wide.
        let twice = covered.saturating_sub(extent.gpa);
        extent.gpa += twice;
        extent.len -= twice as u32;
        extent.offset += twice as u32;
        covered = end;
        true
    });
    extents.shrink_to_fit();
    extents
}

/// The index.
#[derive(Debug, Default)]
pub struct PinIndex {
    pins: RwLock<Vec<Arc<Pin>>>,
    count: AtomicUsize,
}

impl PinIndex {
    /// Add pages; an older entry of the same owner goes.
    pub fn insert(&self, pin: Pin) {
        let pin = Arc::new(pin);
        self.change(|pins| {
            pins.retain(|other| other.owner != pin.owner);
            pins.push(pin);
        });
    }

    /// The owner has let go.
    pub fn remove(&self, owner: Owner) {
        self.change(|pins| pins.retain(|pin| pin.owner != owner));
    }

    /// The driver was reset: all its regions are gone.
    pub fn clear_regions(&self) {
        self.change(|pins| pins.retain(|pin| !matches!(pin.owner, Owner::Region(_))));
    }

    /// Whether the driver has a region of this number.
    pub fn has_region(&self, region: u32) -> bool {
        self.pins.read().iter().any(|pin| pin.owner == Owner::Region(region))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Pin>>)) {
        let mut pins = self.pins.write();
        change(&mut pins);
        self.count.store(pins.len(), Ordering::Release);
    }

    /// For a few looks; `None` if nothing is pinned. Keep it short.
    pub fn read(&self) -> Option<Pins<'_>> {
        (self.count.load(Ordering::Acquire) > 0).then(|| Pins(self.pins.read()))
    }
}

/// The index as it is now.
pub struct Pins<'a>(RwLockReadGuard<'a, Vec<Arc<Pin>>>);

impl Pins<'_> {
    /// All that pin a byte of the range, which lies in one page; the oldest first.
    pub fn of(&self, gpa: Gpa, len: u32) -> impl Iterator<Item = PinnedBy> {
        self.0.iter().filter_map(move |pin| pin.find(gpa, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Label, Segment};
    use proptest::prelude::*;

    fn region(id: u32, run: u64, file_offset: u64, segments: &[(u64, u64)]) -> Region {
        let mut offset = 0;
        let segments: Vec<_> = segments
            .iter()
            .map(|(gpa, len)| {
                let segment = Segment { offset, gpa: Gpa(*gpa), len: *len };
                offset += len;
                segment
            })
            .collect();
        Region {
            label: Label { region: id, total_bytes: offset, file_offset, run, pin_mode: 1 },
            segments,
            translations: None,
        }
    }

    fn kept(pin: &Pin) -> usize {
        match &pin.pages {
            Pages::Kept(extents) => extents.len(),
            Pages::Revocable(_) => panic!("a region of segments"),
        }
    }

    fn find(index: &PinIndex, gpa: u64) -> Vec<(Option<u32>, Option<u64>)> {
        let pins = index.read();
        pins.iter().flat_map(|pins| pins.of(Gpa(gpa), 1)).map(|by| (by.region, by.file_offset)).collect()
    }

    #[test]
    fn a_page_names_all_regions_that_pin_it_and_its_place_in_the_file() {
        let index = PinIndex::default();
        assert!(index.read().is_none());
        index.insert(Pin::of_region(&region(1, 7, 0x10000, &[(0x9000, 0x1000), (0x3000, 0x2000)])));
        index.insert(Pin::of_region(&region(2, 8, 0, &[(0x4000, 0x1000)])));
        assert_eq!(find(&index, 0x9010), [(Some(1), Some(0x10010))]);
        assert_eq!(find(&index, 0x4004), [(Some(1), Some(0x12004)), (Some(2), Some(4))]);
        assert_eq!(find(&index, 0x5000), []);
        assert_eq!(find(&index, 0x2fff), []);
        index.remove(Owner::Region(1));
        assert_eq!(find(&index, 0x4004), [(Some(2), Some(4))]);
        index.insert(Pin::of_read(5, &[(Gpa(0x8000), 512)], None, 9, None));
        index.clear_regions();
        assert_eq!(find(&index, 0x4004), []);
        assert_eq!(find(&index, 0x8000), [(None, None)]);
        index.insert(Pin::of_read(5, &[(Gpa(0x8000), 512)], Some(3), 9, Some(4096)));
        assert_eq!(find(&index, 0x8001), [(Some(3), Some(4097))], "an owner has one entry");
        index.remove(Owner::HeldRead(5));
        assert!(index.read().is_none());
    }

    #[test]
    fn neighbours_are_joined_only_where_both_memory_and_file_go_on() {
        let one = Pin::of_region(&region(1, 0, 0, &[(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x800)]));
        assert_eq!(kept(&one), 1);
        let two = Pin::of_region(&region(1, 0, 0, &[(0x2000, 0x1000), (0x1000, 0x1000)]));
        assert_eq!(kept(&two), 2);
    }

    #[test]
    fn a_long_segment_is_not_hidden_by_a_short_one_over_it() {
        let pin = Pin::of_region(&region(1, 0, 0, &[(0x1000, 0x8000), (0x2000, 0x1000), (0x8000, 0x3000)]));
        let offset = |gpa| pin.find(Gpa(gpa), 1).and_then(|by| by.file_offset);
        assert_eq!([0x1000, 0x3000, 0x8fff, 0x9000].map(offset), [0, 0x2000, 0x7fff, 0xa000].map(Some));
        assert_eq!([0xfff, 0xb000].map(offset), [None, None]);
    }

    proptest! {
        /// Whatever lies over what: a byte is found if a segment has it, at a place that one of them gives it.
        #[test]
        fn it_finds_every_byte_of_segments_that_overlap(
            segments in proptest::collection::vec((0u64..300, 1u64..80), 1..12), at in 0u64..400,
        ) {
            let region = region(1, 0, 0, &segments);
            let holders = region.segments.iter().filter(|s| (s.gpa.0..s.gpa.0 + s.len).contains(&at));
            let places: Vec<_> = holders.map(|s| Some(s.offset + at - s.gpa.0)).collect();
            match Pin::of_region(&region).find(Gpa(at), 1) {
                Some(by) => prop_assert!(places.contains(&by.file_offset), "{:?} {:?}", by, places),
                None => prop_assert!(places.is_empty(), "{:?}", places),
            }
        }

        /// For segments that do not overlap, the index says the same as a search through all of them.
        #[test]
        fn it_agrees_with_the_segments(
            pages in proptest::collection::hash_set(0u64..200, 1..60), at in 0u64..200 * 4096, len in 1u32..4096,
        ) {
            let segments: Vec<_> = pages.into_iter().map(|page| (page * 4096, 4096)).collect();
            let region = region(1, 0, 0, &segments);
            let len = len.min(4096 - (at % 4096) as u32);
            let model = region.segments.iter().find(|s| s.gpa.0 / 4096 == at / 4096);
            let found = Pin::of_region(&region).find(Gpa(at), len);
            prop_assert_eq!(
                found.map(|by| by.file_offset),
                model.map(|s| Some(s.offset + at % 4096)),
            );
        }
    }
}
