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

use super::facts::{Facts, subject};
use super::findings::{Case, Findings};
use super::held_dma::HeldRegions;
use super::pool::{Buffer, Pool};
use super::record::{Disk, Event};
use super::ticket::{About, Ticket};
use super::timer;
use crate::clock;
use crate::engine::{Engine, Owner, Pin, PinIndex, Trace};
use crate::guests::Guests;
use crate::ledger::Ledger;
use crate::mem::{Gpa, GuestRam, View};
use crate::policy::{Decision, Ended, Holds, Place, Rules};
use longpin_proto::disk::{Action, DiskStatus, Fetch, Held, HoldEnd, HoldReport, Op};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// What the disk does with a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Execute it.
    Go,
    /// Answer VIRTIO_BLK_S_IOERR; touch nothing.
    Fail,
    /// Forget it: the driver has let go of the queue.
    Dropped,
}

/// Called once for each request, from the thread that submitted it or from one of the watch, under no lock of the
/// watch.
pub type Resumed = Box<dyn FnOnce(Ticket, Resume) + Send>;

/// The watch. One in a daemon. Dropping it drops what is held.
pub struct Watch {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Arc<Ledger>,
    timer: Option<JoinHandle<()>>,
}

/// What tickets and the timer need of it.
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) pins: Arc<PinIndex>,
    pub(super) trace: Arc<Trace>,
    pub(super) disks: RwLock<Vec<Arc<Disk>>>,
    pub(super) guests: Guests,
    pub(super) findings: Mutex<Findings>,
    pub(super) case: RwLock<Case>,
    pub(super) desk: Mutex<Desk>,
    /// Held by whoever copies a write that its disk has no room for.
    crowd: Mutex<()>,
    /// A request came to wait, a released one was completed, or rules were dropped.
    pub(super) moved: Condvar,
    /// A wait may end earlier than the timer thinks.
    pub(super) earlier: Condvar,
    /// Copy of `!desk.rules.is_empty()` that the ordinary path reads without the lock.
    ruled: AtomicBool,
    last_request: AtomicU64,
}

/// Rules, and what they keep.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) rules: Rules,
    pub(super) holds: Holds<Waiting>,
    /// Requests that have waited and are not completed yet.
    pub(super) resumed: HashSet<u64>,
    /// By disk: requests that have been taken out and not been resumed yet.
    pub(super) leaving: HashMap<u32, usize>,
    pub(super) regions: HeldRegions,
    pub(super) closed: bool,
}

/// A request that waits.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) held: Held,
    /// Numbers of its pages that count for `AwaitHeld`.
    pub(super) counted: Vec<u64>,
    resumed: Resumed,
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
        let shared = Arc::new(Shared {
            pool: Arc::default(),
            pins: engine.pins().clone(),
            trace: engine.trace().clone(),
            disks: RwLock::default(),
            guests: Guests::default(),
            findings: Mutex::default(),
            case: RwLock::default(),
            desk: Mutex::default(),
            crowd: Mutex::default(),
            moved: Condvar::new(),
            earlier: Condvar::new(),
            ruled: AtomicBool::new(false),
            last_request: AtomicU64::new(0),
        });
        shared.guests.add(engine.ram().clone());
        let timer = timer::start(shared.clone())?;
        Ok(Arc::new(Self { shared, ledger, timer: Some(timer) }))
    }

    /// A disk; the first has index 0. `ram` is the memory by the disk's own connection, never the engine's.
    pub fn add_disk(&self, ram: Arc<GuestRam>) -> u32 {
        self.shared.guests.add(ram.clone());
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
        let ticket = Ticket::new(shared, disk, about, request.segments, audited);
        if shared.ruled.load(Ordering::Acquire) {
            shared.arrange(ticket, view, resumed);
        } else {
            resumed(ticket, Resume::Go);
        }
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
        let copied = || Ok(Arc::new(self.shared.pool.copy(&view, &ticket.segments)?));
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

impl Shared {
    pub(super) fn disk(&self, index: u32) -> Option<Arc<Disk>> {
        self.disks.read().get(index as usize).cloned()
    }

    /// Rules have changed.
    pub(super) fn rules_changed(&self, desk: &Desk) {
        self.ruled.store(!desk.rules.is_empty(), Ordering::Release);
        self.moved.notify_all();
    }

    /// Ask the rules about a request.
    fn arrange(&self, mut ticket: Ticket, view: &View<'_>, resumed: Resumed) {
        if !self.desk.lock().rules.concern(&subject(&ticket)) {
            return resumed(ticket, Resume::Go);
        }
        // Charged before it is copied: a guest can have a ring full of the longest writes wait. What does not fit is
        // looked at in turn, and not kept.
        let copied = ticket.about.op == Op::Write;
        let charge = if copied { ticket.disk.kept.charge(ticket.about.len) } else { None };
        let _turn = (copied && charge.is_none()).then(|| self.crowd.lock());
        let Ok(facts) = Facts::gather(&ticket, view, charge) else {
            // Not all of it is in the guest's memory: the disk will find that out too, and answer it.
            return resumed(ticket, Resume::Go);
        };
        let resume = {
            let mut desk = self.desk.lock();
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
        ticket.wait(fetch, facts.data.clone());
        ticket.disk.record(&ticket.about, Event::Hold);
        if hold && ticket.about.op == Op::Read {
            // The guest's kernel keeps these pages until the read is completed.
            let Ticket { about, segments, .. } = &ticket;
            self.pins.insert(Pin::of_read(about.id, segments, None, about.case.run, None));
        }
        let held = facts.held(&ticket, &decision.rule);
        let counted = facts.counted(&ticket, &decision.matching);
        if desk.holds.next_due().is_none_or(|next| until_ns < next) {
            self.earlier.notify_one();
        }
        desk.holds.put(ticket.about.id, place, Waiting { ticket, held, counted, resumed });
        self.moved.notify_all();
    }

    /// Let go what meets a condition; the ends of holds among it.
    pub(super) fn let_go(&self, end: HoldEnd, condition: impl FnMut(&Place) -> bool) -> Vec<HoldReport> {
        let ended = {
            let mut desk = self.desk.lock();
            let ended = desk.holds.take(end, condition);
            self.note(&mut desk, &ended);
            ended
        };
        self.resume(ended)
    }

    /// Requests are about to be resumed: from here on they are waited for.
    pub(super) fn note(&self, desk: &mut Desk, ended: &[Ended<Waiting>]) {
        for Ended { place, item, .. } in ended {
            desk.resumed.insert(item.ticket.about.id);
            *desk.leaving.entry(place.disk).or_default() += 1;
        }
    }

    /// One of them has been resumed.
    fn left(&self, disk: u32) {
        let mut desk = self.desk.lock();
        if let Entry::Occupied(mut leaving) = desk.leaving.entry(disk) {
            *leaving.get_mut() -= 1;
            if *leaving.get() == 0 {
                leaving.remove();
                self.moved.notify_all();
            }
        }
    }

    /// Resume requests, under no lock.
    pub(super) fn resume(&self, ended: Vec<Ended<Waiting>>) -> Vec<HoldReport> {
        let mut reports = Vec::new();
        for Ended { place, end, item: Waiting { ticket, held, resumed, .. } } in ended {
            // A delay that ends by its time is as planned.
            let said = if end == HoldEnd::Cap && !place.hold { HoldEnd::Released } else { end };
            let ended_ns = ticket.disk.record(&ticket.about, Event::Release(said));
            if place.hold {
                let report = report(held, ended_ns, end);
                self.findings.lock().add_hold(ticket.about.case, report.clone());
                reports.push(report);
            }
            resumed(ticket, if end == HoldEnd::Dropped { Resume::Dropped } else { Resume::Go });
            self.left(place.disk);
        }
        reports
    }

    /// A request that has waited is over.
    pub(super) fn forget(&self, request: u64) {
        let mut desk = self.desk.lock();
        desk.resumed.remove(&request);
        desk.regions.leave(request);
        self.pins.remove(Owner::HeldRead(request));
        self.moved.notify_all();
    }
}

fn report(held: Held, ended_ns: u64, end: HoldEnd) -> HoldReport {
    let Held { request, disk, rule, op, byte, len, submitted_ns, .. } = held;
    HoldReport { rule, request, disk, op, byte, len, submitted_ns, ended_ns, end }
}
