// SPDX-License-Identifier: Apache-2.0 OR MIT
//! File systems: made by the distribution's own tools, mounted with their module loaded on demand.

use crate::error::{OrRefused, StepError, failed};
use crate::launcher;
use crate::modules::Modules;
use longpin_proto::filesystem::{FileSystem, OnDevice};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::path::Path;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

/// A mkfs that takes longer hangs: under TCG the slowest of them takes about a second.
const MKFS_DEADLINE: Duration = Duration::from_secs(120);
/// How long a block device may take to appear after its driver was loaded.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);

/// Make a file system; returns the tool's output. `arguments` are all that it gets beside the device.
pub fn mkfs(modules: &Modules, fs: &str, device: &str, arguments: &[String]) -> Result<String, StepError> {
    let Some(OnDevice { mkfs, .. }) = FileSystem::find(fs).and_then(FileSystem::device) else {
        return failed!("nothing makes file system `{fs}` on a device; leave `mkfs` out");
    };
    await_device(modules, device)?;
    let mut argv = vec![mkfs.program.to_owned()];
    argv.extend_from_slice(arguments);
    argv.push(device.to_owned());
    let finished = launcher::run(&argv, MKFS_DEADLINE, &AtomicI32::new(0))?;
    if finished.code != 0 {
        return failed!("`{}` ended with {}: {}", argv.join(" "), finished.code, finished.output.trim_end());
    }
    Ok(finished.output)
}

/// mount(2), with the directory made and the file system's module loaded.
pub fn mount(modules: &Modules, fs: &str, device: &str, dir: &str, options: &str) -> Result<(), StepError> {
    await_device(modules, device)?;
    load_file_system(modules, fs)?;
    std::fs::create_dir_all(dir).or_refused(&format!("mkdir({dir})"))?;
    let (flags, data) = split_options(options);
    let Ok(data) = CString::new(data) else { return failed!("mount options contain a zero byte") };
    rustix::mount::mount(device, dir, fs, flags, data.as_c_str()).or_refused(&format!("mount({fs})"))
}

/// umount2(2) without flags: EBUSY while it is in use.
pub fn unmount(dir: &str) -> Result<(), Errno> {
    rustix::mount::unmount(dir, UnmountFlags::empty())
}

/// Load the modules of a file system, by its name or as mount(2) names it.
pub fn load_file_system(modules: &Modules, fs: &str) -> Result<(), StepError> {
    let known = std::fs::read_to_string("/proc/filesystems").or_failed("/proc/filesystems")?;
    let is_known = known.lines().any(|line| line.split_whitespace().next_back() == Some(fs));
    if is_known {
        return Ok(());
    }
    match FileSystem::find(fs) {
        Some(known) => known.modules.iter().try_for_each(|module| modules.load(module, "")),
        None => modules.load(fs, ""),
    }
}

/// A device node appears some time after its driver was loaded.
fn await_device(modules: &Modules, device: &str) -> Result<(), StepError> {
    if !device.starts_with("/dev/") || Path::new(device).exists() {
        return Ok(());
    }
    if modules.has("virtio_blk") {
        modules.load("virtio_blk", "")?;
    }
    let deadline = Instant::now() + DEVICE_DEADLINE;
    while !Path::new(device).exists() {
        if Instant::now() >= deadline {
            return failed!(
                "no {device} after {} s; block devices: {}",
                DEVICE_DEADLINE.as_secs(),
                block_devices()
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn block_devices() -> String {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    format!("[{}]", names.join(", "))
}

/// Options that mount(2) takes as flags; the others are the file system's own.
fn split_options(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" | "defaults" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "nosuid" => flags |= MountFlags::NOSUID,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            own => data.push(own),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_mount_are_split_from_options_of_the_file_system() {
        let (flags, data) = split_options("rw,noatime,data=journal,,nosuid,huge=always");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NOSUID);
        assert_eq!(data, "data=journal,huge=always");
        assert_eq!(split_options(""), (MountFlags::empty(), String::new()));
    }

    #[test]
    fn a_file_system_that_nobody_knows_is_named() {
        let Err(StepError::Failed(message)) = load_file_system(&Modules::default(), "nosuchfs") else {
            panic!("known")
        };
        assert!(message.contains("`nosuchfs`"), "{message}");
        load_file_system(&Modules::default(), "tmpfs").unwrap();
    }

    #[test]
    fn what_has_no_device_is_not_made() {
        for fs in ["tmpfs", "nosuchfs"] {
            let Err(StepError::Failed(message)) = mkfs(&Modules::default(), fs, fs, &[]) else {
                panic!("{fs} was made")
            };
            assert!(message.contains(&format!("`{fs}`")), "{message}");
        }
    }
}
