// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a disk has done, for the control socket, and the troubles of its image, for the log.

use super::request::Kind;
use longpin_proto::disk::DiskStatus;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Troubles that are not further apart belong together: only the first of them is logged.
const BURST: Duration = Duration::from_secs(10);

/// Counters of one disk. Relaxed: each is true by itself, none orders anything.
#[derive(Default)]
pub struct Counters {
    driver_ready: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU32,
}

impl Counters {
    /// The driver has set a queue up, or has let go of one.
    pub fn set_driver_ready(&self, ready: bool) {
        self.driver_ready.store(ready, Ordering::Relaxed);
    }

    /// A request was understood.
    pub fn took(&self, kind: Kind) {
        let counter = match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
            Kind::Flush => &self.flushes,
            Kind::Discard | Kind::WriteZeroes { .. } => &self.discards,
            Kind::GetId => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// So many chains are with the disk now.
    pub fn begun(&self, chains: usize) {
        self.in_flight.fetch_add(chains as u32, Ordering::Relaxed);
    }

    /// So many have been answered, or were none.
    pub fn ended(&self, chains: usize) {
        self.in_flight.fetch_sub(chains as u32, Ordering::Relaxed);
    }

    /// A chain was answered with an error, or could not be answered.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Copy the counters into the control protocol's document.
    pub fn fill(&self, status: &mut DiskStatus) {
        status.driver_ready = self.driver_ready.load(Ordering::Relaxed);
        status.reads = self.reads.load(Ordering::Relaxed);
        status.writes = self.writes.load(Ordering::Relaxed);
        status.flushes = self.flushes.load(Ordering::Relaxed);
        status.discards = self.discards.load(Ordering::Relaxed);
        status.errors = self.errors.load(Ordering::Relaxed);
        status.in_flight = self.in_flight.load(Ordering::Relaxed);
    }
}

/// Errors of the image: the last for the status, the first of each burst for the log.
#[derive(Default)]
pub struct Troubles(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<(Instant, String)>,
    unlogged: u64,
}

impl Troubles {
    /// The host refused an operation on the image.
    pub fn note(&self, image: &Path, what: &str, error: &io::Error) {
        let text = format!("{what} of image {image:?}: {error}");
        let mut state = self.0.lock();
        let now = Instant::now();
        let begins = state.last.as_ref().is_none_or(|(at, before)| now - *at > BURST || *before != text);
        state.last = Some((now, text.clone()));
        if !begins {
            state.unlogged += 1;
            return;
        }
        let more = std::mem::take(&mut state.unlogged);
        drop(state);
        if more > 0 {
            log::warn!("{more} more errors like the last");
        }
        log::error!("{text}; the guest gets an I/O error");
    }

    /// The last one.
    pub fn last(&self) -> Option<String> {
        self.0.lock().last.as_ref().map(|(_, text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_into_the_status() {
        let counters = Counters::default();
        for kind in [Kind::Read, Kind::Write, Kind::Write, Kind::Flush, Kind::Discard, Kind::GetId] {
            counters.took(kind);
        }
        counters.took(Kind::WriteZeroes { unmap: true });
        counters.begun(3);
        counters.ended(1);
        counters.failed();
        let mut status = DiskStatus::default();
        counters.fill(&mut status);
        assert_eq!((status.reads, status.writes, status.flushes, status.discards), (1, 2, 1, 2));
        assert_eq!((status.in_flight, status.errors), (2, 1));
    }

    #[test]
    fn the_last_trouble_names_image_and_errno() {
        let troubles = Troubles::default();
        assert_eq!(troubles.last(), None);
        let full = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        for _ in 0..3 {
            troubles.note(Path::new("/tmp/i"), "write", &full);
        }
        let last = troubles.last().unwrap();
        assert!(last.starts_with("write of image \"/tmp/i\": No space left on device"), "{last}");
        assert_eq!(troubles.0.lock().unlogged, 2);
    }
}
