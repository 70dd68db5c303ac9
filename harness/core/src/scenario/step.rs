// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps of a scenario, as its author thinks of them. [`crate::machine`] turns each into the agent's steps.

use super::matrix::{Condition, Pin, Release};
use longpin_proto::agent::Access;
use longpin_proto::disk::{Fetch, InFlight};

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
    /// It runs beside the steps that follow, under this name, until it is joined.
    pub job: Option<String>,
    /// What to do.
    pub action: Act,
}

impl Step {
    /// Only a guest with the driver can do this; `pin` is the mode of the case.
    pub fn needs_driver(&self, pin: Pin) -> bool {
        match &self.action {
            Act::Pin { mode, .. } => mode.unwrap_or(pin).mode().is_some(),
            Act::LoadModule { module, .. } | Act::UnloadModule { module } => module == DRIVER_MODULE,
            _ => false,
        }
    }
}

/// Name of the driver's module.
const DRIVER_MODULE: &str = "longpin";

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

/// Index of the disk below the file systems.
pub const FIRST_DISK: u32 = 0;
/// Index of the disk that direct reads into mappings come from.
pub const SECOND_DISK: u32 = 1;

/// Requests of the disk that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matching {
    /// Writes that carry a stamp of the case.
    Stamped,
    /// Requests with a page that a region of the case pins.
    Pinned,
    /// All.
    Any,
}

/// What a rule does with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Keep writes until they are released.
    HoldWrites {
        /// When their bytes are taken.
        fetch: Fetch,
        /// Longest hold, milliseconds.
        cap_ms: u64,
    },
    /// Keep reads until they are released.
    HoldReads {
        /// Longest hold, milliseconds.
        cap_ms: u64,
    },
    /// Complete writes later.
    DelayWrites {
        /// When their bytes are taken.
        fetch: Fetch,
        /// Milliseconds.
        ms: u64,
    },
    /// Answer writes with an I/O error.
    FailWrites {
        /// Number of requests; 0: all.
        limit: u64,
    },
}

impl Treatment {
    /// Requests wait for a release.
    pub fn holds(self) -> bool {
        matches!(self, Self::HoldWrites { .. } | Self::HoldReads { .. })
    }
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
    Pin { region: String, map: String, pages: Pages, mode: Option<Pin> },
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
    /// Load a kernel module of the guest, with what it needs.
    LoadModule { module: String, params: String },
    /// Unload a kernel module.
    UnloadModule { module: String },
    /// Overwrite a page of a file on the device, behind the file system's back.
    PokeDevice { file: String, page: u64, byte: u8 },
    /// Run a program in the guest; an exit code other than 0 is an error, or, if it verifies data itself, `torn`.
    Exec { argv: Vec<String>, timeout_ms: u32, verifies: bool },
    /// Make and mount file systems on another block device from here on.
    UseDevice { path: String },
    /// Wait until a job is over or asleep, and record which.
    Settle { job: String },
    /// Wait for a job's end.
    Join { job: String },
    /// Add a rule to a disk.
    Rule { rule: String, disk: u32, matching: Matching, treatment: Treatment },
    /// Wait until a rule holds requests over so many pages; else the case is unproven.
    AwaitHeld { rule: String, pages: u64 },
    /// Let go what a rule holds.
    ReleaseHeld { rule: String },
    /// Let go what a rule holds, and end it.
    DropRule { rule: String },
    /// Note the disk's content as a loss of power now would leave it.
    PowerCut { in_flight: InFlight },
    /// Unmount, and put the noted content back.
    Restore,
}

impl Act {
    /// Only a disk of ours can do this.
    pub fn needs_audited_disk(&self) -> bool {
        matches!(
            self,
            Self::Rule { .. }
                | Self::AwaitHeld { .. }
                | Self::ReleaseHeld { .. }
                | Self::DropRule { .. }
                | Self::PowerCut { .. }
                | Self::Restore
        )
    }
}
