// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a request means for the image, and what the end of an operation means for its request.

use super::Disk;
use super::job::{IOERR, Job, OK};
use super::request::Kind;
use super::uring::{GuestBuffers, Io, Operation};
use crate::mem::{BadAddress, Lease, View};
use nix::libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use std::io;
use std::sync::Arc;

impl Disk {
    /// What is to be done with the image; nothing, where that is so.
    pub(super) fn plan(
        &self,
        job: &mut Job,
        view: &View<'_>,
        lease: &Arc<Lease>,
    ) -> Result<Option<Io>, BadAddress> {
        let guest = |job: &Job| GuestBuffers::locate(view, lease, &job.request.data);
        let Some(ticket) = &mut job.ticket else { return Ok(None) };
        Ok(Some(match job.request.kind {
            Kind::Read if ticket.filled() => return Ok(None),
            Kind::Read => Io::Read(guest(job)?),
            Kind::Write => match ticket.fetch(view)? {
                Some(bytes) => Io::WriteCopy { bytes, done: 0 },
                None => Io::Write(guest(job)?),
            },
            Kind::Discard if !self.image.abilities.punch() => return Ok(None),
            Kind::Discard => Io::Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
            Kind::WriteZeroes { unmap: true } if self.image.abilities.punch() => {
                Io::Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
            }
            Kind::WriteZeroes { unmap: false } if self.image.abilities.zero() => {
                Io::Allocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)
            }
            Kind::WriteZeroes { .. } => Io::WriteZeroes,
            Kind::Flush if self.image.read_only => return Ok(None),
            Kind::Flush => Io::Sync,
            // Answered where it was taken.
            Kind::GetId => return Ok(None),
        }))
    }

    /// What follows from the end of an operation.
    pub(super) fn conclude(&self, mut operation: Operation<Job>, result: io::Result<u64>) -> Conclusion {
        let what = match operation.io {
            Io::Read(_) => "read",
            Io::Write(_) | Io::WriteCopy { .. } => "write",
            Io::WriteZeroes | Io::Allocate(_) => "discard or write-zeroes",
            Io::Sync => "flush",
        };
        let error = match (&operation.io, result) {
            (Io::Sync, Ok(_)) => return Conclusion::done(operation),
            (Io::Allocate(_), Ok(_)) if operation.durable => {
                operation.io = Io::Sync;
                return Conclusion::Continue(operation);
            }
            (Io::Allocate(_), Ok(_)) => return Conclusion::done(operation),
            (Io::Allocate(mode), Err(error)) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                self.image.abilities.lose(*mode);
                if operation.job.request.kind == Kind::Discard {
                    return Conclusion::done(operation);
                }
                operation.io = Io::WriteZeroes;
                return Conclusion::Continue(operation);
            }
            // A range that is not of the device's own blocks: this one is done otherwise, others may go.
            (Io::Allocate(_), Err(error)) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                if operation.job.request.kind == Kind::Discard {
                    return Conclusion::done(operation);
                }
                operation.io = Io::WriteZeroes;
                return Conclusion::Continue(operation);
            }
            // The image was cut short, or takes no more.
            (Io::Read(_), Ok(0)) => io::ErrorKind::UnexpectedEof.into(),
            (_, Ok(0)) => io::ErrorKind::WriteZero.into(),
            (_, Ok(bytes)) if bytes < operation.len => {
                operation.advance(bytes);
                return Conclusion::Continue(operation);
            }
            (_, Ok(_)) => return Conclusion::done(operation),
            (_, Err(error)) if retry(&error) => return Conclusion::Continue(operation),
            (_, Err(error)) => error,
        };
        self.troubles.note(&self.image.path, what, &error);
        Conclusion::Answer(operation.job, IOERR)
    }
}

/// How an operation ended.
pub(super) enum Conclusion {
    /// The request is answered with this status.
    Answer(Job, u8),
    /// This is to be done next.
    Continue(Operation<Job>),
}

impl Conclusion {
    fn done(operation: Operation<Job>) -> Self {
        Self::Answer(operation.job, OK)
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
