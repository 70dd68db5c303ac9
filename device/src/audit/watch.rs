// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch: one in a daemon, shared by all disks.

use super::pool::Pool;
use super::ticket::Ticket;
use crate::engine::Engine;
use crate::ledger::Ledger;
use crate::mem::{Gpa, GuestRam, View};
use longpin_proto::disk::Op;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The watch. One in a daemon.
pub struct Watch {
    pool: Arc<Pool>,
    last_request: AtomicU64,
    disks: RwLock<Vec<Arc<GuestRam>>>,
}

impl Watch {
    /// A watch without disks and rules.
    pub fn new(_ledger: &Ledger, _engine: &Engine) -> Arc<Self> {
        Arc::new(Self { pool: Arc::default(), last_request: AtomicU64::new(0), disks: RwLock::default() })
    }

    /// A disk; the first has index 0. `ram` is the memory by the disk's own connection, not the engine's.
    pub fn add_disk(&self, ram: Arc<GuestRam>) -> u32 {
        let mut disks = self.disks.write();
        disks.push(ram);
        disks.len() as u32 - 1
    }

    /// Wait until the ledger has room. Called before a batch of requests, without a view: blocks while the ledger's
    /// file cannot keep up.
    pub fn make_room(&self) {}

    /// Take a request just popped from a ring. `resumed` is called exactly once: before this returns, if no rule holds
    /// it, else later from a thread of the watch.
    pub fn submit(self: &Arc<Self>, request: Request, view: &View<'_>, audited: bool, resumed: Resumed) {
        let _ = view;
        let ticket = Ticket {
            pool: self.pool.clone(),
            id: self.last_request.fetch_add(1, Ordering::Relaxed) + 1,
            audited: audited && request.op == Op::Write,
            segments: request.segments,
            filled: false,
        };
        resumed(ticket, Resume::Go);
    }

    /// The driver lets go of the disk's queues: what is held for it is resumed with [`Resume::Dropped`].
    pub fn drop_held(&self, disk: u32) {
        log::debug!("disk {disk}: nothing is held");
    }
}
