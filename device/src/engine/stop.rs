// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A flag that ends a program, also out of its sleep.

use crate::clock;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Set once, by stop, unmap or reset.
#[derive(Default)]
pub(super) struct StopSignal {
    flag: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl StopSignal {
    pub(super) fn set(&self) {
        // Under the lock: a sleeper has either seen the flag, or waits and hears the call.
        let _lock = self.sleep.lock();
        self.flag.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    pub(super) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    pub(super) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Have the sleeper look again at what it waits for.
    pub(super) fn wake(&self) {
        let _lock = self.sleep.lock();
        self.wake.notify_all();
    }

    /// Sleep until `until_ns` on the device's clock, or until the flag is set.
    pub(super) fn sleep_until(&self, until_ns: u64) {
        self.wait(until_ns, || false);
    }

    /// The same, or until `done`: who makes that true calls [`Self::wake`] afterwards.
    pub(super) fn wait(&self, until_ns: u64, done: impl Fn() -> bool) {
        let mut lock = self.sleep.lock();
        while !self.is_set() && !done() {
            let now = clock::monotonic_ns();
            if now >= until_ns {
                return;
            }
            self.wake.wait_for(&mut lock, Duration::from_nanos(until_ns - now));
        }
    }
}
