// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs of the initramfs: run with a deadline, in a process group of their own, with their output kept. All of this
//! happens in the launcher (see `launcher`); steps ask for it there.

use crate::error::{OrRefused, StepError, failed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// What programs find in their environment. The device mapper's would leave the nodes in /dev/mapper to udev, which the
/// guest has not.
pub const ENVIRONMENT: [(&str, &str); 3] = [("PATH", SEARCH_PATH), ("HOME", "/"), ("DM_DISABLE_UDEV", "1")];
/// Reads of output between two looks at the deadline: a program may write faster than it is read, and for ever.
const READS: usize = 8;
/// Output that is kept: the last bytes, as the contract says.
const OUTPUT_BYTES: usize = 64 * 1024;
/// How long a killed program may take to go; a task in uninterruptible sleep may not go at all.
pub const KILL_GRACE: Duration = Duration::from_secs(10);

/// See signal(7).
const KILL_SIGNAL: i32 = Signal::KILL.as_raw();

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; 128 + signal.
    pub code: i32,
    /// Standard output and error, the last 64 KiB.
    pub output: String,
}

/// The full path of a program.
pub fn find_program(name: &str) -> Result<PathBuf, StepError> {
    let found = if name.contains('/') {
        Some(PathBuf::from(name)).filter(|path| path.exists())
    } else {
        SEARCH_PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
    };
    match found {
        Some(path) => Ok(path),
        None => failed!("program `{name}` is not in the initramfs (looked in {SEARCH_PATH})"),
    }
}

/// Run a program to its end; `started` is told its process number. At the deadline its process group is killed.
///
/// Failed if it cannot be started, if it was killed, by us or for lack of memory, since its exit code then says nothing
/// about what it looked at, or if it does not go when killed.
pub fn run(argv: &[String], timeout: Duration, started: impl FnOnce(Pid)) -> Result<Finished, StepError> {
    let Some((name, arguments)) = argv.split_first() else {
        return failed!("no program to run: argv is empty");
    };
    let program = find_program(name)?;
    let (output, child) = spawn(&program, arguments).or_failed(&program.display().to_string())?;
    started(Pid::from_child(&child));
    Running { name, output: Some(output), kept: Vec::new(), child }.finish(timeout)
}

/// Collect children that have ended: PID 1 inherits every orphan, and waits for none.
pub fn reap_orphans() {
    while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

fn spawn(program: &Path, arguments: &[String]) -> std::io::Result<(OwnedFd, Child)> {
    let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let child = Command::new(program)
        .args(arguments)
        .envs(ENVIRONMENT)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()?;
    Ok((output, child))
}

/// A program under way.
struct Running<'a> {
    name: &'a str,
    /// None after its end.
    output: Option<OwnedFd>,
    kept: Vec<u8>,
    child: Child,
}

impl Running<'_> {
    fn finish(mut self, timeout: Duration) -> Result<Finished, StepError> {
        let pid = Pid::from_child(&self.child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).or_failed("pidfd_open")?;
        let in_time = self.ended_by(&pidfd, Instant::now() + timeout)?;
        // Before the leader is collected, so that its number still means this group.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        if !in_time && !self.ended_by(&pidfd, Instant::now() + KILL_GRACE)? {
            return failed!(
                "`{}`, process {pid:?}, does not go when killed, it sleeps in {}",
                self.name,
                sleeping_in(pid)
            );
        }
        let status = self.child.wait().or_failed("waitpid")?;
        self.drain();
        let output = String::from_utf8_lossy(&self.kept).into_owned();
        match status.signal() {
            _ if !in_time => {
                let waited = timeout.as_millis();
                failed!("`{}` was killed, still running after {waited} ms{}", self.name, Tail(&output))
            }
            // Nobody else sends it: who is out of memory is killed so.
            Some(KILL_SIGNAL) => {
                failed!(
                    "`{}` was killed by SIGKILL, as the kernel does when memory is short{}",
                    self.name,
                    Tail(&output)
                )
            }
            signal => {
                Ok(Finished { code: status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)), output })
            }
        }
    }

    /// Read output until the leader has ended (true) or the deadline has come.
    fn ended_by(&mut self, pidfd: &OwnedFd, deadline: Instant) -> Result<bool, StepError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
            fds.extend(self.output.iter().map(|output| PollFd::new(output, PollFlags::IN)));
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).or_failed("poll"),
            }
            let ended = !fds[0].revents().is_empty();
            drop(fds);
            self.drain();
            if ended || left.is_zero() {
                return Ok(ended);
            }
        }
    }

    /// Take what is in the pipe now, up to a bound: neither who never stops writing nor a background process that keeps
    /// the pipe open is waited for.
    fn drain(&mut self) {
        let mut chunk = [0; 16384];
        for _ in 0..READS {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut chunk) {
                Ok(0) => self.output = None,
                Ok(n) => self.keep(&chunk[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let surplus = self.kept.len().saturating_sub(OUTPUT_BYTES);
        self.kept.drain(..surplus);
    }
}

/// The last line of output, as the end of a sentence.
struct Tail<'a>(&'a str);

impl std::fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.lines().next_back() {
            Some(last) => write!(f, "; it said last: {last}"),
            None => Ok(()),
        }
    }
}

/// The kernel function in which a task sleeps, as far as /proc tells.
fn sleeping_in(pid: Pid) -> String {
    let path = format!("/proc/{}/wchan", pid.as_raw_nonzero());
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("an unknown place ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Finished {
        let argv = ["sh", "-c", script].map(String::from);
        run(&argv, timeout, |_| ()).expect("sh runs to its end")
    }

    fn killed(script: &str, timeout: Duration) -> String {
        let argv = ["sh", "-c", script].map(String::from);
        match run(&argv, timeout, |_| ()) {
            Err(StepError::Failed(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exit_code_and_both_streams_are_kept() {
        let finished = sh("echo out; echo err >&2; exit 3", Duration::from_secs(20));
        assert_eq!(finished, Finished { code: 3, output: "out\nerr\n".into() });
    }

    #[test]
    fn the_tools_of_the_device_mapper_make_their_nodes_themselves() {
        assert_eq!(sh("echo $DM_DISABLE_UDEV", Duration::from_secs(20)).output, "1\n");
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(sh("kill -TERM $$", Duration::from_secs(20)).code, 128 + 15);
    }

    #[test]
    fn the_deadline_kills_the_whole_group() {
        let begin = Instant::now();
        let message = killed("sleep 1000 & echo $!; wait", Duration::from_millis(300));
        assert!(begin.elapsed() < Duration::from_secs(20));
        let Some(sleeper) =
            message.strip_prefix("`sh` was killed, still running after 300 ms; it said last: ")
        else {
            panic!("{message}")
        };
        let gone = || match std::fs::read_to_string(format!("/proc/{sleeper}/stat")) {
            Err(_) => true,
            Ok(stat) => stat.contains(") Z "),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !gone() {
            assert!(Instant::now() < deadline, "background process {sleeper} survived its group");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_never_stops_writing_is_killed_at_the_deadline() {
        let begin = Instant::now();
        let message = killed("exec yes", Duration::from_millis(300));
        assert!(message.starts_with("`sh` was killed, still running after 300 ms"), "{message}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn who_writes_on_in_a_session_of_its_own_does_not_hold_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("number").display().to_string();
        // It has left the group before the leader ends.
        let script = format!(
            "setsid sh -c 'echo $$ > {number}; exec yes' & until [ -s {number} ]; do sleep 0.01; done"
        );
        assert_eq!(sh(&script, Duration::from_secs(100)).code, 0);
        let writer = std::fs::read_to_string(number).unwrap().trim().parse().ok().and_then(Pid::from_raw);
        rustix::process::kill_process(writer.expect("a number"), Signal::KILL).unwrap();
    }

    #[test]
    fn who_is_killed_for_want_of_memory_has_no_exit_code() {
        let message = killed("echo verifying; kill -KILL $$", Duration::from_secs(20));
        assert_eq!(
            message,
            "`sh` was killed by SIGKILL, as the kernel does when memory is short; it said last: verifying"
        );
    }

    #[test]
    fn a_background_process_with_the_pipe_does_not_hold_the_answer() {
        let begin = Instant::now();
        assert_eq!(sh("sleep 1000 & echo done", Duration::from_secs(100)).output, "done\n");
        assert!(begin.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn only_the_end_of_long_output_is_kept() {
        let finished = sh("yes 0123456789 | head -c 300000; echo end", Duration::from_secs(60));
        assert_eq!(finished.output.len(), OUTPUT_BYTES);
        assert!(finished.output.ends_with("end\n"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let Err(StepError::Failed(message)) = run(&["no-such-tool".into()], Duration::ZERO, |_| ()) else {
            panic!("ran")
        };
        assert!(message.contains("`no-such-tool` is not in the initramfs"), "{message}");
        assert!(matches!(run(&[], Duration::ZERO, |_| ()), Err(StepError::Failed(_))));
    }
}
