// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One pass over a record: what was open, mapped, pinned and held at each moment, what memory and disk were given, what
//! each file should hold, which steps were refused, what was read. `verdict` concludes from it and `report` draws it;
//! neither goes through the record again. Times are nanoseconds since the case's first event.

mod clock;
mod content;
mod disk;
mod exchange;
mod file;
mod files;
mod jobs;
mod ledger;
mod memory;
mod mirrors;
mod pin;
mod pins;
mod places;
mod reads;
mod requests;

pub use clock::Clock;
pub use content::{Content, content, describe, errno_name};
pub use exchange::{Asked, Exchange};
pub use file::FileContent;
pub use jobs::Job;
pub use ledger::Ledger;
pub use memory::{Memory, PageKey, PageWrite, pages_of};
pub use mirrors::{Answered, DeviceFault, Known};
pub use pin::{DirectRead, Pin, PinnedBy};
pub use reads::{Compared, Reader, Reading, Wanted};
pub use requests::{DiskRequest, FLUSH, IN, OUT};

use crate::operations::{Durable, makes_durable};
use crate::record::{CaseRecord, Evidence, FsckReport, Role, Trouble};
use files::{Moment, Place};
use longpin_proto::agent::{Fact, Outcome, Program, Step};
use longpin_proto::disk::{AuditReport, Held, Hit, HoldReport};
use longpin_proto::facts::{Cells, Errno, Extent, KERNEL_LOG_OVERRUN, KernelLine, MirrorState, PinCounters};
use std::collections::{BTreeMap, BTreeSet};

/// A step that the kernel or the driver refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'r> {
    /// What it was for.
    pub role: Role,
    /// The step, of a job the job's.
    pub step: &'r Step,
    /// Why.
    pub errno: &'r Errno,
}

/// Everything that the record shows.
#[derive(Debug)]
pub struct Replay<'r> {
    /// The record.
    pub record: &'r CaseRecord,
    /// From when times count.
    pub clock: Clock,
    /// The last instant.
    pub end: u64,
    /// Questions and answers, in order.
    pub exchanges: Vec<Exchange<'r>>,
    /// Steps that ran concurrently, in the order in which they began.
    pub jobs: Vec<Job<'r>>,
    /// Pins, in the order in which they were taken.
    pub pins: Vec<Pin<'r>>,
    /// What each file should hold.
    pub files: BTreeMap<String, FileContent>,
    /// What memory that is no file's should hold, by its name.
    pub own: BTreeMap<String, FileContent>,
    /// What pages held in memory.
    pub memory: Memory,
    /// Requests to the disks, in the order of submission.
    pub requests: Vec<DiskRequest>,
    /// Where files lay on their device, answer after answer.
    pub extents: BTreeMap<String, Vec<&'r Extent>>,
    /// Where compared files lay on the disk whose image the host reads.
    pub compared_extents: BTreeMap<String, &'r [Extent]>,
    /// When each file was opened first.
    pub opened: BTreeMap<String, u64>,
    /// Everything that was read.
    pub readings: Vec<Reading<'r>>,
    /// Readings that are to be compared, and with what.
    pub compared: Vec<Compared<'r>>,
    /// Steps that were refused.
    pub refused: Vec<Refused<'r>>,
    /// The device's ledger.
    pub ledger: Ledger<'r>,
    /// The last word of the audit.
    pub audit: Option<&'r AuditReport>,
    /// Holds that are over, by request.
    pub holds: BTreeMap<u64, &'r HoldReport>,
    /// Pages that the device wrote after they had left their file: its path, first byte.
    pub orphans: BTreeSet<(String, u64)>,
    /// What regions that nobody pins have counted, by name.
    pub mirrors: BTreeMap<String, MirrorState>,
    /// Programs that ended since the driver gave their device no page: name and errno.
    pub page_faults: Vec<(String, u32)>,
    /// Programs whose writes were kept off, though their device knows of nothing.
    pub kept_off: Vec<KeptOff>,
    /// Programs that checked their data themselves: command, exit code, last line.
    pub verified: Vec<(String, i32, String)>,
    /// Lines of the kernel log.
    pub log: Vec<&'r KernelLine>,
    /// Lines of the kernel log were lost before the agent could read them.
    pub log_overrun: bool,
    /// Microseconds since boot of the last log line from before the case.
    pub log_starts_us: Option<u64>,
    /// Pin counters before the first step.
    pub pins_before: Option<PinCounters>,
    /// Pin counters after clean-up.
    pub pins_after: Option<PinCounters>,
    /// Word of the file system's own checker.
    pub fsck: Option<&'r FsckReport>,
    /// What cut the case short.
    pub trouble: Option<&'r Trouble>,
    /// What is missing to try the case at all.
    pub skip: Option<&'r String>,
    /// The console after the guest powered off; empty if another case followed.
    pub power_off: &'r [String],
    /// What harness, device or tools did wrong.
    pub faults: Vec<String>,
    /// What was to be shown and was not.
    pub gaps: Vec<String>,
    handles: BTreeMap<String, Handle>,
    maps: BTreeMap<String, Place>,
    /// Programs that were not waited for, with their region.
    programs: BTreeMap<String, (String, Program)>,
    last_program: Option<Program>,
    /// Content of all files as the last loss of power left it.
    noted: Option<BTreeMap<String, FileContent>>,
    snapshots: BTreeMap<String, &'r Cells>,
    /// The file system was unmounted, and nothing was written since.
    remounted: bool,
    /// Files that the host read, or tried to.
    imaged: BTreeSet<&'r str>,
    /// Requests that a rule held, as the disk named them.
    held: Vec<&'r Held>,
    /// Regions of the driver in the order in which the ledger has them, and when each was announced.
    regions: std::vec::IntoIter<(u32, u64)>,
}

/// A program of which nothing came to memory.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptOff {
    /// Region that it was to write.
    pub region: String,
    /// What it was to write.
    pub program: Program,
    /// When the device had done it.
    pub at: u64,
}

#[derive(Debug)]
struct Handle {
    path: String,
    direct: bool,
}

impl<'r> Replay<'r> {
    /// Go through a record, once.
    pub fn of(record: &'r CaseRecord) -> Self {
        let ledger = Ledger::of(record);
        let clock = Clock::of(record, &ledger.entries);
        let regions: Vec<_> =
            ledger.driver_regions(record).map(|entry| (entry.region, clock.since(entry.time_ns))).collect();
        let last_entry = ledger.entries.iter().map(|entry| clock.since(entry.time_ns)).max();
        let mut replay = Self {
            record,
            clock,
            end: 0,
            exchanges: Vec::new(),
            jobs: Vec::new(),
            pins: Vec::new(),
            files: BTreeMap::new(),
            own: BTreeMap::new(),
            memory: Memory::default(),
            requests: Vec::new(),
            extents: BTreeMap::new(),
            compared_extents: BTreeMap::new(),
            opened: BTreeMap::new(),
            readings: Vec::new(),
            compared: Vec::new(),
            refused: Vec::new(),
            ledger,
            audit: None,
            holds: BTreeMap::new(),
            orphans: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            page_faults: Vec::new(),
            kept_off: Vec::new(),
            verified: Vec::new(),
            log: Vec::new(),
            log_overrun: false,
            log_starts_us: None,
            pins_before: None,
            pins_after: None,
            fsck: None,
            trouble: None,
            skip: None,
            power_off: &[],
            faults: Vec::new(),
            gaps: Vec::new(),
            handles: BTreeMap::new(),
            maps: BTreeMap::new(),
            programs: BTreeMap::new(),
            last_program: None,
            noted: None,
            snapshots: BTreeMap::new(),
            remounted: false,
            imaged: BTreeSet::new(),
            held: Vec::new(),
            regions: regions.into_iter(),
        };
        for evidence in &record.evidence {
            replay.take(evidence);
        }
        replay.device_wrote();
        replay.end = replay.exchanges.iter().map(|exchange| exchange.to).chain(last_entry).max().unwrap_or(0);
        replay.requests = requests::requests(&replay);
        replay
    }

    /// Label of the case in stamps and ledgers.
    pub fn run(&self) -> u64 {
        self.record.run
    }

    /// Pages that the audit saw change.
    pub fn hits(&self) -> &'r [Hit] {
        self.audit.map_or(&[], |report| &report.hits)
    }

    fn take(&mut self, evidence: &'r Evidence) {
        match evidence {
            Evidence::Step { line, label, role, step, outcome, began_ns, ended_ns, .. } => {
                let asked = Asked::Agent { step, outcome };
                let (from, to) = self.exchange((*line, label), *role, asked, *began_ns, *ended_ns);
                self.step(*role, step, outcome, from, to);
            }
            Evidence::Disk { line, label, request, answer, began_ns, ended_ns } => {
                let asked = Asked::Disk { request, answer };
                let (_, to) = self.exchange((*line, label), Role::Act, asked, *began_ns, *ended_ns);
                self.disk(request, answer, to);
            }
            Evidence::Image { path, extents, result } => self.image(path, extents, result),
            Evidence::Fsck(report) => self.fsck = Some(report),
            Evidence::FsckFailed { fs, message } => {
                self.faults.push(format!("the checker of {fs} could not be run: {message}"));
            }
            Evidence::Ledger { .. } => {}
            Evidence::Skip { message } => self.skip = Some(message),
            Evidence::PowerOff { console } => self.power_off = console,
            Evidence::Trouble(trouble) => self.trouble = Some(trouble),
            Evidence::Unproven { message, .. } => self.gaps.push(message.clone()),
        }
    }

    fn exchange(
        &mut self,
        (line, label): (usize, &'r str),
        role: Role,
        asked: Asked<'r>,
        began: u64,
        ended: u64,
    ) -> (u64, u64) {
        let (from, to) = (self.clock.since(began), self.clock.since(ended));
        self.exchanges.push(Exchange { line, label, role, asked, from, to });
        (from, to)
    }

    fn step(&mut self, role: Role, step: &'r Step, outcome: &'r Outcome, from: u64, to: u64) {
        if let Step::Join { job, .. } = step {
            return self.joined(role, step, job, outcome, to);
        }
        let moment = self.moment();
        self.came_of(role, step, outcome, &moment, (from, to));
    }

    /// What came of a step, in a job or not. What it promises, it promises of the moment when it began.
    fn came_of(
        &mut self,
        role: Role,
        step: &'r Step,
        outcome: &'r Outcome,
        moment: &Moment,
        times: (u64, u64),
    ) {
        match outcome {
            Outcome::Done { fact } => self.done(role, step, fact, moment, times),
            Outcome::Refused(errno) => {
                self.refused.push(Refused { role, step, errno });
                if let Step::Read { path, .. } = step {
                    self.read_from(Reader::Guest, role, path.clone(), times.1, Err(errno));
                }
            }
            Outcome::Failed { message } => self.faults.push(format!("{} failed: {message}", step.name())),
        }
    }

    fn done(&mut self, role: Role, step: &'r Step, fact: &'r Fact, moment: &Moment, (from, to): (u64, u64)) {
        if let Some(durable) = makes_durable(step) {
            self.promise(durable, moment);
        }
        match (step, fact) {
            (Step::Open { file, path, flags }, _) => self.open(file, path, *flags, from),
            (Step::Write { file, offset, len, fill }, _) => {
                self.write_cells(file, *offset, *len, fill, (from, to));
            }
            (Step::Truncate { file, len }, _) => self.truncate(file, *len, to),
            (Step::Fallocate { file, mode, offset, len }, _) => {
                self.fallocate(file, *mode, *offset, *len, to)
            }
            (Step::Reflink { from, to } | Step::CopyRange { from, to, .. }, _) => self.copied(from, to),
            // The pages of other blocks with the same content may leave the cache.
            (Step::Dedupe { to: file, len, .. }, _) => {
                let path = self.path(file);
                self.doubt(&path, 0, *len, to);
            }
            (Step::Map { map, backing, shared, .. }, _) => self.map(map, backing, *shared),
            (Step::Store { map, offset, len, fill }, _) => self.store(map, *offset, *len, fill, to),
            (Step::Pin { region, map, len, offset, mode, file_offset, .. }, Fact::Region(state)) => {
                self.pin(region, map, *offset, *len, PinnedBy::Driver(*mode), from);
                self.announced(*file_offset, state.pages);
            }
            (Step::Pin { region, map, len, offset, mode, file_offset, .. }, Fact::Pinned(pinned)) => {
                self.pin(region, map, *offset, *len, PinnedBy::Kernel(*mode), from);
                self.held_region(region, pinned.region, *file_offset);
                if mode.holds_pages() && pinned.references <= 0 {
                    self.gaps.push(format!(
                        "the guest's count of pins did not grow when `{region}` was pinned, so its pages were not shown \
                         to be pinned"
                    ));
                }
                if !mode.holds_pages() && pinned.references > 0 {
                    self.gaps.push(format!(
                        "the guest's count of pins grew by {} when `{region}` was registered on demand, so pages may be \
                         pinned",
                        pinned.references
                    ));
                }
            }
            (Step::Pin { region, map, len, offset, mode, file_offset, .. }, Fact::Mirror(state)) => {
                self.pin(region, map, *offset, *len, PinnedBy::Driver(*mode), from);
                self.announced(*file_offset, state.pages);
                self.mirrors.insert(region.clone(), *state);
            }
            (Step::QueryRegion { region }, Fact::Region(state)) => self.resolve(region, state, from),
            (Step::QueryRegion { region }, Fact::Mirror(state)) => {
                self.mirrors.insert(region.clone(), *state);
            }
            (Step::Dma { program, region, dma, .. }, _) => {
                self.programs.insert(program.clone(), (region.clone(), *dma));
            }
            (Step::DmaWait { program, .. }, Fact::Dma(result)) => self.dma(program, result, from),
            (Step::Release { region, dirty }, _) => self.released(region, *dirty, to),
            (Step::KillOwner, _) => self.owner_died(to),
            (Step::Umount { .. }, _) => {
                self.promise(Durable::All, moment);
                self.remounted = true;
            }
            (Step::Spawn { job, step }, _) => self.begin(job, step, from, to),
            (Step::Settle { job }, Fact::Job(state)) => self.look(role, job, state, to),
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::Before => self.pins_before = Some(*pins),
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::After => self.pins_after = Some(*pins),
            (Step::KernelLog, Fact::Log(lines)) => {
                if role == Role::Drain {
                    self.log_starts_us = lines.iter().map(|line| line.time_us).max();
                }
                self.log_overrun |= lines.iter().any(|line| line.text == KERNEL_LOG_OVERRUN);
                self.log.extend(lines);
            }
            (Step::ReadMapping { map, .. }, Fact::Cells(cells)) => {
                if role == Role::ProveDma {
                    self.prove_dma(cells);
                }
                let name = self.place(map).name;
                self.read_from(Reader::Mapping, role, name.clone(), to, Ok(cells));
                if role == Role::CompareWrites {
                    self.compare(false, &name, cells, false, Vec::new());
                }
            }
            (Step::Read { path, .. }, Fact::Cells(cells)) => self.read(role, path, cells, to),
            (Step::Extents { path }, Fact::Extents(extents)) => {
                self.extents.entry(path.clone()).or_default().extend(extents);
                if matches!(role, Role::CompareWrites | Role::CompareSnapshot) {
                    self.compared_extents.insert(path.clone(), extents);
                }
            }
            (Step::Exec { argv, .. }, Fact::Exec { code, output }) => self.exec(role, argv, *code, output),
            _ => {}
        }
    }

    fn exec(&mut self, role: Role, argv: &[String], code: i32, output: &str) {
        let (command, last) = (command(argv), output.lines().last().unwrap_or_default());
        match (role, code) {
            (Role::Verify, _) => self.verified.push((command, code, last.to_owned())),
            (_, 0) => {}
            _ => self.faults.push(format!("`{command}` ended with code {code}: {last}")),
        }
    }
}

/// Letters of a command in a sentence; the record has all of it.
const COMMAND_CHARS: usize = 80;

/// A command in a sentence: one line, and not the whole of a script.
fn command(argv: &[String]) -> String {
    let words: Vec<&str> = argv.iter().flat_map(|word| word.split_whitespace()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(COMMAND_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
