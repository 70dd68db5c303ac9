// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Self-describing cells: what DMA writes carry, so that every byte found later names its writer.
//!
//! A cell is 64 to 4096 bytes: a 48-byte [`Header`] with a CRC-32C of itself, then one 8-byte word repeated, which
//! is derived from the header's identity. A cell whose header is whole and whose body disagrees is torn, and the
//! first byte that disagrees is known.

use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Header::magic`].
pub const MAGIC: [u8; 8] = *b"LONGPIN\x01";
/// Bytes of [`Header`].
pub const HEADER_BYTES: usize = 48;
/// Default cell: one sector, eight cells a page.
pub const DEFAULT_CELL_BYTES: u32 = 512;

/// [`Header::source`]: written by the accelerator.
pub const SOURCE_DMA: u32 = 1;
/// [`Header::source`]: written by a CPU of the guest, by `write(2)` or a store into a mapping.
pub const SOURCE_CPU: u32 = 2;
/// [`Header::source`]: planted on purpose by a control.
pub const SOURCE_PLANTED: u32 = 3;

/// First 48 bytes of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Label of the case, so that bytes of an earlier case on the same disk cannot be mistaken.
    pub run: u64,
    /// Offset of the cell's first byte in its file.
    pub file_offset: u64,
    /// Counter of the writer; grows with each pass.
    pub generation: u64,
    /// Region of the driver (`SOURCE_DMA`) or 0.
    pub region: u32,
    /// A `SOURCE_` constant.
    pub source: u32,
    /// Bytes of the cell.
    pub cell_bytes: u32,
    /// CRC-32C of the 44 bytes before.
    pub crc32c: u32,
}
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// Identity of a cell: what a writer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// See [`Header::run`].
    pub run: u64,
    /// See [`Header::file_offset`].
    pub file_offset: u64,
    /// See [`Header::generation`].
    pub generation: u64,
    /// See [`Header::region`].
    pub region: u32,
    /// See [`Header::source`].
    pub source: u32,
}

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Only zero bytes.
    Zero,
    /// Header and body agree.
    Whole(Stamp),
    /// The header is whole, the body is not its own.
    Torn {
        /// Identity by the header.
        stamp: Stamp,
        /// First byte of the cell that disagrees.
        first_bad_byte: usize,
    },
    /// No whole header.
    Foreign,
}

/// The word that fills the body: two SplitMix64 rounds over the identity, so that any two generations (or offsets)
/// differ in nearly every byte.
fn body_word(run: u64, file_offset: u64, generation: u64) -> u64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    // Never zero: a zero body must mean "nobody wrote here".
    mix(mix(run ^ file_offset.rotate_left(32)) ^ generation) | 1
}

/// Fill `cell` (64 to 4096 bytes, a multiple of 8) with the stamp.
///
/// # Panics
///
/// If the cell is shorter than its header or not a multiple of 8 bytes: a caller's bug, since requests are checked
/// against [`crate::dma::MIN_CELL_BYTES`] before.
pub fn encode(cell: &mut [u8], stamp: &Stamp) {
    assert!(cell.len() >= HEADER_BYTES && cell.len().is_multiple_of(8), "cell of {} bytes", cell.len());
    let mut header = Header {
        magic: MAGIC,
        run: stamp.run,
        file_offset: stamp.file_offset,
        generation: stamp.generation,
        region: stamp.region,
        source: stamp.source,
        cell_bytes: cell.len() as u32,
        crc32c: 0,
    };
    header.crc32c = crc32c::crc32c(&header.as_bytes()[..HEADER_BYTES - 4]);
    let (head, body) = cell.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(header.as_bytes());
    let word = body_word(stamp.run, stamp.file_offset, stamp.generation).to_le_bytes();
    for chunk in body.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word);
    }
}

/// Say what a cell of memory or disk holds.
pub fn decode(cell: &[u8]) -> Cell {
    if cell.iter().all(|b| *b == 0) {
        return Cell::Zero;
    }
    let Ok((header, body)) = Header::read_from_prefix(cell) else {
        return Cell::Foreign;
    };
    let crc = crc32c::crc32c(&header.as_bytes()[..HEADER_BYTES - 4]);
    if header.magic != MAGIC || header.crc32c != crc || header.cell_bytes as usize != cell.len() {
        return Cell::Foreign;
    }
    let stamp = Stamp {
        run: header.run,
        file_offset: header.file_offset,
        generation: header.generation,
        region: header.region,
        source: header.source,
    };
    let word = body_word(stamp.run, stamp.file_offset, stamp.generation).to_le_bytes();
    match body.iter().zip(word.iter().cycle()).position(|(got, want)| got != want) {
        None => Cell::Whole(stamp),
        Some(at) => Cell::Torn { stamp, first_bad_byte: HEADER_BYTES + at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, file_offset: 4096, generation: 3, region: 9, source: SOURCE_DMA };

    #[test]
    fn a_cell_names_its_writer() {
        for len in [64usize, 512, 4096] {
            let mut cell = [0u8; 4096];
            encode(&mut cell[..len], &STAMP);
            assert_eq!(decode(&cell[..len]), Cell::Whole(STAMP));
        }
    }

    #[test]
    fn every_single_byte_of_damage_is_seen() {
        let mut cell = [0u8; 512];
        encode(&mut cell, &STAMP);
        for at in 0..cell.len() {
            let mut damaged = cell;
            damaged[at] ^= 0x40;
            match decode(&damaged) {
                Cell::Foreign => assert!(at < HEADER_BYTES, "byte {at}"),
                Cell::Torn { stamp, first_bad_byte } => assert_eq!((stamp, first_bad_byte), (STAMP, at)),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_mix_of_two_generations_is_torn_where_the_second_begins() {
        let (mut old, mut new) = ([0u8; 512], [0u8; 512]);
        encode(&mut old, &Stamp { generation: 2, ..STAMP });
        encode(&mut new, &STAMP);
        let mut cell = new;
        cell[256..].copy_from_slice(&old[256..]);
        assert_eq!(decode(&cell), Cell::Torn { stamp: STAMP, first_bad_byte: 256 });
    }

    #[test]
    fn a_cell_of_another_size_is_foreign() {
        let mut cell = [0u8; 4096];
        encode(&mut cell, &STAMP);
        assert_eq!(decode(&cell[..512]), Cell::Foreign);
        assert_eq!(decode(&[0u8; 512]), Cell::Zero);
        assert_eq!(decode(&[1u8; 512]), Cell::Foreign);
    }
}
