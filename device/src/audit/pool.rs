// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Buffers for the bytes of writes: page-aligned, so that they can go to a file opened with O_DIRECT, and used again,
//! so that a write does not pay for fresh zeroed pages.
//!
//! Memory: at most [`SPARE_BYTES`] lie here unused. What is in use is counted, and the audit keeps the bytes of a
//! submission only while that is below [`KEPT_BYTES`].

use crate::mem::{BadAddress, Gpa, View};
use longpin_proto::disk::PAGE_BYTES;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zerocopy::{FromZeros as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes of submissions that are kept for comparing, in all disks of a daemon: a thousand held writes of
/// 64 KiB.
pub const KEPT_BYTES: usize = 64 << 20;
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
}

fn class(pages: usize) -> Option<usize> {
    let class = pages.next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl Pool {
    /// A buffer of `len` bytes with any content.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let wanted = len.div_ceil(PAGE_BYTES as usize).max(1);
        let pages = self.take_spare(wanted).unwrap_or_else(|| {
            let pages = class(wanted).map_or(wanted, |class| 1 << class);
            vec![Page::new_zeroed(); pages]
        });
        self.used_bytes.fetch_add(size_of_val(&pages[..]), Ordering::Relaxed);
        Buffer { pages, len, pool: self.clone() }
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

    /// Whether more is in use than may be kept.
    pub fn is_over_limit(&self) -> bool {
        self.used_bytes() > KEPT_BYTES
    }

    /// Bytes of all buffers in use.
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
    fn unused_memory_is_bounded() {
        let pool = Arc::<Pool>::default();
        let many: Vec<_> = (0..100).map(|_| pool.take(1 << 20)).collect();
        assert!(pool.is_over_limit());
        drop(many);
        assert_eq!(pool.used_bytes(), 0);
        assert_eq!(pool.spare_bytes.load(Ordering::Relaxed), SPARE_BYTES);
        let large = pool.take(3 << 20);
        assert_eq!(large.pages.len(), 768);
        drop(large);
        assert_eq!(pool.spare_bytes.load(Ordering::Relaxed), SPARE_BYTES);
    }
}
