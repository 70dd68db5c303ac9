// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps that run concurrently with others: a job is begun once, joined once, and not forgotten. What it changes is
//! there at its join. Only the one call that may wait runs in a thread of its own; what it needs is done before, and
//! what follows it when the job is joined.

use super::objects::Region;
use super::op::{Ask, Follow, Op};
use super::paper::{Checked, Paper, known};
use super::parameters::need_name;
use super::{Definition, Translation, Verb};
use crate::record::Role;
use longpin_proto::agent;
use std::sync::Arc;

pub const STEPS: &[Definition] = &[
    Definition::new::<Settle>(
        "settle",
        "`job`",
        "waits until the job is over, or until the kernel shows its thread asleep at the same place in several looks; \
         records which of the two, and the kernel stack",
    ),
    Definition::new::<Join>(
        "join",
        "`job`",
        "waits for the job's end; what came of it counts as if the step stood here; an end that does not come within \
         `deadline_ms` is `hang`",
    ),
];

impl Paper<'_> {
    /// The step must be possible where it begins; its generation is taken from then on.
    pub(super) fn spawn(&mut self, job: &str, line: usize, verb: &Arc<dyn Verb>) -> Checked {
        if !self.job_names.insert(job.to_owned()) {
            return Err(format!("job `{job}` exists already; give the second one another name"));
        }
        verb.check_as_job(self)?;
        let mut trial = self.clone();
        verb.check(&mut trial)?;
        self.generations = trial.generations;
        self.jobs.insert(job.to_owned(), (verb.clone(), line));
        Ok(())
    }

    /// Whatever follows needs a case in which nothing else goes on.
    pub(super) fn no_jobs(&self, verb: &str) -> Checked {
        match self.jobs.keys().next() {
            Some(job) => Err(format!("job `{job}` may still run at `{verb}`; put a `join` before")),
            None => Ok(()),
        }
    }

    /// What a case must not end with.
    pub fn left_over(&self) -> Option<(usize, String)> {
        let (job, (_, line)) = self.jobs.iter().next()?;
        Some((*line, format!("job `{job}` is never joined; add {{ do = \"join\", job = \"{job}\" }}")))
    }
}

/// A job that has begun.
#[derive(Debug)]
pub struct Begun {
    verb: Arc<dyn Verb>,
    role: Role,
    /// What the step does after the call.
    rest: Vec<Op>,
    /// What a pin makes: it is there when the job is over.
    region: Option<(String, Region)>,
}

impl Translation {
    pub(super) fn begin(&mut self, job: String, verb: Arc<dyn Verb>) -> Vec<Op> {
        let mut ops = verb.ask(self);
        let Some(at) = ops.iter().position(|op| matches!(&op.ask, Ask::Agent(step) if may_wait(step))) else {
            return ops;
        };
        let rest = ops.split_off(at + 1);
        let region = verb.makes_region().and_then(|region| self.objects.regions.remove_entry(region));
        if let Some(Op { role, ask: Ask::Agent(step), .. }) = ops.pop() {
            ops.push(Op::new(Role::Act, agent::Step::Spawn { job: job.clone(), step: Box::new(step) }));
            self.jobs.insert(job, Begun { verb, role, rest, region });
        }
        ops
    }
}

/// The call of a step that a job is for: whatever prepares it does not wait.
fn may_wait(step: &agent::Step) -> bool {
    !matches!(step, agent::Step::Open { .. } | agent::Step::Close { .. })
}

parameters! {
    Settle(f, _) { job: String = need_name(f, "job")? }
}

impl Verb for Settle {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("job", &paper.jobs, &self.job).map(drop)
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        let look = agent::Step::Settle { job: self.job.clone() };
        vec![Op::new(Role::Settle, look).then(Follow::UntilSettled)]
    }

    fn settles(&self) -> Option<&str> {
        Some(&self.job)
    }
}

parameters! {
    Join(f, _) { job: String = need_name(f, "job")? }
}

impl Verb for Join {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("job", &paper.jobs, &self.job)?;
        match paper.jobs.remove(&self.job) {
            Some((verb, _)) => verb.check_at_join(paper),
            None => Ok(()),
        }
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let Some(Begun { verb, role, rest, region }) = t.jobs.remove(&self.job) else { return Vec::new() };
        let mut ops = vec![Op::new(role, agent::Step::Join { job: self.job.clone(), timeout_ms: 0 })];
        ops.extend(rest);
        ops.extend(t.queries_after(&*verb));
        t.objects.regions.extend(region);
        ops
    }
}
