// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk through a record: what each step did to which pages, what was pinned, written, requested and read, all on
//! one clock that starts at the first event. It gathers; the other modules choose and draw.

use super::Fsck;
use super::facts::{Act, Did, Job, PageKey, PageWrite, Pin, Reader, Reading};
use super::requests::{self, DiskRequest};
use super::words::pages_of;
use crate::record::{CaseRecord, DiskLedgerEntry, Evidence, FsckReport, LedgerEntry, Role, Trouble};
use longpin_proto::agent::{Backing, Fact, Fallocate, Fill, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Held, Hit};
use longpin_proto::facts::{Extent, JobState, Source};
use longpin_wire::ledger;
use std::collections::BTreeMap;

/// Lines of a checker's output that are kept, from its end.
const FSCK_LINES: usize = 40;

/// Everything that was gathered. Times are nanoseconds since `origin_ns`.
pub struct Walk<'r> {
    pub record: &'r CaseRecord,
    pub origin_ns: u64,
    pub end: u64,
    /// Steps have host times.
    pub timed: bool,
    pub steps: Vec<Did<'r>>,
    pub jobs: Vec<Job<'r>>,
    pub pins: Vec<Pin>,
    /// In the order of time.
    pub writes: BTreeMap<PageKey, Vec<PageWrite>>,
    /// Pages that left their file, and when.
    pub left: BTreeMap<PageKey, u64>,
    pub requests: Vec<DiskRequest>,
    pub hits: Vec<&'r Hit>,
    pub extents: BTreeMap<String, Vec<Extent>>,
    /// When each file was opened first.
    pub opened: BTreeMap<String, u64>,
    pub readings: Vec<Reading<'r>>,
    pub trouble: Option<&'r Trouble>,
    pub fsck: Option<Fsck>,
    /// Path of each handle, and whether it has O_DIRECT.
    handles: BTreeMap<String, (String, bool)>,
    maps: BTreeMap<String, (String, u64)>,
    held: Vec<&'r Held>,
    /// Regions in the order in which the ledger has them.
    numbers: std::vec::IntoIter<(u32, u64)>,
}

impl<'r> Walk<'r> {
    pub fn of(record: &'r CaseRecord) -> Self {
        let (entries, disk) = ledgers(record);
        let timed = record.evidence.iter().any(|evidence| host_times(evidence).is_some());
        let origin_ns = origin(record, entries);
        let since = |ns: u64| ns.saturating_sub(origin_ns);
        let maps = entries.iter().filter(|entry| entry.kind == ledger::KIND_MAP);
        let numbers: Vec<_> = maps.map(|entry| (entry.region, since(entry.time_ns))).collect();
        let mut walk = Self {
            record,
            origin_ns,
            end: 0,
            timed,
            steps: Vec::new(),
            jobs: Vec::new(),
            pins: Vec::new(),
            writes: BTreeMap::new(),
            left: BTreeMap::new(),
            requests: Vec::new(),
            hits: Vec::new(),
            extents: BTreeMap::new(),
            opened: BTreeMap::new(),
            readings: Vec::new(),
            trouble: None,
            fsck: None,
            handles: BTreeMap::new(),
            maps: BTreeMap::new(),
            held: Vec::new(),
            numbers: numbers.into_iter(),
        };
        for evidence in &record.evidence {
            walk.take(evidence);
        }
        walk.device(entries);
        walk.end = walk
            .steps
            .iter()
            .map(|did| did.to)
            .chain(entries.iter().map(|e| since(e.time_ns)))
            .max()
            .unwrap_or(0);
        walk.writes.values_mut().for_each(|writes| writes.sort_by_key(|write| write.at));
        walk.requests = requests::requests(&walk, disk, &walk.held);
        walk
    }

    /// An instant of the host's clock on the story's.
    pub fn since(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.origin_ns)
    }

    /// What the page held in memory at an instant: contents of which it has parts, the last whole one first.
    pub fn memory_at(&self, key: &PageKey, at: u64) -> &[PageWrite] {
        let writes = self.writes.get(key).map_or(&[][..], Vec::as_slice);
        let until = writes.partition_point(|write| write.at <= at);
        let from = writes[..until].iter().rposition(|write| write.whole).unwrap_or(0);
        &writes[from..until]
    }

    /// The file that a page belongs to, by its region if it is pinned; else the one that the case is about.
    pub fn path_of(&self, region: Option<u32>) -> Option<&String> {
        let by_region = region.and_then(|number| self.pin_of(number));
        let pinned = by_region.or(self.pins.first()).map(|pin| &pin.path);
        pinned.or_else(|| self.writes.keys().next().map(|(path, _)| path))
    }

    /// Files that the case is about: pinned ones first, then those that it compares with what they were.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        let compared = self
            .readings
            .iter()
            .filter(|reading| matches!(reading.role, Role::CompareSnapshot | Role::CompareWrites));
        let hit = self.hits.iter().filter_map(|hit| self.path_of(hit.region));
        let written = self.writes.keys().map(|(path, _)| path).filter(|_| self.pins.is_empty());
        let pinned = self.pins.iter().map(|pin| &pin.path);
        for path in pinned.chain(hit).chain(written).chain(compared.map(|reading| &reading.path)) {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        paths
    }

    /// The pin whose pages an entry of the ledger speaks of.
    pub fn pin_of(&self, number: u32) -> Option<&Pin> {
        self.pins.iter().find(|pin| pin.number == Some(number))
    }

    fn take(&mut self, evidence: &'r Evidence) {
        match evidence {
            Evidence::Step { line, role, step, outcome, began_ns, ended_ns, .. } => {
                let (from, to) = (self.since(*began_ns), self.since(*ended_ns));
                self.steps.push(Did {
                    line: *line,
                    role: *role,
                    act: Act::Agent { step, outcome },
                    from,
                    to,
                });
                self.step(*role, step, outcome, from, to);
            }
            Evidence::Disk { line, request, answer, began_ns, ended_ns } => {
                let (from, to) = (self.since(*began_ns), self.since(*ended_ns));
                let act = Act::Disk { request, answer };
                self.steps.push(Did { line: *line, role: Role::Act, act, from, to });
                self.disk(request, answer, to);
            }
            Evidence::Image { path, extents, result } => {
                self.extents.entry(path.clone()).or_default().extend(extents);
                if let Ok(cells) = result {
                    let (reader, role) = (Reader::Host, Role::CompareWrites);
                    self.readings.push(Reading {
                        reader,
                        role,
                        path: path.clone(),
                        at: None,
                        cells: Ok(cells),
                    });
                }
            }
            Evidence::Fsck(report) => self.fsck = Some(fsck(report)),
            Evidence::Trouble(trouble) => self.trouble = Some(trouble),
            Evidence::FsckFailed { .. }
            | Evidence::Skip { .. }
            | Evidence::Ledger { .. }
            | Evidence::PowerOff { .. }
            | Evidence::Unproven { .. } => {}
        }
    }

    fn step(&mut self, role: Role, step: &'r Step, outcome: &'r Outcome, from: u64, to: u64) {
        if let Some((path, refused)) = match (step, outcome) {
            (Step::ReadCells { path, .. }, Outcome::Refused(errno)) => Some((path, errno)),
            _ => None,
        } {
            let reader = Reader::Guest;
            self.readings.push(Reading {
                reader,
                role,
                path: path.clone(),
                at: self.timed.then_some(to),
                cells: Err(refused),
            });
        }
        if let Step::JobWait { job, .. } = step {
            return self.job_over(role, job, outcome, to);
        }
        let Outcome::Done { fact } = outcome else { return };
        match (step, fact) {
            (Step::Spawn { job, step }, _) => self.spawn(job, step, from, to),
            (Step::JobState { job }, Fact::Job(state)) => self.look(job, state, to),
            _ => self.done(role, step, fact, from, to),
        }
    }

    /// A step that was carried out, in a job or not.
    fn done(&mut self, role: Role, step: &'r Step, fact: &'r Fact, from: u64, to: u64) {
        match step {
            Step::Open { file, path, flags } => {
                self.handles.insert(file.clone(), (path.clone(), flags.direct));
                self.opened.entry(path.clone()).or_insert(from);
            }
            Step::Map { map, backing, shared, .. } => {
                let place = self.mapped(map, backing, *shared);
                self.maps.insert(map.clone(), place);
            }
            Step::WriteCells { file, offset, len, fill } => {
                // A direct write is on the disk before the call returns.
                let direct = self.handles.get(file).is_some_and(|(_, direct)| *direct);
                self.by_cpu(self.path(file), *offset, *len, fill, if direct { from } else { to });
            }
            Step::Store { map, offset, len, fill } => {
                let (path, base) = self.place(map);
                self.by_cpu(path, base + offset, *len, fill, to);
            }
            Step::Pin { region, map, offset, len, mode, file_offset, .. } => {
                let (path, base) = self.place(map);
                let (number, from) = match self.numbers.next() {
                    Some((number, at)) => (Some(number), at),
                    None => (None, from),
                };
                let offset = base + offset;
                let (name, label) = (region.clone(), *file_offset);
                let mode = Some(*mode);
                self.pins.push(Pin {
                    name,
                    number,
                    path,
                    offset,
                    len: *len,
                    label,
                    mode,
                    from,
                    to: None,
                    dirty: None,
                });
            }
            Step::Release { region, dirty } => {
                if let Some(pin) = self.pins.iter_mut().rev().find(|pin| pin.name == *region) {
                    (pin.to, pin.dirty) = (Some(to), Some(*dirty));
                }
            }
            Step::QueryRegion { region } => {
                if let Fact::Region(state) = fact {
                    self.queried(region, state.pages_with_mapping, from);
                }
            }
            Step::Truncate { file, len } => self.pages_leave(file, *len, u64::MAX - len, to),
            Step::Fallocate { file, mode: Fallocate::PunchHole, offset, len } => {
                self.pages_leave(file, *offset, *len, to);
            }
            Step::Extents { path } => {
                if let Fact::Extents(extents) = fact {
                    self.extents.entry(path.clone()).or_default().extend(extents);
                }
            }
            Step::ReadCells { path, .. } => self.read(Reader::Guest, role, path.clone(), to, fact),
            Step::ReadMapping { map, .. } => {
                let (path, _) = self.place(map);
                self.read(Reader::Mapping, role, path, to, fact);
            }
            _ => {}
        }
    }

    fn read(&mut self, reader: Reader, role: Role, path: String, at: u64, fact: &'r Fact) {
        if let Fact::Cells(cells) = fact {
            self.readings.push(Reading {
                reader,
                role,
                path,
                at: self.timed.then_some(at),
                cells: Ok(cells),
            });
        }
    }

    fn spawn(&mut self, job: &str, step: &'r Step, from: u64, to: u64) {
        let (name, outcome) = (job.to_owned(), None);
        self.jobs.push(Job {
            name: name.clone(),
            step,
            from,
            to: None,
            looks: Vec::new(),
            seen_over: false,
            outcome,
        });
        if let Step::ReadDirect { map, offset, len, .. } = step {
            let (path, base) = self.place(map);
            let offset = base + offset;
            let (number, label, mode) = (None, offset, None);
            self.pins.push(Pin {
                name,
                number,
                path,
                offset,
                len: *len,
                label,
                mode,
                from: to,
                to: None,
                dirty: None,
            });
        }
    }

    fn look(&mut self, job: &str, state: &'r JobState, at: u64) {
        if let Some(job) = self.jobs.iter_mut().rev().find(|known| known.name == job) {
            if state.finished {
                job.seen_over = true;
                job.to = Some(at.min(job.from + state.elapsed_us * 1_000).max(job.from));
            } else {
                job.looks.push((at, state));
            }
        }
    }

    fn job_over(&mut self, role: Role, name: &str, outcome: &'r Outcome, at: u64) {
        let Some(job) = self.jobs.iter_mut().rev().find(|known| known.name == name) else { return };
        job.outcome = Some(outcome);
        let (from, to) = (job.from, *job.to.get_or_insert(at));
        let step = job.step;
        if let Some(pin) = self.pins.iter_mut().rev().find(|pin| pin.name == name) {
            (pin.to, pin.dirty) = (pin.to.or(Some(at)), Some(true));
        } else if let Outcome::Done { fact } = outcome {
            self.done(role, step, fact, from, to);
        }
    }

    fn disk(&mut self, request: &'r Request, answer: &'r Result<Answer, String>, to: u64) {
        match (request, answer) {
            (_, Ok(Answer::Held { requests, .. })) => self.held.extend(requests),
            (_, Ok(Answer::Audit(report))) => self.hits.extend(&report.hits),
            (Request::HeldDma { rule, region, file_offset, .. }, Ok(_)) => {
                if let Some(pin) = self.pins.iter_mut().rev().find(|pin| pin.name == *rule) {
                    (pin.number, pin.label) = (Some(*region), *file_offset);
                }
            }
            (Request::ReleaseHeld { rule }, Ok(_)) => {
                if let Some(pin) = self.pins.iter_mut().rev().find(|pin| pin.name == *rule) {
                    pin.to = Some(to);
                }
            }
            _ => {}
        }
    }

    fn by_cpu(&mut self, path: String, offset: u64, len: u64, fill: &Fill, at: u64) {
        self.wrote(
            path,
            offset,
            len,
            PageWrite { at, source: fill.source, generation: fill.generation, whole: true },
        );
    }

    fn wrote(&mut self, path: String, offset: u64, len: u64, write: PageWrite) {
        for page in pages_of(offset, len) {
            let start = page * super::words::PAGE;
            let whole = offset <= start && start + super::words::PAGE <= offset + len;
            self.writes.entry((path.clone(), page)).or_default().push(PageWrite { whole, ..write });
        }
    }

    fn pages_leave(&mut self, file: &str, offset: u64, len: u64, at: u64) {
        let path = self.path(file);
        let gone =
            offset.div_ceil(super::words::PAGE)..offset.saturating_add(len).div_ceil(super::words::PAGE);
        let known = self.writes.keys().filter(|(p, page)| *p == path && gone.contains(page));
        let pages: Vec<PageKey> = known.cloned().collect();
        for key in pages {
            self.left.entry(key).or_insert(at);
        }
    }

    /// The driver says that no page of a region belongs to a file any more.
    fn queried(&mut self, region: &str, pages_with_mapping: u32, at: u64) {
        let Some(pin) = self.pins.iter().rev().find(|pin| pin.name == region) else { return };
        if pages_with_mapping == 0 {
            for page in pages_of(pin.offset, pin.len) {
                self.left.entry((pin.path.clone(), page)).or_insert(at);
            }
        }
    }

    /// What the device's ledger says: writes, and when a region became quiet.
    fn device(&mut self, entries: &[LedgerEntry]) {
        for entry in entries {
            let at = self.since(entry.time_ns);
            let Some(index) = self.pins.iter().position(|pin| pin.number == Some(entry.region)) else {
                continue;
            };
            match entry.kind {
                ledger::KIND_UNMAP => self.pins[index].to = Some(at),
                ledger::KIND_DMA_WRITE => {
                    let pin = &self.pins[index];
                    let offset = (entry.file_offset + pin.offset).saturating_sub(pin.label);
                    let path = pin.path.clone();
                    let (source, generation) = (Source::Dma, entry.generation);
                    self.wrote(path, offset, entry.len, PageWrite { at, source, generation, whole: true });
                }
                _ => {}
            }
        }
    }

    /// Path behind a handle.
    pub fn path(&self, file: &str) -> String {
        self.handles.get(file).map_or_else(|| file.to_owned(), |(path, _)| path.clone())
    }

    fn place(&self, map: &str) -> (String, u64) {
        self.maps.get(map).cloned().unwrap_or_else(|| (format!("mapping {map}"), 0))
    }

    fn mapped(&self, map: &str, backing: &Backing, shared: bool) -> (String, u64) {
        match backing {
            Backing::File { file, offset } if shared => (self.path(file), *offset),
            Backing::File { file, offset } => (format!("the private copy of {}", self.path(file)), *offset),
            Backing::Anonymous => (format!("anonymous memory {map}"), 0),
            Backing::Hugetlb => (format!("hugetlb memory {map}"), 0),
        }
    }
}

fn ledgers(record: &CaseRecord) -> (&[LedgerEntry], &[DiskLedgerEntry]) {
    let last = record.evidence.iter().rev().find_map(|evidence| match evidence {
        Evidence::Ledger { entries, disk } => Some((entries.as_slice(), disk.as_slice())),
        _ => None,
    });
    last.unwrap_or_default()
}

/// Begin and end of an exchange, if its record has them.
fn host_times(evidence: &Evidence) -> Option<(u64, u64)> {
    match evidence {
        Evidence::Step { began_ns, ended_ns, .. } | Evidence::Disk { began_ns, ended_ns, .. } => {
            (*ended_ns > 0).then_some((*began_ns, *ended_ns))
        }
        _ => None,
    }
}

/// The first thing that the scenario asked for; without host times the first entry of the ledger.
fn origin(record: &CaseRecord, entries: &[LedgerEntry]) -> u64 {
    let act = record.evidence.iter().find_map(|evidence| match evidence {
        Evidence::Step { role: Role::Act, .. } | Evidence::Disk { line: 1.., .. } => host_times(evidence),
        _ => None,
    });
    let any = || record.evidence.iter().find_map(host_times);
    act.or_else(any).map_or_else(|| entries.first().map_or(0, |entry| entry.time_ns), |(began, _)| began)
}

fn fsck(report: &FsckReport) -> Fsck {
    let lines: Vec<&str> = report.output.lines().collect();
    let kept = &lines[lines.len().saturating_sub(FSCK_LINES)..];
    Fsck { command: report.argv.join(" "), code: report.code, output: kept.join("\n") }
}
