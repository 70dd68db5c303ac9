// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes of requests and descriptors.

use longpin_wire::dma::{
    self, DmaRequest, FaultDone, InvalidateRequest, MapRequest, PopulateRequest, RequestHeader, Segment,
    StopRequest, UnmapRequest,
};
use zerocopy::IntoBytes as _;

pub fn raw_descriptor(gpa: u64, len: u32, flags: u32, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&gpa.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

fn header(op: u32, tag: u64) -> Vec<u8> {
    RequestHeader { op, reserved: 0, tag }.as_bytes().to_vec()
}

pub fn map_request(region: u32, flags: u32, segments: &[(u64, u64)]) -> Vec<u8> {
    let total_bytes = segments.iter().map(|(_, len)| len).sum();
    map_part(region, flags, total_bytes, segments)
}

pub fn map_part(region: u32, flags: u32, total_bytes: u64, segments: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = header(dma::OP_MAP, 1000 + u64::from(region));
    let map = MapRequest {
        region,
        flags,
        total_bytes,
        file_offset: 0,
        run: 77,
        pin_mode: 1,
        nr_segments: segments.len() as u32,
    };
    bytes.extend_from_slice(map.as_bytes());
    for &(dma_addr, len) in segments {
        bytes.extend_from_slice(Segment { dma_addr, len }.as_bytes());
    }
    bytes
}

/// A region without pages.
pub fn map_revocable(region: u32, total_bytes: u64) -> Vec<u8> {
    map_part(region, dma::MAP_FIRST | dma::MAP_LAST | dma::MAP_REVOCABLE, total_bytes, &[])
}

pub fn populate(region: u32, offset: u64, access: u32, fault: u64, segments: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = header(dma::OP_POPULATE, 4000 + fault);
    let nr_segments = segments.len() as u32;
    let populate = PopulateRequest { region, access, offset, fault, nr_segments, reserved: 0 };
    bytes.extend_from_slice(populate.as_bytes());
    for &(dma_addr, len) in segments {
        bytes.extend_from_slice(Segment { dma_addr, len }.as_bytes());
    }
    bytes
}

pub fn invalidate(region: u32, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = header(dma::OP_INVALIDATE, 5000);
    let reason = dma::INVALIDATE_PROTECTION_PAGE;
    bytes.extend_from_slice(InvalidateRequest { region, reason, offset, length }.as_bytes());
    bytes
}

pub fn fault_done(fault: u64, error: u32) -> Vec<u8> {
    let mut bytes = header(dma::OP_FAULT_DONE, 6000 + fault);
    bytes.extend_from_slice(FaultDone { fault, error, reserved: 0 }.as_bytes());
    bytes
}

/// A chain for the next fault.
pub fn await_fault() -> Vec<u8> {
    header(dma::OP_AWAIT_FAULT, 7000)
}

pub fn unmap_request(region: u32) -> Vec<u8> {
    let mut bytes = header(dma::OP_UNMAP, 2000 + u64::from(region));
    bytes.extend_from_slice(UnmapRequest { region, release: 1 }.as_bytes());
    bytes
}

pub fn stop_request(program: u64) -> Vec<u8> {
    let mut bytes = header(dma::OP_STOP, 3000 + program);
    bytes.extend_from_slice(StopRequest { program }.as_bytes());
    bytes
}

pub fn dma_request(tag: u64, request: &DmaRequest) -> Vec<u8> {
    let mut bytes = header(dma::OP_DMA, tag);
    bytes.extend_from_slice(request.as_bytes());
    bytes
}

/// One pass of 512-byte stamps over `length` bytes of a region, generation 1.
pub fn stamps(region: u32, length: u64) -> DmaRequest {
    DmaRequest {
        region,
        order: dma::ORDER_SEQUENTIAL,
        direction: dma::DIRECTION_WRITE,
        payload: dma::PAYLOAD_STAMP,
        offset: 0,
        length,
        seed: 0,
        generation: 1,
        run: 77,
        rate_cells_per_s: 0,
        passes: 1,
        duration_us: 0,
        cell_bytes: 512,
        fill: 0,
        start_delay_us: 0,
    }
}

/// The same without an end.
pub fn endless(region: u32, length: u64) -> DmaRequest {
    DmaRequest { passes: 0, ..stamps(region, length) }
}
