// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ledger file: one [`Header`], then [`Entry`] after [`Entry`], append-only, in the order in which the device's
//! one clock stamped them per producer (sort by `time_ns` before comparing producers).

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Header::magic`].
pub const MAGIC: [u8; 8] = *b"LPLEDGER";
/// [`Header::version`].
pub const VERSION: u32 = 2;

/// First 64 bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of an [`Entry`].
    pub entry_bytes: u32,
    /// CLOCK_REALTIME at the moment when CLOCK_MONOTONIC was `monotonic_ns`.
    pub realtime_ns: u64,
    /// See `realtime_ns`.
    pub monotonic_ns: u64,
    /// Zero.
    pub reserved: [u64; 4],
}
const _: () = assert!(size_of::<Header>() == 64);

/// [`Entry::kind`]: a region is complete and may be written (pin). `len` = bytes, `detail` = pin mode.
pub const KIND_MAP: u32 = 1;
/// [`Entry::kind`]: the device acknowledged that a region is quiet (release). `detail` = release mode.
pub const KIND_UNMAP: u32 = 2;
/// [`Entry::kind`]: bytes are in guest memory. One entry covers at most one 4 KiB page of one generation.
pub const KIND_DMA_WRITE: u32 = 3;
/// [`Entry::kind`]: a program began.
pub const KIND_PROGRAM_START: u32 = 4;
/// [`Entry::kind`]: a program ended. `generation` = last whole pass, `detail` = `dma::STATUS_` constant.
pub const KIND_PROGRAM_END: u32 = 5;
/// [`Entry::kind`]: the driver reset the device; all regions and programs are gone.
pub const KIND_RESET: u32 = 6;
/// [`Entry::kind`]: a segment of a region: `dma_addr`, `len`, `file_offset`. Written once a segment, with the map.
pub const KIND_SEGMENT: u32 = 7;
/// [`Entry::kind`]: bytes were read from guest memory.
pub const KIND_DMA_READ: u32 = 8;

/// [`Entry::kind`]: a translation of a revocable region: `dma_addr`, `len`, `file_offset`, `detail` = access. Written
/// before a program can use it.
pub const KIND_POPULATE: u32 = 9;
/// [`Entry::kind`]: a range of a revocable region is quiet, its translations are gone: `len`, `file_offset`, `detail` =
/// `dma::INVALIDATE_` constant. Written when no write to it is under way, before the driver hears so.
pub const KIND_INVALIDATE: u32 = 10;
/// [`Entry::kind`]: a program has come to a page without translation: `len`, `file_offset`, `detail` = access.
pub const KIND_FAULT: u32 = 11;
/// [`Entry::kind`]: the driver refused a fault: `detail` = errno.
pub const KIND_FAULT_REFUSED: u32 = 12;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct Entry {
    /// CLOCK_MONOTONIC of the host, ns, taken when the event was over.
    pub time_ns: u64,
    /// A `KIND_` constant.
    pub kind: u32,
    /// Region, or 0.
    pub region: u32,
    /// DMA address, or 0.
    pub dma_addr: u64,
    /// Bytes.
    pub len: u64,
    /// Generation written, or 0.
    pub generation: u64,
    /// File offset of the first byte (the region's label plus the offset in the region).
    pub file_offset: u64,
    /// Label of the case.
    pub run: u64,
    /// Program, or 0 (low 32 bits of its tag).
    pub program: u32,
    /// Depends on `kind`.
    pub detail: u32,
}
const _: () = assert!(size_of::<Entry>() == 64);

/// [`DiskEntry::kind`]: a request was taken from the ring. Kinds from here on are those of [`DiskEntry`].
pub const KIND_DISK_SUBMIT: u32 = 16;
/// [`DiskEntry::kind`]: a rule holds it.
pub const KIND_DISK_HOLD: u32 = 17;
/// [`DiskEntry::kind`]: the hold is over. `detail`: 0 released, 1 cap, 2 dropped.
pub const KIND_DISK_RELEASE: u32 = 18;
/// [`DiskEntry::kind`]: the bytes of a write were taken out of the guest's memory.
pub const KIND_DISK_FETCH: u32 = 19;
/// [`DiskEntry::kind`]: the answer is in the ring. `detail`: VIRTIO_BLK_S_ status.
pub const KIND_DISK_COMPLETE: u32 = 20;
/// [`DiskEntry::kind`]: one page changed in flight. `detail`: 0 by DMA, 1 by others, 2 by both, 3 not known.
pub const KIND_DISK_HIT: u32 = 21;
/// [`DiskEntry::kind`]: the power cut was noted.
pub const KIND_DISK_POWER_CUT: u32 = 22;
/// [`DiskEntry::kind`]: the noted content was put back.
pub const KIND_DISK_RESTORE: u32 = 23;
/// First [`DiskEntry::kind`]: entries of lower kinds are [`Entry`]s.
pub const FIRST_DISK_KIND: u32 = KIND_DISK_SUBMIT;

/// One event of a disk: the same size as an [`Entry`], `time_ns`, `kind` and `run` at the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct DiskEntry {
    /// CLOCK_MONOTONIC of the host, ns.
    pub time_ns: u64,
    /// A `KIND_DISK_` constant.
    pub kind: u32,
    /// Index of the disk.
    pub disk: u32,
    /// Number of the request, or 0.
    pub request: u64,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// Guest physical address of the first page, or 0.
    pub gpa: u64,
    /// Label of the case that runs, or 0.
    pub run: u64,
    /// VIRTIO_BLK_T_ constant.
    pub op: u32,
    /// Depends on `kind`.
    pub detail: u32,
}
const _: () = assert!(size_of::<DiskEntry>() == size_of::<Entry>());
const _: () = assert!(core::mem::offset_of!(DiskEntry, run) == core::mem::offset_of!(Entry, run));
const _: () = assert!(core::mem::offset_of!(DiskEntry, kind) == core::mem::offset_of!(Entry, kind));
