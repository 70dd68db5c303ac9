// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The case machine: drives one case without doing any I/O. `next` says what is to be done, `feed` takes what came of
//! it, and at the end there is a [`CaseRecord`].
//!
//! A case runs in four stretches. *Frame*: the disks learn the case's label, once-warnings are cleared, the kernel log
//! is drained, the pin counters are read. *Acts*: the scenario's steps. *Tail*: what the disks hold is let go, clean-up
//! in the guest (which unmounts), pin counters, kernel log, the disks' audit. *Evidence*: on the host the file system's
//! own checker looks at the image, the image is read at the extents that `compare` recorded, and the ledger. A refusal
//! or a failure of an act goes to the tail at once, so that the next case finds a clean guest; trouble ends the case
//! where it stands.
//!
//! Contract: `next` and `feed` alternate; each action gets exactly one input, or an [`Input::Trouble`] instead.

mod input;
mod poll;
#[cfg(test)]
mod tests;

pub use crate::record::Trouble;
pub use crate::steps::{CaseEnv, Lacks};

use crate::plan::Case;
use crate::record::{CaseRecord, Evidence, FsckReport};
use crate::steps::op::{self, Ask, Follow, Op};
use crate::steps::{MKFS, Translation};
use crate::words::Observation;
use longpin_proto::agent::{Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::facts::{Cells, Extent};
use longpin_wire::ledger;
use poll::Poll;
use std::collections::{BTreeMap, VecDeque};

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a step to the agent; answer [`Input::Reply`]. No reply within `timeout_ms` is [`Trouble::Hang`].
    Agent {
        /// The step.
        step: Step,
        /// Milliseconds that it may take.
        timeout_ms: u64,
    },
    /// Send a request to the device's control socket; answer [`Input::Disk`], with an error if there is no answer
    /// within `timeout_ms`. A daemon that is gone is [`Trouble::DeviceLost`].
    Disk {
        /// The request.
        request: Request,
        /// Milliseconds that it may take.
        timeout_ms: u64,
    },
    /// Run the file system's own checker, in the mode that only looks, on the raw image; answer [`Input::Fsck`]. The
    /// guest has unmounted.
    Fsck {
        /// File system, as in `mkfs.FS`.
        fs: String,
    },
    /// Wait before asking again; answer [`Input::Paused`].
    Pause {
        /// Milliseconds.
        ms: u64,
    },
    /// Read the raw disk image of the VM at these extents into a file image of `len` bytes (zero where no extent is)
    /// and decode it; answer [`Input::Image`]. The guest has unmounted.
    ReadImage {
        /// Located extents.
        extents: Vec<Extent>,
        /// Bytes of the file.
        len: u64,
        /// Bytes of a cell.
        cell_bytes: u32,
    },
    /// Make the device write its ledger out and read it; answer [`Input::Ledger`].
    SyncLedger,
    /// The case is over; call [`CaseMachine::into_record`].
    Finished,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The agent answered.
    Reply {
        /// What came of the step.
        outcome: Outcome,
        /// Microseconds it took in the guest.
        elapsed_us: u64,
        /// When the step was sent, CLOCK_MONOTONIC of the host, ns; 0: not known.
        began_ns: u64,
        /// When the answer came.
        ended_ns: u64,
    },
    /// The disks answered.
    Disk {
        /// The answer, or why there is none.
        answer: Result<Answer, String>,
        /// When the request was sent, CLOCK_MONOTONIC of the host, ns.
        began_ns: u64,
        /// When the answer came.
        ended_ns: u64,
    },
    /// The checker's word, or why it could not be run.
    Fsck(Result<FsckReport, String>),
    /// The pause is over.
    Paused,
    /// Cells of the image, or why it could not be read.
    Image(Result<Cells, String>),
    /// Ledger entries of both kinds as they stand in the file, of this case at least: the machine keeps those with the
    /// case's label, and tells accelerator and disks apart.
    Ledger(Vec<ledger::Entry>),
    /// The case is cut short. May come at any time; the next action is `Finished`.
    Trouble(Trouble),
}

/// Which stretch of the case is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Acts,
    Tail,
    Fsck,
    Images,
    Ledger,
    Over,
}

/// A file whose image the host shall read.
#[derive(Debug, Clone)]
struct ImageWanted {
    path: String,
    extents: Vec<Extent>,
    len: u64,
}

/// Drives one case.
#[derive(Debug)]
pub struct CaseMachine {
    translation: Translation,
    queue: VecDeque<Op>,
    current: Option<Op>,
    poll: Option<Poll>,
    /// What jobs do, to understand what came of them.
    jobs: BTreeMap<String, Step>,
    images: VecDeque<ImageWanted>,
    /// File system that the checker shall look at, once it is known to be there and unmounted.
    fsck: Option<String>,
    stretch: Stretch,
    audited: bool,
    patience_percent: u64,
    record: CaseRecord,
}

impl CaseMachine {
    /// A machine at the start of a case.
    pub fn new(case: &Case, env: CaseEnv) -> Self {
        let steps = case.scenario.steps_of(&case.point).cloned().collect();
        let env = CaseEnv { patience_percent: env.patience_percent.max(1), ..env };
        let missing = missing(case, env.audited, &env.lacks);
        let mut machine = Self {
            queue: op::frame(env.run, env.audited).into(),
            record: CaseRecord::new(&case.id, case.attempt, env.run, case.scenario.cell_bytes),
            current: None,
            poll: None,
            jobs: BTreeMap::new(),
            images: VecDeque::new(),
            fsck: checked_fs(case),
            stretch: Stretch::Acts,
            audited: env.audited,
            patience_percent: env.patience_percent,
            translation: Translation::new(steps, &case.point, case.scenario.cell_bytes, env),
        };
        machine.stretch_queue();
        if let Some(message) = missing {
            machine.record.evidence.push(Evidence::Skip { message });
            machine.end();
        }
        machine
    }

    /// What is to be done now.
    #[expect(
        clippy::should_implement_trait,
        reason = "each action wants an input before the next: no iterator"
    )]
    pub fn next(&mut self) -> Action {
        if let Some(ms) = self.poll.as_mut().and_then(Poll::take_pause) {
            return Action::Pause { ms };
        }
        if self.current.is_none() {
            self.advance();
        }
        match (&self.current, self.stretch) {
            (Some(Op { ask: Ask::Agent(step), timeout_ms, .. }), _) => {
                Action::Agent { step: step.clone(), timeout_ms: *timeout_ms }
            }
            (Some(Op { ask: Ask::Disk(request), timeout_ms, .. }), _) => {
                Action::Disk { request: request.clone(), timeout_ms: *timeout_ms }
            }
            (None, Stretch::Fsck) => match &self.fsck {
                Some(fs) => Action::Fsck { fs: fs.clone() },
                None => Action::Finished,
            },
            (None, Stretch::Images) => match self.images.front() {
                Some(wanted) => Action::ReadImage {
                    extents: wanted.extents.iter().copied().filter(|extent| extent.located).collect(),
                    len: wanted.len,
                    cell_bytes: self.record.cell_bytes,
                },
                None => Action::Finished,
            },
            (None, Stretch::Ledger) => Action::SyncLedger,
            (None, _) => Action::Finished,
        }
    }

    /// The evidence.
    pub fn into_record(self) -> CaseRecord {
        self.record
    }

    /// The line of the scenario file that is being done, for progress; 0 outside of the acts.
    pub fn line(&self) -> usize {
        self.current.as_ref().map_or(0, |op| op.line)
    }

    /// Choose the next question: from the queue, from the scenario's next step, or by going to the next stretch.
    fn advance(&mut self) {
        while self.current.is_none() {
            if let Some(op) = self.queue.pop_front() {
                self.poll = match op.follow {
                    Follow::UntilClean => Some(Poll::until_clean(self.patience_percent)),
                    Follow::UntilSettled => Some(Poll::until_settled(self.patience_percent)),
                    _ => None,
                };
                self.current = Some(op);
                return;
            }
            match self.stretch {
                Stretch::Acts => match self.translation.next_step() {
                    Some(ops) => self.queue.extend(ops),
                    None => self.go_to_tail(),
                },
                Stretch::Tail if self.fsck.is_some() => self.stretch = Stretch::Fsck,
                Stretch::Fsck if self.fsck.is_some() => return,
                Stretch::Tail | Stretch::Fsck if !self.images.is_empty() => self.stretch = Stretch::Images,
                Stretch::Images if !self.images.is_empty() => return,
                Stretch::Tail | Stretch::Fsck | Stretch::Images => self.stretch = Stretch::Ledger,
                Stretch::Ledger | Stretch::Over => return,
            }
        }
    }

    fn go_to_tail(&mut self) {
        if !self.translation.host_sees_fs() {
            self.fsck = None;
        }
        self.queue = op::tail(self.translation.standing_rules(), self.audited).into();
        self.stretch_queue();
        self.stretch = Stretch::Tail;
    }

    /// The rest of the acts is pointless. What the checker would say of a case that was broken off says nothing.
    fn break_off(&mut self) {
        self.fsck = None;
        self.go_to_tail();
    }

    fn stretch_queue(&mut self) {
        self.queue.iter_mut().for_each(|op| op.stretch(self.patience_percent));
    }

    fn end(&mut self) {
        self.queue.clear();
        self.current = None;
        self.poll = None;
        self.stretch = Stretch::Over;
    }
}

/// The file system that a case makes, unless its kernel is known to be left in a state in which nothing is unmounted.
fn checked_fs(case: &Case) -> Option<String> {
    let fs = case.point.fs.fs;
    let makes = case.scenario.steps_of(&case.point).any(|step| step.name() == MKFS);
    let dies = case.expectation().is_some_and(|row| {
        [Observation::Hang, Observation::Panic].iter().any(|word| row.observe.contains(word))
    });
    (fs.checker().is_some() && makes && !dies).then(|| fs.to_string())
}

/// What a case needs and this machine has not.
fn missing(case: &Case, audited: bool, lacks: &Lacks) -> Option<String> {
    if let Some(module) = case.point.fs.fs.modules.iter().find(|module| lacks.modules.contains(**module)) {
        return Some(format!("the kernel has no {module}, neither as a module nor built in"));
    }
    case.scenario.steps_of(&case.point).find_map(|step| {
        let (line, needs) = (step.line, step.needs(&case.point));
        if let Some(module) = needs.of_pin.iter().find(|module| lacks.modules.contains(**module)) {
            return Some(format!(
                "line {line} of the scenario pins by {module}, which the kernel has neither as a module nor built in"
            ));
        }
        match (needs.module, &lacks.driver) {
            (Some(module), _) if lacks.modules.contains(&module.replace('-', "_")) => Some(format!(
                "line {line} of the scenario loads {module}, which the kernel has not as a module"
            )),
            (_, Some(why)) if needs.driver => {
                Some(format!("line {line} of the scenario needs the driver; {why}"))
            }
            _ if needs.pinner && lacks.pinner => Some(format!(
                "line {line} of the scenario needs a program that pins; name yours: --pin exec:PATH"
            )),
            _ if needs.audited_disk && !audited => Some(format!(
                "line {line} of the scenario needs the auditing disk; run it with --disk audited"
            )),
            _ => None,
        }
    })
}
