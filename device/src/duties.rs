// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many chains are with a device, for whoever has to wait until there are none.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

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
