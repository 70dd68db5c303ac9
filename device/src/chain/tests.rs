// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One test for each way in which a chain can be wrong, and one for each that is right.

use super::*;
use crate::descriptors::table::{self, INDIRECT, NEXT, RAM_BYTES, Raw, WRITE, ram, write_indirect};
use crate::mem::GuestRam;
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

const REQUEST: u64 = 0x10_0000;
const RESPONSE: u64 = 0x20_0000;
const TABLE: u64 = 0x30_0000;

/// Parse the chain whose head is descriptor 0 of `table`.
fn parse_table(ram: &GuestRam, table: &[Raw], queue: u32) -> Parsed {
    table::parse_table(ram, table, |chain, view| parse(chain, queue, view))
}

fn structure(table: &[Raw]) -> ChainError {
    let parsed = parse_table(&ram(), table, dma::QUEUE_CONTROL);
    assert_eq!(parsed.slot, None, "a response would be written to an unchecked place");
    parsed.request.unwrap_err()
}

/// Parse `bytes` as one readable descriptor, with room for a response.
fn request(bytes: &[u8], queue: u32) -> Parsed {
    let ram = ram();
    ram.view().write(Gpa(REQUEST), bytes).unwrap();
    parse_table(&ram, &[(REQUEST, bytes.len() as u32, NEXT, 1), (RESPONSE, 48, WRITE, 0)], queue)
}

fn content(bytes: &[u8], queue: u32) -> ChainError {
    let parsed = request(bytes, queue);
    assert!(parsed.slot.is_some(), "the driver gets a status");
    parsed.request.unwrap_err()
}

fn header(op: u32) -> Vec<u8> {
    RequestHeader { op, reserved: 0, tag: 7 }.as_bytes().to_vec()
}

fn map(change: impl FnOnce(&mut MapRequest), segments: &[(u64, u64)]) -> Vec<u8> {
    let mut map = MapRequest {
        region: 3,
        flags: dma::MAP_FIRST | dma::MAP_LAST,
        total_bytes: 0x2000,
        file_offset: 0x5000,
        run: 9,
        pin_mode: 2,
        nr_segments: segments.len() as u32,
    };
    change(&mut map);
    let mut bytes = header(dma::OP_MAP);
    bytes.extend_from_slice(map.as_bytes());
    for &(dma_addr, len) in segments {
        bytes.extend_from_slice(Segment { dma_addr, len }.as_bytes());
    }
    bytes
}

fn program() -> DmaRequest {
    DmaRequest { length: 4096, cell_bytes: 512, ..DmaRequest::read_from_bytes(&[0; 96]).unwrap() }
}

#[test]
fn each_operation_is_understood_on_its_queue() {
    let parsed = request(&map(|_| (), &[(0x8000, 0x1000), (0x4000, 0x1000)]), dma::QUEUE_CONTROL);
    assert_eq!(parsed.tag, 7);
    let label = Label { region: 3, total_bytes: 0x2000, file_offset: 0x5000, run: 9, pin_mode: 2 };
    let segments = vec![(Gpa(0x8000), 0x1000), (Gpa(0x4000), 0x1000)];
    assert_eq!(parsed.request, Ok(Request::Map(MapPart { label, first: true, last: true, segments })));
    let mut bytes = header(dma::OP_UNMAP);
    bytes.extend_from_slice(UnmapRequest { region: 3, release: 1 }.as_bytes());
    assert_eq!(request(&bytes, dma::QUEUE_CONTROL).request, Ok(Request::Unmap { region: 3, release: 1 }));
    let mut bytes = header(dma::OP_STOP);
    bytes.extend_from_slice(StopRequest { program: 11 }.as_bytes());
    assert_eq!(request(&bytes, dma::QUEUE_CONTROL).request, Ok(Request::Stop { program: 11 }));
    let mut bytes = header(dma::OP_DMA);
    bytes.extend_from_slice(program().as_bytes());
    let expected = Program::parse(&program(), 7).unwrap();
    assert_eq!(request(&bytes, dma::QUEUE_DMA).request, Ok(Request::Dma(expected)));
}

#[test]
fn a_request_may_be_scattered_over_descriptors_and_an_indirect_table() {
    let ram = ram();
    let bytes = map(|map| map.total_bytes = 0x1000, &[(0x8000, 0x1000)]);
    let (head, tail) = bytes.split_at(5);
    ram.view().write(Gpa(REQUEST), head).unwrap();
    ram.view().write(Gpa(REQUEST + 0x1000), tail).unwrap();
    let table = [
        (REQUEST, 5, NEXT, 1),
        (REQUEST + 0x1000, tail.len() as u32, NEXT, 2),
        (RESPONSE, 40, WRITE | NEXT, 3),
        (RESPONSE + 0x800, 8, WRITE, 0),
    ];
    let direct = parse_table(&ram, &table, dma::QUEUE_CONTROL);
    assert!(matches!(direct.request, Ok(Request::Map(_))), "{:?}", direct.request);
    assert_eq!(direct.slot.as_ref().unwrap().pieces(), [(Gpa(RESPONSE), 40), (Gpa(RESPONSE + 0x800), 8)]);
    write_indirect(&ram, TABLE, &table);
    assert_eq!(parse_table(&ram, &[(TABLE, 64, INDIRECT, 0)], dma::QUEUE_CONTROL), direct);
}

#[test]
fn a_chain_without_descriptors_is_empty() {
    // A table that is not in memory, of no descriptors, and of half a descriptor.
    for table in [(u64::MAX - 15, 64, INDIRECT, 0), (TABLE, 0, INDIRECT, 0), (TABLE, 24, INDIRECT, 0)] {
        assert_eq!(structure(&[table]), ChainError::Empty);
    }
}

#[test]
fn a_loop_is_broken_off_after_as_many_descriptors_as_the_queue_has() {
    assert_eq!(structure(&[(REQUEST, 16, NEXT, 0)]), ChainError::Broken(16));
    assert_eq!(structure(&[(REQUEST, 16, NEXT, 1), (REQUEST, 16, NEXT, 0)]), ChainError::Broken(16));
}

#[test]
fn a_next_index_out_of_range_breaks_the_chain() {
    assert_eq!(structure(&[(REQUEST, 16, NEXT, 16)]), ChainError::Broken(1));
    assert_eq!(structure(&[(REQUEST, 16, NEXT, u16::MAX)]), ChainError::Broken(1));
}

#[test]
fn a_nested_indirect_table_breaks_the_chain() {
    let ram = ram();
    let inner = [(REQUEST, 16, NEXT, 1), (TABLE, 32, INDIRECT, 0)];
    write_indirect(&ram, TABLE, &inner);
    let parsed = parse_table(&ram, &[(TABLE, 32, INDIRECT, 0)], dma::QUEUE_CONTROL);
    assert_eq!((parsed.slot, parsed.request), (None, Err(ChainError::Broken(1))));
}

#[test]
fn lengths_that_overflow_break_the_chain() {
    let table = [(REQUEST, u32::MAX, NEXT, 1), (REQUEST, u32::MAX, NEXT, 2), (RESPONSE, 48, WRITE, 0)];
    assert_eq!(structure(&table), ChainError::Broken(1));
}

#[test]
fn readable_after_writable_is_refused() {
    assert_eq!(structure(&[(RESPONSE, 48, WRITE | NEXT, 1), (REQUEST, 16, 0, 0)]), ChainError::Order);
}

#[test]
fn a_descriptor_of_no_bytes_is_refused() {
    assert_eq!(structure(&[(REQUEST, 0, NEXT, 1), (RESPONSE, 48, WRITE, 0)]), ChainError::ZeroLength);
    assert_eq!(structure(&[(REQUEST, 16, NEXT, 1), (RESPONSE, 0, WRITE, 0)]), ChainError::ZeroLength);
}

#[test]
fn without_room_for_a_response_there_is_none() {
    assert_eq!(structure(&[(REQUEST, 16, 0, 0)]), ChainError::NoRoom(0));
    assert_eq!(structure(&[(REQUEST, 16, NEXT, 1), (RESPONSE, 47, WRITE, 0)]), ChainError::NoRoom(47));
}

#[test]
fn a_response_outside_guest_memory_is_not_written() {
    for gpa in [RAM_BYTES - 47, RAM_BYTES, u64::MAX - 47, u64::MAX] {
        let error = BadAddress { gpa: Gpa(gpa), len: 48 };
        assert_eq!(
            structure(&[(REQUEST, 16, NEXT, 1), (gpa, 48, WRITE, 0)]),
            ChainError::Buffer(error),
            "{gpa:#x}"
        );
    }
}

#[test]
fn a_request_outside_guest_memory_is_answered() {
    let table = [(RAM_BYTES - 8, 16, NEXT, 1), (RESPONSE, 48, WRITE, 0)];
    let parsed = parse_table(&ram(), &table, dma::QUEUE_CONTROL);
    let error = parsed.request.unwrap_err();
    assert_eq!(error, ChainError::Buffer(BadAddress { gpa: Gpa(RAM_BYTES - 8), len: 16 }));
    assert_eq!((parsed.slot.is_some(), error.status()), (true, dma::STATUS_BAD_ADDRESS));
}

#[test]
fn a_response_of_another_size_is_answered_in_its_first_bytes() {
    let table = [(REQUEST, 16, NEXT, 1), (RESPONSE, 4096, WRITE, 0)];
    let parsed = parse_table(&ram(), &table, dma::QUEUE_CONTROL);
    assert_eq!(parsed.slot.unwrap().pieces(), [(Gpa(RESPONSE), 48)]);
    assert_eq!(parsed.request, Err(ChainError::Excess));
}

#[test]
fn a_request_that_is_too_long_is_not_copied() {
    // 4 GiB of request: overlapping descriptors claim more than there is memory.
    let table = [(REQUEST, u32::MAX - 48, NEXT, 1), (RESPONSE, 48, WRITE, 0)];
    let parsed = parse_table(&ram(), &table, dma::QUEUE_CONTROL);
    assert_eq!((parsed.slot.is_some(), parsed.request), (true, Err(ChainError::TooLong)));
    let longest = vec![(0x8000, 1); dma::MAX_SEGMENTS_PER_MAP as usize];
    let bytes = map(|map| map.flags = dma::MAP_FIRST, &longest);
    assert_eq!(bytes.len(), MAX_REQUEST_BYTES);
    assert!(matches!(request(&bytes, dma::QUEUE_CONTROL).request, Ok(Request::Map(_))));
}

#[test]
fn a_request_without_a_header_has_no_tag() {
    let parsed = request(&header(dma::OP_STOP)[..15], dma::QUEUE_CONTROL);
    assert_eq!((parsed.tag, parsed.request), (0, Err(ChainError::NoHeader(15))));
}

#[test]
fn reserved_must_be_zero() {
    let bytes = RequestHeader { op: dma::OP_STOP, reserved: 5, tag: 7 };
    assert_eq!(content(bytes.as_bytes(), dma::QUEUE_CONTROL), ChainError::Reserved(5));
}

#[test]
fn unknown_operations_are_named() {
    for op in [0, 9, u32::MAX] {
        assert_eq!(content(&header(op), dma::QUEUE_CONTROL), ChainError::Op(op));
    }
}

#[test]
fn an_operation_on_the_wrong_queue_is_refused() {
    for op in [dma::OP_MAP, dma::OP_UNMAP, dma::OP_STOP] {
        let queue = dma::QUEUE_DMA;
        assert_eq!(content(&header(op), queue), ChainError::WrongQueue { op, queue });
    }
    for op in [dma::OP_DMA, dma::OP_POPULATE, dma::OP_INVALIDATE, dma::OP_FAULT_DONE, dma::OP_AWAIT_FAULT] {
        let queue = dma::QUEUE_CONTROL;
        assert_eq!(content(&header(op), queue), ChainError::WrongQueue { op, queue });
    }
}

#[test]
fn a_body_of_another_length_is_refused() {
    for (op, queue, want) in [
        (dma::OP_MAP, dma::QUEUE_CONTROL, 40),
        (dma::OP_UNMAP, dma::QUEUE_CONTROL, 8),
        (dma::OP_STOP, dma::QUEUE_CONTROL, 8),
        (dma::OP_DMA, dma::QUEUE_DMA, 96),
        (dma::OP_INVALIDATE, dma::QUEUE_MMU, 24),
        (dma::OP_FAULT_DONE, dma::QUEUE_MMU, 16),
    ] {
        let mut bytes = header(op);
        bytes.resize(16 + want - 1, 0);
        assert_eq!(content(&bytes, queue), ChainError::Length { op, have: want - 1, want });
        if op != dma::OP_MAP {
            bytes.resize(16 + want + 1, 0);
            assert_eq!(content(&bytes, queue), ChainError::Length { op, have: want + 1, want });
        }
    }
    let bytes = map(|map| map.nr_segments = 3, &[(0, 1), (0, 1)]);
    let error = ChainError::Length { op: dma::OP_MAP, have: 40 + 32, want: 40 + 48 };
    assert_eq!(content(&bytes, dma::QUEUE_CONTROL), error);
}

#[test]
fn a_map_request_is_checked_field_by_field() {
    let refused =
        |change: fn(&mut MapRequest)| content(&map(change, &[(0x8000, 0x2000)]), dma::QUEUE_CONTROL);
    assert_eq!(refused(|map| map.region = 0), ChainError::RegionZero);
    assert_eq!(refused(|map| map.flags = 8), ChainError::MapFlags(8));
    assert_eq!(refused(|map| map.flags = 7), ChainError::Revocable { flags: 7, segments: 1 });
    assert_eq!(refused(|map| map.nr_segments = 0), ChainError::Segments(0));
    assert_eq!(refused(|map| map.nr_segments = 4001), ChainError::Segments(4001));
    assert_eq!(refused(|map| map.total_bytes = 0), ChainError::RegionBytes(0));
    let over = (1 << 30) + 1;
    assert_eq!(refused(|map| map.total_bytes = (1 << 30) + 1), ChainError::RegionBytes(over));
    assert_eq!(ChainError::RegionBytes(over).status(), dma::STATUS_LIMIT);
    assert_eq!(ChainError::RegionBytes(0).status(), dma::STATUS_INVALID);
}

#[test]
fn a_revocable_region_has_whole_pages_one_part_and_no_segments() {
    let with = |flags, total_bytes| {
        let change = |map: &mut MapRequest| (map.flags, map.total_bytes) = (flags, total_bytes);
        request(&map(change, &[]), dma::QUEUE_CONTROL).request
    };
    let Ok(Request::Map(part)) = with(7, 0x2000) else { panic!("a good request") };
    assert!(part.first && part.last && part.segments.is_empty());
    assert_eq!(with(5, 0x2000), Err(ChainError::Revocable { flags: 5, segments: 0 }));
    assert_eq!(with(7, 0x2001), Err(ChainError::Pages { offset: 0, len: 0x2001 }));
    assert_eq!(with(3, 0x2000), Err(ChainError::Segments(0)), "a pinned region has segments");
}

#[test]
fn requests_of_the_mmu_queue_are_checked_field_by_field() {
    let populate = |change: fn(&mut PopulateRequest), segments: &[(u64, u64)]| {
        let mut body = PopulateRequest {
            region: 3,
            access: ACCESS_WRITE,
            offset: 0x1000,
            fault: 5,
            nr_segments: segments.len() as u32,
            reserved: 0,
        };
        change(&mut body);
        let mut bytes = header(dma::OP_POPULATE);
        bytes.extend_from_slice(body.as_bytes());
        segments
            .iter()
            .for_each(|&(dma_addr, len)| bytes.extend_from_slice(Segment { dma_addr, len }.as_bytes()));
        request(&bytes, dma::QUEUE_MMU).request
    };
    let page = &[(0x8000, 0x1000)];
    let segments = vec![(Gpa(0x8000), 0x1000)];
    let expected = Populate { region: 3, offset: 0x1000, segments, write: true, fault: 5 };
    assert_eq!(populate(|_| (), page), Ok(Request::Populate(expected)));
    assert_eq!(populate(|body| body.access = 2, page), Err(ChainError::Access(2)));
    assert_eq!(populate(|body| body.reserved = 1, page), Err(ChainError::Reserved(1)));
    assert_eq!(populate(|_| (), &[]), Err(ChainError::Segments(0)));
    let pages = |offset, len| Err(ChainError::Pages { offset, len });
    assert_eq!(populate(|body| body.offset = 0x800, page), pages(0x800, 0x1000));
    assert_eq!(populate(|_| (), &[(0x8000, 0x800)]), pages(0x8000, 0x800));
    assert_eq!(populate(|_| (), &[(0x8200, 0x1000)]), pages(0x8200, 0x1000));
    let last = u64::MAX - 0xfff;
    assert_eq!(populate(|body| body.offset = u64::MAX - 0xfff, page), pages(last, 0x1000));

    let invalidate = |offset, length| {
        let mut bytes = header(dma::OP_INVALIDATE);
        bytes.extend_from_slice(InvalidateRequest { region: 3, reason: 4, offset, length }.as_bytes());
        request(&bytes, dma::QUEUE_MMU).request
    };
    let expected = Invalidate { region: 3, offset: 0x1000, length: 0x2000, reason: 4 };
    assert_eq!(invalidate(0x1000, 0x2000), Ok(Request::Invalidate(expected)));
    assert_eq!(invalidate(0x1000, 0), pages_error(0x1000, 0));
    assert_eq!(invalidate(1, 0x1000), pages_error(1, 0x1000));

    let done = |fault, reserved| {
        let mut bytes = header(dma::OP_FAULT_DONE);
        bytes.extend_from_slice(FaultDone { fault, error: 14, reserved }.as_bytes());
        request(&bytes, dma::QUEUE_MMU).request
    };
    assert_eq!(done(5, 0), Ok(Request::FaultDone { fault: 5, error: 14 }));
    assert_eq!(done(0, 0), Err(ChainError::FaultZero));
    assert_eq!(done(5, 1), Err(ChainError::Reserved(1)));
    assert_eq!(request(&header(dma::OP_AWAIT_FAULT), dma::QUEUE_FAULTS).request, Ok(Request::AwaitFault));
}

fn pages_error(offset: u64, len: u64) -> Result<Request, ChainError> {
    Err(ChainError::Pages { offset, len })
}

#[test]
fn a_segment_needs_bytes_and_an_end() {
    let empty = content(&map(|_| (), &[(0x8000, 0)]), dma::QUEUE_CONTROL);
    assert_eq!(empty, ChainError::EmptySegment(Gpa(0x8000)));
    let wraps = content(&map(|_| (), &[(u64::MAX, 2)]), dma::QUEUE_CONTROL);
    assert_eq!(wraps, ChainError::SegmentWraps(Gpa(u64::MAX), 2));
    assert_eq!(wraps.status(), dma::STATUS_BAD_ADDRESS);
}

#[test]
fn a_malformed_program_is_refused() {
    let mut bytes = header(dma::OP_DMA);
    bytes.extend_from_slice(DmaRequest { cell_bytes: 100, ..program() }.as_bytes());
    assert_eq!(content(&bytes, dma::QUEUE_DMA), ChainError::Program(ProgramError::CellBytes(100)));
}

proptest! {
    /// Whatever a guest puts into its descriptors and requests: an answer, no panic, and a slot that is all in memory.
    #[test]
    fn garbage_is_survived(
        table in proptest::collection::vec(
            (prop_oneof![0..RAM_BYTES, any::<u64>()], prop_oneof![0u32..5000, any::<u32>()], 0u16..8, 0u16..18),
            1..16,
        ),
        bytes in proptest::collection::vec(any::<u8>(), 4096), op in 0u32..6, queue in 0u32..2,
    ) {
        let ram = ram();
        ram.view().write(Gpa(REQUEST), &bytes).unwrap();
        ram.view().write(Gpa(REQUEST), &op.to_le_bytes()).unwrap();
        ram.view().write(Gpa(REQUEST + 4), &[0; 4]).unwrap();
        // Half of the cases get past the structure.
        let mut table = table;
        if bytes[0] % 2 == 0 {
            table.splice(.., [(REQUEST, table[0].1.clamp(1, 4096), NEXT, 1), (RESPONSE, 48, WRITE, 0)]);
        }
        let parsed = parse_table(&ram, &table, queue);
        if let Some(slot) = parsed.slot {
            prop_assert_eq!(slot.pieces().iter().map(|(_, len)| u64::from(*len)).sum::<u64>(), 48);
            for (gpa, len) in slot.pieces() {
                prop_assert!(ram.view().check(*gpa, u64::from(*len)).is_ok());
            }
        } else {
            prop_assert!(parsed.request.is_err());
        }
    }
}
