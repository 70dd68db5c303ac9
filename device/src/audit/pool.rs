// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Buffers for the bytes of writes: page-aligned, so that they can go to a file opened with O_DIRECT, and used again,
//! so that a write does not pay for fresh zeroed pages.
//!
//! Memory: at most [`SPARE_BYTES`] lie here unused. What is kept for as long as a rule pleases is charged to the disk
//! before it is copied, and a disk has [`KEPT_BYTES`] for that.

use crate::mem::{BadAddress, Gpa, View};
use longpin_proto::disk::PAGE_BYTES;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zerocopy::{FromZeros as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes that rules make a disk keep: a thousand held writes of 64 KiB, or the longest write alone.
pub const KEPT_BYTES: usize = 64 << 20;
/// Most bytes of data of the requests that rules keep in one disk, copied or not: what is known of each of their pages
/// takes some 130 bytes.
pub const WAITING_BYTES: usize = 1 << 30;
/// Most bytes of unused buffers: 128 writes of 128 KiB.
pub const SPARE_BYTES: usize = 16 << 20;
/// Sizes that are used again: 4 KiB to 1 MiB, by powers of two. Others come from the allocator.
const CLASSES: usize = 9;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES as usize]);

/// Where buffers come from and go back to.
#[derive(Default)]
pub struct Pool {
    spare: [Mutex<Vec<Vec<Page>>>; CLASSES],
    spare_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
}

/// Bytes of a write, at a page boundary. Goes back to its pool with the last reference.
pub struct Buffer {
    pages: Vec<Page>,
    len: usize,
    pool: Arc<Pool>,
    /// What it costs its disk.
    charge: Option<Charge>,
}

/// What rules make one disk keep.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// Room in a budget, until it is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Room for `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Room for a buffer of `len` bytes, if there is.
    pub fn charge(self: &Arc<Self>, len: u64) -> Option<Charge> {
        let pages = usize::try_from(len).ok()?.div_ceil(PAGE_BYTES as usize);
        let bytes = allocated(pages) * PAGE_BYTES as usize;
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Charge { budget: self.clone(), bytes })
    }

    /// Bytes that are charged now.
    #[cfg(test)]
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Pages of a buffer for so many.
fn allocated(pages: usize) -> usize {
    class(pages).map_or(pages, |class| 1 << class)
}

fn class(pages: usize) -> Option<usize> {
    let class = pages.next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl Pool {
    /// A buffer of `len` bytes with any content.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let wanted = len.div_ceil(PAGE_BYTES as usize).max(1);
        let pages = self.take_spare(wanted).unwrap_or_else(|| vec![Page::new_zeroed(); allocated(wanted)]);
        self.used_bytes.fetch_add(size_of_val(&pages[..]), Ordering::Relaxed);
        Buffer { pages, len, pool: self.clone(), charge: None }
    }

    /// A buffer with the bytes of `segments`, one after the other.
    pub fn copy(self: &Arc<Self>, view: &View<'_>, segments: &[(Gpa, u32)]) -> Result<Buffer, BadAddress> {
        let len = segments.iter().map(|(_, len)| *len as usize).sum();
        let mut buffer = self.take(len);
        let mut rest = buffer.bytes_mut();
        for (gpa, len) in segments {
            let (piece, after) = rest.split_at_mut(*len as usize);
            view.read(*gpa, piece)?;
            rest = after;
        }
        Ok(buffer)
    }

    /// Bytes of all buffers in use.
    #[cfg(test)]
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn take_spare(&self, wanted: usize) -> Option<Vec<Page>> {
        let pages = self.spare[class(wanted)?].lock().pop()?;
        self.spare_bytes.fetch_sub(size_of_val(&pages[..]), Ordering::Relaxed);
        Some(pages)
    }

    fn give_back(&self, pages: Vec<Page>) {
        let bytes = size_of_val(&pages[..]);
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // Only whole classes: others would be found by nobody.
        let Some(class) = class(pages.len()).filter(|class| 1 << class == pages.len()) else { return };
        if self.spare_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > SPARE_BYTES {
            self.spare_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        self.spare[class].lock().push(pages);
    }
}

impl Buffer {
    /// Give the charge back together with the memory.
    pub fn charged(self, charge: Option<Charge>) -> Self {
        let mut buffer = self;
        buffer.charge = charge;
        buffer
    }

    /// Whether it was charged, and so may be kept.
    pub fn is_charged(&self) -> bool {
        self.charge.is_some()
    }

    /// For filling it, before it is shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.pages));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_used_again_and_counted() {
        let pool = Arc::<Pool>::default();
        let buffer = pool.take(5000);
        assert_eq!((buffer.len(), buffer.as_ptr().addr() % 4096), (5000, 0));
        assert_eq!(pool.used_bytes(), 8192);
        let at = buffer.as_ptr();
        drop(buffer);
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(pool.take(8192).as_ptr(), at);
    }

    #[test]
    fn a_budget_gives_what_it_has_and_takes_it_back() {
        let (pool, budget) = (Arc::<Pool>::default(), Budget::new(KEPT_BYTES));
        assert!(budget.charge(KEPT_BYTES as u64 + 1).is_none());
        let buffer = pool.take(5 * 4096).charged(budget.charge(5 * 4096));
        // As much as was allocated.
        assert_eq!((budget.used_bytes(), pool.used_bytes()), (8 * 4096, 8 * 4096));
        assert!(budget.charge(KEPT_BYTES as u64).is_none());
        drop(buffer);
        let all = budget.charge(KEPT_BYTES as u64).unwrap();
        assert!(budget.charge(1).is_none());
        drop(all);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn unused_memory_is_bounded() {
        let pool = Arc::<Pool>::default();
        let many: Vec<_> = (0..100).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(pool.spare_bytes.load(Ordering::Relaxed), SPARE_BYTES);
        let large = pool.take(3 << 20);
        assert_eq!(large.pages.len(), 768);
        drop(large);
        assert_eq!(pool.spare_bytes.load(Ordering::Relaxed), SPARE_BYTES);
    }
}
