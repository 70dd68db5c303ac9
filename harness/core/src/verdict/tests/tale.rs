// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A made-up case: builds the record that a machine would have made, one call a step.

use crate::record::{CaseRecord, Evidence, FsckReport, LedgerEntry, Role, Trouble};
use longpin_proto::agent::{Backing, Fact, Fallocate, Fill, OpenFlags, Outcome, PinMode, Program, Step, Via};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{AuditReport, Author, Change, Hit};
use longpin_proto::facts::{
    CellState, Cells, DmaResult, Errno, Extent, JobState, KernelLine, PinCounters, RegionState, Source,
    Writer,
};
use longpin_wire::{dma, ledger};
use std::ops::Range;

pub const RUN: u64 = 7;
pub const CELL: u32 = 512;
pub const PAGES: u64 = 2;
pub const LEN: u64 = PAGES * 4096;
pub const REGION: u32 = 3;
/// Where file `a` lies on the disk.
pub const PHYSICAL: u64 = 1 << 20;

pub struct Tale {
    pub record: CaseRecord,
    pub ledger: Vec<LedgerEntry>,
    pub log: Vec<String>,
    pub pins_after: PinCounters,
    images: Vec<Evidence>,
    /// Of the audit, if the case ran on audited disks.
    pub audit: Option<AuditReport>,
    fsck: Option<Evidence>,
    time_ns: u64,
}

pub fn cpu(generation: u64) -> CellState {
    CellState::Whole(Writer { run: RUN, region: 0, generation, source: Source::Cpu })
}

pub fn by_dma(generation: u64) -> CellState {
    CellState::Whole(Writer { run: RUN, region: REGION, generation, source: Source::Dma })
}

pub fn errno(name: &str, call: &str) -> Errno {
    Errno { errno: 5, name: name.into(), call: call.into() }
}

/// Cells of a whole file, by offset.
pub fn cells(state: impl Fn(u64) -> CellState) -> Cells {
    let mut cells = Cells { cell_bytes: CELL, runs: Vec::new(), hash: String::new() };
    for offset in (0..LEN).step_by(CELL as usize) {
        cells.push(offset, 1, state(offset));
    }
    cells
}

fn done(status: u32, last_generation: u64) -> DmaResult {
    let (started_ns, finished_ns) = (1, 2);
    let cells_done = LEN / u64::from(CELL);
    DmaResult { status, fault_errno: None, cells_done, kept_off: 0, last_generation, started_ns, finished_ns }
}

pub fn path(file: &str) -> String {
    format!("/mnt/{file}")
}

impl Tale {
    /// The frame of every case, and a file `a` of generation 1.
    pub fn of_a_file() -> Self {
        let mut tale = Self {
            record: CaseRecord::new("tale/ext4/pin/clean", 1, RUN, CELL),
            ledger: Vec::new(),
            log: Vec::new(),
            pins_after: PinCounters { acquired: 12, released: 12 },
            images: Vec::new(),
            audit: None,
            fsck: None,
            time_ns: 0,
        };
        tale.seen(Role::Before, Step::PinCounters, Fact::Pins(PinCounters { acquired: 10, released: 10 }));
        tale.create("a", 1)
    }

    /// `of_a_file`, mapped and pinned.
    pub fn of_a_pin() -> Self {
        let mut tale = Self::of_a_file();
        tale.map(true);
        tale.pin();
        tale
    }

    /// `of_a_pin`, with DMA 100, an fsync and DMA 101 into the clean page, released.
    pub fn of_an_update() -> Self {
        let mut tale = Self::of_a_pin();
        tale.dma(100);
        tale.done(Step::Fsync { file: "a".into(), data_only: false });
        tale.dma(101);
        tale.release();
        tale.remount();
        tale
    }

    pub fn evidence(&mut self, role: Role, step: Step, outcome: Outcome) {
        self.record.evidence.push(Evidence::Step {
            line: 1,
            label: String::new(),
            role,
            step,
            outcome,
            elapsed_us: 10,
            began_ns: 0,
            ended_ns: 0,
        });
    }

    pub fn seen(&mut self, role: Role, step: Step, fact: Fact) {
        self.evidence(role, step, Outcome::Done { fact });
    }

    pub fn done(&mut self, step: Step) {
        self.seen(Role::Act, step, Fact::Nothing);
    }

    pub fn refused(&mut self, step: Step, name: &str) {
        self.evidence(Role::Act, step, Outcome::Refused(errno(name, "call(2)")));
    }

    pub fn create(mut self, file: &str, generation: u64) -> Self {
        let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
        self.done(Step::Open { file: file.into(), path: path(file), flags });
        self.write(file, generation);
        self
    }

    pub fn write(&mut self, file: &str, generation: u64) {
        let fill = Fill { run: RUN, generation, cell_bytes: CELL, source: Source::Cpu };
        self.done(Step::Write { file: file.into(), offset: 0, len: LEN, fill });
    }

    pub fn map(&mut self, shared: bool) {
        let backing = Backing::File { file: "a".into(), offset: 0 };
        self.done(Step::Map { map: "m".into(), backing, len: LEN, shared, write: true });
    }

    /// Memory that is no file's, stored into by a CPU.
    pub fn map_memory(&mut self, generation: u64) {
        self.done(Step::Map {
            map: "m".into(),
            backing: Backing::Anonymous,
            len: LEN,
            shared: false,
            write: true,
        });
        self.store(generation);
    }

    /// Through the mapping.
    pub fn store(&mut self, generation: u64) {
        let fill = Fill { run: RUN, generation, cell_bytes: CELL, source: Source::Cpu };
        self.done(Step::Store { map: "m".into(), offset: 0, len: LEN, fill });
    }

    pub fn pin_step() -> Step {
        Step::Pin {
            region: "r".into(),
            map: "m".into(),
            offset: 0,
            len: LEN,
            mode: PinMode::Pin,
            file_offset: 0,
            run: RUN,
        }
    }

    fn region(pages_with_mapping: u32) -> Fact {
        let pages = PAGES as u32;
        Fact::Region(RegionState {
            pages,
            segments: 1,
            running: 0,
            pages_with_mapping,
            zone: 2,
            folio_pages: 1,
        })
    }

    pub fn pin(&mut self) {
        self.seen(Role::Act, Self::pin_step(), Self::region(PAGES as u32));
    }

    /// The driver says how many of the pinned pages are still in the file.
    pub fn query(&mut self, pages_with_mapping: u32) {
        self.seen(Role::Act, Step::QueryRegion { region: "r".into() }, Self::region(pages_with_mapping));
    }

    fn entry(&mut self, kind: u32) -> LedgerEntry {
        self.time_ns += 1000;
        LedgerEntry {
            time_ns: self.time_ns,
            kind,
            region: REGION,
            dma_addr: 0x1000,
            len: 4096,
            generation: 0,
            file_offset: 0,
            run: RUN,
            program: 1,
            detail: 0,
        }
    }

    /// The device writes one page.
    pub fn device_writes(&mut self, generation: u64, file_offset: u64) {
        let entry = self.entry(ledger::KIND_DMA_WRITE);
        self.ledger.push(LedgerEntry { generation, file_offset, ..entry });
    }

    /// A program over the whole region, in the ledger and reported as done.
    pub fn dma(&mut self, generation: u64) {
        self.dma_unrecorded(generation);
        for page in 0..PAGES {
            self.device_writes(generation, page * 4096);
        }
    }

    /// A program that is reported as done and of which the ledger knows nothing.
    pub fn dma_unrecorded(&mut self, generation: u64) {
        self.dma_with_status(generation, dma::STATUS_OK);
    }

    /// One that the device did, and of which nothing came to memory.
    pub fn dma_kept_off(&mut self, generation: u64) {
        let cells = LEN / u64::from(CELL);
        let (cells_done, kept_off, last_generation) = (0, cells, 0);
        self.program(generation);
        let result = DmaResult { cells_done, kept_off, last_generation, ..done(dma::STATUS_OK, generation) };
        self.seen(Role::Act, Step::DmaWait { program: "p".into(), timeout_ms: 1000 }, Fact::Dma(result));
    }

    fn program(&mut self, generation: u64) {
        let program = Program { offset: 0, len: LEN, generation, passes: 1, cell_bytes: CELL };
        self.done(Step::Dma { program: "p".into(), region: "r".into(), dma: program, run: RUN });
    }

    pub fn dma_with_status(&mut self, generation: u64, status: u32) {
        self.program(generation);
        let result = done(status, generation);
        self.seen(Role::Act, Step::DmaWait { program: "p".into(), timeout_ms: 1000 }, Fact::Dma(result));
    }

    pub fn prove_dma(&mut self, state: impl Fn(u64) -> CellState) {
        let step =
            Step::ReadMapping { map: "m".into(), offset: 0, len: LEN, cell_bytes: CELL, file_offset: 0 };
        self.seen(Role::ProveDma, step, Fact::Cells(cells(state)));
    }

    /// What the process sees must be the last write.
    pub fn compare_mapping(&mut self, state: impl Fn(u64) -> CellState) {
        let step =
            Step::ReadMapping { map: "m".into(), offset: 0, len: LEN, cell_bytes: CELL, file_offset: 0 };
        self.seen(Role::CompareWrites, step, Fact::Cells(cells(state)));
    }

    /// A program without an end, of which the ledger has these whole passes when the owner of its region is killed.
    pub fn killed_in_flight(&mut self, generations: Range<u64>) {
        let dma = Program { offset: 0, len: LEN, generation: 100, passes: 0, cell_bytes: CELL };
        self.done(Step::Dma { program: "p".into(), region: "r".into(), dma, run: RUN });
        for generation in generations {
            (0..PAGES).for_each(|page| self.device_writes(generation, page * 4096));
        }
        self.done(Step::KillOwner);
        let entry = self.entry(ledger::KIND_UNMAP);
        self.ledger.push(entry);
    }

    /// A program without an end, `q`, which does these whole passes...
    pub fn endless(&mut self, generations: Range<u64>) {
        let generation = generations.start;
        let dma = Program { offset: 0, len: LEN, generation, passes: 0, cell_bytes: CELL };
        self.done(Step::Dma { program: "q".into(), region: "r".into(), dma, run: RUN });
        for generation in generations {
            (0..PAGES).for_each(|page| self.device_writes(generation, page * 4096));
        }
    }

    /// ... and is stopped after the last of them.
    pub fn stopped(&mut self, last: u64) {
        let result = done(dma::STATUS_STOPPED, last);
        self.seen(Role::Act, Step::DmaWait { program: "q".into(), timeout_ms: 1000 }, Fact::Dma(result));
    }

    pub fn release(&mut self) {
        self.done(Step::Release { region: "r".into(), dirty: false });
        let entry = self.entry(ledger::KIND_UNMAP);
        self.ledger.push(entry);
    }

    pub fn truncate(&mut self, len: u64) {
        self.done(Step::Truncate { file: "a".into(), len });
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        self.done(Step::Fallocate { file: "a".into(), mode: Fallocate::PunchHole, offset, len });
    }

    pub fn remount(&mut self) {
        self.done(Step::Umount { dir: "/mnt".into() });
        self.done(Step::Mount {
            fs: "ext4".into(),
            device: "/dev/vda".into(),
            dir: "/mnt".into(),
            options: String::new(),
        });
    }

    fn read_step(file: &str) -> Step {
        Step::Read { path: path(file), offset: 0, len: LEN, cell_bytes: CELL, via: Via::Buffered }
    }

    pub fn snapshot(&mut self, file: &str, state: impl Fn(u64) -> CellState) {
        self.seen(Role::Snapshot, Self::read_step(file), Fact::Cells(cells(state)));
    }

    pub fn guest_reads(&mut self, role: Role, file: &str, state: impl Fn(u64) -> CellState) {
        self.seen(role, Self::read_step(file), Fact::Cells(cells(state)));
    }

    pub fn host_reads(&mut self, role: Role, file: &str, located: bool, state: impl Fn(u64) -> CellState) {
        let extents = vec![Extent { logical: 0, physical: PHYSICAL, len: LEN, flags: 0, located }];
        self.seen(role, Step::Extents { path: path(file) }, Fact::Extents(extents.clone()));
        self.images.push(Evidence::Image { path: path(file), extents, result: Ok(cells(state)) });
    }

    /// Guest and host read the same.
    pub fn compare(&mut self, file: &str, state: impl Fn(u64) -> CellState) {
        self.guest_reads(Role::CompareWrites, file, &state);
        self.host_reads(Role::CompareWrites, file, true, &state);
    }

    /// A request to the disks and their answer.
    pub fn disk(&mut self, request: Request, answer: Answer) {
        self.disk_says(request, Ok(answer));
    }

    pub fn disk_says(&mut self, request: Request, answer: Result<Answer, String>) {
        let evidence =
            Evidence::Disk { line: 1, label: String::new(), request, answer, began_ns: 0, ended_ns: 0 };
        self.record.evidence.push(evidence);
    }

    pub fn spawn(&mut self, job: &str, step: Step) {
        self.done(Step::Spawn { job: job.into(), step: Box::new(step) });
    }

    pub fn join_step(job: &str) -> Step {
        Step::Join { job: job.into(), timeout_ms: 1000 }
    }

    pub fn join(&mut self, job: &str, fact: Fact) {
        self.seen(Role::Act, Self::join_step(job), fact);
    }

    /// The machine looked until the job was over or asleep.
    pub fn settle(&mut self, job: &str, finished: bool) {
        let stack = ["folio_wait_writeback", "ext4_page_mkwrite"];
        let stack = if finished { Vec::new() } else { stack.map(ToOwned::to_owned).to_vec() };
        let state = if finished { '-' } else { 'D' };
        let fact = Fact::Job(JobState { finished, elapsed_us: 640_000, state, stack });
        self.seen(Role::Settle, Step::Settle { job: job.into() }, fact);
    }

    /// A page that changed while its write was under way, from time 0 on.
    pub fn hit(&mut self, file_offset: u64, change: Change, author: Author) -> &mut Hit {
        let report = self.audit.get_or_insert_with(|| AuditReport {
            run: RUN,
            writes: 3,
            pages: 20,
            ..AuditReport::default()
        });
        report.hits.push(Hit {
            request: 9,
            disk: 0,
            byte: PHYSICAL + file_offset,
            gpa: 0x1000,
            region: Some(REGION),
            file_offset: Some(file_offset),
            change,
            author,
            hashes: ["1".into(), "2".into(), "3".into()],
            generation_before: Some(100),
            generation_after: Some(101),
            differing_bytes: 4096,
            spans: Vec::new(),
            submitted_ns: 0,
            fetched_ns: u64::MAX,
            completed_ns: u64::MAX,
        });
        report.hits.last_mut().expect("just pushed")
    }

    /// The checker's word.
    pub fn fsck(&mut self, fs: &str, code: i32, output: &str) {
        let argv = vec!["fsck".to_owned(), "-n".to_owned()];
        self.fsck = Some(Evidence::Fsck(FsckReport { fs: fs.into(), argv, code, output: output.into() }));
    }

    pub fn trouble(&mut self, trouble: Trouble) {
        self.record.evidence.push(Evidence::Trouble(trouble));
    }

    /// Clean-up, counters, log, images, ledger.
    pub fn end(mut self) -> CaseRecord {
        self.seen(Role::Frame, Step::Cleanup, Fact::Text(String::new()));
        self.seen(Role::After, Step::PinCounters, Fact::Pins(self.pins_after));
        let lines = self.log.iter().enumerate();
        let lines = lines
            .map(|(seq, text)| KernelLine { seq: seq as u64, level: 4, time_us: 0, text: text.clone() })
            .collect();
        self.seen(Role::Frame, Step::KernelLog, Fact::Log(lines));
        if let Some(report) = self.audit.take() {
            self.disk(Request::Audit, Answer::Audit(report));
        }
        self.record.evidence.extend(self.fsck.take());
        self.record.evidence.append(&mut self.images);
        self.record.evidence.push(Evidence::Ledger { entries: self.ledger, disk: Vec::new() });
        self.record
    }
}
