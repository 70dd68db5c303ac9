// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that writes the ledger's file.

use super::Shared;
use crate::clock;
use longpin_wire::ledger::{Entry, Header, MAGIC, VERSION};
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use zerocopy::IntoBytes as _;

/// Write the header and start the thread; it ends when the queue is closed and empty, or when a write fails or would
/// make the file longer than `limit`.
pub(super) fn start(mut file: File, limit: u64, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        entry_bytes: size_of::<Entry>() as u32,
        realtime_ns: clock::realtime_ns(),
        monotonic_ns: clock::monotonic_ns(),
        reserved: [0; 4],
    };
    // A header that cannot be written is a failed ledger, not a failed start: the same as a disk that fills later.
    let begun = file.write_all(header.as_bytes());
    thread::Builder::new().name("ledger".into()).spawn(move || match begun {
        Ok(()) => run(file, limit, &shared),
        Err(error) => shared.queue.fail(error.to_string()),
    })
}

fn run(mut file: File, limit: u64, shared: &Shared) {
    let mut whole_bytes = size_of::<Header>() as u64;
    while let Some(buffer) = shared.queue.next() {
        let bytes = size_of_val(&buffer[..]) as u64;
        if bytes > limit.saturating_sub(whole_bytes) {
            shared.queue.fail(format!("the file has reached its bound of {limit} bytes (--ledger-limit)"));
            return;
        }
        if let Err(error) = file.write_all(buffer.as_bytes()) {
            shared.queue.fail(error.to_string());
            // Leave whole entries only; where that fails too, a reader meets a short last entry.
            let entries = written_entries(&file, whole_bytes);
            let _ = file.set_len(whole_bytes + entries * size_of::<Entry>() as u64);
            return;
        }
        whole_bytes += bytes;
        shared.queue.wrote(buffer);
    }
}

/// Whole entries past `whole_bytes` that a failed write left in the file.
fn written_entries(file: &File, whole_bytes: u64) -> u64 {
    let len = file.metadata().map_or(whole_bytes, |meta| meta.len());
    len.saturating_sub(whole_bytes) / size_of::<Entry>() as u64
}
