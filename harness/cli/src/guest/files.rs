// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the files of one boot are. What people want to read afterwards goes to the boot's directory. Sockets go to a
//! scratch directory with a short name, disk images to one where there is space for them; both are removed at the end.

use super::Machine;
use crate::args::DiskKind;
use crate::child::Child;
use crate::deadline::Deadline;
use crate::device::{self, AuditedDisk};
use crate::disk;
use crate::scratch::Scratch;
use crate::vm::command_line::{IOMMU_WORDS, command_line};
use crate::vm::sockets::Listener;
use crate::vm::spec::{Disk, Sockets, VmSpec};
use anyhow::Context as _;
use longpin_core::scenario::MachineNeeds;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Sockets connect when QEMU starts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Size of a disk: above the least that each file system accepts (XFS wants 300 MiB), sparse on the host.
const DISK_BYTES: u64 = 512 << 20;
/// Serial numbers of the disks, by their names in the guest.
const SERIALS: [&str; 2] = ["longpin-vda", "longpin-vdb"];

/// What the kernel's command line has for these needs.
pub fn kernel_words(needs: &MachineNeeds) -> Vec<String> {
    let iommu = IOMMU_WORDS.iter().filter(|_| needs.iommu).map(|word| (*word).to_owned());
    iommu.chain(needs.kernel_args.iter().cloned()).collect()
}

/// Paths of one boot.
pub struct Files {
    pub dir: PathBuf,
    pub scratch: Temporary,
    pub console_log: PathBuf,
    pub device: device::Paths,
    /// Images of the guest's disks, in order.
    pub images: Vec<PathBuf>,
    sockets: Sockets,
}

/// What is removed when the guest has gone.
pub struct Temporary {
    pub sockets: Scratch,
    pub disks: Scratch,
}

impl Temporary {
    fn new(disk_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { sockets: Scratch::new(&std::env::temp_dir())?, disks: Scratch::new(disk_dir)? })
    }
}

impl Files {
    /// Choose places, make empty disks.
    pub fn new(machine: &Machine, dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("{} cannot be used", dir.display()))?;
        let scratch = Temporary::new(&machine.disk_dir)?;
        let at = |name: &str| scratch.sockets.path().join(name);
        let place = if machine.keep_disks { &dir } else { scratch.disks.path() };
        let images: Vec<PathBuf> =
            (0..SERIALS.len()).map(|index| place.join(format!("disk{index}.img"))).collect();
        images.iter().try_for_each(|image| disk::create(image, DISK_BYTES))?;
        Ok(Self {
            console_log: dir.join("console.log"),
            device: device::Paths {
                accelerator: at("accelerator"),
                control: at("control"),
                ledger: dir.join("ledger.bin"),
                log: dir.join("device.log"),
                disks: match machine.disk {
                    DiskKind::Audited => audited(&images, machine.cpus, at),
                    DiskKind::Qemu => Vec::new(),
                },
            },
            images,
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
    pub fn qemu_command(
        &self,
        machine: &Machine,
        needs: &MachineNeeds,
        shell: bool,
    ) -> anyhow::Result<Command> {
        let images = &machine.images;
        let spec = VmSpec {
            accel: machine.accel,
            memory_mib: machine.memory_mib,
            cpus: machine.cpus,
            kernel: images.kernel.vmlinuz().to_owned(),
            initramfs: images.initramfs(&needs.programs)?.path(),
            kernel_args: [kernel_words(needs).as_slice(), &machine.additions.kernel_words].concat(),
            iommu: needs.iommu,
            disks: self.disks(machine.disk),
            sockets: Sockets { shell: self.sockets.shell.clone().filter(|_| shell), ..self.sockets.clone() },
            console_log: self.console_log.clone(),
            qemu_args: machine.additions.qemu_args.clone(),
        };
        let read_only = [spec.kernel.as_path(), spec.initramfs.as_path()];
        let read_write = [self.dir.as_path(), self.scratch.sockets.path(), self.scratch.disks.path()];
        let command = machine.qemu.command(command_line(&spec), &read_only, &read_write);
        let path = self.dir.join("qemu.cmd");
        std::fs::write(&path, shell_words(&command))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(command)
    }

    /// As QEMU is told of them.
    fn disks(&self, kind: DiskKind) -> Vec<Disk> {
        match kind {
            DiskKind::Audited => {
                let sockets = self.device.disks.iter().map(|disk| disk.socket.clone());
                sockets.map(|socket| Disk::VhostUser { socket }).collect()
            }
            DiskKind::Qemu => {
                let images = self.images.iter().cloned().zip(SERIALS);
                images.map(|(image, serial)| Disk::Image { image, serial: serial.to_owned() }).collect()
            }
        }
    }
}

/// The same images, served by our daemon.
fn audited(images: &[PathBuf], queues: u32, at: impl Fn(&str) -> PathBuf) -> Vec<AuditedDisk> {
    let disks = images.iter().zip(SERIALS).enumerate();
    disks
        .map(|(index, (image, serial))| AuditedDisk {
            socket: at(&format!("disk{index}")),
            image: image.clone(),
            serial: serial.to_owned(),
            queues,
        })
        .collect()
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
