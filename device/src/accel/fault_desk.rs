// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where page faults meet the chains that the driver has left for them.
//!
//! Both come at any time, so the one that comes first waits. Faults are bounded by the programs, of which each has at
//! most one, and chains by the queue.

use super::ring::Reply;
use crate::engine::{FaultSink, PageFault};
use longpin_wire::dma::{FaultEvent, STATUS_OK};
use longpin_wire::uapi::{ACCESS_READ, ACCESS_WRITE};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// See the module. Its lock is a leaf: chains are answered without it.
#[derive(Default)]
pub(super) struct FaultDesk(Mutex<State>);

#[derive(Default)]
struct State {
    chains: VecDeque<Reply>,
    faults: VecDeque<PageFault>,
    closed: bool,
}

impl FaultDesk {
    /// The driver has left a chain.
    pub(super) fn offer(&self, chain: Reply) {
        let refused = {
            let mut state = self.0.lock();
            if state.closed {
                Some(chain)
            } else {
                state.chains.push_back(chain);
                None
            }
        };
        refused.into_iter().for_each(Reply::abandon);
        self.deliver();
    }

    fn deliver(&self) {
        loop {
            let (chain, fault) = {
                let mut state = self.0.lock();
                if state.chains.is_empty() {
                    return;
                }
                let Some(fault) = state.faults.pop_front() else { return };
                (state.chains.pop_front(), fault)
            };
            if let Some(chain) = chain {
                chain.fault(event(&fault));
            }
        }
    }

    /// The driver takes its queues back: chains are not answered any more, nor taken, until [`Self::open`].
    pub(super) fn close(&self) {
        let chains = {
            let mut state = self.0.lock();
            state.closed = true;
            state.faults.clear();
            std::mem::take(&mut state.chains)
        };
        chains.into_iter().for_each(Reply::abandon);
    }

    /// The driver may come back.
    pub(super) fn open(&self) {
        self.0.lock().closed = false;
    }
}

impl FaultSink for FaultDesk {
    fn raise(&self, fault: PageFault) {
        self.0.lock().faults.push_back(fault);
        self.deliver();
    }

    fn withdraw(&self, id: u64) {
        self.0.lock().faults.retain(|fault| fault.id != id);
    }
}

fn event(fault: &PageFault) -> FaultEvent {
    let PageFault { id, region, program, offset, length, write } = *fault;
    let access = if write { ACCESS_WRITE } else { ACCESS_READ };
    FaultEvent { status: STATUS_OK, access, tag: 0, id, region, program: program as u32, offset, length }
}
