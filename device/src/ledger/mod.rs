// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ledger: a record of every pin, release and DMA write, on one clock (`longpin_wire::ledger`).
//!
//! Each producer (a program's thread, or the engine for its own events) collects entries in a buffer of its own and
//! hands full buffers to one writer thread. Promises:
//!
//! * No entry is lost: when the file cannot keep up, producers wait *before* they touch guest memory. The wait ends
//!   when there is room, when the producer is told to stop, or when the ledger has failed.
//! * Memory is bounded: [`MAX_QUEUED_BUFFERS`] buffers of [`BUFFER_ENTRIES`] entries of 64 bytes wait for the writer
//!   (16 MiB), and each producer holds one more.
//! * The file is bounded ([`MAX_FILE_BYTES`], or what the command line says): a guest decides how much there is to
//!   record. One entry more is a failure.
//! * A ledger that fails (disk full, bound reached, or [`STALL_LIMIT`] without progress) stays failed and says why; the device lives
//!   on and ends programs with `STATUS_DEVICE_ERROR`.
//!
//! Lock order: a view of guest memory, a producer's buffer, the queue's state. None is held across a wait or a write
//! to the file.

mod producer;
mod queue;
mod writer;

pub use producer::{Batch, Producer, Record};

use longpin_wire::ledger::Entry;
use parking_lot::Mutex;
use producer::Buffer;
use queue::Queue;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Entries that a producer collects before it hands them over: 64 KiB, a good size for one write.
pub const BUFFER_ENTRIES: usize = 1024;
/// Most buffers that wait for the writer.
pub const MAX_QUEUED_BUFFERS: usize = 256;
/// Longest file, if nothing else is said: 268 million entries.
pub const MAX_FILE_BYTES: u64 = 16 << 30;
/// A file that takes nothing for so long has failed: nobody would wait for the guest's driver either.
pub const STALL_LIMIT: Duration = Duration::from_secs(20);

/// Why the ledger does not take entries.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The file exists and holds something: evidence is not overwritten.
    #[error("ledger {0:?} exists already; remove it or name another file")]
    Exists(PathBuf),
    /// The file could not be created.
    #[error("cannot create ledger {path:?}: {source}")]
    Create {
        /// File.
        path: PathBuf,
        /// Cause.
        source: Arc<io::Error>,
    },
    /// A write failed; the text names the cause.
    #[error("ledger cannot be written: {0}; entries since then are lost")]
    Failed(String),
    /// The producer was told to stop while it waited for room.
    #[error("stopped while waiting for room in the ledger")]
    Stopped,
}

/// Handle of the ledger; all clones and producers feed one file.
pub struct Ledger {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Queue,
    /// Buffers of live producers, for [`Ledger::sync`].
    buffers: Mutex<Vec<Weak<Buffer>>>,
}

impl Ledger {
    /// A ledger that counts entries and keeps none.
    pub fn counting() -> Self {
        let queue = Queue::new(false);
        Self { shared: Arc::new(Shared { queue, buffers: Mutex::default() }), writer: Mutex::new(None) }
    }

    /// Create the file and start its writer.
    pub fn create(path: &Path) -> Result<Self, LedgerError> {
        Self::create_bounded(path, MAX_FILE_BYTES)
    }

    /// The same with a bound for the file, in bytes.
    pub fn create_bounded(path: &Path, limit: u64) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Create { path: path.into(), source: Arc::new(source) };
        let file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.is_file() && meta.len() > 0 {
            return Err(LedgerError::Exists(path.into()));
        }
        let shared = Arc::new(Shared { queue: Queue::new(true), buffers: Mutex::default() });
        let thread = writer::start(file, limit, shared.clone()).map_err(failed)?;
        Ok(Self { shared, writer: Mutex::new(Some(thread)) })
    }

    /// A new producer.
    pub fn producer(&self) -> Producer {
        let buffer = Arc::new(Buffer::default());
        let mut buffers = self.shared.buffers.lock();
        buffers.retain(|other| other.strong_count() > 0);
        buffers.push(Arc::downgrade(&buffer));
        Producer::new(self.shared.clone(), buffer)
    }

    /// Entries made so far.
    pub fn entries(&self) -> u64 {
        let pending: usize = self.live_buffers().iter().map(|buffer| buffer.len()).sum();
        self.shared.queue.handed_over() + pending as u64
    }

    /// Why the ledger has failed, if it has.
    pub fn failure(&self) -> Option<String> {
        self.shared.queue.failure()
    }

    /// Bring every entry made before this call into the file; the number of entries in the file. Blocks for at most
    /// [`STALL_LIMIT`] without progress of the file.
    pub fn sync(&self) -> Result<u64, LedgerError> {
        for buffer in self.live_buffers() {
            buffer.hand_over(&self.shared.queue, None)?;
        }
        self.shared.queue.wait_until_written()
    }

    /// Write everything and end the writer. Producers that are still alive find the ledger closed.
    pub fn close(&self) -> Result<u64, LedgerError> {
        let result = self.sync();
        self.shared.queue.close();
        if let Some(thread) = self.writer.lock().take() {
            // A writer stuck in a hung file system cannot be joined; `sync` has said so by then.
            if result.is_ok() && thread.join().is_err() {
                log::error!("the ledger's writer panicked");
            }
        }
        result
    }

    fn live_buffers(&self) -> Vec<Arc<Buffer>> {
        self.shared.buffers.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// An entry with everything zero but time and kind.
pub fn entry(kind: u32, time_ns: u64) -> Entry {
    Entry {
        time_ns,
        kind,
        region: 0,
        dma_addr: 0,
        len: 0,
        generation: 0,
        file_offset: 0,
        run: 0,
        program: 0,
        detail: 0,
    }
}

#[cfg(test)]
mod tests;
