// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a guest with the driver's tests must have left behind: results that are right, a kernel log without a complaint,
//! and a ledger in which neither a pin nor a page that was given back is written to.

use crate::driver_guest::{TestResult, Told};
use longpin_core::dmesg::{self, Class};
use longpin_wire::dma::PAGE_BYTES;
use longpin_wire::ledger::{self, Entry, Header};
use longpin_wire::uapi::MODE_NOTIFIER;
use std::collections::BTreeSet;
use std::io::{BufReader, Read as _};
use std::path::Path;
use zerocopy::FromBytes as _;

/// Tests of the driver's interface that want nothing special of device or kernel.
pub const INTERFACE_TESTS: [&str; 22] = [
    "info",
    "anonymous",
    "shmem",
    "file",
    "huge-pages",
    "folio-without-mapping",
    "scattered",
    "gigabyte",
    "errors",
    "fuzz",
    "program",
    "many-programs",
    "ten-thousand-pins",
    "memlock-limit",
    "capability",
    "compat",
    "killed-owner",
    "racing-threads",
    "passed-descriptor",
    "unresolved-fault",
    "unbind",
    "racing-unbind",
];

/// Tests of memory that the device uses without a pin.
pub const MIRROR_TESTS: [&str; 8] = [
    "mirror",
    "mirror-read",
    "mirror-changes",
    "mirror-file",
    "mirror-madv-free",
    "mirror-killed",
    "mirror-unbind",
    "mirror-cost",
];

/// Tests in which something goes away over and over while the device writes.
pub const STORMS: [&str; 5] = ["kill-storm", "unbind-storm", "module-storm", "plug-storm", "mirror-storm"];

/// Each of these must have been run, and be right; the driver's module must have gone afterwards, and the kernel must have
/// nothing to complain of.
///
/// # Panics
///
/// If it is not so.
pub fn all_are_ok(told: &Told, tests: &[&str]) {
    let names: Vec<_> = told.results.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, tests);
    let wrong: Vec<_> = told.results.iter().filter(|(_, result)| *result != TestResult::Ok).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{}", told.console);
    assert_eq!(complaints(&told.console), Vec::<&str>::new(), "{}", told.console);
    assert!(told.console.contains("driver-test: over"), "{}", told.console);
    assert!(!told.console.contains("rmmod failed"), "{}", told.console);
    let events = events(&told.ledger);
    if let Some(at) = first_out_of_place(&events) {
        panic!("out of place: {:?}, after {:#?}", events[at], &events[at.saturating_sub(12)..at]);
    }
    let writes = events.iter().filter(|event| event.kind == ledger::KIND_DMA_WRITE).count();
    assert!(writes > 0, "the device wrote nothing: {} events", events.len());
}

/// Lines by which the kernel says that it is broken.
pub fn complaints(console: &str) -> Vec<&str> {
    let broken = |line: &&str| {
        dmesg::classify(line).is_some_and(|pattern| matches!(pattern.class, Class::Splat | Class::Panic))
    };
    console.lines().filter(broken).collect()
}

/// One event of the ledger, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    time_ns: u64,
    kind: u32,
    region: u32,
    /// Bytes of the region, for what is about a part of it.
    first: u64,
    end: u64,
    detail: u32,
}

impl Event {
    fn of(entry: &Entry) -> Self {
        let Entry { time_ns, kind, region, file_offset, len, detail, .. } = *entry;
        Self { time_ns, kind, region, first: file_offset, end: file_offset + len, detail }
    }

    fn pages(&self) -> impl Iterator<Item = (u32, u64)> + use<> {
        let region = self.region;
        (self.first / PAGE_BYTES..self.end.div_ceil(PAGE_BYTES)).map(move |page| (region, page))
    }
}

/// The device's writes and what happened to regions, in the order of their times.
fn events(ledger: &Path) -> Vec<Event> {
    let file = std::fs::File::open(ledger).expect("the device wrote a ledger");
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; size_of::<Header>()];
    file.read_exact(&mut header).expect("a ledger has a header");
    assert_eq!(Header::read_from_bytes(&header).map(|header| header.magic), Ok(ledger::MAGIC));
    let mut events = Vec::new();
    let mut bytes = [0; size_of::<Entry>()];
    while file.read_exact(&mut bytes).is_ok() {
        let entry = Entry::read_from_bytes(&bytes).expect("any bytes are an entry");
        events.push(Event::of(&entry));
    }
    // Each producer's own are in order.
    events.sort_by_key(|event| event.time_ns);
    events
}

/// A region is written to only between its map and its unmap, or the device's reset; and a page of one that nobody has
/// pinned between its populate and its invalidation. Index of the first event that is not so.
fn first_out_of_place(events: &[Event]) -> Option<usize> {
    let (mut mapped, mut revocable, mut known) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let is_out_of_place = |event: &Event| match event.kind {
        ledger::KIND_MAP => {
            if event.detail == MODE_NOTIFIER {
                revocable.insert(event.region);
            }
            !mapped.insert(event.region)
        }
        ledger::KIND_UNMAP => {
            known.retain(|(region, _)| *region != event.region);
            revocable.remove(&event.region);
            !mapped.remove(&event.region)
        }
        ledger::KIND_RESET => {
            mapped.clear();
            revocable.clear();
            known.clear();
            false
        }
        ledger::KIND_POPULATE => {
            known.extend(event.pages());
            !revocable.contains(&event.region)
        }
        ledger::KIND_INVALIDATE => {
            event.pages().for_each(|page| {
                known.remove(&page);
            });
            false
        }
        ledger::KIND_DMA_WRITE => {
            let page_is_missing = || event.pages().any(|page| !known.contains(&page));
            !mapped.contains(&event.region) || revocable.contains(&event.region) && page_is_missing()
        }
        _ => false,
    };
    events.iter().position(is_out_of_place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_to_a_region_that_was_given_back_is_found() {
        let event = |time_ns, kind, region| Event { time_ns, kind, region, first: 0, end: 512, detail: 1 };
        let good = [
            event(1, ledger::KIND_MAP, 7),
            event(2, ledger::KIND_DMA_WRITE, 7),
            event(3, ledger::KIND_UNMAP, 7),
            event(4, ledger::KIND_MAP, 7),
            event(5, ledger::KIND_RESET, 0),
            event(6, ledger::KIND_MAP, 7),
            event(7, ledger::KIND_DMA_WRITE, 7),
        ];
        assert_eq!(first_out_of_place(&good), None);
        for late in [
            event(8, ledger::KIND_DMA_WRITE, 8),
            event(8, ledger::KIND_MAP, 7),
            event(8, ledger::KIND_UNMAP, 8),
        ] {
            assert_eq!(first_out_of_place(&[&good[..], &[late]].concat()), Some(good.len()));
        }
    }

    #[test]
    fn a_write_to_a_page_that_was_given_back_is_found() {
        let event = |kind, page: u64| {
            let first = page * PAGE_BYTES;
            Event { time_ns: 1, kind, region: 7, first, end: first + PAGE_BYTES, detail: MODE_NOTIFIER }
        };
        let write = ledger::KIND_DMA_WRITE;
        let good = [
            event(ledger::KIND_MAP, 0),
            event(ledger::KIND_POPULATE, 3),
            event(write, 3),
            event(ledger::KIND_INVALIDATE, 3),
            event(ledger::KIND_POPULATE, 4),
            event(write, 4),
        ];
        assert_eq!(first_out_of_place(&good), None);
        for late in [event(write, 3), event(write, 5)] {
            assert_eq!(first_out_of_place(&[&good[..], &[late]].concat()), Some(good.len()));
        }
    }

    #[test]
    fn a_complaint_of_the_kernel_is_found_among_other_lines() {
        let warning = "[    1.5] WARNING: CPU: 0 PID: 1 at mm/gup.c:148 try_grab_folio+0x1/0x2";
        assert_eq!(complaints(&format!("[    1.0] longpin: hello\n{warning}\n[    1.6] more")), [warning]);
    }
}
