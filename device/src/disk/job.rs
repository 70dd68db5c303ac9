// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A request between the ring that it came from and its answer.

use super::gate::Pass;
use super::request::{Kind, Request};
use crate::audit::Ticket;
use crate::mem::Gpa;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};

/// Status of a request that was done.
pub(super) const OK: u8 = VIRTIO_BLK_S_OK as u8;
/// Status of one that could not be done.
pub(super) const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;

/// A request that was taken from the ring and not answered yet.
pub(super) struct Job {
    pub(super) head: u16,
    pub(super) status_at: Gpa,
    pub(super) request: Request,
    pub(super) ticket: Option<Ticket>,
    /// While the image is being changed.
    pub(super) pass: Option<Pass>,
}

/// What goes back to the driver.
pub(super) struct Answer {
    pub(super) head: u16,
    /// Without it the chain goes back with nothing written.
    pub(super) status_at: Option<Gpa>,
    pub(super) status: u8,
    /// Bytes written before the status.
    pub(super) written: u32,
    pub(super) ticket: Option<Ticket>,
}

impl Answer {
    /// The answer to a request.
    pub(super) fn to(job: Job, status: u8) -> Self {
        let written = if status == OK && job.request.kind == Kind::Read { job.request.len as u32 } else { 0 };
        Self { head: job.head, status_at: Some(job.status_at), status, written, ticket: job.ticket }
    }
}
