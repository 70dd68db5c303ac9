// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Does what a case machine wants, on a real guest. Decides nothing.

use crate::deadline::Deadline;
use crate::guest::{DISK_DEVICE, Guest};
use crate::interrupt::Interrupt;
use crate::vm::spec::Accel;
use longpin_core::machine::{Action, CaseEnv, CaseMachine, Input};
use longpin_core::plan::Case;
use longpin_core::record::{CaseRecord, Trouble};
use longpin_proto::agent::Step;
use std::time::Duration;

/// Where file systems are mounted in the guest.
const MOUNT_DIR: &str = "/mnt";

/// Bounds of a case.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Factor on the deadlines of steps, percent.
    pub patience_percent: u64,
    /// For the whole case.
    pub timeout: Duration,
}

impl Limits {
    /// Deadlines of steps are made for hardware; a translated guest on a busy host is several times slower.
    pub fn new(accel: Accel, timeout: Duration) -> Self {
        let patience_percent = match accel {
            Accel::Kvm => 100,
            Accel::Tcg => 300,
        };
        Self { patience_percent, timeout }
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
    let mut machine = machine(case, run, limits);
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
            None => return machine.into_record(),
        }
    }
}

/// Carry a case out up to a line of its file, or up to its clean-up, and leave the guest as it then is.
///
/// Errors: what kept the guest from getting there.
pub fn stage(
    guest: &mut Guest,
    case: &Case,
    until: Option<usize>,
    limits: Limits,
    interrupt: &Interrupt,
) -> Result<(), Trouble> {
    let run = 1;
    let mut machine = machine(case, run, limits);
    let mut hands = Hands { guest, run, interrupt, limits, deadline: Deadline::after(limits.timeout) };
    loop {
        let action = machine.next();
        if matches!(action, Action::Agent { step: Step::Cleanup, .. } | Action::Finished)
            || until.is_some_and(|line| machine.line() >= line)
        {
            return Ok(());
        }
        match hands.act(action) {
            Some(Input::Trouble(trouble)) => return Err(trouble),
            Some(input) => machine.feed(input),
            None => return Ok(()),
        }
    }
}

fn machine(case: &Case, run: u64, limits: Limits) -> CaseMachine {
    let env = CaseEnv {
        run,
        device: DISK_DEVICE.to_owned(),
        dir: MOUNT_DIR.to_owned(),
        patience_percent: limits.patience_percent,
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
            Action::Pause { ms } => self.pause(Duration::from_millis(ms)),
            Action::ReadImage { extents, len, cell_bytes } => {
                let cells = self.guest.read_image(&extents, len, cell_bytes);
                Input::Image(cells.map_err(|error| format!("{error:#}")))
            }
            Action::SyncLedger => self.guest.ledger(self.run).map_or_else(Input::Trouble, Input::Ledger),
            Action::Finished => return None,
        })
    }

    fn call(&mut self, step: Step, timeout: Duration) -> Input {
        if self.deadline.passed() {
            return Input::Trouble(Trouble::Hang {
                waited: format!(
                    "the case did not end within its {} s (--timeout)",
                    self.limits.timeout.as_secs()
                ),
                console: Vec::new(),
            });
        }
        match self.guest.call(step, timeout.min(self.deadline.left())) {
            Ok(reply) => Input::Reply { outcome: reply.outcome, elapsed_us: reply.elapsed_us },
            Err(trouble) => Input::Trouble(trouble),
        }
    }

    fn pause(&self, time: Duration) -> Input {
        match self.interrupt.signalled().recv_timeout(time) {
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Input::Trouble(Trouble::Interrupted),
            _ => Input::Paused,
        }
    }
}
