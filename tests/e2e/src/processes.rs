// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processes of this host, by what /proc tells.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Short name, at most 15 bytes.
    pub name: String,
}

/// Live processes that have `path` in one of their arguments.
pub fn mentioning(path: &Path) -> Vec<Process> {
    let path = path.to_string_lossy().into_owned();
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| *pid as u32 != own).filter_map(|pid| mentions(pid, &path)).collect()
}

/// The process that runs `program` for the run in `path`.
pub fn find(path: &Path, program: &str) -> Option<Process> {
    let short = &program[..program.len().min(15)];
    mentioning(path).into_iter().find(|process| process.name == short)
}

/// A process that is gone, or has ended and not been waited for, has no arguments.
fn mentions(pid: i32, path: &str) -> Option<Process> {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let found = String::from_utf8_lossy(&arguments).contains(path);
    found.then(|| Process { pid, name: name.trim_end().to_owned() })
}

/// What the threads of every process that mentions `path` are doing: name, state, the kernel function that each sleeps in,
/// and its call; with gdb on the host, their stacks too. For a test that waits in vain.
pub fn threads(path: &Path) -> String {
    let mut told = String::new();
    for Process { pid, name } in mentioning(path) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks.map(|entry| entry.path()) {
            let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            let [thread, wchan, call] =
                ["comm", "wchan", "syscall"].map(|name| read(name).trim_end().to_owned());
            let status = read("status");
            let state =
                status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default().trim();
            // The directory may be gone with its thread by now; then there is nothing to say.
            let _ = writeln!(told, "{name}[{pid}] {thread}: {state}, in {wchan}, call {call}");
        }
        let stacks = Command::new("gdb")
            .args([
                "--batch",
                "--nx",
                "--pid",
                &pid.to_string(),
                "--eval-command",
                "thread apply all backtrace 24",
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        told.push_str(&stacks.map_or_else(
            |error| format!("no stacks, since gdb does not start: {error}\n"),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        ));
    }
    told
}

/// Send a signal.
///
/// # Panics
///
/// If there is no such process.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id is not 0");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}
