// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a look at a request needs, and where it puts what it finds. Below everything that holds or moves requests.

use super::findings::Findings;
use super::pool::Pool;
use crate::engine::{Engine, PinIndex, Trace};
use crate::guests::Guests;
use parking_lot::Mutex;
use std::sync::Arc;

/// Shared by the tickets of all disks.
pub(super) struct Instruments {
    pub(super) pool: Arc<Pool>,
    pub(super) pins: Arc<PinIndex>,
    pub(super) trace: Arc<Trace>,
    pub(super) guests: Guests,
    pub(super) findings: Mutex<Findings>,
}

impl Instruments {
    /// `engine`: whose DMA is told from other changes.
    pub(super) fn new(engine: &Engine) -> Arc<Self> {
        let instruments = Self {
            pool: Arc::default(),
            pins: engine.pins().clone(),
            trace: engine.trace().clone(),
            guests: Guests::default(),
            findings: Mutex::default(),
        };
        instruments.guests.add(engine.ram().clone());
        Arc::new(instruments)
    }
}
