// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptor chain to checked request: the only parser of bytes that the guest made.
//!
//! Three steps. The chain is walked (`layout`): readable part, then writable part, no loops, nothing outside the
//! guest's memory. Its readable bytes are copied once, so the guest cannot change them between check and use. Then
//! the copy is parsed: lengths, reserved fields, constants. What a request refers to (regions, programs) is checked
//! by the engine.
//!
//! Each way to be wrong is a variant of [`ChainError`]. A chain whose writable part holds a response gets one with
//! [`ChainError::status`]; any other is returned to the driver with zero bytes written.

use crate::descriptors::{BadEnd, Buffer, MAX_DESCRIPTORS, buffers};
use crate::mem::{BadAddress, Gpa, View};
use crate::program::{Program, ProgramError};
use crate::region::{Label, MapPart};
use crate::translations::{Invalidate, Populate};
use longpin_wire::dma::{
    self, DmaRequest, FaultDone, InvalidateRequest, MapRequest, PopulateRequest, RequestHeader, Response,
    Segment, StopRequest, UnmapRequest,
};
use longpin_wire::uapi::{ACCESS_READ, ACCESS_WRITE};
use std::ops::Deref;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemory;
use zerocopy::FromBytes;

/// Longest request: a map with all the segments that fit. A longer readable part is not even copied.
pub const MAX_REQUEST_BYTES: usize = size_of::<RequestHeader>()
    + size_of::<MapRequest>()
    + dma::MAX_SEGMENTS_PER_MAP as usize * size_of::<Segment>();
const RESPONSE_BYTES: u64 = size_of::<Response>() as u64;

/// Why a chain is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The head or its indirect table cannot be read.
    #[error("chain has no descriptors")]
    Empty,
    /// It promises a next descriptor that is not there: a loop, a bad index, an unreadable or nested table.
    #[error("chain breaks off after {0} descriptors")]
    Broken(usize),
    /// Over [`MAX_DESCRIPTORS`].
    #[error("chain has more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// Virtio 1.3, 2.7.4.2: writable descriptors come after all readable ones.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// A descriptor of no bytes.
    #[error("a descriptor has no bytes")]
    ZeroLength,
    /// Readable part over [`MAX_REQUEST_BYTES`].
    #[error("request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// A buffer is not in the guest's memory.
    #[error(transparent)]
    Buffer(#[from] BadAddress),
    /// The writable part cannot hold a response.
    #[error("{0} bytes for the response; {RESPONSE_BYTES} are needed")]
    NoRoom(u64),
    /// The writable part is longer than a response.
    #[error("more than {RESPONSE_BYTES} bytes for the response")]
    Excess,
    /// Not even a header.
    #[error("request of {0} bytes has no header")]
    NoHeader(usize),
    /// A reserved field is not zero.
    #[error("reserved field is {0:#x}, not zero")]
    Reserved(u32),
    /// Unknown `OP_` constant.
    #[error("operation {0} is unknown")]
    Op(u32),
    /// A DMA request on the control queue, or the reverse.
    #[error("operation {op} does not belong on queue {queue}")]
    WrongQueue {
        /// `OP_` constant.
        op: u32,
        /// Queue.
        queue: u32,
    },
    /// The body's length is not its operation's.
    #[error("operation {op} has a body of {have} bytes, not {want}")]
    Length {
        /// `OP_` constant.
        op: u32,
        /// Bytes after the header.
        have: usize,
        /// Bytes that there should be.
        want: usize,
    },
    /// Region 0 names no region.
    #[error("region is 0")]
    RegionZero,
    /// Unknown `MAP_` bits.
    #[error("map flags {0:#x} are unknown")]
    MapFlags(u32),
    /// Segments of a part.
    #[error("{0} segments in one request; use 1 to {max}", max = dma::MAX_SEGMENTS_PER_MAP)]
    Segments(u32),
    /// A revocable region has no segments, and one part.
    #[error("a revocable region with flags {flags:#x} and {segments} segments; use first, last and none")]
    Revocable {
        /// `MAP_` bits.
        flags: u32,
        /// Segments.
        segments: u32,
    },
    /// Unknown `ACCESS_` constant.
    #[error("access {0} is unknown")]
    Access(u32),
    /// Offset and length of a revocable region's part.
    #[error("range {offset}+{len} is not made of whole pages")]
    Pages {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Fault 0 is none.
    #[error("fault is 0")]
    FaultZero,
    /// Length of a region.
    #[error("region of {0} bytes; use 1 to {max}", max = dma::MAX_REGION_BYTES)]
    RegionBytes(u64),
    /// A segment of no bytes.
    #[error("segment at {0:?} has no bytes")]
    EmptySegment(Gpa),
    /// A segment past the end of the address space.
    #[error("segment {0:?}+{1:#x} is past the end of the address space")]
    SegmentWraps(Gpa, u64),
    /// A DMA program.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl From<BadEnd> for ChainError {
    fn from(end: BadEnd) -> Self {
        match end {
            BadEnd::Empty => Self::Empty,
            BadEnd::TooLong => Self::TooManyDescriptors,
            BadEnd::Broken(count) => Self::Broken(count),
        }
    }
}

impl ChainError {
    /// The `dma::STATUS_` constant for the driver.
    pub fn status(&self) -> u32 {
        match self {
            Self::Buffer(_) | Self::SegmentWraps(..) => dma::STATUS_BAD_ADDRESS,
            Self::Segments(n) if *n > 0 => dma::STATUS_LIMIT,
            Self::RegionBytes(n) if *n > 0 => dma::STATUS_LIMIT,
            _ => dma::STATUS_INVALID,
        }
    }
}

/// A well-formed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// [`dma::OP_MAP`].
    Map(MapPart),
    /// [`dma::OP_UNMAP`].
    Unmap {
        /// Region.
        region: u32,
        /// `RELEASE_` constant, for the ledger.
        release: u32,
    },
    /// [`dma::OP_STOP`].
    Stop {
        /// Program.
        program: u64,
    },
    /// [`dma::OP_DMA`].
    Dma(Program),
    /// [`dma::OP_POPULATE`].
    Populate(Populate),
    /// [`dma::OP_INVALIDATE`].
    Invalidate(Invalidate),
    /// [`dma::OP_FAULT_DONE`].
    FaultDone {
        /// Fault.
        fault: u64,
        /// An errno, or 0.
        error: u32,
    },
    /// [`dma::OP_AWAIT_FAULT`].
    AwaitFault,
}

/// Where a response goes: guest addresses that were checked and hold exactly one [`Response`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseSlot(Vec<(Gpa, u32)>);

impl ResponseSlot {
    /// Addresses and lengths, in order.
    pub fn pieces(&self) -> &[(Gpa, u32)] {
        &self.0
    }
}

/// A chain that has been read.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Where the answer goes, if there is a place for one.
    pub slot: Option<ResponseSlot>,
    /// Tag of the request, zero if it was too short to have one.
    pub tag: u64,
    /// The request.
    pub request: Result<Request, ChainError>,
}

/// Read a chain that was taken from `queue`.
pub fn parse<M>(chain: DescriptorChain<M>, queue: u32, view: &View<'_>) -> Parsed
where
    M: Deref,
    M::Target: GuestMemory,
{
    let Layout { readable, slot } = match layout(chain, view) {
        Ok(layout) => layout,
        Err(error) => return Parsed { slot: None, tag: 0, request: Err(error) },
    };
    let (slot, excess) = slot;
    let bytes = match readable.and_then(|readable| copy(&readable, view)) {
        Ok(bytes) => bytes,
        Err(error) => return Parsed { slot: Some(slot), tag: 0, request: Err(error) },
    };
    let tag = RequestHeader::read_from_prefix(&bytes).map_or(0, |(header, _)| header.tag);
    let request = if excess { Err(ChainError::Excess) } else { parse_bytes(&bytes, queue) };
    Parsed { slot: Some(slot), tag, request }
}

/// A chain with a place for its response.
struct Layout {
    /// The readable buffers, if they are acceptable.
    readable: Result<Vec<(Gpa, u32)>, ChainError>,
    /// The response's place, and whether the driver offered more.
    slot: (ResponseSlot, bool),
}

/// Walk the chain. An error means that there is no place for a response.
fn layout<M>(chain: DescriptorChain<M>, view: &View<'_>) -> Result<Layout, ChainError>
where
    M: Deref,
    M::Target: GuestMemory,
{
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let (mut readable_bytes, mut writable_bytes) = (0u64, 0u64);
    for buffer in buffers(chain) {
        let Buffer { gpa, len, writable: is_writable } = buffer?;
        if len == 0 {
            return Err(ChainError::ZeroLength);
        }
        if is_writable {
            let used = u64::from(len).min(RESPONSE_BYTES.saturating_sub(writable_bytes));
            if used > 0 {
                view.check(gpa, used)?;
                writable.push((gpa, used as u32));
            }
            writable_bytes += u64::from(len);
        } else if writable_bytes > 0 {
            return Err(ChainError::Order);
        } else {
            readable_bytes += u64::from(len);
            if readable_bytes <= MAX_REQUEST_BYTES as u64 {
                readable.push((gpa, len));
            }
        }
    }
    if writable_bytes < RESPONSE_BYTES {
        return Err(ChainError::NoRoom(writable_bytes));
    }
    let too_long = readable_bytes > MAX_REQUEST_BYTES as u64;
    Ok(Layout {
        readable: if too_long { Err(ChainError::TooLong) } else { Ok(readable) },
        slot: (ResponseSlot(writable), writable_bytes > RESPONSE_BYTES),
    })
}

/// Copy the request out of the guest's memory, once.
fn copy(readable: &[(Gpa, u32)], view: &View<'_>) -> Result<Vec<u8>, ChainError> {
    let mut bytes = vec![0; readable.iter().map(|(_, len)| *len as usize).sum()];
    let mut rest = &mut bytes[..];
    for (gpa, len) in readable {
        let (piece, tail) = rest.split_at_mut(*len as usize);
        view.read(*gpa, piece)?;
        rest = tail;
    }
    Ok(bytes)
}

fn parse_bytes(bytes: &[u8], queue: u32) -> Result<Request, ChainError> {
    let (header, body) =
        RequestHeader::read_from_prefix(bytes).map_err(|_| ChainError::NoHeader(bytes.len()))?;
    let RequestHeader { op, reserved, tag } = header;
    if reserved != 0 {
        return Err(ChainError::Reserved(reserved));
    }
    let home = match op {
        dma::OP_MAP | dma::OP_UNMAP | dma::OP_STOP => dma::QUEUE_CONTROL,
        dma::OP_DMA => dma::QUEUE_DMA,
        dma::OP_POPULATE | dma::OP_INVALIDATE | dma::OP_FAULT_DONE => dma::QUEUE_MMU,
        dma::OP_AWAIT_FAULT => dma::QUEUE_FAULTS,
        other => return Err(ChainError::Op(other)),
    };
    if home != queue {
        return Err(ChainError::WrongQueue { op, queue });
    }
    match op {
        dma::OP_MAP => parse_map(body).map(Request::Map),
        dma::OP_UNMAP => {
            let UnmapRequest { region, release } = exactly(op, body)?;
            Ok(Request::Unmap { region, release })
        }
        dma::OP_STOP => Ok(Request::Stop { program: exactly::<StopRequest>(op, body)?.program }),
        dma::OP_POPULATE => parse_populate(body).map(Request::Populate),
        dma::OP_INVALIDATE => {
            let InvalidateRequest { region, reason, offset, length } = exactly(op, body)?;
            whole_pages(offset, length)?;
            Ok(Request::Invalidate(Invalidate { region, offset, length, reason }))
        }
        dma::OP_FAULT_DONE => {
            let FaultDone { fault, error, reserved } = exactly(op, body)?;
            match (fault, reserved) {
                (0, _) => Err(ChainError::FaultZero),
                (_, 0) => Ok(Request::FaultDone { fault, error }),
                (_, reserved) => Err(ChainError::Reserved(reserved)),
            }
        }
        dma::OP_AWAIT_FAULT => match body.len() {
            0 => Ok(Request::AwaitFault),
            have => Err(ChainError::Length { op, have, want: 0 }),
        },
        _ => Ok(Request::Dma(Program::parse(&exactly::<DmaRequest>(op, body)?, tag)?)),
    }
}

/// A body of one structure and nothing else.
fn exactly<T: FromBytes>(op: u32, body: &[u8]) -> Result<T, ChainError> {
    T::read_from_bytes(body).map_err(|_| ChainError::Length { op, have: body.len(), want: size_of::<T>() })
}

/// A structure at the begin of a body, and what follows it.
fn prefix<T: FromBytes>(op: u32, body: &[u8]) -> Result<(T, &[u8]), ChainError> {
    T::read_from_prefix(body).map_err(|_| ChainError::Length { op, have: body.len(), want: size_of::<T>() })
}

fn parse_map(body: &[u8]) -> Result<MapPart, ChainError> {
    let (map, rest) = prefix::<MapRequest>(dma::OP_MAP, body)?;
    let revocable = map.flags & dma::MAP_REVOCABLE != 0;
    check_count(dma::OP_MAP, body, rest, map.nr_segments, u32::from(!revocable))?;
    if map.region == 0 {
        return Err(ChainError::RegionZero);
    }
    let all = dma::MAP_FIRST | dma::MAP_LAST | dma::MAP_REVOCABLE;
    if map.flags & !all != 0 {
        return Err(ChainError::MapFlags(map.flags));
    }
    if revocable && (map.flags != all || map.nr_segments > 0) {
        return Err(ChainError::Revocable { flags: map.flags, segments: map.nr_segments });
    }
    if map.total_bytes == 0 || map.total_bytes > dma::MAX_REGION_BYTES {
        return Err(ChainError::RegionBytes(map.total_bytes));
    }
    if revocable {
        whole_pages(0, map.total_bytes)?;
    }
    let segments = segments(rest)?;
    let MapRequest { region, total_bytes, file_offset, run, pin_mode, .. } = map;
    Ok(MapPart {
        label: Label { region, total_bytes, file_offset, run, pin_mode },
        first: map.flags & dma::MAP_FIRST != 0,
        last: map.flags & dma::MAP_LAST != 0,
        segments,
    })
}

fn parse_populate(body: &[u8]) -> Result<Populate, ChainError> {
    let (populate, rest) = prefix::<PopulateRequest>(dma::OP_POPULATE, body)?;
    let PopulateRequest { region, access, offset, fault, nr_segments, reserved } = populate;
    if reserved != 0 {
        return Err(ChainError::Reserved(reserved));
    }
    check_count(dma::OP_POPULATE, body, rest, nr_segments, 1)?;
    let write = match access {
        ACCESS_READ => false,
        ACCESS_WRITE => true,
        other => return Err(ChainError::Access(other)),
    };
    let segments = segments(rest)?;
    for (gpa, len) in &segments {
        whole_pages(gpa.0, *len)?;
    }
    let bytes = segments.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
    whole_pages(offset, bytes.unwrap_or(u64::MAX))?;
    Ok(Populate { region, offset, segments, write, fault })
}

/// `rest` of `body` is as many segments as the request says, and that is a number from `least` to the most.
fn check_count(op: u32, body: &[u8], rest: &[u8], nr_segments: u32, least: u32) -> Result<(), ChainError> {
    if !(least..=dma::MAX_SEGMENTS_PER_MAP).contains(&nr_segments) {
        return Err(ChainError::Segments(nr_segments));
    }
    let bytes = nr_segments as usize * size_of::<Segment>();
    if rest.len() != bytes {
        let want = body.len() - rest.len() + bytes;
        return Err(ChainError::Length { op, have: body.len(), want });
    }
    Ok(())
}

fn whole_pages(offset: u64, len: u64) -> Result<(), ChainError> {
    let whole = offset.is_multiple_of(dma::PAGE_BYTES) && len.is_multiple_of(dma::PAGE_BYTES);
    if whole && len > 0 && offset.checked_add(len).is_some() {
        Ok(())
    } else {
        Err(ChainError::Pages { offset, len })
    }
}

fn segments(bytes: &[u8]) -> Result<Vec<(Gpa, u64)>, ChainError> {
    bytes.chunks_exact(size_of::<Segment>()).map(parse_segment).collect()
}

fn parse_segment(bytes: &[u8]) -> Result<(Gpa, u64), ChainError> {
    let Segment { dma_addr, len } = exactly(dma::OP_MAP, bytes)?;
    let gpa = Gpa(dma_addr);
    if len == 0 {
        return Err(ChainError::EmptySegment(gpa));
    }
    gpa.checked_add(len).ok_or(ChainError::SegmentWraps(gpa, len))?;
    Ok((gpa, len))
}

#[cfg(test)]
mod tests;
