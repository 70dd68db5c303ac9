// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one thread that ends holds at their cap, and delays at their time.

use super::desk::Shared;
use crate::clock;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Start it; it ends when the desk is closed.
pub(super) fn start(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("watch-timer".into()).spawn(move || while pass(&shared) {})
}

/// Wait for the next end and carry it out; false when the desk is closed.
fn pass(shared: &Shared) -> bool {
    let mut desk = shared.desk.lock();
    let ended = loop {
        if desk.closed {
            return false;
        }
        let now = clock::monotonic_ns();
        match desk.holds.next_due() {
            Some(due) if due <= now => break desk.holds.take_due(now),
            Some(due) => {
                shared.earlier.wait_for(&mut desk, Duration::from_nanos(due - now));
            }
            None => shared.earlier.wait(&mut desk),
        }
    };
    shared.note(&mut desk, &ended);
    drop(desk);
    shared.resume(ended);
    true
}
