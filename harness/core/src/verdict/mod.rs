// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts: [`observe`] turns the raw evidence of a case into observations, [`judge`] compares those with what the
//! scenario expects. Both are pure functions; a record kept on disk gives the same verdict again.

mod content;
mod dma;
mod judge;
mod observe;
mod pinned;
mod refusal;
mod step_name;
mod story;
#[cfg(test)]
mod tests;
mod words;

pub use content::Content;
pub use judge::{Judgement, judge, spoils_boot};
pub use observe::{Finding, Generations, LogLine, Observed, Problem, Reader, observe};
pub use refusal::{Refusal, refusal};
pub use step_name::step_name;
pub use words::{Cause, Observation, Outcome, documentation};
