// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the end-to-end tests share: the built program, a place of its own for each run, and a look at the processes
//! that a run starts and must not leave behind. No test depends on speed; deadlines only end what hangs.
#![deny(unsafe_code)]

pub mod block;
pub mod browser;
pub mod driver_check;
pub mod driver_guest;
pub mod kcidb;
pub mod kselftest;
pub mod kunit;
pub mod processes;
pub mod scenario;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

/// A whole run, on a machine that does much else.
pub const RUN_DEADLINE: Duration = Duration::from_secs(900);
/// Tool root, kernel and module from nothing over a slow line.
const IMAGE_DEADLINE: Duration = Duration::from_secs(2700);

/// Wait for a condition.
///
/// # Panics
///
/// When the deadline passes; the message names what was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program under test: built with this test, in the same profile.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test.ancestors().nth(2).expect("tests lie in PROFILE/deps").join(name);
    assert!(
        path.is_file(),
        "{} is missing; run `make build`, then the tests of the same profile",
        path.display()
    );
    path
}

/// Build the images once, outside of any test's deadline.
///
/// # Panics
///
/// If they cannot be built.
pub fn images() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let child = Command::new(program("longpin")).args(["image", "build"]).spawn();
        let mut child = child.expect("the program starts");
        let status =
            wait_for("the images", IMAGE_DEADLINE, || child.try_wait().expect("a child can be waited for"));
        assert!(status.success(), "images cannot be built: {status}");
    });
}

/// A place of its own: result directory, temporary files, output.
pub struct Lab {
    dir: tempfile::TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, if it was not a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Lab {
    /// A new place. Blocks until the images are there.
    pub fn new() -> Self {
        images();
        Self::without_images()
    }

    /// The same for tests that end before a boot.
    pub fn without_images() -> Self {
        let lab = Self { dir: tempfile::tempdir().expect("a temporary directory can be made") };
        std::fs::create_dir(lab.tmp()).expect("the directory is new");
        lab
    }

    /// Where the run keeps scratch files; every process that it starts has this path among its arguments.
    pub fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// The result directory of [`Self::start_run`].
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// A path for files of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Start the program.
    pub fn start(&self, args: &[&str]) -> Running {
        self.spawn(Command::new(program("longpin")).args(args).stdin(Stdio::null()))
    }

    /// Start it with a standard input that stays open as long as the second of the two.
    pub fn start_typing(&self, args: &[&str]) -> (Running, ChildStdin) {
        let mut running = self.spawn(Command::new(program("longpin")).args(args).stdin(Stdio::piped()));
        let stdin = running.child.stdin.take().expect("standard input was piped");
        (running, stdin)
    }

    /// Start it in a world that `bwrap` makes different from this host's by `changes`.
    pub fn start_changed(&self, changes: &[&str], input: Stdio, args: &[&str]) -> Running {
        let mut command = Command::new("bwrap");
        command.args(["--die-with-parent", "--dev-bind", "/", "/"]).args(changes).arg("--");
        self.spawn(command.arg(program("longpin")).args(args).stdin(input))
    }

    /// Start `longpin run ARGS --out OUT` with nobody at the other end of its output.
    pub fn start_unheard(&self, args: &[&str]) -> Running {
        let out = self.out();
        let mut command = Command::new(program("longpin"));
        command.arg("run").args(args).arg("--out").arg(out).stdin(Stdio::null());
        let mut child = self
            .prepare(&mut command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop((child.stdout.take(), child.stderr.take()));
        Running { child, stdout: self.path("stdout"), stderr: self.path("stderr") }
    }

    /// Start a shell script.
    pub fn start_script(&self, script: &Path, args: &[&str]) -> Running {
        self.spawn(Command::new("sh").arg(script).args(args).stdin(Stdio::null()))
    }

    fn prepare<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("TMPDIR", self.tmp()).env_remove("RUST_BACKTRACE").current_dir(self.dir.path())
    }

    fn spawn(&self, command: &mut Command) -> Running {
        let file = |name| std::fs::File::create(self.path(name)).expect("the place is writable");
        let child = self
            .prepare(command)
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the program starts");
        Running { child, stdout: self.path("stdout"), stderr: self.path("stderr") }
    }

    /// Start `longpin run ARGS --out OUT`.
    pub fn start_run(&self, args: &[&str]) -> Running {
        let out = self.out();
        let out = out.to_str().expect("temporary paths are UTF-8");
        self.start(&[&["run"], args, &["--out", out]].concat())
    }

    /// Run it to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start_run(args).end()
    }

    /// `result.json`.
    pub fn result(&self) -> Value {
        read_json(&self.out().join("result.json"))
    }

    /// What has happened so far.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out().join("events.jsonl")).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Wait until the run is at a line of a scenario.
    ///
    /// # Panics
    ///
    /// If it ends before.
    pub fn wait_for_line(&self, running: &mut Running, scenario: &str, line: u64) {
        let case = format!("{scenario}/");
        wait_for(&format!("{scenario} to be at line {line}"), RUN_DEADLINE, || {
            let ended = running.child.try_wait().expect("our own child").is_some();
            let at_line = self.events().into_iter().find(|event| {
                event["event"] == "case-progress"
                    && event["line"] == line
                    && event["case"].as_str().is_some_and(|label| label.starts_with(&case))
            });
            assert!(at_line.is_some() || !ended, "the run ended before: {}", running.said());
            at_line
        });
    }

    /// Nothing of the run is left: no process, no scratch file.
    ///
    /// # Panics
    ///
    /// If something is left after a moment.
    pub fn assert_tidy(&self) {
        wait_for("the processes of the run to be gone", Duration::from_secs(30), || {
            processes::mentioning(&self.tmp()).is_empty().then_some(())
        });
        let left: Vec<_> = std::fs::read_dir(self.tmp()).expect("the place is there").flatten().collect();
        assert!(left.is_empty(), "scratch files are left: {left:?}");
    }
}

/// Shows what the guests said if the test fails: the place is gone afterwards, and the failure may not come again.
impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            consoles(self.dir.path()).iter().for_each(|log| show_end(log));
        }
    }
}

/// The console logs anywhere below a directory.
fn consoles(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.append(&mut consoles(&path)),
            Ok(kind) if kind.is_file() && entry.file_name() == "console.log" => found.push(path),
            _ => {}
        }
    }
    found
}

/// An oops with its registers and its trace, and what came before it.
fn show_end(log: &Path) {
    const LINES: usize = 150;
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    println!("---- {}", log.display());
    lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| println!("{line}"));
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// A started program; killed when dropped.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Wait for its end.
    pub fn end(mut self) -> Ended {
        let status: ExitStatus =
            wait_for("the program to end", RUN_DEADLINE, || self.child.try_wait().expect("our own child"));
        let read =
            |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        Ended { code: status.code(), stdout: read(&self.stdout), stderr: read(&self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended in every test that passes; its own children die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A document.
///
/// # Panics
///
/// If it is not there or not JSON.
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The only case of a result.
///
/// # Panics
///
/// If there is not exactly one.
pub fn only_case(result: &Value) -> &Value {
    match result["cases"].as_array().map(Vec::as_slice) {
        Some([case]) => case,
        other => panic!("not one case: {other:?}"),
    }
}
