// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's program. It is opened once for a run, so that every boot starts the very same one: a build meanwhile
//! gives the name to another file.

use anyhow::{Context as _, bail};
use std::fs::File;
use std::io::Seek as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its name.
const NAME: &str = "longpin-device";

/// An opened program.
#[derive(Debug)]
pub struct Program {
    file: File,
    path: PathBuf,
}

impl Program {
    /// The daemon that was built with us lies beside us.
    pub fn open() -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("our own path is unknown")?;
        Self::open_at(&here.with_file_name(NAME))
    }

    fn open_at(path: &Path) -> anyhow::Result<Self> {
        if !path.is_file() {
            bail!("{} is missing; build it with `cargo build --release -p longpin-device`", path.display());
        }
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of its content, hex.
    pub fn hash(&self) -> anyhow::Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| hasher.update_reader(file).map(drop));
        read.with_context(|| format!("{} cannot be read", self.path.display()))?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Starts this very file. To be spawned while `self` lives: the child finds it by our descriptor, which it still has
    /// when it looks.
    pub fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(NAME);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_in_the_middle_of_a_run_changes_nothing_for_that_run() {
        let dir = tempfile::tempdir().unwrap();
        let (path, next) = (dir.path().join(NAME), dir.path().join("next"));
        std::fs::copy("/bin/true", &path).unwrap();
        std::fs::copy("/bin/false", &next).unwrap();
        let program = Program::open_at(&path).unwrap();
        let hash = program.hash().unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert!(program.command().status().unwrap().success(), "the other program was started");
        assert_eq!(
            program.hash().unwrap(),
            blake3::hash(&std::fs::read("/bin/true").unwrap()).to_hex().as_str()
        );
        let rebuilt = Program::open_at(&path).unwrap();
        assert!(!rebuilt.command().status().unwrap().success());
        assert_ne!(rebuilt.hash().unwrap(), hash);
    }

    #[test]
    fn a_daemon_that_was_not_built_is_named_with_the_command() {
        let error = Program::open_at(Path::new("/nonexistent/longpin-device")).unwrap_err().to_string();
        assert!(error.contains("cargo build --release -p longpin-device"), "{error}");
    }
}
