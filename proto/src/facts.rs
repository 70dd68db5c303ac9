// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Facts: what was seen, without judgement. The agent states them, the harness adds those of the host.

use longpin_wire::stamp;
use serde::{Deserialize, Serialize};

/// A system call's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errno {
    /// Number.
    pub errno: i32,
    /// Name, `EFAULT`.
    pub name: String,
    /// Call that was refused, `ioctl(LONGPIN_IOC_PIN)`.
    pub call: String,
}

/// What one cell holds (`stamp::Cell`, in text).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CellState {
    /// Only zero bytes.
    Zero,
    /// Header and body agree, and the header's file offset is where the cell was found.
    Whole(Writer),
    /// A whole cell of another file offset (or, by `run`, of another case).
    Displaced {
        /// Who wrote it.
        writer: Writer,
        /// The offset it was written for.
        stamped_offset: u64,
    },
    /// The header is whole, the body is not its own.
    Torn {
        /// Who wrote the header.
        writer: Writer,
        /// First byte of the cell that disagrees.
        first_bad_byte: u32,
    },
    /// No whole header.
    Foreign {
        /// First 32 bytes, hex.
        head: String,
    },
    /// Could not be read: the errno (EIO from a checksum, for instance).
    Unreadable {
        /// Why.
        errno: i32,
    },
    /// Past the end of the file.
    Absent,
}

/// Who wrote a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Label of the case.
    pub run: u64,
    /// Region, 0 for a CPU.
    pub region: u32,
    /// Counter.
    pub generation: u64,
    /// DMA, CPU or planted.
    pub source: Source,
}

/// Kind of writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The accelerator.
    Dma,
    /// `write(2)` or a store of the guest.
    Cpu,
    /// A control's deliberate corruption.
    Planted,
    /// A number that this version does not know.
    Unknown,
}

impl Source {
    /// From `stamp::SOURCE_*`.
    pub fn from_wire(source: u32) -> Self {
        match source {
            stamp::SOURCE_DMA => Self::Dma,
            stamp::SOURCE_CPU => Self::Cpu,
            stamp::SOURCE_PLANTED => Self::Planted,
            _ => Self::Unknown,
        }
    }

    /// To `stamp::SOURCE_*`; 0 for [`Source::Unknown`].
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Dma => stamp::SOURCE_DMA,
            Self::Cpu => stamp::SOURCE_CPU,
            Self::Planted => stamp::SOURCE_PLANTED,
            Self::Unknown => 0,
        }
    }
}

impl CellState {
    /// Decode one cell that was found at `file_offset`.
    pub fn of(cell: &[u8], file_offset: u64) -> Self {
        let writer = |s: &stamp::Stamp| Writer {
            run: s.run,
            region: s.region,
            generation: s.generation,
            source: Source::from_wire(s.source),
        };
        match stamp::decode(cell) {
            stamp::Cell::Zero => Self::Zero,
            stamp::Cell::Whole(s) if s.file_offset == file_offset => Self::Whole(writer(&s)),
            stamp::Cell::Whole(s) => Self::Displaced { writer: writer(&s), stamped_offset: s.file_offset },
            stamp::Cell::Torn { stamp, first_bad_byte } => {
                Self::Torn { writer: writer(&stamp), first_bad_byte: first_bad_byte as u32 }
            }
            stamp::Cell::Foreign => {
                Self::Foreign { head: cell.iter().take(32).map(|b| format!("{b:02x}")).collect() }
            }
        }
    }
}

/// Neighbouring cells of the same state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellRun {
    /// File offset of the first cell.
    pub offset: u64,
    /// Number of cells.
    pub count: u64,
    /// State of each.
    #[serde(flatten)]
    pub state: CellState,
}

/// Content of (a part of) a file, cell by cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// Bytes of a cell.
    pub cell_bytes: u32,
    /// Runs in ascending order, without gaps.
    pub runs: Vec<CellRun>,
    /// BLAKE3 of the bytes that could be read, hex: for "unchanged" without naming each byte.
    pub hash: String,
}

impl Cells {
    /// Decode `bytes`, found at file offset `offset`; the last cell may be short (then it is foreign or zero).
    /// `hash` is the caller's.
    pub fn decode(bytes: &[u8], offset: u64, cell_bytes: u32, hash: String) -> Self {
        let mut cells = Self { cell_bytes, runs: Vec::new(), hash };
        for (index, cell) in bytes.chunks(cell_bytes as usize).enumerate() {
            let at = offset + index as u64 * u64::from(cell_bytes);
            cells.push(at, 1, CellState::of(cell, at));
        }
        cells
    }

    /// Append `count` cells of one state, merging with the last run.
    pub fn push(&mut self, offset: u64, count: u64, state: CellState) {
        match self.runs.last_mut() {
            Some(last)
                if last.state == state && last.offset + last.count * u64::from(self.cell_bytes) == offset =>
            {
                last.count += count;
            }
            _ => self.runs.push(CellRun { offset, count, state }),
        }
    }

    /// Every cell with its file offset.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &CellState)> {
        let cell_bytes = u64::from(self.cell_bytes);
        self.runs
            .iter()
            .flat_map(move |run| (0..run.count).map(move |i| (run.offset + i * cell_bytes, &run.state)))
    }
}

/// Where a piece of a file is on its device (FIEMAP, translated to device bytes for btrfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// File offset.
    pub logical: u64,
    /// Byte on the device; 0 if `located` is false.
    pub physical: u64,
    /// Bytes.
    pub len: u64,
    /// FIEMAP flags as the kernel gave them.
    pub flags: u32,
    /// The bytes lie on the device as they are: not inline, delayed, encoded, unwritten.
    pub located: bool,
}

/// Where the state of pages in the page cache is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageStateSource {
    /// `cachestat(2)`, since Linux 6.5: it looks without touching a page.
    Cachestat,
    /// `/proc/kpageflags`, of the pages that a mapping made for it shows in `/proc/PID/pagemap`. Pages that are in the
    /// cache get mapped for a moment; evicted ones are not counted.
    Kpageflags,
}

impl PageStateSource {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cachestat => "cachestat",
            Self::Kpageflags => "kpageflags",
        }
    }
}

/// State of a page range in the page cache, by [`PageStateSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageState {
    /// Pages present.
    pub cached: u64,
    /// Pages dirty.
    pub dirty: u64,
    /// Pages under writeback.
    pub writeback: u64,
    /// Pages evicted; 0 where only `/proc/kpageflags` tells.
    pub evicted: u64,
}

/// Pin counters of `/proc/vmstat`, refreshed before they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinCounters {
    /// `nr_foll_pin_acquired`.
    pub acquired: u64,
    /// `nr_foll_pin_released`.
    pub released: u64,
}

/// Text of the line by which the agent reports that the kernel log was overrun: records before it are lost.
pub const KERNEL_LOG_OVERRUN: &str = "longpin-agent: kernel log overrun, records before this one are lost";

/// One line of the kernel log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLine {
    /// Sequence number of `/dev/kmsg`.
    pub seq: u64,
    /// Priority, 0 (emerg) to 7 (debug).
    pub level: u8,
    /// Microseconds since boot.
    pub time_us: u64,
    /// Text.
    pub text: String,
}

/// What the driver says of a region (`uapi::Query`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// Base pages.
    pub pages: u32,
    /// DMA segments.
    pub segments: u32,
    /// Programs running.
    pub running: u32,
    /// Pages whose folio still belongs to a mapping.
    pub pages_with_mapping: u32,
    /// Zone index of the first page.
    pub zone: u32,
    /// Base pages in the folio of the first page.
    pub folio_pages: u32,
}

/// A region that nobody pins: the device faults for its pages, and gives back what the kernel takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorState {
    /// Base pages.
    pub pages: u32,
    /// Of those, the device has so many now.
    pub known: u64,
    /// Invalidations that took a page from the device.
    pub invalidations: u64,
    /// The longest of them held its caller in the kernel for so many nanoseconds.
    pub longest_invalidation_ns: u64,
    /// Faults of the device that were answered with a page.
    pub faults: u64,
    /// Faults that were refused.
    pub refused: u64,
    /// Times that a page was taken again on its way to the device.
    pub retries: u64,
}

/// A pin that the driver did not take. Nobody says where its pages lie and whether they still belong to their file: the
/// users of `pin_user_pages` tell nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Number of the region in stamps, chosen by the agent: far from those of the driver.
    pub region: u32,
    /// By how many the references of pins grew meanwhile, in the whole guest (`nr_foll_pin_acquired` -
    /// `nr_foll_pin_released`).
    pub references: i64,
    /// Who, and how, as a program of the user's says it; empty: a call of the kernel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl Pinned {
    /// The first [`Pinned::region`].
    pub const FIRST_REGION: u32 = 0x9000_0001;
}

/// End of a DMA program (`uapi::Wait`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaResult {
    /// `dma::STATUS_` constant.
    pub status: u32,
    /// Why the driver gave the device no page, an errno: with `dma::STATUS_FAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_errno: Option<u32>,
    /// Cells moved.
    pub cells_done: u64,
    /// Cells that the device has written without an error, and that never came to memory: something between the two kept
    /// them off, an IOMMU for instance. All of the program's, or none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept_off: u64,
    /// Last whole pass; 0: none.
    pub last_generation: u64,
    /// Start on the device's clock.
    pub started_ns: u64,
    /// End on the device's clock.
    pub finished_ns: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A step that runs in a thread of its own, as the kernel shows the thread. Of `exec` it is the program's first process
/// that is shown while there is one, since the thread only waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Its step is over.
    pub finished: bool,
    /// Microseconds since it began, or that it took.
    pub elapsed_us: u64,
    /// State of the thread by `/proc/PID/task/TID/stat`: `R`, `S`, `D`, ...; `-` when finished.
    pub state: char,
    /// Functions in which the thread waits, innermost first, by `/proc/PID/task/TID/stack`; empty if it runs.
    pub stack: Vec<String>,
}
