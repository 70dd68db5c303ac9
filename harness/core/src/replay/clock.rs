// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The clock of a case: nanoseconds since its first event, by CLOCK_MONOTONIC of the host, which the harness and the
//! device share.

use crate::record::{CaseRecord, Evidence, LedgerEntry, Role};

/// From when times count.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// First event, CLOCK_MONOTONIC of the host, ns.
    pub origin_ns: u64,
    /// Steps have host times.
    pub timed: bool,
}

impl Clock {
    /// The first thing that the scenario asked for is the first event; without host times it is the ledger's first entry.
    pub fn of(record: &CaseRecord, entries: &[LedgerEntry]) -> Self {
        let act = record.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Step { role: Role::Act, .. } | Evidence::Disk { line: 1.., .. } => began(evidence),
            _ => None,
        });
        let first = act.or_else(|| record.evidence.iter().find_map(began));
        let origin_ns = first.or_else(|| entries.first().map(|entry| entry.time_ns)).unwrap_or(0);
        Self { origin_ns, timed: first.is_some() }
    }

    /// An instant of the host's clock on the case's.
    pub fn since(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.origin_ns)
    }
}

/// When an exchange began, if its record has times.
fn began(evidence: &Evidence) -> Option<u64> {
    match evidence {
        Evidence::Step { began_ns, ended_ns, .. } | Evidence::Disk { began_ns, ended_ns, .. } => {
            (*ended_ns > 0).then_some(*began_ns)
        }
        _ => None,
    }
}
