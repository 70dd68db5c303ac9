// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0
//! The ioctl interface of `/dev/longpin0`. C users include `include/longpin_uapi.h`, which a test compares with
//! this file.
//!
//! Every structure is `repr(C)`, little-endian, and ends with nothing implicit. Reserved fields must be zero
//! (EINVAL); a structure that cannot be read or written is EFAULT. Regions and programs belong to the open file that made them; closing it stops the programs, waits for
//! the device's acknowledgement, and only then unpins.
//!
//! open(2) needs CAP_SYS_RAWIO (EPERM): QUERY gives physical addresses, and ACCESS_READ has the device write what the
//! caller may only read.
//!
//! This file is compiled into the kernel module as well: `core`, zerocopy derives and Rust 1.85 only.

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// ioctl type ("magic") byte.
pub const IOC_TYPE: u32 = 0xB9;
/// Version of this interface, in [`Info::version`].
pub const VERSION: u32 = 1;

/// [`Pin::mode`]: `FOLL_PIN | FOLL_LONGTERM`.
pub const MODE_LONGTERM: u32 = 1;
/// [`Pin::mode`]: `FOLL_PIN`, held as long as the region lives.
pub const MODE_PIN: u32 = 2;
/// [`Pin::mode`]: `FOLL_GET` and `put_page`, as old drivers do.
pub const MODE_GET: u32 = 3;

/// [`Pin::mode`]: no reference is held. The range is mirrored by an `mmu_interval_notifier`: the device faults where it
/// has no page, and gives back what the kernel takes. For devices with `dma::FEATURE_REVOCABLE`.
pub const MODE_NOTIFIER: u32 = 4;

/// [`Pin::access`]: without `FOLL_WRITE`. The device may write all the same: that is the bug to be shown. With
/// [`MODE_NOTIFIER`] the pages are brought in for reading, all at once, and a write faults for itself.
pub const ACCESS_READ: u32 = 0;
/// [`Pin::access`]: with `FOLL_WRITE`. With [`MODE_NOTIFIER`] nothing is brought in before the device faults.
pub const ACCESS_WRITE: u32 = 1;

/// [`Release::how`]: no dirty bit set (drivers that forget it exist in tree).
pub const RELEASE_CLEAN: u32 = 0;
/// [`Release::how`]: `unpin_user_pages_dirty_lock`, or `set_page_dirty_lock` before `put_page`.
pub const RELEASE_DIRTY: u32 = 1;
/// Value in the ledger when the owner went away without a release: unpinned dirty if the pages were pinned with
/// [`ACCESS_WRITE`], as `ib_umem_release()` has it.
pub const RELEASE_CLOSE: u32 = 2;

/// `LONGPIN_IOC_INFO`: versions and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Info {
    /// Out: [`VERSION`].
    pub version: u32,
    /// Out: 1 if the device works, 0 if it is gone or broken.
    pub device_alive: u32,
    /// Out: largest region in bytes.
    pub max_region_bytes: u64,
    /// Out: regions of this open file.
    pub nr_regions: u32,
    /// Out: programs of this open file that have not been waited for.
    pub nr_programs: u32,
    /// Out: pages pinned now, over all open files.
    pub pages_pinned: u64,
}
const _: () = assert!(size_of::<Info>() == 32);

/// `LONGPIN_IOC_PIN`: pin user memory and announce it to the device.
///
/// Errors: EINVAL (constants, alignment, reserved), EFAULT (address; the kernel refuses a long-term pin of a file
/// mapping; the shared zero page, with [`ACCESS_READ`]), EOPNOTSUPP (DMA addresses are not physical ones), ENOMEM (memory or RLIMIT_MEMLOCK), EPERM, E2BIG (over 1 GiB), ENOSPC (too many regions),
/// EOPNOTSUPP (also: [`MODE_NOTIFIER`], and the device or the kernel cannot),
/// ENODEV (device gone), EIO (device refused), ETIMEDOUT (device silent), EINTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pin {
    /// In: first byte; page-aligned.
    pub addr: u64,
    /// In: bytes; a multiple of the page size, not zero.
    pub length: u64,
    /// In: a `MODE_` constant.
    pub mode: u32,
    /// In: an `ACCESS_` constant.
    pub access: u32,
    /// In: file offset of the first byte, or any label; goes into each stamp.
    pub file_offset: u64,
    /// In: label of the pinner; goes to the device's ledger.
    pub run: u64,
    /// Out: handle of the region, not zero.
    pub region: u32,
    /// Out: base pages pinned, or mirrored.
    pub nr_pages: u32,
    /// Out: DMA segments after merging; pages that the device has, with [`MODE_NOTIFIER`].
    pub nr_segments: u32,
    /// In: zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Pin>() == 56);

/// `LONGPIN_IOC_RELEASE`: stop DMA to the region, wait for the device, unpin.
///
/// Errors: EINVAL, ENOENT (no such region). A silent device is broken after a deadline and the release goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// In: region.
    pub region: u32,
    /// In: [`RELEASE_CLEAN`] or [`RELEASE_DIRTY`].
    pub how: u32,
}
const _: () = assert!(size_of::<Release>() == 8);

/// `LONGPIN_IOC_SUBMIT`: start a DMA program; returns at once.
///
/// Fields as in `dma::DmaRequest`. Errors: EINVAL, ENOENT (region), ERANGE (range not in the region), EAGAIN (queue
/// full), ENODEV, ENOMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Submit {
    /// In: region.
    pub region: u32,
    /// In: order.
    pub order: u32,
    /// In: direction.
    pub direction: u32,
    /// In: payload.
    pub payload: u32,
    /// In: first byte in the region.
    pub offset: u64,
    /// In: bytes.
    pub length: u64,
    /// In: seed of the random order.
    pub seed: u64,
    /// In: generation of the first pass.
    pub generation: u64,
    /// In: label in each stamp.
    pub run: u64,
    /// In: cells a second, 0: no limit.
    pub rate_cells_per_s: u64,
    /// In: passes, 0: until stopped or `duration_us`.
    pub passes: u64,
    /// In: microseconds, 0: no limit.
    pub duration_us: u64,
    /// In: bytes of a cell.
    pub cell_bytes: u32,
    /// In: byte of a fill.
    pub fill: u32,
    /// In: microseconds before the first cell.
    pub start_delay_us: u64,
    /// Out: handle of the program, not zero.
    pub program: u64,
}
const _: () = assert!(size_of::<Submit>() == 104);

/// `LONGPIN_IOC_WAIT`: wait for a program's end and collect its result; the handle is then gone.
///
/// Errors: EINVAL, ENOENT, ETIMEDOUT (the program still runs, the handle stays), EINTR, ENODEV (device gone; handle
/// gone), EIO (the device's answer makes no sense; handle gone).
/// `poll(2)` says POLLIN as long as an ended program has not been collected, and POLLERR and POLLHUP from when the
/// device is gone or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wait {
    /// In: program.
    pub program: u64,
    /// In: milliseconds; 0: do not block.
    pub timeout_ms: u32,
    /// Out: `dma::STATUS_` constant.
    pub status: u32,
    /// Out: CRC-32C of a DMA read.
    pub crc32c: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: cells moved.
    pub cells_done: u64,
    /// Out: generation of the last whole pass; 0: none.
    pub last_generation: u64,
    /// Out: start, device's clock, ns.
    pub started_ns: u64,
    /// Out: end, device's clock, ns.
    pub finished_ns: u64,
}
const _: () = assert!(size_of::<Wait>() == 56);

/// `LONGPIN_IOC_STOP`: ask a program to end. Collect it with `LONGPIN_IOC_WAIT`. Errors: ENOENT, ENODEV, ETIMEDOUT,
/// EIO (the device refused, or its answer makes no sense).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stop {
    /// In: program.
    pub program: u64,
}
const _: () = assert!(size_of::<Stop>() == 8);

/// `LONGPIN_IOC_QUERY`: what the driver knows of a region. Errors: ENOENT, ERANGE (`page_index`), ENODEV (its
/// pages were given back when the device was removed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Query {
    /// In: region.
    pub region: u32,
    /// In: base page of the region that `page_*` below describe.
    pub page_index: u32,
    /// Out: mode.
    pub mode: u32,
    /// Out: access.
    pub access: u32,
    /// Out: bytes.
    pub length: u64,
    /// Out: base pages.
    pub nr_pages: u32,
    /// Out: DMA segments.
    pub nr_segments: u32,
    /// Out: programs running on the region.
    pub nr_running: u32,
    /// Out: zone of the page as `zone_idx` counts; u32::MAX if unknown.
    pub page_zone: u32,
    /// Out: DMA address of the page.
    pub page_dma_addr: u64,
    /// Out: `folio->flags` word of the page's folio, as the kernel has it now (evidence, not interface).
    pub page_flags: u64,
    /// Out: 1 if the page's folio still has a mapping (is in a page cache or anonymous), 0 if it left.
    pub page_has_mapping: u32,
    /// Out: base pages in the page's folio.
    pub folio_pages: u32,
}
const _: () = assert!(size_of::<Query>() == 64);

/// `LONGPIN_IOC_MIRROR`: what a region of [`MODE_NOTIFIER`] has seen. Errors: ENOENT, EINVAL (a region of another mode;
/// reserved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mirror {
    /// In: region.
    pub region: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: pages that the device has now.
    pub pages: u64,
    /// Out: invalidations that took a page from the device.
    pub invalidations: u64,
    /// Out: the longest of them: nanoseconds for which the kernel's caller was held.
    pub longest_invalidation_ns: u64,
    /// Out: faults of the device that were answered with a page.
    pub faults: u64,
    /// Out: faults that were refused.
    pub refused: u64,
    /// Out: times that a page was taken again while it was on its way to the device.
    pub retries: u64,
}
const _: () = assert!(size_of::<Mirror>() == 56);

const READ: u32 = 2;
const WRITE: u32 = 1;

/// `_IOC` of asm-generic/ioctl.h.
const fn ioc(dir: u32, nr: u32, size: usize) -> u32 {
    (dir << 30) | ((size as u32) << 16) | (IOC_TYPE << 8) | nr
}

/// See [`Info`].
pub const IOC_INFO: u32 = ioc(READ, 0, size_of::<Info>());
/// See [`Pin`].
pub const IOC_PIN: u32 = ioc(READ | WRITE, 1, size_of::<Pin>());
/// See [`Release`].
pub const IOC_RELEASE: u32 = ioc(WRITE, 2, size_of::<Release>());
/// See [`Submit`].
pub const IOC_SUBMIT: u32 = ioc(READ | WRITE, 3, size_of::<Submit>());
/// See [`Wait`].
pub const IOC_WAIT: u32 = ioc(READ | WRITE, 4, size_of::<Wait>());
/// See [`Stop`].
pub const IOC_STOP: u32 = ioc(WRITE, 5, size_of::<Stop>());
/// See [`Query`].
pub const IOC_QUERY: u32 = ioc(READ | WRITE, 6, size_of::<Query>());
/// See [`Mirror`].
pub const IOC_MIRROR: u32 = ioc(READ | WRITE, 7, size_of::<Mirror>());
