// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon as a program.

use super::{Blk, Control, Driver, VERSION_1, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The program in a process.
pub struct Program {
    pub dir: tempfile::TempDir,
    pub child: Child,
}

impl Program {
    /// Start the daemon and wait until it says that it is ready.
    pub fn start(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vhost");
        Self::start_in(
            dir,
            &[&["--socket-path", socket.to_str().unwrap()], extra].concat(),
            Stdio::null(),
            "",
        )
    }

    /// The shell gives the daemon its descriptors: standard output as 3, standard input as 4.
    pub fn start_in(dir: tempfile::TempDir, extra: &[&str], input: Stdio, limits: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{limits} exec \"$@\" 3>&1 4<&0 </dev/null >/dev/null")).arg("sh");
        shell.arg(env!("CARGO_BIN_EXE_longpin-device")).args(["--ready-fd", "3"]).args(extra);
        shell.arg("--control").arg(dir.path().join("control"));
        shell.arg("--ledger").arg(dir.path().join("ledger"));
        shell.env_remove("RUST_LOG").stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let program = Self { dir, child };
        assert_eq!(text, "ready\n");
        program
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn driver(&self) -> Driver {
        Driver::connect(&self.path("vhost"), VERSION_1)
    }

    /// Connect to a disk's queues.
    pub fn disk(&self, name: &str, queues: usize) -> Blk {
        Blk::connect(&self.path(name), VERSION_1, queues)
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.path("control"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Exit code and log.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_for("the daemon to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.unwrap().code(), log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run the daemon with arguments that it should refuse.
pub fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_longpin-device")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}
