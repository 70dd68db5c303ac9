// SPDX-License-Identifier: GPL-2.0

//! The proof that a region may be given back: the device does not write to it any more.
//!
//! [`Quiet`] is made here only: from the device's answer to UNMAP, or from its reset. What is
//! neither makes the device broken, and the reset of that is the proof. So whoever wants the proof
//! gets it, late at worst.

use crate::{
    device::Device,
    dma::{
        Response,
        UnmapRequest,
        OP_UNMAP,
        STATUS_NOT_FOUND,
        STATUS_OK, //
    },
    queue::Quiesced, //
};
use kernel::prelude::*;

/// Proof that the device does no DMA to the region that it was made for.
pub(crate) struct Quiet(());

/// What the device knows of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// It took all of it. If it denies that, it may still be writing there.
    Complete,
    /// It refused, or was asked no further. What it refused it has forgotten.
    Failed,
}

impl Quiet {
    /// Takes a region away from the device, and waits until its DMA has ended. `how` is one of the
    /// `RELEASE_` constants.
    pub(crate) fn after_unmap(
        device: &Device,
        region: u32,
        announcement: Announcement,
        how: u32,
    ) -> Self {
        if let Some(reset) = device.quiesced() {
            return Self::after_reset(&reset);
        }
        let unmap = UnmapRequest {
            region,
            release: how,
        };
        let answer = device.call(OP_UNMAP, &mut device.patience(), |message| {
            message.push(&unmap)
        });
        let reset = match answer {
            Ok(answer) if Self::is_proof(&answer, announcement) => return Self(()),
            Ok(Response { status, .. }) => {
                device.declare_broken(fmt!("region {region}: unmap answered with status {status}"))
            }
            Err(error) => device.declare_broken(fmt!("region {region}: unmap failed: {error:?}")),
        };
        Self::after_reset(&reset)
    }

    fn is_proof(answer: &Response, announcement: Announcement) -> bool {
        match answer.status {
            STATUS_OK => true,
            STATUS_NOT_FOUND => announcement == Announcement::Failed,
            _ => false,
        }
    }

    /// A device in reset does no DMA to any region.
    pub(crate) fn after_reset(_reset: &Quiesced) -> Self {
        Self(())
    }
}
