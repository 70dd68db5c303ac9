// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0
//! The accelerator as a virtio device: configuration space and virtqueue messages.
//!
//! Two virtqueues, or four. [`QUEUE_CONTROL`] carries short requests (map, unmap, stop), each answered as soon as it
//! is done. [`QUEUE_DMA`] carries DMA programs: a chain stays with the device until its program has ended, so
//! completions come in any order. A request is one descriptor chain: a device-readable part that starts with a
//! [`RequestHeader`], then a device-writable part of exactly one [`Response`].
//!
//! A device with [`FEATURE_REVOCABLE`] has two more queues and keeps regions that nobody has pinned. Such a region
//! begins without memory. Where a program comes to a page that the device has no translation for, the device takes a
//! chain of [`QUEUE_FAULTS`], which the driver has left there, and answers it with a [`FaultEvent`]. The driver has
//! the page brought in, and gives its address by [`OP_POPULATE`] on [`QUEUE_MMU`], or refuses by [`OP_FAULT_DONE`].
//! Before the kernel takes a page away or makes it read-only, the driver revokes the range by [`OP_INVALIDATE`], and
//! the answer to that promises that the device neither writes there nor will, until the next populate.
//!
//! This file is compiled into the kernel module as well: `core`, zerocopy derives and Rust 1.85 only.

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Virtio device id (virtio 1.3, section 5: "audio policy", which has a name in QEMU and no driver in Linux).
pub const VIRTIO_ID: u32 = 38;
/// First word of the configuration space: `LPIN`.
pub const CONFIG_MAGIC: u32 = u32::from_le_bytes(*b"LPIN");
/// Version of this protocol; a driver refuses a device with another one.
pub const VERSION: u32 = 1;
/// Size in bytes of the configuration space (QEMU's `config_size=`).
pub const CONFIG_SIZE: usize = 64;
/// Index of the virtqueue for map, unmap and stop.
pub const QUEUE_CONTROL: u32 = 0;
/// Index of the virtqueue for DMA programs.
pub const QUEUE_DMA: u32 = 1;
/// Index of the virtqueue for populate, invalidate and the end of a fault; see [`FEATURE_REVOCABLE`]. One of its own,
/// since an invalidation must never wait behind a request that waits for memory.
pub const QUEUE_MMU: u32 = 2;
/// Index of the virtqueue on which the device asks for pages: each chain is answered when there is a fault.
pub const QUEUE_FAULTS: u32 = 3;
/// Number of virtqueues (QEMU's `num_vqs=`) of a device with [`FEATURE_REVOCABLE`].
pub const NUM_QUEUES: usize = 4;
/// Number of virtqueues of one without.
pub const NUM_PINNED_QUEUES: usize = 2;
/// Entries of each virtqueue (QEMU's `vq_size=`).
pub const QUEUE_SIZE: u16 = 256;
/// Most segments in one [`MapRequest`]: with the header it stays below 64 KiB, one kernel allocation of order 4.
pub const MAX_SEGMENTS_PER_MAP: u32 = 4000;
/// Largest region in bytes (1 GiB): 262,144 base pages, a segment list of 4 MiB.
pub const MAX_REGION_BYTES: u64 = 1 << 30;
/// Most regions that a device keeps at once.
pub const MAX_REGIONS: u32 = 4096;
/// Smallest and largest cell in bytes that a stamped program may ask for; powers of two between.
pub const MIN_CELL_BYTES: u32 = 64;
/// See [`MIN_CELL_BYTES`].
pub const MAX_CELL_BYTES: u32 = 4096;

/// Configuration space, read-only for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// [`CONFIG_MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Most regions mapped at once.
    pub max_regions: u32,
    /// Most segments in one [`MapRequest`].
    pub max_segments_per_map: u32,
    /// Most DMA programs running or waiting at once.
    pub max_programs: u32,
    /// Zero.
    pub reserved0: u32,
    /// Largest region in bytes.
    pub max_region_bytes: u64,
    /// Optional abilities: `FEATURE_` bits.
    pub features: u64,
    /// Zero.
    pub reserved1: [u64; 3],
}
const _: () = assert!(size_of::<Config>() == CONFIG_SIZE);

/// [`Config::features`]: the device takes regions of [`MAP_REVOCABLE`], and has all [`NUM_QUEUES`] queues.
pub const FEATURE_REVOCABLE: u64 = 1;

/// [`RequestHeader::op`]: add segments to a region; `MapRequest` and its segments follow.
pub const OP_MAP: u32 = 1;
/// [`RequestHeader::op`]: stop all DMA to a region, wait until it is quiet, forget it.
pub const OP_UNMAP: u32 = 2;
/// [`RequestHeader::op`]: stop one DMA program.
pub const OP_STOP: u32 = 3;
/// [`RequestHeader::op`]: run a DMA program (only on [`QUEUE_DMA`]).
pub const OP_DMA: u32 = 4;
/// [`RequestHeader::op`]: translations of a part of a revocable region; `PopulateRequest` and its segments follow
/// (only on [`QUEUE_MMU`]).
pub const OP_POPULATE: u32 = 5;
/// [`RequestHeader::op`]: forget translations (only on [`QUEUE_MMU`]).
pub const OP_INVALIDATE: u32 = 6;
/// [`RequestHeader::op`]: a fault will not be answered by a populate (only on [`QUEUE_MMU`]).
pub const OP_FAULT_DONE: u32 = 7;
/// [`RequestHeader::op`]: a place for the next [`FaultEvent`]; no body (only on [`QUEUE_FAULTS`]).
pub const OP_AWAIT_FAULT: u32 = 8;

/// First 16 bytes of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    /// One of the `OP_` constants.
    pub op: u32,
    /// Zero.
    pub reserved: u32,
    /// Chosen by the driver, returned in the response. For [`OP_DMA`] it names the program (unique until reset).
    pub tag: u64,
}
const _: () = assert!(size_of::<RequestHeader>() == 16);

/// [`MapRequest::flags`]: first part of a region, which must not exist yet.
pub const MAP_FIRST: u32 = 1;
/// [`MapRequest::flags`]: last part; the lengths must now add up to `total_bytes` and DMA may begin.
pub const MAP_LAST: u32 = 2;

/// [`MapRequest::flags`]: a region without memory of its own, whose pages come and go. With both of the other bits and
/// without segments.
pub const MAP_REVOCABLE: u32 = 4;

/// Body of [`OP_MAP`]: announces (part of) a pinned region. Followed by `nr_segments` [`Segment`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapRequest {
    /// Chosen by the driver, never used twice between resets.
    pub region: u32,
    /// `MAP_` bits.
    pub flags: u32,
    /// Length of the whole region; the same in each part.
    pub total_bytes: u64,
    /// File offset (or any label) of the region's first byte; goes into each stamp. The same in each part.
    pub file_offset: u64,
    /// Label of whoever pinned it (the harness' case id); goes to the ledger. The same in each part.
    pub run: u64,
    /// How it was pinned, a `MODE_` constant of the ioctl interface: for the ledger only.
    pub pin_mode: u32,
    /// Number of segments that follow, at most [`MAX_SEGMENTS_PER_MAP`]; none with [`MAP_REVOCABLE`].
    pub nr_segments: u32,
}
const _: () = assert!(size_of::<MapRequest>() == 40);

/// A contiguous piece of a region as the device sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// DMA address from `dma_map_sgtable`.
    pub dma_addr: u64,
    /// Length in bytes, not zero.
    pub len: u64,
}
const _: () = assert!(size_of::<Segment>() == 16);

/// Body of [`OP_UNMAP`]. The response comes only when no DMA to the region is running or will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapRequest {
    /// Region to forget.
    pub region: u32,
    /// How the driver will release the pages, a `RELEASE_` constant of the ioctl interface: for the ledger only.
    pub release: u32,
}
const _: () = assert!(size_of::<UnmapRequest>() == 8);

/// Bytes of a page of a revocable region: populate, invalidate and faults are in whole ones.
pub const PAGE_BYTES: u64 = 4096;

/// Body of [`OP_POPULATE`]: where a part of a revocable region is now. Followed by `nr_segments` [`Segment`]s, of
/// whole pages. Older translations of these pages are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PopulateRequest {
    /// Region.
    pub region: u32,
    /// What the device may do there, an `ACCESS_` constant of the ioctl interface.
    pub access: u32,
    /// First byte in the region, a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    /// The fault that is answered by this; 0: none, nobody asked.
    pub fault: u64,
    /// Number of segments that follow, not zero.
    pub nr_segments: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<PopulateRequest>() == 32);

/// [`InvalidateRequest::reason`]: the range is unmapped (munmap, mremap, truncate, punch).
pub const INVALIDATE_UNMAP: u32 = 1;
/// [`InvalidateRequest::reason`]: its pages are taken out of the page table (reclaim, copy on write, MADV_DONTNEED).
pub const INVALIDATE_CLEAR: u32 = 2;
/// [`InvalidateRequest::reason`]: the mapping's protection changes (mprotect).
pub const INVALIDATE_PROTECTION_VMA: u32 = 3;
/// [`InvalidateRequest::reason`]: single pages become read-only (writeback, fork).
pub const INVALIDATE_PROTECTION_PAGE: u32 = 4;
/// [`InvalidateRequest::reason`]: tracking of written pages begins anew.
pub const INVALIDATE_SOFT_DIRTY: u32 = 5;
/// [`InvalidateRequest::reason`]: the process is gone.
pub const INVALIDATE_RELEASE: u32 = 6;
/// [`InvalidateRequest::reason`]: the pages move.
pub const INVALIDATE_MIGRATE: u32 = 7;
/// [`InvalidateRequest::reason`]: another device wants the page alone.
pub const INVALIDATE_EXCLUSIVE: u32 = 8;
/// [`InvalidateRequest::reason`]: one that this version has no word for.
pub const INVALIDATE_OTHER: u32 = 9;
/// [`InvalidateRequest::reason`]: the driver is about to give the region up.
pub const INVALIDATE_RETIRED: u32 = 10;

/// Body of [`OP_INVALIDATE`]. The response comes only when no DMA to the range is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InvalidateRequest {
    /// Region.
    pub region: u32,
    /// An `INVALIDATE_` constant, the kernel's `enum mmu_notifier_event`: for the ledger only.
    pub reason: u32,
    /// First byte in the region, a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    /// Bytes, a multiple of [`PAGE_BYTES`], not zero.
    pub length: u64,
}
const _: () = assert!(size_of::<InvalidateRequest>() == 24);

/// Body of [`OP_FAULT_DONE`]: the program that faulted ends with [`STATUS_FAULT`], or tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultDone {
    /// [`FaultEvent::id`].
    pub fault: u64,
    /// Why there is no page, an errno of Linux; 0: try again.
    pub error: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<FaultDone>() == 16);

/// What answers [`OP_AWAIT_FAULT`], in the place of a [`Response`]: a program has come to pages that the device has no
/// translation for, or one that does not allow the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultEvent {
    /// [`STATUS_OK`]; any other: there is no fault, the chain comes back unused.
    pub status: u32,
    /// What the program wants to do, an `ACCESS_` constant of the ioctl interface.
    pub access: u32,
    /// Tag of the request.
    pub tag: u64,
    /// Number of the fault, not zero, never used twice between resets.
    pub id: u64,
    /// Region.
    pub region: u32,
    /// Low 32 bits of the program's tag.
    pub program: u32,
    /// First byte in the region, a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    /// Bytes, a multiple of [`PAGE_BYTES`], not zero.
    pub length: u64,
}
const _: () = assert!(size_of::<FaultEvent>() == size_of::<Response>());
const _: () = assert!(core::mem::offset_of!(FaultEvent, tag) == core::mem::offset_of!(Response, tag));

/// Body of [`OP_STOP`]: ask a program to end; its own chain then completes with [`STATUS_STOPPED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StopRequest {
    /// Tag of the program.
    pub program: u64,
}
const _: () = assert!(size_of::<StopRequest>() == 8);

/// [`DmaRequest::order`]: cells in ascending order.
pub const ORDER_SEQUENTIAL: u32 = 0;
/// [`DmaRequest::order`]: each pass is a permutation of the cells drawn from `seed`.
pub const ORDER_RANDOM: u32 = 1;

/// [`DmaRequest::direction`]: device to memory, a DMA write.
pub const DIRECTION_WRITE: u32 = 0;
/// [`DmaRequest::direction`]: memory to device, a DMA read; the response carries a CRC-32C of the bytes.
pub const DIRECTION_READ: u32 = 1;

/// [`DmaRequest::payload`]: self-describing cells (`stamp.rs`).
pub const PAYLOAD_STAMP: u32 = 0;
/// [`DmaRequest::payload`]: every byte is `fill`; offset and length need no alignment.
pub const PAYLOAD_FILL: u32 = 1;

/// Body of [`OP_DMA`]: a program. It ends after `passes` passes over the range, or after `duration_us`, or when
/// it is stopped, whichever comes first; at least one of the three must be able to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaRequest {
    /// Mapped region.
    pub region: u32,
    /// `ORDER_` constant.
    pub order: u32,
    /// `DIRECTION_` constant.
    pub direction: u32,
    /// `PAYLOAD_` constant.
    pub payload: u32,
    /// First byte in the region; a multiple of `cell_bytes` for stamps.
    pub offset: u64,
    /// Bytes; not zero; a multiple of `cell_bytes` for stamps.
    pub length: u64,
    /// Seed for [`ORDER_RANDOM`].
    pub seed: u64,
    /// Generation of the first pass; pass k writes `generation + k`.
    pub generation: u64,
    /// Label that goes into each stamp (the harness' case id).
    pub run: u64,
    /// Cells a second; 0: as fast as possible.
    pub rate_cells_per_s: u64,
    /// Passes over the range; 0: no limit.
    pub passes: u64,
    /// Microseconds; 0: no limit.
    pub duration_us: u64,
    /// Bytes of a cell: a power of two, [`MIN_CELL_BYTES`] to [`MAX_CELL_BYTES`].
    pub cell_bytes: u32,
    /// Byte value for [`PAYLOAD_FILL`], else zero.
    pub fill: u32,
    /// Wait this long before the first cell, microseconds: makes the DMA asynchronous on purpose.
    pub start_delay_us: u64,
}
const _: () = assert!(size_of::<DmaRequest>() == 96);

/// [`Response::status`]: done.
pub const STATUS_OK: u32 = 0;
/// [`Response::status`]: malformed request (length, reserved field, unknown constant).
pub const STATUS_INVALID: u32 = 1;
/// [`Response::status`]: no such region, or no such program.
pub const STATUS_NOT_FOUND: u32 = 2;
/// [`Response::status`]: a segment is not in the guest's memory, or the range is not in the region.
pub const STATUS_BAD_ADDRESS: u32 = 3;
/// [`Response::status`]: the region (or tag) exists already, is still incomplete, or is being unmapped already.
pub const STATUS_BUSY: u32 = 4;
/// [`Response::status`]: the program was ended early by stop, unmap or reset. Its counts are valid.
pub const STATUS_STOPPED: u32 = 5;
/// [`Response::status`]: a limit of the configuration space was reached.
pub const STATUS_LIMIT: u32 = 6;
/// [`Response::status`]: the device failed (for instance its ledger could not be written).
pub const STATUS_DEVICE_ERROR: u32 = 7;
/// [`Response::status`]: the driver refused a page that the program needs. Its counts are valid.
pub const STATUS_FAULT: u32 = 8;

/// Device-writable part of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// A `STATUS_` constant.
    pub status: u32,
    /// CRC-32C of the bytes read, for [`DIRECTION_READ`]; the errno of a refused fault, with [`STATUS_FAULT`]; else zero.
    pub crc32c: u32,
    /// Tag of the request (zero if it was too short to have one).
    pub tag: u64,
    /// Cells moved.
    pub cells_done: u64,
    /// Generation of the last pass that was completed over the whole range; 0: none.
    pub last_generation: u64,
    /// Start, nanoseconds on the device's monotonic clock; 0: never started.
    pub started_ns: u64,
    /// End, the same clock.
    pub finished_ns: u64,
}
const _: () = assert!(size_of::<Response>() == 48);
