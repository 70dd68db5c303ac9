// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptor chain to checked virtio-blk request (virtio 1.3, 5.2.6): the only parser of the disk's guest-made bytes.
//!
//! The chain is walked to its end (readable part, then writable part, no loops); its last writable byte is where the
//! status goes. The header is copied once, so that the guest cannot change it between check and use. Then the
//! request is held against the disk: range, alignment, right to write.
//!
//! How buffers are cut into descriptors means nothing: header, data and status may share or span them.
//!
//! Each way to be wrong is a variant of [`RequestError`]. A chain with a usable place for the status is answered
//! there; any other is returned to the driver with zero bytes written.

use super::config_space::{MAX_RANGE_SECTORS, SECTOR_BYTES};
use crate::descriptors::{BadEnd, Buffer, MAX_DESCRIPTORS, buffers};
use crate::mem::{BadAddress, Gpa, View};
use longpin_proto::disk::Op;
use std::ops::Deref;
use virtio_bindings::virtio_blk as blk;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemory;
use zerocopy::FromBytes as _;
use zerocopy_derive::FromBytes;

/// Most buffers of one request: what one vector of the host's kernel takes (UIO_MAXIOV). A driver that obeys
/// `seg_max` stays below.
pub const MAX_SEGMENTS: usize = 1024;
/// Longest transfer. Descriptors may overlap, so that a chain can claim 4 GiB of a small guest; an audited write is
/// copied. Linux asks for 4 MiB at most.
pub const MAX_TRANSFER_BYTES: u64 = 64 << 20;
const HEADER_BYTES: usize = size_of::<Header>();

#[derive(FromBytes)]
#[repr(C)]
struct Header {
    op: u32,
    reserved: u32,
    sector: u64,
}

#[derive(FromBytes)]
#[repr(C)]
struct Range {
    sector: u64,
    num_sectors: u32,
    flags: u32,
}

/// Why a chain is not a request that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The head or its indirect table cannot be read.
    #[error("chain has no descriptors")]
    Empty,
    /// It promises a next descriptor that is not there: a loop, a bad index, an unreadable or nested table.
    #[error("chain breaks off after {0} descriptors")]
    Broken(usize),
    /// Over [`MAX_DESCRIPTORS`]: where the status would go is not looked for.
    #[error("chain has more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// Virtio 1.3, 2.7.4.2: writable descriptors come after all readable ones.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// Nothing is writable.
    #[error("no room for the status")]
    NoStatus,
    /// A descriptor of no bytes.
    #[error("a descriptor has no bytes")]
    ZeroLength,
    /// Over [`MAX_SEGMENTS`].
    #[error("chain has more than {MAX_SEGMENTS} descriptors")]
    TooManySegments,
    /// Over [`MAX_TRANSFER_BYTES`].
    #[error("request for {0} bytes; {MAX_TRANSFER_BYTES} are allowed")]
    TooLong(u64),
    /// A buffer is not in the guest's memory.
    #[error(transparent)]
    Buffer(#[from] BadAddress),
    /// The readable part is shorter than a header.
    #[error("request of {0} bytes has no header")]
    NoHeader(u64),
    /// A type that this disk does not have.
    #[error("request type {0} is not supported")]
    Unsupported(u32),
    /// Flags of a discard or write-zeroes that this disk does not have.
    #[error("flags {0:#x} are not supported")]
    Flags(u32),
    /// Data where the request has none, or the wrong amount.
    #[error("request type {op} has {readable} bytes of data to read and {writable} to write")]
    Data {
        /// VIRTIO_BLK_T_ constant.
        op: u32,
        /// Readable bytes after the header.
        readable: u64,
        /// Writable bytes before the status.
        writable: u64,
    },
    /// Not whole blocks.
    #[error("{len} bytes at {byte} are not whole blocks")]
    Unaligned {
        /// First byte.
        byte: u64,
        /// Bytes.
        len: u64,
    },
    /// Past the end of the disk.
    #[error("{len} bytes at sector {sector} are not on the disk")]
    OutOfRange {
        /// First sector.
        sector: u64,
        /// Bytes.
        len: u64,
    },
    /// The disk is read-only.
    #[error("disk is read-only")]
    ReadOnly,
}

impl From<BadEnd> for RequestError {
    fn from(end: BadEnd) -> Self {
        match end {
            BadEnd::Empty => Self::Empty,
            BadEnd::TooLong => Self::TooManyDescriptors,
            BadEnd::Broken(count) => Self::Broken(count),
        }
    }
}

impl RequestError {
    /// The VIRTIO_BLK_S_ constant for the driver.
    pub fn status(&self) -> u8 {
        match self {
            Self::Unsupported(_) | Self::Flags(_) => blk::VIRTIO_BLK_S_UNSUPP as u8,
            _ => blk::VIRTIO_BLK_S_IOERR as u8,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// VIRTIO_BLK_T_IN.
    Read,
    /// VIRTIO_BLK_T_OUT.
    Write,
    /// VIRTIO_BLK_T_FLUSH.
    Flush,
    /// VIRTIO_BLK_T_GET_ID.
    GetId,
    /// VIRTIO_BLK_T_DISCARD.
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES.
    WriteZeroes {
        /// The blocks may be given up.
        unmap: bool,
    },
}

impl Kind {
    /// The word for it in rules and the audit; none for what they do not know.
    pub fn op(self) -> Option<Op> {
        match self {
            Self::Read => Some(Op::Read),
            Self::Write => Some(Op::Write),
            Self::Flush => Some(Op::Flush),
            Self::Discard => Some(Op::Discard),
            Self::WriteZeroes { .. } => Some(Op::WriteZeroes),
            Self::GetId => None,
        }
    }

    /// Whether the image changes.
    pub fn changes_image(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes { .. })
    }
}

/// A well-formed request that fits the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Kind.
    pub kind: Kind,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes on the disk.
    pub len: u64,
    /// Data in the guest's memory, in order, each piece in the map when it was parsed.
    pub data: Vec<(Gpa, u32)>,
}

/// A chain that has been read.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Where the status goes, if there is a place for one.
    pub status_at: Option<Gpa>,
    /// The request.
    pub request: Result<Request, RequestError>,
}

/// The disk that requests are held against.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Size.
    pub bytes: u64,
    /// Bytes of a block; a multiple of a sector.
    pub block_bytes: u64,
    /// No right to write.
    pub read_only: bool,
}

/// Read a chain.
pub fn parse<M>(chain: DescriptorChain<M>, disk: &Geometry, view: &View<'_>) -> Parsed
where
    M: Deref,
    M::Target: GuestMemory,
{
    match walk(chain, view) {
        Err(error) => Parsed { status_at: None, request: Err(error) },
        Ok(Layout { status_at, parts }) => {
            let request = parts.and_then(|parts| understand(parts, disk, view));
            Parsed { status_at: Some(status_at), request }
        }
    }
}

/// A chain with a place for its status.
struct Layout {
    status_at: Gpa,
    parts: Result<Parts, RequestError>,
}

/// Buffers without the status byte.
#[derive(Default)]
struct Parts {
    readable: Vec<(Gpa, u32)>,
    writable: Vec<(Gpa, u32)>,
}

/// Walk the chain. An error means that there is no place for a status.
fn walk<M>(chain: DescriptorChain<M>, view: &View<'_>) -> Result<Layout, RequestError>
where
    M: Deref,
    M::Target: GuestMemory,
{
    let mut parts = Parts::default();
    let mut fault = None;
    let mut last_writable = None;
    for buffer in buffers(chain) {
        let Buffer { gpa, len, writable } = buffer?;
        let buffer = (gpa, len);
        if !writable && last_writable.is_some() {
            return Err(RequestError::Order);
        }
        if len == 0 {
            fault = fault.or(Some(RequestError::ZeroLength));
            continue;
        }
        if writable {
            last_writable = Some(buffer);
        }
        // Header and status come on top of the data.
        if parts.readable.len() + parts.writable.len() < MAX_SEGMENTS + 2 {
            let part = if writable { &mut parts.writable } else { &mut parts.readable };
            part.push(buffer);
        } else {
            fault = fault.or(Some(RequestError::TooManySegments));
        }
    }
    let (gpa, len) = last_writable.ok_or(RequestError::NoStatus)?;
    let status_at = gpa.checked_add(u64::from(len) - 1).ok_or(BadAddress { gpa, len: len.into() })?;
    view.check(status_at, 1)?;
    if let Some(fault) = fault {
        return Ok(Layout { status_at, parts: Err(fault) });
    }
    match parts.writable.last_mut() {
        Some((_, 1)) => drop(parts.writable.pop()),
        Some((_, len)) => *len -= 1,
        None => {}
    }
    Ok(Layout { status_at, parts: Ok(parts) })
}

fn understand(mut parts: Parts, disk: &Geometry, view: &View<'_>) -> Result<Request, RequestError> {
    let header = Header::read_from_bytes(&take_front::<HEADER_BYTES>(&mut parts.readable, view)?)
        .map_err(|_| RequestError::NoHeader(0))?;
    let (op, sector) = (u32::from_le(header.op), u64::from_le(header.sector));
    let (readable, writable) = (total(&parts.readable), total(&parts.writable));
    let no_data = RequestError::Data { op, readable, writable };
    // Each kind with the data that it has.
    let (kind, data) = match op {
        blk::VIRTIO_BLK_T_IN if readable == 0 => (Kind::Read, parts.writable),
        blk::VIRTIO_BLK_T_OUT if writable == 0 => (Kind::Write, parts.readable),
        blk::VIRTIO_BLK_T_FLUSH if readable + writable == 0 => (Kind::Flush, Vec::new()),
        blk::VIRTIO_BLK_T_GET_ID if readable == 0 && writable > 0 => (Kind::GetId, parts.writable),
        blk::VIRTIO_BLK_T_DISCARD | blk::VIRTIO_BLK_T_WRITE_ZEROES
            if writable == 0 && readable == size_of::<Range>() as u64 =>
        {
            return understand_range(op, parts.readable, disk, view);
        }
        blk::VIRTIO_BLK_T_IN
        | blk::VIRTIO_BLK_T_OUT
        | blk::VIRTIO_BLK_T_FLUSH
        | blk::VIRTIO_BLK_T_GET_ID
        | blk::VIRTIO_BLK_T_DISCARD
        | blk::VIRTIO_BLK_T_WRITE_ZEROES => return Err(no_data),
        other => return Err(RequestError::Unsupported(other)),
    };
    let len = total(&data);
    if len > MAX_TRANSFER_BYTES {
        return Err(RequestError::TooLong(len));
    }
    data.iter().try_for_each(|(gpa, len)| view.check(*gpa, u64::from(*len)))?;
    match kind {
        Kind::Read | Kind::Write => {
            let byte = disk.place(sector, len)?;
            disk.may(kind)?;
            Ok(Request { kind, byte, len, data })
        }
        _ => Ok(Request { kind, byte: 0, len: 0, data }),
    }
}

fn understand_range(
    op: u32,
    mut data: Vec<(Gpa, u32)>,
    disk: &Geometry,
    view: &View<'_>,
) -> Result<Request, RequestError> {
    let range = Range::read_from_bytes(&take_front::<{ size_of::<Range>() }>(&mut data, view)?)
        .map_err(|_| RequestError::NoHeader(0))?;
    let (sectors, flags) = (u32::from_le(range.num_sectors), u32::from_le(range.flags));
    let kind = match (op, flags) {
        (blk::VIRTIO_BLK_T_DISCARD, 0) => Kind::Discard,
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 0) => Kind::WriteZeroes { unmap: false },
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => {
            Kind::WriteZeroes { unmap: true }
        }
        (_, flags) => return Err(RequestError::Flags(flags)),
    };
    let len = u64::from(sectors) * SECTOR_BYTES;
    if sectors > MAX_RANGE_SECTORS {
        return Err(RequestError::TooLong(len));
    }
    let byte = disk.place(u64::from_le(range.sector), len)?;
    disk.may(kind)?;
    Ok(Request { kind, byte, len, data: Vec::new() })
}

impl Geometry {
    /// Where a range lies, if it is of whole blocks of the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, RequestError> {
        let outside = RequestError::OutOfRange { sector, len };
        let byte = sector.checked_mul(SECTOR_BYTES).ok_or(outside)?;
        if byte.checked_add(len).is_none_or(|end| end > self.bytes) {
            return Err(outside);
        }
        let whole = byte.is_multiple_of(self.block_bytes) && len.is_multiple_of(self.block_bytes);
        whole.then_some(byte).ok_or(RequestError::Unaligned { byte, len })
    }

    fn may(&self, kind: Kind) -> Result<(), RequestError> {
        if self.read_only && kind.changes_image() { Err(RequestError::ReadOnly) } else { Ok(()) }
    }
}

fn total(buffers: &[(Gpa, u32)]) -> u64 {
    buffers.iter().map(|(_, len)| u64::from(*len)).sum()
}

/// Copy the first `N` bytes out of the guest's memory; `buffers` are what follows.
fn take_front<const N: usize>(
    buffers: &mut Vec<(Gpa, u32)>,
    view: &View<'_>,
) -> Result<[u8; N], RequestError> {
    let mut bytes = [0; N];
    let (mut filled, mut used_up) = (0, 0);
    for (gpa, len) in buffers.iter_mut() {
        let piece = (*len as usize).min(N - filled);
        view.read(*gpa, &mut bytes[filled..filled + piece])?;
        filled += piece;
        *len -= piece as u32;
        if *len > 0 {
            // In the map, since it was read up to here.
            *gpa = Gpa(gpa.0 + piece as u64);
            break;
        }
        used_up += 1;
        if filled == N {
            break;
        }
    }
    if filled < N {
        return Err(RequestError::NoHeader(filled as u64));
    }
    buffers.drain(..used_up);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
