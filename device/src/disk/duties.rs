// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many chains of a queue are with the device, for whoever has to wait until there are none.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// The count.
#[derive(Default)]
pub(super) struct Duties {
    count: Mutex<usize>,
    none: Condvar,
}

impl Duties {
    /// Chains were taken.
    pub(super) fn add(&self, chains: usize) {
        *self.count.lock() += chains;
    }

    /// Nothing more will be done about so many.
    pub(super) fn done(&self, chains: usize) {
        let mut count = self.count.lock();
        *count -= chains;
        if *count == 0 {
            self.none.notify_all();
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.count.lock()
    }

    /// Wait for none; false if that took too long.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let mut count = self.count.lock();
        self.none.wait_while_for(&mut count, |count| *count > 0, time);
        *count == 0
    }
}
