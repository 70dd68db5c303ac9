// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way from the watch back to a queue's thread: requests that may go on, from whatever thread.
//!
//! Handing over takes this module's lock alone and no view of guest memory, so the watch may do it from inside
//! `submit`, while the queue's thread holds a view.

use super::job::Job;
use crate::audit::{Resume, Resumed, Ticket};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A request that comes back from the watch.
pub(super) struct Resumption {
    pub(super) job: Job,
    /// `None`: the watch lost the request.
    pub(super) verdict: Option<(Ticket, Resume)>,
}

/// One queue's inbox.
pub(super) struct Inbox {
    event: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arrived: Vec<Resumption>,
    /// The thread looks in before it waits, so nobody need wake it.
    awake: bool,
    /// It has to look at its work again before it waits.
    again: bool,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { event, state: Mutex::default() }))
    }

    /// Becomes readable when the thread has to look in.
    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Take note of a readable event.
    pub(super) fn consume(&self) {
        // Fails only when there is nothing to read, which does not matter.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// The thread is at work.
    pub(super) fn stay_awake(&self) {
        self.state.lock().awake = true;
    }

    /// The thread wants to wait; false if there is something for it.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut state = self.state.lock();
        state.awake = std::mem::take(&mut state.again) || !state.arrived.is_empty();
        !state.awake
    }

    /// Have the thread look at its work again.
    pub(super) fn wake(&self) {
        let mut state = self.state.lock();
        state.again = true;
        self.deliver(&mut state);
    }

    fn deliver(&self, state: &mut State) {
        if !std::mem::replace(&mut state.awake, true)
            && let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes())
        {
            log::error!("cannot wake a disk queue: {error}");
        }
    }

    fn put(&self, resumption: Resumption) {
        let mut state = self.state.lock();
        state.arrived.push(resumption);
        self.deliver(&mut state);
    }

    /// What has arrived, moved into `out`, which is empty.
    pub(super) fn empty_into(&self, out: &mut Vec<Resumption>) {
        std::mem::swap(&mut self.state.lock().arrived, out);
    }

    /// The callback for a request that is handed to the watch. If it is dropped instead of called, the request
    /// comes back as lost.
    pub(super) fn expect(self: &Arc<Self>, job: Job) -> Resumed {
        let mut duty = Duty { job: Some(job), inbox: self.clone() };
        Box::new(move |ticket, resume| duty.settle(Some((ticket, resume))))
    }
}

/// The duty to bring a request back.
struct Duty {
    job: Option<Job>,
    inbox: Arc<Inbox>,
}

impl Duty {
    fn settle(&mut self, verdict: Option<(Ticket, Resume)>) {
        if let Some(job) = self.job.take() {
            self.inbox.put(Resumption { job, verdict });
        }
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        self.settle(None);
    }
}
