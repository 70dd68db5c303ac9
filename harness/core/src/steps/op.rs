// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One thing to be asked of the agent or of the disks, with its role and its deadline, and the questions that frame
//! every case.

use crate::operations::may_take_long;
use crate::record::{Evidence, Role};
use longpin_proto::agent::Step;
use longpin_proto::control::Request;

/// Milliseconds for a step that touches memory or metadata only.
pub const QUICK_MS: u64 = 20_000;
/// Milliseconds for a step that may wait for the disk or for a program of the file system's tools.
const SLOW_MS: u64 = 60_000;
/// Milliseconds for a DMA program of a few passes over a few pages.
pub const DMA_MS: u32 = 10_000;
/// Milliseconds until requests must be held: less than the default cap of a hold, so that what is missing is named
/// before what is there is let go.
pub const AWAIT_MS: u64 = 15_000;

/// Who is asked what.
#[derive(Debug, Clone)]
pub enum Ask {
    Agent(Step),
    Disk(Request),
}

/// What an answer leads to, beside being recorded.
#[derive(Debug, Clone)]
pub enum Follow {
    Nothing,
    /// Ask again until the pages are clean.
    UntilClean,
    /// Ask again until the job is over or asleep.
    UntilSettled,
    /// Reads that a dio pin waits for: if they do not come, ask whether the job is over; so for this long.
    PinHeld {
        job: String,
        left_ms: u64,
    },
    /// The read has not come: whether the job is over decides between a refusal and asking again.
    PinJob {
        /// The answer that will be recorded if this was the last look.
        missing: Box<Evidence>,
        again: Box<Op>,
    },
}

/// One question.
#[derive(Debug, Clone)]
pub struct Op {
    pub line: usize,
    /// The scenario's step in a word or two; empty for the machine's own.
    pub label: String,
    pub role: Role,
    pub ask: Ask,
    pub timeout_ms: u64,
    pub follow: Follow,
}

impl Op {
    pub fn new(role: Role, step: Step) -> Self {
        let timeout_ms = match &step {
            Step::Exec { timeout_ms, .. } => u64::from(*timeout_ms) + QUICK_MS,
            Step::DmaWait { timeout_ms, .. } => u64::from(*timeout_ms) + QUICK_MS,
            step if may_take_long(step) => SLOW_MS,
            _ => QUICK_MS,
        };
        Self {
            line: 0,
            label: String::new(),
            role,
            ask: Ask::Agent(step),
            timeout_ms,
            follow: Follow::Nothing,
        }
    }

    /// A request to the disks.
    pub fn disk(request: Request) -> Self {
        let timeout_ms = match &request {
            Request::AwaitHeld { .. } => AWAIT_MS,
            Request::PowerCut { .. } | Request::Restore { .. } => SLOW_MS,
            _ => QUICK_MS,
        };
        Self {
            line: 0,
            label: String::new(),
            role: Role::Act,
            ask: Ask::Disk(request),
            timeout_ms,
            follow: Follow::Nothing,
        }
    }

    /// It may take long.
    pub fn slow(self) -> Self {
        Self { timeout_ms: SLOW_MS, ..self }
    }

    pub fn then(self, follow: Follow) -> Self {
        Self { follow, ..self }
    }

    /// Stretch the deadline, and give questions that carry one of their own theirs: the disk answers before we give
    /// it up, and a job that does not end is found by us, as any step that hangs.
    pub fn stretch(&mut self, patience_percent: u64) {
        self.timeout_ms = self.timeout_ms * patience_percent / 100;
        match &mut self.ask {
            Ask::Disk(Request::AwaitHeld { timeout_ms, .. }) => {
                *timeout_ms = self.timeout_ms;
                self.timeout_ms += QUICK_MS;
            }
            Ask::Agent(Step::Join { timeout_ms, .. }) => {
                *timeout_ms = u32::try_from(self.timeout_ms + QUICK_MS).unwrap_or(u32::MAX);
            }
            _ => {}
        }
    }
}

/// Before the first act.
pub fn frame(run: u64, audited: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(audited.then(|| Op::disk(Request::Case { run })));
    ops.extend([
        Op::new(Role::Frame, Step::ClearWarnOnce),
        Op::new(Role::Drain, Step::KernelLog),
        Op::new(Role::Before, Step::PinCounters),
    ]);
    ops
}

/// After the last act, however it ended. Holds go first: clean-up would wait for what they keep.
pub fn tail(standing_rules: impl IntoIterator<Item = String>, audited: bool) -> Vec<Op> {
    let mut ops: Vec<Op> =
        standing_rules.into_iter().map(|rule| Op::disk(Request::DropRule { rule })).collect();
    ops.extend([
        Op::new(Role::Frame, Step::Cleanup),
        Op::new(Role::After, Step::PinCounters),
        Op::new(Role::Frame, Step::KernelLog),
    ]);
    if audited {
        ops.extend([Op::disk(Request::Audit), Op::disk(Request::Disks)]);
    }
    ops
}

/// Steps of the scenario's own.
pub fn acts(steps: impl IntoIterator<Item = Step>) -> Vec<Op> {
    steps.into_iter().map(|step| Op::new(Role::Act, step)).collect()
}
