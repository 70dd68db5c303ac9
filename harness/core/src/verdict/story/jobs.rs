// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps that ran beside others.

use super::Story;
use super::files::Moment;
use crate::verdict::observe::Blocked;
use longpin_proto::agent::Step;
use longpin_proto::facts::JobState;

/// A job that has begun.
#[derive(Debug)]
pub struct Begun<'r> {
    pub step: &'r Step,
    /// Where every file stood when it began: an fsync promises no more.
    pub moment: Moment,
}

impl<'r> Story<'r> {
    pub(super) fn begin(&mut self, job: &str, step: &'r Step) {
        self.pin_by_dio(job, step);
        self.jobs.insert(job.to_owned(), Begun { step, moment: self.moment() });
    }

    /// The machine has looked until the job was over or asleep.
    pub(super) fn settled(&mut self, job: &str, state: &JobState) {
        if state.finished || self.blocked.iter().any(|blocked| blocked.job == job) {
            return;
        }
        let (job, stack, waited_us) = (job.to_owned(), state.stack.clone(), state.elapsed_us);
        self.blocked.push(Blocked { job, stack, waited_us });
    }
}
