// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A set of bytes of one 4 KiB page. Pure.

use crate::program::PAGE_BYTES;

const WORDS: usize = PAGE_BYTES as usize / 64;

/// Which bytes of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBits([u64; WORDS]);

impl Default for PageBits {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl PageBits {
    /// Add `len` bytes from `offset` on; what lies past the page's end is left out.
    pub fn insert(&mut self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(PAGE_BYTES as usize);
        if end <= offset {
            return;
        }
        for word in offset / 64..end.div_ceil(64) {
            let (low, high) = (offset.max(word * 64) % 64, (end - word * 64).min(64));
            self.0[word] |= (u64::MAX >> (64 - (high - low))) << low;
        }
    }

    /// The bytes of `a` and `b`, which begin at `offset` in the page, that differ.
    pub fn difference(offset: usize, a: &[u8], b: &[u8]) -> Self {
        let mut bits = Self::default();
        // Without branches: a page that changed has changed in most of its bytes.
        for (at, (a, b)) in (offset..PAGE_BYTES as usize).zip(a.iter().zip(b)) {
            bits.0[at / 64] |= u64::from(a != b) << (at % 64);
        }
        bits
    }

    /// Those that are in both.
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Those that are in either.
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Runs of neighbours: offset and length.
    pub fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let has = |at: usize| self.0[at / 64] >> (at % 64) & 1 == 1;
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = (at..PAGE_BYTES as usize).find(|at| has(*at))?;
            let end = (start..PAGE_BYTES as usize).find(|at| !has(*at)).unwrap_or(PAGE_BYTES as usize);
            at = end;
            Some((start, end - start))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_whole_page_is_one_span() {
        let mut bits = PageBits::default();
        bits.insert(1, 0);
        bits.insert(5000, 1);
        assert!(bits.is_empty());
        bits.insert(0, 5000);
        assert_eq!(bits.count(), 4096);
        assert_eq!(bits.spans().collect::<Vec<_>>(), [(0, 4096)]);
    }

    proptest! {
        /// The same as a plain set of numbers.
        #[test]
        fn ranges_add_up(ranges in proptest::collection::vec((0usize..4096, 0usize..300), 0..20)) {
            let (mut bits, mut model) = (PageBits::default(), BTreeSet::new());
            for (offset, len) in ranges {
                bits.insert(offset, len);
                model.extend(offset..(offset + len).min(4096));
            }
            prop_assert_eq!(bits.count() as usize, model.len());
            let listed: BTreeSet<_> = bits.spans().flat_map(|(offset, len)| offset..offset + len).collect();
            prop_assert_eq!(listed, model);
        }
    }

    #[test]
    fn differences_are_placed_in_the_page() {
        let bits = PageBits::difference(100, b"abcdef", b"abXXeX");
        assert_eq!(bits.spans().collect::<Vec<_>>(), [(102, 2), (105, 1)]);
        let mut dma = PageBits::default();
        dma.insert(103, 10);
        assert_eq!(bits.without(&dma).spans().collect::<Vec<_>>(), [(102, 1)]);
        assert_eq!(bits.and(&dma).count() + bits.without(&dma).count(), bits.or(&bits).count());
    }
}
