// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Misbehaviour on demand: a driver must survive a device that falls silent. A fault stays until it is replaced,
//! also across a reset by the driver, as broken hardware would.

use longpin_proto::control::Fault;
use std::sync::atomic::{AtomicU8, Ordering};

const NONE: u8 = 0;
const SILENT_CONTROL: u8 = 1;
const SILENT_DMA: u8 = 2;

/// The fault of the moment.
#[derive(Debug, Default)]
pub struct Faults(AtomicU8);

impl Faults {
    /// Replace the fault.
    pub fn set(&self, fault: Fault) {
        let value = match fault {
            Fault::None => NONE,
            Fault::SilentControl => SILENT_CONTROL,
            Fault::SilentDma => SILENT_DMA,
        };
        self.0.store(value, Ordering::Relaxed);
    }

    /// Requests on the control queue are taken, not executed and not answered.
    pub(super) fn silent_control(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT_CONTROL
    }

    /// Programs run, and their end is not told.
    pub(super) fn silent_dma(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT_DMA
    }
}
