// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Threads that execute requests in the order in which they were taken. They may wait (a map for the ledger), so
//! that the vring thread does not have to. The queue of the MMU has one of its own: an invalidation waits for nothing
//! but the batches of programs.

use super::faults::Faults;
use super::ring::Reply;
use crate::chain::Request;
use crate::counters::Counters;
use crate::engine::{Engine, ProgramEnd, Refusal};
use longpin_wire::dma::{STATUS_NOT_FOUND, STATUS_OK, STATUS_STOPPED};
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// The thread and the way to it. The channel's length is bounded by the heads that a guest can have in flight.
pub(super) struct Dispatcher {
    requests: Option<mpsc::Sender<(Reply, Request)>>,
    thread: Option<JoinHandle<()>>,
}

impl Dispatcher {
    /// `name`: of the thread.
    pub(super) fn start(
        name: &str,
        engine: Arc<Engine>,
        counters: Arc<Counters>,
        faults: Arc<Faults>,
    ) -> io::Result<Self> {
        let (requests, taken) = mpsc::channel();
        let executor = Executor { engine, counters, faults };
        let body = move || taken.into_iter().for_each(|(reply, request)| executor.execute(reply, request));
        let thread = thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    pub(super) fn send(&self, reply: Reply, request: Request) {
        if let Some(requests) = &self.requests {
            // A dispatcher that is gone has panicked; the reply answers for itself when it is dropped.
            let _ = requests.send((reply, request));
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the dispatcher panicked");
        }
    }
}

struct Executor {
    engine: Arc<Engine>,
    counters: Arc<Counters>,
    faults: Arc<Faults>,
}

impl Executor {
    fn execute(&self, reply: Reply, request: Request) {
        if !matches!(request, Request::Dma(_))
            && let Some(time) = self.faults.slow_control()
        {
            thread::sleep(time);
        }
        match request {
            Request::Dma(program) => {
                let (counters, faults) = (self.counters.clone(), self.faults.clone());
                let done = move |outcome| {
                    if faults.silent_dma() { reply.abandon() } else { answer(&counters, reply, outcome) }
                };
                self.engine.start(program, Box::new(done));
            }
            _ if self.faults.silent_control() => reply.abandon(),
            Request::Map(part) => self.answer(reply, self.engine.map(&part)),
            Request::Populate(part) => self.answer(reply, self.engine.populate(&part)),
            Request::Invalidate(_) if self.faults.kept_pages() => self.answer(reply, Ok(())),
            Request::Invalidate(range) => self.answer(reply, self.engine.invalidate(range)),
            Request::FaultDone { fault, error } => {
                self.engine.answer_fault(fault, error);
                self.answer(reply, Ok(()));
            }
            // The front keeps these (`Accelerator::poll`).
            Request::AwaitFault => reply.abandon(),
            Request::Stop { program } => self.answer(reply, self.engine.stop(program)),
            Request::Unmap { .. } if self.faults.denied_region() => reply.status(STATUS_NOT_FOUND),
            Request::Unmap { region, release } => {
                let counters = self.counters.clone();
                let done =
                    move |outcome: Result<(), Refusal>| answer(&counters, reply, outcome.map(|()| ok()));
                self.engine.unmap(region, release, Box::new(done));
            }
        }
    }

    fn answer(&self, reply: Reply, outcome: Result<(), Refusal>) {
        answer(&self.counters, reply, outcome.map(|()| ok()));
    }
}

fn ok() -> ProgramEnd {
    ProgramEnd { status: STATUS_OK, finished_ns: crate::clock::monotonic_ns(), ..ProgramEnd::default() }
}

fn answer(counters: &Counters, reply: Reply, outcome: Result<ProgramEnd, Refusal>) {
    if let Err(refusal) = &outcome
        && refusal.status() != STATUS_STOPPED
    {
        counters.refused();
        log::debug!("request refused: {refusal}");
    }
    reply.outcome(outcome);
}
