// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions that nobody pins: what the device asked for and gave back, and whether the kernel let it write where it did.

use crate::record::LedgerEntry;
use crate::replay::{Replay, pages_of};
use longpin_proto::disk::{Hit, PAGE_BYTES};
use longpin_wire::ledger;
use serde::{Deserialize, Serialize};

/// All such regions of a case together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorCounts {
    /// Invalidations that took a page from the device.
    pub invalidations: u64,
    /// The longest of them held its caller in the kernel for so many microseconds.
    pub longest_invalidation_us: u64,
    /// Faults of the device that were answered with a page.
    pub faults: u64,
    /// Faults that were refused.
    pub refused: u64,
    /// Times that a page was taken again on its way to the device.
    pub retries: u64,
}

/// None, if the case has no such region.
pub fn counts(replay: &Replay<'_>) -> Option<MirrorCounts> {
    let mut counts = None;
    for state in replay.mirrors.values() {
        let MirrorCounts { invalidations, longest_invalidation_us, faults, refused, retries } =
            counts.get_or_insert_default();
        *invalidations += state.invalidations;
        *longest_invalidation_us = (*longest_invalidation_us).max(state.longest_invalidation_ns / 1000);
        *faults += state.faults;
        *refused += state.refused;
        *retries += state.retries;
    }
    counts
}

/// `3 invalidations, the longest 0.4 ms; 16 faults of the device`.
pub fn sentence(counts: &MirrorCounts) -> String {
    let MirrorCounts { invalidations, longest_invalidation_us, faults, refused, retries } = *counts;
    let ms = longest_invalidation_us as f64 / 1000.0;
    let mut parts = vec![match invalidations {
        0 => "the kernel took no page from the device".to_owned(),
        1 => format!("the kernel took pages from the device once, in {ms} ms"),
        n => format!("the kernel took pages from the device {n} times, in at most {ms} ms"),
    }];
    parts.push(format!("the device faulted {} times", faults + refused));
    parts.extend((refused > 0).then(|| format!("{refused} of them in vain")));
    parts.extend((retries > 0).then(|| format!("{retries} pages were taken again on their way")));
    parts.join(", ")
}

/// The device had given the page back before it changed it in flight, or had never had it, and the kernel let it come, by
/// a fault: so the file system has let it write as it lets a CPU, and knows that the page is dirty. Where pages must be
/// stable, the fault would have waited.
pub fn let_in(replay: &Replay<'_>, hit: &Hit) -> bool {
    let pin = hit.region.and_then(|region| replay.pin_of(region));
    let Some(pin) = pin.filter(|pin| pin.mode().is_some_and(|mode| !mode.holds_pages())) else {
        return false;
    };
    let Some(offset) = hit.file_offset else { return false };
    // The ledger counts from the region's label, as the hit does.
    came_by_fault(&replay.ledger.entries, pin.number, offset, hit.submitted_ns, hit.completed_ns)
}

/// Between the last DMA before the submission and the first after it the page was taken back; or the device had no
/// translation when the request was submitted, and got one before it wrote.
fn came_by_fault(
    entries: &[LedgerEntry],
    region: Option<u32>,
    offset: u64,
    submitted: u64,
    completed: u64,
) -> bool {
    let page = offset / PAGE_BYTES;
    let of_page = || {
        entries.iter().filter(|entry| {
            Some(entry.region) == region && pages_of(entry.file_offset, entry.len).contains(&page)
        })
    };
    let writes = || of_page().filter(|entry| entry.kind == ledger::KIND_DMA_WRITE).map(|entry| entry.time_ns);
    let before = writes().filter(|at| *at < submitted).max().unwrap_or(0);
    let Some(first) = writes().find(|at| (submitted..=completed).contains(at)) else { return false };
    let times = |kind| of_page().filter(move |entry| entry.kind == kind).map(|entry| entry.time_ns);
    let (given, taken) = (|| times(ledger::KIND_POPULATE), || times(ledger::KIND_INVALIDATE));
    let last_given = given().filter(|at| *at <= submitted).max().unwrap_or(0);
    let last_taken = taken().filter(|at| *at <= submitted).max().unwrap_or(0);
    // A device that wrote after the page was taken has kept it.
    let had_none = last_given.max(before) <= last_taken;
    taken().any(|at| before < at && at < first) || had_none && given().any(|at| submitted < at && at < first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time_ns: u64, kind: u32, page: u64) -> LedgerEntry {
        LedgerEntry {
            time_ns,
            kind,
            region: 3,
            dma_addr: 0,
            len: PAGE_BYTES,
            generation: 1,
            file_offset: page * PAGE_BYTES,
            run: 1,
            program: 0,
            detail: 0,
        }
    }

    fn asked(entries: Vec<LedgerEntry>) -> bool {
        came_by_fault(&entries, Some(3), PAGE_BYTES, 100, 200)
    }

    #[test]
    fn a_page_that_was_taken_back_and_came_again_was_let_in() {
        use ledger::{KIND_DMA_WRITE, KIND_INVALIDATE, KIND_POPULATE};
        let told = vec![
            entry(10, KIND_POPULATE, 1),
            entry(20, KIND_DMA_WRITE, 1),
            entry(90, KIND_INVALIDATE, 1),
            entry(120, KIND_POPULATE, 1),
            entry(130, KIND_DMA_WRITE, 1),
        ];
        assert!(asked(told.clone()));
        // The same, taken back when the disk had the request already: the kernel was late, the device was not.
        let mut late = told.clone();
        late[2].time_ns = 110;
        assert!(asked(late));
        // Nobody took it back, or another page, or before the DMA that was submitted.
        assert!(!asked(told.iter().filter(|entry| entry.kind != KIND_INVALIDATE).copied().collect()));
        let mut other = told.clone();
        other[2].file_offset = 2 * PAGE_BYTES;
        assert!(!asked(other));
        let mut early = told.clone();
        early[2].time_ns = 15;
        assert!(!asked(early));
        // It had never been there before the disk had the request.
        assert!(asked(told[3..].to_vec()));
        // It was there already, and what it was given meanwhile it had forgotten by itself.
        assert!(!asked(vec![told[0], told[3], told[4]]));
        // It wrote without having been let in.
        assert!(!asked(told[4..].to_vec()));
        // No write of the ledger explains the change.
        assert!(!asked(told[..4].to_vec()));
    }

    #[test]
    fn counts_read_as_a_sentence() {
        let counts = MirrorCounts {
            invalidations: 2,
            longest_invalidation_us: 1500,
            faults: 16,
            ..Default::default()
        };
        let text =
            "the kernel took pages from the device 2 times, in at most 1.5 ms, the device faulted 16 times";
        assert_eq!(sentence(&counts), text);
        let counts = MirrorCounts { faults: 1, refused: 2, retries: 3, ..Default::default() };
        let text = "the kernel took no page from the device, the device faulted 3 times, 2 of them in vain, \
                    3 pages were taken again on their way";
        assert_eq!(sentence(&counts), text);
    }
}
