// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device daemon of one boot: its process, its control socket, its ledger.

use crate::child::Child;
use crate::deadline::Deadline;
use crate::ledger::LedgerReader;
use anyhow::{Context as _, bail};
use crossbeam_channel::Receiver;
use longpin_proto::control::{Answer, Request, VERSION};
use longpin_proto::line;
use longpin_wire::ledger::Entry;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Program name.
const PROGRAM: &str = "longpin-device";
/// The daemon binds its sockets at once; a loaded machine may be slow to start anything.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A ledger of millions of entries is written out in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
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
}

/// A running daemon.
pub struct Device {
    child: Child,
    control: BufReader<UnixStream>,
    ledger: LedgerReader,
}

impl Device {
    /// Start it and shake hands. When this returns, QEMU can connect.
    pub fn start(paths: &Paths) -> anyhow::Result<Self> {
        let mut child = Child::spawn("longpin-device", command(&program()?, paths), &paths.log)?;
        let connected = Deadline::after(START_TIMEOUT).poll(|| match UnixStream::connect(&paths.control) {
            Ok(stream) => Some(Ok(stream)),
            Err(_) if child.ended().is_some() => Some(Err(child.obituary())),
            Err(_) => None,
        });
        let stream = match connected {
            Some(Ok(stream)) => stream,
            Some(Err(obituary)) => bail!(obituary),
            None => bail!("longpin-device does not serve {} in time", paths.control.display()),
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let ledger = LedgerReader::new(&paths.ledger);
        let mut device = Self { child, control: BufReader::new(stream), ledger };
        device.hello()?;
        Ok(device)
    }

    /// Becomes ready (disconnected) when the daemon has ended.
    pub fn exited(&self) -> &Receiver<()> {
        self.child.exited()
    }

    /// How it ended.
    pub fn obituary(&mut self) -> String {
        self.child.obituary()
    }

    /// Has it ended, within a moment?
    pub fn ends_by(&mut self, deadline: Deadline) -> bool {
        self.child.wait(deadline).is_some()
    }

    /// Did it end otherwise than by its own decision?
    pub fn died(&mut self) -> bool {
        self.child.ended().is_some_and(|status| !status.success())
    }

    /// New ledger entries of `run`.
    pub fn ledger(&mut self, run: u64) -> anyhow::Result<Vec<Entry>> {
        match self.ask(&Request::LedgerSync)? {
            Answer::LedgerSync { entries } => self.ledger.read(run, entries),
            other => bail!("longpin-device answers a ledger request with {other:?}"),
        }
    }

    /// End it: by itself when QEMU has gone, by signal otherwise.
    pub fn stop(&mut self) {
        self.child.stop(END_TIMEOUT);
    }

    fn hello(&mut self) -> anyhow::Result<()> {
        match self.ask(&Request::Hello)? {
            Answer::Hello { version: VERSION, .. } => Ok(()),
            Answer::Hello { version, program } => bail!(
                "longpin-device {program} speaks control version {version}, this harness speaks {VERSION}; build both from one source"
            ),
            other => bail!("longpin-device answers a greeting with {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        line::send(self.control.get_mut(), request).context("longpin-device does not take a request")?;
        match line::receive(&mut self.control).context("longpin-device does not answer")? {
            Answer::Error { message } => bail!("longpin-device refuses {request:?}: {message}"),
            answer => Ok(answer),
        }
    }
}

fn command(program: &Path, paths: &Paths) -> Command {
    let mut command = Command::new(program);
    command.arg("--socket-path").arg(&paths.accelerator);
    command.arg("--control").arg(&paths.control);
    command.arg("--ledger").arg(&paths.ledger);
    command
}

/// The daemon that was built with us lies beside us.
pub fn program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("our own path is unknown")?;
    let beside = here.with_file_name(PROGRAM);
    if !beside.is_file() {
        bail!("{} is missing; build it with `cargo build --release -p longpin-device`", beside.display());
    }
    Ok(beside)
}
