// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A request's data cut at the pages of the guest's memory: the unit of the audit.

use crate::engine::page_of;
use crate::mem::Gpa;
use longpin_proto::disk::PAGE_BYTES;
use std::ops::Range;

/// Neighbouring bytes of a request that lie in one guest page. Most are the whole page; direct I/O may give parts of
/// one, and segments need not be aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte, counted from the start of the request's data.
    pub at: usize,
    /// Where that is.
    pub gpa: Gpa,
    /// Bytes, at most a page.
    pub len: u32,
}

impl Piece {
    /// Its bytes in the request's data.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.len as usize
    }

    /// Number of its page.
    pub fn page(&self) -> u64 {
        page_of(self.gpa)
    }

    /// Its first byte in the page.
    pub fn start(&self) -> usize {
        (self.gpa.0 % PAGE_BYTES) as usize
    }
}

/// Cut segments into pieces. Segments that go on where the one before ended, in the same page, are one piece.
pub fn pieces(segments: &[(Gpa, u32)]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(segments.len());
    let mut at = 0;
    for (gpa, len) in segments {
        let (mut gpa, mut left) = (*gpa, u64::from(*len));
        while left > 0 {
            let room = PAGE_BYTES - gpa.0 % PAGE_BYTES;
            let len = left.min(room) as u32;
            match pieces.last_mut() {
                // Not across the page's end, since then `gpa` begins a page.
                Some(last) if gpa.0 % PAGE_BYTES != 0 && last.gpa.0 + u64::from(last.len) == gpa.0 => {
                    last.len += len
                }
                _ => pieces.push(Piece { at, gpa, len }),
            }
            at += len as usize;
            left -= u64::from(len);
            // Past the address space: the copy of these bytes fails, so where the pieces lie does not matter.
            gpa = Gpa(gpa.0.wrapping_add(u64::from(len)));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(segments: &[(u64, u32)]) -> Vec<(usize, u64, u32)> {
        let segments: Vec<_> = segments.iter().map(|(gpa, len)| (Gpa(*gpa), *len)).collect();
        pieces(&segments).iter().map(|piece| (piece.at, piece.gpa.0, piece.len)).collect()
    }

    #[test]
    fn segments_are_cut_at_pages_and_joined_within() {
        assert_eq!(cut(&[(0x1000, 0x2000)]), [(0, 0x1000, 0x1000), (0x1000, 0x2000, 0x1000)]);
        assert_eq!(
            cut(&[(0x1200, 512), (0x1400, 512), (0x1800, 512)]),
            [(0, 0x1200, 1024), (1024, 0x1800, 512)]
        );
        assert_eq!(cut(&[(0x1e00, 512), (0x2000, 512)]), [(0, 0x1e00, 512), (512, 0x2000, 512)]);
        assert_eq!(cut(&[(0x1fff, 2)]), [(0, 0x1fff, 1), (1, 0x2000, 1)]);
        assert_eq!(cut(&[]), []);
    }

    #[test]
    fn addresses_at_the_end_of_the_address_space_do_not_overflow() {
        assert_eq!(cut(&[(u64::MAX, 3)]).iter().map(|piece| piece.2).sum::<u32>(), 3);
    }

    proptest! {
        /// Every byte of the request is in exactly one piece, and each piece lies in one page.
        #[test]
        fn pieces_cover_the_data(segments in proptest::collection::vec((0u64..1 << 20, 1u32..20_000), 0..12)) {
            let segments: Vec<_> = segments.into_iter().map(|(gpa, len)| (Gpa(gpa), len)).collect();
            let bytes = segments.iter().flat_map(|(gpa, len)| gpa.0..gpa.0 + u64::from(*len));
            let mut in_pieces = Vec::new();
            for piece in pieces(&segments) {
                prop_assert_eq!(piece.at, in_pieces.len());
                prop_assert_eq!(piece.page(), (piece.gpa.0 + u64::from(piece.len) - 1) / 4096);
                in_pieces.extend(piece.gpa.0..piece.gpa.0 + u64::from(piece.len));
            }
            prop_assert!(bytes.eq(in_pieces));
        }
    }
}
