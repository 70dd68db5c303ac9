// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A producer's side of the ledger: collect entries, hand full buffers over.
//!
//! A [`Batch`] holds the producer's buffer while a few writes are done and recorded, so that a sync which comes in
//! between waits for the batch: whatever a guest has seen in its memory is in the file after the next sync.

use super::{BUFFER_ENTRIES, LedgerError, Shared, queue::Queue};
use longpin_wire::ledger::{DiskEntry, Entry};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the ledger takes: both kinds have 64 bytes, with time, kind and label at the same places.
pub trait Record {
    /// The same bytes as an [`Entry`].
    fn into_entry(self) -> Entry;
}

impl Record for Entry {
    fn into_entry(self) -> Entry {
        self
    }
}

impl Record for DiskEntry {
    fn into_entry(self) -> Entry {
        zerocopy::transmute!(self)
    }
}

/// Entries of one producer that have not been handed over yet. The lock is held for a batch, never across a wait.
#[derive(Default)]
pub(super) struct Buffer {
    entries: Mutex<Vec<Entry>>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Give the entries to the writer; waits for room as [`Queue::wait_for_room`] does.
    pub(super) fn hand_over(&self, queue: &Queue, stop: Option<&AtomicBool>) -> Result<(), LedgerError> {
        queue.wait_for_room(stop)?;
        self.push(queue);
        Ok(())
    }

    /// Pushing under the lock keeps the entries of one producer in order, whoever hands them over.
    fn push(&self, queue: &Queue) {
        queue.push(&mut self.entries.lock());
    }
}

/// Writes entries on behalf of one thread. Dropping it hands the rest over.
pub struct Producer {
    shared: Arc<Shared>,
    buffer: Arc<Buffer>,
}

impl Producer {
    pub(super) fn new(shared: Arc<Shared>, buffer: Arc<Buffer>) -> Self {
        Self { shared, buffer }
    }

    /// Make room for more entries: call it before the work that they will describe. Blocks while the file cannot
    /// keep up, until `stop` is set.
    pub fn make_room(&self, stop: Option<&AtomicBool>) -> Result<(), LedgerError> {
        if self.buffer.len() >= BUFFER_ENTRIES {
            self.buffer.hand_over(&self.shared.queue, stop)
        } else {
            self.shared.queue.check()
        }
    }

    /// Hand a full buffer over if there is room just now. Never blocks on the file: for events that cannot wait.
    pub fn offer(&self) {
        if self.buffer.len() >= BUFFER_ENTRIES && self.shared.queue.has_room() {
            self.buffer.push(&self.shared.queue);
        }
    }

    /// Add an entry. Never blocks on the file.
    pub fn record(&self, entry: impl Record) {
        self.begin().record(entry);
    }

    /// Hold the buffer for some work and its entries. Keep it short: a sync waits for its end.
    pub fn begin(&self) -> Batch<'_> {
        Batch { entries: self.buffer.entries.lock() }
    }
}

/// Work in progress, and its entries.
pub struct Batch<'a> {
    entries: MutexGuard<'a, Vec<Entry>>,
}

impl Batch<'_> {
    /// Whether the batch should end, for [`Producer::make_room`].
    pub fn is_full(&self) -> bool {
        self.entries.len() >= BUFFER_ENTRIES
    }

    /// Add an entry, when what it tells has happened.
    pub fn record(&mut self, entry: impl Record) {
        self.entries.push(entry.into_entry());
    }

    /// Entries in the buffer, older ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was added since the buffer had `len` entries.
    pub fn since(&self, len: usize) -> &[Entry] {
        &self.entries[len..]
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Past the limit if need be: the rest of one buffer, and a producer begins only when there was room.
        self.buffer.push(&self.shared.queue);
    }
}
