// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The accelerator's vhost-user front: features, configuration space, queues. It moves requests from the rings to
//! the engine and answers back; it knows nothing of DMA.
//!
//! Threads: the vhost-user thread (setup, stop), one vring thread (takes chains, never waits), two dispatchers, of
//! which one is for the MMU queue (each executes requests in order, may wait for the ledger), and the engine's threads,
//! which answer by themselves.
//!
//! Lock order: `turn`, then a view of guest memory, then a vring's lock.

mod backend;
mod config_space;
mod dispatcher;
mod fault_desk;
mod faults;
mod ring;

pub use config_space::ConfigSpace;
pub use faults::Faults;

use crate::chain::{self, Parsed, Request};
use crate::counters::Counters;
use crate::engine::Engine;
use crate::front::{Front, QuiesceError};
use crate::log_limit::LogLimit;
use crate::mem::{GuestRam, Map, View};
use crate::vring::Vring;
use dispatcher::Dispatcher;
use fault_desk::FaultDesk;
use longpin_wire::dma;
use parking_lot::Mutex;
use ring::{Heads, Place, Reply};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vhost_user_backend::VringT;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};

/// Longest wait for programs and replies when the driver stops a queue. More than the ledger's stall limit, so that
/// a hung disk is named as the cause first.
const QUIESCE_DEADLINE: Duration = Duration::from_secs(30);

/// One connection's accelerator.
pub struct Accelerator {
    engine: Arc<Engine>,
    counters: Arc<Counters>,
    dispatcher: Dispatcher,
    mmu: Dispatcher,
    desk: Arc<FaultDesk>,
    heads: Arc<Heads>,
    faults: Arc<Faults>,
    /// Held while chains are taken, and while a queue is being stopped: what was taken is known to the stop.
    turn: Mutex<()>,
    complaints: LogLimit,
}

impl Accelerator {
    /// A front for `engine`.
    pub fn new(engine: Arc<Engine>, counters: Arc<Counters>, faults: Arc<Faults>) -> io::Result<Self> {
        let desk = Arc::<FaultDesk>::default();
        engine.set_fault_sink(desk.clone());
        let dispatcher = |name| Dispatcher::start(name, engine.clone(), counters.clone(), faults.clone());
        Ok(Self {
            dispatcher: dispatcher("dispatcher")?,
            mmu: dispatcher("mmu")?,
            desk,
            engine,
            counters,
            heads: Arc::default(),
            faults,
            turn: Mutex::new(()),
            complaints: LogLimit::default(),
        })
    }

    /// Take what the driver has made available, on all queues, and hand it over.
    ///
    /// A driver may submit a program on one queue and stop it on the other before we look. What it published later
    /// must not be executed earlier: the control queue is read first and dispatched last.
    fn poll(&self, vrings: &[Vring]) {
        loop {
            let _turn = self.turn.lock();
            let (taken, control) = self.take(vrings, dma::QUEUE_CONTROL);
            let (taken_dma, dma) = self.take(vrings, dma::QUEUE_DMA);
            for (reply, request) in dma.into_iter().chain(control) {
                self.dispatcher.send(reply, request);
            }
            let (taken_mmu, mmu) = self.take(vrings, dma::QUEUE_MMU);
            mmu.into_iter().for_each(|(reply, request)| self.mmu.send(reply, request));
            let (taken_faults, chains) = self.take(vrings, dma::QUEUE_FAULTS);
            // Of this queue the parser takes one request only.
            chains.into_iter().for_each(|(reply, _)| self.desk.offer(reply));
            // Every queue asks for kicks again, also if another has more.
            let view = self.engine.ram().view();
            let more = vrings.iter().fold(false, |more, vring| vring.listen(dma::QUEUE_SIZE, &view) | more);
            drop(view);
            // Without progress there is nothing to come back for: an unusable ring always claims to hold more.
            if !more || taken + taken_dma + taken_mmu + taken_faults == 0 {
                return;
            }
        }
    }

    /// Chains of one queue: how many, and those that are requests; the others are answered at once.
    fn take(&self, vrings: &[Vring], queue: u32) -> (usize, Vec<(Reply, Request)>) {
        let Some(vring) = vrings.get(queue as usize) else {
            return (0, Vec::new());
        };
        let (mut requests, mut refused) = (Vec::new(), Vec::new());
        let view = self.engine.ram().view();
        let (chains, size) = self.available(vring, queue, &view);
        let count = chains.len();
        for chain in chains {
            self.counters.took_request();
            let head = chain.head_index();
            if head >= size || !self.heads.take(queue, head) {
                self.refuse(queue, || format!("head {head} is out of range, or with the device already"));
                continue;
            }
            let Parsed { slot, tag, request } = chain::parse(chain, queue, &view);
            let place = Place { vring: vring.clone(), queue, head, slot };
            let (ram, heads, faults) = (self.engine.ram().clone(), self.heads.clone(), self.faults.clone());
            let reply = Reply::new(ram, heads, faults, place, tag);
            match request {
                Ok(request) => requests.push((reply, request)),
                Err(error) => {
                    self.refuse(queue, || format!("head {head}: {error}"));
                    refused.push((reply, error.status()));
                }
            }
        }
        // Answers take a view of their own.
        drop(view);
        refused.into_iter().for_each(|(reply, status)| reply.status(status));
        (count, requests)
    }

    /// What the driver has published on a queue, and the queue's size.
    fn available<'v>(
        &self,
        vring: &Vring,
        queue: u32,
        view: &'v View<'_>,
    ) -> (Vec<DescriptorChain<&'v Map>>, u16) {
        let mut state = vring.get_mut();
        let size = state.get_queue().size();
        if size > dma::QUEUE_SIZE {
            self.complaints
                .warn(|| format!("queue {queue}: {size} descriptors; there are {} at most", dma::QUEUE_SIZE));
        }
        if !vring.is_usable(&state, dma::QUEUE_SIZE) {
            return (Vec::new(), size);
        }
        match state.get_queue_mut().iter(view.map()) {
            Ok(chains) => (chains.collect(), size),
            Err(error) => {
                self.complaints.warn(|| format!("queue {queue}: available ring is unusable: {error}"));
                (Vec::new(), size)
            }
        }
    }

    fn refuse(&self, queue: u32, why: impl FnOnce() -> String) {
        self.counters.refused();
        self.complaints.warn(|| format!("queue {queue}: request refused: {}", why()));
    }
}

impl Front for Accelerator {
    fn ram(&self) -> &GuestRam {
        self.engine.ram()
    }

    /// Stop all DMA, answer everything that was taken, forget all regions. Afterwards neither guest memory nor a
    /// ring is touched until the driver comes back.
    fn quiesce(&self) -> Result<(), QuiesceError> {
        let _turn = self.turn.lock();
        self.counters.set_driver_ready(false);
        self.engine.begin_reset();
        self.desk.close();
        self.heads.wait_idle(QUIESCE_DEADLINE)?;
        self.engine.finish_reset(QUIESCE_DEADLINE)?;
        self.heads.clear();
        self.desk.open();
        Ok(())
    }
}
