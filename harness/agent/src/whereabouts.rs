// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who does a piece of work, and where in the kernel that one is: the thread itself, or the program that it waits for, or
//! the kernel's thread that brings in the page that a device waits for.

use crate::launcher::LAUNCHING;
use crate::thread_state::ThreadState;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// In [`Worker::program`]: the thread waits for a DMA program of the driver.
pub const DEVICE: i32 = -2;

/// The driver's workqueue for page faults of its device.
const FAULTS: &str = "+longpin_faults";

/// Who works.
#[derive(Debug, Default)]
pub struct Worker {
    /// Thread that does it; 0 until one has taken it up.
    thread: AtomicI32,
    /// Program that the thread waits for, as [`crate::launcher::run`] numbers it.
    pub program: AtomicI32,
}

impl Worker {
    /// The calling thread takes the work up.
    pub fn take_up(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// The program that it waits for, else its own thread.
    pub fn place(&self) -> ThreadState {
        let unborn = ThreadState { state: 'R', stack: vec![] };
        let who = self.numbers();
        let dir = match who {
            (0, 0) => return unborn,
            // The thread sleeps then, but for a while only.
            (LAUNCHING, _) => return unborn,
            (DEVICE, _) => return fault_under_way(Path::new("/proc")).unwrap_or(unborn),
            (0, thread) => PathBuf::from(format!("/proc/self/task/{thread}")),
            (program, _) => PathBuf::from(format!("/proc/{program}")),
        };
        // A program that has just ended: its thread is about to say so.
        let place = ThreadState::read(&dir).unwrap_or_else(|| unborn.clone());
        // Asked again: a thread that meanwhile began to wait for a program was seen asleep for the launcher.
        if self.numbers() == who { place } else { unborn }
    }

    fn numbers(&self) -> (i32, i32) {
        (self.program.load(Ordering::Acquire), self.thread.load(Ordering::Acquire))
    }
}

/// The kernel's thread that works on a page fault of the device, if it sleeps. A device that waits for no page works.
fn fault_under_way(proc: &Path) -> Option<ThreadState> {
    let mut processes = std::fs::read_dir(proc).ok()?.flatten().map(|entry| entry.path());
    processes.find_map(|dir| {
        // wq_worker_comm(): "kworker/u8:2+longpin_faults" while it works, "-" in the place of "+" when it has.
        let name = std::fs::read_to_string(dir.join("comm")).ok()?;
        let at_work = name.starts_with("kworker/") && name.trim_end().ends_with(FAULTS);
        ThreadState::read(&dir).filter(|place| at_work && place.state != 'R')
    })
}

/// Whoever the step under way depends on: the agent's own thread, or the job that it waits for. Shared with the
/// heartbeat.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<Arc<Worker>>>);

impl Watched {
    /// From now on it is this one.
    pub fn set(&self, worker: Arc<Worker>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = worker;
    }

    /// Where it is. Does not block.
    pub fn place(&self) -> ThreadState {
        let worker = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        worker.place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_device_waits_where_the_kernel_brings_its_page_in() {
        let proc = tempfile::tempdir().unwrap();
        let put = |pid: u32, comm: &str, state: char| {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
            std::fs::write(dir.join("stat"), format!("{pid} ({comm}) {state} 2 0 0")).unwrap();
            std::fs::write(dir.join("stack"), "[<0>] folio_wait_bit_common+0x1/0x2\n").unwrap();
        };
        std::fs::create_dir(proc.path().join("self")).unwrap();
        put(7, "kworker/u8:1-longpin_faults", 'I');
        put(8, "kworker/0:1+events", 'D');
        put(9, "longpin_faults", 'S');
        put(10, "kworker/u8:3+longpin_faults", 'R');
        assert_eq!(fault_under_way(proc.path()), None);
        put(10, "kworker/u8:3+longpin_faults", 'D');
        let place = fault_under_way(proc.path()).expect("one sleeps");
        assert_eq!((place.state, place.stack), ('D', vec!["folio_wait_bit_common".to_owned()]));
    }

    #[test]
    fn the_thread_is_looked_at_until_it_waits_for_a_program() {
        let worker = Arc::new(Worker::default());
        assert_eq!(worker.place().state, 'R');
        let watched = Watched::default();
        watched.set(worker.clone());
        let (finish, wait) = std::sync::mpsc::channel::<()>();
        let sleeper = worker.clone();
        let thread = std::thread::spawn(move || {
            sleeper.take_up();
            let _ = wait.recv();
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while watched.place().state != 'S' {
            assert!(Instant::now() < deadline, "{}", watched.place());
            std::thread::yield_now();
        }
        worker.program.store(LAUNCHING, Ordering::Relaxed);
        assert_eq!(watched.place().state, 'R');
        drop(finish);
        thread.join().unwrap();
    }
}
