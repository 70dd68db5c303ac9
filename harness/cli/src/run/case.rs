// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Does what a case machine wants, on a real guest. Decides nothing.

use crate::deadline::Deadline;
use crate::guest::{DISK_DEVICE, Guest};
use crate::interrupt::Interrupt;
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

/// Run one case to its end. `run` is its label in stamps and ledger; `progress` is told each new line of the scenario.
pub fn run(
    guest: &mut Guest,
    case: &Case,
    run: u64,
    limits: Limits,
    interrupt: &Interrupt,
    mut progress: impl FnMut(usize),
) -> CaseRecord {
    let env = CaseEnv {
        run,
        device: DISK_DEVICE.to_owned(),
        dir: MOUNT_DIR.to_owned(),
        patience_percent: limits.patience_percent,
    };
    guest.begin_case();
    let mut machine = CaseMachine::new(case, env);
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
