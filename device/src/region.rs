// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions: what the driver has pinned and announced. Pure: no thread, no memory, no clock.
//!
//! A region is announced in parts, is used by any number of programs, and is closed once. [`RegionTable`] promises
//! that a closing region is handed out to nobody, and that the close is reported exactly when its last user has
//! left. That is the whole of "after the answer to unmap nothing is written": a program is a user from before its
//! first access until after its last.

use crate::mem::Gpa;
use crate::translations::{CacheOptions, MAX_BOUND, Translations};

pub use crate::translations::Segment;
use longpin_wire::dma;
use std::collections::{HashMap, hash_map};
use std::sync::Arc;

/// Most segments over all regions: 16 GiB in base pages, 96 MiB of tables. Without it, a guest could announce 4096
/// regions of a GiB each and take 25 GiB of the host's memory.
pub const MAX_SEGMENTS: usize = MAX_BOUND;

/// A request that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// First part of a region that exists.
    #[error("region {0} exists already")]
    Exists(u32),
    /// No such region, or it is being unmapped.
    #[error("there is no region {0}")]
    NotFound(u32),
    /// The last part is still to come.
    #[error("region {0} is still incomplete")]
    Incomplete(u32),
    /// Being unmapped already; its DMA may still run.
    #[error("region {0} is being unmapped already")]
    Closing(u32),
    /// Length, offset, label or mode differ from the first part.
    #[error("a part of region {0} contradicts its first part")]
    Contradiction(u32),
    /// The segments do not add up.
    #[error("segments of region {region} add up to {have} bytes; {want} were announced")]
    Length {
        /// Region.
        region: u32,
        /// Sum of the segments.
        have: u64,
        /// Announced.
        want: u64,
    },
    /// Its pages were announced once and for all.
    #[error("region {0} is not revocable")]
    NotRevocable(u32),
    /// [`dma::MAX_REGIONS`] or [`MAX_SEGMENTS`].
    #[error("too many regions or segments; unmap some first")]
    Limit,
}

/// A part of a region, as announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPart {
    /// What all parts agree on.
    pub label: Label,
    /// First part.
    pub first: bool,
    /// Last part.
    pub last: bool,
    /// Address and length of each segment; lengths not zero, ends not past the address space. None at all: a revocable
    /// region, in one part.
    pub segments: Vec<(Gpa, u64)>,
}

/// What each part of a region repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Region, not zero.
    pub region: u32,
    /// Length of the whole.
    pub total_bytes: u64,
    /// File offset of the first byte.
    pub file_offset: u64,
    /// Label of the pinner.
    pub run: u64,
    /// How it was pinned.
    pub pin_mode: u32,
}

/// A region whose segments are all known.
///
/// # Invariants
///
/// Segments are in ascending order of `offset`, without gaps, and add up to `label.total_bytes`; or there are none, and
/// translations.
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    /// What was announced.
    pub label: Label,
    /// Where its bytes are, if they are pinned.
    pub segments: Vec<Segment>,
    /// Where they are just now, if they are not.
    pub translations: Option<Translations>,
}

impl Region {
    /// What it counts for in [`MAX_SEGMENTS`].
    fn weight(&self) -> usize {
        self.segments.len() + self.translations.as_ref().map_or(0, Translations::bound)
    }

    /// Whether the range lies in the region.
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.label.total_bytes)
    }

    /// Index of the segment that holds `offset`.
    fn segment_at(&self, offset: u64) -> usize {
        let holds = |segment: &Segment| segment.offset <= offset && offset - segment.offset < segment.len;
        // Right at once where all segments have one length, as base pages do. No overflow: a region has at most
        // 2^30 bytes, and so no more segments.
        let guess = (offset * self.segments.len() as u64 / self.label.total_bytes) as usize;
        if self.segments.get(guess).is_some_and(holds) {
            return guess;
        }
        // Else the last that begins at or before it.
        self.segments.partition_point(|segment| segment.offset <= offset).saturating_sub(1)
    }

    /// The range (which the region contains), cut at segments and at 4 KiB pages of guest memory.
    pub fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Segment> {
        let mut index = self.segment_at(offset);
        let (mut at, end) = (offset, offset + len);
        std::iter::from_fn(move || {
            let segment = self.segments.get(index).filter(|_| at < end)?;
            let inside = at - segment.offset;
            let gpa = Gpa(segment.gpa.0 + inside);
            let to_page_end = crate::program::PAGE_BYTES - gpa.0 % crate::program::PAGE_BYTES;
            let len = (segment.len - inside).min(end - at).min(to_page_end);
            let piece = Segment { offset: at, gpa, len };
            at += len;
            index += usize::from(inside + len == segment.len);
            Some(piece)
        })
    }
}

/// How a map request ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Mapped {
    /// More parts are to come.
    Partly,
    /// The region is ready.
    Complete(Arc<Region>),
}

/// What became of a close.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed<T> {
    /// Nobody uses it: gone. `None` if it had never been complete.
    Quiet(T, Option<Arc<Region>>),
    /// Users are left; the last [`RegionTable::leave`] returns it.
    Waiting,
}

/// All regions. `T` is whatever must be done when a close is through.
pub struct RegionTable<T> {
    regions: HashMap<u32, State<T>>,
    segments: usize,
    cache: CacheOptions,
}

enum State<T> {
    Building { label: Label, bytes: u64, segments: Vec<Segment> },
    Ready { region: Arc<Region>, users: usize },
    Closing { region: Arc<Region>, users: usize, then: T },
}

impl<T> Default for RegionTable<T> {
    fn default() -> Self {
        Self { regions: HashMap::new(), segments: 0, cache: CacheOptions::default() }
    }
}

impl<T> RegionTable<T> {
    /// For revocable regions from now on.
    pub fn set_cache(&mut self, cache: CacheOptions) {
        self.cache = cache;
    }

    /// A region that is ready, or closing: somebody may still use it.
    pub fn find(&self, id: u32) -> Result<Arc<Region>, RegionError> {
        match self.regions.get(&id) {
            Some(State::Ready { region, .. } | State::Closing { region, .. }) => Ok(region.clone()),
            Some(State::Building { .. }) => Err(RegionError::Incomplete(id)),
            None => Err(RegionError::NotFound(id)),
        }
    }

    /// Regions, complete or not.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Take a part. A part that does not fit takes the incomplete region with it: the driver begins anew. A first
    /// part of a region that exists changes nothing.
    pub fn map(&mut self, part: &MapPart) -> Result<Mapped, RegionError> {
        let id = part.label.region;
        match self.regions.get(&id) {
            Some(State::Ready { .. } | State::Closing { .. }) => return Err(RegionError::Exists(id)),
            Some(State::Building { .. }) if part.first => return Err(RegionError::Exists(id)),
            None if !part.first => return Err(RegionError::NotFound(id)),
            None if self.regions.len() >= dma::MAX_REGIONS as usize => return Err(RegionError::Limit),
            Some(State::Building { .. }) | None => {}
        }
        if part.segments.is_empty() {
            return self.map_revocable(part);
        }
        let result = self.extend(part);
        if result.is_err() {
            self.discard(id);
        }
        result
    }

    fn map_revocable(&mut self, part: &MapPart) -> Result<Mapped, RegionError> {
        let id = part.label.region;
        if !(part.first && part.last) {
            self.discard(id);
            return Err(RegionError::Contradiction(id));
        }
        let pages = part.label.total_bytes.div_ceil(dma::PAGE_BYTES) as usize;
        let cache = CacheOptions { bound: self.cache.bound.clamp(1, pages.max(1)), ..self.cache };
        if self.segments + cache.bound > MAX_SEGMENTS {
            return Err(RegionError::Limit);
        }
        self.segments += cache.bound;
        let translations = Some(Translations::new(cache));
        let region = Arc::new(Region { label: part.label, segments: Vec::new(), translations });
        self.regions.insert(id, State::Ready { region: region.clone(), users: 0 });
        Ok(Mapped::Complete(region))
    }

    /// Forget a region if it is incomplete.
    pub fn discard(&mut self, id: u32) {
        if let hash_map::Entry::Occupied(entry) = self.regions.entry(id)
            && let State::Building { segments, .. } = entry.get()
        {
            self.segments -= segments.len();
            entry.remove();
        }
    }

    fn extend(&mut self, part: &MapPart) -> Result<Mapped, RegionError> {
        let (id, want) = (part.label.region, part.label.total_bytes);
        if self.segments + part.segments.len() > MAX_SEGMENTS {
            return Err(RegionError::Limit);
        }
        let state = self.regions.entry(id).or_insert_with(|| State::Building {
            label: part.label,
            bytes: 0,
            segments: Vec::new(),
        });
        let State::Building { label, bytes, segments } = state else {
            return Err(RegionError::Exists(id));
        };
        if *label != part.label {
            return Err(RegionError::Contradiction(id));
        }
        for &(gpa, len) in &part.segments {
            segments.push(Segment { offset: *bytes, gpa, len });
            self.segments += 1;
            *bytes = bytes.saturating_add(len);
        }
        if *bytes > want || (part.last && *bytes != want) {
            return Err(RegionError::Length { region: id, have: *bytes, want });
        }
        if !part.last {
            return Ok(Mapped::Partly);
        }
        // INVARIANT: the loop above leaves no gaps, and the sum was checked.
        let region =
            Arc::new(Region { label: *label, segments: std::mem::take(segments), translations: None });
        *state = State::Ready { region: region.clone(), users: 0 };
        Ok(Mapped::Complete(region))
    }

    /// Become a user of a region. Each success is paired with one [`Self::leave`].
    pub fn enter(&mut self, id: u32) -> Result<Arc<Region>, RegionError> {
        match self.regions.get_mut(&id) {
            Some(State::Ready { region, users }) => {
                *users += 1;
                Ok(region.clone())
            }
            Some(State::Building { .. }) => Err(RegionError::Incomplete(id)),
            Some(State::Closing { .. }) | None => Err(RegionError::NotFound(id)),
        }
    }

    /// End a use. If it was the last of a closing region, the region is gone and its close is returned.
    pub fn leave(&mut self, id: u32) -> Option<(T, Arc<Region>)> {
        match self.regions.get_mut(&id)? {
            State::Building { .. } => return None,
            State::Ready { users, .. } => {
                *users = users.saturating_sub(1);
                return None;
            }
            State::Closing { users, .. } => *users = users.saturating_sub(1),
        }
        match self.regions.remove(&id)? {
            State::Closing { region, users: 0, then } => {
                self.segments -= region.weight();
                Some((then, region))
            }
            other => {
                self.regions.insert(id, other);
                None
            }
        }
    }

    /// Close a region: nobody enters it any more. `then` comes back when it is quiet: now, or from the last leave.
    pub fn close(&mut self, id: u32, then: T) -> Result<Closed<T>, (RegionError, T)> {
        match self.regions.remove(&id) {
            Some(State::Ready { region, users }) if users > 0 => {
                self.regions.insert(id, State::Closing { region, users, then });
                Ok(Closed::Waiting)
            }
            Some(State::Ready { region, .. }) => {
                self.segments -= region.weight();
                Ok(Closed::Quiet(then, Some(region)))
            }
            Some(State::Building { segments, .. }) => {
                self.segments -= segments.len();
                Ok(Closed::Quiet(then, None))
            }
            Some(closing @ State::Closing { .. }) => {
                self.regions.insert(id, closing);
                Err((RegionError::Closing(id), then))
            }
            None => Err((RegionError::NotFound(id), then)),
        }
    }

    /// Forget all regions. The caller has made sure that none has a user.
    pub fn clear(&mut self) {
        self.regions.clear();
        self.segments = 0;
    }
}

#[cfg(test)]
mod tests;
