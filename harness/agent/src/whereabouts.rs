// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who does a piece of work, and where in the kernel that one is: the thread itself, or the program that it waits for.

use crate::launcher::LAUNCHING;
use crate::thread_state::ThreadState;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
