// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What pages held in the guest's memory, and when: by time, where [`FileContent`](super::FileContent) goes by what
//! the file should keep.

use super::Content;
use longpin_proto::disk::PAGE_BYTES;
use longpin_proto::facts::Source;
use std::collections::BTreeMap;
use std::ops::Range;

/// A page of a file (or of memory that is no file's): its name and the page's index.
pub type PageKey = (String, u64);

/// A write into memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageWrite {
    /// When it was done.
    pub at: u64,
    /// By whom.
    pub source: Source,
    /// Generation.
    pub generation: u64,
    /// All bytes of the page.
    pub whole: bool,
}

impl PageWrite {
    /// What it left.
    pub fn content(&self) -> Content {
        Content::Stamp { source: self.source, generation: self.generation }
    }
}

/// Writes of each page, and which pages left their file.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// In the order of time.
    pub writes: BTreeMap<PageKey, Vec<PageWrite>>,
    /// Pages that left their file, and when.
    pub left: BTreeMap<PageKey, u64>,
}

impl Memory {
    /// Bytes were written; `write.whole` is found out here.
    pub(super) fn wrote(&mut self, name: &str, offset: u64, len: u64, write: PageWrite) {
        for page in pages_of(offset, len) {
            let start = page * PAGE_BYTES;
            let whole = offset <= start && start + PAGE_BYTES <= offset + len;
            self.writes.entry((name.to_owned(), page)).or_default().push(PageWrite { whole, ..write });
        }
    }

    /// Known pages in this range belong to the file no more, but for those that are pinned: of them the driver knows.
    pub(super) fn cut_off(
        &mut self,
        name: &str,
        offset: u64,
        len: u64,
        at: u64,
        pinned: impl Fn(u64) -> bool,
    ) {
        let gone = offset.div_ceil(PAGE_BYTES)..offset.saturating_add(len).div_ceil(PAGE_BYTES);
        let known =
            self.writes.keys().filter(|(of, page)| of == name && gone.contains(page) && !pinned(*page));
        for key in known.cloned().collect::<Vec<_>>() {
            self.left.entry(key).or_insert(at);
        }
    }

    pub(super) fn sort(&mut self) {
        self.writes.values_mut().for_each(|writes| writes.sort_by_key(|write| write.at));
    }

    /// What the page held at an instant: contents of which it has parts, the last whole one first.
    pub fn at(&self, key: &PageKey, at: u64) -> &[PageWrite] {
        let writes = self.writes.get(key).map_or(&[][..], Vec::as_slice);
        let until = writes.partition_point(|write| write.at <= at);
        let from = writes[..until].iter().rposition(|write| write.whole).unwrap_or(0);
        &writes[from..until]
    }
}

/// Pages that a byte range touches.
pub fn pages_of(offset: u64, len: u64) -> Range<u64> {
    offset / PAGE_BYTES..offset.saturating_add(len).div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_the_pages_of_its_first_and_last_byte() {
        assert_eq!(pages_of(0, 4096), 0..1);
        assert_eq!(pages_of(4095, 2), 0..2);
        assert_eq!(pages_of(u64::MAX - 1, 4096), u64::MAX / PAGE_BYTES..u64::MAX.div_ceil(PAGE_BYTES));
    }
}
