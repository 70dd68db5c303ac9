// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a write's pages held at one moment: their bytes, or, where memory is short, a hash of each.
//!
//! Bytes are compared as they are, and hashed only for a report: a comparison costs less than a hash and cannot be
//! wrong. Hashes alone are kept for submissions beyond a disk's [`super::KEPT_BYTES`].

use super::pages::Piece;
use super::pool::Buffer;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// One look at all pieces of a write.
#[derive(Clone)]
pub enum Look {
    /// The data.
    Bytes(Arc<Buffer>),
    /// For each piece.
    Hashes(Arc<[u128]>),
}

impl Look {
    /// Only the hashes of the data.
    pub fn hashed(data: &[u8], pieces: &[Piece]) -> Self {
        Self::Hashes(pieces.iter().map(|piece| xxh3_128(&data[piece.range()])).collect())
    }

    /// Bytes of a piece, if they were kept.
    pub fn bytes(&self, piece: &Piece) -> Option<&[u8]> {
        match self {
            Self::Bytes(data) => Some(&data[piece.range()]),
            Self::Hashes(_) => None,
        }
    }

    /// Hash of the piece with this index.
    pub fn hash(&self, index: usize, piece: &Piece) -> u128 {
        match self {
            Self::Bytes(data) => xxh3_128(&data[piece.range()]),
            Self::Hashes(hashes) => hashes[index],
        }
    }

    /// Whether the piece had these bytes.
    pub fn had(&self, index: usize, piece: &Piece, bytes: &[u8]) -> bool {
        match self {
            Self::Bytes(data) => data[piece.range()] == *bytes,
            Self::Hashes(hashes) => hashes[index] == xxh3_128(bytes),
        }
    }

    /// Whether both are one copy, so that nobody knows what was there before.
    pub fn is(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Bytes(a), Self::Bytes(b)) if Arc::ptr_eq(a, b))
    }

    /// Whether the piece was the same at both looks.
    pub fn agrees(&self, other: &Self, index: usize, piece: &Piece) -> bool {
        match (self, other) {
            _ if self.is(other) => true,
            (look, Self::Bytes(data)) => look.had(index, piece, &data[piece.range()]),
            (look, Self::Hashes(hashes)) => look.hash(index, piece) == hashes[index],
        }
    }
}
