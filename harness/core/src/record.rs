// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All raw evidence of one case, in the order in which it was seen. A record says what was asked for and what came
//! back, nothing more; a verdict is a function of it, so a record kept on disk can be judged again.

use longpin_proto::agent::{Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::facts::{Cells, Extent};
/// Entries of the device's ledger are evidence as they were written.
pub use longpin_wire::ledger::{DiskEntry as DiskLedgerEntry, Entry as LedgerEntry};
use serde::{Deserialize, Serialize};

/// Version of the document, [`CaseRecord::schema`].
pub const SCHEMA: u32 = 1;

/// What a step of the agent is for: the same call can be part of the experiment or a proof that is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A step of the scenario.
    Act,
    /// Preparation or clean-up of the machine's own.
    Frame,
    /// Kernel log lines since the case before it has ended, or since the boot was ready: whoever caused them, a case
    /// must not go on in a kernel that is hurt.
    Drain,
    /// Pin counters before the first step.
    Before,
    /// Pin counters after clean-up.
    After,
    /// Pages must be clean, or the case is unproven. Asked again until they are.
    ProveClean,
    /// The last DMA program must be visible through the mapping, or the case is unproven.
    ProveDma,
    /// A job must be over or asleep, or the case is unproven. Asked again until it is.
    Settle,
    /// A program that checks the data itself.
    Verify,
    /// Content to be compared with later.
    Snapshot,
    /// Content to be compared with what was written.
    CompareWrites,
    /// Content to be compared with the snapshot of the same file.
    CompareSnapshot,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "evidence", rename_all = "kebab-case")]
pub enum Evidence {
    /// A step of the agent and its answer.
    Step {
        /// Line of the scenario file, 0 for the machine's own steps.
        line: usize,
        /// The scenario's step in a word or two, `dma 101`; empty for the machine's own.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        label: String,
        /// What it is for.
        role: Role,
        /// What was asked.
        step: Step,
        /// What came back.
        outcome: Outcome,
        /// Microseconds it took in the guest.
        elapsed_us: u64,
        /// When it was sent, CLOCK_MONOTONIC of the host, ns; 0: not known.
        #[serde(default)]
        began_ns: u64,
        /// When the answer came.
        #[serde(default)]
        ended_ns: u64,
    },
    /// A request to the auditing disk and its answer.
    Disk {
        /// Line of the scenario file, 0 for the machine's own requests.
        line: usize,
        /// The scenario's step in a word or two, `hold-write`; empty for the machine's own.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        label: String,
        /// What was asked.
        request: Request,
        /// What came back, or why it was refused.
        answer: Result<Answer, String>,
        /// When it was sent, CLOCK_MONOTONIC of the host, ns.
        began_ns: u64,
        /// When the answer came.
        ended_ns: u64,
    },
    /// The word of the file system's own checker on the image, after the guest has unmounted.
    Fsck(FsckReport),
    /// The checker could not be run.
    FsckFailed {
        /// File system.
        fs: String,
        /// Why.
        message: String,
    },
    /// Content of a file as the host reads it from the raw image.
    Image {
        /// Path in the guest.
        path: String,
        /// Where the file system said that it is, all extents.
        extents: Vec<Extent>,
        /// Cells, or why the image could not be read.
        result: Result<Cells, String>,
    },
    /// The device's record of this case.
    Ledger {
        /// Entries in the order of their time.
        entries: Vec<LedgerEntry>,
        /// Those of the disks, in the order of their time.
        #[serde(default)]
        disk: Vec<DiskLedgerEntry>,
    },
    /// The case was cut short.
    Trouble(Trouble),
    /// The case cannot be tried here: nothing was done.
    Skip {
        /// What is missing.
        message: String,
    },
    /// The guest powered off after this case, the last of its boot: its console since the case began. What the case's own
    /// readings of the kernel log have of it is not new.
    PowerOff {
        /// Lines of the console, the last ones and those that mean something.
        console: Vec<String>,
    },
    /// The harness gave a proof up.
    Unproven {
        /// Line of the scenario file.
        line: usize,
        /// What was to be shown, and what was seen instead.
        message: String,
    },
}

/// What can cut a case short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "trouble", rename_all = "kebab-case")]
pub enum Trouble {
    /// The guest kernel panicked.
    Panic {
        /// Last lines of the console.
        console: Vec<String>,
    },
    /// No answer and no heartbeat within the deadline, or a step that went on past its own.
    Hang {
        /// What was waited for and how long.
        waited: String,
        /// Last lines of the console.
        console: Vec<String>,
    },
    /// The agent's channel closed, or carried garbage.
    AgentLost {
        /// What was seen.
        message: String,
    },
    /// The device daemon is gone.
    DeviceLost {
        /// What was seen.
        message: String,
    },
    /// QEMU ended without a panic of the guest.
    QemuExited {
        /// Exit status and last output.
        message: String,
    },
    /// The user asked to stop.
    Interrupted,
    /// Anything else of ours: no space for artifacts, for instance.
    Other {
        /// What happened.
        message: String,
    },
}

/// Output of a file system's checker that only looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// File system.
    pub fs: String,
    /// Command as it was run.
    pub argv: Vec<String>,
    /// Exit code; 128 + signal.
    pub code: i32,
    /// Standard output and error, the last 64 KiB.
    pub output: String,
}

/// The record of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Id of the case.
    pub id: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Label in every stamp and ledger entry.
    pub run: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
    /// Evidence, in order.
    pub evidence: Vec<Evidence>,
}

impl CaseRecord {
    /// An empty record.
    pub fn new(id: impl Into<String>, attempt: u32, run: u64, cell_bytes: u32) -> Self {
        Self { schema: SCHEMA, id: id.into(), attempt, run, cell_bytes, evidence: Vec::new() }
    }
}
