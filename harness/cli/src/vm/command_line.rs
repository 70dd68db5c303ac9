// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's arguments as a pure function of a [`VmSpec`].

use super::spec::{Accel, Disk, VmSpec};
use longpin_proto::agent;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// Virtio id of the accelerator. QEMU aborts for an id that it has no name for; 38 has a name and no Linux driver.
const VIRTIO_ID: u32 = 38;
/// Queues of the accelerator; must not exceed what the daemon offers.
const QUEUES: u32 = 4;
/// Entries of each queue, of the accelerator and of the disks.
const QUEUE_SIZE: u32 = 256;
/// Bytes of the accelerator's configuration space.
const CONFIG_BYTES: u32 = 64;
/// Name of the port on which the agent gives a shell.
pub const SHELL_PORT: &str = "longpin.shell";

/// Kernel words that every guest gets. None of them touches memory management or file systems:
/// * `panic=-1` with `-no-reboot` ends QEMU at a panic, so that a dead guest is noticed at once;
/// * `no_timer_check`: a translated guest on a busy host may miss ticks, and check_timer() panics then ("IO-APIC + timer
///   doesn't work"); under KVM the kernel leaves the check out by itself;
/// * `tsc=nowatchdog`: a guest of two CPUs may never end its boot (docs/hangs.md, "A hang of the kernel's own");
/// * `loglevel=5` lets warnings reach the serial line (`WARNING:`, `csum failed`): after a hang or a panic the console
///   is the only log. Informational lines, which are slow to emulate, stay in /dev/kmsg, where the agent reads them;
/// * `log_buf_len=4M` has room for what the kernel says between two readings of the agent, a storm of I/O errors
///   included. The agent reports an overrun all the same, and the case is then unproven;
/// * `printk.devkmsg=on` lifts the rate limit of /dev/kmsg for the agent's own marks;
/// * `sysrq_always_enabled`, `unknown_nmi_panic` and `panic_print=0x40` (backtraces of the other CPUs, too) let a guest that
///   hangs be asked where it stands, by its keyboard or by an NMI that only the harness sends;
/// * `earlyprintk` shows what a kernel says that dies before it has its console; it ends when that begins;
/// * `oops=panic` is absent on purpose: an oops is evidence that the run wants to report and survive.
pub const KERNEL_ARGS: [&str; 11] = [
    "console=ttyS0",
    "earlyprintk=ttyS0,115200",
    "panic=-1",
    "no_timer_check",
    "tsc=nowatchdog",
    "loglevel=5",
    "log_buf_len=4M",
    "printk.devkmsg=on",
    "sysrq_always_enabled",
    "unknown_nmi_panic",
    "panic_print=0x40",
];

/// Kernel words of a guest with an IOMMU. Devices that have a driver are not translated (`iommu=pt`): the accelerator does
/// its own DMA, and is given addresses that are the memory's.
pub const IOMMU_WORDS: [&str; 2] = ["intel_iommu=on", "iommu=pt"];

/// Everything after the name of the program.
pub fn command_line(spec: &VmSpec) -> Vec<OsString> {
    let mut line = Line::default();
    line.option("-machine", "q35,memory-backend=mem")
        .option("-object", format!("memory-backend-memfd,id=mem,size={}M,share=on", spec.memory_mib))
        .option("-accel", accel(spec.accel, spec.iommu))
        .option("-cpu", cpu(spec.accel))
        .option("-smp", spec.cpus.to_string())
        .option("-display", "none");
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        line.flag(flag);
    }
    line.path("-kernel", &spec.kernel).path("-initrd", &spec.initramfs).option("-append", append(spec));
    line.keyed("-chardev", "file,id=console,path=", &spec.console_log).option("-serial", "chardev:console");
    // Every QEMU takes this form without a warning: `-mon` is deprecated, its successor is new in 11.
    line.keyed("-chardev", "socket,id=qmp,path=", &spec.sockets.qmp).option("-qmp", "chardev:qmp");
    line.option("-device", "virtio-serial-pci");
    port(&mut line, "agent", &spec.sockets.agent, agent::PORT_NAME);
    if let Some(path) = &spec.sockets.shell {
        port(&mut line, "shell", path, SHELL_PORT);
    }
    if let Some(path) = &spec.sockets.accelerator {
        line.keyed("-chardev", "socket,id=accelerator,path=", path)
            .option("-device", format!("vhost-user-test-device-pci,chardev=accelerator,virtio-id={VIRTIO_ID},num_vqs={QUEUES},vq_size={QUEUE_SIZE},config_size={CONFIG_BYTES}"));
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        match disk {
            Disk::Image { image, serial } => drive(&mut line, index, image, serial),
            Disk::VhostUser { socket } => vhost_user(&mut line, index, socket, spec.cpus),
        }
    }
    if spec.iommu {
        line.option("-device", "intel-iommu").option("-device", "edu");
    }
    line.0.extend(spec.qemu_args.iter().cloned());
    line.0
}

/// The kernel's command line with these words behind ours.
pub fn kernel_line<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    KERNEL_ARGS.iter().copied().chain(words).collect::<Vec<_>>().join(" ")
}

/// VFIO wants interrupts remapped, which KVM leaves to QEMU only if QEMU has the I/O APIC.
fn accel(accel: Accel, iommu: bool) -> &'static str {
    match accel {
        Accel::Kvm if iommu => "kvm,kernel-irqchip=split",
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg,thread=multi",
    }
}

/// The plain CPU has no RDRAND, without which the guest's random generator is not seeded for seconds, and every mkfs
/// waits for it to choose a UUID. `max` is no faster: what it brings, the translator does in helpers.
fn cpu(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "host",
        Accel::Tcg => "qemu64,+rdrand,+rdseed",
    }
}

fn append(spec: &VmSpec) -> String {
    kernel_line(spec.kernel_args.iter().map(String::as_str))
}

fn port(line: &mut Line, id: &str, socket: &Path, name: &str) {
    line.keyed("-chardev", &format!("socket,id={id},path="), socket)
        .option("-device", format!("virtserialport,chardev={id},name={name}"));
}

/// The host's page cache stays in between (`cache.direct=off`), so that the harness reads from the image what the
/// guest has written, without asking QEMU.
fn drive(line: &mut Line, index: usize, image: &Path, serial: &str) {
    line.keyed(
        "-blockdev",
        &format!("driver=raw,node-name=disk{index},discard=unmap,file.driver=file,file.discard=unmap,file.cache.direct=off,file.filename="),
        image,
    )
    .option("-device", format!("virtio-blk-pci,drive=disk{index},serial={serial}"));
}

/// One queue for each guest CPU, as QEMU's own disk has by default.
fn vhost_user(line: &mut Line, index: usize, socket: &Path, queues: u32) {
    line.keyed("-chardev", &format!("socket,id=disk{index},path="), socket).option(
        "-device",
        format!("vhost-user-blk-pci,chardev=disk{index},num-queues={queues},queue-size={QUEUE_SIZE}"),
    );
}

/// Arguments under construction.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into().into());
        self
    }

    fn path(&mut self, name: &str, path: &Path) -> &mut Self {
        self.0.push(name.into());
        self.0.push(path.into());
        self
    }

    /// An option whose value ends with a path: a comma in it must be doubled.
    fn keyed(&mut self, name: &str, prefix: &str, path: &Path) -> &mut Self {
        let mut value = prefix.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
        }
        self.0.push(name.into());
        self.0.push(OsString::from_vec(value));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::spec::Sockets;

    fn spec() -> VmSpec {
        VmSpec {
            accel: Accel::Tcg,
            memory_mib: 1024,
            cpus: 2,
            kernel: "/k/vmlinuz".into(),
            initramfs: "/k/initramfs".into(),
            kernel_args: vec!["quiet".into()],
            disks: vec![
                Disk::Image { image: "/s/a,b.img".into(), serial: "case".into() },
                Disk::VhostUser { socket: "/s/c,d".into() },
            ],
            sockets: Sockets {
                qmp: "/s/qmp".into(),
                agent: "/s/agent".into(),
                shell: None,
                accelerator: Some("/s/accel".into()),
            },
            console_log: "/r/console.log".into(),
            iommu: false,
            qemu_args: vec!["-rtc".into(), "base=localtime".into()],
        }
    }

    fn text(spec: &VmSpec) -> Vec<String> {
        command_line(spec).into_iter().map(|arg| arg.into_string().expect("test paths are UTF-8")).collect()
    }

    #[test]
    fn the_whole_line_is_as_documented() {
        let expected = "\
-machine q35,memory-backend=mem
-object memory-backend-memfd,id=mem,size=1024M,share=on
-accel tcg,thread=multi
-cpu qemu64,+rdrand,+rdseed
-smp 2
-display none
-nodefaults
-no-user-config
-no-reboot
-kernel /k/vmlinuz
-initrd /k/initramfs
-append console=ttyS0 earlyprintk=ttyS0,115200 panic=-1 no_timer_check tsc=nowatchdog loglevel=5 log_buf_len=4M printk.devkmsg=on sysrq_always_enabled unknown_nmi_panic panic_print=0x40 quiet
-chardev file,id=console,path=/r/console.log
-serial chardev:console
-chardev socket,id=qmp,path=/s/qmp
-qmp chardev:qmp
-device virtio-serial-pci
-chardev socket,id=agent,path=/s/agent
-device virtserialport,chardev=agent,name=longpin.agent
-chardev socket,id=accelerator,path=/s/accel
-device vhost-user-test-device-pci,chardev=accelerator,virtio-id=38,num_vqs=4,vq_size=256,config_size=64
-blockdev driver=raw,node-name=disk0,discard=unmap,file.driver=file,file.discard=unmap,file.cache.direct=off,file.filename=/s/a,,b.img
-device virtio-blk-pci,drive=disk0,serial=case
-chardev socket,id=disk1,path=/s/c,,d
-device vhost-user-blk-pci,chardev=disk1,num-queues=2,queue-size=256
-rtc base=localtime";
        let mut lines: Vec<String> = Vec::new();
        for arg in text(&spec()) {
            match lines.last_mut() {
                Some(last) if !arg.starts_with('-') => *last += &format!(" {arg}"),
                _ => lines.push(arg),
            }
        }
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn kvm_brings_the_hosts_cpu() {
        let kvm = text(&VmSpec { accel: Accel::Kvm, ..spec() });
        assert!(kvm.windows(2).any(|pair| pair == ["-accel", "kvm"]));
        assert!(kvm.windows(2).any(|pair| pair == ["-cpu", "host"]));
    }

    #[test]
    fn an_iommu_comes_with_a_device_behind_it_and_qemu_has_the_interrupts() {
        let with = |accel| text(&VmSpec { accel, iommu: true, ..spec() }).join(" ");
        let (tcg, kvm) = (with(Accel::Tcg), with(Accel::Kvm));
        assert!(tcg.ends_with("-device intel-iommu -device edu -rtc base=localtime"), "{tcg}");
        assert!(kvm.contains("-accel kvm,kernel-irqchip=split ") && tcg.contains("-accel tcg,thread=multi "));
    }

    #[test]
    fn a_machine_without_accelerator_or_disk_has_neither_device() {
        let mut bare = spec();
        bare.disks.clear();
        bare.sockets.accelerator = None;
        let line = text(&bare).join(" ");
        assert!(!line.contains("vhost-user") && !line.contains("virtio-blk"), "{line}");
    }

    #[test]
    fn the_shell_has_its_own_port() {
        let mut with_shell = spec();
        with_shell.sockets.shell = Some("/s/shell".into());
        let line = text(&with_shell).join(" ");
        assert!(line.contains("virtserialport,chardev=shell,name=longpin.shell"), "{line}");
    }
}
