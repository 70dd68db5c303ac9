// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stamped cells in the bytes of a request: who wrote them, for which case, and where they lie in their file.

use crate::engine::PageBits;
use longpin_proto::disk::PAGE_BYTES;
use longpin_wire::dma::MIN_CELL_BYTES;
use longpin_wire::stamp::{self, Cell, HEADER_BYTES, Header, MAGIC, SOURCE_CPU, SOURCE_DMA};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Bytes of a sector, as virtio-blk counts.
pub const SECTOR_BYTES: usize = 512;

/// The stamp at the start of `bytes`, if its checksum is right. The body is not looked at.
pub fn header(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    let (header, _) = Header::read_from_prefix(bytes).ok()?;
    let sum = crc32c::crc32c(&header.as_bytes()[..HEADER_BYTES - 4]);
    let sane = header.cell_bytes >= MIN_CELL_BYTES && u64::from(header.cell_bytes) <= PAGE_BYTES;
    (header.crc32c == sum && sane).then_some(header)
}

/// Sectors of a request's data that begin with a stamp: offset and stamp.
pub fn stamped_sectors(data: &[u8]) -> impl Iterator<Item = (usize, Header)> {
    data.chunks(SECTOR_BYTES)
        .enumerate()
        .filter_map(|(sector, bytes)| Some((sector * SECTOR_BYTES, header(bytes)?)))
}

/// Stamps in a piece that begins at `start` in its page: offset in the piece and stamp. Cells lie at multiples of
/// their size in the page, and none is smaller than 64 bytes.
fn cells(start: usize, piece: &[u8]) -> impl Iterator<Item = (usize, Header)> {
    let step = MIN_CELL_BYTES as usize;
    let first = start.next_multiple_of(step) - start;
    (first..piece.len()).step_by(step).filter_map(|at| Some((at, header(&piece[at..])?)))
}

/// The largest generation stamped in a piece.
pub fn generation(start: usize, piece: &[u8]) -> Option<u64> {
    cells(start, piece).map(|(_, header)| header.generation).max()
}

/// Where the first byte of a piece lies in its file, by the first stamp in it.
pub fn file_offset(start: usize, piece: &[u8]) -> Option<u64> {
    cells(start, piece).next().map(|(at, header)| header.file_offset.wrapping_sub(at as u64))
}

/// Bytes of the page that lie in whole cells which a CPU has stamped.
pub fn by_cpu(start: usize, piece: &[u8]) -> PageBits {
    by_source(start, piece, SOURCE_CPU)
}

/// Bytes of the page that lie in whole cells which DMA has stamped.
pub fn by_dma(start: usize, piece: &[u8]) -> PageBits {
    by_source(start, piece, SOURCE_DMA)
}

fn by_source(start: usize, piece: &[u8], source: u32) -> PageBits {
    let mut bits = PageBits::default();
    for (at, header) in cells(start, piece).filter(|(_, header)| header.source == source) {
        let len = header.cell_bytes as usize;
        if piece.get(at..at + len).is_some_and(|cell| matches!(stamp::decode(cell), Cell::Whole(_))) {
            bits.insert(start + at, len);
        }
    }
    bits
}

/// Cells of a copy that are a mix of two writes, of which `last`, a later look at the same piece, has the second whole:
/// offset in the piece and bytes. A mix whose header is of the later write is not known: nothing has kept the earlier.
pub fn torn<'a>(
    start: usize,
    copy: &'a [u8],
    last: &'a [u8],
) -> impl Iterator<Item = (usize, usize)> + use<'a> {
    cells(start, copy).filter_map(move |(at, header)| {
        let len = header.cell_bytes as usize;
        let (cell, later) = (copy.get(at..at + len)?, last.get(at..at + len)?);
        let (Cell::Torn { stamp, .. }, Cell::Whole(_)) = (stamp::decode(cell), stamp::decode(later)) else {
            return None;
        };
        let mut own = vec![0; len];
        stamp::encode(&mut own, &stamp);
        let mixed = cell.iter().zip(&own).zip(later).all(|((byte, own), later)| byte == own || byte == later);
        mixed.then_some((at, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_wire::stamp::Stamp;

    fn stamped(cell_bytes: usize, generation: u64, source: u32, file_offset: u64) -> Vec<u8> {
        let mut cell = vec![0; cell_bytes];
        stamp::encode(&mut cell, &Stamp { run: 7, file_offset, generation, region: 1, source });
        cell
    }

    #[test]
    fn cells_of_all_sizes_are_found_wherever_the_piece_begins() {
        for cell_bytes in [64, 512, 4096] {
            let mut page = vec![0u8; 4096];
            let last = 4096 - cell_bytes;
            page[last..].copy_from_slice(&stamped(cell_bytes, 5, SOURCE_DMA, 0x8000 + last as u64));
            assert_eq!(generation(0, &page), Some(5));
            assert_eq!(file_offset(0, &page), Some(0x8000));
        }
        let mut page = vec![0u8; 4096];
        page[1024..1088].copy_from_slice(&stamped(64, 6, SOURCE_DMA, 1024));
        assert_eq!(generation(1000, &page[1000..]), Some(6));
        assert_eq!(file_offset(1000, &page[1000..]), Some(1000));
        assert_eq!(generation(1056, &page[1056..]), None, "the head of the cell is not in the piece");
    }

    #[test]
    fn a_stamp_with_a_wrong_sum_is_none() {
        let mut cell = stamped(512, 5, SOURCE_CPU, 0);
        cell[20] ^= 1;
        assert_eq!(header(&cell), None);
        assert_eq!(header(&cell[..20]), None);
    }

    #[test]
    fn only_whole_cells_of_a_cpu_count_as_its_own() {
        let mut page = stamped(512, 5, SOURCE_CPU, 0);
        page.extend(stamped(512, 6, SOURCE_DMA, 512));
        page.extend(stamped(512, 7, SOURCE_CPU, 1024));
        page[1024 + 300] ^= 1;
        assert_eq!(by_cpu(0, &page).spans().collect::<Vec<_>>(), [(0, 512)]);
        assert_eq!(generation(0, &page), Some(7));
    }

    #[test]
    fn sectors_begin_with_stamps_or_not() {
        let mut data = stamped(512, 5, SOURCE_CPU, 0);
        data.extend([0; 512]);
        data.extend(stamped(1024, 6, SOURCE_CPU, 1024));
        data.extend([1; 100]);
        let found: Vec<_> =
            stamped_sectors(&data).map(|(at, header)| (at, header.run, header.generation)).collect();
        assert_eq!(found, [(0, 7, 5), (1024, 7, 6)]);
    }
}
