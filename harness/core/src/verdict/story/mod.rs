// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk through a record: what was open, mapped, pinned and held at each moment, what each file should hold, which
//! steps were refused, what was read at the end. It gathers; `observe` concludes.

mod disk;
mod files;
mod jobs;
mod pins;
mod reads;

use super::content::Content;
use super::dma::Ledger;
use super::file::FileContent;
use super::observe::Blocked;
use super::pinned::Pinned;
use super::refusal::{Refusal, refusal};
use super::step_name::step_name;
use crate::record::{CaseRecord, Evidence, FsckReport, Role, Trouble};
use files::Moment;
use jobs::Begun;
use longpin_proto::agent::{Fact, Outcome, Program, Step};
use longpin_proto::disk::{AuditReport, HoldReport};
use longpin_proto::facts::{Cells, Errno, Extent, KERNEL_LOG_OVERRUN, KernelLine, PinCounters};
use pins::DioRead;
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
    /// Jobs that have begun, by name.
    jobs: BTreeMap<String, Begun<'r>>,
    /// Direct reads that are held as pins, by the name of their rule.
    dio: BTreeMap<String, DioRead<'r>>,
    /// Content of all files as the last loss of power left it.
    noted: Option<BTreeMap<String, FileContent>>,
    snapshots: BTreeMap<String, &'r Cells>,
    remounted: bool,
    pub ledger: Ledger<'r>,
    pub readings: Vec<Reading<'r>>,
    pub refusals: Vec<Told>,
    pub infra: Vec<String>,
    pub unproven: Vec<String>,
    pub trouble: Option<&'r Trouble>,
    pub log: Vec<&'r KernelLine>,
    /// Lines of the kernel log were lost before the agent could read them.
    pub log_overrun: bool,
    /// Microseconds since boot of the last log line from before the case.
    pub log_starts_us: Option<u64>,
    pub pins_before: Option<PinCounters>,
    pub pins_after: Option<PinCounters>,
    /// Pages that the device wrote after they had left their file.
    pub orphans: BTreeSet<(String, u64)>,
    /// Extents of compared files, which the host must have read.
    host_wanted: BTreeSet<String>,
    /// Where compared files lay on the disk whose image the host reads.
    pub host_extents: BTreeMap<String, &'r [Extent]>,
    /// Where files lay on their device, whichever it is.
    pub extents: BTreeMap<String, &'r [Extent]>,
    /// Files that had a page pinned.
    pub pinned_files: BTreeSet<String>,
    /// Jobs that were found asleep.
    pub blocked: Vec<Blocked>,
    /// Programs that checked their data themselves: command, exit code, last line.
    pub verified: Vec<(String, i32, String)>,
    pub fsck: Option<&'r FsckReport>,
    pub audit: Option<&'r AuditReport>,
    /// Holds that are over, by request.
    pub holds: BTreeMap<u64, &'r HoldReport>,
    /// What is missing to try the case at all.
    pub skip: Option<&'r String>,
    /// The console after the guest powered off; empty if another case followed.
    pub power_off: &'r [String],
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
            Evidence::Step { role, step, outcome, .. } => self.step(*role, step, outcome),
            Evidence::Disk { request, answer, .. } => self.disk(request, answer),
            Evidence::Image { path, extents, result } => self.image(path, extents, result),
            Evidence::Fsck(report) => self.fsck = Some(report),
            Evidence::FsckFailed { fs, message } => {
                self.infra.push(format!("the checker of {fs} could not be run: {message}"));
            }
            Evidence::Ledger { .. } => {}
            Evidence::Skip { message } => self.skip = Some(message),
            Evidence::PowerOff { console } => self.power_off = console,
            Evidence::Trouble(trouble) => self.trouble = Some(trouble),
            Evidence::Unproven { message, .. } => self.unproven.push(message.clone()),
        }
    }

    fn step(&mut self, role: Role, step: &'r Step, outcome: &'r Outcome) {
        // What came of a job is what came of its step; what it promises, it promises of the moment when it began.
        let (step, moment) = match step {
            Step::JobWait { job, .. } => match self.jobs.remove(job) {
                Some(Begun { step, moment }) => (step, moment),
                None => (step, self.moment()),
            },
            step => (step, self.moment()),
        };
        match outcome {
            Outcome::Done { fact } => self.done(role, step, fact, &moment),
            Outcome::Refused(errno) => self.refused(role, step, errno),
            Outcome::Failed { message } => self.infra.push(format!("{} failed: {message}", step_name(step))),
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

    fn done(&mut self, role: Role, step: &'r Step, fact: &'r Fact, moment: &Moment) {
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
                self.pin(region, map, *offset, *len, state.pages);
            }
            (Step::QueryRegion { region }, Fact::Region(state)) => self.resolve(region, state),
            (Step::Dma { program, region, dma, .. }, _) => {
                self.programs.insert(program.clone(), (region.clone(), *dma));
            }
            (Step::DmaWait { program, .. }, Fact::Dma(result)) => self.dma(program, result),
            (Step::Release { region, .. }, _) => {
                self.regions.remove(region);
            }
            (Step::Fsync { file, .. }, _) => self.promise(Some(file), moment),
            (Step::Sync | Step::Syncfs { .. }, _) => self.promise(None, moment),
            (Step::Unmount { .. }, _) => {
                self.promise(None, moment);
                self.remounted = true;
            }
            (Step::Spawn { job, step }, _) => self.begin(job, step),
            (Step::JobState { job }, Fact::Job(state)) if role == Role::Settle => self.settled(job, state),
            (Step::ReadDirect { .. }, _) => self.read_is_over(step),
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::Before => self.pins_before = Some(*pins),
            (Step::PinCounters, Fact::Pins(pins)) if role == Role::After => self.pins_after = Some(*pins),
            (Step::KernelLog, Fact::Log(lines)) => {
                if role == Role::Drain {
                    self.log_starts_us = lines.iter().map(|line| line.time_us).max();
                }
                self.log_overrun |= lines.iter().any(|line| line.text == KERNEL_LOG_OVERRUN);
                self.log.extend(lines);
            }
            (Step::ReadMapping { .. }, Fact::Cells(cells)) if role == Role::ProveDma => self.prove_dma(cells),
            (Step::ReadCells { path, .. }, Fact::Cells(cells)) => self.read(role, path, cells),
            (Step::Extents { path }, Fact::Extents(extents)) => {
                self.extents.insert(path.clone(), extents);
                if matches!(role, Role::CompareWrites | Role::CompareSnapshot) {
                    self.host_wanted.insert(path.clone());
                    self.host_extents.insert(path.clone(), extents);
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
            _ => self.infra.push(format!("`{command}` ended with code {code}: {last}")),
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
