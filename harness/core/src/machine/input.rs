// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What came of an action: into the record, and into what is done next.

use super::{CaseMachine, ImageWanted, Input, Stretch, Trouble, poll};
use crate::operations::{Refusal, refusal};
use crate::record::{DiskLedgerEntry, Evidence, FsckReport, Role};
use crate::steps::op::{Ask, Follow, Op};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::facts::Cells;
use longpin_wire::ledger;

/// Host times of an exchange.
#[derive(Clone, Copy)]
struct Times {
    began_ns: u64,
    ended_ns: u64,
}

impl CaseMachine {
    /// Take what came of the last action.
    pub fn feed(&mut self, input: Input) {
        match input {
            Input::Reply { outcome, elapsed_us, began_ns, ended_ns } => {
                self.reply(outcome, elapsed_us, Times { began_ns, ended_ns });
            }
            Input::Disk { answer, began_ns, ended_ns } => self.disk(answer, Times { began_ns, ended_ns }),
            Input::Paused => {}
            Input::Fsck(result) => self.fsck(result),
            Input::Image(result) => self.image(result),
            Input::Ledger(entries) => self.ledger(entries),
            Input::Trouble(trouble) => self.trouble(trouble),
        }
    }

    fn reply(&mut self, outcome: Outcome, elapsed_us: u64, times: Times) {
        let Some(op) = self.current.take() else { return };
        let Ask::Agent(step) = &op.ask else { return };
        if let Follow::PinJob { missing, again } = op.follow {
            return self.pin_job(&outcome, *missing, *again);
        }
        let answer = self.poll.as_mut().map(|poll| poll.judge(&outcome, elapsed_us));
        if answer == Some(poll::Answer::Again) {
            self.current = Some(op);
            return;
        }
        self.poll = None;
        self.note(op.role, step, &outcome);
        let given_up = matches!(answer, Some(poll::Answer::GivenUp(_)));
        let meant = match step {
            Step::Join { job, .. } => self.jobs.get(job).unwrap_or(step),
            other => other,
        };
        let frame = op.role == Role::Frame;
        let ends = self.stretch == Stretch::Acts && !frame && (given_up || ends_acts(meant, &outcome));
        let unclean = matches!(step, Step::Cleanup) && !matches!(outcome, Outcome::Done { .. });
        if ends {
            self.break_off();
        } else if unclean {
            self.fsck = None;
        }
        let Op { line, label, role, ask: Ask::Agent(step), .. } = op else { return };
        let Times { began_ns, ended_ns } = times;
        let evidence = Evidence::Step { line, label, role, step, outcome, elapsed_us, began_ns, ended_ns };
        self.record.evidence.push(evidence);
        if let Some(poll::Answer::GivenUp(message)) = answer {
            self.record.evidence.push(Evidence::Unproven { line, message });
        }
    }

    /// Remember what later answers are understood by.
    fn note(&mut self, role: Role, step: &Step, outcome: &Outcome) {
        match (step, outcome) {
            (Step::Spawn { job, step }, _) => _ = self.jobs.insert(job.clone(), (**step).clone()),
            // Extents of a compared file are read by the host at the end; those before a poke tell where to poke.
            (Step::Extents { path }, Outcome::Done { fact: Fact::Extents(extents) }) => {
                self.translation.note_extents(path, extents);
                if matches!(role, Role::CompareWrites | Role::CompareSnapshot) {
                    let len = self.translation.len_of(path);
                    let wanted = ImageWanted { path: path.clone(), extents: extents.clone(), len };
                    self.images.push_back(wanted);
                }
            }
            _ => {}
        }
    }

    fn disk(&mut self, answer: Result<Answer, String>, times: Times) {
        let Some(Op { line, label, ask: Ask::Disk(request), follow, role, timeout_ms }) = self.current.take()
        else {
            return;
        };
        let refused = matches!(&answer, Err(_) | Ok(Answer::Error { .. }));
        let incomplete = matches!(&answer, Ok(Answer::Held { complete: false, .. }));
        let Times { began_ns, ended_ns } = times;
        let evidence = Evidence::Disk {
            line,
            label: label.clone(),
            request: request.clone(),
            answer,
            began_ns,
            ended_ns,
        };
        if let (true, Follow::PinHeld { job, left_ms }) = (incomplete, follow) {
            let looked_ms = match &request {
                Request::AwaitHeld { timeout_ms, .. } => *timeout_ms,
                _ => timeout_ms,
            };
            let follow = Follow::PinHeld { job: job.clone(), left_ms: left_ms.saturating_sub(looked_ms) };
            let again = Box::new(Op {
                line,
                label: label.clone(),
                role,
                ask: Ask::Disk(request),
                timeout_ms,
                follow,
            });
            let look = Op { line, label, timeout_ms, ..Op::new(Role::Frame, Step::Settle { job }) };
            self.queue.push_front(look.then(Follow::PinJob { missing: Box::new(evidence), again }));
            return;
        }
        self.record.evidence.push(evidence);
        if self.stretch == Stretch::Acts && (refused || incomplete) {
            self.break_off();
        }
    }

    /// The reads of a dio pin have not come. If its job is over, the kernel refused, or the read was not held: what
    /// came of the job says which.
    fn pin_job(&mut self, outcome: &Outcome, missing: Evidence, again: Op) {
        let Follow::PinHeld { job, left_ms } = &again.follow else { return };
        match outcome {
            Outcome::Done { fact: Fact::Job(state) } if !state.finished && *left_ms > 0 => {
                self.queue.push_front(again);
            }
            Outcome::Done { fact: Fact::Job(state) } if state.finished => {
                let mut wait = Op::new(Role::Act, Step::Join { job: job.clone(), timeout_ms: 0 });
                (wait.line, wait.label) = (again.line, again.label.clone());
                wait.stretch(self.patience_percent);
                self.record.evidence.push(missing);
                self.queue.push_front(wait);
            }
            _ => {
                self.record.evidence.push(missing);
                self.break_off();
            }
        }
    }

    fn fsck(&mut self, result: Result<FsckReport, String>) {
        let Some(fs) = self.fsck.take() else { return };
        self.record.evidence.push(match result {
            Ok(report) => Evidence::Fsck(report),
            Err(message) => Evidence::FsckFailed { fs, message },
        });
    }

    fn image(&mut self, result: Result<Cells, String>) {
        if let Some(ImageWanted { path, extents, .. }) = self.images.pop_front() {
            self.record.evidence.push(Evidence::Image { path, extents, result });
        }
    }

    fn ledger(&mut self, entries: Vec<ledger::Entry>) {
        let run = self.record.run;
        let ours = entries.into_iter().filter(|entry| entry.run == run);
        let (disk, dma): (Vec<_>, Vec<_>) = ours.partition(|entry| entry.kind >= ledger::FIRST_DISK_KIND);
        let mut entries = dma;
        entries.sort_by_key(|entry| entry.time_ns);
        // Both kinds have one layout.
        let mut disk: Vec<DiskLedgerEntry> =
            disk.into_iter().map(|entry| zerocopy::transmute!(entry)).collect();
        disk.sort_by_key(|entry| entry.time_ns);
        self.record.evidence.push(Evidence::Ledger { entries, disk });
        self.stretch = Stretch::Over;
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.record.evidence.push(Evidence::Trouble(trouble));
        self.end();
    }
}

/// A step that came out like this makes the rest of the acts pointless.
fn ends_acts(step: &Step, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done { .. } => false,
        // Nothing can be read from a file system that did not mount, whatever its errno tells.
        Outcome::Refused(_) if matches!(step, Step::Mount { .. } | Step::Open { .. }) => true,
        Outcome::Refused(errno) => !matches!(refusal(step, errno), Refusal::Told | Refusal::Harmless),
        Outcome::Failed { .. } => true,
    }
}
