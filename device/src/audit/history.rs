// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A page that changed in flight: what it held at the three looks, when it changed, who changed it. Pure but for the
//! question to the trace.
//!
//! Offsets in a hit count from the first byte of the piece, like its addresses.

use super::look::Look;
use super::pages::Piece;
use super::stamps;
use crate::engine::{Covered, PageBits};
use longpin_proto::disk::{Author, Change, Span};
use xxhash_rust::xxh3::xxh3_128;

/// Most spans in a hit.
const MAX_SPANS: usize = 16;
/// Most bytes of a span that are shown.
const MAX_SPAN_BYTES: usize = 32;

/// One piece at its three looks.
pub struct History<'a> {
    /// Where it lies.
    pub piece: &'a Piece,
    /// Its index in the request.
    pub index: usize,
    /// At submission.
    pub first: &'a Look,
    /// As it went to the image.
    pub copy: &'a Look,
    /// Before completion.
    pub last: &'a [u8],
}

impl History<'_> {
    /// When it changed, if it did. Only what is different at one of the looks is seen. A write that was copied once is
    /// the same at the first two; see [`Self::is_copy_torn`].
    pub fn change(&self) -> Option<Change> {
        let Self { piece, index, first, copy, last } = *self;
        match (first.agrees(copy, index, piece), copy.had(index, piece, last)) {
            (true, true) => None,
            (true, false) => Some(Change::AfterFetch),
            (false, true) => Some(Change::BeforeFetch),
            (false, false) if first.had(index, piece, last) => Some(Change::Back),
            (false, false) => Some(Change::Torn),
        }
    }

    /// Of a write that was copied once: whether DMA went on while it was copied, so that the image got a mix which
    /// nobody submitted. The copy shows it: in a cell of it that is torn, each byte is its header's own or has what
    /// DMA has left there by the last look.
    pub fn is_copy_torn(&self, dma: impl FnOnce() -> Covered) -> bool {
        let Some(copy) = self.copy.bytes(self.piece).filter(|_| self.first.is(self.copy)) else {
            return false;
        };
        let start = self.piece.start();
        let mut torn = stamps::torn(start, copy, self.last).peekable();
        // The trace is asked last: most copies have no such cell.
        torn.peek().is_some() && {
            let written = dma().bytes;
            torn.any(|(at, len)| {
                let mut cell = PageBits::default();
                cell.insert(start + at, len);
                cell.without(&written).is_empty()
            })
        }
    }

    /// Hashes of the three looks, hex.
    pub fn hashes(&self) -> [String; 3] {
        let Self { piece, index, first, copy, last } = *self;
        [first.hash(index, piece), copy.hash(index, piece), xxh3_128(last)].map(|hash| format!("{hash:032x}"))
    }

    /// Bytes that differ between submission and completion; `None` if those of the submission were not kept.
    fn moved(&self) -> Option<PageBits> {
        Some(PageBits::difference(self.piece.start(), self.first.bytes(self.piece)?, self.last))
    }

    /// Bytes that were others than at submission, at either later look, and are not a CPU's by their stamps; and
    /// those that are.
    fn changed(&self) -> Option<(PageBits, PageBits)> {
        let (start, first) = (self.piece.start(), self.first.bytes(self.piece)?);
        let mut changed = (PageBits::default(), PageBits::default());
        for later in [self.copy.bytes(self.piece), Some(self.last)].into_iter().flatten() {
            let (differ, cpu) = (PageBits::difference(start, first, later), stamps::by_cpu(start, later));
            changed = (changed.0.or(&differ.without(&cpu)), changed.1.or(&differ.and(&cpu)));
        }
        Some(changed)
    }

    /// Who changed it.
    pub fn author(&self, dma: &Covered) -> Author {
        let Some((unstamped, by_cpu)) = self.changed() else { return self.author_by_hash(dma) };
        let mut written = dma.bytes.clone();
        if !dma.whole {
            // What the trace has left out, the stamps of DMA still say.
            written = written.or(&stamps::by_dma(self.piece.start(), self.last));
        }
        let ours = !unstamped.and(&written).is_empty();
        let others = !unstamped.without(&written).is_empty() || !by_cpu.is_empty();
        match (ours, others) {
            (true, false) => Author::Dma,
            (true, true) => Author::Mixed,
            // The record has a gap, and what was left out carried no stamp.
            (false, _) if !dma.whole && by_cpu.is_empty() => Author::Unknown,
            (false, _) => Author::Other,
        }
    }

    /// Who changed it, where nobody knows which bytes: DMA that wrote to all of the piece, where no later look finds a
    /// CPU's stamp; others, if no DMA came near it. Anything between proves nothing.
    fn author_by_hash(&self, dma: &Covered) -> Author {
        let start = self.piece.start();
        let mut all = PageBits::default();
        all.insert(start, self.piece.len as usize);
        let mut looks = [self.copy.bytes(self.piece), Some(self.last)].into_iter().flatten();
        if all.without(&dma.bytes).is_empty() && looks.all(|bytes| stamps::by_cpu(start, bytes).is_empty()) {
            Author::Dma
        } else if dma.whole && all.and(&dma.bytes).is_empty() {
            Author::Other
        } else {
            Author::Unknown
        }
    }

    /// How many bytes differ between submission and completion, and the first of them.
    pub fn spans(&self) -> (u32, Vec<Span>) {
        let (Some(moved), Some(first)) = (self.moved(), self.first.bytes(self.piece)) else {
            return (0, Vec::new());
        };
        let span = |(offset, len): (usize, usize)| {
            let at = offset - self.piece.start();
            let shown = at..at + len.min(MAX_SPAN_BYTES);
            Span {
                offset: at as u32,
                len: len as u32,
                before: hex(&first[shown.clone()]),
                after: hex(&self.last[shown]),
            }
        };
        (moved.count(), moved.spans().take(MAX_SPANS).map(span).collect())
    }

    /// Largest generations at submission and before completion.
    pub fn generations(&self) -> (Option<u64>, Option<u64>) {
        let of = |bytes: &[u8]| stamps::generation(self.piece.start(), bytes);
        (self.first.bytes(self.piece).and_then(of), of(self.last))
    }

    /// Where the piece lies in its file, by its stamps.
    pub fn file_offset(&self) -> Option<u64> {
        let bytes = self.first.bytes(self.piece).unwrap_or(self.last);
        stamps::file_offset(self.piece.start(), bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::pool::Pool;
    use crate::mem::Gpa;
    use std::sync::Arc;

    #[test]
    fn a_gap_in_the_trace_makes_nobody_the_author() {
        let pool = Arc::<Pool>::default();
        let mut old = pool.take(4096);
        old.bytes_mut().fill(0);
        let look = Look::Bytes(Arc::new(old));
        let mut last = vec![0; 4096];
        last[100] = 1;
        let piece = Piece { at: 0, gpa: Gpa(0), len: 4096 };
        let history = History { piece: &piece, index: 0, first: &look, copy: &look, last: &last };
        let author = |whole| history.author(&Covered { bytes: PageBits::default(), whole });
        assert_eq!((author(true), author(false)), (Author::Other, Author::Unknown));
    }
}
