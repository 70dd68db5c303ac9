// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pinned pages, and which of them have left their file. A step only makes it possible that pages left; the driver says
//! whether they did.

use super::memory::{Memory, pages_of};
use longpin_proto::agent::PinMode;
use longpin_proto::disk::Held;
use longpin_proto::disk::PAGE_BYTES;
use longpin_proto::facts::RegionState;
use std::collections::{BTreeMap, BTreeSet};

/// Pages that are or were pinned.
#[derive(Debug, Clone)]
pub struct Pin<'r> {
    /// Of the region, or of the job and the rule of a direct read.
    pub name: String,
    /// Number in ledger and stamps, once it is known.
    pub number: Option<u32>,
    /// File, or what the memory is called.
    pub path: String,
    /// The pages are a file's own.
    pub of_file: bool,
    /// In the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Label of the first byte in ledger entries.
    pub label: u64,
    /// Who took it.
    pub by: PinnedBy<'r>,
    /// When it was taken.
    pub from: u64,
    /// When it was given back.
    pub to: Option<u64>,
    /// How it was given back.
    pub dirty: Option<bool>,
    /// Base pages, as the driver counts them.
    pub(super) pages: u32,
    /// Pages that are known to have left the file, by index.
    gone: BTreeSet<u64>,
    /// Pages that a step may have taken from the file, and the driver was not asked since; when that was.
    doubtful: BTreeMap<u64, u64>,
}

/// Who holds pages.
#[derive(Debug, Clone)]
pub enum PinnedBy<'r> {
    /// The driver.
    Driver(PinMode),
    /// The kernel, for a call that the agent holds.
    Kernel(PinMode),
    /// The kernel, for a direct read that the second disk holds.
    DirectRead(DirectRead<'r>),
}

/// A direct read into a mapping.
#[derive(Debug, Clone, Default)]
pub struct DirectRead<'r> {
    /// First byte that it reads on the disk.
    pub device_offset: u64,
    /// Its requests, as the disk named them.
    pub held: &'r [Held],
    /// What was written into its pages: offset in the mapping and length.
    pub written: Vec<(u64, u64)>,
}

impl<'r> Pin<'r> {
    /// A pin of `len` bytes of a mapping, taken at an instant.
    pub(super) fn new(
        name: &str,
        (path, of_file, offset): (String, bool, u64),
        len: u64,
        by: PinnedBy<'r>,
        from: u64,
    ) -> Self {
        let pages = u32::try_from(len / PAGE_BYTES).unwrap_or(u32::MAX);
        Self {
            name: name.to_owned(),
            number: None,
            path,
            of_file,
            offset,
            len,
            label: offset,
            by,
            from,
            to: None,
            dirty: None,
            pages,
            gone: BTreeSet::new(),
            doubtful: BTreeMap::new(),
        }
    }

    /// How the agent had it pinned; none: the kernel pins for a direct read.
    pub fn mode(&self) -> Option<PinMode> {
        match self.by {
            PinnedBy::Driver(mode) | PinnedBy::Kernel(mode) => Some(mode),
            PinnedBy::DirectRead(_) => None,
        }
    }

    pub(super) fn direct_read(&mut self) -> Option<&mut DirectRead<'r>> {
        match &mut self.by {
            PinnedBy::Driver(_) | PinnedBy::Kernel(_) => None,
            PinnedBy::DirectRead(read) => Some(read),
        }
    }

    /// References to its pages are held: they may leave their file, and are written all the same.
    pub fn holds_pages(&self) -> bool {
        self.mode().is_none_or(PinMode::holds_pages)
    }

    /// Nobody has given it back yet.
    pub fn is_held(&self) -> bool {
        self.to.is_none()
    }

    /// It has this page of this file or memory.
    pub fn covers(&self, path: &str, page: u64) -> bool {
        self.path == path && pages_of(self.offset, self.len).contains(&page)
    }

    /// Pages of this range of the file may have left it, at an instant.
    pub(super) fn doubt(&mut self, offset: u64, len: u64, at: u64) {
        let (start, end) =
            (self.offset.max(offset), (self.offset + self.len).min(offset.saturating_add(len)));
        for page in (start < end).then(|| pages_of(start, end - start)).into_iter().flatten() {
            if !self.gone.contains(&page) {
                self.doubtful.entry(page).or_insert(at);
            }
        }
    }

    /// The driver says how many pages still belong to a mapping: all; or all but the doubtful ones; or none, where a
    /// large folio could not be split and left as a whole. Errors: anything else, since nobody knows which pages.
    pub(super) fn resolve(
        &mut self,
        state: &RegionState,
        at: u64,
        memory: &mut Memory,
    ) -> Result<(), String> {
        let left = self.pages.saturating_sub(state.pages_with_mapping) as usize;
        let doubtful = std::mem::take(&mut self.doubtful);
        let expected = doubtful.len() + self.gone.len();
        let gone: Vec<u64> = if left == self.pages as usize {
            pages_of(self.offset, self.len).collect()
        } else if left == expected {
            doubtful.keys().copied().collect()
        } else if left != self.gone.len() {
            return Err(format!(
                "it is not clear which pages left the file: {expected} were to leave, \
                 the driver says that {left} of {} did",
                self.pages
            ));
        } else {
            Vec::new()
        };
        for page in gone {
            let since = doubtful.get(&page).copied().unwrap_or(at);
            memory.left.entry((self.path.clone(), page)).or_insert(since);
            self.gone.insert(page);
        }
        Ok(())
    }

    /// Why a DMA now could go anywhere.
    pub(super) fn doubts(&self) -> Option<String> {
        let pages = self.doubtful.len();
        (pages > 0)
            .then(|| format!("it was not asked whether {pages} pinned pages left the file before the DMA"))
    }

    /// First byte of the page of a file offset, if it has left the file.
    pub(super) fn orphan(&self, file_offset: u64) -> Option<u64> {
        let page = file_offset / PAGE_BYTES;
        self.gone.contains(&page).then_some(page * PAGE_BYTES)
    }

    /// Offset in the file of a ledger entry's first byte.
    pub fn offset_of(&self, label: u64) -> u64 {
        (label + self.offset).saturating_sub(self.label)
    }
}
