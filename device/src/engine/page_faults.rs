// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page faults of programs on revocable regions: raised, waited for, answered.
//!
//! A program has at most one fault at a time, and waits for it as it waits for everything: until the answer is there,
//! its time is up, or it is told to stop. An answer that comes later finds nobody, which is no error of the driver's:
//! it could not know.

use super::stop::StopSignal;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A program has come to a page that it cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    /// Not zero; never the same twice.
    pub id: u64,
    /// Region.
    pub region: u32,
    /// Tag of the program.
    pub program: u64,
    /// First byte in the region, at the start of a page.
    pub offset: u64,
    /// Whole pages.
    pub length: u64,
    /// It wants to write.
    pub write: bool,
}

/// Who tells the driver: the front.
pub trait FaultSink: Send + Sync {
    /// A program waits for a page. Does not block.
    fn raise(&self, fault: PageFault);
    /// It waits no longer. Does nothing if the driver knows already.
    fn withdraw(&self, id: u64);
}

/// Faults that programs wait for. Its locks are leaves, but for the stop signal's.
#[derive(Default)]
pub(super) struct PageFaults {
    sink: Mutex<Option<Arc<dyn FaultSink>>>,
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

struct Waiting {
    stop: Arc<StopSignal>,
    answer: Arc<OnceLock<u32>>,
}

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Faulted {
    /// The page was populated: try again.
    Populated,
    /// The driver gives none, for the reason of an errno.
    Refused(u32),
    /// No answer yet: the program is to stop, or its time is up.
    Unanswered,
}

impl PageFaults {
    pub(super) fn set_sink(&self, sink: Arc<dyn FaultSink>) {
        *self.sink.lock() = Some(sink);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Raise a fault and wait for its answer, until `until_ns` on the device's clock or a stop.
    pub(super) fn raise(&self, fault: PageFault, stop: &Arc<StopSignal>, until_ns: u64) -> Faulted {
        let answer = Arc::new(OnceLock::new());
        let waiting = Waiting { stop: stop.clone(), answer: answer.clone() };
        self.waiting.lock().insert(fault.id, waiting);
        let sink = self.sink.lock().clone();
        if let Some(sink) = &sink {
            sink.raise(fault);
        }
        stop.wait(until_ns, || answer.get().is_some());
        match answer.get() {
            Some(0) => Faulted::Populated,
            Some(errno) => Faulted::Refused(*errno),
            None => {
                self.waiting.lock().remove(&fault.id);
                if let Some(sink) = &sink {
                    sink.withdraw(fault.id);
                }
                Faulted::Unanswered
            }
        }
    }

    /// Wake the program. False if none waits for this fault.
    pub(super) fn answer(&self, id: u64, error: u32) -> bool {
        let Some(Waiting { stop, answer }) = self.waiting.lock().remove(&id) else {
            return false;
        };
        // Nobody else has it: it was taken out of the table.
        let _ = answer.set(error);
        stop.wake();
        true
    }
}
