// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run left behind, by what /proc and its scratch directory show.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A process that has something to do with a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Short name, at most 15 bytes.
    pub name: String,
}

/// Live processes that have something below `dir` among their arguments, in their environment, or open (a file, a lock, a
/// log); not ourselves.
pub fn processes(dir: &Path) -> Vec<Process> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| u32::try_from(*pid) != Ok(own)).filter_map(|pid| involved(pid, dir)).collect()
}

/// The process of that program.
pub fn find(dir: &Path, program: &str) -> Option<Process> {
    // comm has room for 15 bytes.
    let short = program.get(..15).unwrap_or(program);
    processes(dir).into_iter().find(|process| process.name == short)
}

/// Everything that is left of a run that had its temporary files in `tmp`, below `dir`: one line each.
pub fn of_run(dir: &Path, tmp: &Path) -> Vec<String> {
    let processes = processes(dir).into_iter();
    let mut left: Vec<String> =
        processes.map(|Process { pid, name }| format!("process {pid} ({name})")).collect();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let sockets = sockets.lines().filter_map(|line| line.split_once('/'));
    left.extend(
        sockets
            .map(|(_, path)| format!("/{path}"))
            .filter(|path| Path::new(path).starts_with(dir))
            .map(|path| format!("socket {path}")),
    );
    match fs::read_dir(tmp) {
        Ok(entries) => {
            left.extend(entries.flatten().map(|entry| format!("temporary file {}", entry.path().display())));
        }
        Err(error) => left.push(format!("{}: {error}", tmp.display())),
    }
    left
}

/// A process that is gone, or has ended and not been waited for, has nothing of all this. What is another user's cannot
/// be read, and is not ours.
fn involved(pid: i32, dir: &Path) -> Option<Process> {
    let proc = Path::new("/proc").join(pid.to_string());
    let wanted = dir.as_os_str().as_bytes();
    let mentions = |file: &str| fs::read(proc.join(file)).is_ok_and(|bytes| contains(&bytes, wanted));
    let holds = || {
        let files = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file.starts_with(dir))
    };
    let name = fs::read_to_string(proc.join("comm")).ok()?;
    (mentions("cmdline") || mentions("environ") || holds())
        .then(|| Process { pid, name: name.trim_end().to_owned() })
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::Deadline;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// A process that sleeps until it is dropped.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper(change: impl FnOnce(&mut Command)) -> Sleeper {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        change(&mut command);
        Sleeper(command.spawn().unwrap())
    }

    fn seen(dir: &Path, sleeper: &Sleeper) -> bool {
        let pid = i32::try_from(sleeper.0.id()).unwrap();
        let look = || processes(dir).iter().any(|found| found.pid == pid && found.name == "sleep");
        Deadline::after(Duration::from_secs(30)).poll(|| look().then_some(())).is_some()
    }

    #[test]
    fn a_process_shows_by_its_arguments_its_environment_or_an_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let by_environment = sleeper(|command| _ = command.env("TMPDIR", dir.path()));
        assert!(seen(dir.path(), &by_environment));
        let by_file = sleeper(|command| _ = command.stdout(fs::File::create(&file).unwrap()));
        assert!(seen(dir.path(), &by_file));
        let script = "while :; do sleep 1; done";
        let by_argument = Sleeper(Command::new("sh").args(["-c", script]).arg(&file).spawn().unwrap());
        let pid = i32::try_from(by_argument.0.id()).unwrap();
        let look = || processes(dir.path()).into_iter().find(|found| found.pid == pid && found.name == "sh");
        assert!(Deadline::after(Duration::from_secs(30)).poll(look).is_some());
        drop((by_environment, by_file, by_argument));
        assert_eq!(find(dir.path(), "sleep"), None);
    }

    #[test]
    fn sockets_and_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        assert_eq!(of_run(dir.path(), &tmp), [""; 0]);
        let socket = tmp.join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let left = of_run(dir.path(), &tmp);
        assert_eq!(
            left,
            [format!("socket {}", socket.display()), format!("temporary file {}", socket.display())]
        );
        drop(listener);
        fs::remove_file(socket).unwrap();
        assert_eq!(of_run(dir.path(), &tmp), [""; 0]);
    }
}
