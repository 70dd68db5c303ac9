// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts: [`observe`] turns the raw evidence of a case into observations, [`judge`] compares those with what the
//! scenario expects. Both are pure functions; a record kept on disk gives the same verdict again.

mod agreement;
mod audit;
mod compare;
mod fsck;
mod judge;
mod log;
mod mirror;
mod observe;
mod sentence;
#[cfg(test)]
mod tests;

pub use crate::words::{Cause, Observation, Outcome, documentation};
pub use audit::{Audit, HitLine, HoldLine};
pub use fsck::Fsck;
pub use judge::{Judgement, judge, spoils_boot};
pub use mirror::MirrorCounts;
pub use observe::{Blocked, Finding, Generations, LogLine, Observed, Problem, Reader, observe, observe_but};
