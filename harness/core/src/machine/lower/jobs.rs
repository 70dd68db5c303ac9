// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps beside others. Only the one call that may wait runs in a thread of its own; what it needs is done before, and
//! what follows it when the job is joined.

use super::Lowering;
use crate::machine::objects::Region;
use crate::machine::op::{Ask, Follow, Op};
use crate::record::Role;
use crate::scenario::Act;
use longpin_proto::agent::Step;

/// A job that has begun.
#[derive(Debug)]
pub struct Begun {
    act: Act,
    role: Role,
    /// What the act does after the call.
    rest: Vec<Op>,
    /// What a pin makes: it is there when the job is over.
    region: Option<(String, Region)>,
}

impl Lowering {
    pub(super) fn begin(&mut self, job: String, act: Act) -> Vec<Op> {
        let mut ops = self.lower(act.clone());
        let Some(at) = ops.iter().position(|op| matches!(&op.ask, Ask::Agent(step) if may_wait(step))) else {
            return ops;
        };
        let rest = ops.split_off(at + 1);
        let region = match &act {
            Act::Pin { region, .. } => self.objects.regions.remove_entry(region),
            _ => None,
        };
        if let Some(Op { role, ask: Ask::Agent(step), .. }) = ops.pop() {
            ops.push(Op::new(Role::Act, Step::Spawn { job: job.clone(), step: Box::new(step) }));
            self.jobs.insert(job, Begun { act, role, rest, region });
        }
        ops
    }

    pub(super) fn settle(&self, job: String) -> Vec<Op> {
        vec![Op::new(Role::Settle, Step::JobState { job }).then(Follow::UntilSettled)]
    }

    pub(super) fn join(&mut self, job: &str) -> Vec<Op> {
        let Some(Begun { act, role, rest, region }) = self.jobs.remove(job) else { return Vec::new() };
        let mut ops = vec![Op::new(role, Step::JobWait { job: job.to_owned(), timeout_ms: 0 })];
        ops.extend(rest);
        if let Some(file) = self.takes_pages_of(&act) {
            ops.extend(self.query_regions_of(&file));
        }
        self.objects.regions.extend(region);
        ops
    }
}

/// The call of an act that a job is for: whatever prepares it does not wait.
fn may_wait(step: &Step) -> bool {
    !matches!(step, Step::Open { .. } | Step::Close { .. })
}
