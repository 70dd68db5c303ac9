// SPDX-License-Identifier: GPL-2.0

//! The DMA mapping of pinned pages.
//!
//! [`MappedPages`] owns the pages below it, and gives everything back in the right order: first
//! unmapped, then unpinned. Neighbouring pages become one segment, so a huge page is one. Before
//! the device hears of them they become [`AnnouncedPages`], which takes a [`Quiet`] to undo.
//!
//! Mapping asks for `DMA_ATTR_REQUIRE_COHERENT`: CPU and device look at the same bytes while the
//! mapping lives, so bounce buffers would break every promise, and are refused.

use crate::{
    compat::not_supported,
    dma::MAX_REGION_BYTES,
    glue,
    pins::PinnedPages,
    quiet::Quiet, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
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

/// A region of one piece may be one segment. `virtio_glue.c` says the same to the DMA layer
/// (`dma_set_max_seg_size()`).
const MAX_SEGMENT_BYTES: c_uint = MAX_REGION_BYTES as c_uint;

/// See the module on coherence.
const MAP_ATTRS: c_ulong = bindings::DMA_ATTR_REQUIRE_COHERENT as c_ulong;

/// A scatter-gather table over pinned pages, neighbours merged.
///
/// # Invariants
///
/// `sgt` was initialized by `sg_alloc_table_from_pages_segment()`.
struct Table {
    sgt: bindings::sg_table,
}

impl Table {
    fn new(pinned: &PinnedPages) -> Result<Self> {
        let pages = pinned.pages();
        let mut sgt = bindings::sg_table::default();
        // SAFETY: `sgt` is valid for writing; `pages` holds valid pages, at least one, with
        // references that outlive the table in `MappedPages`, and is only read.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                &mut sgt,
                pages.as_ptr().cast_mut(),
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

    /// Maps one page, in both directions.
    ///
    /// Errors: [`EIO`]; EOPNOTSUPP if the platform translates or bounces what the device takes
    /// for physical.
    ///
    /// # Safety
    ///
    /// The device must be bound to its driver, and stay bound until [`DmaDevice::unmap_page`]. The
    /// page must be valid meanwhile.
    pub(crate) unsafe fn map_page(&self, page: NonNull<bindings::page>) -> Result<u64> {
        let dev = self.raw.as_ptr();
        // SAFETY: By the safety requirements; the device is valid by the type invariant.
        let dma_addr = unsafe {
            bindings::dma_map_page_attrs(
                dev,
                page.as_ptr(),
                0,
                PAGE_SIZE,
                DataDirection::Bidirectional.into(),
                MAP_ATTRS,
            )
        };
        // SAFETY: It only looks at the address.
        if unsafe { glue::longpin_dma_failed(dev, dma_addr) } {
            return Err(EIO);
        }
        // SAFETY: The page is valid by the safety requirements.
        if !self.translates && dma_addr != unsafe { glue::longpin_page_phys(page.as_ptr()) } {
            // SAFETY: Mapped just now.
            unsafe { self.unmap_page(dma_addr) };
            return Err(not_supported());
        }
        Ok(dma_addr)
    }

    /// # Safety
    ///
    /// `dma_addr` must come from [`DmaDevice::map_page`] of this device, and be unmapped once.
    pub(crate) unsafe fn unmap_page(&self, dma_addr: u64) {
        // SAFETY: By the safety requirements; with the same size, direction and attributes.
        unsafe {
            bindings::dma_unmap_page_attrs(
                self.raw.as_ptr(),
                dma_addr,
                PAGE_SIZE,
                DataDirection::Bidirectional.into(),
                MAP_ATTRS,
            )
        };
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
/// `table` is mapped for `dev`, which is bound to its driver.
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
    /// Maps `pinned` for `dev`.
    ///
    /// Errors: [`ENOMEM`]; [`EIO`] and others of `dma_map_sgtable()`; EOPNOTSUPP if the
    /// platform translates or bounces what the device takes for physical.
    ///
    /// # Safety
    ///
    /// `dev` must be bound to its driver now, and stay bound until the result is dropped: the
    /// driver core takes away what a mapping stands on when a device is unbound.
    pub(crate) unsafe fn new(pinned: PinnedPages, dev: &DmaDevice) -> Result<Self> {
        let mut table = Table::new(&pinned)?;
        // SAFETY: `dev` is bound by the safety requirements, and the table is initialized.
        to_result(unsafe {
            bindings::dma_map_sgtable(
                dev.raw.as_ptr(),
                &mut table.sgt,
                DataDirection::Bidirectional.into(),
                MAP_ATTRS,
            )
        })?;
        // INVARIANT: Mapped just now; bound by the safety requirements.
        let mut mapped = Self {
            dev: dev.clone(),
            table,
            pinned,
        };
        // SAFETY: The table is initialized and mapped.
        if !dev.translates && !unsafe { glue::longpin_sgt_is_physical(&mut mapped.table.sgt) } {
            pr_warn_once!(
                "DMA addresses are not physical ones, and the accelerator does not translate \
                 them: boot with iommu.passthrough=1\n"
            );
            return Err(not_supported());
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

    /// To be told to the device, which may write to them from then on.
    pub(crate) fn for_device(self) -> AnnouncedPages {
        AnnouncedPages(ManuallyDrop::new(self))
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        // SAFETY: The table is mapped for `dev`, which is bound, by the type invariant; with the
        // same direction and attributes.
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

/// Mapped pages that the device may write to at any time. Without proof that it does not they are
/// never given back: to drop them is to lose them, which harms nobody else's memory.
pub(crate) struct AnnouncedPages(ManuallyDrop<MappedPages>);

impl AnnouncedPages {
    /// Unmaps the pages and gives the references back, setting the dirty bits first if `dirty`.
    pub(crate) fn release(self, _quiet: Quiet, dirty: bool) {
        let mut pages = ManuallyDrop::into_inner(self.0);
        pages.pinned.set_dirty(dirty);
    }
}

impl Deref for AnnouncedPages {
    type Target = MappedPages;

    fn deref(&self) -> &MappedPages {
        &self.0
    }
}
