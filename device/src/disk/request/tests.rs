// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One test for each way in which a chain can be wrong, and one for each that is right.

use super::*;
use crate::descriptors::table::{self, INDIRECT, NEXT, RAM_BYTES, Raw, WRITE, ram, write_indirect};
use crate::mem::GuestRam;
use proptest::prelude::*;

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS: u64 = 0x30_0000;
const TABLE: u64 = 0x38_0000;
const DISK: Geometry = Geometry { bytes: 1 << 20, block_bytes: 512, read_only: false };
const IN: u32 = blk::VIRTIO_BLK_T_IN;
const OUT: u32 = blk::VIRTIO_BLK_T_OUT;

/// Parse the chain whose head is descriptor 0 of `table`.
fn parse_table(ram: &GuestRam, table: &[Raw], disk: &Geometry) -> Parsed {
    table::parse_table(ram, table, |chain, view| parse(chain, disk, view))
}

fn header(ram: &GuestRam, op: u32, sector: u64) {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&op.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    ram.view().write(Gpa(HEADER), &bytes).unwrap();
}

/// Header, one buffer of `len` bytes (none if 0), status.
fn table(op: u32, len: u32) -> Vec<Raw> {
    let data = if op == IN || op == blk::VIRTIO_BLK_T_GET_ID { WRITE } else { 0 };
    if len == 0 {
        return vec![(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE, 0)];
    }
    vec![(HEADER, 16, NEXT, 1), (DATA, len, data | NEXT, 2), (STATUS, 1, WRITE, 0)]
}

fn simple_on(disk: &Geometry, op: u32, sector: u64, len: u32) -> Result<Request, RequestError> {
    let ram = ram();
    header(&ram, op, sector);
    let parsed = parse_table(&ram, &table(op, len), disk);
    assert_eq!(parsed.status_at, Some(Gpa(STATUS)));
    parsed.request
}

fn simple(op: u32, sector: u64, len: u32) -> Result<Request, RequestError> {
    simple_on(&DISK, op, sector, len)
}

fn range_on(
    disk: &Geometry,
    op: u32,
    sector: u64,
    sectors: u32,
    flags: u32,
) -> Result<Request, RequestError> {
    let ram = ram();
    header(&ram, op, 0);
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    ram.view().write(Gpa(DATA), &bytes).unwrap();
    parse_table(&ram, &table(op, 16), disk).request
}

fn range(op: u32, sector: u64, sectors: u32, flags: u32) -> Result<Request, RequestError> {
    range_on(&DISK, op, sector, sectors, flags)
}

/// The chain has no place for a status.
fn structure(table: &[Raw]) -> RequestError {
    let ram = ram();
    header(&ram, OUT, 0);
    let parsed = parse_table(&ram, table, &DISK);
    assert_eq!(parsed.status_at, None, "a status would be written to an unchecked place");
    parsed.request.unwrap_err()
}

#[test]
fn each_type_is_understood() {
    let data = vec![(Gpa(DATA), 4096)];
    let expected = |kind, data| Ok(Request { kind, byte: 8 * 512, len: 4096, data });
    assert_eq!(simple(IN, 8, 4096), expected(Kind::Read, data.clone()));
    assert_eq!(simple(OUT, 8, 4096), expected(Kind::Write, data));
    let (discard, zeroes) = (blk::VIRTIO_BLK_T_DISCARD, blk::VIRTIO_BLK_T_WRITE_ZEROES);
    assert_eq!(range(discard, 8, 8, 0), expected(Kind::Discard, vec![]));
    assert_eq!(range(zeroes, 8, 8, 0), expected(Kind::WriteZeroes { unmap: false }, vec![]));
    assert_eq!(range(zeroes, 8, 8, 1), expected(Kind::WriteZeroes { unmap: true }, vec![]));
    let flush = Request { kind: Kind::Flush, byte: 0, len: 0, data: vec![] };
    assert_eq!(simple(blk::VIRTIO_BLK_T_FLUSH, 0, 0), Ok(flush));
    let id = Request { kind: Kind::GetId, byte: 0, len: 0, data: vec![(Gpa(DATA), 20)] };
    assert_eq!(simple(blk::VIRTIO_BLK_T_GET_ID, 0, 20), Ok(id));
}

#[test]
fn how_buffers_are_cut_means_nothing() {
    let ram = ram();
    header(&ram, OUT, 2);
    // The header in two, its second part with the first data; then more data.
    let cut =
        [(HEADER, 5, NEXT, 1), (HEADER + 5, 11 + 512, NEXT, 2), (DATA, 512, NEXT, 3), (STATUS, 1, WRITE, 0)];
    let parsed = parse_table(&ram, &cut, &DISK);
    let data = vec![(Gpa(HEADER + 16), 512), (Gpa(DATA), 512)];
    let expected = Request { kind: Kind::Write, byte: 1024, len: 1024, data };
    assert_eq!(parsed, Parsed { status_at: Some(Gpa(STATUS)), request: Ok(expected) });
    header(&ram, IN, 2);
    // Data and status in one buffer, through an indirect table.
    let cut = [(HEADER, 16, NEXT, 1), (DATA, 1025, WRITE, 0)];
    write_indirect(&ram, TABLE, &cut);
    let parsed = parse_table(&ram, &[(TABLE, 32, INDIRECT, 0)], &DISK);
    let expected = Request { kind: Kind::Read, byte: 1024, len: 1024, data: vec![(Gpa(DATA), 1024)] };
    assert_eq!(parsed, Parsed { status_at: Some(Gpa(DATA + 1024)), request: Ok(expected) });
}

#[test]
fn a_chain_without_descriptors_is_empty() {
    for table in [(u64::MAX - 15, 64, INDIRECT, 0), (TABLE, 0, INDIRECT, 0), (TABLE, 24, INDIRECT, 0)] {
        assert_eq!(structure(&[table]), RequestError::Empty);
    }
}

#[test]
fn a_loop_is_broken_off_after_as_many_descriptors_as_the_queue_has() {
    assert_eq!(structure(&[(HEADER, 16, NEXT, 0)]), RequestError::Broken(16));
    assert_eq!(structure(&[(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE | NEXT, 1)]), RequestError::Broken(16));
}

#[test]
fn a_next_index_out_of_range_breaks_the_chain() {
    assert_eq!(structure(&[(HEADER, 16, NEXT, 16)]), RequestError::Broken(1));
    assert_eq!(structure(&[(STATUS, 1, WRITE | NEXT, u16::MAX)]), RequestError::Broken(1));
}

#[test]
fn a_nested_indirect_table_breaks_the_chain() {
    let ram = ram();
    let inner = [(HEADER, 16, NEXT, 1), (TABLE, 32, INDIRECT, 0)];
    write_indirect(&ram, TABLE, &inner);
    let parsed = parse_table(&ram, &[(TABLE, 32, INDIRECT, 0)], &DISK);
    assert_eq!(parsed, Parsed { status_at: None, request: Err(RequestError::Broken(1)) });
}

#[test]
fn lengths_that_overflow_break_the_chain() {
    let table = [(DATA, u32::MAX, NEXT, 1), (DATA, u32::MAX, NEXT, 2), (STATUS, 1, WRITE, 0)];
    assert_eq!(structure(&table), RequestError::Broken(1));
}

#[test]
fn readable_after_writable_is_refused() {
    let table = [(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE | NEXT, 2), (DATA, 512, 0, 0)];
    assert_eq!(structure(&table), RequestError::Order);
}

#[test]
fn without_a_writable_byte_there_is_no_status() {
    assert_eq!(structure(&[(HEADER, 16, NEXT, 1), (DATA, 512, 0, 0)]), RequestError::NoStatus);
    assert_eq!(structure(&[(HEADER, 16, NEXT, 1), (STATUS, 0, WRITE, 0)]), RequestError::NoStatus);
}

#[test]
fn a_status_outside_guest_memory_is_not_written() {
    for (gpa, len, last) in
        [(RAM_BYTES, 1, RAM_BYTES), (RAM_BYTES - 1, 2, RAM_BYTES), (u64::MAX, 1, u64::MAX)]
    {
        let bad = RequestError::Buffer(BadAddress { gpa: Gpa(last), len: 1 });
        assert_eq!(structure(&[(HEADER, 16, NEXT, 1), (gpa, len, WRITE, 0)]), bad, "{gpa:#x}");
    }
    // The last byte would be past the end of the address space.
    let wraps = RequestError::Buffer(BadAddress { gpa: Gpa(u64::MAX), len: 3 });
    assert_eq!(structure(&[(HEADER, 16, NEXT, 1), (u64::MAX, 3, WRITE, 0)]), wraps);
}

#[test]
fn a_descriptor_of_no_bytes_is_answered() {
    let ram = ram();
    header(&ram, OUT, 0);
    for table in [
        [(HEADER, 16, NEXT, 1), (DATA, 0, NEXT, 2), (STATUS, 1, WRITE, 0)],
        [(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE | NEXT, 2), (DATA, 0, WRITE, 0)],
    ] {
        let expected = Parsed { status_at: Some(Gpa(STATUS)), request: Err(RequestError::ZeroLength) };
        assert_eq!(parse_table(&ram, &table, &DISK), expected);
    }
}

#[test]
fn too_many_buffers_are_answered() {
    let ram = ram();
    header(&ram, IN, 0);
    let parse = |segments: u16| {
        let mut table = vec![(HEADER, 16, NEXT, 1)];
        table.extend((0..segments).map(|i| (DATA, 512, WRITE | NEXT, i + 2)));
        table.push((STATUS, 1, WRITE, 0));
        write_indirect(&ram, TABLE, &table);
        let disk = Geometry { bytes: 1 << 30, ..DISK };
        let parsed = parse_table(&ram, &[(TABLE, table.len() as u32 * 16, INDIRECT, 0)], &disk);
        (parsed.status_at, parsed.request)
    };
    let (status_at, request) = parse(1024);
    assert_eq!((status_at, request.unwrap().data.len()), (Some(Gpa(STATUS)), 1024));
    assert_eq!(parse(1025), (Some(Gpa(STATUS)), Err(RequestError::TooManySegments)));
    assert_eq!(parse(2046), (Some(Gpa(STATUS)), Err(RequestError::TooManySegments)));
    assert_eq!(parse(2047), (None, Err(RequestError::TooManyDescriptors)));
}

#[test]
fn buffers_outside_guest_memory_are_answered() {
    let ram = ram();
    header(&ram, IN, 0);
    for gpa in [RAM_BYTES - 256, RAM_BYTES, u64::MAX - 511, u64::MAX] {
        let table = [(HEADER, 16, NEXT, 1), (gpa, 512, WRITE | NEXT, 2), (STATUS, 1, WRITE, 0)];
        let bad = BadAddress { gpa: Gpa(gpa), len: 512 };
        let parsed = parse_table(&ram, &table, &DISK);
        assert_eq!(parsed, Parsed { status_at: Some(Gpa(STATUS)), request: Err(RequestError::Buffer(bad)) });
        let table = [(gpa, 16, NEXT, 1), (STATUS, 1, WRITE, 0)];
        assert!(parse_table(&ram, &table, &DISK).request.is_err() || gpa == RAM_BYTES - 256, "{gpa:#x}");
    }
}

#[test]
fn a_request_without_a_header_is_answered() {
    let ram = ram();
    let parse = |table: &[Raw]| parse_table(&ram, table, &DISK).request.unwrap_err();
    assert_eq!(parse(&[(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)]), RequestError::NoHeader(15));
    assert_eq!(parse(&[(STATUS, 1, WRITE, 0)]), RequestError::NoHeader(0));
}

#[test]
fn unknown_types_are_not_supported() {
    for op in [2, 3, 10, 14, 15, u32::MAX] {
        let error = simple(op, 0, 0).unwrap_err();
        assert_eq!((error, error.status()), (RequestError::Unsupported(op), 2));
    }
}

#[test]
fn data_of_the_wrong_direction_or_length_is_refused() {
    let ram = ram();
    let parse = |op, flags, len| {
        header(&ram, op, 0);
        let table = [(HEADER, 16, NEXT, 1), (DATA, len, flags | NEXT, 2), (STATUS, 1, WRITE, 0)];
        let error = parse_table(&ram, &table, &DISK).request.unwrap_err();
        assert_eq!(error.status(), 1);
        error
    };
    let (flush, id) = (blk::VIRTIO_BLK_T_FLUSH, blk::VIRTIO_BLK_T_GET_ID);
    let (discard, zeroes) = (blk::VIRTIO_BLK_T_DISCARD, blk::VIRTIO_BLK_T_WRITE_ZEROES);
    // A read into a buffer that the driver lets us only read, and the reverse.
    assert_eq!(parse(IN, 0, 512), RequestError::Data { op: IN, readable: 512, writable: 0 });
    assert_eq!(parse(OUT, WRITE, 512), RequestError::Data { op: OUT, readable: 0, writable: 512 });
    for (op, flags, len) in [(flush, 0, 1), (flush, WRITE, 1), (id, 0, 20), (discard, WRITE, 16)] {
        assert!(matches!(parse(op, flags, len), RequestError::Data { .. }), "{op} {flags} {len}");
    }
    for (op, len) in [(discard, 15), (discard, 32), (zeroes, 17)] {
        assert!(matches!(parse(op, 0, len), RequestError::Data { .. }), "{op} {len}");
    }
}

#[test]
fn what_is_not_on_the_disk_is_refused() {
    let end = DISK.bytes / 512;
    for (sector, len) in [(end, 512), (end - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512)]
    {
        let error = RequestError::OutOfRange { sector, len: len.into() };
        assert_eq!(simple(IN, sector, len), Err(error), "{sector}");
        assert_eq!(simple(OUT, sector, len), Err(error), "{sector}");
    }
    simple(OUT, end - 1, 512).unwrap();
    let zeroes = blk::VIRTIO_BLK_T_WRITE_ZEROES;
    let (sector, len) = (end - 1, 1024);
    assert_eq!(range(zeroes, sector, 2, 0), Err(RequestError::OutOfRange { sector, len }));
    assert!(matches!(range(zeroes, u64::MAX, 1, 0), Err(RequestError::OutOfRange { .. })));
}

#[test]
fn only_whole_blocks_are_done() {
    let disk = Geometry { block_bytes: 4096, ..DISK };
    assert_eq!(simple(IN, 0, 100), Err(RequestError::Unaligned { byte: 0, len: 100 }));
    assert_eq!(simple_on(&disk, OUT, 1, 4096), Err(RequestError::Unaligned { byte: 512, len: 4096 }));
    assert_eq!(simple_on(&disk, OUT, 8, 512), Err(RequestError::Unaligned { byte: 4096, len: 512 }));
    simple_on(&disk, OUT, 8, 8192).unwrap();
    let error = range_on(&disk, blk::VIRTIO_BLK_T_DISCARD, 8, 1, 0);
    assert_eq!(error, Err(RequestError::Unaligned { byte: 4096, len: 512 }));
}

#[test]
fn a_read_only_disk_is_only_read() {
    let disk = Geometry { read_only: true, ..DISK };
    assert_eq!(simple_on(&disk, OUT, 0, 512), Err(RequestError::ReadOnly));
    for op in [blk::VIRTIO_BLK_T_DISCARD, blk::VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(range_on(&disk, op, 0, 1, 0), Err(RequestError::ReadOnly));
    }
    simple_on(&disk, IN, 0, 512).unwrap();
    simple_on(&disk, blk::VIRTIO_BLK_T_FLUSH, 0, 0).unwrap();
}

#[test]
fn flags_and_lengths_of_ranges_are_checked() {
    let (discard, zeroes) = (blk::VIRTIO_BLK_T_DISCARD, blk::VIRTIO_BLK_T_WRITE_ZEROES);
    // Virtio 1.3, 5.2.6.2: a discard has no unmap flag.
    for (op, flags) in [(discard, 1), (discard, 2), (zeroes, 2), (zeroes, 1 << 31)] {
        let error = range(op, 0, 1, flags).unwrap_err();
        assert_eq!((error, error.status()), (RequestError::Flags(flags), 2));
    }
    let len = (u64::from(MAX_RANGE_SECTORS) + 1) * 512;
    assert_eq!(range(zeroes, 0, MAX_RANGE_SECTORS + 1, 0), Err(RequestError::TooLong(len)));
    assert!(matches!(range(zeroes, 0, u32::MAX, 0), Err(RequestError::TooLong(_))));
}

#[test]
fn a_transfer_that_claims_more_than_there_is_is_refused() {
    let ram = ram();
    header(&ram, OUT, 0);
    let disk = Geometry { bytes: 1 << 40, ..DISK };
    // The same 2 MiB again and again.
    let chain = |buffers: u16| {
        let mut table = vec![(HEADER, 16, NEXT, 1)];
        table.extend((0..buffers).map(|i| (0, 2 << 20, NEXT, i + 2)));
        table.push((STATUS, 1, WRITE, 0));
        write_indirect(&ram, TABLE, &table);
        parse_table(&ram, &[(TABLE, table.len() as u32 * 16, INDIRECT, 0)], &disk).request
    };
    assert_eq!(chain(32).unwrap().len, MAX_TRANSFER_BYTES);
    assert_eq!(chain(33), Err(RequestError::TooLong(33 * (2 << 20))));
}

proptest! {
    /// Whatever a guest puts into its descriptors and headers: an answer, no panic, and nothing outside its memory.
    #[test]
    fn garbage_is_survived(
        table in proptest::collection::vec(
            (prop_oneof![0..RAM_BYTES, any::<u64>()], prop_oneof![0u32..5000, any::<u32>()], 0u16..8, 0u16..18),
            1..16,
        ),
        op in 0u32..16, sector in prop_oneof![0u64..4096, any::<u64>()], structured: bool,
    ) {
        let ram = ram();
        header(&ram, op, sector);
        let mut table = table;
        if structured {
            let (gpa, len, flags, _) = table[0];
            table.splice(.., [
                (HEADER, 16, NEXT, 1),
                (gpa, len.clamp(1, 1 << 20) & !511, flags & WRITE | NEXT, 2),
                (STATUS, 1, WRITE, 0),
            ]);
        }
        let parsed = parse_table(&ram, &table, &DISK);
        if let Some(gpa) = parsed.status_at {
            prop_assert!(ram.view().check(gpa, 1).is_ok());
        }
        if let Ok(request) = parsed.request {
            prop_assert!(parsed.status_at.is_some());
            for (gpa, len) in &request.data {
                prop_assert!(ram.view().check(*gpa, u64::from(*len)).is_ok());
            }
            prop_assert!(request.byte + request.len <= DISK.bytes);
        }
    }
}
