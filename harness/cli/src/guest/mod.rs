// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One booted guest: device daemon, QEMU, agent, and the directory that they leave behind. Dropping a guest ends its
//! processes.

pub mod dump;
mod files;
mod hang;
mod processes;

use crate::args::DiskKind;
use crate::child::Child;
use crate::deadline::Deadline;
use crate::device::{Device, Ends, Program};
use crate::disk;
use crate::fsck;
use crate::images::{Images, Load};
use crate::interrupt::Interrupt;
use crate::link::{AgentLink, Lifelines, LinkError, Reply};
use crate::patience::Patience;
use crate::vm::additions::Additions;
use crate::vm::console;
use crate::vm::qemu::Qemu;
use crate::vm::qmp::Qmp;
use crate::vm::spec::Accel;
use anyhow::Context as _;
use dump::Dumps;
pub use files::kernel_words;
use files::{Files, Listeners, Streams, Temporary};
use longpin_core::machine::Lacks;
use longpin_core::record::{Evidence, FsckReport, Trouble};
use longpin_core::scenario::MachineNeeds;
use longpin_images::ToolRoot;
use longpin_proto::agent::{Hello, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::facts::{Cells, Extent};
use longpin_wire::ledger::Entry;
use processes::Processes;
pub use processes::describe;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the first disk in the guest: file systems lie on it.
pub const DISK_DEVICE: &str = "/dev/vda";
/// Name of the second: empty, for reads.
pub const SECOND_DISK_DEVICE: &str = "/dev/vdb";
/// A guest under TCG on a busy host boots in well under a minute.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// A module loads in a moment.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// An orderly power-off: nothing is mounted any more. It takes a second or two; longer is a hang.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(120);

/// What the guests of a run have in common.
pub struct Machine {
    /// Kernel, initramfs, tool root.
    pub images: Images,
    /// Emulator.
    pub qemu: Qemu,
    /// The device daemon.
    pub device: Program,
    /// Execution.
    pub accel: Accel,
    /// How long a guest is waited for.
    pub patience: Patience,
    /// What is under the file systems.
    pub disk: DiskKind,
    /// Where the images of disks go.
    pub disk_dir: PathBuf,
    /// Images stay, in the boot's own directory.
    pub keep_disks: bool,
    /// Memory of guests that do not answer is kept.
    pub dumps: Option<Arc<Dumps>>,
    /// Memory.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// What the user adds to both command lines.
    pub additions: Additions,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A signal asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// Something of ours, or the guest's kernel, did not get so far.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// A running guest. Fields drop in this order: channel, QEMU and daemon, sockets and disks.
pub struct Guest {
    link: AgentLink,
    processes: Processes,
    ends: Ends,
    shell: Option<UnixStream>,
    disk_kind: DiskKind,
    lacks: Lacks,
    loads: Vec<Load>,
    /// Of the first disk.
    disk_image: PathBuf,
    control_socket: PathBuf,
    tool_root: Arc<ToolRoot>,
    hello: Hello,
    seconds_to_agent: f64,
    scratch: Temporary,
}

impl Guest {
    /// Boot. Logs, ledger and QEMU's command line go to `dir`, which must exist.
    ///
    /// Must be called from a thread that outlives the guest: its processes die with that thread.
    pub fn boot(
        machine: &Machine,
        needs: &MachineNeeds,
        dir: &Path,
        shell: bool,
        interrupt: &Interrupt,
    ) -> Result<Self, BootError> {
        let started = Instant::now();
        let files = Files::new(machine, dir)?;
        let listeners = Listeners::bind(&files, shell)?;
        let mut device = Device::start(&machine.device, &files.device)?;
        let command = files.qemu_command(machine, needs, shell)?;
        let mut qemu = Child::spawn("qemu", command, &files.dir.join("qemu.log"))?;
        let patience = machine.patience;
        let connected = connect(&listeners, &qemu, patience.of_any(BOOT_TIMEOUT));
        let (qmp, sockets) =
            connected.map_err(|error| processes::start_failure(error, &mut qemu, &mut device))?;
        let ends = Ends { qemu: qemu.exited().clone(), interrupt: interrupt.signalled().clone() };
        let lifelines = Lifelines {
            qemu: qemu.exited().clone(),
            device: device.exited().clone(),
            interrupt: interrupt.signalled().clone(),
            console: files.console_log.clone(),
        };
        let mut link = AgentLink::new(sockets.agent, lifelines, &files.dir.join("agent.log"), patience)?;
        let Files { dir, console_log, images, scratch, device: device_paths, .. } = files;
        let disk_image = images.into_iter().next().context("a guest has a disk")?;
        let mut processes = Processes {
            qmp,
            qemu,
            device,
            dir,
            console_log,
            console_before: 0,
            dumps: machine.dumps.clone(),
            interrupt: interrupt.signalled().clone(),
            patience,
        };
        let hello = match link.hello(Deadline::after(patience.of_any(BOOT_TIMEOUT))) {
            Ok(hello) => hello,
            Err(LinkError::Interrupted) => return Err(BootError::Interrupted),
            Err(error) => return Err(processes.boot_failure(&error).into()),
        };
        let seconds_to_agent = started.elapsed().as_secs_f64();
        Ok(Self {
            link,
            processes,
            ends,
            shell: sockets.shell,
            disk_kind: machine.disk,
            lacks: machine.images.lacks(),
            loads: machine.images.loads.clone(),
            disk_image,
            control_socket: device_paths.control,
            tool_root: Arc::clone(&machine.images.tool_root),
            hello,
            seconds_to_agent,
            scratch,
        })
    }

    /// The agent's introduction.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// From the first process to the agent's greeting.
    pub fn seconds_to_agent(&self) -> f64 {
        self.seconds_to_agent
    }

    /// What is under its file systems.
    pub fn disk_kind(&self) -> DiskKind {
        self.disk_kind
    }

    /// What its kernel has not.
    pub fn lacks(&self) -> &Lacks {
        &self.lacks
    }

    /// Where the device daemon can be asked.
    pub fn control_socket(&self) -> &Path {
        &self.control_socket
    }

    /// QEMU's own word.
    pub fn qemu_version(&self) -> &str {
        self.processes.qmp.version()
    }

    /// The device daemon's own word.
    pub fn device_version(&self) -> &str {
        self.processes.device.version()
    }

    /// A case begins: what the console has said so far is not its evidence.
    pub fn begin_case(&mut self) {
        self.processes.console_before = console::len(&self.processes.console_log);
    }

    /// Give an order. Whatever keeps the answer away is told as the trouble that it is.
    /// A step that runs when the `case` is to be over is no hang, unless it is past its own `timeout`.
    pub fn call(&mut self, step: Step, timeout: Duration, case: Option<Deadline>) -> Result<Reply, Trouble> {
        self.link.call(step, timeout, case).map_err(|error| self.processes.diagnose(&error))
    }

    /// Load what the user added and the driver, if this kernel has one.
    pub fn load_driver(&mut self) -> Result<(), BootError> {
        let loads = std::mem::take(&mut self.loads);
        loads.iter().try_for_each(|load| self.load(&load.name, &load.params))
    }

    /// Load a module of the initramfs.
    pub fn load_module(&mut self, name: &str) -> Result<(), BootError> {
        self.load(name, "")
    }

    fn load_timeout(&self) -> Duration {
        self.processes.patience.of_any(LOAD_TIMEOUT)
    }

    fn load(&mut self, name: &str, params: &str) -> Result<(), BootError> {
        let step = Step::LoadModule { name: name.to_owned(), params: params.to_owned() };
        let message = match self.call(step, self.load_timeout(), None) {
            Ok(Reply { outcome: Outcome::Done { .. }, .. }) => return Ok(()),
            Ok(Reply { outcome: Outcome::Refused(errno), .. }) => {
                format!("{} gave {}; the kernel's reason is in console.log", errno.call, errno.name)
            }
            Ok(Reply { outcome: Outcome::Failed { message }, .. }) => message,
            Err(Trouble::Interrupted) => return Err(BootError::Interrupted),
            Err(trouble) => processes::describe(&trouble),
        };
        Err(anyhow::anyhow!("module `{name}` cannot be loaded: {message}").into())
    }

    /// Read the kernel log of the boot, which is no case's evidence; `agent.log` has it for people.
    pub fn drop_boot_log(&mut self) -> Result<(), BootError> {
        match self.call(Step::KernelLog, self.load_timeout(), None) {
            Ok(Reply { outcome: Outcome::Done { .. }, .. }) => Ok(()),
            Ok(Reply { outcome, .. }) => {
                Err(anyhow::anyhow!("the kernel log cannot be read: {outcome:?}").into())
            }
            Err(Trouble::Interrupted) => Err(BootError::Interrupted),
            Err(trouble) => {
                Err(anyhow::anyhow!("the kernel log cannot be read: {}", processes::describe(&trouble))
                    .into())
            }
        }
    }

    /// Ask the device daemon. A refusal is an answer; what keeps the answer away is told as the trouble that it is.
    pub fn ask_device(&mut self, request: &Request, timeout: Duration) -> Result<Answer, Trouble> {
        let asked = self.processes.device.ask(request, timeout, &self.ends);
        asked.map_err(|error| self.processes.device_trouble(&error))
    }

    /// New ledger entries of `run`.
    pub fn ledger(&mut self, run: u64) -> Result<Vec<Entry>, Trouble> {
        let entries = self.processes.device.ledger(run, &self.ends);
        entries.map_err(|error| self.processes.device_trouble(&error))
    }

    /// The word of the file system's own checker on the first disk, which the guest must not be using.
    pub fn fsck(&self, fs: &str) -> anyhow::Result<FsckReport> {
        fsck::check(&self.tool_root, fs, &self.disk_image, self.scratch.sockets.path())
    }

    /// A file of the guest as the host finds it on the disk.
    pub fn read_image(&self, extents: &[Extent], len: u64, cell_bytes: u32) -> anyhow::Result<Cells> {
        disk::read_cells(&self.disk_image, extents, len, cell_bytes)
    }

    /// The host's end of the shell port; can be taken once.
    pub fn take_shell(&mut self) -> Option<UnixStream> {
        self.shell.take()
    }

    /// Tell the agent to run a program at the shell port, or a shell if `argv` is empty; the number is for
    /// [`Self::answer`].
    pub fn start_shell(&mut self, argv: &[String], plain: bool) -> Result<u64, LinkError> {
        self.link.send(Step::Shell { argv: argv.to_owned(), plain })
    }

    /// What came of an order, or what keeps its answer away; none if it is still under way at the deadline.
    pub fn answer(&mut self, seq: u64, deadline: Deadline) -> Option<Result<Outcome, Trouble>> {
        let answer = self.link.answer(seq, deadline)?;
        Some(answer.map_err(|error| self.processes.diagnose(&error)))
    }

    /// Power off and wait for QEMU's own end: what the kernel said since the last case began, or how it died. A guest that
    /// does not end in time is killed when it is dropped, and was a hang.
    pub fn power_off(&mut self) -> Evidence {
        if let Err(error) = self.link.send(Step::PowerOff) {
            return Evidence::Trouble(self.processes.diagnose(&error));
        }
        self.processes.power_off(self.processes.patience.of_any(POWER_OFF_TIMEOUT), &self.ends)
    }
}

/// QEMU connects its channels before it looks at the devices, and greets after it.
fn connect(listeners: &Listeners, qemu: &Child, timeout: Duration) -> anyhow::Result<(Qmp, Streams)> {
    let streams = listeners.accept(qemu)?;
    let monitor = streams.qmp.try_clone().context("monitor socket cannot be cloned")?;
    Ok((Qmp::handshake(monitor, Deadline::after(timeout))?, streams))
}

/// Name of a boot's directory.
pub fn boot_dir(out: &Path, boot: u32) -> anyhow::Result<PathBuf> {
    let dir = out.join(format!("boot-{boot}"));
    std::fs::create_dir(&dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    Ok(dir)
}
