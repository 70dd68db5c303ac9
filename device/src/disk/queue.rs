// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One virtqueue of a disk and everything that is under way for it. Each queue has a thread, a ring to the image and
//! an inbox of its own, so queues share nothing but the image.
//!
//! A request goes ring -> parse -> watch -> inbox -> io_uring -> answer. The thread does all of it but waiting: it
//! sleeps in the vhost-user library's epoll, which watches the kick, the inbox and the ring to the image. One turn of
//! [`Lane::run`] takes what is there at each of these places, and answers in one batch with at most one interrupt.
//!
//! Nothing here waits for a request that the watch holds: it is in nobody's way until it comes back by the inbox.
//!
//! Lock order: the lane's state, then a view of guest memory, then the vring, then any lock of a leaf (inbox, gate,
//! duties, watch). The watch resumes requests under no lock, and the callback takes the inbox's alone.

use super::Disk;
use super::execute::Conclusion;
use super::inbox::{Inbox, Resumption};
use super::job::{Answer, IOERR, Job, OK};
use super::request::{self, Kind, Parsed, Request};
use super::uring::{Io, Operation, Ring};
use crate::audit::{self, Resume};
use crate::duties::{Duties, Unanswered};
use crate::log_limit::LogLimit;
use crate::mem::{BadAddress, Gpa, Map, View};
use crate::vring::Vring;
use parking_lot::Mutex;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vhost_user_backend::VringT as _;
use virtio_queue::{DescriptorChain, QueueOwnedT as _, QueueT as _};

/// Most bytes that a queue has copied out of the guest's memory for audited writes under way. The rest of them waits:
/// a ring full of the longest requests would take 16 GiB.
const COPIED_LIMIT: u64 = 64 << 20;
/// How often a drain lets go again of what the watch holds: a request may have reached it just after the last time.
const DROP_INTERVAL: Duration = Duration::from_millis(20);

/// What all queues of a connection agree on.
#[derive(Default)]
pub(super) struct Mode {
    /// The connection ends: nothing more is taken from the rings.
    pub(super) closing: AtomicBool,
    /// A completed write is on stable storage.
    pub(super) write_through: AtomicBool,
}

/// A queue.
pub(super) struct Lane {
    index: usize,
    disk: Arc<Disk>,
    mode: Arc<Mode>,
    inbox: Arc<Inbox>,
    duties: Duties,
    ring_event: RawFd,
    /// The driver takes the queue back: nothing may wait any longer.
    draining: AtomicBool,
    state: Mutex<State>,
    complaints: LogLimit,
}

struct State {
    ring: Ring<Job>,
    /// Heads that are with the device. A head that is taken twice is refused, which also bounds what a guest can
    /// have in flight to the size of its ring.
    heads: Vec<bool>,
    /// May go on, and wait for the gate or for room.
    ready: Vec<(Job, Resume)>,
    /// Bytes of copies under way.
    copied: u64,
    answers: Vec<Answer>,
    // Kept for their memory.
    arrived: Vec<Resumption>,
    reaped: Vec<(Operation<Job>, io::Result<u64>)>,
}

impl Lane {
    pub(super) fn new(index: usize, disk: Arc<Disk>, mode: Arc<Mode>) -> io::Result<Self> {
        let size = disk.queue_size as usize;
        let ring = Ring::new(disk.image.clone(), size)?;
        Ok(Self {
            index,
            mode,
            inbox: Inbox::new()?,
            duties: Duties::default(),
            ring_event: ring.event(),
            draining: AtomicBool::new(false),
            state: Mutex::new(State {
                ring,
                heads: vec![false; size],
                ready: Vec::new(),
                copied: 0,
                answers: Vec::new(),
                arrived: Vec::new(),
                reaped: Vec::new(),
            }),
            complaints: LogLimit::default(),
            disk,
        })
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Readable when operations on the image are done.
    pub(super) fn ring_event(&self) -> RawFd {
        self.ring_event
    }

    /// Do what there is to do. Called by the queue's thread; waits for no I/O but the copies of [`Ring::submit`].
    pub(super) fn run(&self, vring: &Vring) {
        let mut state = self.state.lock();
        let state = &mut *state;
        self.inbox.stay_awake();
        let mut looked_again = false;
        loop {
            // The only wait: for the ledger's file, and before anything was taken that could need it.
            self.disk.watch.make_room(self.disk.index);
            let taken = self.take(state, vring);
            self.collect(state);
            self.start(state);
            self.submit(state);
            self.reap(state);
            let answered = self.answer(state, vring);
            if taken + answered > 0 || state.ring.is_busy() {
                looked_again = false;
            } else if !looked_again && self.listen(vring) {
                // Once: an unusable ring always claims to hold more.
                looked_again = true;
            } else if self.inbox.fall_asleep() {
                return;
            }
        }
    }

    /// Take what the driver has published and hand it to the watch; returns how many chains.
    fn take(&self, state: &mut State, vring: &Vring) -> usize {
        let view = self.disk.ram.view();
        let (chains, size) = self.available(vring, &view);
        let count = chains.len();
        for chain in chains {
            let head = chain.head_index();
            match state.heads.get_mut(head as usize) {
                // Of this ring, which may be smaller than the largest: the library shouts at every other.
                Some(with_device) if !*with_device && head < size => *with_device = true,
                _ => {
                    self.refuse(|| format!("head {head} is out of range, or with the device already"));
                    self.disk.counters.ended(1);
                    self.duties.done(1);
                    continue;
                }
            }
            let Parsed { status_at, request } = request::parse(chain, &self.disk.geometry, &view);
            match (status_at, request) {
                (Some(status_at), Ok(request)) => {
                    self.disk.counters.took(request.kind);
                    let job = Job { head, status_at, request, ticket: None, pass: None };
                    self.hand_over(state, job, &view);
                }
                (status_at, request) => {
                    let status = request.map_or_else(
                        |error| {
                            self.refuse(|| format!("head {head}: {error}"));
                            error.status()
                        },
                        |_| IOERR,
                    );
                    state.answers.push(Answer { head, status_at, status, written: 0, ticket: None });
                }
            }
        }
        count
    }

    fn listen(&self, vring: &Vring) -> bool {
        vring.listen(self.disk.queue_size, &self.disk.ram.view())
    }

    /// What the driver has published, and the ring's size. Counted under the vring's lock, so that a stop, which locks it to forbid
    /// more, knows of everything that was taken.
    fn available<'v>(&self, vring: &Vring, view: &'v View<'_>) -> (Vec<DescriptorChain<&'v Map>>, u16) {
        let mut queue = vring.get_mut();
        let size = queue.get_queue().size();
        if size > self.disk.queue_size {
            let limit = self.disk.queue_size;
            self.complaints
                .warn(|| format!("queue {}: {size} descriptors; this disk has {limit} at most", self.index));
        }
        let closed = self.mode.closing.load(Ordering::Relaxed);
        if closed || !vring.is_usable(&queue, self.disk.queue_size) {
            return (Vec::new(), size);
        }
        self.disk.counters.set_driver_ready(true);
        match queue.get_queue_mut().iter(view.map()) {
            Ok(chains) => {
                let chains: Vec<_> = chains.collect();
                self.duties.add(chains.len());
                self.disk.counters.begun(chains.len());
                (chains, size)
            }
            Err(error) => {
                self.complaints.warn(|| format!("queue {}: available ring is unusable: {error}", self.index));
                (Vec::new(), size)
            }
        }
    }

    fn refuse(&self, why: impl FnOnce() -> String) {
        self.complaints.warn(|| format!("queue {}: request refused: {}", self.index, why()));
    }

    /// Give a request to the watch, or answer it at once if there is nothing to watch.
    fn hand_over(&self, state: &mut State, job: Job, view: &View<'_>) {
        let Request { kind, byte, len, ref data } = job.request;
        let Some(op) = kind.op() else {
            let (status, written) = match self.write_serial(data, view) {
                Ok(written) => (OK, written),
                Err(_) => (IOERR, 0),
            };
            state.answers.push(Answer { written, ..Answer::to(job, status) });
            return;
        };
        if len == 0 && kind != Kind::Flush {
            state.answers.push(Answer::to(job, OK));
            return;
        }
        let request = audit::Request { disk: self.disk.index, op, byte, len, segments: data.clone() };
        self.disk.watch.submit(request, view, self.disk.audited, self.inbox.expect(job));
    }

    fn write_serial(&self, data: &[(Gpa, u32)], view: &View<'_>) -> Result<u32, BadAddress> {
        let mut rest = &self.disk.id[..];
        let mut written = 0;
        for (gpa, len) in data {
            let (piece, after) = rest.split_at(rest.len().min(*len as usize));
            if piece.is_empty() {
                break;
            }
            view.write(*gpa, piece)?;
            written += piece.len() as u32;
            rest = after;
        }
        Ok(written)
    }

    /// Look into the inbox.
    fn collect(&self, state: &mut State) {
        self.inbox.empty_into(&mut state.arrived);
        for Resumption { mut job, verdict } in state.arrived.drain(..) {
            if let Some((ticket, resume)) = verdict {
                job.ticket = Some(ticket);
                state.ready.push((job, resume));
            } else {
                log::error!("queue {}: the watch lost a request (head {})", self.index, job.head);
                state.answers.push(Answer::to(job, IOERR));
            }
        }
    }

    /// Begin what may go on. What has to wait stays.
    fn start(&self, state: &mut State) {
        if state.ready.is_empty() {
            return;
        }
        let view = self.disk.ram.view();
        let lease = Arc::new(self.disk.ram.lend(&view));
        let durable = self.mode.write_through.load(Ordering::Relaxed);
        let mut waiting = Vec::new();
        for (mut job, resume) in state.ready.drain(..) {
            if resume != Resume::Go {
                state.answers.push(Answer::to(job, IOERR));
                continue;
            }
            let Request { kind, byte, len, .. } = job.request;
            let has_room = kind != Kind::Write || state.copied == 0 || state.copied + len <= COPIED_LIMIT;
            if kind.changes_image() && has_room {
                job.pass = self.disk.gate.enter();
            }
            if kind.changes_image() && job.pass.is_none() {
                if has_room && self.draining.load(Ordering::Relaxed) {
                    // The gate may stay closed for longer than the driver can wait; it has given the request up.
                    state.answers.push(Answer::to(job, IOERR));
                } else {
                    waiting.push((job, resume));
                }
                continue;
            }
            match self.disk.plan(&mut job, &view, &lease) {
                Ok(Some(io)) => {
                    state.copied += if let Io::WriteCopy { .. } = io { len } else { 0 };
                    state.ring.push(Operation { offset: byte, len, durable, io, job });
                }
                Ok(None) => state.answers.push(Answer::to(job, OK)),
                Err(error) => {
                    self.refuse(|| error.to_string());
                    state.answers.push(Answer::to(job, IOERR));
                }
            }
        }
        state.ready.append(&mut waiting);
    }

    fn submit(&self, state: &mut State) {
        if let Err(error) = state.ring.submit() {
            // Out of memory, or of entries for completions. It is tried again in the next turn.
            self.complaints.warn(|| format!("queue {}: io_uring: {error}; trying again", self.index));
            self.inbox.wake();
        }
    }

    /// Look at what the kernel has done: answer, go on, or try another way.
    fn reap(&self, state: &mut State) {
        state.ring.reap(&mut state.reaped);
        let mut reaped = std::mem::take(&mut state.reaped);
        let mut again = false;
        for (operation, result) in reaped.drain(..) {
            let copied = if let Io::WriteCopy { .. } = operation.io { operation.job.request.len } else { 0 };
            match self.disk.conclude(operation, result) {
                Conclusion::Answer(job, status) => {
                    state.copied -= copied;
                    state.answers.push(Answer::to(job, status));
                }
                Conclusion::Continue(operation) => {
                    // Its slot has just become free.
                    state.ring.push(operation);
                    again = true;
                }
            }
        }
        state.reaped = reaped;
        if again {
            self.submit(state);
            // What that has finished is seen in the next turn.
        }
    }

    /// Put all answers into the ring, one after the other, with one interrupt at most; returns how many. Each is looked
    /// at for the last time just before it goes: a look may take long, and what is published does not wait for the
    /// looks behind it, nor does it change unseen meanwhile.
    fn answer(&self, state: &mut State, vring: &Vring) -> usize {
        let count = state.answers.len();
        if count == 0 {
            return 0;
        }
        let view = self.disk.ram.view();
        for answer in state.answers.drain(..) {
            let completed = answer.ticket.map(|ticket| ticket.complete(&view, answer.status));
            let placed = answer.status_at.is_some_and(|at| view.write(at, &[answer.status]).is_ok());
            if answer.status != OK || !placed {
                self.disk.counters.failed();
            }
            // Before the driver can know.
            self.disk.counters.ended(1);
            // The driver may use the head again as soon as the used ring says so.
            state.heads[answer.head as usize] = false;
            let written = if placed { answer.written + 1 } else { 0 };
            // The vring's lock is not kept over a look: a stop of the queue needs it.
            let used = vring.get_mut().get_queue_mut().add_used(view.map(), answer.head, written);
            if let Err(error) = used {
                self.complaints.warn(|| format!("queue {}: used ring is unusable: {error}", self.index));
            }
            // Whoever waits for a released request finds it in the ring.
            drop(completed);
        }
        let mut vring = vring.get_mut();
        if vring.get_queue_mut().needs_notification(view.map()).unwrap_or(true)
            && let Err(error) = vring.signal_used_queue()
        {
            log::warn!("queue {}: cannot interrupt the driver: {error}", self.index);
        }
        drop(vring);
        // Last, and all at once: a queue that is at rest has interrupted its driver.
        self.duties.done(count);
        count
    }

    /// Wait until everything that was taken has been answered; what the watch holds or the gate keeps out is given
    /// up. The caller has made sure that nothing more is taken.
    pub(super) fn drain(&self, deadline: Duration) -> Result<(), Unanswered> {
        self.draining.store(true, Ordering::Relaxed);
        let drained = self.drain_until(Instant::now() + deadline);
        self.draining.store(false, Ordering::Relaxed);
        drained.map_err(|requests| Unanswered { queue: Some(self.index), requests, after: deadline })
    }

    /// How many requests are left, if not all have been answered by then.
    fn drain_until(&self, until: Instant) -> Result<(), usize> {
        // A turn that is under way may be about to hand a request to the watch. It may also be in a write that the
        // image's file system does not let go on.
        drop(self.state.try_lock_until(until).ok_or_else(|| self.duties.count().max(1))?);
        while !self.duties.wait(DROP_INTERVAL) {
            self.disk.watch.drop_held(self.disk.index);
            self.inbox.wake();
            if Instant::now() >= until {
                return Err(self.duties.count());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
