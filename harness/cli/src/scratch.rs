// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that go when their user has gone, however he went: at their end by themselves, at a forced end by
//! [`crate::forced_end`], and after a SIGKILL when the next run makes one at the same place.

use crate::forced_end;
use anyhow::Context as _;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// All names begin so.
const PREFIX: &str = "longpin-scratch-";
/// File that is locked as long as the directory is in use.
const OWNER: &str = "owner";

/// A directory of our own.
#[derive(Debug)]
pub struct Scratch {
    // Before the directory: a forced end must not meet a half-removed one.
    _end: forced_end::Guard,
    dir: tempfile::TempDir,
    _owner: File,
}

impl Scratch {
    /// A new one below `parent`. Those there that nobody uses any more are removed first.
    pub fn new(parent: &Path) -> anyhow::Result<Self> {
        sweep(parent);
        let made = || {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let owner = File::create(dir.path().join(OWNER))?;
            owner.lock()?;
            Ok::<_, std::io::Error>((dir, owner))
        };
        let (dir, owner) = made().with_context(|| format!("no scratch directory in {}", parent.display()))?;
        let path = dir.path().to_owned();
        let end = forced_end::register(move || drop(fs::remove_dir_all(&path)));
        Ok(Self { _end: end, dir, _owner: owner })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Remove what a killed process of this user left. A directory without a lock file is just being made.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let ours = rustix::process::getuid().as_raw();
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let is_ours = entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == ours);
        let Some(owner) = File::open(entry.path().join(OWNER)).ok().filter(|_| is_ours) else { continue };
        if owner.try_lock().is_ok() {
            // Whatever does not go now goes next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = Scratch::new(parent.path()).unwrap();
        let left = parent.path().join(format!("{PREFIX}left"));
        let fresh = parent.path().join(format!("{PREFIX}fresh"));
        let other = parent.path().join("other");
        for dir in [&left, &fresh, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(left.join(OWNER), "").unwrap();
        fs::write(left.join("disk0.img"), "x").unwrap();
        let next = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists() && fresh.exists() && other.exists());
        assert!(in_use.path().exists() && next.path().exists());
        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists());
    }
}
