// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Control socket of `longpin-device` (unix stream, many clients, each request answered by one line).

use serde::{Deserialize, Serialize};

/// Version of this protocol, in [`Answer::Hello`].
pub const VERSION: u32 = 1;

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
    /// End the daemon as SIGTERM would.
    Shutdown,
}

/// Deliberate misbehaviour of the accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// None: well-behaved.
    None,
    /// Requests on the control queue are taken and never answered.
    SilentControl,
    /// DMA programs run but never complete.
    SilentDma,
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
