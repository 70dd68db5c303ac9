// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Does what a case machine wants, on a real guest. Decides nothing.

use crate::args::DiskKind;
use crate::clock::monotonic_ns;
use crate::deadline::Deadline;
use crate::guest::{DISK_DEVICE, Guest, SECOND_DISK_DEVICE};
use crate::interrupt::Interrupt;
use crate::link::Reply;
use crate::patience::Patience;
use longpin_core::machine::{Action, CaseEnv, CaseMachine, Input};
use longpin_core::plan::Case;
use longpin_core::record::{CaseRecord, Evidence, Role, Trouble};
use longpin_proto::agent::Step;
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk;
use std::time::Duration;

/// Where file systems are mounted in the guest.
const MOUNT_DIR: &str = "/mnt";
/// Reading the kernel log is quick; a translated guest on a busy host may be slow to begin.
const LOG_TIMEOUT: Duration = Duration::from_secs(60);
/// A daemon on a busy host answers so much later than it means to.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);

/// Bounds of a case.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Factor on the deadlines of steps.
    pub patience: Patience,
    /// For the whole case, stretched like the deadlines of steps.
    pub timeout: Duration,
}

impl Limits {
    /// Deadlines of steps and of the case are made for hardware.
    pub fn new(patience: Patience, timeout: Duration) -> Self {
        Self { patience, timeout: patience.of_hardware(timeout) }
    }
}

/// Run one case to its end. `run` is its label in stamps and ledger; `progress` is told each new line of the scenario.
pub fn run(
    guest: &mut Guest,
    case: &Case,
    run: u64,
    limits: Limits,
    interrupt: &Interrupt,
    mut progress: impl FnMut(usize),
) -> CaseRecord {
    guest.begin_case();
    let mut machine = machine(guest, case, run, limits);
    let mut hands = Hands { guest, run, interrupt, limits, deadline: Deadline::after(limits.timeout) };
    let mut line = 0;
    loop {
        let action = machine.next();
        if machine.line() > line {
            line = machine.line();
            progress(line);
        }
        match hands.act(action) {
            Some(input) => machine.feed(input),
            None => return hands.close(machine.into_record()),
        }
    }
}

/// Carry a case out up to a line of its file, or up to its end before anything is cleaned up, and leave the guest as
/// it then is. Holds last as long as a hold can: a person is going to look.
///
/// Returns the rules that still stand. Errors: what kept the guest from getting there.
pub fn stage(
    guest: &mut Guest,
    case: &Case,
    until: Option<usize>,
    limits: Limits,
    interrupt: &Interrupt,
) -> Result<Vec<String>, Trouble> {
    let run = 1;
    let mut machine = machine(guest, case, run, limits);
    let mut hands = Hands { guest, run, interrupt, limits, deadline: Deadline::after(limits.timeout) };
    let mut rules = Vec::new();
    loop {
        let mut action = machine.next();
        let line = machine.line();
        if ends_stage(&action, line) || until.is_some_and(|until| line >= until) {
            return Ok(rules);
        }
        match &mut action {
            Action::Disk { request: Request::AddRule(rule), .. } => {
                rules.push(rule.name.clone());
                if let disk::Action::Hold { cap_ms, .. } = &mut rule.action {
                    *cap_ms = disk::MAX_HOLD_MS;
                }
            }
            Action::Disk { request: Request::DropRule { rule }, .. } => rules.retain(|name| name != rule),
            _ => {}
        }
        match hands.act(action) {
            Some(Input::Trouble(trouble)) => return Err(trouble),
            Some(input) => machine.feed(input),
            None => return Ok(rules),
        }
    }
}

/// The first thing that the machine does of its own after the scenario's last step.
fn ends_stage(action: &Action, line: usize) -> bool {
    match action {
        Action::Agent { step: Step::Cleanup, .. } | Action::Finished => true,
        Action::Disk { request: Request::DropRule { .. }, .. } => line == 0,
        _ => false,
    }
}

fn machine(guest: &Guest, case: &Case, run: u64, limits: Limits) -> CaseMachine {
    let env = CaseEnv {
        run,
        device: DISK_DEVICE.to_owned(),
        second_device: SECOND_DISK_DEVICE.to_owned(),
        audited: guest.disk_kind() == DiskKind::Audited,
        lacks: guest.lacks().clone(),
        dir: MOUNT_DIR.to_owned(),
        patience_percent: limits.patience.percent().into(),
    };
    CaseMachine::new(case, env)
}

/// What actions are carried out with.
struct Hands<'a> {
    guest: &'a mut Guest,
    run: u64,
    interrupt: &'a Interrupt,
    limits: Limits,
    deadline: Deadline,
}

impl Hands<'_> {
    /// The input that an action results in; none when the case is over.
    fn act(&mut self, action: Action) -> Option<Input> {
        Some(match action {
            Action::Agent { step, timeout_ms } => self.call(step, Duration::from_millis(timeout_ms)),
            Action::Disk { request, timeout_ms } => {
                self.ask_device(&request, Duration::from_millis(timeout_ms))
            }
            Action::Fsck { fs } => Input::Fsck(self.guest.fsck(&fs).map_err(|error| format!("{error:#}"))),
            Action::Pause { ms } => self.pause(Duration::from_millis(ms)),
            Action::ReadImage { extents, len, cell_bytes } => {
                let cells = self.guest.read_image(&extents, len, cell_bytes);
                Input::Image(cells.map_err(|error| format!("{error:#}")))
            }
            Action::SyncLedger => self.guest.ledger(self.run).map_or_else(Input::Trouble, Input::Ledger),
            Action::Finished => return None,
        })
    }

    /// What the kernel says up to here belongs to this case; what it says from now on is the next one's. Host work at the
    /// end of a case leaves the guest much time: a late warning, or a panic.
    fn close(&mut self, mut record: CaseRecord) -> CaseRecord {
        if record.evidence.iter().any(|e| matches!(e, Evidence::Trouble(_) | Evidence::Skip { .. })) {
            return record;
        }
        record.evidence.push(match self.call(Step::KernelLog, self.limits.patience.of_any(LOG_TIMEOUT)) {
            Input::Reply { outcome, elapsed_us, began_ns, ended_ns } => {
                let (role, step) = (Role::Frame, Step::KernelLog);
                Evidence::Step {
                    line: 0,
                    label: String::new(),
                    role,
                    step,
                    outcome,
                    elapsed_us,
                    began_ns,
                    ended_ns,
                }
            }
            Input::Trouble(trouble) => Evidence::Trouble(trouble),
            other => Evidence::Trouble(Trouble::Other { message: format!("kernel log gave {other:?}") }),
        });
        record
    }

    fn call(&mut self, step: Step, timeout: Duration) -> Input {
        if self.deadline.passed() {
            return Input::Trouble(self.overdue());
        }
        let began_ns = monotonic_ns();
        match self.guest.call(step, timeout, Some(self.deadline)) {
            Ok(Reply { outcome, elapsed_us }) => {
                Input::Reply { outcome, elapsed_us, began_ns, ended_ns: monotonic_ns() }
            }
            Err(trouble) => Input::Trouble(trouble),
        }
    }

    /// Not cut short by the case's deadline: the request has one of its own, and an answer that nobody waited for
    /// would end the connection.
    fn ask_device(&mut self, request: &Request, timeout: Duration) -> Input {
        if self.deadline.passed() {
            return Input::Trouble(self.overdue());
        }
        let began_ns = monotonic_ns();
        let answer = match self.guest.ask_device(request, timeout + ANSWER_MARGIN) {
            Ok(Answer::Error { message }) => Err(message),
            Ok(answer) => Ok(answer),
            Err(trouble) => return Input::Trouble(trouble),
        };
        Input::Disk { answer, began_ns, ended_ns: monotonic_ns() }
    }

    /// The user's bound says nothing about the kernel: a host may be too slow for it. A step that hangs has a deadline
    /// of its own.
    fn overdue(&self) -> Trouble {
        let seconds = self.limits.timeout.as_secs();
        Trouble::Other { message: format!("the case did not end within its {seconds} s; see --timeout") }
    }

    fn pause(&self, time: Duration) -> Input {
        match self.interrupt.signalled().recv_timeout(time) {
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Input::Trouble(Trouble::Interrupted),
            _ => Input::Paused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_more_time_by_the_factor_of_its_steps() {
        let limits = Limits::new(Patience::of_percent(450), Duration::from_secs(60));
        assert_eq!((limits.patience.percent(), limits.timeout), (450, Duration::from_secs(270)));
    }
}
