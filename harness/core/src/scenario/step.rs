// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps of a scenario, as its author thinks of them. [`crate::machine`] turns each into the agent's steps.

use super::matrix::{Condition, Release};
use longpin_proto::agent::{Access, PinMode};

/// Bytes of a page, the unit of every range in a scenario.
pub const PAGE_BYTES: u64 = 4096;

/// One step and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line in the file.
    pub line: usize,
    /// Cases that do it.
    pub when: Condition,
    /// Milliseconds that it may take, instead of the usual generous bound: for a step that is known to hang.
    pub deadline_ms: Option<u64>,
    /// What to do.
    pub action: Act,
}

/// Pages of a file, mapping or region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// First page.
    pub first: u64,
    /// Number; none: up to the end.
    pub count: Option<u64>,
}

impl Pages {
    /// Offset and length in bytes within an object of `total_bytes`.
    pub fn bytes(self, total_bytes: u64) -> (u64, u64) {
        let offset = (self.first * PAGE_BYTES).min(total_bytes);
        let len = self.count.map_or(total_bytes - offset, |count| count * PAGE_BYTES);
        (offset, len)
    }
}

/// What backs a mapping of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backed {
    /// An open handle.
    File(String),
    /// Anonymous memory.
    Anonymous,
    /// Anonymous hugetlb memory.
    Hugetlb,
}

/// What a file is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// What was written: the last completed write of each cell, by CPU or DMA.
    Writes,
    /// The `snapshot` of the same file taken before.
    Snapshot,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the parameters that docs/scenario-format.md describes")]
pub enum Act {
    /// Make the file system (nothing on tmpfs).
    Mkfs { args: Vec<String> },
    /// Mount it.
    Mount,
    /// Unmap and close what is open, unmount, drop caches.
    Umount,
    /// `umount`, then `mount`; on tmpfs only unmap and close.
    Remount,
    /// Create a file, write stamped cells by CPU, fsync.
    Create { file: String, pages: u64, generation: u64 },
    /// Create a file of holes only, fsync.
    CreateHole { file: String, pages: u64 },
    /// Open a file (again) under a handle.
    Open { handle: String, file: String, write: bool, direct: bool },
    /// Close a handle.
    Close { handle: String },
    /// Map a handle or anonymous memory.
    Map { map: String, backed: Backed, pages: Pages, shared: bool, write: bool },
    /// Unmap.
    Unmap { map: String },
    /// Fault pages in.
    Touch { map: String, pages: Pages, access: Access },
    /// Store stamped cells through a mapping.
    Store { map: String, pages: Pages, generation: u64 },
    /// Write stamped cells by pwrite.
    Write { file: String, pages: Pages, generation: u64, direct: bool },
    /// Pin pages of a mapping; none: the mode of the case.
    Pin { region: String, map: String, pages: Pages, mode: Option<PinMode> },
    /// Record what the driver says of a region.
    QueryRegion { region: String },
    /// Run a DMA program.
    Dma { program: String, region: String, pages: Pages, generation: u64, passes: u64, wait: bool },
    /// Wait for a program's end.
    DmaWait { program: String },
    /// Ask a program to end.
    DmaStop { program: String },
    /// Show through the mapping that the last DMA program landed; else the case is unproven.
    ProveDma { program: String },
    /// Give a region back; none: the mode of the case.
    Release { region: String, mode: Option<Release> },
    /// fsync, its errno recorded.
    Fsync { handle: String, data_only: bool },
    /// sync(2).
    Sync,
    /// syncfs(2).
    Syncfs,
    /// Wait until no page of the file is dirty or under writeback; else the case is unproven.
    ProveClean { handle: String },
    /// Record the page-cache state.
    PageState { handle: String },
    /// Record the cells that the process sees through a mapping.
    ReadMapping { map: String },
    /// Record the cells of a file for a later comparison.
    Snapshot { file: String },
    /// Read the file in the guest, and after the case on the host, and compare.
    Compare { file: String, against: Against },
    /// Set a file's length.
    Truncate { handle: String, pages: u64 },
    /// Punch a hole.
    Punch { handle: String, pages: Pages },
    /// Zero a range.
    ZeroRange { handle: String, pages: Pages },
    /// Preallocate a range.
    Allocate { handle: String, pages: Pages },
    /// MADV_PAGEOUT.
    Pageout { map: String, pages: Pages },
    /// FICLONE into a new file.
    Reflink { from: String, to: String },
    /// Run on one CPU, or on all.
    Affinity { cpu: Option<u32> },
    /// Write a value below /sys or /proc.
    WriteSys { path: String, value: String },
    /// Overwrite a page of a file on the device, behind the file system's back.
    PokeDevice { file: String, page: u64, byte: u8 },
    /// Run a program in the guest; an exit code other than 0 is an error.
    Exec { argv: Vec<String>, timeout_ms: u32 },
}
