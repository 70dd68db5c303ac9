// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device daemon of one boot: its process, its control socket, its ledger.

mod control;
mod program;

pub use control::{ControlError, Ends};
pub use program::Program;

use crate::child::Child;
use crate::deadline::Deadline;
use crate::ledger::LedgerReader;
use anyhow::bail;
use control::Control;
use crossbeam_channel::{Receiver, never};
use longpin_proto::control::{Answer, Request, VERSION};
use longpin_wire::ledger::Entry;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The daemon binds its sockets at once; a loaded machine may be slow to start anything.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A ledger of millions of entries is written out in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A daemon whose control socket broke is about to end.
pub const GOODBYE: Duration = Duration::from_secs(1);
/// After QEMU has gone the daemon drains and ends by itself.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the daemon's files are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// vhost-user socket, for QEMU.
    pub accelerator: PathBuf,
    /// Control socket.
    pub control: PathBuf,
    /// Ledger.
    pub ledger: PathBuf,
    /// What it logs.
    pub log: PathBuf,
    /// Disks that it serves, in order.
    pub disks: Vec<AuditedDisk>,
}

/// One auditing disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedDisk {
    /// vhost-user socket, for QEMU.
    pub socket: PathBuf,
    /// Raw image, which must exist.
    pub image: PathBuf,
    /// Serial number in the guest.
    pub serial: String,
    /// Request queues.
    pub queues: u32,
}

impl AuditedDisk {
    /// Value of the daemon's `--disk`: commas in a value are doubled.
    fn option(&self) -> OsString {
        let mut option = Vec::new();
        let (serial, queues) = (self.serial.as_bytes(), self.queues.to_string());
        for (key, value) in [
            ("socket=", self.socket.as_os_str().as_bytes()),
            (",image=", self.image.as_os_str().as_bytes()),
            (",serial=", serial),
            (",queues=", queues.as_bytes()),
        ] {
            option.extend(key.as_bytes());
            for byte in value {
                option.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
            }
        }
        OsString::from_vec(option)
    }
}

/// A running daemon.
pub struct Device {
    child: Child,
    control: Control,
    ledger: LedgerReader,
    version: String,
}

impl Device {
    /// Start it and shake hands. When this returns, QEMU can connect.
    ///
    /// Errors: what the daemon said before it ended, if it did.
    pub fn start(program: &Program, paths: &Paths) -> anyhow::Result<Self> {
        let mut child = Child::spawn(&program.name(), command(program, paths), &paths.log)?;
        let connected = Deadline::after(START_TIMEOUT).poll(|| match UnixStream::connect(&paths.control) {
            Ok(stream) => Some(Ok(stream)),
            Err(_) if child.ended().is_some() => Some(Err(child.obituary_by(complaint))),
            Err(_) => None,
        });
        let stream = match connected {
            Some(Ok(stream)) => stream,
            Some(Err(obituary)) => bail!(obituary),
            None => bail!(
                "{} and does not serve --control {} within {} s",
                child.obituary_by(complaint),
                paths.control.display(),
                START_TIMEOUT.as_secs()
            ),
        };
        let ledger = LedgerReader::new(&paths.ledger);
        let mut device = Self { child, control: Control::new(stream)?, ledger, version: String::new() };
        match device.hello() {
            Ok(version) => {
                device.version = version;
                Ok(device)
            }
            // It serves the control socket first: its end is the reason, the broken connection only shows it.
            Err(_) if device.ends_by(Deadline::after(GOODBYE)) => Err(anyhow::anyhow!(device.obituary())),
            Err(error) => Err(error.context(device.obituary())),
        }
    }

    /// Becomes ready (disconnected) when the daemon has ended.
    pub fn exited(&self) -> &Receiver<()> {
        self.child.exited()
    }

    /// Its program's own word, as `0.1.0`: it greets with its name before it.
    pub fn version(&self) -> &str {
        self.version.rsplit(' ').next().unwrap_or_default()
    }

    /// How it ended.
    pub fn obituary(&mut self) -> String {
        self.child.obituary_by(complaint)
    }

    /// Has it ended, within a moment?
    pub fn ends_by(&mut self, deadline: Deadline) -> bool {
        self.child.wait(deadline).is_some()
    }

    /// Did it end otherwise than by its own decision?
    pub fn died(&mut self) -> bool {
        self.child.ended().is_some_and(|status| !status.success())
    }

    /// Ask the daemon. A refusal is an answer ([`Answer::Error`]).
    pub fn ask(&mut self, request: &Request, timeout: Duration, ends: &Ends) -> Result<Answer, ControlError> {
        self.control.ask(request, timeout, ends)
    }

    /// New ledger entries of `run`, of both kinds.
    pub fn ledger(&mut self, run: u64, ends: &Ends) -> Result<Vec<Entry>, ControlError> {
        match self.ask(&Request::LedgerSync, ANSWER_TIMEOUT, ends)? {
            Answer::LedgerSync { entries } => Ok(self.ledger.read(run, entries)?),
            other => Err(anyhow::anyhow!("longpin-device answers a ledger request with {other:?}").into()),
        }
    }

    fn hello(&mut self) -> anyhow::Result<String> {
        let nothing_else = Ends { qemu: never(), interrupt: never() };
        match self.ask(&Request::Hello, ANSWER_TIMEOUT, &nothing_else)? {
            Answer::Hello { version: VERSION, program } => Ok(program),
            Answer::Hello { version, program } => bail!(
                "longpin-device {program} speaks control version {version}, this harness speaks {VERSION}; build both from one source"
            ),
            other => bail!("longpin-device answers a greeting with {other:?}"),
        }
    }
}

/// The daemon writes its ledger out when it ends in order, so it is asked to on every path, that of a dead guest
/// included; what does not end in time is killed.
impl Drop for Device {
    fn drop(&mut self) {
        self.child.stop(END_TIMEOUT);
    }
}

fn command(program: &Program, paths: &Paths) -> Command {
    let mut command = program.command();
    command.arg("--socket-path").arg(&paths.accelerator);
    command.arg("--control").arg(&paths.control);
    command.arg("--ledger").arg(&paths.ledger);
    for disk in &paths.disks {
        command.arg("--disk").arg(disk.option());
    }
    command
}

/// `[TIME ERROR MODULE] TEXT` in the daemon's log.
fn complaint(line: &str) -> Option<&str> {
    let (head, text) = line.split_once("] ")?;
    head.contains(" ERROR ").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_without_its_head() {
        let line = "[2026-11-23T22:56:27Z ERROR longpin_device] host refused: io_uring [cannot] be set up";
        assert_eq!(complaint(line), Some("host refused: io_uring [cannot] be set up"));
        assert_eq!(complaint("[2026-11-23T22:56:27Z INFO  longpin_device] ready"), None);
    }

    #[test]
    fn a_disk_is_told_by_keys_and_a_comma_in_a_path_is_doubled() {
        let disk = AuditedDisk {
            socket: "/s/disk0".into(),
            image: "/s/a,b.img".into(),
            serial: "longpin-vda".into(),
            queues: 2,
        };
        assert_eq!(disk.option(), "socket=/s/disk0,image=/s/a,,b.img,serial=longpin-vda,queues=2");
    }
}
