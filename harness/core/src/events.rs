// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The story of a run, event by event. Everything that people and machines see of a run (progress, table, JSON) is a
//! view of these events; a new format is one more view and no other change.

use crate::race::Race;
use crate::result::{BootResult, CaseResult, Environment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The run begins: its environment as far as it is known, and the ids of its cases.
    RunStarted {
        /// See [`Environment`].
        environment: Box<Environment>,
        /// Labels of all cases, in order.
        cases: Vec<String>,
        /// When, RFC 3339.
        started: String,
        /// The command line that repeats it.
        command: String,
        /// A flaky case does not make the run fail.
        #[serde(default)]
        allow_flaky: bool,
        /// What its scenarios declare of races, by the id of the case.
        #[serde(default)]
        races: BTreeMap<String, Race>,
    },
    /// More is known of the environment (the guest told its kernel).
    EnvironmentKnown {
        /// The whole of it.
        environment: Box<Environment>,
    },
    /// A virtual machine is being started.
    BootStarted {
        /// Number, from 1.
        boot: u32,
    },
    /// The agent said hello.
    BootReady {
        /// Number.
        boot: u32,
        /// Seconds from start to hello.
        seconds: f64,
    },
    /// A virtual machine is gone.
    BootEnded(BootResult),
    /// A case begins.
    CaseStarted {
        /// Label.
        case: String,
        /// Boot.
        boot: u32,
    },
    /// A case is at a line of its scenario.
    CaseProgress {
        /// Label.
        case: String,
        /// Line of the scenario file.
        line: usize,
    },
    /// Cases that were not as expected are run again, each in a boot of its own.
    RetriesStarted {
        /// Which time, from 1.
        round: u32,
        /// Labels of these attempts.
        cases: Vec<String>,
    },
    /// The run ends before its last case, as it was told to. What did not run never reports.
    Stopped {
        /// Why.
        reason: String,
    },
    /// A case is over.
    CaseFinished(Box<CaseResult>),
    /// Something that people should know once: "no usable KVM: TCG".
    Notice {
        /// Text.
        text: String,
    },
    /// The user asked to stop.
    Interrupted,
    /// The run is over.
    RunFinished,
}
