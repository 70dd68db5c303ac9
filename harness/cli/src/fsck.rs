// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file systems' own checkers, of the tool root, on a raw image that they see read-only: each in the mode that
//! only looks. What they say is evidence; nothing here judges it.

use crate::child::Child;
use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use longpin_core::record::FsckReport;
use longpin_images::{Bind, ToolRoot};
use longpin_proto::filesystem::{self, Checker, FileSystem};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// The image as the checker sees it: the same in every run, since checkers print it.
const IMAGE: &str = "/disk.img";
/// An image of 512 MiB is checked in a hundredth of a second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the output that are kept.
const OUTPUT_BYTES: u64 = 64 << 10;

/// Programs that the tool root must have.
pub fn programs() -> impl Iterator<Item = &'static str> {
    filesystem::ALL.iter().filter_map(FileSystem::checker).map(|checker| checker.argv[0])
}

/// Run the checker of `fs` on `image`. `scratch` is a directory for its output meanwhile.
///
/// Errors: there is no checker for it, it cannot be started, or it did not end in time.
pub fn check(tool_root: &ToolRoot, fs: &str, image: &Path, scratch: &Path) -> anyhow::Result<FsckReport> {
    let Some(Checker { argv, .. }) = FileSystem::find(fs).and_then(FileSystem::checker) else {
        bail!("no checker is known for file system `{fs}`")
    };
    let mut command = tool_root.command(argv[0], &[Bind::read_only(image).at(IMAGE)]);
    command.env("LC_ALL", "C").args(&argv[1..]).arg(IMAGE);
    let log = scratch.join("fsck.log");
    let mut child = Child::spawn(argv[0], command, &log)?;
    let Some(status) = child.wait(Deadline::after(TIMEOUT)) else {
        bail!("{} did not end within {} s", argv[0], TIMEOUT.as_secs())
    };
    Ok(FsckReport {
        fs: fs.to_owned(),
        argv: argv.iter().chain(&[IMAGE]).map(|word| (*word).to_owned()).collect(),
        code: exit_code(status),
        output: last_bytes(&log, OUTPUT_BYTES).with_context(|| format!("output of {}", argv[0]))?,
    })
}

/// As a shell has it: 128 + signal.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn last_bytes(path: &Path, count: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(last_bytes(&path, 4).unwrap(), "6789");
        assert_eq!(last_bytes(&path, 400).unwrap(), "0123456789");
    }

    #[test]
    fn a_signal_is_told_as_a_shell_tells_it() {
        assert_eq!(exit_code(ExitStatus::from_raw(4 << 8)), 4);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
