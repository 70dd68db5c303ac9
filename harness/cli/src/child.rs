// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child processes that cannot outlive us: each leads its own process group, dies with the thread that started it,
//! and is killed and reaped when its handle is dropped. The only file of this crate with unsafe code.

use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Bytes of a log that go into a message.
const TAIL_BYTES: usize = 600;

/// A running (or ended, not yet dropped) child.
///
/// # Invariants
///
/// The process is reaped only by `ended`, which records its status: as long as `status` is `None` the pid is ours
/// and signals to its group cannot hit a stranger.
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: PathBuf,
    status: Option<ExitStatus>,
    exited: Receiver<()>,
}

impl Child {
    /// Start `command` in its own process group with standard output and error going to `log`.
    ///
    /// The child is killed when the calling thread ends: call it from a thread that outlives the use of the child.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("{} cannot be created", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        die_with_parent(&mut command);
        let inner = command
            .spawn()
            .with_context(|| format!("{name} cannot be started: {}", command.get_program().display()))?;
        let exited = watch(inner.id())?;
        Ok(Self { name: name.to_owned(), inner, log: log.to_owned(), status: None, exited })
    }

    /// Becomes ready (disconnected) when the process has ended.
    pub fn exited(&self) -> &Receiver<()> {
        &self.exited
    }

    /// Has it ended? Reaps it then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.inner.try_wait().ok().flatten();
        }
        self.status
    }

    /// Wait for its own end.
    pub fn wait(&mut self, deadline: Deadline) -> Option<ExitStatus> {
        // The watcher disconnects the channel; nothing is ever sent.
        let _ = self.exited.recv_deadline(deadline.instant());
        self.ended()
    }

    /// SIGTERM, `grace` to end, SIGKILL to the whole group.
    pub fn stop(&mut self, grace: Duration) {
        if self.ended().is_none() {
            self.signal(Signal::TERM);
            self.wait(Deadline::after(grace));
        }
        self.kill();
    }

    /// SIGKILL to the whole group, and reap.
    pub fn kill(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::KILL);
        // A killed process ends unless the host's kernel is stuck; then it must not hang us as well.
        self.wait(Deadline::after(Duration::from_secs(10)));
    }

    /// Send a signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.inner.id()).ok().and_then(Pid::from_raw) {
            // ESRCH: it ended in between, which is what was wanted.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// "qemu exited with code 1: last lines of its log".
    pub fn obituary(&mut self) -> String {
        self.obituary_by(|_| None)
    }

    /// The same of a program whose log has much else in it: what `telling` finds in lines, or all if that is nothing.
    pub fn obituary_by(&mut self, telling: fn(&str) -> Option<&str>) -> String {
        let end = match self.ended() {
            None => "is still running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited with code {code}"),
                (None, Some(signal)) => format!("was killed by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
        };
        match tail(&self.log, telling) {
            text if text.is_empty() => format!("{} {end}", self.name),
            text => format!("{} {end}: {text}", self.name),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Last lines of a log in one line.
fn tail(log: &Path, telling: fn(&str) -> Option<&str>) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    let told: Vec<&str> = text.lines().filter_map(telling).collect();
    let all = || text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines: Vec<&str> = if told.is_empty() { all() } else { told };
    lines.join("; ")
}

/// A channel that disconnects when process `pid` ends. The process is left unreaped.
fn watch(pid: u32) -> anyhow::Result<Receiver<()>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        bail!("process id {pid} is out of range")
    };
    let (keep, exited) = bounded(0);
    std::thread::Builder::new()
        .name("child".into())
        .spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {
            }
            drop(keep);
        })
        .context("watcher thread cannot be started")?;
    Ok(exited)
}

/// Arrange that the kernel kills the child when the thread that starts it ends, however it ends.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let hook = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then nobody would send the signal.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::OWNERDEAD));
        }
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec, where only async-signal-safe work is allowed. It makes two system
    // calls (prctl, getppid) and builds an `io::Error` from a number: no allocation, no lock.
    #[expect(unsafe_code, reason = "std has no other way to set the parent-death signal")]
    unsafe {
        command.pre_exec(hook);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Make an executable script. Another process writes it: were we to hold it open for writing while another test
    /// forks, its start would fail with ETXTBSY.
    pub fn script(path: &Path, text: &str) {
        let status = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod +x \"$1\"", "sh"])
            .arg(path)
            .arg(text)
            .status();
        assert!(status.unwrap().success());
    }

    fn shell(script: &str) -> (tempfile::TempDir, Child) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let child = Child::spawn("script", command, &dir.path().join("log")).unwrap();
        (dir, child)
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    #[test]
    fn an_end_is_told_with_code_and_last_words() {
        let (_dir, mut child) = shell("echo cannot go on >&2; exit 3");
        assert_eq!(child.wait(soon()).and_then(|status| status.code()), Some(3));
        assert_eq!(child.obituary(), "script exited with code 3: cannot go on");
    }

    #[test]
    fn of_a_chatty_log_only_the_telling_lines_are_last_words() {
        let (_dir, mut child) = shell("echo much; echo 'ERROR no disk'; echo more; exit 1");
        child.wait(soon());
        let errors: fn(&str) -> Option<&str> = |line| line.strip_prefix("ERROR ");
        assert_eq!(child.obituary_by(errors), "script exited with code 1: no disk");
        assert_eq!(child.obituary_by(|_| None), "script exited with code 1: much; ERROR no disk; more");
    }

    #[test]
    fn dropping_the_handle_kills_the_whole_group() {
        let (dir, child) = shell("sleep 1000 & echo $! > $(dirname $(readlink /proc/$$/fd/1))/pid; wait");
        let file = dir.path().join("pid");
        let text = soon().poll(|| std::fs::read_to_string(&file).ok().filter(|t| t.ends_with('\n'))).unwrap();
        let grandchild = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        drop(child);
        let gone = soon().poll(|| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", grandchild.as_raw_nonzero()));
            // A zombie that init has not reaped yet is dead too.
            stat.map_or(true, |s| s.contains(") Z ")).then_some(())
        });
        assert!(gone.is_some(), "process {text} survived");
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_after_the_grace() {
        let (_dir, mut child) = shell("trap '' TERM; echo deaf; while :; do sleep 1; done");
        let deaf = soon().poll(|| std::fs::read_to_string(&child.log).ok().filter(|text| text == "deaf\n"));
        assert!(deaf.is_some());
        child.stop(Duration::from_millis(200));
        assert_eq!(child.ended().and_then(|status| status.signal()), Some(9));
        assert!(child.obituary().starts_with("script was killed by signal 9"), "{}", child.obituary());
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            Child::spawn("qemu", Command::new("/nonexistent/qemu"), &dir.path().join("log")).err().unwrap();
        assert_eq!(error.to_string(), "qemu cannot be started: /nonexistent/qemu");
    }
}
