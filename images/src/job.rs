// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands of a build. Each has a purpose in words, a deadline, and its whole output in the build's log. A command
//! that is given up gets SIGTERM, then SIGKILL; what it started is gone with it (mmdebstrap cleans up after itself,
//! bubblewrap takes its namespace along).

use crate::diagnose::{self, Places};
use crate::error::{Error, Result};
use crate::mirror::without_credentials;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Between two looks at the clock and at the caller's progress.
const TICK: Duration = Duration::from_millis(200);
/// From SIGTERM to SIGKILL: mmdebstrap needs some seconds to remove its directory.
const GRACE: Duration = Duration::from_secs(20);
/// Lines that an error quotes.
const TAIL_LINES: usize = 12;

/// Log of one build.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    scratch: Option<PathBuf>,
}

/// What a caller wants to see while a command runs.
pub(crate) struct Watch<'a> {
    /// Each line of output.
    pub line: &'a mut dyn FnMut(&str),
    /// Some times a second.
    pub tick: &'a mut dyn FnMut(),
}

impl Log {
    /// Begins the log anew.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create log", path))?;
        Ok(Self { path: path.to_owned(), file, scratch: None })
    }

    /// From now on the commands write to this directory too, and not only into the store.
    pub(crate) fn also_writes_to(&mut self, scratch: PathBuf) {
        self.scratch = Some(scratch);
    }

    /// For the standard error of a command that somebody else supervises.
    pub(crate) fn stdio(&self) -> Result<Stdio> {
        self.file.try_clone().map(Stdio::from).map_err(Error::io("share log", &self.path))
    }

    /// The known reason for a failure, if the log's end has one.
    pub(crate) fn explain(&self, what: &str) -> Option<Error> {
        let text = self.text();
        let places = Places { log: &self.path, scratch: self.scratch.as_deref() };
        diagnose::explain(what, &last(&text, diagnose::WINDOW_LINES), &places)
    }

    /// A failure with the log's last lines.
    pub(crate) fn failure(&self, what: &str, status: &str) -> Error {
        let text = self.text();
        let tail: Vec<String> = telling(&text).iter().map(|line| format!("    {line}")).collect();
        let (what, status) = (what.to_owned(), status.to_owned());
        Error::CommandFailed { what, status, tail: tail.join("\n"), log: self.path.clone() }
    }

    fn text(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a command to its end. Blocks for `limit` at most.
    /// Errors: `Deadline`, or what its output says about the failure.
    pub(crate) fn run(&mut self, what: &str, command: &mut Command, limit: Duration) -> Result<()> {
        self.run_watched(what, command, limit, Watch { line: &mut |_| {}, tick: &mut || {} })
    }

    /// As [`run`](Self::run), and the caller sees the output.
    pub(crate) fn run_watched(
        &mut self,
        what: &str,
        command: &mut Command,
        limit: Duration,
        watch: Watch<'_>,
    ) -> Result<()> {
        let (reader, writer) = std::io::pipe().map_err(Error::io("make pipe for log", &self.path))?;
        let other = writer.try_clone().map_err(Error::io("make pipe for log", &self.path))?;
        command.stdin(Stdio::null()).stdout(other).stderr(writer);
        self.supervise(what, command, reader, limit, watch)
    }

    /// As [`run`](Self::run), for a command whose standard output goes elsewhere: only standard error is logged.
    pub(crate) fn run_stderr(
        &mut self,
        what: &str,
        command: &mut Command,
        limit: Duration,
        watch: Watch<'_>,
    ) -> Result<()> {
        let (reader, writer) = std::io::pipe().map_err(Error::io("make pipe for log", &self.path))?;
        command.stderr(writer);
        self.supervise(what, command, reader, limit, watch)
    }

    /// Runs a command and returns its standard output; only for output that is short.
    pub(crate) fn capture(&mut self, what: &str, command: &mut Command, limit: Duration) -> Result<String> {
        let (mut reader, writer) = std::io::pipe().map_err(Error::io("make pipe for output", &self.path))?;
        command.stdin(Stdio::null()).stdout(writer);
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
        });
        let ran = self.run_stderr(what, command, limit, Watch { line: &mut |_| {}, tick: &mut || {} });
        // Where the command could not be started it still has its end of the pipe.
        command.stdout(Stdio::null());
        let bytes = output.join().expect("the reader does not panic");
        ran?;
        let bytes = bytes.map_err(Error::io("read output for", &self.path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn supervise(
        &mut self,
        what: &str,
        command: &mut Command,
        reader: PipeReader,
        limit: Duration,
        watch: Watch<'_>,
    ) -> Result<()> {
        let began = Instant::now();
        self.say(&format!("== {what}: {command:?}"))?;
        let program = PathBuf::from(command.get_program());
        let mut child = command.spawn().map_err(Error::io("start", &program))?;
        // Our copies of the pipe's end go, or its reader never sees the end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(std::io::Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut looked = began;
        let status = loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => {
                    self.say(&line)?;
                    (watch.line)(&line);
                    // As long as it talks only the clock is looked at: lines come faster than anything else is asked.
                    if looked.elapsed() < TICK {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Every end of the pipe is closed: the command is over, or about to be.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(2)),
            }
            looked = Instant::now();
            (watch.tick)();
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", &program))? {
                break status;
            }
            if began.elapsed() >= limit {
                end(&mut child);
                return Err(Error::Deadline { what: what.to_owned(), limit, log: self.path.clone() });
            }
        };
        // What it said last may still be on its way through the pipe.
        let ended = Instant::now();
        while ended.elapsed() < GRACE
            && let Ok(line) = lines.recv_timeout(TICK)
        {
            self.say(&line)?;
            (watch.line)(&line);
        }
        self.say(&format!("== {status} after {:.1} s", began.elapsed().as_secs_f64()))?;
        if status.success() {
            return Ok(());
        }
        Err(self.explain(what).unwrap_or_else(|| self.failure(what, &status.to_string())))
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{}", without_credentials(line)).map_err(Error::io("write log", &self.path))
    }
}

fn last(text: &str, lines: usize) -> Vec<&str> {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

/// The lines that an error quotes: from a compiler's first complaint on, else the last ones.
fn telling(text: &str) -> Vec<&str> {
    let mut lines = last(text, diagnose::WINDOW_LINES);
    lines.retain(|line| !line.starts_with("== "));
    let complaint = lines.iter().position(|line| line.starts_with("error") || line.contains(": error: "));
    let from = complaint.unwrap_or(lines.len().saturating_sub(TAIL_LINES));
    lines.drain(from..).take(TAIL_LINES).collect()
}

/// Ends a command that is over its time. The errors of a process that is already gone do not matter.
pub(crate) fn end(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(TICK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn log() -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(&dir.path().join("build.log")).unwrap();
        (dir, log)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn both_outputs_go_to_the_log_and_to_the_watcher() {
        let (_dir, mut log) = log();
        let mut lines = Vec::new();
        let watch = Watch { line: &mut |line| lines.push(line.to_owned()), tick: &mut || {} };
        log.run_watched("greet", &mut shell("echo one; echo two >&2"), MINUTE, watch).unwrap();
        assert_eq!(lines, ["one", "two"]);
        let text = std::fs::read_to_string(&log.path).unwrap();
        assert!(text.contains("== greet: "), "{text}");
        assert!(text.contains("\none\ntwo\n== exit status: 0 after "), "{text}");
    }

    #[test]
    fn a_failure_quotes_the_last_lines_and_names_the_log() {
        let (_dir, mut log) = log();
        let error = log.run("make kernel", &mut shell("seq 1 40; exit 3"), MINUTE).unwrap_err().to_string();
        assert!(error.starts_with("make kernel failed (exit status: 3):\n    29\n"), "{error}");
        assert!(error.ends_with(&format!("the whole output is in {}", log.path.display())), "{error}");
    }

    #[test]
    fn a_compiler_s_first_complaint_is_quoted_and_not_only_make_s_last_words() {
        let (_dir, mut log) = log();
        let script = "echo 'error[E0433]: no such module'; seq 30; echo 'make: *** Error 2'; exit 2";
        let error = log.run("build", &mut shell(script), MINUTE).unwrap_err().to_string();
        assert!(error.contains("(exit status: 2):\n    error[E0433]: no such module\n    1\n"), "{error}");
    }

    #[test]
    fn output_is_captured_apart_from_errors() {
        let (_dir, mut log) = log();
        let output = log.capture("ask", &mut shell("echo answer; echo noise >&2"), MINUTE).unwrap();
        assert_eq!(output, "answer\n");
        assert!(std::fs::read_to_string(&log.path).unwrap().contains("\nnoise\n"));
    }

    #[test]
    fn a_command_over_its_time_is_ended_and_named() {
        let (_dir, mut log) = log();
        let began = Instant::now();
        let limit = Duration::from_millis(300);
        let error = log.run("hang", &mut shell("exec sleep 600"), limit).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        assert!(began.elapsed() < MINUTE, "it was waited for");
    }

    #[test]
    fn a_command_that_never_stops_talking_is_ended_too() {
        let (_dir, mut log) = log();
        let limit = Duration::from_millis(300);
        let script = "trap 'exit 1' TERM; while :; do echo word; done";
        let error = log.run("talk", &mut shell(script), limit).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let (_dir, mut log) = log();
        let error = log.run("try", &mut Command::new("/nonexistent/prog"), MINUTE).unwrap_err().to_string();
        assert!(error.starts_with("cannot start /nonexistent/prog: "), "{error}");
    }
}
