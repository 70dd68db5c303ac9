// SPDX-License-Identifier: GPL-2.0

//! The proof that a region may be given back: the device does not write to it any more.
//!
//! [`Quiet`] is made here only: from the device's answer to UNMAP or INVALIDATE, or from its reset. What is
//! neither makes the device broken, and the reset of that is the proof. So whoever wants the proof
//! gets it, late at worst.

use crate::{
    device::Device,
    dma::{
        InvalidateRequest,
        Response,
        UnmapRequest,
        OP_INVALIDATE,
        OP_UNMAP,
        STATUS_NOT_FOUND,
        STATUS_OK, //
    },
    queue::Quiesced, //
};
use core::ops::Range;
use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

/// Proof that the device does no DMA to the region, or the part of one, that it was made for.
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

    /// Takes pages of a mirrored region away from the device, and waits until its DMA to them has
    /// ended. `reason` is one of the `INVALIDATE_` constants.
    pub(crate) fn after_invalidate(
        device: &Device,
        region: u32,
        pages: &Range<usize>,
        reason: u32,
    ) -> Self {
        if let Some(reset) = device.quiesced() {
            return Self::after_reset(&reset);
        }
        let invalidate = InvalidateRequest {
            region,
            reason,
            offset: (pages.start << PAGE_SHIFT) as u64,
            length: (pages.len() << PAGE_SHIFT) as u64,
        };
        let answer = device.call_mmu(OP_INVALIDATE, |message| message.push(&invalidate));
        let reset = match answer {
            // Not found would be a lie: a mirror is ended before the device forgets its region.
            Ok(answer) if answer.status == STATUS_OK => return Self(()),
            Ok(Response { status, .. }) => device.declare_broken(fmt!(
                "region {region}: invalidate answered with status {status}"
            )),
            Err(error) => {
                device.declare_broken(fmt!("region {region}: invalidate failed: {error:?}"))
            }
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
