// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What PID 1 owes the guest: the kernel's file systems at the start, power off at the end; and who we are.

use crate::error::{OrRefused, StepError};
use crate::{kmsg, launcher, page_state};
use longpin_proto::agent::{Hello, VERSION};
use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use rustix::time::{ClockId, clock_gettime};
use std::process::ExitCode;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

/// One mount at boot.
struct Mount {
    fs: &'static str,
    dir: &'static str,
    options: &'static str,
    /// Nothing works without it.
    needed: bool,
}

/// In order.
const MOUNTS: [Mount; 9] = [
    Mount { fs: "devtmpfs", dir: "/dev", options: "mode=0755", needed: true },
    Mount { fs: "proc", dir: "/proc", options: "", needed: true },
    Mount { fs: "sysfs", dir: "/sys", options: "", needed: true },
    Mount { fs: "devpts", dir: "/dev/pts", options: "mode=0620,ptmxmode=0666", needed: false },
    Mount { fs: "tmpfs", dir: "/dev/shm", options: "mode=1777", needed: false },
    Mount { fs: "debugfs", dir: "/sys/kernel/debug", options: "", needed: false },
    Mount { fs: "tracefs", dir: "/sys/kernel/tracing", options: "", needed: false },
    Mount { fs: "tmpfs", dir: "/run", options: "mode=0755", needed: false },
    Mount { fs: "tmpfs", dir: "/tmp", options: "mode=1777", needed: false },
];

/// Mount what a program expects to find.
pub fn mount_all() -> Result<(), StepError> {
    for mount in &MOUNTS {
        match mount.mount() {
            Err(error) if mount.needed => return Err(error),
            Err(error) => kmsg::note(&format!("{}: not mounted: {error}", mount.dir)),
            Ok(()) => {}
        }
    }
    list_of_mounts()
}

/// Where programs look for what is mounted (mkfs.nilfs2), as on every Debian.
fn list_of_mounts() -> Result<(), StepError> {
    std::fs::create_dir_all("/etc").or_failed("/etc")?;
    match std::os::unix::fs::symlink("../proc/self/mounts", "/etc/mtab") {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.or_failed("/etc/mtab"),
    }
}

impl Mount {
    fn mount(&self) -> Result<(), StepError> {
        std::fs::create_dir_all(self.dir).or_failed(self.dir)?;
        let options =
            std::ffi::CString::new(self.options).map_err(std::io::Error::from).or_failed(self.dir)?;
        match rustix::mount::mount(self.fs, self.dir, self.fs, MountFlags::empty(), options.as_c_str()) {
            // Mounted already: by the kernel (devtmpfs.mount) or by who started us.
            Err(rustix::io::Errno::BUSY) => Ok(()),
            other => other.or_failed(self.dir),
        }
    }
}

/// The introduction.
pub fn hello() -> Result<Hello, StepError> {
    let uname = rustix::system::uname();
    let read = |path| std::fs::read_to_string(path).or_failed(path);
    let uptime = clock_gettime(ClockId::Boottime);
    Ok(Hello {
        version: VERSION,
        kernel_release: uname.release().to_string_lossy().into_owned(),
        kernel_version: uname.version().to_string_lossy().into_owned(),
        cmdline: read("/proc/cmdline")?.trim_end().to_owned(),
        cpus: rustix::thread::sched_getaffinity(None).or_failed("sched_getaffinity")?.count(),
        memory_kib: mem_total_kib(&read("/proc/meminfo")?),
        uptime_us: uptime.tv_sec as u64 * 1_000_000 + uptime.tv_nsec as u64 / 1000,
        page_state: page_state::source()?,
    })
}

fn mem_total_kib(meminfo: &str) -> u64 {
    let field = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    field.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// How long writing everything out may take: a disk that holds a request must not keep the guest.
const SYNC_DEADLINE: Duration = Duration::from_secs(5);

/// Write everything out, unless that takes too long, and power off. Returns only if the kernel refuses; the end of PID 1 is then a kernel panic,
/// which the harness sees as well.
pub fn power_off() -> ExitCode {
    // A program: its deadline is kept, and a job asleep with the mmap lock does not matter.
    if let Err(error) = launcher::run(&["sync".to_owned()], SYNC_DEADLINE, &AtomicI32::new(0)) {
        kmsg::last_words(&format!("not all is written out: {error}"));
    }
    if let Err(errno) = rustix::system::reboot(RebootCommand::PowerOff) {
        kmsg::last_words(&format!("power off refused: {errno}"));
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        assert_eq!(mem_total_kib("MemTotal:        1013996 kB\nMemFree: 5 kB\n"), 1_013_996);
        assert_eq!(mem_total_kib(""), 0);
    }

    #[test]
    fn this_host_can_be_introduced() {
        let hello = hello().unwrap();
        assert_eq!(hello.version, VERSION);
        assert!(hello.cpus > 0 && hello.memory_kib > 0 && hello.uptime_us > 0);
        assert!(hello.kernel_release.contains('.'), "{}", hello.kernel_release);
    }
}
