// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch: one in a daemon, shared by all disks. It passes requests on, keeps those that a rule holds, and lets
//! them go by request, by their time, or when their disk stops.
//!
//! Promises:
//!
//! * Each request is resumed exactly once, under no lock of the watch.
//! * A request that waits keeps nothing else waiting: neither other requests, nor control requests.
//! * When a control request to release is answered, what it released has been completed.
//!
//! Lock order: a view of a disk's memory, the crowd, the desk, then any of: the pin index, the findings, the guests, the case, a
//! disk's ledger buffer. The trace is asked under none of them. A ticket takes the desk when it is dropped, so none is
//! dropped under it.

use super::desk::{Desk, Shared, Waiting};
use super::facts::{Facts, subject};
use super::instruments::Instruments;
use super::pool::Buffer;
use super::record::{About, Disk, Event};
use super::ticket::{Resume, Resumed, Ticket};
use super::timer;
use crate::clock;
use crate::engine::{Engine, Pin};
use crate::ledger::Ledger;
use crate::mem::{Gpa, GuestRam, View};
use crate::policy::{Decision, Place};
use longpin_proto::disk::{Action, DiskStatus, Fetch, HoldEnd, Op};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A released request that is not completed after so long will not be: the image's file hangs.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// A request that was just taken from a ring.
#[derive(Debug, Clone)]
pub struct Request {
    /// Index of the disk.
    pub disk: u32,
    /// Kind.
    pub op: Op,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// The data in the guest's memory, in order.
    pub segments: Vec<(Gpa, u32)>,
}

/// The watch. One in a daemon. Dropping it drops what is held.
pub struct Watch {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Arc<Ledger>,
    timer: Option<JoinHandle<()>>,
}

/// Why a request shall wait, and how.
struct Wait<'a> {
    decision: &'a Decision,
    fetch: Fetch,
    ms: u64,
    /// Else a delay.
    hold: bool,
}

/// A write that waits, as a loss of power finds it.
pub struct HeldWrite {
    /// First byte on the disk.
    pub byte: u64,
    /// What would go to the image if it were resumed now.
    pub bytes: Arc<Buffer>,
}

impl Watch {
    /// A watch without disks and rules. `engine`: whose DMA it tells from other changes.
    pub fn new(ledger: Arc<Ledger>, engine: &Engine) -> io::Result<Arc<Self>> {
        let shared = Shared::new(Instruments::new(engine));
        let timer = timer::start(shared.clone())?;
        Ok(Arc::new(Self { shared, ledger, timer: Some(timer) }))
    }

    /// A disk; the first has index 0. `ram` is the memory by the disk's own connection, never the engine's.
    pub fn add_disk(&self, ram: Arc<GuestRam>) -> u32 {
        self.shared.instruments.guests.add(ram.clone());
        let mut disks = self.shared.disks.write();
        let index = disks.len() as u32;
        disks.push(Arc::new(Disk::new(index, ram, &self.ledger)));
        index
    }

    /// Wait until the ledger has room for a disk's entries. Called before a batch of requests, without a view: blocks
    /// while the ledger's file cannot keep up.
    pub fn make_room(&self, disk: u32) {
        if let Some(disk) = self.shared.disk(disk) {
            disk.make_room();
        }
    }

    /// Take a request just popped from a ring. `resumed` is called exactly once: before this returns, if no rule holds
    /// it, else later from a thread of the watch. With `audited`, the pages of a write are looked at. `view` is of the
    /// disk's memory.
    ///
    /// # Panics
    ///
    /// If the disk was never added: a caller's bug.
    pub fn submit(&self, request: Request, view: &View<'_>, audited: bool, resumed: Resumed) {
        let shared = &self.shared;
        let disk = shared.disk(request.disk).expect("a disk that was added");
        let about = About {
            id: shared.last_request.fetch_add(1, Ordering::Relaxed) + 1,
            op: request.op,
            byte: request.byte,
            len: request.len,
            gpa: request.segments.first().map_or(0, |(gpa, _)| gpa.0),
            case: *shared.case.read(),
        };
        let ticket = Ticket::new(&shared.instruments, disk, about, request.segments, audited);
        if shared.ruled.load(Ordering::Acquire) {
            self.arrange(ticket, view, resumed);
        } else {
            resumed(ticket, Resume::Go);
        }
    }

    /// Ask the rules about a request.
    fn arrange(&self, mut ticket: Ticket, view: &View<'_>, resumed: Resumed) {
        if !self.shared.desk.lock().rules.concern(&subject(&ticket)) {
            return resumed(ticket, Resume::Go);
        }
        // Charged before it is copied: a guest can have a ring full of the longest writes wait. What does not fit is
        // looked at in turn, and not kept.
        let copied = ticket.about.op == Op::Write;
        let charge = if copied { ticket.disk.kept.charge(ticket.about.len) } else { None };
        let _turn = (copied && charge.is_none()).then(|| self.shared.crowd.lock());
        let Ok(facts) = Facts::gather(&ticket, view, charge) else {
            // Not all of it is in the guest's memory: the disk will find that out too, and answer it.
            return resumed(ticket, Resume::Go);
        };
        let resume = {
            let mut desk = self.shared.desk.lock();
            let decision = desk.rules.decide(&facts.subject(&ticket));
            match decision.as_ref().map(|decision| (decision, &decision.action)) {
                _ if desk.closed => Resume::Dropped,
                Some((_, Action::Fail)) => Resume::Fail,
                None | Some((_, Action::Observe)) => {
                    // What was looked at is what goes to the image: one fetch.
                    ticket.early = facts.kept();
                    Resume::Go
                }
                Some((_, Action::Hold { fetch, .. } | Action::Delay { fetch, .. }))
                    if !(facts.can_wait(*fetch) && ticket.may_wait()) =>
                {
                    ticket.disk.counters.passed();
                    Resume::Go
                }
                Some((decision, Action::Hold { fetch, cap_ms })) => {
                    let wait = Wait { decision, fetch: *fetch, ms: *cap_ms, hold: true };
                    return self.keep(&mut desk, &wait, &facts, ticket, resumed);
                }
                Some((decision, Action::Delay { fetch, ms })) => {
                    let wait = Wait { decision, fetch: *fetch, ms: *ms, hold: false };
                    return self.keep(&mut desk, &wait, &facts, ticket, resumed);
                }
            }
        };
        resumed(ticket, resume);
    }

    fn keep(&self, desk: &mut Desk, wait: &Wait<'_>, facts: &Facts, mut ticket: Ticket, resumed: Resumed) {
        let Wait { decision, fetch, ms, hold } = *wait;
        let until_ns = clock::monotonic_ns().saturating_add(ms.saturating_mul(1_000_000));
        let place = Place { disk: ticket.disk.index, rule: decision.rule.clone(), until_ns, hold };
        ticket.wait(self.shared.clone(), fetch, facts.data.clone());
        ticket.disk.record(&ticket.about, Event::Hold);
        if hold && ticket.about.op == Op::Read {
            // The guest's kernel keeps these pages until the read is completed.
            let Ticket { about, segments, .. } = &ticket;
            self.shared.instruments.pins.insert(Pin::of_read(about.id, segments, None, about.case.run, None));
        }
        let held = facts.held(&ticket, &decision.rule);
        let counted = facts.counted(&ticket, &decision.matching);
        if desk.holds.next_due().is_none_or(|next| until_ns < next) {
            self.shared.earlier.notify_one();
        }
        desk.holds.put(ticket.about.id, place, Waiting { ticket, held, counted, resumed });
        self.shared.moved.notify_all();
    }

    /// The driver lets go of the disk's queues: what is held for it is resumed with [`Resume::Dropped`]. If the disk
    /// submits nothing meanwhile, nothing is resumed for it after the return. Not to be called from a [`Resumed`].
    pub fn drop_held(&self, disk: u32) {
        self.shared.let_go(HoldEnd::Dropped, |place| place.disk == disk);
        let deadline = Instant::now() + RELEASE_LIMIT;
        let mut desk = self.shared.desk.lock();
        while desk.leaving.contains_key(&disk) {
            if self.shared.moved.wait_until(&mut desk, deadline).timed_out() {
                log::error!("disk {disk}: its requests are being resumed for {} s", RELEASE_LIMIT.as_secs());
                return;
            }
        }
    }

    /// Numbers of the writes that a disk holds, in the order of their arrival.
    pub fn held_writes(&self, disk: u32) -> Vec<u64> {
        let desk = self.shared.desk.lock();
        let writes = desk.holds.of_disk(disk).filter(|(_, _, waiting)| waiting.held.op == Op::Write);
        writes.map(|(request, ..)| request).collect()
    }

    /// One of them, with its bytes as they would be fetched now; `None` if it has been resumed meanwhile. One at a
    /// time: together they may be more than there is memory.
    pub fn held_write(&self, disk: u32, request: u64) -> Option<HeldWrite> {
        let disk = self.shared.disk(disk)?;
        let view = disk.ram.view();
        let desk = self.shared.desk.lock();
        let (_, _, waiting) = desk.holds.of_disk(disk.index).find(|(number, ..)| *number == request)?;
        let ticket = &waiting.ticket;
        let copied = || Ok(Arc::new(self.shared.instruments.pool.copy(&view, &ticket.segments)?));
        let bytes = ticket.bytes(&view).and_then(|bytes| bytes.map_or_else(copied, Ok));
        // Memory that has left the guest: the write could not be executed either.
        Some(HeldWrite { byte: waiting.held.byte, bytes: bytes.ok()? })
    }

    /// Write the watch's part of a disk's state.
    pub fn fill_status(&self, disk: u32, status: &mut DiskStatus) {
        if let Some(disk) = self.shared.disk(disk) {
            disk.counters.fill(status);
            if let Some(passed) = disk.counters.why_passed() {
                status.last_error.get_or_insert(passed);
            }
            status.held = self.shared.desk.lock().holds.of_disk(disk.index).count() as u32;
        }
    }

    /// End of the daemon: whatever waits is dropped, also control requests.
    pub fn close(&self) {
        self.shared.desk.lock().closed = true;
        self.shared.let_go(HoldEnd::Dropped, |_| true);
        self.shared.moved.notify_all();
        self.shared.earlier.notify_all();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
        if let Some(timer) = self.timer.take() {
            // The last reference may have been in a request that the timer has just resumed.
            if timer.thread().id() != thread::current().id() && timer.join().is_err() {
                log::error!("the watch's timer panicked");
            }
        }
    }
}
