// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each cell of a file should hold, by everything that was done to the file.
//!
//! Every change has a number. A successful fsync promises the changes up to the one before it began; a loss of power
//! leaves each cell with what was promised or with any later content.

use super::Content;
use longpin_proto::facts::Source;
use std::collections::BTreeMap;

/// History of a cell: contents in the order of their changes. Before the first it held zeros.
#[derive(Debug, Clone, Default)]
struct CellHistory {
    changes: Vec<(u64, Content)>,
    /// Contents that are as good as the last one: a loss of power left it open which of them is there.
    or: Vec<Content>,
}

impl CellHistory {
    fn now(&self) -> Content {
        self.changes.last().map_or(Content::Zero, |(_, content)| *content)
    }

    fn held(&self, content: Content) -> bool {
        let before = self.changes.len().saturating_sub(1);
        content == Content::Zero || self.changes[..before].iter().any(|(_, past)| *past == content)
    }
}

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct FileContent {
    cell_bytes: u64,
    /// Sizes in the order of their changes. Before the first it was empty.
    sizes: Vec<(u64, u64)>,
    /// Bytes that are there in any case: less than the size only after a loss of power.
    sure_size: u64,
    cells: BTreeMap<u64, CellHistory>,
    /// Number of the last change.
    changes: u64,
    /// Number of the last change that the file system promised to keep.
    promised: u64,
}

impl FileContent {
    pub fn new(cell_bytes: u32) -> Self {
        Self {
            cell_bytes: u64::from(cell_bytes.max(1)),
            sizes: Vec::new(),
            sure_size: 0,
            cells: BTreeMap::new(),
            changes: 0,
            promised: 0,
        }
    }

    pub fn size(&self) -> u64 {
        self.sizes.last().map_or(0, |(_, size)| *size)
    }

    /// Number of the last change, for a later [`FileContent::promise`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// An fsync that began after this change has succeeded.
    pub fn promise(&mut self, change: u64) {
        self.promised = self.promised.max(change.min(self.changes));
    }

    /// A write of `len` bytes that was completed.
    pub fn write(&mut self, offset: u64, len: u64, content: Content) {
        self.changes += 1;
        let mut at = offset - offset % self.cell_bytes;
        while at < offset + len {
            let cell = self.cells.entry(at).or_default();
            cell.changes.extend(cell.or.drain(..).map(|maybe| (self.changes, maybe)));
            cell.changes.push((self.changes, content));
            at += self.cell_bytes;
        }
    }

    /// A write that also makes the file longer, as `write(2)` does and a store or DMA does not.
    pub fn append(&mut self, offset: u64, len: u64, content: Content) {
        self.write(offset, len, content);
        self.set_size(self.size().max(offset + len));
    }

    pub fn resize(&mut self, size: u64) {
        let old = self.size();
        if size < old {
            self.write(size, old - size, Content::Zero);
        } else {
            self.changes += 1;
        }
        self.set_size(size);
    }

    fn set_size(&mut self, size: u64) {
        self.sizes.push((self.changes, size));
        self.sure_size = size;
    }

    /// The file as a loss of power now may leave it.
    pub fn cut(&self) -> Self {
        let kept = |change: u64| change <= self.promised;
        let mut left = self.clone();
        for cell in left.cells.values_mut() {
            let first_open = cell.changes.iter().take_while(|(change, _)| kept(*change)).count();
            cell.or = cell.changes.split_off(first_open).into_iter().map(|(_, content)| content).collect();
        }
        let first_open = left.sizes.iter().take_while(|(change, _)| kept(*change)).count();
        let open = left.sizes.split_off(first_open);
        let promised = left.size();
        left.sure_size = open.iter().map(|(_, size)| *size).chain([promised]).min().unwrap_or(promised);
        // What was not promised may still be there: the longest of the sizes is where the file can end.
        let longest = open.iter().map(|(_, size)| *size).chain([promised]).max().unwrap_or(promised);
        left.sizes.push((left.changes, longest));
        left
    }

    /// What the cell should hold.
    pub fn wanted(&self, offset: u64) -> Content {
        self.cells.get(&offset).map_or(Content::Zero, CellHistory::now)
    }

    /// `wanted` in words, with what would be as good.
    pub fn wanted_words(&self, offset: u64) -> String {
        let or = self.cells.get(&offset).map_or(&[][..], |cell| &cell.or);
        let words = [self.wanted(offset)].into_iter().chain(or.iter().copied());
        let mut words: Vec<String> = words.map(|content| content.to_string()).collect();
        words.dedup();
        words.join(" or ")
    }

    /// First cell whose last write was a DMA.
    pub fn first_dma(&self) -> Option<u64> {
        let is_dma = |cell: &CellHistory| matches!(cell.now(), Content::Stamp { source: Source::Dma, .. });
        self.cells.iter().find(|(_, cell)| is_dma(cell)).map(|(offset, _)| *offset)
    }

    /// The cell should hold this, or it would be as good.
    pub fn may_hold(&self, offset: u64, content: Content) -> bool {
        let as_good = |cell: &CellHistory| cell.or.contains(&content);
        content == self.wanted(offset) || self.cells.get(&offset).is_some_and(as_good)
    }

    /// The cell held this before its last change.
    pub fn held(&self, offset: u64, content: Content) -> bool {
        self.cells.get(&offset).is_some_and(|cell| cell.held(content))
    }

    /// Bytes that are there in any case.
    pub fn sure_size(&self) -> u64 {
        self.sure_size
    }
}
