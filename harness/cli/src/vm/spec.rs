// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a virtual machine consists of, in plain values. Knows no scenario and starts nothing.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualization.
    Kvm,
    /// QEMU's translator, one host thread per guest CPU.
    Tcg,
}

impl Accel {
    /// Word in results and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A disk that the guest sees as a virtio disk, `/dev/vda` first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// QEMU's own, over a raw image.
    Image {
        /// Image file on the host.
        image: PathBuf,
        /// Serial number in the guest (`/dev/disk/by-id/virtio-SERIAL`).
        serial: String,
    },
    /// Of somebody else, who serves this vhost-user socket and knows image and serial number.
    VhostUser {
        /// Socket.
        socket: PathBuf,
    },
}

/// Unix sockets between QEMU and us. QEMU connects to each; we listen before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// QMP monitor.
    pub qmp: PathBuf,
    /// Agent port.
    pub agent: PathBuf,
    /// Shell port, if the guest is to have one.
    pub shell: Option<PathBuf>,
    /// vhost-user socket of the accelerator, served by the device daemon.
    pub accelerator: Option<PathBuf>,
}

/// A machine, ready to be turned into a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Execution.
    pub accel: Accel,
    /// Guest memory.
    pub memory_mib: u32,
    /// Guest CPUs.
    pub cpus: u32,
    /// bzImage.
    pub kernel: PathBuf,
    /// Initramfs that holds the agent.
    pub initramfs: PathBuf,
    /// Words after the fixed part of the kernel command line.
    pub kernel_args: Vec<String>,
    /// Disks in order.
    pub disks: Vec<Disk>,
    /// Channels.
    pub sockets: Sockets,
    /// Where QEMU writes what the kernel says on ttyS0.
    pub console_log: PathBuf,
    /// An IOMMU that translates for devices that a program drives, and such a device.
    pub iommu: bool,
    /// Arguments behind all others.
    pub qemu_args: Vec<OsString>,
}
