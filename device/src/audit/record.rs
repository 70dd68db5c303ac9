// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A disk's side of the ledger.

use super::findings::{Case, DiskCounters};
use super::pool::{Budget, KEPT_BYTES, WAITING_BYTES};
use crate::clock;
use crate::ledger::{Ledger, Producer};
use crate::mem::GuestRam;
use longpin_proto::disk::{Author, HoldEnd, Op};
use longpin_wire::ledger::{self, DiskEntry};
use std::sync::Arc;
use virtio_bindings::virtio_blk;

/// What all entries and reports about a request repeat.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Number, unique in the daemon's life.
    pub id: u64,
    /// Kind.
    pub op: Op,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// Of its first data byte in the guest's memory, or 0.
    pub gpa: u64,
    /// Case in which it was submitted.
    pub case: Case,
}

/// A disk that is watched.
pub struct Disk {
    /// Index, in the order in which the disks were added.
    pub index: u32,
    /// The guest's memory by the disk's own connection.
    pub ram: Arc<GuestRam>,
    /// Since the daemon's start.
    pub counters: DiskCounters,
    /// What rules make it keep.
    pub kept: Arc<Budget>,
    /// Data of the requests that wait.
    pub waiting: Arc<Budget>,
    log: Producer,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Taken from the ring.
    Submit,
    /// A rule keeps it.
    Hold,
    /// Not any more.
    Release(HoldEnd),
    /// Its bytes were taken.
    Fetch,
    /// The answer goes into the ring.
    Complete(u8),
}

impl Event {
    fn code(self) -> (u32, u32) {
        match self {
            Self::Submit => (ledger::KIND_DISK_SUBMIT, 0),
            Self::Hold => (ledger::KIND_DISK_HOLD, 0),
            Self::Release(HoldEnd::Released) => (ledger::KIND_DISK_RELEASE, 0),
            Self::Release(HoldEnd::Cap) => (ledger::KIND_DISK_RELEASE, 1),
            Self::Release(HoldEnd::Dropped) => (ledger::KIND_DISK_RELEASE, 2),
            Self::Fetch => (ledger::KIND_DISK_FETCH, 0),
            Self::Complete(status) => (ledger::KIND_DISK_COMPLETE, u32::from(status)),
        }
    }

    /// Those of every request are recorded in cases only: booting a guest makes a million of them.
    fn is_of_case(self) -> bool {
        matches!(self, Self::Submit | Self::Fetch | Self::Complete(_))
    }
}

fn author_code(author: Author) -> u32 {
    match author {
        Author::Dma => 0,
        Author::Other => 1,
        Author::Mixed => 2,
        Author::Unknown => 3,
    }
}

fn op_code(op: Op) -> u32 {
    match op {
        Op::Read => virtio_blk::VIRTIO_BLK_T_IN,
        Op::Write => virtio_blk::VIRTIO_BLK_T_OUT,
        Op::Flush => virtio_blk::VIRTIO_BLK_T_FLUSH,
        Op::Discard => virtio_blk::VIRTIO_BLK_T_DISCARD,
        Op::WriteZeroes => virtio_blk::VIRTIO_BLK_T_WRITE_ZEROES,
    }
}

impl Disk {
    /// A disk with an empty record.
    pub fn new(index: u32, ram: Arc<GuestRam>, ledger: &Ledger) -> Self {
        Self {
            index,
            ram,
            counters: DiskCounters::default(),
            kept: Budget::new(KEPT_BYTES),
            waiting: Budget::new(WAITING_BYTES),
            log: ledger.producer(),
        }
    }

    /// Wait for room. Not under a lock or a view. A ledger that has failed takes nothing and says so by its status.
    pub fn make_room(&self) {
        if let Err(error) = self.log.make_room(None) {
            log::debug!("disk {}: {error}", self.index);
        }
    }

    /// Record an event of a request; its time. The time is taken under the buffer's lock, so a disk's entries are in
    /// the order of their times. Never blocks on the file.
    pub fn record(&self, about: &About, event: Event) -> u64 {
        if about.case.run == 0 && event.is_of_case() {
            return clock::monotonic_ns();
        }
        let (kind, detail) = event.code();
        self.push(kind, detail, about, about.byte, about.len)
    }

    /// Record a page that changed; `len` bytes at `byte`.
    pub fn record_hit(&self, about: &About, author: Author, byte: u64, len: u64, gpa: u64) {
        let about = About { gpa, ..*about };
        self.push(ledger::KIND_DISK_HIT, author_code(author), &about, byte, len);
    }

    /// For entries of DMA into held reads.
    pub fn log(&self) -> &Producer {
        &self.log
    }

    fn push(&self, kind: u32, detail: u32, about: &About, byte: u64, len: u64) -> u64 {
        let mut log = self.log.begin();
        let time_ns = clock::monotonic_ns();
        let full = log.is_full();
        log.record(DiskEntry {
            time_ns,
            kind,
            disk: self.index,
            request: about.id,
            byte,
            len,
            gpa: about.gpa,
            run: about.case.run,
            op: op_code(about.op),
            detail,
        });
        drop(log);
        if full {
            self.log.offer();
        }
        time_ns
    }
}
