// SPDX-License-Identifier: GPL-2.0

//! References to user pages, and their DMA mapping.
//!
//! [`PinnedPages`] holds one reference a page, taken by GUP; [`MappedPages`] holds the DMA mapping
//! on top. What is dropped is given back in the right order: first unmapped, then unpinned.
//!
//! GUP is called in its `_fast` form: without the mmap lock it takes what is mapped already, and
//! falls back to faulting under the lock for the rest. It also knows what `FOLL_LONGTERM` asks for
//! (`gup_fast_folio_allowed()`, `__gup_longterm_locked()`): pages of file systems that write back
//! are refused, movable ones are migrated first. In batches of a page full of pointers, as
//! `ib_umem` does, so that a gigabyte neither hogs the CPU nor outlives a SIGKILL for long.
//!
//! Mapping asks for `DMA_ATTR_REQUIRE_COHERENT`: CPU and device look at the same bytes while the
//! mapping lives, so bounce buffers would break every promise, and are refused.

use crate::{
    accounting::Charge,
    dma::MAX_REGION_BYTES,
    uapi, //
};
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    dma::DataDirection,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    pr_warn_once,
    prelude::*,
    scatterlist::SGTable, //
};

#[allow(
    improper_ctypes,
    reason = "structures of the kernel are only passed by pointer"
)]
extern "C" {
    fn longpin_put_page(page: *mut bindings::page);
    fn longpin_is_zero_page(page: *mut bindings::page) -> bool;
    fn longpin_page_facts(page: *mut bindings::page, facts: *mut PageFacts);
    fn longpin_sgt_is_physical(sgt: *mut bindings::sg_table) -> bool;
    fn longpin_killed() -> bool;
    fn longpin_resched();
}

/// Pages in one call of GUP, and in one of its counterparts.
const BATCH: usize = PAGE_SIZE / size_of::<*mut bindings::page>();

/// A region of one piece may be one segment. `virtio_glue.c` says the same to the DMA layer
/// (`dma_set_max_seg_size()`).
const MAX_SEGMENT_BYTES: c_uint = MAX_REGION_BYTES as c_uint;

/// See the module on coherence.
const MAP_ATTRS: c_ulong = bindings::DMA_ATTR_REQUIRE_COHERENT as c_ulong;

/// Which kind of reference GUP takes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Mode {
    Longterm = uapi::MODE_LONGTERM,
    Pin = uapi::MODE_PIN,
    Get = uapi::MODE_GET,
}

impl TryFrom<u32> for Mode {
    type Error = Error;

    fn try_from(mode: u32) -> Result<Self> {
        match mode {
            uapi::MODE_LONGTERM => Ok(Self::Longterm),
            uapi::MODE_PIN => Ok(Self::Pin),
            uapi::MODE_GET => Ok(Self::Get),
            _ => Err(EINVAL),
        }
    }
}

/// Whether GUP is told that the pages will be written to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Access {
    Read = uapi::ACCESS_READ,
    Write = uapi::ACCESS_WRITE,
}

impl TryFrom<u32> for Access {
    type Error = Error;

    fn try_from(access: u32) -> Result<Self> {
        match access {
            uapi::ACCESS_READ => Ok(Self::Read),
            uapi::ACCESS_WRITE => Ok(Self::Write),
            _ => Err(EINVAL),
        }
    }
}

/// Whether the owner was sent a SIGKILL and a long operation should stop.
pub(crate) fn killed() -> bool {
    // SAFETY: It only looks at the current task.
    unsafe { longpin_killed() }
}

/// What the kernel thinks of a page now. Evidence: it may have changed by the time it is read.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct PageFacts {
    pub(crate) flags: u64,
    pub(crate) zone: u32,
    pub(crate) folio_pages: u32,
    pub(crate) has_mapping: u32,
    _reserved: u32,
}

/// User pages that we hold a reference to.
///
/// # Invariants
///
/// Each element of `pages` is a valid page with one reference of ours, of `FOLL_GET` if `mode` is
/// [`Mode::Get`], of `FOLL_PIN` otherwise.
pub(crate) struct PinnedPages {
    pages: KVVec<*mut bindings::page>,
    mode: Mode,
    dirty: bool,
    // Dropped after the references.
    _charge: Charge,
}

// SAFETY: References to pages may be given back by any thread.
unsafe impl Send for PinnedPages {}
// SAFETY: `&self` methods only read.
unsafe impl Sync for PinnedPages {}

impl PinnedPages {
    /// Takes references to the `nr_pages` pages of the calling process from `addr`, which must be
    /// a multiple of the page size. All or nothing.
    ///
    /// Errors: what GUP says, [`EFAULT`] in particular; [`EINTR`] after SIGKILL; [`ENOMEM`]; those
    /// of [`Charge::current`].
    pub(crate) fn pin(addr: usize, nr_pages: usize, mode: Mode, access: Access) -> Result<Self> {
        let charge = Charge::current(nr_pages)?;
        let pages = KVVec::with_capacity(nr_pages, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        // INVARIANT: No pages yet.
        let mut pinned = Self {
            pages,
            mode,
            dirty: false,
            _charge: charge,
        };
        while pinned.pages.len() < nr_pages {
            if killed() {
                return Err(EINTR);
            }
            let batch = BATCH.min(nr_pages - pinned.pages.len());
            pinned.pin_batch(addr + (pinned.pages.len() << PAGE_SHIFT), batch, access)?;
            // SAFETY: We are in process context and hold no spinlock.
            unsafe { longpin_resched() };
        }
        Ok(pinned)
    }

    /// Adds up to `nr_pages` pages, at least one. There must be capacity for them.
    fn pin_batch(&mut self, addr: usize, nr_pages: usize, access: Access) -> Result {
        let mut flags = 0;
        if access == Access::Write {
            flags |= bindings::FOLL_WRITE;
        }
        if self.mode == Mode::Longterm {
            flags |= bindings::FOLL_LONGTERM;
        }
        let gup = match self.mode {
            Mode::Get => bindings::get_user_pages_fast,
            Mode::Pin | Mode::Longterm => bindings::pin_user_pages_fast,
        };
        let room = self.pages.spare_capacity_mut();
        let nr_pages = nr_pages.min(room.len());
        // SAFETY: `room` is valid for writing `nr_pages` pointers. GUP checks the address itself.
        let ret = unsafe { gup(addr, nr_pages as c_int, flags, room.as_mut_ptr().cast()) };
        to_result(ret)?;
        if ret == 0 {
            return Err(EFAULT);
        }
        // INVARIANT: GUP took a reference of the kind that `mode` says to each of these.
        // SAFETY: GUP has written `ret` elements, and not more than `nr_pages`.
        unsafe { self.pages.inc_len(ret as usize) };
        self.check_batch(ret as usize, access)
    }

    /// Refuses the zero page, which a pin for reading gets for private memory that was never
    /// touched: the device writes whatever the access, and these zeroes are everybody's.
    fn check_batch(&self, nr_pages: usize, access: Access) -> Result {
        if access == Access::Write {
            return Ok(());
        }
        let batch = &self.pages[self.pages.len() - nr_pages..];
        // SAFETY: The pages are valid by the type invariant.
        let zero = |page: &*mut bindings::page| unsafe { longpin_is_zero_page(*page) };
        if batch.iter().any(zero) {
            return Err(EFAULT);
        }
        Ok(())
    }

    /// What the kernel thinks of page `index`; None if there is no such page.
    pub(crate) fn facts(&self, index: usize) -> Option<PageFacts> {
        let page = *self.pages.get(index)?;
        let mut facts = PageFacts::default();
        // SAFETY: The page is valid by the type invariant, `facts` for writing.
        unsafe { longpin_page_facts(page, &mut facts) };
        Some(facts)
    }

    fn give_back(mode: Mode, dirty: bool, pages: &mut [*mut bindings::page]) {
        match mode {
            // SAFETY: By the type invariant the pages hold a reference of `FOLL_PIN`, which the
            // caller gives up. Process context: the function may sleep.
            Mode::Pin | Mode::Longterm => unsafe {
                bindings::unpin_user_pages_dirty_lock(pages.as_mut_ptr(), pages.len(), dirty)
            },
            Mode::Get => {
                for page in pages {
                    if dirty {
                        // SAFETY: The page is valid by the type invariant; as above.
                        unsafe { bindings::set_page_dirty_lock(*page) };
                    }
                    // SAFETY: By the type invariant the page holds a reference of `FOLL_GET`,
                    // which the caller gives up.
                    unsafe { longpin_put_page(*page) };
                }
            }
        }
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for batch in self.pages.chunks_mut(BATCH) {
            Self::give_back(self.mode, self.dirty, batch);
            // SAFETY: We are in process context and hold no spinlock.
            unsafe { longpin_resched() };
        }
    }
}

/// A scatter-gather table over pinned pages, neighbours merged.
///
/// # Invariants
///
/// `sgt` was initialized by `sg_alloc_table_from_pages_segment()`.
struct Table {
    sgt: bindings::sg_table,
}

impl Table {
    fn new(pinned: &mut PinnedPages) -> Result<Self> {
        let pages = &mut pinned.pages;
        let mut sgt = bindings::sg_table::default();
        // SAFETY: `sgt` is valid for writing; `pages` holds valid pages, at least one, with
        // references that outlive the table in `MappedPages`.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                &mut sgt,
                pages.as_mut_ptr(),
                pages.len() as c_uint,
                0,
                pages.len() << PAGE_SHIFT,
                MAX_SEGMENT_BYTES,
                bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_NOWARN,
            )
        })?;
        // INVARIANT: Initialized just now.
        Ok(Self { sgt })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: The table is initialized by the type invariant.
        unsafe { bindings::sg_free_table(&mut self.sgt) };
    }
}

/// The device that DMA is mapped for.
///
/// # Invariants
///
/// `raw` is a device with a reference of ours.
pub(crate) struct DmaDevice {
    raw: NonNull<bindings::device>,
    translates: bool,
}

// SAFETY: A `struct device` is reference-counted, and its references may go anywhere.
unsafe impl Send for DmaDevice {}
// SAFETY: Mapping for a device from many threads is what the DMA API is made for.
unsafe impl Sync for DmaDevice {}

impl DmaDevice {
    /// Takes a reference. Unless `translates`, the accelerator takes DMA addresses for physical
    /// ones.
    ///
    /// # Safety
    ///
    /// `raw` must be a valid device.
    pub(crate) unsafe fn new(raw: NonNull<bindings::device>, translates: bool) -> Self {
        // SAFETY: By the safety requirements.
        unsafe { bindings::get_device(raw.as_ptr()) };
        // INVARIANT: The reference was taken just now.
        Self { raw, translates }
    }
}

impl Clone for DmaDevice {
    fn clone(&self) -> Self {
        // SAFETY: The device is valid by the type invariant.
        unsafe { Self::new(self.raw, self.translates) }
    }
}

impl Drop for DmaDevice {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { bindings::put_device(self.raw.as_ptr()) };
    }
}

/// Pinned pages, mapped for DMA in both directions.
///
/// # Invariants
///
/// `table` is mapped for `dev`.
pub(crate) struct MappedPages {
    dev: DmaDevice,
    // Dropped in this order, after `drop()` has unmapped them.
    table: Table,
    pinned: PinnedPages,
}

// SAFETY: The table's memory belongs to us and may be unmapped and freed by any thread.
unsafe impl Send for MappedPages {}
// SAFETY: `&self` methods only read.
unsafe impl Sync for MappedPages {}

impl MappedPages {
    /// Maps `pinned` for `dev`, which must stay bound to its driver until the result is dropped.
    ///
    /// Errors: [`ENOMEM`]; [`EIO`] and others of `dma_map_sgtable()`; [`EOPNOTSUPP`] if the
    /// platform translates or bounces what the device takes for physical.
    pub(crate) fn new(mut pinned: PinnedPages, dev: &DmaDevice) -> Result<Self> {
        let mut table = Table::new(&mut pinned)?;
        // SAFETY: `dev` is bound by the caller's promise, and the table is initialized.
        to_result(unsafe {
            bindings::dma_map_sgtable(
                dev.raw.as_ptr(),
                &mut table.sgt,
                DataDirection::Bidirectional.into(),
                MAP_ATTRS,
            )
        })?;
        // INVARIANT: Mapped just now.
        let mut mapped = Self {
            dev: dev.clone(),
            table,
            pinned,
        };
        // SAFETY: The table is initialized and mapped.
        if !dev.translates && !unsafe { longpin_sgt_is_physical(&mut mapped.table.sgt) } {
            pr_warn_once!(
                "DMA addresses are not physical ones, and the device does not translate them: \
                 boot without an IOMMU and without swiotlb=force\n"
            );
            return Err(EOPNOTSUPP);
        }
        Ok(mapped)
    }

    /// Number of segments that the device sees.
    pub(crate) fn nr_segments(&self) -> u32 {
        self.table.sgt.nents
    }

    /// DMA address and length of each segment.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        // SAFETY: The table is initialized by the invariant of `Table`, and not changed while
        // `self` is borrowed. The cast to a mutable pointer is not used for writing.
        let table = unsafe { SGTable::from_raw(ptr::from_ref(&self.table.sgt).cast_mut()) };
        table.iter().map(|sg| (sg.dma_address(), sg.dma_len()))
    }

    /// DMA address of page `index`; None if there is no such page.
    pub(crate) fn dma_addr(&self, index: usize) -> Option<u64> {
        let mut offset = (index as u64) << PAGE_SHIFT;
        for (addr, len) in self.segments() {
            if offset < len {
                return Some(addr + offset);
            }
            offset -= len;
        }
        None
    }

    /// The pages below the mapping.
    pub(crate) fn pinned(&self) -> &PinnedPages {
        &self.pinned
    }

    /// Unmaps the pages and gives the references back, setting the dirty bits first if `dirty`.
    /// The device must not use them any more.
    pub(crate) fn release(mut self, dirty: bool) {
        self.pinned.dirty = dirty;
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        // SAFETY: The table is mapped for `dev` by the type invariant, with the same direction and
        // attributes.
        unsafe {
            bindings::dma_unmap_sgtable(
                self.dev.raw.as_ptr(),
                &mut self.table.sgt,
                DataDirection::Bidirectional.into(),
                MAP_ATTRS,
            )
        };
    }
}
