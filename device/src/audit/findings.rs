// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the audit has found since the case began.

use super::pool::{KEPT_BYTES, WAITING_BYTES};
use crate::guests::TwoGuests;
use longpin_proto::disk::{AuditReport, Author, DiskStatus, Hit, HoldReport};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most hits that are kept in a case: with 16 spans each they are 4 MiB of text, and an answer has room for 8.
pub const MAX_HITS: usize = 1024;
/// Most ends of holds that are kept in a case: 1.5 MiB of text.
pub const MAX_HOLDS: usize = 8192;

/// A case, told apart from all others even if a label comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Case {
    /// Label; 0: no case.
    pub run: u64,
    /// Cases before this one.
    pub number: u64,
}

/// Pages of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Looked at to the end.
    pub read: u64,
    /// Not there at the last look.
    pub unread: u64,
    /// To which DMA has written in flight.
    pub touched: u64,
}

/// Findings of the present case.
#[derive(Debug, Default)]
pub struct Findings {
    case: Case,
    report: AuditReport,
    /// Found at a hit; its connections may have gone since.
    two_guests: Option<TwoGuests>,
}

impl Findings {
    /// A case begins: nothing is found yet.
    pub fn begin(&mut self, case: Case) {
        let report = AuditReport { run: case.run, ..AuditReport::default() };
        *self = Self { case, report, two_guests: None };
    }

    /// An audited write of a case is over. What belongs to an earlier case is in the counters and in the ledger.
    pub fn add(&mut self, case: Case, pages: Pages, hits: Vec<Hit>) {
        if case != self.case {
            return;
        }
        self.report.writes += 1;
        self.report.pages += pages.read;
        self.report.pages_unread += pages.unread;
        self.report.pages_touched += pages.touched;
        let room = MAX_HITS - self.report.hits.len();
        self.report.hits_left_out += hits.len().saturating_sub(room) as u64;
        self.report.hits.extend(hits.into_iter().take(room));
    }

    /// A hold is over.
    pub fn add_hold(&mut self, case: Case, hold: HoldReport) {
        if case != self.case {
            return;
        }
        if self.report.holds.len() < MAX_HOLDS {
            self.report.holds.push(hold);
        } else {
            log::warn!("the end of the hold of request {} is not kept: {MAX_HOLDS} are", hold.request);
        }
    }

    /// A page of one guest was about to be matched with the DMA of another.
    pub fn add_two_guests(&mut self, case: Case, found: TwoGuests) {
        if case == self.case {
            self.two_guests.get_or_insert(found);
        }
    }

    /// The first of these.
    pub fn two_guests(&self) -> Option<TwoGuests> {
        self.two_guests.clone()
    }

    /// All of it.
    pub fn report(&self) -> AuditReport {
        self.report.clone()
    }
}

/// Counters of one disk, since the daemon's start. Relaxed: each is true by itself.
#[derive(Debug, Default)]
pub struct DiskCounters {
    pages: AtomicU64,
    by_dma: AtomicU64,
    by_others: AtomicU64,
    passed: AtomicU64,
}

impl DiskCounters {
    /// Pages were audited.
    pub fn audited(&self, pages: u64) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// A page changed in flight. One with two authors counts for both.
    pub fn hit(&self, author: Author) {
        if author.by_dma() {
            self.by_dma.fetch_add(1, Ordering::Relaxed);
        }
        if author != Author::Dma {
            self.by_others.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request that a rule was to keep went on, since there was no room for it.
    pub fn passed(&self) {
        if self.passed.fetch_add(1, Ordering::Relaxed) == 0 {
            log::error!("a rule was to keep a request, and there is no room: it goes on");
        }
    }

    /// What is to be said of these, if there were any.
    pub fn why_passed(&self) -> Option<String> {
        let passed = self.passed.load(Ordering::Relaxed);
        let (copies, data) = (KEPT_BYTES >> 20, WAITING_BYTES >> 20);
        (passed > 0).then(|| {
            format!("{passed} requests that a rule was to keep went on: a disk keeps {data} MiB, and {copies} MiB of copies \
                 for early and split fetch; hold less, or fetch late")
        })
    }

    /// Copy the counters into the control protocol's document.
    pub fn fill(&self, status: &mut DiskStatus) {
        status.pages_audited = self.pages.load(Ordering::Relaxed);
        status.hits_by_dma = self.by_dma.load(Ordering::Relaxed);
        status.hits_by_others = self.by_others.load(Ordering::Relaxed);
    }
}
