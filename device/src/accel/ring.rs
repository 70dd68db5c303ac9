// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers: which chains are with the device, and how they go back.
//!
//! A [`Reply`] is the duty to answer one chain. It is used up by an answer or, on purpose, by [`Reply::abandon`];
//! one that is dropped is a bug, which is logged and answered as a device error so that the driver does not hang.

use super::faults::{Faults, Lie};
use crate::chain::ResponseSlot;
use crate::clock;
use crate::duties::{Duties, Unanswered};
use crate::engine::{ProgramEnd, Refusal};
use crate::mem::{BadAddress, GuestRam, View};
use crate::vring::Vring;
use longpin_wire::dma::{self, FaultEvent, Response};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use vhost_user_backend::VringT;
use zerocopy::IntoBytes as _;

/// Chains that are with the device. A head that is taken twice is refused, which also bounds what a guest can have
/// in flight to the size of its queues.
pub(super) struct Heads {
    taken: Mutex<[[bool; dma::QUEUE_SIZE as usize]; dma::NUM_QUEUES]>,
    duties: Duties,
}

impl Default for Heads {
    fn default() -> Self {
        Self { taken: Mutex::new(NO_HEADS), duties: Duties::default() }
    }
}

const NO_HEADS: [[bool; dma::QUEUE_SIZE as usize]; dma::NUM_QUEUES] =
    [[false; dma::QUEUE_SIZE as usize]; dma::NUM_QUEUES];

impl Heads {
    /// Note that a chain is with the device; false if it is already, or if there is no such head.
    pub(super) fn take(&self, queue: u32, head: u16) -> bool {
        let mut heads = self.taken.lock();
        let Some(taken) = heads.get_mut(queue as usize).and_then(|heads| heads.get_mut(head as usize)) else {
            return false;
        };
        if std::mem::replace(taken, true) {
            return false;
        }
        self.duties.add(1);
        true
    }

    /// The driver may use the head again: called before the used ring says so.
    fn give_back(&self, queue: u32, head: u16) {
        self.taken.lock()[queue as usize][head as usize] = false;
    }

    /// A head that is not with the device, for a fault.
    fn not_taken(&self, queue: u32) -> Option<u16> {
        let taken = self.taken.lock();
        taken[queue as usize].iter().rposition(|taken| !taken).map(|head| head as u16)
    }

    /// Nothing more will be done about one chain.
    fn settled(&self) {
        self.duties.done(1);
    }

    /// Wait until each chain has been answered or abandoned.
    pub(super) fn wait_idle(&self, deadline: Duration) -> Result<(), Unanswered> {
        match self.duties.wait(deadline) {
            true => Ok(()),
            false => Err(Unanswered { requests: self.duties.count(), queue: None, after: deadline }),
        }
    }

    /// Forget the abandoned chains, when the driver has let go of its rings.
    pub(super) fn clear(&self) {
        *self.taken.lock() = NO_HEADS;
    }
}

/// A chain's place in a ring.
pub(super) struct Place {
    pub(super) vring: Vring,
    pub(super) queue: u32,
    pub(super) head: u16,
    /// Where the response goes; without it the chain is returned with nothing written.
    pub(super) slot: Option<ResponseSlot>,
}

/// The duty to answer one chain.
pub(super) struct Reply {
    ram: Arc<GuestRam>,
    heads: Arc<Heads>,
    faults: Arc<Faults>,
    tag: u64,
    place: Option<Place>,
}

impl Reply {
    pub(super) fn new(
        ram: Arc<GuestRam>,
        heads: Arc<Heads>,
        faults: Arc<Faults>,
        place: Place,
        tag: u64,
    ) -> Self {
        Self { ram, heads, faults, tag, place: Some(place) }
    }

    /// Answer a request of the control queue.
    pub(super) fn status(self, status: u32) {
        self.finish(ProgramEnd { status, finished_ns: clock::monotonic_ns(), ..ProgramEnd::default() });
    }

    /// Answer with what became of the request.
    pub(super) fn outcome(self, outcome: Result<ProgramEnd, Refusal>) {
        match outcome {
            Ok(end) => self.finish(end),
            Err(refusal) => self.status(refusal.status()),
        }
    }

    /// Do not answer, ever: a fault that was asked for.
    pub(super) fn abandon(mut self) {
        self.place = None;
        self.heads.settled();
    }

    /// Answer a chain that was left for a fault.
    pub(super) fn fault(mut self, event: FaultEvent) {
        if let Some(place) = self.place.take() {
            self.put(&place, zerocopy::transmute!(event));
        }
    }

    fn finish(mut self, end: ProgramEnd) {
        if let Some(place) = self.place.take() {
            self.put(&place, response(end));
        }
    }

    fn put(&self, place: &Place, response: Response) {
        let lie = self.faults.lie(place.queue);
        let tag = if lie == Some(Lie::WrongTag) { !self.tag } else { self.tag };
        let response = Response { tag, ..response };
        {
            // The view also covers the ring: `virtio-queue` takes the map of the moment by itself.
            let view = self.ram.view();
            let written = place.slot.as_ref().map_or(Ok(0), |slot| write(&view, slot, &response));
            let written = written.unwrap_or_else(|error| {
                log::debug!("queue {}: response not written: {error}", place.queue);
                0
            });
            self.make_used(place, written, lie);
        }
        self.heads.settled();
    }

    fn make_used(&self, place: &Place, written: u32, lie: Option<Lie>) {
        let mut vring = place.vring.get_mut();
        if lie == Some(Lie::StrayInterrupt)
            && let Err(error) = vring.signal_used_queue()
        {
            log::warn!("queue {}: cannot interrupt the driver: {error}", place.queue);
        }
        let head = match lie {
            Some(Lie::BadUsedId) => self.heads.not_taken(place.queue).unwrap_or(place.head),
            _ => place.head,
        };
        let written = if lie == Some(Lie::Short) { written.min(8) } else { written };
        self.heads.give_back(place.queue, place.head);
        let times = if lie == Some(Lie::Twice) { 2 } else { 1 };
        for _ in 0..times {
            if let Err(error) = vring.add_used(head, written) {
                log::debug!("queue {}: used ring is unusable: {error}", place.queue);
                return;
            }
        }
        if vring.needs_notification().unwrap_or(true)
            && let Err(error) = vring.signal_used_queue()
        {
            log::warn!("queue {}: cannot interrupt the driver: {error}", place.queue);
        }
    }
}

fn response(end: ProgramEnd) -> Response {
    let ProgramEnd { status, crc32c, cells_done, last_generation, started_ns, finished_ns } = end;
    Response { status, crc32c, tag: 0, cells_done, last_generation, started_ns, finished_ns }
}

fn write(view: &View<'_>, slot: &ResponseSlot, response: &Response) -> Result<u32, BadAddress> {
    let mut bytes = response.as_bytes();
    for (gpa, len) in slot.pieces() {
        let (piece, rest) = bytes.split_at(*len as usize);
        view.write(*gpa, piece)?;
        bytes = rest;
    }
    Ok(size_of::<Response>() as u32)
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            log::error!("queue {}: a request (tag {}) was dropped unanswered", place.queue, self.tag);
            let failed = ProgramEnd { status: dma::STATUS_DEVICE_ERROR, ..ProgramEnd::default() };
            self.put(&place, response(failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_once_until_it_is_given_back() {
        let heads = Heads::default();
        assert!(heads.take(0, 5));
        assert!(!heads.take(0, 5));
        assert!(heads.take(1, 5), "the other queue has heads of its own");
        heads.give_back(0, 5);
        heads.settled();
        assert!(heads.take(0, 5));
    }

    #[test]
    fn heads_and_queues_out_of_range_are_refused() {
        let heads = Heads::default();
        assert!(!heads.take(0, dma::QUEUE_SIZE));
        assert!(!heads.take(dma::NUM_QUEUES as u32, 0));
        heads.wait_idle(Duration::ZERO).expect("a refused head is nobody's duty");
    }

    #[test]
    fn a_missing_answer_is_reported_at_the_deadline() {
        let heads = Heads::default();
        assert!(heads.take(0, 1));
        let error = heads.wait_idle(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.requests, 1);
        heads.settled();
        heads.wait_idle(Duration::ZERO).unwrap();
    }
}
