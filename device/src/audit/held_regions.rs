// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions made of held reads: which reads each still has, and its end in the ledger.

use super::record::Disk;
use crate::clock;
use crate::ledger;
use crate::region::Label;
use longpin_wire::ledger::{Entry, KIND_UNMAP};
use longpin_wire::uapi;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Regions made of held reads.
#[derive(Default)]
pub(super) struct HeldRegions(HashMap<u32, HeldRegion>);

struct HeldRegion {
    label: Label,
    disk: Arc<Disk>,
    /// Those that are not over.
    reads: HashSet<u64>,
}

impl HeldRegions {
    /// The label of a region that is there.
    pub(super) fn label(&self, region: u32) -> Option<&Label> {
        self.0.get(&region).map(|known| &known.label)
    }

    /// A region begins, with these reads.
    pub(super) fn begin(&mut self, label: Label, disk: Arc<Disk>, reads: HashSet<u64>) {
        self.0.insert(label.region, HeldRegion { label, disk, reads });
    }

    /// A read is over; so is its region if it was the last.
    pub(super) fn leave(&mut self, request: u64) {
        self.0.retain(|_, region| {
            let gone = region.reads.remove(&request) && region.reads.is_empty();
            if gone {
                // Direct I/O sets its pages dirty when it lets go of them (`bio_release_pages()`).
                let now = clock::monotonic_ns();
                region
                    .disk
                    .log()
                    .record(Entry { detail: uapi::RELEASE_DIRTY, ..whole(&region.label, KIND_UNMAP, now) });
            }
            !gone
        });
    }
}

/// An entry of a region.
pub(super) fn of_region(label: &Label, kind: u32, time_ns: u64) -> Entry {
    Entry { region: label.region, run: label.run, ..ledger::entry(kind, time_ns) }
}

/// One about the whole of it.
pub(super) fn whole(label: &Label, kind: u32, time_ns: u64) -> Entry {
    Entry { len: label.total_bytes, file_offset: label.file_offset, ..of_region(label, kind, time_ns) }
}
