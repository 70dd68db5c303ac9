// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the files of one boot are. What people want to read afterwards goes to the boot's directory; sockets and the
//! disk go to a scratch directory with a short name that is removed at the end.

use super::Machine;
use crate::child::Child;
use crate::deadline::Deadline;
use crate::device;
use crate::vm::command_line::command_line;
use crate::vm::sockets::Listener;
use crate::vm::spec::{Disk, Sockets, VmSpec};
use anyhow::Context as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Sockets connect when QEMU starts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Paths of one boot.
pub struct Files {
    pub dir: PathBuf,
    pub scratch: tempfile::TempDir,
    pub console_log: PathBuf,
    pub disk_image: PathBuf,
    pub device: device::Paths,
    sockets: Sockets,
}

impl Files {
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("{} cannot be used", dir.display()))?;
        let scratch =
            tempfile::Builder::new().prefix("longpin-").tempdir().context("no scratch directory")?;
        let at = |name: &str| scratch.path().join(name);
        Ok(Self {
            console_log: dir.join("console.log"),
            disk_image: at("disk.img"),
            device: device::Paths {
                accelerator: at("accelerator"),
                control: at("control"),
                ledger: dir.join("ledger.bin"),
                log: dir.join("device.log"),
            },
            sockets: Sockets {
                qmp: at("qmp"),
                agent: at("agent"),
                shell: Some(at("shell")),
                accelerator: Some(at("accelerator")),
            },
            dir,
            scratch,
        })
    }

    /// QEMU's command, also written to `qemu.cmd`.
    pub fn qemu_command(&self, machine: &Machine, shell: bool) -> anyhow::Result<Command> {
        let images = &machine.images;
        let spec = VmSpec {
            accel: machine.accel,
            memory_mib: machine.memory_mib,
            cpus: machine.cpus,
            kernel: images.kernel.vmlinuz().to_owned(),
            initramfs: images.initramfs.path().to_owned(),
            kernel_args: Vec::new(),
            disks: vec![Disk { image: self.disk_image.clone(), serial: "longpin".into() }],
            sockets: Sockets { shell: self.sockets.shell.clone().filter(|_| shell), ..self.sockets.clone() },
            console_log: self.console_log.clone(),
        };
        let read_only = [spec.kernel.as_path(), spec.initramfs.as_path()];
        let read_write = [self.dir.as_path(), self.scratch.path()];
        let command = machine.qemu.command(command_line(&spec), &read_only, &read_write);
        let path = self.dir.join("qemu.cmd");
        std::fs::write(&path, shell_words(&command))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(command)
    }
}

/// One line that a shell reads back as the same words.
fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut line =
        words.map(|word| crate::quote::word(&word.to_string_lossy())).collect::<Vec<_>>().join(" ");
    line.push('\n');
    line
}

/// Sockets bound before QEMU starts.
pub struct Listeners {
    qmp: Listener,
    agent: Listener,
    shell: Option<Listener>,
}

/// The same, connected.
pub struct Streams {
    pub qmp: UnixStream,
    pub agent: UnixStream,
    pub shell: Option<UnixStream>,
}

impl Listeners {
    pub fn bind(files: &Files, shell: bool) -> anyhow::Result<Self> {
        let shell = files.sockets.shell.clone().filter(|_| shell);
        Ok(Self {
            qmp: Listener::bind(files.sockets.qmp.clone())?,
            agent: Listener::bind(files.sockets.agent.clone())?,
            shell: shell.map(Listener::bind).transpose()?,
        })
    }

    pub fn accept(&self, qemu: &Child) -> anyhow::Result<Streams> {
        let deadline = Deadline::after(CONNECT_TIMEOUT);
        let accept = |listener: &Listener| listener.accept(&[qemu.exited()], deadline);
        Ok(Streams {
            qmp: accept(&self.qmp)?,
            agent: accept(&self.agent)?,
            shell: self.shell.as_ref().map(accept).transpose()?,
        })
    }
}
