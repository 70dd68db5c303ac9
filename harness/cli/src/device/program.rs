// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's program. It is opened once for a run, so that every boot starts the very same one: a build meanwhile
//! gives the name to another file.

use anyhow::{Context as _, bail};
use rustix::fs::Access;
use std::fs::File;
use std::io::{Read as _, Seek as _};
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
    /// Not ours.
    given: bool,
    /// Of a script an interpreter wants to read the file, and has our descriptor no more: it is started by its path.
    script: bool,
}

impl Program {
    /// The daemon that was built with us lies beside us.
    pub fn open() -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("our own path is unknown")?;
        Self::open_at(&here.with_file_name(NAME))
    }

    /// Another one, that the user names.
    ///
    /// Errors: it cannot be started.
    pub fn open_given(path: &Path) -> anyhow::Result<Self> {
        const USAGE: &str =
            "name the accelerator's daemon with --device-program or LONGPIN_DEVICE, or leave both out";
        let path = std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))?;
        let shown = path.display();
        if !path.is_file() {
            let problem = if path.exists() { "is no file" } else { "is missing" };
            bail!("device program {shown} {problem}; {USAGE}");
        }
        if let Err(error) = rustix::fs::access(&path, Access::EXEC_OK) {
            bail!("device program {shown} cannot be executed ({error}); chmod +x it, or {USAGE}");
        }
        let mut file =
            File::open(&path).with_context(|| format!("device program {shown} cannot be opened"))?;
        let mut head = [0; 2];
        let script = file.read_exact(&mut head).is_ok() && head == *b"#!";
        Ok(Self { file, path, given: true, script })
    }

    fn open_at(path: &Path) -> anyhow::Result<Self> {
        if !path.is_file() {
            bail!("{} is missing; build it with `cargo build --release -p longpin-device`", path.display());
        }
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        Ok(Self { file, path: path.to_owned(), given: false, script: false })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it was found, if the user named it.
    pub fn given(&self) -> Option<&Path> {
        self.given.then_some(&*self.path)
    }

    /// For messages.
    pub fn name(&self) -> String {
        match self.given {
            true => self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            false => NAME.to_owned(),
        }
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
        if self.script {
            return Command::new(&self.path);
        }
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(self.name());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::tests::script;

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
    fn a_program_of_the_users_is_started_by_its_own_name_and_a_script_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accel");
        script(&path, "test \"$0\" != longpin-device");
        assert!(Program::open_given(&path).unwrap().command().status().unwrap().success());
        let program = Program::open_given(Path::new("/bin/true")).unwrap();
        assert_eq!((program.name(), program.given()), ("true".to_owned(), Some(Path::new("/bin/true"))));
        assert!(program.command().status().unwrap().success());
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named_with_the_option() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "x").unwrap();
        for (path, problem) in [
            (dir.path().to_owned(), "is no file"),
            (dir.path().join("absent"), "is missing"),
            (plain, "chmod +x it"),
        ] {
            let error = Program::open_given(&path).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("--device-program"), "{error}");
        }
    }

    #[test]
    fn a_daemon_that_was_not_built_is_named_with_the_command() {
        let error = Program::open_at(Path::new("/nonexistent/longpin-device")).unwrap_err().to_string();
        assert!(error.contains("cargo build --release -p longpin-device"), "{error}");
    }
}
