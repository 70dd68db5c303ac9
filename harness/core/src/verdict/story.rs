// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk through a record: what was open, mapped and pinned at each moment, what each file should hold, which
//! steps were refused, what was read at the end. It gathers; `observe` concludes.

use super::content::{Content, FileContent, content};
use super::dma::Ledger;
use super::pinned::Pinned;
use super::refusal::{Refusal, refusal};
use super::step_name::step_name;
use crate::record::{CaseRecord, Evidence, Role, Trouble};
use longpin_proto::agent::{Backing, Fact, Fallocate, Outcome, Program, Step};
use longpin_proto::facts::{Cells, DmaResult, Errno, Extent, KernelLine, PinCounters, RegionState};
use longpin_wire::dma;
use std::collections::{BTreeMap, BTreeSet};

/// A refusal, with the step's name.
pub struct Told {
    pub step: &'static str,
    pub errno: Errno,
    pub refusal: Refusal,
}

/// A file that was read, to be compared.
pub struct Reading<'r> {
    pub path: String,
    pub cells: &'r Cells,
    /// By the host, from the image.
    pub host: bool,
    /// Cells that this reader could not see as they are (inline, compressed, delayed extents).
    pub blind: Vec<(u64, u64)>,
    /// What the file should hold: by its writes, or by its snapshot.
    pub wanted: Wanted<'r>,
    /// The file system was unmounted between the last write and the reading.
    pub after_remount: bool,
}

/// What a reading is compared with.
pub enum Wanted<'r> {
    Writes(FileContent),
    Snapshot(&'r Cells),
}

struct Mapping {
    /// File behind a shared mapping.
    file: Option<String>,
    offset: u64,
}

/// Everything that was gathered.
#[derive(Default)]
pub struct Story<'r> {
    pub run: u64,
    cell_bytes: u32,
    pub files: BTreeMap<String, FileContent>,
    handles: BTreeMap<String, String>,
    maps: BTreeMap<String, Mapping>,
    regions: BTreeMap<String, Pinned>,
    programs: BTreeMap<String, (String, Program)>,
    last_program: Option<Program>,
    snapshots: BTreeMap<String, &'r Cells>,
    remounted: bool,
    pub ledger: Ledger<'r>,
    pub readings: Vec<Reading<'r>>,
    pub refusals: Vec<Told>,
    pub infra: Vec<String>,
    pub unproven: Vec<String>,
    pub trouble: Option<&'r Trouble>,
    pub log: Vec<&'r KernelLine>,
    /// Microseconds since boot of the last log line from before the case.
    pub log_starts_us: Option<u64>,
    pub pins_before: Option<PinCounters>,
    pub pins_after: Option<PinCounters>,
    /// Pages that the device wrote after they had left their file.
    pub orphans: BTreeSet<(String, u64)>,
    /// Extents of compared files, which the host must have read.
    host_wanted: BTreeSet<String>,
}

impl<'r> Story<'r> {
    pub fn of(record: &'r CaseRecord) -> Self {
        let entries = record.evidence.iter().rev().find_map(|evidence| match evidence {
            Evidence::Ledger { entries, .. } => Some(entries.as_slice()),
            _ => None,
        });
        let mut story = Self {
            run: record.run,
            cell_bytes: record.cell_bytes,
            ledger: Ledger::new(entries.unwrap_or_default()),
            ..Self::default()
        };
        for evidence in &record.evidence {
            story.take(evidence);
        }
        story
    }

    fn take(&mut self, evidence: &'r Evidence) {
        match evidence {
            Evidence::Step { role, step, outcome, .. } => match outcome {
                Outcome::Done { fact } => self.done(*role, step, fact),
                Outcome::Refused(errno) => self.refused(*role, step, errno),
                Outcome::Failed { message } => {
                    self.infra.push(format!("{} failed: {message}", step_name(step)))
                }
            },
            Evidence::Image { path, extents, result } => self.image(path, extents, result),
            Evidence::Ledger { .. } | Evidence::Disk { .. } | Evidence::Fsck(_) => {}
            Evidence::FsckFailed { .. } | Evidence::Skip { .. } => {}
            Evidence::Trouble(trouble) => self.trouble = Some(trouble),
            Evidence::Unproven { message, .. } => self.unproven.push(message.clone()),
        }
    }

    fn refused(&mut self, role: Role, step: &Step, errno: &Errno) {
        let refusal = match refusal(step, errno) {
            // The machine's own reading of counters and log must work.
            _ if matches!(role, Role::Before | Role::After | Role::Drain) => Refusal::Infra,
            refusal => refusal,
        };
        self.refusals.push(Told { step: step_name(step), errno: errno.clone(), refusal });
    }

    fn done(&mut self, role: Role, step: &Step, fact: &'r Fact) {
        match (step, fact) {
            (Step::Open { file, path, flags }, _) => {
                self.handles.insert(file.clone(), path.clone());
                let fresh = FileContent::new(self.cell_bytes);
                if flags.truncate {
                    self.files.insert(path.clone(), fresh);
                } else {
                    self.files.entry(path.clone()).or_insert(fresh);
                }
            }
            (Step::WriteCells { file, offset, len, fill }, _) => {
                let content = Content::Stamp { source: fill.source, generation: fill.generation };
                self.with_file(file, |content_of| content_of.append(*offset, *len, content));
                // Direct I/O drops the pages from the cache; ordinary writes go through them. Either way the driver
                // is asked, and a page that did not leave is not doubted for long.
                self.doubt(file, *offset, *len);
            }
            (Step::Truncate { file, len }, _) => {
                let old =
                    self.handles.get(file).and_then(|path| self.files.get(path)).map_or(0, FileContent::size);
                self.with_file(file, |content| content.resize(*len));
                if *len < old {
                    self.doubt(file, *len, old - *len);
                }
            }
            (Step::Fallocate { file, mode, offset, len }, _) => self.fallocate(file, *mode, *offset, *len),
            (Step::Reflink { from, to }, _) => self.reflink(from, to),
            (Step::Map { map, backing, shared, .. }, _) => self.map(map, backing, *shared),
            (Step::Store { map, offset, len, fill }, _) => {
                let content = Content::Stamp { source: fill.source, generation: fill.generation };
                if let Some((path, start)) = self.place(map) {
                    self.write(&path, start + offset, *len, content);
                }
            }
            (Step::Pin { region, map, len, offset, .. }, Fact::Region(state)) => {
                let (file, start) = self.place(map).map_or((None, 0), |(path, start)| (Some(path), start));
                self.regions.insert(region.clone(), Pinned::new(file, start + offset, *len, state.pages));
            }
            (Step::QueryRegion { region }, Fact::Region(state)) => self.resolve(region, state),
            (Step::Dma { program, region, dma, .. }, _) => {
                self.programs.insert(program.clone(), (region.clone(), *dma));
            }
            (Step::DmaWait { program, .. }, Fact::Dma(result)) => self.dma(program, result),
            (Step::Release { region, .. }, _) => {
                self.regions.remove(region);
            }
            (Step::Unmount { .. }, _) => self.remounted = true,
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::Before => self.pins_before = Some(*pins),
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::After => self.pins_after = Some(*pins),
            (Step::KernelLog, Fact::Log(lines)) if role == Role::Drain => {
                self.log_starts_us = lines.iter().map(|line| line.time_us).max();
            }
            (Step::KernelLog, Fact::Log(lines)) => self.log.extend(lines),
            (Step::ReadMapping { .. }, Fact::Cells(cells)) if role == Role::ProveDma => self.prove_dma(cells),
            (Step::ReadCells { path, .. }, Fact::Cells(cells)) => self.read(role, path, cells),
            (Step::Extents { path }, Fact::Extents(_))
                if matches!(role, Role::CompareWrites | Role::CompareSnapshot) =>
            {
                self.host_wanted.insert(path.clone());
            }
            (Step::Exec { argv, .. }, Fact::Exec { code, output }) if *code != 0 => {
                let last = output.lines().last().unwrap_or_default();
                self.infra.push(format!("`{}` ended with code {code}: {last}", argv.join(" ")));
            }
            _ => {}
        }
    }

    fn with_file(&mut self, handle: &str, change: impl FnOnce(&mut FileContent)) {
        let path = self.handles.get(handle).cloned().unwrap_or_default();
        if let Some(content) = self.files.get_mut(&path) {
            change(content);
            self.remounted = false;
        }
    }

    fn write(&mut self, path: &str, offset: u64, len: u64, content: Content) {
        if let Some(file) = self.files.get_mut(path) {
            file.write(offset, len, content);
            self.remounted = false;
        }
    }

    fn fallocate(&mut self, handle: &str, mode: Fallocate, offset: u64, len: u64) {
        if mode == Fallocate::Allocate {
            self.with_file(handle, |content| content.resize(content.size().max(offset + len)));
        } else {
            self.with_file(handle, |content| content.write(offset, len, Content::Zero));
            self.doubt(handle, offset, len);
        }
    }

    fn reflink(&mut self, from: &str, to: &str) {
        let (Some(from), Some(to)) = (self.handles.get(from), self.handles.get(to)) else { return };
        if let Some(content) = self.files.get(from).cloned() {
            self.files.insert(to.clone(), content);
        }
    }

    fn map(&mut self, map: &str, backing: &Backing, shared: bool) {
        let (file, offset) = match backing {
            Backing::File { file, offset } if shared => (self.handles.get(file).cloned(), *offset),
            _ => (None, 0),
        };
        self.maps.insert(map.to_owned(), Mapping { file, offset });
    }

    /// File and offset behind a shared mapping.
    fn place(&self, map: &str) -> Option<(String, u64)> {
        let mapping = self.maps.get(map)?;
        Some((mapping.file.clone()?, mapping.offset))
    }

    /// Pinned pages of this range may have left the file.
    fn doubt(&mut self, handle: &str, offset: u64, len: u64) {
        let Some(path) = self.handles.get(handle) else { return };
        for region in self.regions.values_mut().filter(|region| region.file.as_ref() == Some(path)) {
            region.doubt(offset, len);
        }
    }

    fn resolve(&mut self, name: &str, state: &RegionState) {
        let Some(region) = self.regions.get_mut(name) else { return };
        self.unproven.extend(region.resolve(state).err());
    }

    fn dma(&mut self, name: &str, result: &DmaResult) {
        let Some((region, program)) = self.programs.remove(name) else { return };
        self.last_program = Some(program);
        if result.status != dma::STATUS_OK && result.status != dma::STATUS_STOPPED {
            self.infra.push(format!("DMA program `{name}` ended with device status {}", result.status));
            return;
        }
        let wrote = self.ledger.cells(&program, result.last_generation).len() as u64;
        let all = program.len / u64::from(program.cell_bytes.max(1));
        if result.last_generation < program.generation || wrote != all {
            self.unproven.push(format!(
                "DMA generation {} was not shown to land: the ledger has {wrote} of {all} cells",
                program.generation.max(result.last_generation)
            ));
        }
        self.land(&region, &program);
    }

    /// Let the program's writes change the file, or the orphaned pages.
    fn land(&mut self, region: &str, program: &Program) {
        let Some(region) = self.regions.get(region) else { return };
        let Some(path) = region.file.clone() else { return };
        self.unproven.extend(region.doubts());
        let (region, ledger) = (region.clone(), self.ledger);
        for entry in ledger.writes_of(program) {
            if let Some(page) = region.orphan(entry.file_offset) {
                self.orphans.insert((path.clone(), page));
                continue;
            }
            let content =
                Content::Stamp { source: longpin_proto::facts::Source::Dma, generation: entry.generation };
            self.write(&path, entry.file_offset, entry.len, content);
        }
    }

    fn prove_dma(&mut self, cells: &Cells) {
        let Some(program) = self.last_program else { return };
        let generations = program.generation..program.generation.saturating_add(program.passes.max(1));
        let strange = cells.iter().find(|(_, state)| {
            !content(state, self.run).and_then(Content::generation).is_some_and(|g| generations.contains(&g))
        });
        if let Some((offset, state)) = strange {
            self.unproven.push(format!(
                "DMA generation {} is not seen through the mapping: byte {offset} holds {}",
                program.generation,
                super::content::describe(state, self.run)
            ));
        }
    }

    fn read(&mut self, role: Role, path: &str, cells: &'r Cells) {
        if role == Role::Snapshot {
            self.snapshots.insert(path.to_owned(), cells);
            return;
        }
        self.reading(role == Role::CompareSnapshot, path, cells, false, Vec::new());
    }

    fn reading(&mut self, snapshot: bool, path: &str, cells: &'r Cells, host: bool, blind: Vec<(u64, u64)>) {
        let wanted = match (snapshot, self.snapshots.get(path), self.files.get(path)) {
            (true, Some(cells), _) => Wanted::Snapshot(cells),
            (true, None, _) => return self.infra.push(format!("{path} was compared and has no snapshot")),
            (false, _, Some(content)) => Wanted::Writes(content.clone()),
            (false, _, None) => return self.infra.push(format!("{path} was compared and never opened")),
        };
        let (path, after_remount) = (path.to_owned(), self.remounted);
        self.readings.push(Reading { path, cells, host, blind, wanted, after_remount });
    }

    fn image(&mut self, path: &str, extents: &[Extent], result: &'r Result<Cells, String>) {
        self.host_wanted.remove(path);
        let cells = match result {
            Ok(cells) => cells,
            Err(message) => return self.infra.push(format!("the host could not read {path}: {message}")),
        };
        let snapshot = self
            .readings
            .iter()
            .any(|reading| reading.path == path && matches!(reading.wanted, Wanted::Snapshot(_)));
        let blind = extents.iter().filter(|e| is_blind(e)).map(|e| (e.logical, e.logical + e.len)).collect();
        self.reading(snapshot, path, cells, true, blind);
    }

    /// A compared file on a device that the host did not read.
    pub fn host_missing(&self) -> Option<&String> {
        self.host_wanted.first()
    }
}

/// FIEMAP_EXTENT_UNWRITTEN: allocated and not written yet; it reads as zeros, for the host as well.
const EXTENT_UNWRITTEN: u32 = 0x800;

fn is_blind(extent: &Extent) -> bool {
    !extent.located && extent.flags & EXTENT_UNWRITTEN == 0
}
