// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bounded queue between producers and the writer, and the ledger's state (open, failed, closed).

use super::{BUFFER_ENTRIES, LedgerError, MAX_QUEUED_BUFFERS, STALL_LIMIT};
use longpin_wire::ledger::Entry;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a waiting producer looks at its stop flag, which has no link to this queue.
const STOP_POLL: Duration = Duration::from_millis(20);

pub(super) struct Queue {
    /// Without a file, buffers are counted and dropped.
    keeps: bool,
    handed_over: AtomicU64,
    /// Copy of `state.failure.is_some()` that the hot path reads without the lock.
    failed: AtomicBool,
    state: Mutex<State>,
    /// A buffer was taken, entries were written, or the ledger failed.
    progress: Condvar,
    /// A buffer was pushed, or the queue was closed.
    work: Condvar,
}

#[derive(Default)]
struct State {
    full: VecDeque<Vec<Entry>>,
    spare: Vec<Vec<Entry>>,
    pushed: u64,
    written: u64,
    failure: Option<String>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(keeps: bool) -> Self {
        Self {
            keeps,
            handed_over: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            state: Mutex::default(),
            progress: Condvar::new(),
            work: Condvar::new(),
        }
    }

    pub(super) fn handed_over(&self) -> u64 {
        self.handed_over.load(Ordering::Relaxed)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Error if the ledger has failed.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        if self.failed.load(Ordering::Acquire) { Err(self.failed_error()) } else { Ok(()) }
    }

    fn failed_error(&self) -> LedgerError {
        LedgerError::Failed(self.failure().unwrap_or_default())
    }

    /// Whether a buffer may be pushed without a wait.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().full.len() < MAX_QUEUED_BUFFERS
    }

    /// Wait until a buffer may be pushed.
    pub(super) fn wait_for_room(&self, stop: Option<&AtomicBool>) -> Result<(), LedgerError> {
        self.wait(stop, |state| state.full.len() < MAX_QUEUED_BUFFERS).map(|_| ())
    }

    /// Wait until all that was pushed before this call is in the file; the entries in the file.
    pub(super) fn wait_until_written(&self) -> Result<u64, LedgerError> {
        if !self.keeps {
            return Ok(0);
        }
        let target = self.state.lock().pushed;
        self.wait(None, |state| state.written >= target)
    }

    /// Wait for a condition; fails when the ledger fails, the producer is stopped, or the file makes no progress.
    fn wait(&self, stop: Option<&AtomicBool>, done: impl Fn(&State) -> bool) -> Result<u64, LedgerError> {
        let mut state = self.state.lock();
        let mut seen = state.written;
        let mut deadline = Instant::now() + STALL_LIMIT;
        loop {
            if state.failure.is_some() {
                drop(state);
                return Err(self.failed_error());
            }
            if done(&state) {
                return Ok(state.written);
            }
            if stop.is_some_and(|stop| stop.load(Ordering::Acquire)) {
                return Err(LedgerError::Stopped);
            }
            self.progress.wait_for(&mut state, STOP_POLL);
            if state.written != seen {
                (seen, deadline) = (state.written, Instant::now() + STALL_LIMIT);
            } else if Instant::now() >= deadline {
                let stall = STALL_LIMIT.as_secs();
                self.fail_locked(&mut state, format!("the file took nothing for {stall} s"));
            }
        }
    }

    /// Queue the entries, whatever the number of buffers. `entries` is empty afterwards.
    pub(super) fn push(&self, entries: &mut Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        self.handed_over.fetch_add(entries.len() as u64, Ordering::Relaxed);
        if !self.keeps {
            entries.clear();
            return;
        }
        let mut state = self.state.lock();
        if state.failure.is_some() || state.closed {
            entries.clear();
            return;
        }
        state.pushed += entries.len() as u64;
        let spare = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_ENTRIES));
        state.full.push_back(std::mem::replace(entries, spare));
        self.work.notify_one();
    }

    /// The writer's side: the next buffer, or `None` when the queue is closed and empty, or has failed.
    pub(super) fn next(&self) -> Option<Vec<Entry>> {
        let mut state = self.state.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if let Some(buffer) = state.full.pop_front() {
                self.progress.notify_all();
                return Some(buffer);
            }
            if state.closed {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// The writer's side: `buffer` is in the file.
    pub(super) fn wrote(&self, mut buffer: Vec<Entry>) {
        let mut state = self.state.lock();
        state.written += buffer.len() as u64;
        buffer.clear();
        // A buffer that grew past its size (a map's segments) is not kept.
        if buffer.capacity() <= 2 * BUFFER_ENTRIES {
            state.spare.push(buffer);
        }
        self.progress.notify_all();
    }

    pub(super) fn fail(&self, why: String) {
        self.fail_locked(&mut self.state.lock(), why);
    }

    fn fail_locked(&self, state: &mut State, why: String) {
        log::error!("ledger failed after {} entries: {why}", state.written);
        state.failure.get_or_insert(why);
        state.full.clear();
        self.failed.store(true, Ordering::Release);
        self.progress.notify_all();
        self.work.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }
}
