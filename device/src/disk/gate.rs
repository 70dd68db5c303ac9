// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may change the image now: the requests of all queues, or one caller that needs it to stand still (a power
//! cut, a restore).

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The gate of one image.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    empty: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that are changing the image.
    inside: usize,
    closed: bool,
}

/// Why the image does not stand still.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// One caller at a time.
    #[error("another power cut or restore is being carried out; ask again when it is done")]
    Busy,
    /// Operations did not end.
    #[error("{operations} writes are still being carried out after {} s", after.as_secs())]
    Inside {
        /// How many.
        operations: usize,
        /// The deadline.
        after: Duration,
    },
}

impl Gate {
    /// Begin to change the image; `None` while it is closed, then try again when told to.
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Pass(self.clone()))
    }

    /// Keep everybody out and wait until nobody is inside. The caller tells those who wait when it is open again.
    pub fn close(self: &Arc<Self>, deadline: Duration) -> Result<Closed, GateError> {
        let until = Instant::now() + deadline;
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) {
            return Err(GateError::Busy);
        }
        let closed = Closed(self.clone());
        while state.inside > 0 {
            if self.empty.wait_until(&mut state, until).timed_out() && state.inside > 0 {
                let operations = state.inside;
                // `closed` opens the gate, which takes the lock.
                drop(state);
                return Err(GateError::Inside { operations, after: deadline });
            }
        }
        drop(state);
        Ok(closed)
    }
}

/// The right to change the image.
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.inside -= 1;
        if state.inside == 0 && state.closed {
            self.0.empty.notify_all();
        }
    }
}

/// Nobody changes the image while this lives.
pub struct Closed(Arc<Gate>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.state.lock().closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_waits_for_those_inside() {
        let gate = Arc::<Gate>::default();
        let inside = gate.enter().unwrap();
        let error = gate.close(Duration::ZERO).map(drop).unwrap_err();
        assert!(matches!(error, GateError::Inside { operations: 1, .. }));
        // Giving up opens it again.
        drop(gate.enter().unwrap());
        let closer = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.close(Duration::from_secs(60)).unwrap())
        };
        drop(inside);
        let closed = closer.join().unwrap();
        assert!(gate.enter().is_none());
        assert!(matches!(gate.close(Duration::ZERO).map(drop), Err(GateError::Busy)));
        drop(closed);
        assert!(gate.enter().is_some());
    }
}
