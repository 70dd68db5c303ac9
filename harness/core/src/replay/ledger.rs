// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device did, by its own ledger: which cells a program wrote, and whether it kept quiet after the release.
//! Where the agent had the kernel write through a pin, the agent's word stands for the device's: such a program was over
//! with the step that began it, and each of its pages had arrived.

use crate::record::{CaseRecord, DiskLedgerEntry, Evidence, LedgerEntry};
use longpin_proto::agent::{Fact, Outcome, Program, Step};
use longpin_proto::control::Request;
use longpin_proto::facts::DmaResult;
use longpin_wire::ledger;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// The device's record of a case.
#[derive(Debug, Clone, Default)]
pub struct Ledger<'r> {
    /// Of the accelerator, and what the agent said of other pinners, in the order of their time.
    pub entries: Cow<'r, [LedgerEntry]>,
    /// Of the disks, likewise.
    pub disk: &'r [DiskLedgerEntry],
    /// Generations that another pinner than the driver wrote.
    stated: BTreeSet<u64>,
}

impl<'r> Ledger<'r> {
    /// The last ledger of a record.
    pub fn of(record: &'r CaseRecord) -> Self {
        let last = record.evidence.iter().rev().find_map(|evidence| match evidence {
            Evidence::Ledger { entries, disk } => {
                Some(Self { entries: Cow::Borrowed(entries), disk, stated: BTreeSet::new() })
            }
            _ => None,
        });
        let mut ledger = last.unwrap_or_default();
        let stated = stated(record);
        if !stated.is_empty() {
            ledger.stated = stated.iter().map(|entry| entry.generation).collect();
            let entries = ledger.entries.to_mut();
            entries.extend(stated);
            entries.sort_by_key(|entry| entry.time_ns);
        }
        ledger
    }

    /// Regions that the driver announced. Those that the disk writes into on request have numbers that the harness chose.
    pub(super) fn driver_regions(&self, record: &CaseRecord) -> impl Iterator<Item = &LedgerEntry> {
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

    fn writes(&self) -> impl Iterator<Item = &LedgerEntry> {
        self.entries.iter().filter(|entry| entry.kind == ledger::KIND_DMA_WRITE)
    }

    /// Writes of a program, which owns its generations, up to the last whole pass.
    pub fn writes_of(&self, program: &Program) -> impl Iterator<Item = &LedgerEntry> {
        let first = program.generation;
        let last = match program.passes {
            0 => u64::MAX,
            passes => first.saturating_add(passes - 1),
        };
        self.writes().filter(move |entry| (first..=last).contains(&entry.generation))
    }

    /// Cells of one generation that the device wrote, by file offset.
    pub fn cells(&self, program: &Program, generation: u64) -> BTreeSet<u64> {
        let cell_bytes = u64::from(program.cell_bytes.max(1));
        self.writes_of(program)
            .filter(|entry| entry.generation == generation)
            .flat_map(|entry| (entry.file_offset..entry.file_offset + entry.len).step_by(cell_bytes as usize))
            .collect()
    }

    /// Last generation that the device wrote over a file offset.
    pub fn last_at(&self, offset: u64) -> Option<u64> {
        self.writes()
            .filter(|entry| (entry.file_offset..entry.file_offset + entry.len).contains(&offset))
            .map(|entry| entry.generation)
            .last()
    }

    /// A pinner other than the driver wrote this generation: no device saw it.
    pub fn states(&self, generation: u64) -> bool {
        self.stated.contains(&generation)
    }

    /// When the device first wrote into a range of the file within a time.
    pub fn first_into(&self, offsets: Range<u64>, times: RangeInclusive<u64>) -> Option<u64> {
        self.writes()
            .filter(|entry| times.contains(&entry.time_ns))
            .find(|entry| entry.file_offset < offsets.end && offsets.start < entry.file_offset + entry.len)
            .map(|entry| entry.time_ns)
    }

    /// Last generation that the device wrote at all, and where.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.writes().last().map(|entry| (entry.file_offset, entry.generation))
    }

    /// A write into a region after the device acknowledged that the region is quiet.
    pub fn write_after_release(&self) -> Option<&LedgerEntry> {
        let mut quiet_since = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.kind == ledger::KIND_UNMAP) {
            quiet_since.entry(entry.region).or_insert(entry.time_ns);
        }
        self.writes().find(|entry| quiet_since.get(&entry.region).is_some_and(|since| entry.time_ns > *since))
    }
}

/// What the agent said of programs that it had the kernel carry out, as entries of a ledger. Their time is when the answer
/// came: everything was in memory then.
fn stated(record: &CaseRecord) -> Vec<LedgerEntry> {
    let mut jobs: BTreeMap<&str, &Step> = BTreeMap::new();
    let mut regions: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    let mut programs: BTreeMap<&str, (&str, &Program, u64)> = BTreeMap::new();
    let mut entries = Vec::new();
    for evidence in &record.evidence {
        let Evidence::Step { step, outcome, ended_ns, .. } = evidence else { continue };
        let Outcome::Done { fact } = outcome else { continue };
        if let Step::Spawn { job, step } = step {
            jobs.insert(job, step);
        }
        let step = match step {
            Step::Join { job, .. } => jobs.get(job.as_str()).copied().unwrap_or(step),
            step => step,
        };
        match (step, fact) {
            (Step::Pin { region, file_offset, .. }, Fact::Pinned(pinned)) => {
                regions.insert(region, (pinned.region, *file_offset));
            }
            (Step::Pin { region, .. }, _) => drop(regions.remove(region.as_str())),
            (Step::Dma { program, region, dma, .. }, _) => {
                programs.insert(program, (region, dma, *ended_ns));
            }
            (Step::DmaWait { program, .. }, Fact::Dma(result)) => {
                let Some((region, dma, at)) = programs.remove(program.as_str()) else { continue };
                let Some(&(number, label)) = regions.get(region) else { continue };
                // None of it came to memory.
                if result.kept_off > 0 {
                    continue;
                }
                entries.extend(writes(record.run, number, label, dma, result, at));
            }
            _ => {}
        }
    }
    entries
}

fn writes(
    run: u64,
    region: u32,
    label: u64,
    dma: &Program,
    result: &DmaResult,
    time_ns: u64,
) -> impl Iterator<Item = LedgerEntry> {
    let entry = LedgerEntry {
        time_ns,
        kind: ledger::KIND_DMA_WRITE,
        region,
        dma_addr: 0,
        len: dma.len,
        generation: 0,
        file_offset: label + dma.offset,
        run,
        program: 0,
        detail: 0,
    };
    (dma.generation..=result.last_generation).map(move |generation| LedgerEntry { generation, ..entry })
}
