// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a device had of a region that nobody pins, page by page, by its ledger: which pages it knew and when, and which
//! it waited for.

use super::{Pin, Replay, pages_of};
use longpin_wire::{ledger, uapi};

/// A stretch of time in which the device could use a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// It was told.
    pub from: u64,
    /// It was taken back, or told anew.
    pub to: u64,
    /// It could write there.
    pub writable: bool,
}

/// A page fault of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFault {
    /// It came to the page.
    pub from: u64,
    /// The driver answered; the end of the record if it did not.
    pub to: u64,
    /// It wanted to write.
    pub write: bool,
    /// How it was answered; none: not at all.
    pub answer: Option<Answered>,
}

/// How a fault was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// By the page.
    Page,
    /// By an errno.
    Refused(u32),
}

impl Replay<'_> {
    /// What the device had of a page of a file, and what it waited for, by a pin that holds nothing. Both in the order of
    /// time.
    pub fn device_had(&self, pin: &Pin<'_>, page: u64) -> (Vec<Known>, Vec<DeviceFault>) {
        let (mut known, mut faults): (Vec<Known>, Vec<DeviceFault>) = (Vec::new(), Vec::new());
        let (mut knows, mut waits) = (false, false);
        for entry in self.ledger.entries.iter().filter(|entry| Some(entry.region) == pin.number) {
            let of_page = pages_of(pin.offset_of(entry.file_offset), entry.len).contains(&page);
            let at = self.clock.since(entry.time_ns);
            match entry.kind {
                ledger::KIND_POPULATE if of_page => {
                    if let Some(last) = known.last_mut().filter(|_| knows) {
                        last.to = at;
                    }
                    if let Some(last) = faults.last_mut().filter(|_| waits) {
                        (last.to, last.answer) = (at, Some(Answered::Page));
                    }
                    known.push(Known {
                        from: at,
                        to: self.end,
                        writable: entry.detail == uapi::ACCESS_WRITE,
                    });
                    (knows, waits) = (true, false);
                }
                ledger::KIND_FAULT if of_page && !waits => {
                    let write = entry.detail == uapi::ACCESS_WRITE;
                    faults.push(DeviceFault { from: at, to: self.end, write, answer: None });
                    waits = true;
                }
                ledger::KIND_FAULT_REFUSED if of_page => {
                    if let Some(last) = faults.last_mut().filter(|_| waits) {
                        (last.to, last.answer) = (at, Some(Answered::Refused(entry.detail)));
                    }
                    waits = false;
                }
                ledger::KIND_INVALIDATE if of_page => {
                    if let Some(last) = known.last_mut().filter(|_| knows) {
                        last.to = at;
                    }
                    knows = false;
                }
                // Of the whole region.
                ledger::KIND_UNMAP => {
                    if let Some(last) = known.last_mut().filter(|_| knows) {
                        last.to = at;
                    }
                    if let Some(last) = faults.last_mut().filter(|_| waits) {
                        last.to = at;
                    }
                    (knows, waits) = (false, false);
                }
                _ => {}
            }
        }
        (known, faults)
    }
}
