// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Advisory locks on an image, as QEMU takes them: so that neither a second daemon nor a QEMU program uses an image
//! at the same time by mistake.
//!
//! QEMU (block/file-posix.c) has a byte for each permission that a user of an image has, and one for each that it
//! does not share with others. A user takes read locks on its bytes, then asks whether somebody holds the opposite
//! ones. The locks belong to the open file (F_OFD_SETLK) and end with it.

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// Byte of the first permission that is used.
const USED: i64 = 100;
/// Byte of the first permission that is not shared.
const NOT_SHARED: i64 = 200;
/// BLK_PERM_CONSISTENT_READ.
const READ: i64 = 0;
/// BLK_PERM_WRITE.
const WRITE: i64 = 1;
/// BLK_PERM_RESIZE.
const RESIZE: i64 = 3;

/// What taking the locks ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Locked {
    /// They are ours while the file is open.
    Ours,
    /// Somebody uses the image in a way that does not go together with ours.
    InUse,
}

/// Take the locks of a user that reads, writes unless `read_only`, and wants nobody else to write.
pub fn lock(file: &File, read_only: bool) -> io::Result<Locked> {
    let used: &[i64] = if read_only { &[READ] } else { &[READ, WRITE] };
    let not_shared = [WRITE, RESIZE];
    for byte in used.iter().map(|perm| USED + perm).chain(not_shared.map(|perm| NOT_SHARED + perm)) {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(byte, libc::F_RDLCK))) {
            Ok(_) => {}
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(Locked::InUse),
            Err(error) => return Err(error.into()),
        }
    }
    for byte in used.iter().map(|perm| NOT_SHARED + perm).chain(not_shared.map(|perm| USED + perm)) {
        let mut other = range(byte, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut other))?;
        if i32::from(other.l_type) != libc::F_UNLCK {
            return Ok(Locked::InUse);
        }
    }
    Ok(Locked::Ours)
}

fn range(byte: i64, kind: i32) -> libc::flock {
    // `l_pid` must be zero for locks of an open file.
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

/// Processes that have the file open, as far as we may see: `qemu-system-x86 (pid 12)`. Locks of open files name no
/// owner.
pub fn users(file: &Metadata) -> Vec<String> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut users: Vec<_> = pids.filter(|pid| has_open(*pid, file)).map(describe).collect();
    users.sort();
    users
}

fn has_open(pid: u32, file: &Metadata) -> bool {
    // This process has it open by asking, and possibly for another disk, which the caller says.
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let same = |meta: Metadata| (meta.dev(), meta.ino()) == (file.dev(), file.ino());
    pid != std::process::id() && descriptors.filter_map(|entry| fs::metadata(entry.path()).ok()).any(same)
}

fn describe(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", name.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn two_writers_exclude_each_other_and_readers_exclude_writers() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let first = open(image.path());
        assert_eq!(lock(&first, false).unwrap(), Locked::Ours);
        assert_eq!(lock(&open(image.path()), false).unwrap(), Locked::InUse);
        assert_eq!(lock(&open(image.path()), true).unwrap(), Locked::InUse);
        drop(first);
        let reader = open(image.path());
        assert_eq!(lock(&reader, true).unwrap(), Locked::Ours);
        assert_eq!(lock(&open(image.path()), true).unwrap(), Locked::Ours, "readers go together");
        assert_eq!(lock(&open(image.path()), false).unwrap(), Locked::InUse);
    }

    #[test]
    fn a_process_that_has_the_file_open_is_named() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let meta = image.as_file().metadata().unwrap();
        assert_eq!(users(&meta), Vec::<String>::new(), "not ourselves");
        let mut child =
            std::process::Command::new("sleep").arg("60").stdin(image.reopen().unwrap()).spawn().unwrap();
        let users = users(&meta);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(users, [format!("sleep (pid {})", child.id())]);
    }
}
