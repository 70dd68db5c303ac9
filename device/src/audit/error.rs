// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways in which the watch says no to a control request.

use crate::guests::TwoGuests;
use crate::ledger::LedgerError;
use crate::mem::BadAddress;
use crate::policy::RuleError;
use longpin_wire::dma;

/// Why a control request was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// About the rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// It observes or fails requests.
    #[error("rule `{0}` does not keep requests; use action `hold` or `delay`")]
    KeepsNothing(String),
    /// Released, but not completed in time.
    #[error(
        "{left} requests that rule `{rule}` let go are not completed after {seconds} s; see `last_error` of the disk"
    )]
    NotCompleted {
        /// Rule.
        rule: String,
        /// How many.
        left: usize,
        /// The deadline.
        seconds: u64,
    },
    /// The end of the daemon.
    #[error("the daemon is ending")]
    Closed,
    /// Nothing to write into.
    #[error("rule `{0}` holds no reads; await them first")]
    NoReads(String),
    /// The range.
    #[error("range {offset}+{len} is not in the {have} bytes of the reads that rule `{rule}` holds")]
    OutsideReads {
        /// Rule.
        rule: String,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of all reads.
        have: u64,
    },
    /// The cells.
    #[error(
        "range {offset}+{len} is not made of whole cells of {cell_bytes} bytes; use a power of two from {min} to {max}",
        min = dma::MIN_CELL_BYTES,
        max = dma::MAX_CELL_BYTES
    )]
    Cells {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of a cell.
        cell_bytes: u32,
    },
    /// The number is taken.
    #[error("region {0} is another one already; take another number")]
    RegionExists(u32),
    /// Memory has left the guest.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// Nothing can be said of changes.
    #[error(transparent)]
    Guests(#[from] TwoGuests),
    /// What cannot be recorded is not done.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
