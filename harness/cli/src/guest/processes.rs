// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The processes behind a guest, and who died when it falls silent: a panic of the guest's kernel, a hang, QEMU, the
//! device daemon, or the agent are different words in a verdict.

use super::dump::Dumps;
use super::hang::{self, NotTheGuest, PATIENCE, Scene};
use crate::child::Child;
use crate::deadline::Deadline;
use crate::device::{ControlError, Device, Ends, GOODBYE};
use crate::link::LinkError;
use crate::patience::Patience;
use crate::vm::console;
use crate::vm::qmp::{Qmp, Shutdown};
use crossbeam_channel::{Receiver, select};
use longpin_core::record::{Evidence, Trouble};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a channel breaks, QEMU's own end and last word follow at once.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Fields drop in this order: QEMU before the daemon, so that the daemon sees an orderly end of its front end.
pub struct Processes {
    pub qmp: Qmp,
    pub qemu: Child,
    pub device: Device,
    /// Where the boot's logs are.
    pub dir: PathBuf,
    pub console_log: PathBuf,
    /// Bytes of the console log from before the running case: evidence of others.
    pub console_before: u64,
    /// Memory of a guest that hangs is kept.
    pub dumps: Option<Arc<Dumps>>,
    /// Disconnects when we are asked to stop.
    pub interrupt: Receiver<()>,
    /// How long the guest is waited for.
    pub patience: Patience,
}

impl Processes {
    /// What kept an answer away.
    pub fn diagnose(&mut self, error: &LinkError) -> Trouble {
        let waited = matches!(
            error,
            LinkError::Late { .. }
                | LinkError::Oopsed { .. }
                | LinkError::Silent { .. }
                | LinkError::Overdue { .. }
        );
        if let Some(cause) = self.qmp.io_error().filter(|_| waited) {
            return Trouble::Other { message: format!("QEMU stopped the guest: {cause}; see --disk-dir") };
        }
        match error {
            LinkError::Interrupted => Trouble::Interrupted,
            LinkError::Io(message) => Trouble::Other { message: message.clone() },
            LinkError::Flood { .. } => Trouble::Other { message: error.to_string() },
            LinkError::Protocol(_) => Trouble::AgentLost { message: error.to_string() },
            LinkError::Late { .. } | LinkError::Oopsed { .. } | LinkError::Silent { .. } => {
                self.of_silence(error)
            }
            LinkError::Overdue { .. } => match console::panic_line(&self.console_log) {
                Some(_) => self.of_silence(error),
                None => match self.explain(&error.to_string()) {
                    Ok(message) | Err(NotTheGuest(message)) => Trouble::Other { message },
                },
            },
            // QEMU's end is the orderly end of a daemon, which may be noticed first.
            LinkError::DeviceGone if !self.device.died() => self.of_closed_port(),
            LinkError::DeviceGone => Trouble::DeviceLost { message: self.device.obituary() },
            LinkError::Closed => self.of_closed_port(),
        }
    }

    /// The same for a guest that has not said hello.
    pub fn boot_failure(&mut self, error: &LinkError) -> anyhow::Error {
        let trouble = self.diagnose(error);
        let advice =
            console::advice(&self.console_log).map(|advice| format!("; {advice}")).unwrap_or_default();
        let log = self.console_log.display();
        anyhow::anyhow!("guest does not boot: {}{advice}; see {log}", describe(&trouble))
    }

    /// Why the daemon did not answer: because it or QEMU is gone, or for a reason of its own.
    pub fn device_trouble(&mut self, error: &ControlError) -> Trouble {
        match error {
            ControlError::Interrupted => Trouble::Interrupted,
            ControlError::QemuGone(_) => self.of_closed_port(),
            ControlError::Broken { .. } if self.device.ends_by(Deadline::after(GOODBYE)) => {
                Trouble::DeviceLost { message: self.device.obituary() }
            }
            ControlError::Broken { .. } | ControlError::Late { .. } | ControlError::Useless(_) => {
                Trouble::Other { message: error.to_string() }
            }
        }
    }

    /// The guest was told to power off: wait for QEMU's end, and say what the kernel said since the case began.
    pub fn power_off(&mut self, timeout: Duration, ends: &Ends) -> Evidence {
        select! {
            recv(ends.qemu) -> _ => {}
            recv(ends.interrupt) -> _ => return Evidence::Trouble(Trouble::Interrupted),
            default(timeout) => {}
        }
        let console = console::evidence(&self.console_log, self.console_before);
        if console::panic_line(&self.console_log).is_some() {
            return Evidence::Trouble(self.of_panic(console));
        }
        // Where the guest did power off, it is QEMU that does not end: nothing that the kernel could do anything for.
        if self.qemu.ended().is_none() && self.qmp.shutdown().is_none() {
            let waited = format!("the guest did not power off within {} s", timeout.as_secs());
            return Evidence::Trouble(self.hang(&waited, console));
        }
        Evidence::PowerOff { console }
    }

    /// A kernel that panics since the agent died did nothing wrong.
    fn of_panic(&self, console: Vec<String>) -> Trouble {
        match console::lost_init(&self.console_log) {
            Some(line) => Trouble::AgentLost { message: format!("it died: {line}") },
            None => Trouble::Panic { console },
        }
    }

    fn of_silence(&mut self, error: &LinkError) -> Trouble {
        let console = console::evidence(&self.console_log, self.console_before);
        match console::panic_line(&self.console_log) {
            Some(_) => self.of_panic(console),
            None => self.hang(&error.to_string(), console),
        }
    }

    /// `console` is from before the kernel is asked: what it says then is an answer and no evidence.
    fn hang(&mut self, waited: &str, console: Vec<String>) -> Trouble {
        match self.explain(waited) {
            Ok(waited) => Trouble::Hang { waited, console },
            Err(NotTheGuest(message)) => Trouble::Other { message },
        }
    }

    fn explain(&mut self, waited: &str) -> Result<String, NotTheGuest> {
        let scene = Scene {
            dir: &self.dir,
            console: &self.console_log,
            interrupt: &self.interrupt,
            dumps: self.dumps.as_deref(),
            patience: PATIENCE.stretched(self.patience),
        };
        hang::explain(&mut self.qmp, &scene, waited)
    }

    /// The port closes when QEMU ends. A daemon that dies can take QEMU with it, so it is asked first.
    fn of_closed_port(&mut self) -> Trouble {
        self.qemu.wait(Deadline::after(AFTERMATH));
        let console = console::evidence(&self.console_log, self.console_before);
        if console::panic_line(&self.console_log).is_some() {
            return self.of_panic(console);
        }
        if self.device.died() {
            return Trouble::DeviceLost { message: self.device.obituary() };
        }
        if self.qemu.ended().is_none() {
            return Trouble::AgentLost { message: "the agent closed its port while QEMU runs on".into() };
        }
        match self.qmp.shutdown() {
            // A reset without a word on the console: a triple fault, or a console that lost its last lines.
            Some(Shutdown::Reset) => Trouble::Panic { console },
            Some(Shutdown::PowerOff) => {
                Trouble::AgentLost { message: format!("the guest powered itself off: {}", last(&console)) }
            }
            Some(Shutdown::Host) | None => Trouble::QemuExited { message: self.qemu.obituary() },
        }
    }
}

/// QEMU's channels came to nothing: whose end was it? A daemon that cannot serve its disk takes QEMU along.
pub fn start_failure(error: anyhow::Error, qemu: &mut Child, device: &mut Device) -> anyhow::Error {
    qemu.wait(Deadline::after(GOODBYE));
    match device.ends_by(Deadline::after(GOODBYE)) && device.died() {
        true => anyhow::anyhow!(device.obituary()),
        false => error.context(qemu.obituary()),
    }
}

/// One line for people.
pub fn describe(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Panic { console } => {
            let line = console.iter().find(|line| line.contains("Kernel panic"));
            format!("guest kernel panicked: {}", line.map_or_else(|| last(console), |line| line.as_str()))
        }
        Trouble::Hang { waited, .. } => format!("guest hangs: {waited}"),
        Trouble::AgentLost { message }
        | Trouble::DeviceLost { message }
        | Trouble::QemuExited { message }
        | Trouble::Other { message } => message.clone(),
        Trouble::Interrupted => "interrupted".to_owned(),
    }
}

fn last(console: &[String]) -> &str {
    console.last().map_or("(no console output)", String::as_str)
}
