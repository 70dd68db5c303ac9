// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The desk: rules, the requests that they keep, and how these go on. The watch puts requests there; the timer, control
//! requests and the end of a disk take them away.

use super::findings::Case;
use super::held_regions::HeldRegions;
use super::instruments::Instruments;
use super::record::{Disk, Event};
use super::ticket::{Keeper, Resume, Resumed, Ticket};
use crate::engine::Owner;
use crate::policy::{Ended, Holds, Place, Rules};
use longpin_proto::disk::{Held, HoldEnd, HoldReport};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the watch, its timer and what ends a request share.
pub(super) struct Shared {
    pub(super) instruments: Arc<Instruments>,
    pub(super) disks: RwLock<Vec<Arc<Disk>>>,
    pub(super) case: RwLock<Case>,
    pub(super) desk: Mutex<Desk>,
    /// Held by whoever copies a write that its disk has no room for.
    pub(super) crowd: Mutex<()>,
    /// A request came to wait, a released one was completed, or rules were dropped.
    pub(super) moved: Condvar,
    /// A wait may end earlier than the timer thinks.
    pub(super) earlier: Condvar,
    /// Copy of `!desk.rules.is_empty()` that the ordinary path reads without the lock.
    pub(super) ruled: AtomicBool,
    pub(super) last_request: AtomicU64,
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
    pub(super) resumed: Resumed,
}

impl Shared {
    /// No disks and no rules yet.
    pub(super) fn new(instruments: Arc<Instruments>) -> Arc<Self> {
        Arc::new(Self {
            instruments,
            disks: RwLock::default(),
            case: RwLock::default(),
            desk: Mutex::default(),
            crowd: Mutex::default(),
            moved: Condvar::new(),
            earlier: Condvar::new(),
            ruled: AtomicBool::new(false),
            last_request: AtomicU64::new(0),
        })
    }

    pub(super) fn disk(&self, index: u32) -> Option<Arc<Disk>> {
        self.disks.read().get(index as usize).cloned()
    }

    /// Rules have changed.
    pub(super) fn rules_changed(&self, desk: &Desk) {
        self.ruled.store(!desk.rules.is_empty(), Ordering::Release);
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
                self.instruments.findings.lock().add_hold(ticket.about.case, report.clone());
                reports.push(report);
            }
            resumed(ticket, if end == HoldEnd::Dropped { Resume::Dropped } else { Resume::Go });
            self.left(place.disk);
        }
        reports
    }
}

impl Keeper for Shared {
    fn forget(&self, request: u64) {
        let mut desk = self.desk.lock();
        desk.resumed.remove(&request);
        desk.regions.leave(request);
        self.instruments.pins.remove(Owner::HeldRead(request));
        self.moved.notify_all();
    }
}

fn report(held: Held, ended_ns: u64, end: HoldEnd) -> HoldReport {
    let Held { request, disk, rule, op, byte, len, submitted_ns, .. } = held;
    HoldReport { rule, request, disk, op, byte, len, submitted_ns, ended_ns, end }
}
