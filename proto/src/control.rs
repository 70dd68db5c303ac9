// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Control socket of `longpin-device` (unix stream, many clients, each request answered by one line).

use crate::disk::{AuditReport, DiskStatus, Held, HoldReport, InFlight, Rule};
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};

/// Version of this protocol, in [`Answer::Hello`].
pub const VERSION: u32 = 2;

/// Harness to device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who are you?
    Hello,
    /// Counters and state.
    Status,
    /// Write all ledger entries made before this request to the file; answers with their number.
    LedgerSync,
    /// Misbehave on purpose: how a driver copes with broken hardware is part of the test.
    Fault {
        /// Which fault; `none` ends it.
        fault: Fault,
    },
    /// A case begins: its label goes into the disks' ledger entries, the audit's hits and holds of before are
    /// forgotten, rules are dropped and held requests let go. 0: no case.
    Case {
        /// Label.
        run: u64,
    },
    /// Add a rule to a disk, after those that are there.
    AddRule(Rule),
    /// Drop a rule and let go what it holds. -> [`Answer::Released`]
    DropRule {
        /// Its name.
        rule: String,
    },
    /// Wait until held requests of a rule cover at least so many different pages (one at least). -> [`Answer::Held`]
    AwaitHeld {
        /// Name of the rule.
        rule: String,
        /// Pages that are pinned or carry a stamp; if the rule asks for neither, any pages. A request without data
        /// counts as one.
        pages: u64,
        /// Milliseconds.
        timeout_ms: u64,
    },
    /// Let go what a rule holds; what comes later is held again. Answered when the requests are completed.
    /// -> [`Answer::Released`]
    ReleaseHeld {
        /// Name of the rule.
        rule: String,
    },
    /// Write stamped cells into the guest's pages of held reads, as a device may at any time before it completes
    /// them; the ledger records it as DMA of `region`. A read that was written to is completed without reading the
    /// image.
    HeldDma {
        /// Name of the rule that holds the reads.
        rule: String,
        /// Region for stamps and ledger.
        region: u32,
        /// File offset of the first page of the held reads, taken in the order of their place on the disk.
        file_offset: u64,
        /// First byte, counted from there; a multiple of `cell_bytes`.
        offset: u64,
        /// Bytes; a multiple of `cell_bytes`. 0: the region is announced (in the ledger, and to rules and audit as
        /// who pins these pages), and nothing is written.
        len: u64,
        /// Generation of each cell.
        generation: u64,
        /// Label of the case.
        run: u64,
        /// Bytes of a cell.
        cell_bytes: u32,
    },
    /// What the audit found since [`Request::Case`]. -> [`Answer::Audit`]
    Audit,
    /// Note the content of the disk as a loss of power at this moment would leave it: completed writes are there,
    /// others by `in_flight`. The disk goes on; [`Request::Restore`] brings the noted content back.
    PowerCut {
        /// Disk.
        disk: u32,
        /// Writes in flight.
        in_flight: InFlight,
    },
    /// Put the content of the last power cut back into the image. The guest must not use the disk meanwhile.
    Restore {
        /// Disk.
        disk: u32,
    },
    /// State of all disks. -> [`Answer::Disks`]
    Disks,
    /// End the daemon as SIGTERM would.
    Shutdown,
}

impl Request {
    /// The word by which protocol and sentences name it: `await-held`.
    pub fn name(&self) -> String {
        crate::tag(self, "request")
    }
}

/// Deliberate misbehaviour of the accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// None: well-behaved.
    #[default]
    None,
    /// Requests on the control queue are taken and never answered.
    SilentControl,
    /// Each request on the control queue is executed and answered 1.2 s late, those behind it wait.
    SlowControl,
    /// DMA programs run but never complete.
    SilentDma,
    /// Answers carry the tag of another request.
    WrongTag,
    /// The used ring says that less than an answer was written.
    ShortAnswer,
    /// Each chain is used twice.
    AnswerTwice,
    /// A program's end uses a descriptor that the driver did not give.
    BadUsedId,
    /// An interrupt before each answer, with nothing behind it.
    StrayInterrupt,
    /// A region that is to be unmapped is denied, and its programs go on.
    DeniedRegion,
    /// An invalidation is answered and not executed: programs go on with pages that the kernel has taken back.
    KeptPages,
}

/// By the name that it has in a message. Errors: there is none of that name; the message has them all.
impl std::str::FromStr for Fault {
    type Err = serde::de::value::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::deserialize(name.into_deserializer())
    }
}

/// Device to harness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Version of the program.
        program: String,
    },
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::LedgerSync`].
    LedgerSync {
        /// Entries in the file.
        entries: u64,
    },
    /// To [`Request::AwaitHeld`].
    Held {
        /// Requests that the rule holds now.
        requests: Vec<Held>,
        /// They cover as many pages as was asked for; false: the time was over.
        complete: bool,
    },
    /// To [`Request::ReleaseHeld`] and [`Request::DropRule`].
    Released {
        /// What was let go.
        holds: Vec<HoldReport>,
    },
    /// To [`Request::Audit`].
    Audit(AuditReport),
    /// To [`Request::Disks`].
    Disks {
        /// In the order of the daemon's `--disk` options.
        disks: Vec<DiskStatus>,
    },
    /// Done.
    Ok,
    /// The request failed or was not understood.
    Error {
        /// Why.
        message: String,
    },
}

/// State of the accelerator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The driver has set both queues up.
    pub driver_ready: bool,
    /// Regions mapped now.
    pub regions: u32,
    /// Programs running or waiting.
    pub programs: u32,
    /// Requests taken from the rings.
    pub requests: u64,
    /// Requests refused (malformed, unknown region, bad address, limit).
    pub refused: u64,
    /// Cells written.
    pub cells: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Ledger entries made.
    pub ledger_entries: u64,
    /// Why the ledger takes no more entries, if it has failed.
    #[serde(default)]
    pub ledger_failure: Option<String>,
}
