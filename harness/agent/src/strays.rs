// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that outlived their step: in a session of their own they escape the kill of its process group, and would go
//! on into the next case, with their open files.

use crate::error::{OrRefused, StepError};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::time::{Duration, Instant};

/// kthreadd: its children are the kernel's own, and the helpers that the kernel starts.
const KERNEL: i32 = 2;

/// How long they may take to go; who sleeps uninterruptibly may not go at all, and keeps its file system busy.
const GRACE: Duration = Duration::from_secs(5);

/// Kill every program but PID 1 and those to `keep`, and see them go. For PID 1 of a guest only: on a host that would be
/// everybody.
pub fn kill(keep: &[i32]) -> Result<(), StepError> {
    let deadline = Instant::now() + GRACE;
    loop {
        let strays = of(Path::new("/proc"), keep).or_failed("/proc")?;
        if strays.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        for pid in strays {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno).or_failed("kill"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn of(proc: &Path, keep: &[i32]) -> std::io::Result<Vec<Pid>> {
    let entries = std::fs::read_dir(proc)?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // A process that ends meanwhile is none.
    let is_stray = |pid: &i32| {
        let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
        *pid != 1 && *pid != KERNEL && !keep.contains(pid) && parent(&stat).is_some_and(|it| it != KERNEL)
    };
    Ok(pids.filter(is_stray).filter_map(Pid::from_raw).collect())
}

/// Fourth field, of processes that have not ended; the second, the name in brackets, may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_living_programs_that_nobody_keeps_are_strays() {
        let proc = tempfile::tempdir().unwrap();
        let stats = [
            (1, "1 (init) S 0 1"),
            (2, "2 (kthreadd) S 0 0"),
            (30, "30 (kworker/0:1 (x) y) I 2 0"),
            (40, "40 (longpin-agent) S 1 40"),
            (50, "50 (yes) R 1 50"),
            (51, "51 (a) Z (b) S 40 51"),
            (52, "52 (gone) Z 1 52"),
        ];
        for (pid, stat) in stats {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("stat"), stat).unwrap();
        }
        std::fs::create_dir(proc.path().join("sys")).unwrap();
        let mut found: Vec<i32> =
            of(proc.path(), &[40]).unwrap().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        found.sort_unstable();
        assert_eq!(found, [50, 51]);
    }
}
