// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One step for the agent with its role and its deadline, and the steps that frame every case.

use crate::record::Role;
use longpin_proto::agent::Step;

/// Milliseconds for a step that touches memory or metadata only.
const QUICK_MS: u64 = 20_000;
/// Milliseconds for a step that may wait for the disk or for a program of the file system's tools.
const SLOW_MS: u64 = 60_000;
/// Milliseconds for a DMA program of a few passes over a few pages.
pub const DMA_MS: u32 = 10_000;

/// One step for the agent.
#[derive(Debug, Clone)]
pub struct Op {
    pub line: usize,
    pub role: Role,
    pub step: Step,
    pub timeout_ms: u64,
    /// Ask again until the pages are clean.
    pub poll: bool,
}

impl Op {
    pub fn new(role: Role, step: Step) -> Self {
        let timeout_ms = match &step {
            Step::Exec { timeout_ms, .. } => u64::from(*timeout_ms) + QUICK_MS,
            Step::DmaWait { timeout_ms, .. } => u64::from(*timeout_ms) + QUICK_MS,
            Step::Mkfs { .. }
            | Step::Mount { .. }
            | Step::Unmount { .. }
            | Step::Fsync { .. }
            | Step::Sync
            | Step::Syncfs { .. }
            | Step::DropCaches
            | Step::Extents { .. }
            | Step::Cleanup => SLOW_MS,
            _ => QUICK_MS,
        };
        Self { line: 0, role, step, timeout_ms, poll: false }
    }
}

/// Before the first act.
pub fn frame() -> Vec<Op> {
    vec![
        Op::new(Role::Frame, Step::ClearWarnOnce),
        Op::new(Role::Drain, Step::KernelLog),
        Op::new(Role::Before, Step::PinCounters),
    ]
}

/// After the last act, however it ended.
pub fn tail() -> Vec<Op> {
    vec![
        Op::new(Role::Frame, Step::Cleanup),
        Op::new(Role::After, Step::PinCounters),
        Op::new(Role::Frame, Step::KernelLog),
    ]
}

/// Steps of the scenario's own.
pub fn acts(steps: impl IntoIterator<Item = Step>) -> Vec<Op> {
    steps.into_iter().map(|step| Op::new(Role::Act, step)).collect()
}
