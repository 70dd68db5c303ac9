// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Harness and agent: the harness sends [`Command`]s one at a time, the agent answers each with one [`Message::Reply`].
//! Beside that the agent sends [`Message::Hello`] once and [`Message::Heartbeat`] while a step is slow.
//!
//! The agent states facts, never verdicts. Objects of a step are named by the scenario: a file handle "a", a mapping
//! "m", a region "r", a program "p"; naming one twice or one that does not exist is [`Outcome::Failed`].

use crate::facts::{
    Cells, DmaResult, Errno, Extent, JobState, KernelLine, MirrorState, PageState, PageStateSource,
    PinCounters, Pinned, RegionState, Source,
};
use serde::{Deserialize, Serialize};

/// Version of this protocol, in [`Message::Hello`].
pub const VERSION: u32 = 6;
/// Name of the virtio-serial port: `/dev/virtio-ports/…`, or `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "longpin.agent";
/// A heartbeat comes at least this often while a step is running, milliseconds.
pub const HEARTBEAT_MS: u64 = 1000;

/// One order to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Counts up from 1; the reply carries the same.
    pub seq: u64,
    /// What to do.
    #[serde(flatten)]
    pub step: Step,
}

/// How bytes of a file are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// `pread`, through the page cache.
    #[default]
    Buffered,
    /// `pread` with O_DIRECT.
    Direct,
}

/// Stamps to be written by a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Label of the case.
    pub run: u64,
    /// Generation of each cell.
    pub generation: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
    /// Kind of writer, normally `cpu`.
    pub source: Source,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenFlags {
    /// O_RDWR instead of O_RDONLY.
    pub write: bool,
    /// O_CREAT.
    pub create: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_DIRECT.
    pub direct: bool,
}

/// What backs a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backing", rename_all = "kebab-case")]
pub enum Backing {
    /// An open file handle.
    File {
        /// Handle.
        file: String,
        /// Offset in the file, page-aligned.
        offset: u64,
    },
    /// Anonymous memory.
    Anonymous,
    /// Anonymous hugetlb memory of 2 MiB pages.
    Hugetlb,
}

/// Kind of access that faults pages in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Load one byte of each page.
    Read,
    /// Load one byte of each page and store the same byte back: a write fault that changes nothing.
    Write,
}

/// How pages are pinned: by the driver, whose numbers are in `wire::uapi`, or by another user of `pin_user_pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinMode {
    /// FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
    Longterm,
    /// FOLL_PIN | FOLL_LONGTERM; the device writes all the same.
    LongtermRo,
    /// FOLL_PIN | FOLL_WRITE, held.
    Pin,
    /// get_user_pages with FOLL_WRITE, put_page.
    Get,
    /// No reference: an mmu_interval_notifier, and a device that faults for each page that it comes to.
    Notifier,
    /// The same, with all pages brought in for reading first; a write of the device faults for itself.
    NotifierRo,
    /// A registered buffer of io_uring: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back without a dirty bit.
    #[serde(rename = "io_uring")]
    IoUring,
    /// process_vm_writev(2) in the middle of its copy: FOLL_PIN | FOLL_WRITE, given back dirty.
    VmWritev,
    /// VFIO_IOMMU_MAP_DMA for a device behind an IOMMU: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back dirty.
    Vfio,
    /// The same for reading only, FOLL_PIN | FOLL_LONGTERM, given back clean; the device writes all the same.
    VfioRo,
    /// The packet memory of an AF_XDP socket: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back dirty.
    Xdp,
    /// A memory region of RDMA, by the software device rxe: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back dirty.
    Rxe,
    /// The same on demand: no reference, an mmu_interval_notifier, and rxe faults for each page that it comes to.
    RxeOdp,
    /// By the program of the user's that lies at [`crate::pinner::GUEST_PATH`].
    Exec,
}

impl PinMode {
    /// Somebody holds references to the pages; else they come and go, and the device follows.
    pub fn holds_pages(self) -> bool {
        !matches!(self, Self::Notifier | Self::NotifierRo | Self::RxeOdp)
    }

    /// The driver pins, and its device writes; else the agent has somebody else do both.
    pub fn by_driver(self) -> bool {
        match self {
            Self::Longterm | Self::LongtermRo | Self::Pin | Self::Get | Self::Notifier | Self::NotifierRo => {
                true
            }
            Self::IoUring
            | Self::VmWritev
            | Self::Vfio
            | Self::VfioRo
            | Self::Xdp
            | Self::Rxe
            | Self::RxeOdp
            | Self::Exec => false,
        }
    }

    /// The guest needs an IOMMU, and behind it a device that a program may drive: QEMU's `edu`.
    pub fn behind_iommu(self) -> bool {
        matches!(self, Self::Vfio | Self::VfioRo)
    }

    /// Modules of the guest's kernel that the agent loads for it, in this order.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Vfio | Self::VfioRo => &["vfio_iommu_type1", "vfio_pci"],
            Self::Rxe | Self::RxeOdp => &["dummy", "rdma_rxe", "ib_uverbs"],
            _ => &[],
        }
    }

    /// Flags of `pin_user_pages` behind it, and the call that has them if that is not the driver's.
    pub fn flags(self) -> &'static str {
        match self {
            Self::Longterm => "FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE",
            Self::LongtermRo => "FOLL_PIN | FOLL_LONGTERM",
            Self::Pin => "FOLL_PIN | FOLL_WRITE",
            Self::Get => "FOLL_GET",
            Self::Notifier => "no reference: mmu_interval_notifier",
            Self::NotifierRo => "no reference: mmu_interval_notifier, brought in for reading",
            Self::IoUring => "registered buffer of io_uring: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE",
            Self::Vfio => "VFIO_IOMMU_MAP_DMA: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE",
            Self::VfioRo => "VFIO_IOMMU_MAP_DMA for reading only: FOLL_PIN | FOLL_LONGTERM",
            Self::Xdp => "packet memory of AF_XDP: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE",
            Self::Rxe => "REG_MR of rxe: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE",
            Self::RxeOdp => "REG_MR of rxe on demand: no reference: mmu_interval_notifier",
            Self::Exec => "a program of the user's, as it likes",
            Self::VmWritev => "process_vm_writev: FOLL_PIN | FOLL_WRITE",
        }
    }
}

/// A DMA program that writes stamped cells in ascending order; fields as in `wire::dma::DmaRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// First byte in the region.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Generation of the first pass.
    pub generation: u64,
    /// Passes, 0: no limit.
    pub passes: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
}

/// fallocate(2) modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallocate {
    /// Allocate, grow.
    Allocate,
    /// FALLOC_FL_PUNCH_HOLE | KEEP_SIZE.
    PunchHole,
    /// FALLOC_FL_ZERO_RANGE.
    ZeroRange,
}

/// A lease of a file (fcntl(2), F_SETLEASE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lease {
    /// F_RDLCK.
    Read,
    /// F_WRLCK.
    Write,
    /// F_UNLCK.
    None,
}

/// madvise(2) advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// MADV_PAGEOUT.
    Pageout,
    /// MADV_DONTNEED.
    Dontneed,
    /// MADV_HUGEPAGE.
    Hugepage,
    /// MADV_POPULATE_READ.
    PopulateRead,
    /// MADV_POPULATE_WRITE.
    PopulateWrite,
}

/// What the agent can do. Operations that scenarios have as steps bear the name of the step; `alias` is how records of
/// earlier versions call them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are the parameters of the call that the variant names")]
pub enum Step {
    /// Load a kernel module and what it needs, in the order of `/lib/longpin/modules`. -> Nothing
    LoadModule { name: String, params: String },
    /// Unload a kernel module. -> Nothing
    UnloadModule { name: String },
    /// Run the program of [the table](crate::filesystem) that makes FS, as `PROGRAM ARGS DEVICE`. -> Text
    Mkfs { fs: String, device: String, args: Vec<String> },
    /// mount(2); makes the directory. -> Nothing
    Mount { fs: String, device: String, dir: String, options: String },
    /// umount2(2). -> Nothing
    #[serde(alias = "unmount")]
    Umount { dir: String },
    /// Where the file system of a mount has layers: an empty one above them, for the next mount. -> Nothing
    AddLayer { dir: String },
    /// Write stamped cells with pwrite (O_DIRECT if the handle has it). -> Nothing
    #[serde(alias = "write-cells")]
    Write { file: String, offset: u64, len: u64, fill: Fill },
    /// Open a file under a handle. -> Nothing
    Open { file: String, path: String, flags: OpenFlags },
    /// Close a handle. -> Nothing
    Close { file: String },
    /// mmap(2). -> Nothing
    Map {
        map: String,
        #[serde(flatten)]
        backing: Backing,
        len: u64,
        shared: bool,
        write: bool,
    },
    /// munmap(2). -> Nothing
    Unmap { map: String },
    /// Fault pages in. -> Nothing
    Touch { map: String, offset: u64, len: u64, access: Access },
    /// Store stamped cells through a mapping. -> Nothing
    Store { map: String, offset: u64, len: u64, fill: Fill },
    /// madvise(2). -> Nothing
    #[serde(alias = "advise")]
    Madvise { map: String, offset: u64, len: u64, advice: Advice },
    /// msync(2) with MS_SYNC. -> Nothing
    Msync { map: String, offset: u64, len: u64 },
    /// Pin a part of a mapping. `file_offset` is the label of its first byte. -> Region; Pinned if the mode is not the
    /// driver's
    Pin { region: String, map: String, offset: u64, len: u64, mode: PinMode, file_offset: u64, run: u64 },
    /// Ask the driver about a region. -> Region
    QueryRegion { region: String },
    /// Submit a program. Where the driver does not pin it is over with the step. -> Nothing
    Dma {
        program: String,
        region: String,
        #[serde(flatten)]
        dma: Program,
        run: u64,
    },
    /// Wait for a program's end. -> Dma
    DmaWait { program: String, timeout_ms: u32 },
    /// Ask a program to end; collect it with `dma-wait`. -> Nothing
    DmaStop { program: String },
    /// Give a region back; what the kernel pins for a call of its own as that call does it, whatever `dirty` says.
    /// -> Nothing
    Release { region: String, dirty: bool },
    /// Leave the driver's open file, with all its regions and programs, to a child process, and kill that. -> Nothing
    KillOwner,
    /// fsync(2) or fdatasync(2). -> Nothing
    Fsync { file: String, data_only: bool },
    /// sync(2). -> Nothing
    Sync,
    /// syncfs(2) on a directory. -> Nothing
    Syncfs { dir: String },
    /// cachestat(2), or what the kernel has instead ([`PageStateSource`]). -> PageState
    PageState { file: String, offset: u64, len: u64 },
    /// Read cells of a file. A part that cannot be read is a fact, not an error of the step. -> Cells
    #[serde(alias = "read-cells")]
    Read { path: String, offset: u64, len: u64, cell_bytes: u32, via: Via },
    /// Read cells through a mapping, as the process sees them. -> Cells
    ReadMapping { map: String, offset: u64, len: u64, cell_bytes: u32, file_offset: u64 },
    /// FIEMAP with FIEMAP_FLAG_SYNC; on btrfs translated to device bytes by the chunk tree. -> Extents
    Extents { path: String },
    /// /proc/sys/vm/drop_caches = 3, after sync. -> Nothing
    DropCaches,
    /// ftruncate(2). -> Nothing
    Truncate { file: String, len: u64 },
    /// fallocate(2). -> Nothing
    Fallocate { file: String, mode: Fallocate, offset: u64, len: u64 },
    /// fcntl(F_SETLEASE) on a handle. -> Nothing
    Lease { file: String, lease: Lease },
    /// Wait until the kernel asks for the write lease of a handle (F_GETLEASE says what it shall become). -> Nothing
    AwaitLeaseBreak { file: String, timeout_ms: u32 },
    /// ioctl(FICLONE). -> Nothing
    Reflink { from: String, to: String },
    /// ioctl(FIDEDUPERANGE) of the first bytes of both files, whose contents must be the same, else
    /// [`Outcome::Failed`]. -> Nothing
    Dedupe { from: String, to: String, len: u64 },
    /// copy_file_range(2) of the first bytes. -> Nothing
    CopyRange { from: String, to: String, len: u64 },
    /// Overwrite bytes of a block device with one byte value, O_DIRECT: the planted corruption. -> Nothing
    PokeDevice { device: String, offset: u64, len: u64, byte: u8 },
    /// fork(2): the child does nothing, and lives until [`Step::Cleanup`]. -> Nothing
    Fork,
    /// Pin counters, after stat_refresh. -> Pins
    PinCounters,
    /// Kernel log lines since the last call of this step (or boot). -> Log
    KernelLog,
    /// Write "1" to /sys/kernel/debug/clear_warn_once. -> Nothing
    ClearWarnOnce,
    /// Write a value to a file below /sys or /proc. -> Nothing
    WriteSys { path: String, value: String },
    /// Run only on this CPU. None: all. -> Nothing
    Affinity { cpu: Option<u32> },
    /// Run a program with a deadline; exit code and output. -> Exec
    Exec { argv: Vec<String>, timeout_ms: u32 },
    /// Read with O_DIRECT from a device (or file) into a mapping: the kernel pins the mapping's pages until the read
    /// is completed. One pread; fewer bytes than asked for are [`Outcome::Failed`]. -> Nothing
    ReadDirect { map: String, offset: u64, len: u64, device: String, device_offset: u64 },
    /// Run a step in a thread of its own and go on. Only these can: `fsync`, `msync`, `sync`, `syncfs`, `store`, `touch`,
    /// `pin`, `write`, `read`, `read-direct`, `umount`, `truncate`, `fallocate`, `reflink`, `exec`. Objects that it
    /// makes are there after `join`. -> Nothing
    Spawn { job: String, step: Box<Step> },
    /// Has a job ended, and if not, where in the kernel is it? -> Job
    #[serde(alias = "job-state")]
    Settle { job: String },
    /// Wait for a job's end; the outcome is that of its step. A job that goes on is [`Outcome::Failed`], and stays.
    #[serde(alias = "job-wait")]
    Join { job: String, timeout_ms: u32 },
    /// Let go of everything that steps made (programs, regions, mappings, handles, mounts), in that order. -> Text
    Cleanup,
    /// A program at a terminal on a second port, until it exits: an interactive shell if `argv` is empty. A terminal that
    /// is `plain` neither echoes nor changes what is printed. Output went to the port: that of the answer is empty.
    /// -> Exec
    Shell { argv: Vec<String>, plain: bool },
    /// Power off. No reply.
    PowerOff,
}

impl Step {
    /// The word by which protocol, records and sentences name it: `umount`, `query-region`.
    pub fn name(&self) -> String {
        crate::tag(self, "op")
    }
}

/// Agent to harness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    /// Once, when the agent is ready.
    Hello(Hello),
    /// A step is running: its number and how long.
    Heartbeat {
        /// Number of the step.
        seq: u64,
        /// Milliseconds since it began.
        elapsed_ms: u64,
        /// Where in the kernel is who carries it out, or the job or program that it waits for: "state D in a < b",
        /// functions innermost first.
        #[serde(default)]
        place: String,
    },
    /// A step is over.
    Reply {
        /// Number of the step.
        seq: u64,
        /// Microseconds it took.
        elapsed_us: u64,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome,
    },
}

/// Introduction of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -v`.
    pub kernel_version: String,
    /// Kernel command line.
    pub cmdline: String,
    /// CPUs online.
    pub cpus: u32,
    /// MemTotal in KiB.
    pub memory_kib: u64,
    /// Microseconds of CLOCK_BOOTTIME.
    pub uptime_us: u64,
    /// How the agent answers `page-state`.
    pub page_state: PageStateSource,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done {
        /// What was seen.
        fact: Fact,
    },
    /// The kernel refused: a fact, not a fault.
    Refused(Errno),
    /// The step could not be carried out: no such name, a helper program failed, a bug. Infrastructure.
    Failed {
        /// Why. `reason` on the wire: `message` is the tag of [`Message`], into which an outcome is flattened.
        #[serde(rename = "reason")]
        message: String,
    },
}

/// What a step saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", content = "value", rename_all = "kebab-case")]
pub enum Fact {
    /// Nothing to tell.
    Nothing,
    /// Region after pin or query.
    Region(RegionState),
    /// Region that nobody pins, after pin or query.
    Mirror(MirrorState),
    /// Region after a pin that the driver did not take.
    Pinned(Pinned),
    /// End of a program.
    Dma(DmaResult),
    /// Page cache.
    PageState(PageState),
    /// Content.
    Cells(Cells),
    /// Placement.
    Extents(Vec<Extent>),
    /// Counters.
    Pins(PinCounters),
    /// Kernel log.
    Log(Vec<KernelLine>),
    /// Output of a program.
    Exec {
        /// Exit code; 128 + signal.
        code: i32,
        /// Standard output and error, the last 64 KiB.
        output: String,
    },
    /// A step that runs concurrently.
    Job(JobState),
    /// Text.
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{CellRun, CellState, Writer};
    use crate::line;

    fn survives<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T) {
        let mut wire = Vec::new();
        line::send(&mut wire, message).unwrap();
        assert_eq!(&line::parse::<T>(&wire).unwrap(), message, "{}", String::from_utf8_lossy(&wire));
    }

    fn reply(outcome: Outcome) -> Message {
        Message::Reply { seq: 7, elapsed_us: 8, outcome }
    }

    #[test]
    fn every_kind_of_message_survives_the_line() {
        survives(&Message::Heartbeat { seq: 1, elapsed_ms: 1000, place: "state D in a < b".into() });
        survives(&reply(Outcome::Failed { message: "no such file".into() }));
        survives(&reply(Outcome::Refused(Errno { errno: 14, name: "EFAULT".into(), call: "mmap".into() })));
        survives(&reply(Outcome::Done { fact: Fact::Nothing }));
    }

    #[test]
    fn every_state_of_a_cell_survives_the_line() {
        let writer = Writer { run: u64::MAX, region: 1, generation: 2, source: Source::Dma };
        let states = [
            CellState::Zero,
            CellState::Whole(writer),
            CellState::Displaced { writer, stamped_offset: 4096 },
            CellState::Torn { writer, first_bad_byte: 48 },
            CellState::Foreign { head: "00ff".into() },
            CellState::Unreadable { errno: 5 },
            CellState::Absent,
        ];
        let run = |(index, state)| CellRun { offset: index as u64 * 512, count: 1, state };
        let runs = states.into_iter().enumerate().map(run).collect();
        let cells = Cells { cell_bytes: 512, runs, hash: "00".into() };
        survives(&reply(Outcome::Done { fact: Fact::Cells(cells) }));
    }

    #[test]
    fn flattened_steps_survive_the_line() {
        let backing = Backing::File { file: "a".into(), offset: 4096 };
        let step = Step::Map { map: "m".into(), backing, len: 8192, shared: true, write: true };
        survives(&Command { seq: 1, step });
        let dma = Program { offset: 0, len: 4096, generation: 2, passes: 1, cell_bytes: 512 };
        survives(&Command {
            seq: 2,
            step: Step::Dma { program: "p".into(), region: "r".into(), dma, run: 9 },
        });
        survives(&Command { seq: 3, step: Step::Affinity { cpu: None } });
    }
}
