// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many chains are with a device, for whoever has to wait until there are none.

use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::time::Duration;

/// Requests are still unanswered at a deadline.
#[derive(Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// How many.
    pub(crate) requests: usize,
    /// Of this queue alone.
    pub(crate) queue: Option<usize>,
    /// The deadline.
    pub(crate) after: Duration,
}

impl std::error::Error for Unanswered {}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests", self.requests)?;
        if let Some(queue) = self.queue {
            write!(f, " of queue {queue}")?;
        }
        write!(f, " are still unanswered after {} s", self.after.as_secs())
    }
}

/// The count.
#[derive(Default)]
pub(crate) struct Duties {
    count: Mutex<usize>,
    none: Condvar,
}

impl Duties {
    /// Chains were taken.
    pub(crate) fn add(&self, chains: usize) {
        *self.count.lock() += chains;
    }

    /// Nothing more will be done about so many.
    pub(crate) fn done(&self, chains: usize) {
        let mut count = self.count.lock();
        *count -= chains;
        if *count == 0 {
            self.none.notify_all();
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        *self.count.lock()
    }

    /// Wait for none; false if that took too long.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let mut count = self.count.lock();
        self.none.wait_while_for(&mut count, |count| *count > 0, time);
        *count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_is_named_with_its_queue() {
        let of = |queue| Unanswered { requests: 3, queue, after: Duration::from_secs(30) }.to_string();
        assert_eq!(of(None), "3 requests are still unanswered after 30 s");
        assert_eq!(of(Some(1)), "3 requests of queue 1 are still unanswered after 30 s");
    }
}
