// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What rules ask of a request: who pins its pages, and with which stamps its sectors begin.

use super::pages::{Piece, pieces};
use super::pool::{Buffer, Charge};
use super::stamps::{self, stamped_sectors};
use super::ticket::Ticket;
use crate::engine::PinnedBy;
use crate::mem::{BadAddress, View};
use crate::policy::Subject;
use longpin_proto::disk::{Fetch, Held, Match, Op, PageRef};
use std::sync::Arc;

/// A close look at a request.
pub(super) struct Facts {
    pieces: Vec<Piece>,
    /// Index of the piece, and one who pins it.
    pins: Vec<(usize, PinnedBy)>,
    /// Index of the piece, and the label of a stamp in it.
    stamps: Vec<(usize, u64)>,
    pinned_runs: Vec<u64>,
    stamped_runs: Vec<u64>,
    /// What a write carries. Not to be kept unless it is charged.
    pub(super) data: Option<Arc<Buffer>>,
}

impl Facts {
    /// Look at a request's pages, and at the bytes of a write, for which the caller has `charge`.
    pub(super) fn gather(
        ticket: &Ticket,
        view: &View<'_>,
        charge: Option<Charge>,
    ) -> Result<Self, BadAddress> {
        let instruments = &ticket.instruments;
        let pieces = pieces(&ticket.segments);
        let data = match ticket.about.op {
            Op::Write => Some(Arc::new(instruments.pool.copy(view, &ticket.segments)?.charged(charge))),
            _ => None,
        };
        let mut pins = Vec::new();
        if let Some(index) = instruments.pins.read() {
            for (at, piece) in pieces.iter().enumerate() {
                pins.extend(index.of(piece.gpa, piece.len).map(|pin| (at, pin)));
            }
        }
        let holder = |at: usize| pieces.partition_point(|piece| piece.at <= at) - 1;
        let sectors = data.iter().flat_map(|data| stamped_sectors(data));
        let stamps: Vec<_> = sectors.map(|(at, stamp)| (holder(at), stamp.run)).collect();
        let pinned_runs = distinct(pins.iter().map(|(_, pin)| pin.run));
        let stamped_runs = distinct(stamps.iter().map(|(_, run)| *run));
        Ok(Self { pieces, pins, stamps, pinned_runs, stamped_runs, data })
    }

    /// The bytes, if they may be kept.
    pub(super) fn kept(&self) -> Option<Arc<Buffer>> {
        self.data.clone().filter(|data| data.is_charged())
    }

    /// Whether the request can wait for a rule: one that is fetched when it comes needs its bytes kept.
    pub(super) fn can_wait(&self, fetch: Fetch) -> bool {
        fetch == Fetch::Late || self.data.as_ref().is_none_or(|data| data.is_charged())
    }

    /// For the rules.
    pub(super) fn subject<'a>(&'a self, ticket: &Ticket) -> Subject<'a> {
        Subject { pinned: &self.pinned_runs, stamped: &self.stamped_runs, ..subject(ticket) }
    }

    /// Numbers of the pages that count for `AwaitHeld`: those that are what the rule asks for. A request without data
    /// is one page, of its own.
    pub(super) fn counted(&self, ticket: &Ticket, matching: &Match) -> Vec<u64> {
        if self.pieces.is_empty() {
            return vec![u64::MAX - ticket.about.id];
        }
        let counts = |at: usize| {
            let pinned = |run| self.pins.iter().any(|(of, pin)| *of == at && (run == 0 || pin.run == run));
            let stamped = |run| self.stamps.contains(&(at, run));
            match (matching.pinned, matching.stamped) {
                (None, None) => true,
                (pin, stamp) => pin.is_some_and(pinned) || stamp.is_some_and(stamped),
            }
        };
        let pages = self.pieces.iter().enumerate().filter(|(at, _)| counts(*at));
        pages.map(|(_, piece)| piece.page()).collect()
    }

    /// For reports.
    pub(super) fn held(&self, ticket: &Ticket, rule: &str) -> Held {
        let about = &ticket.about;
        Held {
            request: about.id,
            disk: ticket.disk.index,
            rule: rule.into(),
            op: about.op,
            byte: about.byte,
            len: about.len,
            submitted_ns: ticket.submitted_ns,
            pages: (0..self.pieces.len()).map(|at| self.page(about.byte, at)).collect(),
        }
    }

    fn page(&self, first_byte: u64, at: usize) -> PageRef {
        let piece = &self.pieces[at];
        let pin = self.pins.iter().find(|(of, _)| *of == at).map(|(_, pin)| pin);
        let by_stamp = || stamps::file_offset(piece.start(), &self.data.as_ref()?[piece.range()]);
        PageRef {
            byte: first_byte.saturating_add(piece.at as u64),
            gpa: piece.gpa.0,
            len: piece.len,
            region: pin.and_then(|pin| pin.region),
            file_offset: pin.and_then(|pin| pin.file_offset).or_else(by_stamp),
        }
    }
}

/// A request before anybody has looked at its pages.
pub(super) fn subject(ticket: &Ticket) -> Subject<'static> {
    let about = &ticket.about;
    Subject {
        disk: ticket.disk.index,
        op: about.op,
        byte: about.byte,
        len: about.len,
        pinned: &[],
        stamped: &[],
    }
}

fn distinct(runs: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut runs: Vec<_> = runs.collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}
