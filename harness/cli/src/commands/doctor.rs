// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin doctor`: what this host lacks, each with the command that mends it.

use crate::device::{self, AuditedDisk};
use crate::disk;
use crate::error::Result;
use crate::fsck;
use crate::output;
use crate::patience;
use crate::run::environment::cpu_model;
use crate::vm::accel;
use crate::vm::qemu::Qemu;
use anyhow::Context as _;
use io_uring::IoUring;
use longpin_core::exit_code::ExitCode;
use longpin_images::{Store, report};
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Bytes that tool root, kernel and their build take at most.
const IMAGE_BYTES: u64 = 8 << 30;
/// Bytes for scratch disks once images are there: a few boots at a time.
const SCRATCH_BYTES: u64 = 1 << 30;
/// KiB of memory for one guest and its processes.
const MEMORY_KIB: u64 = 1_400_000;
/// Descriptors that one run uses at most: sockets, logs, locks, with room to spare.
const DESCRIPTORS: u64 = 256;
/// A disk to try the daemon with.
const PROBE_DISK_BYTES: u64 = 1 << 20;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// As it should be.
    Fine(String),
    /// Runs go without it.
    Optional { problem: String, remedy: String },
    /// No run without it.
    Required { problem: String, remedy: String },
}

use Finding::{Fine, Optional, Required};

/// Look at everything and say it. Exit code 0, or 2 if something required is missing.
pub fn doctor() -> Result<ExitCode> {
    let store = Store::open_default().context("image store cannot be opened")?;
    let tool_root = tool_root(&store);
    let built = tool_root.is_some();
    let checks = [
        ("bubblewrap", bubblewrap()),
        ("mmdebstrap", mmdebstrap(built)),
        ("user namespaces", subordinate_ids()),
        ("qemu", qemu()),
        ("kvm", kvm()),
        ("translation", translation(&store, built)),
        ("device daemon", daemon()),
        ("auditing disk", auditing_disk()),
        ("checkers", checkers(tool_root.as_deref())),
        ("image store", space(store.path(), if built { SCRATCH_BYTES } else { IMAGE_BYTES })),
        ("scratch space", space(&std::env::temp_dir(), SCRATCH_BYTES)),
        ("memory", memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())),
        ("shared memory", shared_memory()),
        ("descriptors", descriptors(getrlimit(Resource::Nofile).current)),
    ];
    let missing = checks.iter().filter(|(_, finding)| matches!(finding, Required { .. })).count();
    let (verdict, code) = match missing {
        0 => (
            "this host can run longpin; `longpin selftest` shows that crashes, hangs and kills get the right word here"
                .to_owned(),
            ExitCode::Good,
        ),
        1 => ("one required thing is missing".to_owned(), ExitCode::Error),
        n => (format!("{n} required things are missing"), ExitCode::Error),
    };
    let lines = checks.iter().map(|(name, finding)| line(name, finding)).chain([verdict]);
    output::text(&lines.map(|line| line + "\n").collect::<String>())?;
    Ok(code)
}

fn line(name: &str, finding: &Finding) -> String {
    match finding {
        Fine(text) => format!("ok       {name}: {text}"),
        Optional { problem, remedy } => format!("note     {name}: {problem}\n         mend: {remedy}"),
        Required { problem, remedy } => format!("missing  {name}: {problem}\n         mend: {remedy}"),
    }
}

fn bubblewrap() -> Finding {
    let remedy = |text: &str| text.to_owned();
    let Some(path) = find("bwrap") else {
        return Required {
            problem: "bwrap is not in PATH".into(),
            remedy: remedy("apt-get install --yes bubblewrap"),
        };
    };
    let enters = Command::new(&path)
        .args(["--ro-bind", "/", "/", "--unshare-pid", "--unshare-user", "--", "true"])
        .stdin(Stdio::null())
        .output();
    match enters {
        Ok(output) if output.status.success() => Fine(path.display().to_string()),
        Ok(output) => Required {
            problem: format!("cannot make a namespace: {}", String::from_utf8_lossy(&output.stderr).trim()),
            remedy: remedy(
                "sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        },
        Err(error) => Required {
            problem: format!("{} cannot be started: {error}", path.display()),
            remedy: remedy("apt-get install --yes --reinstall bubblewrap"),
        },
    }
}

fn mmdebstrap(built: bool) -> Finding {
    let (problem, remedy) =
        ("mmdebstrap is not in PATH".to_owned(), "apt-get install --yes mmdebstrap".to_owned());
    match find("mmdebstrap") {
        Some(path) => Fine(path.display().to_string()),
        None if built => Optional { problem: format!("{problem}; the tool root is built already"), remedy },
        None => Required { problem, remedy },
    }
}

/// Only an ordinary user needs them, to make the tool root.
fn subordinate_ids() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Fine("not needed as root".into());
    }
    if find("newuidmap").is_none() {
        return Required {
            problem: "newuidmap is not in PATH".into(),
            remedy: "apt-get install --yes uidmap".into(),
        };
    }
    let user = std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string());
    let listed = |file| std::fs::read_to_string(file).is_ok_and(|text| has_range(&text, &user));
    match listed("/etc/subuid") && listed("/etc/subgid") {
        true => Fine(format!("{user} has subordinate ids")),
        false => Required {
            problem: format!("{user} has no entry in /etc/subuid and /etc/subgid"),
            remedy: format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
        },
    }
}

/// `USER:FIRST:COUNT`, by name or number.
fn has_range(text: &str, user: &str) -> bool {
    let uid = rustix::process::getuid().as_raw().to_string();
    text.lines().filter_map(|line| line.split(':').next()).any(|name| name == user || name == uid)
}

fn qemu() -> Finding {
    match Qemu::of_host() {
        Some(qemu) => Fine(format!("{} of this host", qemu.origin())),
        None => Fine("the tool root's, since this host has none of 10.2 or later".into()),
    }
}

fn kvm() -> Finding {
    match accel::kvm_present() {
        Ok(()) => Fine("there; a probe guest decides at the first run".into()),
        Err(error) => Optional {
            problem: format!("not usable, guests run translated (TCG): {error:#}"),
            remedy: "switch virtualization on in the firmware or for this VM, and join group kvm".into(),
        },
    }
}

/// Measured anew at each look, for the runs that come: it is kept.
fn translation(store: &Store, built: bool) -> Finding {
    let measure = || {
        let qemu = match Qemu::of_host() {
            Some(host) => host,
            None => Qemu::ToolRoot(Arc::new(store.tool_root(&*report::for_stderr())?)),
        };
        let scratch = tempfile::tempdir().context("no scratch directory")?;
        patience::measure(&qemu, &cpu_model(), store.path(), scratch.path())
    };
    if !built && Qemu::of_host().is_none() {
        return Fine("measured at the first run, which builds the tool root".into());
    }
    match measure() {
        Ok(text) => Fine(text),
        Err(error) => Required {
            problem: format!("no translated guest runs: {error:#}"),
            remedy: "longpin image gc --all && longpin image build, or name another QEMU with run --qemu"
                .into(),
        },
    }
}

fn daemon() -> Finding {
    match device::Program::open() {
        Ok(program) => Fine(program.path().display().to_string()),
        Err(error) => {
            Required { problem: format!("{error:#}"), remedy: "cargo build --release --workspace".into() }
        }
    }
}

/// The daemon's disk needs io_uring, which a host may forbid.
fn auditing_disk() -> Finding {
    let ring = IoUring::new(8).map(drop).context("io_uring cannot be set up");
    match ring.and_then(|()| serve_disk()) {
        Ok(()) => Fine("a disk was served, and io_uring is there".into()),
        Err(error) => Required {
            problem: format!("{error:#}"),
            remedy: match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
                Ok(text) if text.trim() != "0" => "sysctl kernel.io_uring_disabled=0".into(),
                _ => "leave the sandbox (seccomp) that forbids it, or run with --disk qemu".into(),
            },
        },
    }
}

fn serve_disk() -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no scratch directory")?;
    let at = |name: &str| dir.path().join(name);
    let image = at("disk.img");
    disk::create(&image, PROBE_DISK_BYTES)?;
    let disks = vec![AuditedDisk { socket: at("disk"), image, serial: "longpin-doctor".into(), queues: 1 }];
    let paths = device::Paths {
        accelerator: at("accelerator"),
        control: at("control"),
        ledger: at("ledger"),
        log: at("log"),
        disks,
    };
    drop(device::Device::start(&device::Program::open()?, &paths)?);
    Ok(())
}

/// Directory of the tool root that would be used, if it is built.
fn tool_root(store: &Store) -> Option<PathBuf> {
    store.built_tool_root().ok()?
}

/// Each file system's own, for the host's look at an image.
fn checkers(tool_root: Option<&Path>) -> Finding {
    let Some(dir) = tool_root else {
        return Fine("come with the tool root, which the first run builds".into());
    };
    let absent = |program: &&str| {
        let places = ["usr/sbin", "usr/bin"].map(|place| dir.join("root").join(place).join(program));
        !places.iter().any(|path| path.is_file())
    };
    let absent: Vec<&str> = fsck::programs().filter(absent).collect();
    match absent.as_slice() {
        [] => Fine(fsck::programs().collect::<Vec<_>>().join(", ")),
        absent => Required {
            problem: format!("{} not in the tool root {}", absent.join(", "), dir.display()),
            remedy: "longpin image gc --all && longpin image build".into(),
        },
    }
}

fn space(dir: &Path, needed: u64) -> Finding {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let remedy = format!(
        "free space there, or set LONGPIN_CACHE and TMPDIR to a larger file system than {}'s",
        dir.display()
    );
    match rustix::fs::statvfs(dir) {
        Ok(fs) => match fs.f_bavail.saturating_mul(fs.f_frsize) {
            free if free >= needed => Fine(format!("{} free in {}", gib(free), dir.display())),
            free => Required {
                problem: format!("{} free in {}, {} needed", gib(free), dir.display(), gib(needed)),
                remedy,
            },
        },
        Err(error) => Required { problem: format!("{}: {error}", dir.display()), remedy },
    }
}

fn memory(meminfo: &str) -> Finding {
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    match kib >= MEMORY_KIB {
        true => Fine(format!("{} MiB available", kib / 1024)),
        false => Required {
            problem: format!("{} MiB available, {} needed for a guest", kib / 1024, MEMORY_KIB / 1024),
            remedy: "end other programs, or run with --memory 512".into(),
        },
    }
}

/// Guest memory is a memfd that the daemon maps as well.
fn shared_memory() -> Finding {
    match rustix::fs::memfd_create("longpin-doctor", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => Fine("memfd works".into()),
        Err(error) => Required {
            problem: format!("memfd_create: {error}"),
            remedy: "leave the sandbox (seccomp) that forbids it".into(),
        },
    }
}

fn descriptors(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < DESCRIPTORS => Required {
            problem: format!("{limit} open files allowed, {DESCRIPTORS} needed"),
            remedy: format!("ulimit -n {DESCRIPTORS}"),
        },
        Some(limit) => Fine(format!("{limit} open files allowed")),
        None => Fine("no limit on open files".into()),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_is_named_with_a_remedy() {
        assert!(matches!(memory("MemAvailable:    8000000 kB\n"), Fine(_)));
        let Required { problem, remedy } = memory("MemAvailable: 512000 kB\n") else { panic!("accepted") };
        assert!(
            problem.starts_with("500 MiB available, 1367 needed") && remedy.contains("--memory"),
            "{problem}"
        );
    }

    #[test]
    fn a_low_limit_of_descriptors_is_named_with_the_command() {
        assert!(matches!(descriptors(None), Fine(_)));
        assert!(matches!(descriptors(Some(DESCRIPTORS)), Fine(_)));
        assert!(matches!(descriptors(Some(64)), Required { remedy, .. } if remedy == "ulimit -n 256"));
    }

    #[test]
    fn too_little_space_is_required_to_be_mended() {
        assert!(matches!(space(Path::new("/"), 0), Fine(_)));
        assert!(matches!(space(Path::new("/"), u64::MAX), Required { .. }));
        assert!(matches!(space(Path::new("/nonexistent"), 0), Required { .. }));
    }

    #[test]
    fn every_finding_but_a_good_one_shows_its_remedy() {
        let problem = Required { problem: "p".into(), remedy: "r".into() };
        assert_eq!(line("x", &problem), "missing  x: p\n         mend: r");
        assert_eq!(line("x", &Fine("f".into())), "ok       x: f");
    }
}
