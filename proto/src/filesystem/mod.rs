// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What longpin knows of each file system, once. The images, the agent, the scenarios, the host's check and the verdict
//! ask [`FileSystem`] and know no name: a new file system is a new row of the [table](ALL).

mod checker;
mod table;

pub use checker::{Checker, Complaints, Lines, Reading, Says, Structure};
pub use table::ALL;

use std::fmt;
use std::hash::{Hash, Hasher};

/// A file system of the guest.
#[derive(Debug)]
pub struct FileSystem {
    /// As scenarios name it, and mount(2), if it does not lie [over another one](Over).
    pub name: &'static str,
    /// Kernel modules that must be loaded before it is mounted. What a kernel has built in is left out by itself.
    pub modules: &'static [&'static str],
    /// Debian packages of its programs.
    pub packages: &'static [&'static str],
    /// Mount options of every case, before those of the scenario; empty: none.
    pub options: &'static str,
    /// What it is mounted from.
    pub source: Source,
    /// Files are still there after an unmount and the next mount.
    pub keeps_content: bool,
    /// FICLONE.
    pub reflink: bool,
    /// O_DIRECT goes past the page cache.
    pub direct: bool,
    /// How the kernel log names a page whose bytes do not match a checksum.
    pub detector: Option<Detector>,
}

/// What a file system is mounted from.
#[derive(Debug)]
pub enum Source {
    /// A block device that it has for itself.
    Device(OnDevice),
    /// The files of another file system, which has the block device, and is made and mounted before it.
    Over(Over),
    /// No block device, and this in its place in mount(2): `tmpfs`, `server:/export` of another machine.
    Named(&'static str),
}

/// A file system on a block device.
#[derive(Debug)]
pub struct OnDevice {
    /// What makes it.
    pub mkfs: Mkfs,
    /// What looks at its structure afterwards, on the host.
    pub checker: Option<Checker>,
    /// A file's bytes lie in the image where the guest's FIEMAP, or FIBMAP where there is none, says: the host reads
    /// them there.
    pub host_reads: bool,
}

/// A file system on the files of another one.
#[derive(Debug)]
pub struct Over {
    /// Row of the one below, which has a block device.
    pub below: &'static str,
    /// As mount(2) names it.
    pub mounts: &'static str,
    /// How it comes by them.
    pub by: By,
    /// FIEMAP says where the file below has its bytes.
    pub host_reads: bool,
}

/// How a file system comes by the files of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// overlayfs: its layers are directories there, the highest for what is written.
    Layers,
    /// A program that mounts it by itself, and ends by itself when it is unmounted: `PROGRAM -o OPTIONS DIRECTORY`, with
    /// the options of overlayfs for the same layers.
    Program(&'static str),
}

/// The program that makes a file system.
#[derive(Debug)]
pub struct Mkfs {
    /// Its path, in the tool root and in the guest.
    pub program: &'static str,
    /// Arguments of every case: overwrite what the case before left, ask nothing, say little.
    pub args: &'static [&'static str],
}

/// A line of the kernel log that names a page of a file.
#[derive(Debug)]
pub struct Detector {
    /// It has this text.
    pub says: &'static str,
    /// After this text comes the file offset, decimal.
    pub offset_after: &'static str,
}

impl FileSystem {
    /// The row of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|fs| fs.name == name)
    }

    /// All names, for "use one of ...".
    pub fn list() -> String {
        ALL.iter().map(|fs| fs.name).collect::<Vec<_>>().join(", ")
    }

    /// The block device of a case on it: its own, or that of the one below.
    pub fn device(&self) -> Option<&OnDevice> {
        match &self.source {
            Source::Device(device) => Some(device),
            Source::Over(over) => Self::find(over.below)?.device(),
            Source::Named(_) => None,
        }
    }

    /// Programs that the guest has for it.
    pub fn programs(&'static self) -> Vec<&'static str> {
        match &self.source {
            Source::Device(device) => vec![device.mkfs.program],
            Source::Over(Over { by: By::Program(program), .. }) => vec![program],
            Source::Over(_) | Source::Named(_) => Vec::new(),
        }
    }

    /// What it lies over.
    pub fn over(&self) -> Option<&Over> {
        match &self.source {
            Source::Over(over) => Some(over),
            _ => None,
        }
    }

    /// As mount(2) and `/proc/filesystems` name it.
    pub fn mounts(&self) -> &'static str {
        self.over().map_or(self.name, |over| over.mounts)
    }

    /// The host finds the bytes of its files in an image of the device.
    pub fn host_reads(&self) -> bool {
        self.device().is_some_and(|device| device.host_reads)
            && self.over().is_none_or(|over| over.host_reads)
    }

    /// The program on the host that looks at its structure.
    pub fn checker(&self) -> Option<&Checker> {
        self.device()?.checker.as_ref()
    }

    /// What it is mounted from, where `device` is the block device of the case.
    pub fn mounted_from<'a>(&'a self, device: &'a str) -> &'a str {
        match self.source {
            Source::Device(_) | Source::Over(_) => device,
            Source::Named(name) => name,
        }
    }

    /// Its own mount options and those of a scenario, comma-separated.
    pub fn options_with(&self, more: &str) -> String {
        let both = [self.options, more];
        both.into_iter().filter(|options| !options.is_empty()).collect::<Vec<_>>().join(",")
    }
}

/// Names are unique.
impl PartialEq for FileSystem {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for FileSystem {}

impl Hash for FileSystem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_stands_once() {
        for fs in ALL {
            assert!(std::ptr::eq(FileSystem::find(fs.name).unwrap(), fs), "{fs} is there twice");
            assert!(!fs.name.contains(['/', ':', ',', ' ']), "`{fs}` cannot be part of a case id");
        }
        assert_eq!(FileSystem::find("nosuchfs"), None);
    }

    #[test]
    fn what_has_a_device_is_made_by_a_program_of_a_package() {
        for fs in ALL {
            if let Some(device) = fs.device() {
                assert!(device.mkfs.program.starts_with('/'), "{fs}: {}", device.mkfs.program);
                assert!(
                    fs.over().is_some() || !fs.packages.is_empty(),
                    "{fs}: no package has {}",
                    device.mkfs.program
                );
                assert!(fs.keeps_content, "{fs}: what is on a device outlives an unmount");
            }
        }
    }

    #[test]
    fn one_over_another_has_its_device_and_modules_and_is_no_third_one_s() {
        for (fs, over) in ALL.iter().filter_map(|fs| Some((fs, fs.over()?))) {
            let below = FileSystem::find(over.below).unwrap_or_else(|| panic!("{fs}: no `{}`", over.below));
            assert!(matches!(below.source, Source::Device(_)), "{fs}: {below} has no block device");
            assert_eq!(fs.checker().map(|it| it.argv), below.checker().map(|it| it.argv));
            assert!(
                below.modules.iter().all(|module| fs.modules.contains(module)),
                "{fs}: {below} is not loaded"
            );
            assert_eq!(fs.mounted_from("/dev/vda"), "/dev/vda");
        }
        let names = ["overlay", "overlay-xfs", "ext4"];
        let mounts = names.map(|name| FileSystem::find(name).unwrap().mounts());
        assert_eq!(mounts, ["overlay", "overlay", "ext4"]);
    }

    #[test]
    fn one_without_a_device_of_its_own_is_mounted_from_its_name() {
        let nfs = FileSystem {
            name: "nfs",
            modules: &["nfsv4"],
            packages: &["nfs-common"],
            options: "vers=4.2",
            source: Source::Named("10.0.2.2:/export"),
            keeps_content: true,
            reflink: true,
            direct: true,
            detector: None,
        };
        assert_eq!(nfs.mounted_from("/dev/vda"), "10.0.2.2:/export");
        assert_eq!(FileSystem::find("ext4").unwrap().mounted_from("/dev/vda"), "/dev/vda");
        assert!(!nfs.host_reads() && nfs.checker().is_none());
        assert_eq!(nfs.options_with("sync"), "vers=4.2,sync");
        assert_eq!(nfs.options_with(""), "vers=4.2");
        assert_eq!(FileSystem::find("ext4").unwrap().options_with("data=journal"), "data=journal");
    }
}
