// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device did, by its own ledger: which cells a program wrote, and whether it kept quiet after the release.

use crate::record::{CaseRecord, DiskLedgerEntry, Evidence, LedgerEntry};
use longpin_proto::agent::Program;
use longpin_proto::control::Request;
use longpin_wire::ledger;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// The device's record of a case.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ledger<'r> {
    /// Of the accelerator, in the order of their time.
    pub entries: &'r [LedgerEntry],
    /// Of the disks, likewise.
    pub disk: &'r [DiskLedgerEntry],
}

impl<'r> Ledger<'r> {
    /// The last ledger of a record.
    pub fn of(record: &'r CaseRecord) -> Self {
        let last = record.evidence.iter().rev().find_map(|evidence| match evidence {
            Evidence::Ledger { entries, disk } => Some(Self { entries, disk }),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// Regions that the driver announced. Those that the disk writes into on request have numbers that the harness chose.
    pub(super) fn driver_regions(
        self,
        record: &CaseRecord,
    ) -> impl Iterator<Item = &'r LedgerEntry> + use<'r> {
        let chosen: BTreeSet<u32> = record
            .evidence
            .iter()
            .filter_map(|evidence| match evidence {
                Evidence::Disk { request: Request::HeldDma { region, .. }, .. } => Some(*region),
                _ => None,
            })
            .collect();
        let maps = self.entries.iter().filter(|entry| entry.kind == ledger::KIND_MAP);
        maps.filter(move |entry| !chosen.contains(&entry.region))
    }

    fn writes(self) -> impl Iterator<Item = &'r LedgerEntry> {
        self.entries.iter().filter(|entry| entry.kind == ledger::KIND_DMA_WRITE)
    }

    /// Writes of a program, which owns its generations, up to the last whole pass.
    pub fn writes_of(self, program: &Program) -> impl Iterator<Item = &'r LedgerEntry> + use<'r> {
        let first = program.generation;
        let last = match program.passes {
            0 => u64::MAX,
            passes => first.saturating_add(passes - 1),
        };
        self.writes().filter(move |entry| (first..=last).contains(&entry.generation))
    }

    /// Cells of one generation that the device wrote, by file offset.
    pub fn cells(self, program: &Program, generation: u64) -> BTreeSet<u64> {
        let cell_bytes = u64::from(program.cell_bytes.max(1));
        self.writes_of(program)
            .filter(|entry| entry.generation == generation)
            .flat_map(|entry| (entry.file_offset..entry.file_offset + entry.len).step_by(cell_bytes as usize))
            .collect()
    }

    /// Last generation that the device wrote over a file offset.
    pub fn last_at(self, offset: u64) -> Option<u64> {
        self.writes()
            .filter(|entry| (entry.file_offset..entry.file_offset + entry.len).contains(&offset))
            .map(|entry| entry.generation)
            .last()
    }

    /// When the device first wrote into a range of the file within a time.
    pub fn first_into(self, offsets: Range<u64>, times: RangeInclusive<u64>) -> Option<u64> {
        self.writes()
            .filter(|entry| times.contains(&entry.time_ns))
            .find(|entry| entry.file_offset < offsets.end && offsets.start < entry.file_offset + entry.len)
            .map(|entry| entry.time_ns)
    }

    /// Last generation that the device wrote at all, and where.
    pub fn last(self) -> Option<(u64, u64)> {
        self.writes().last().map(|entry| (entry.file_offset, entry.generation))
    }

    /// A write into a region after the device acknowledged that the region is quiet.
    pub fn write_after_release(self) -> Option<&'r LedgerEntry> {
        let mut quiet_since = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.kind == ledger::KIND_UNMAP) {
            quiet_since.entry(entry.region).or_insert(entry.time_ns);
        }
        self.writes().find(|entry| quiet_since.get(&entry.region).is_some_and(|since| entry.time_ns > *since))
    }
}
