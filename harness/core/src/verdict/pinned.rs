// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pinned region, and which of its pages have left their file. A step only makes it possible that pages left; the
//! driver says whether they did.

use crate::scenario::PAGE_BYTES;
use longpin_proto::facts::RegionState;
use std::collections::BTreeSet;

/// A pinned region.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// File behind the mapping; none for private and anonymous memory.
    pub file: Option<String>,
    /// First byte in the file.
    offset: u64,
    len: u64,
    pages: u32,
    /// Pages that are known to have left the file, by file offset.
    gone: BTreeSet<u64>,
    /// Pages that a step may have taken from the file, and the driver was not asked since.
    doubtful: BTreeSet<u64>,
}

impl Pinned {
    pub fn new(file: Option<String>, offset: u64, len: u64, pages: u32) -> Self {
        Self { file, offset, len, pages, gone: BTreeSet::new(), doubtful: BTreeSet::new() }
    }

    /// Pages of this range of the file may have left it.
    pub fn doubt(&mut self, offset: u64, len: u64) {
        let (start, end) = (self.offset.max(offset), (self.offset + self.len).min(offset + len));
        let pages = (start / PAGE_BYTES * PAGE_BYTES..end).step_by(PAGE_BYTES as usize);
        self.doubtful.extend(pages.filter(|page| !self.gone.contains(page)));
    }

    /// The driver says how many pages still belong to a mapping: all; or all but the doubtful ones; or none, where a
    /// large folio could not be split and left as a whole. Errors: anything else, since nobody knows which pages.
    pub fn resolve(&mut self, state: &RegionState) -> Result<(), String> {
        let left = self.pages.saturating_sub(state.pages_with_mapping) as usize;
        let doubtful = std::mem::take(&mut self.doubtful);
        let expected = doubtful.len() + self.gone.len();
        if left == self.pages as usize {
            self.gone.extend((self.offset..self.offset + self.len).step_by(PAGE_BYTES as usize));
        } else if left == expected {
            self.gone.extend(doubtful);
        } else if left != self.gone.len() {
            return Err(format!(
                "it is not clear which pages left the file: {expected} were to leave, \
                 the driver says that {left} of {} did",
                self.pages
            ));
        }
        Ok(())
    }

    /// Why a DMA now could go anywhere.
    pub fn doubts(&self) -> Option<String> {
        let pages = self.doubtful.len();
        (pages > 0)
            .then(|| format!("it was not asked whether {pages} pinned pages left the file before the DMA"))
    }

    /// The page of a file offset, if it has left the file.
    pub fn orphan(&self, file_offset: u64) -> Option<u64> {
        let page = file_offset / PAGE_BYTES * PAGE_BYTES;
        self.gone.contains(&page).then_some(page)
    }
}
