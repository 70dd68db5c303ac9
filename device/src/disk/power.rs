// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loss of power, as the image sees it: what is on it at one moment is noted, and can be put back later.
//!
//! The moment is one at which no operation changes the image: new ones wait at the gate, those under way end. What
//! they have written counts as completed; a write that the watch holds, or that waits at the gate, is in flight.
//!
//! The noted content is a file without a name beside the image (for a device, in the directory for temporary files),
//! so it takes its room there, and goes with the daemon.

use super::Disk;
use super::config_space::SECTOR_BYTES;
use super::gate::{Closed, GateError};
use super::sparse;
use crate::clock;
use longpin_proto::disk::InFlight;
use longpin_wire::ledger::{DiskEntry, KIND_DISK_POWER_CUT, KIND_DISK_RESTORE};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the operations under way.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why the content was not noted, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The image does not stand still.
    #[error("disk {disk}: {source}")]
    Gate {
        /// Disk.
        disk: u32,
        /// Cause.
        source: GateError,
    },
    /// The copy.
    #[error("disk {disk}: cannot copy image {image:?} into {directory:?}: {source}")]
    Copy {
        /// Disk.
        disk: u32,
        /// Its image.
        image: PathBuf,
        /// Where the noted content is.
        directory: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Putting it back.
    #[error(
        "disk {disk}: cannot put the noted content back into image {image:?}: {source}; its content is undefined"
    )]
    PutBack {
        /// Disk.
        disk: u32,
        /// Its image.
        image: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Nothing was noted.
    #[error("disk {0}: there was no power cut to restore from")]
    NothingNoted(u32),
    /// An image that never changes.
    #[error("disk {0} is read-only")]
    ReadOnly(u32),
}

impl Disk {
    /// Note what a loss of power at this moment would leave; `run`: label of the case for the ledger. Blocks while
    /// the image is copied; reads go on meanwhile, changes wait.
    pub fn cut_power(&self, in_flight: InFlight, run: u64) -> Result<(), PowerError> {
        let copied = |source| PowerError::Copy {
            disk: self.index,
            image: self.image.path.clone(),
            directory: self.directory(),
            source,
        };
        let still = self.stand_still()?;
        let copy = self.copy(in_flight).map_err(copied)?;
        *self.noted.lock() = Some(copy);
        self.record(KIND_DISK_POWER_CUT, run);
        drop(still);
        Ok(())
    }

    /// Put the noted content into the image. What the guest has in its caches does not know.
    pub fn restore(&self, run: u64) -> Result<(), PowerError> {
        let put_back =
            |source| PowerError::PutBack { disk: self.index, image: self.image.path.clone(), source };
        let still = self.stand_still()?;
        let noted = self.noted.lock();
        let noted = noted.as_ref().ok_or(PowerError::NothingNoted(self.index))?;
        sparse::copy(noted, &self.image.file, self.image.bytes).map_err(put_back)?;
        self.record(KIND_DISK_RESTORE, run);
        drop(still);
        Ok(())
    }

    fn stand_still(&self) -> Result<Standing<'_>, PowerError> {
        if self.image.read_only {
            return Err(PowerError::ReadOnly(self.index));
        }
        let closed = self.gate.close(DEADLINE);
        // Also when it could not be closed in time: some may have been turned away.
        let standing = |closed| Standing { disk: self, closed };
        match closed {
            Ok(closed) => Ok(standing(Some(closed))),
            Err(source) => {
                drop(standing(None));
                Err(PowerError::Gate { disk: self.index, source })
            }
        }
    }

    fn copy(&self, in_flight: InFlight) -> io::Result<File> {
        let copy = tempfile::tempfile_in(self.directory())?;
        copy.set_len(self.image.bytes)?;
        sparse::copy(&self.image.file, &copy, self.image.bytes)?;
        if in_flight == InFlight::Tear {
            for request in self.watch.held_writes(self.index) {
                let Some(write) = self.watch.held_write(self.index, request) else { continue };
                let sectors = write.bytes.len() as u64 / SECTOR_BYTES / 2;
                copy.write_all_at(&write.bytes[..(sectors * SECTOR_BYTES) as usize], write.byte)?;
            }
        }
        Ok(copy)
    }

    fn directory(&self) -> PathBuf {
        let beside = self.image.path.parent().map(Path::to_path_buf).unwrap_or_default();
        match self.image.is_device {
            true => std::env::temp_dir(),
            false if beside.as_os_str().is_empty() => ".".into(),
            false => beside,
        }
    }

    fn record(&self, kind: u32, run: u64) {
        if let Err(error) = self.log.make_room(None) {
            log::debug!("disk {}: {error}", self.index);
        }
        self.log.record(DiskEntry {
            time_ns: clock::monotonic_ns(),
            kind,
            disk: self.index,
            request: 0,
            byte: 0,
            len: self.image.bytes,
            gpa: 0,
            run,
            op: 0,
            detail: 0,
        });
    }
}

/// The image does not change while this lives; afterwards the queues look again at what had to wait.
struct Standing<'a> {
    disk: &'a Disk,
    closed: Option<Closed>,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        // Open first: a queue that looks before that would wait again.
        self.closed = None;
        self.disk.wake_queues();
    }
}
