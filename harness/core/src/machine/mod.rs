// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The case machine: drives one case without doing any I/O. `next` says what is to be done, `feed` takes what came of
//! it, and at the end there is a [`CaseRecord`].
//!
//! A case runs in four stretches. *Frame*: clear once-warnings, drain the kernel log, read the pin counters. *Acts*:
//! the scenario's steps. *Tail*: clean-up in the guest (which unmounts), pin counters, kernel log. *Evidence*: the
//! host reads the image at the extents that `compare` recorded, and the ledger. A refusal or a failure of an act goes
//! to the tail at once, so that the next case finds a clean guest; trouble ends the case where it stands.
//!
//! Contract: `next` and `feed` alternate; each action gets exactly one input, or an [`Input::Trouble`] instead.

mod lower;
mod objects;
mod op;
mod poll;
#[cfg(test)]
mod tests;

pub use crate::record::Trouble;

use crate::plan::Case;
use crate::record::{CaseRecord, Evidence, LedgerEntry, Role};
use crate::verdict::{self, Refusal};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::facts::{Cells, Extent};
use longpin_wire::ledger;
use lower::Lowering;
use op::Op;
use poll::Poll;
use std::collections::VecDeque;

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
        /// Microseconds it took.
        elapsed_us: u64,
    },
    /// The pause is over.
    Paused,
    /// Cells of the image, or why it could not be read.
    Image(Result<Cells, String>),
    /// Ledger entries, of this case at least: the machine keeps those with the case's label.
    Ledger(Vec<ledger::Entry>),
    /// The case is cut short. May come at any time; the next action is `Finished`.
    Trouble(Trouble),
}

/// Where and under which label a case runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseEnv {
    /// Label for stamps and ledger, unique among all attempts that share a device daemon; not 0.
    pub run: u64,
    /// Block device in the guest, `/dev/vda`.
    pub device: String,
    /// Mount directory in the guest, `/mnt`.
    pub dir: String,
    /// Factor on every deadline, in percent: slow machines and TCG want more than 100.
    pub patience_percent: u64,
}

/// Which stretch of the case is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Acts,
    Tail,
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
    lowering: Lowering,
    queue: VecDeque<Op>,
    current: Option<Op>,
    poll: Option<Poll>,
    images: VecDeque<ImageWanted>,
    stretch: Stretch,
    patience_percent: u64,
    record: CaseRecord,
}

impl CaseMachine {
    /// A machine at the start of a case.
    pub fn new(case: &Case, env: CaseEnv) -> Self {
        let record = CaseRecord::new(&case.id, case.attempt, env.run, case.scenario.cell_bytes);
        Self {
            queue: op::frame().into(),
            patience_percent: env.patience_percent.max(1),
            lowering: Lowering::new(case, env),
            current: None,
            poll: None,
            images: VecDeque::new(),
            stretch: Stretch::Acts,
            record,
        }
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
            (Some(op), _) => Action::Agent {
                step: op.step.clone(),
                timeout_ms: op.timeout_ms * self.patience_percent / 100,
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

    /// Take what came of the last action.
    pub fn feed(&mut self, input: Input) {
        match input {
            Input::Reply { outcome, elapsed_us } => self.reply(outcome, elapsed_us),
            Input::Paused => {}
            Input::Image(result) => self.image(result),
            Input::Ledger(entries) => self.ledger(entries),
            Input::Trouble(trouble) => self.trouble(trouble),
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

    /// Choose the next op: from the queue, from the scenario's next step, or by going to the next stretch.
    fn advance(&mut self) {
        while self.current.is_none() {
            if let Some(op) = self.queue.pop_front() {
                self.poll = op.poll.then(|| Poll::new(self.patience_percent));
                self.current = Some(op);
                return;
            }
            match self.stretch {
                Stretch::Acts => match self.lowering.next_step() {
                    Some(ops) => self.queue.extend(ops),
                    None => self.go_to_tail(),
                },
                Stretch::Tail if !self.images.is_empty() => self.stretch = Stretch::Images,
                Stretch::Images if !self.images.is_empty() => return,
                Stretch::Tail | Stretch::Images => self.stretch = Stretch::Ledger,
                Stretch::Ledger | Stretch::Over => return,
            }
        }
    }

    fn go_to_tail(&mut self) {
        self.queue = op::tail().into();
        self.stretch = Stretch::Tail;
    }

    fn reply(&mut self, outcome: Outcome, elapsed_us: u64) {
        let Some(op) = self.current.take() else { return };
        let answer = self.poll.as_mut().map(|poll| poll.judge(&outcome, elapsed_us));
        if answer == Some(poll::Answer::Again) {
            self.current = Some(op);
            return;
        }
        self.poll = None;
        self.note_extents(&op, &outcome);
        let given_up = matches!(answer, Some(poll::Answer::GivenUp(_)));
        let frame = op.role == Role::Frame;
        if self.stretch == Stretch::Acts && !frame && (given_up || ends_acts(&op.step, &outcome)) {
            self.go_to_tail();
        }
        let Op { line, role, step, .. } = op;
        self.record.evidence.push(Evidence::Step { line, role, step, outcome, elapsed_us });
        if let Some(poll::Answer::GivenUp(message)) = answer {
            self.record.evidence.push(Evidence::Unproven { line, message });
        }
    }

    /// Extents of a compared file are read by the host at the end; those before a poke tell where to poke.
    fn note_extents(&mut self, op: &Op, outcome: &Outcome) {
        let (Step::Extents { path }, Outcome::Done { fact: Fact::Extents(extents) }) = (&op.step, outcome)
        else {
            return;
        };
        self.lowering.note_extents(path, extents);
        if matches!(op.role, Role::CompareWrites | Role::CompareSnapshot) {
            let len = self.lowering.len_of(path);
            self.images.push_back(ImageWanted { path: path.clone(), extents: extents.clone(), len });
        }
    }

    fn image(&mut self, result: Result<Cells, String>) {
        if let Some(wanted) = self.images.pop_front() {
            let ImageWanted { path, extents, .. } = wanted;
            self.record.evidence.push(Evidence::Image { path, extents, result });
        }
    }

    fn ledger(&mut self, entries: Vec<ledger::Entry>) {
        let run = self.record.run;
        let mut entries: Vec<LedgerEntry> =
            entries.into_iter().filter(|entry| entry.run == run).map(LedgerEntry::from).collect();
        entries.sort_by_key(|entry| entry.time_ns);
        self.record.evidence.push(Evidence::Ledger { entries });
        self.stretch = Stretch::Over;
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.record.evidence.push(Evidence::Trouble(trouble));
        self.queue.clear();
        self.current = None;
        self.poll = None;
        self.stretch = Stretch::Over;
    }
}

/// A step that came out like this makes the rest of the acts pointless.
fn ends_acts(step: &Step, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done { .. } => false,
        // Nothing can be read from a file system that did not mount, whatever its errno tells.
        Outcome::Refused(_) if matches!(step, Step::Mount { .. } | Step::Open { .. }) => true,
        Outcome::Refused(errno) => {
            !matches!(verdict::refusal(step, errno), Refusal::Told | Refusal::Harmless)
        }
        Outcome::Failed { .. } => true,
    }
}
