// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Misbehaviour on demand: a driver must survive a device that falls silent or lies. A fault stays until it is
//! replaced, also across a reset by the driver, as broken hardware would.

use longpin_proto::control::Fault;
use longpin_wire::dma;
use parking_lot::Mutex;
use std::time::Duration;

/// A driver that waits two seconds for each answer waits in vain for none, and for hundreds of them minutes.
const LATE: Duration = Duration::from_millis(1200);

/// The fault of the moment.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Fault>);

impl Faults {
    /// From the beginning.
    pub fn with(fault: Fault) -> Self {
        Self(Mutex::new(fault))
    }

    /// Replace the fault.
    pub fn set(&self, fault: Fault) {
        *self.0.lock() = fault;
    }

    fn is(&self, fault: Fault) -> bool {
        *self.0.lock() == fault
    }

    /// Requests on the control queue are taken, not executed and not answered.
    pub(super) fn silent_control(&self) -> bool {
        self.is(Fault::SilentControl)
    }

    /// How long requests on the control queue are kept before they are executed.
    pub(super) fn slow_control(&self) -> Option<Duration> {
        self.is(Fault::SlowControl).then_some(LATE)
    }

    /// Programs run, and their end is not told.
    pub(super) fn silent_dma(&self) -> bool {
        self.is(Fault::SilentDma)
    }

    /// Unmaps are answered with "not found" and not executed.
    pub(super) fn denied_region(&self) -> bool {
        self.is(Fault::DeniedRegion)
    }

    /// Invalidations are answered as if they were executed, and are not.
    pub(super) fn kept_pages(&self) -> bool {
        self.is(Fault::KeptPages)
    }

    /// What is wrong with an answer on a queue.
    pub(super) fn lie(&self, queue: u32) -> Option<Lie> {
        match *self.0.lock() {
            Fault::WrongTag => Some(Lie::WrongTag),
            Fault::ShortAnswer => Some(Lie::Short),
            Fault::AnswerTwice => Some(Lie::Twice),
            Fault::StrayInterrupt => Some(Lie::StrayInterrupt),
            Fault::BadUsedId if queue == dma::QUEUE_DMA => Some(Lie::BadUsedId),
            Fault::BadUsedId
            | Fault::None
            | Fault::SilentControl
            | Fault::SlowControl
            | Fault::SilentDma
            | Fault::DeniedRegion
            | Fault::KeptPages => None,
        }
    }
}

/// See [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    WrongTag,
    Short,
    Twice,
    BadUsedId,
    StrayInterrupt,
}
