// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters for the control socket. Relaxed: each is true by itself, none orders anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the device has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    driver_ready: AtomicBool,
    requests: AtomicU64,
    refused: AtomicU64,
    cells: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// The driver has set its queues up, or has let go of one.
    pub fn set_driver_ready(&self, ready: bool) {
        self.driver_ready.store(ready, Ordering::Relaxed);
    }

    /// A request was taken from a queue.
    pub fn took_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Cells went into guest memory.
    pub fn wrote(&self, cells: u64, bytes: u64) {
        self.cells.fetch_add(cells, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Copy the counters into the control protocol's document.
    pub fn fill(&self, status: &mut longpin_proto::control::Status) {
        status.driver_ready = self.driver_ready.load(Ordering::Relaxed);
        status.requests = self.requests.load(Ordering::Relaxed);
        status.refused = self.refused.load(Ordering::Relaxed);
        status.cells = self.cells.load(Ordering::Relaxed);
        status.bytes = self.bytes.load(Ordering::Relaxed);
    }
}
