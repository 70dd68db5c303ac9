// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records made by hand: one call is one event, and the clock goes on by what the caller says.

use crate::record::{CaseRecord, DiskLedgerEntry, Evidence, LedgerEntry, Role};
use crate::report::CaseResult;
use crate::verdict::{self, Generations, Observation, Outcome as Verdict};
use longpin_proto::agent::{Backing, Fact, Fill, OpenFlags, Outcome, PinMode, Program, Step, Via};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Author, Change, Hit, Span};
use longpin_proto::facts::{
    CellState, Cells, DmaResult, Errno, Extent, JobState, MirrorState, PageState, RegionState, Source, Writer,
};
use longpin_wire::{ledger, uapi};

pub const RUN: u64 = 7;
pub const REGION: u32 = 3;
pub const PAGES: u64 = 16;
pub const LEN: u64 = PAGES * 4096;
/// Place of file a on the disk, and of its first page in the guest's memory.
pub const BYTE: u64 = 98_304;
pub const GPA: u64 = 0x3c0_0000;
/// The host's clock does not start at 0.
pub const ORIGIN: u64 = 12_639_000_000_000;

pub struct Tape {
    pub now: u64,
    pub line: usize,
    record: CaseRecord,
    dma: Vec<LedgerEntry>,
    disk: Vec<DiskLedgerEntry>,
    timed: bool,
}

pub fn writer(source: Source, generation: u64) -> CellState {
    let region = if source == Source::Dma { REGION } else { 0 };
    CellState::Whole(Writer { run: RUN, region, generation, source })
}

pub fn cells(state: CellState) -> Cells {
    let mut cells = Cells { cell_bytes: 512, runs: Vec::new(), hash: String::new() };
    cells.push(0, LEN / 512, state);
    cells
}

impl Tape {
    pub fn new(id: &str) -> Self {
        let record = CaseRecord::new(id, 1, RUN, 512);
        Self { now: ORIGIN, line: 0, record, dma: Vec::new(), disk: Vec::new(), timed: true }
    }

    /// As a record of before the steps had host times.
    pub fn without_times(mut self) -> Self {
        self.timed = false;
        self
    }

    pub fn wait(&mut self, ns: u64) {
        self.now += ns;
    }

    /// A new line of the scenario.
    pub fn line(&mut self) -> &mut Self {
        self.line += 1;
        self
    }

    pub fn step(&mut self, role: Role, step: Step, outcome: Outcome, takes_ns: u64) {
        let began = self.now;
        self.now += takes_ns;
        self.over(role, step, outcome, began);
        self.now += 300_000;
    }

    /// A step that ends now and began then.
    pub fn over(&mut self, role: Role, step: Step, outcome: Outcome, began: u64) {
        let (began_ns, ended_ns) = if self.timed { (began, self.now) } else { (0, 0) };
        let elapsed_us = (self.now - began) / 1000;
        let line = self.line;
        self.record.evidence.push(Evidence::Step {
            line,
            label: String::new(),
            role,
            step,
            outcome,
            elapsed_us,
            began_ns,
            ended_ns,
        });
    }

    pub fn act(&mut self, step: Step, takes_ns: u64) {
        self.step(Role::Act, step, Outcome::Done { fact: Fact::Nothing }, takes_ns);
    }

    /// mkfs, mount, a file of generation 1 by CPU, mapped.
    pub fn prepare(&mut self) {
        self.line()
            .act(Step::Mkfs { fs: "xfs".into(), device: "/dev/vda".into(), args: vec![] }, 2_100_000_000);
        self.line().act(
            Step::Mount {
                fs: "xfs".into(),
                device: "/dev/vda".into(),
                dir: "/mnt".into(),
                options: String::new(),
            },
            21_000_000,
        );
        self.line();
        let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
        self.act(Step::Open { file: "a".into(), path: "/mnt/a".into(), flags }, 1_500_000);
        let fill = Fill { run: RUN, generation: 1, cell_bytes: 512, source: Source::Cpu };
        self.act(Step::Write { file: "a".into(), offset: 0, len: LEN, fill }, 400_000);
        self.act(Step::Fsync { file: "a".into(), data_only: false }, 10_900_000);
        self.line();
        let backing = Backing::File { file: "a".into(), offset: 0 };
        self.act(Step::Map { map: "m".into(), backing, len: LEN, shared: true, write: true }, 490_000);
    }

    pub fn pin_step() -> Step {
        let (region, map, mode) = ("r".into(), "m".into(), PinMode::Pin);
        Step::Pin { region, map, offset: 0, len: LEN, mode, file_offset: 0, run: RUN }
    }

    pub fn pin(&mut self) {
        let began = self.now;
        self.now += 400_000;
        self.entry(ledger::KIND_SEGMENT, GPA, LEN, 0, 0);
        self.entry(ledger::KIND_MAP, 0, LEN, 0, 0);
        self.now += 200_000;
        let pages = PAGES as u32;
        let fact = Fact::Region(RegionState {
            pages,
            segments: 1,
            running: 0,
            pages_with_mapping: pages,
            zone: 1,
            folio_pages: pages,
        });
        self.line().over(Role::Act, Self::pin_step(), Outcome::Done { fact }, began);
        self.now += 300_000;
    }

    /// A device that can fault is given the range, without a page.
    pub fn mirror(&mut self) {
        let began = self.now;
        self.now += 400_000;
        self.entry(ledger::KIND_MAP, 0, LEN, 0, 0);
        self.now += 200_000;
        let pages = PAGES as u32;
        let fact = Fact::Mirror(MirrorState { pages, ..MirrorState::default() });
        let (region, map, mode) = ("r".into(), "m".into(), PinMode::Notifier);
        let step = Step::Pin { region, map, offset: 0, len: LEN, mode, file_offset: 0, run: RUN };
        self.line().over(Role::Act, step, Outcome::Done { fact }, began);
        self.now += 300_000;
    }

    /// All pages at once.
    pub fn device_faults(&mut self) {
        self.entry(ledger::KIND_FAULT, 0, LEN, 0, 0);
        self.dma.last_mut().expect("the entry").detail = uapi::ACCESS_WRITE;
    }

    /// The same.
    pub fn populate(&mut self) {
        self.entry(ledger::KIND_POPULATE, GPA, LEN, 0, 0);
        self.dma.last_mut().expect("the entry").detail = uapi::ACCESS_WRITE;
    }

    /// The same.
    pub fn invalidate(&mut self) {
        self.entry(ledger::KIND_INVALIDATE, 0, LEN, 0, 0);
    }

    /// The device is told of pages that a held read pins.
    pub fn announce_held(&mut self, rule: &str, region: u32) {
        self.entry(ledger::KIND_MAP, 0, LEN, 0, 0);
        self.dma.last_mut().expect("an entry").region = region;
        let (rule, run) = (rule.into(), RUN);
        let request = Request::HeldDma {
            rule,
            region,
            file_offset: 0,
            offset: 0,
            len: 0,
            generation: 0,
            run,
            cell_bytes: 512,
        };
        self.ask(request, Answer::Ok, 80_000);
    }

    fn entry(&mut self, kind: u32, dma_addr: u64, len: u64, generation: u64, file_offset: u64) {
        let (time_ns, region, run) = (self.now, REGION, RUN);
        self.dma.push(LedgerEntry {
            time_ns,
            kind,
            region,
            dma_addr,
            len,
            generation,
            file_offset,
            run,
            program: 1,
            detail: 0,
        });
    }

    /// The device writes all pages, 300 ns each.
    pub fn dma(&mut self, generation: u64) {
        self.dma_pages(generation, 0..PAGES);
    }

    pub fn dma_pages(&mut self, generation: u64, pages: std::ops::Range<u64>) {
        self.line();
        let dma = Program {
            offset: pages.start * 4096,
            len: (pages.end - pages.start) * 4096,
            generation,
            passes: 1,
            cell_bytes: 512,
        };
        let began = self.now;
        self.now += 150_000;
        for page in pages {
            self.now += 300;
            self.entry(ledger::KIND_DMA_WRITE, GPA + page * 4096, 4096, generation, page * 4096);
        }
        self.now += 200_000;
        let (program, region, run) = ("p".to_owned(), "r".into(), RUN);
        self.over(
            Role::Act,
            Step::Dma { program: program.clone(), region, dma, run },
            Outcome::Done { fact: Fact::Nothing },
            began,
        );
        let result = DmaResult {
            kept_off: 0,
            fault_errno: None,
            status: 0,
            cells_done: 128,
            last_generation: generation,
            started_ns: 0,
            finished_ns: 0,
        };
        self.step(
            Role::Act,
            Step::DmaWait { program, timeout_ms: 1 },
            Outcome::Done { fact: Fact::Dma(result) },
            90_000,
        );
    }

    /// The device does it, and nothing of it comes to memory.
    pub fn dma_kept_off(&mut self, generation: u64) {
        let dma = Program { offset: 0, len: LEN, generation, passes: 1, cell_bytes: 512 };
        let (program, region, run) = ("p".to_owned(), "r".into(), RUN);
        self.line().act(Step::Dma { program: program.clone(), region, dma, run }, 300_000);
        let result = DmaResult {
            kept_off: LEN / 512,
            fault_errno: None,
            status: 0,
            cells_done: 0,
            last_generation: 0,
            started_ns: 0,
            finished_ns: 0,
        };
        let fact = Fact::Dma(result);
        self.step(Role::Act, Step::DmaWait { program, timeout_ms: 1 }, Outcome::Done { fact }, 90_000);
    }

    pub fn fsync(&mut self) {
        self.line().act(Step::Fsync { file: "a".into(), data_only: false }, 6_200_000);
    }

    pub fn prove_clean(&mut self) {
        let fact = Fact::PageState(PageState { cached: PAGES, dirty: 0, writeback: 0, evicted: 0 });
        let step = Step::PageState { file: "a".into(), offset: 0, len: LEN };
        self.line().step(Role::ProveClean, step, Outcome::Done { fact }, 120_000);
    }

    pub fn release(&mut self, dirty: bool) {
        let began = self.now;
        self.now += 200_000;
        self.entry(ledger::KIND_UNMAP, 0, LEN, 0, 0);
        self.now += 100_000;
        let step = Step::Release { region: "r".into(), dirty };
        self.line().over(Role::Act, step, Outcome::Done { fact: Fact::Nothing }, began);
        self.now += 300_000;
    }

    pub fn remount(&mut self) {
        self.line().act(Step::Umount { dir: "/mnt".into() }, 46_000_000);
        self.act(
            Step::Mount {
                fs: "xfs".into(),
                device: "/dev/vda".into(),
                dir: "/mnt".into(),
                options: String::new(),
            },
            49_000_000,
        );
    }

    pub fn read(&mut self, role: Role, path: &str, state: CellState) {
        self.line();
        let step = Step::Read { path: path.into(), offset: 0, len: LEN, cell_bytes: 512, via: Via::Buffered };
        self.step(role, step, Outcome::Done { fact: Fact::Cells(cells(state)) }, 4_200_000);
    }

    pub fn extents(&mut self, path: &str, byte: u64) {
        let fact = Fact::Extents(vec![Self::extent(byte)]);
        self.step(Role::CompareWrites, Step::Extents { path: path.into() }, Outcome::Done { fact }, 200_000);
    }

    fn extent(byte: u64) -> Extent {
        Extent { logical: 0, physical: byte, len: LEN, flags: 1, located: true }
    }

    pub fn host_reads(&mut self, path: &str, byte: u64, state: CellState) {
        let (path, extents) = (path.into(), vec![Self::extent(byte)]);
        self.record.evidence.push(Evidence::Image { path, extents, result: Ok(cells(state)) });
    }

    pub fn compare(&mut self, path: &str, byte: u64, state: CellState) {
        self.read(Role::CompareWrites, path, state);
        self.extents(path, byte);
    }

    pub fn on_disk(&mut self, kind: u32, request: u64) {
        let (time_ns, byte, gpa, run) = (self.now, BYTE, GPA, RUN);
        self.disk.push(DiskLedgerEntry {
            time_ns,
            kind,
            disk: 0,
            request,
            byte,
            len: LEN,
            gpa,
            run,
            op: 1,
            detail: 0,
        });
    }

    pub fn ask(&mut self, request: Request, answer: Answer, takes_ns: u64) {
        let (line, began_ns) = (self.line, self.now);
        self.now += takes_ns;
        let (ended_ns, answer) = (self.now, Ok(answer));
        self.record.evidence.push(Evidence::Disk {
            line,
            label: String::new(),
            request,
            answer,
            began_ns,
            ended_ns,
        });
        self.now += 200_000;
    }

    /// The audit's word: page 0 and 1 changed between `submitted` and `completed`.
    pub fn audit(&mut self, change: Change, submitted_ns: u64, fetched_ns: u64, completed_ns: u64) {
        let hit = |page: u64| Hit {
            request: 41,
            disk: 0,
            byte: BYTE + page * 4096,
            gpa: GPA + page * 4096,
            region: Some(REGION),
            file_offset: Some(page * 4096),
            change,
            author: Author::Dma,
            hashes: ["a".into(), "b".into(), "b".into()],
            generation_before: Some(100),
            generation_after: Some(101),
            differing_bytes: 4000,
            spans: vec![Span { offset: 24, len: 1, before: "64000000".into(), after: "65000000".into() }],
            submitted_ns,
            fetched_ns,
            completed_ns,
        };
        let hits = (0..PAGES).map(hit).collect();
        let report = longpin_proto::disk::AuditReport {
            run: RUN,
            writes: 1,
            pages: PAGES,
            hits,
            ..Default::default()
        };
        self.line = 0;
        self.ask(Request::Audit, Answer::Audit(report), 90_000);
    }

    pub fn job_state(&mut self, job: &str, state: char, stack: &[&str], finished: bool, elapsed_us: u64) {
        let stack = stack.iter().map(|s| (*s).to_owned()).collect();
        let fact = Fact::Job(JobState { finished, elapsed_us, state, stack });
        self.line().step(Role::Settle, Step::Settle { job: job.into() }, Outcome::Done { fact }, 50_000);
    }

    pub fn refused(&mut self, step: Step, name: &str) {
        let errno = Errno { errno: 14, name: name.into(), call: "ioctl(LONGPIN_IOC_PIN)".into() };
        self.line().step(Role::Act, step, Outcome::Refused(errno), 260_000);
    }

    pub fn end(mut self) -> CaseRecord {
        self.record.evidence.push(Evidence::Ledger { entries: self.dma, disk: self.disk });
        self.record
    }
}

/// The row of a case with this headline and what the verdict finds in the record.
pub fn result(word: Observation, record: &CaseRecord) -> CaseResult {
    CaseResult {
        id: "case/xfs/pin/clean".into(),
        attempt: 1,
        scenario: "case".into(),
        fs: "xfs".into(),
        pin: "pin".into(),
        release: "clean".into(),
        variant: None,
        control: false,
        boot: 1,
        observations: [word].into(),
        headline: Some(word),
        expected: [word].into(),
        outcome: if word.is_bad() { Verdict::Xfail } else { Verdict::Pass },
        error: None,
        reason: "said by the test".into(),
        generations: Generations { device: Some(101), guest: Some(101), host: Some(101) },
        errno: (word == Observation::Refused).then(|| "EFAULT".into()),
        findings: verdict::observe(record).findings,
        mirror: None,
        audit: None,
        blocked: Vec::new(),
        fsck: None,
        seconds: 3.0,
        log: Vec::new(),
        reports: Vec::new(),
        attempts: Vec::new(),
    }
}
