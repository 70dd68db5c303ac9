// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each cell of a file should hold, by everything that was done to the file; and what a cell that holds
//! something else shows.
//!
//! Every change has a number. A successful fsync promises the changes up to the one before it began; a loss of power
//! leaves each cell with what was promised or with any later content.

use super::Observation;
use super::content::{Content, content};
use longpin_proto::facts::{CellState, Source};
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

    /// What a found cell shows; none: it is as it should be.
    pub fn judge(&self, offset: u64, state: &CellState, run: u64) -> Option<Observation> {
        let wanted = self.wanted(offset);
        match (state, content(state, run)) {
            (CellState::Absent, _) => (offset < self.sure_size).then_some(Observation::Lost),
            (CellState::Unreadable { .. }, _) => Some(Observation::Detected),
            (CellState::Torn { .. } | CellState::Foreign { .. }, _) => Some(Observation::Torn),
            (_, Some(found)) if found == wanted || self.as_good(offset, found) => None,
            // Old content of a page that was written since is a loss; old content of a page that was cut off since
            // is data in the wrong place.
            (_, Some(found)) if wanted != Content::Zero && self.held(offset, found) => {
                Some(Observation::Lost)
            }
            (_, Some(Content::Zero)) => Some(Observation::Lost),
            _ => Some(Observation::Bleed),
        }
    }

    fn as_good(&self, offset: u64, content: Content) -> bool {
        self.cells.get(&offset).is_some_and(|cell| cell.or.contains(&content))
    }

    fn held(&self, offset: u64, content: Content) -> bool {
        self.cells.get(&offset).is_some_and(|cell| cell.held(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::facts::Writer;

    const RUN: u64 = 5;

    fn cpu(generation: u64) -> Content {
        Content::Stamp { source: Source::Cpu, generation }
    }

    fn found(content: Content) -> CellState {
        match content {
            Content::Zero => CellState::Zero,
            Content::Stamp { source, generation } => {
                CellState::Whole(Writer { run: RUN, region: 0, generation, source })
            }
        }
    }

    fn judged(file: &FileContent, offset: u64, content: Content) -> Option<Observation> {
        file.judge(offset, &found(content), RUN)
    }

    #[test]
    fn a_loss_of_power_leaves_what_was_promised_or_anything_later() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        file.append(0, 512, cpu(2));
        let before_the_fsync = file.changes();
        file.append(0, 512, cpu(3));
        file.promise(before_the_fsync);
        file.append(0, 512, cpu(4));
        let left = file.cut();
        for generation in 2..=4 {
            assert_eq!(judged(&left, 0, cpu(generation)), None, "generation {generation}");
        }
        assert_eq!(judged(&left, 0, cpu(1)), Some(Observation::Lost));
        assert_eq!(judged(&left, 0, Content::Zero), Some(Observation::Lost));
        assert_eq!(left.wanted_words(0), "CPU generation 2 or CPU generation 3 or CPU generation 4");
        assert_eq!(judged(&file, 0, cpu(3)), Some(Observation::Lost), "without a loss the last write counts");
    }

    #[test]
    fn what_was_never_promised_need_not_be_there() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        file.promise(file.changes());
        file.append(512, 512, cpu(2));
        let left = file.cut();
        assert_eq!(left.judge(512, &CellState::Absent, RUN), None);
        assert_eq!(left.judge(512, &CellState::Zero, RUN), None);
        assert_eq!(left.judge(0, &CellState::Absent, RUN), Some(Observation::Lost));
        assert_eq!(left.size(), 1024, "the longest file that may be found");
    }

    #[test]
    fn a_write_after_the_loss_is_certain_again() {
        let mut file = FileContent::new(512);
        file.append(0, 512, cpu(1));
        let mut left = file.cut();
        left.write(0, 512, cpu(7));
        assert_eq!(judged(&left, 0, cpu(7)), None);
        assert_eq!(judged(&left, 0, cpu(1)), Some(Observation::Lost));
    }
}
