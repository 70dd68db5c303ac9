// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stories of several steps, on files of this host.

use crate::modules::Modules;
use crate::steps::Agent;
use longpin_proto::agent::{Access, Advice, Backing, Fact, Fallocate, Fill, OpenFlags, Outcome, Step, Via};
use longpin_proto::facts::{CellState, Cells, JobState, PageState, Source, Writer};
use std::time::{Duration, Instant};

const LEN: u64 = 64 * 1024;

struct Story {
    agent: Agent,
    dir: tempfile::TempDir,
}

impl Story {
    fn new() -> Self {
        let agent = Agent::new(Modules::default()).expect("agent");
        Self { agent, dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn fact(&mut self, step: Step) -> Fact {
        match self.agent.perform(step.clone()) {
            Outcome::Done { fact } => fact,
            other => panic!("{step:?}: {other:?}"),
        }
    }

    fn failure(&mut self, step: Step) -> String {
        match self.agent.perform(step.clone()) {
            Outcome::Failed { message } => message,
            other => panic!("{step:?}: {other:?}"),
        }
    }

    fn errno(&mut self, step: Step) -> String {
        match self.agent.perform(step.clone()) {
            Outcome::Refused(errno) => errno.name,
            other => panic!("{step:?}: {other:?}"),
        }
    }

    /// File "a" of LEN bytes of generation 1, mapped as "m".
    fn mapped() -> Self {
        let mut story = Self::new();
        let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
        let path = story.path("a");
        story.fact(Step::Open { file: "a".into(), path, flags });
        story.fact(Step::Write { file: "a".into(), offset: 0, len: LEN, fill: fill(1) });
        let backing = Backing::File { file: "a".into(), offset: 0 };
        story.fact(Step::Map { map: "m".into(), backing, len: LEN, shared: true, write: true });
        story
    }

    fn mapping(&mut self) -> Cells {
        let step =
            Step::ReadMapping { map: "m".into(), offset: 0, len: LEN, cell_bytes: 512, file_offset: 0 };
        let Fact::Cells(cells) = self.fact(step) else { panic!("not cells") };
        cells
    }

    fn file(&mut self) -> Cells {
        let path = self.path("a");
        let step = Step::Read { path, offset: 0, len: LEN, cell_bytes: 512, via: Via::Buffered };
        let Fact::Cells(cells) = self.fact(step) else { panic!("not cells") };
        cells
    }

    fn spawn(&mut self, job: &str, step: Step) {
        self.fact(Step::Spawn { job: job.into(), step: Box::new(step) });
    }

    fn job(&mut self, job: &str) -> JobState {
        let Fact::Job(state) = self.fact(Step::Settle { job: job.into() }) else { panic!("not a job") };
        state
    }

    fn join(&mut self, job: &str) -> Fact {
        self.fact(Step::Join { job: job.into(), timeout_ms: 60_000 })
    }

    /// A job that runs until its FIFO is written to, seen asleep; and that FIFO.
    fn sleeping_job(&mut self, job: &str) -> String {
        let fifo = self.path("fifo");
        self.fact(exec(&format!("mkfifo {fifo}")));
        self.spawn(job, exec(&format!("exec cat {fifo}")));
        let deadline = Instant::now() + Duration::from_secs(60);
        // The shell runs before it becomes `cat`, which sleeps in open(2) until there is a writer.
        while self.job(job).state != 'S' {
            assert!(Instant::now() < deadline, "{:?}", self.job(job));
            std::thread::yield_now();
        }
        fifo
    }

    fn page_state(&mut self) -> PageState {
        let Fact::PageState(state) = self.fact(Step::PageState { file: "a".into(), offset: 0, len: LEN })
        else {
            panic!("not a page state")
        };
        state
    }
}

fn fill(generation: u64) -> Fill {
    Fill { run: 1, generation, cell_bytes: 512, source: Source::Cpu }
}

fn exec(script: &str) -> Step {
    Step::Exec { argv: ["sh", "-c", script].map(String::from).to_vec(), timeout_ms: 60_000 }
}

fn written(generation: u64) -> CellState {
    CellState::Whole(Writer { run: 1, region: 0, generation, source: Source::Cpu })
}

fn runs(cells: &Cells) -> Vec<(u64, u64, CellState)> {
    cells.runs.iter().map(|run| (run.offset, run.count, run.state.clone())).collect()
}

#[test]
fn a_store_through_the_mapping_is_in_the_file() {
    let mut story = Story::mapped();
    story.fact(Step::Store { map: "m".into(), offset: 4096, len: 8192, fill: fill(2) });
    let expected = [(0, 8, written(1)), (4096, 16, written(2)), (12288, 104, written(1))];
    assert_eq!(runs(&story.mapping()), expected);
    assert_eq!(runs(&story.file()), expected);
    assert_eq!(story.mapping().hash, story.file().hash);
}

#[test]
fn a_file_cut_below_its_mapping_is_efault_and_nothing_dies() {
    let mut story = Story::mapped();
    story.fact(Step::Truncate { file: "a".into(), len: 16384 });
    let fault = CellState::Unreadable { errno: libc::EFAULT };
    assert_eq!(runs(&story.mapping()), [(0, 32, written(1)), (16384, 96, fault)]);
    assert_eq!(runs(&story.file()), [(0, 32, written(1)), (16384, 96, CellState::Absent)]);
    for access in [Access::Read, Access::Write] {
        assert_eq!(story.errno(Step::Touch { map: "m".into(), offset: 0, len: LEN, access }), "EFAULT");
    }
    let store = |offset, len| Step::Store { map: "m".into(), offset, len, fill: fill(3) };
    assert_eq!(story.errno(store(16384, 4096)), "EFAULT");
    story.fact(store(12288, 4096));
    let advise = Step::Madvise { map: "m".into(), offset: 16384, len: 4096, advice: Advice::PopulateWrite };
    assert_eq!(story.errno(advise), "EFAULT");
    assert_eq!(runs(&story.file())[1], (12288, 8, written(3)));
}

#[test]
fn a_write_touch_makes_clean_pages_dirty_and_changes_no_byte() {
    let mut story = Story::mapped();
    let before = story.file().hash;
    story.fact(Step::Fsync { file: "a".into(), data_only: false });
    let clean = story.page_state();
    assert_eq!((clean.cached, clean.writeback), (16, 0));
    story.fact(Step::Touch { map: "m".into(), offset: 0, len: 8192, access: Access::Write });
    let touched = story.page_state();
    // On tmpfs every page is dirty for ever. On a disk the touched ones turn dirty, with their whole folios.
    assert!(clean.dirty == 16 || (clean.dirty == 0 && touched.dirty >= 2), "{clean:?} {touched:?}");
    assert_eq!(story.file().hash, before);
}

#[test]
fn a_punched_range_is_zero_in_file_and_mapping() {
    let mut story = Story::mapped();
    story.fact(Step::Fallocate { file: "a".into(), mode: Fallocate::PunchHole, offset: 8192, len: 4096 });
    let expected = [(0, 16, written(1)), (8192, 8, CellState::Zero), (12288, 104, written(1))];
    assert_eq!(runs(&story.mapping()), expected);
    assert_eq!(runs(&story.file()), expected);
}

#[test]
fn names_are_unique_and_must_exist() {
    let mut story = Story::mapped();
    let path = story.path("b");
    let again =
        Step::Open { file: "a".into(), path, flags: OpenFlags { create: true, ..OpenFlags::default() } };
    assert!(story.failure(again).contains("file `a` exists already"));
    assert!(!story.dir.path().join("b").exists(), "a refused open must not create");
    assert!(story.failure(Step::Close { file: "b".into() }).contains("no file `b`; there are: [a]"));
    assert!(story.failure(Step::Unmap { map: "x".into() }).contains("no mapping `x`"));
    assert!(story.failure(Step::QueryRegion { region: "r".into() }).contains("no region `r`"));
    assert!(story.failure(Step::DmaStop { program: "p".into() }).contains("no program `p`"));
}

#[test]
fn cleanup_lets_go_of_everything_once() {
    let mut story = Story::mapped();
    let Fact::Text(text) = story.fact(Step::Cleanup) else { panic!("not a text") };
    assert_eq!(text, "mapping m: unmapped\nfile a: closed");
    assert!(story.failure(Step::Close { file: "a".into() }).contains("no file `a`"));
    assert_eq!(story.fact(Step::Cleanup), Fact::Text(String::new()));
}

#[test]
fn anonymous_memory_is_labelled_from_zero() {
    let mut story = Story::new();
    let backing = Backing::Anonymous;
    story.fact(Step::Map { map: "m".into(), backing, len: LEN, shared: false, write: true });
    assert_eq!(runs(&story.mapping()), [(0, 128, CellState::Zero)]);
    story.fact(Step::Store { map: "m".into(), offset: 0, len: LEN, fill: fill(5) });
    assert_eq!(runs(&story.mapping()), [(0, 128, written(5))]);
    story.fact(Step::Madvise { map: "m".into(), offset: 0, len: LEN, advice: Advice::Dontneed });
    assert_eq!(runs(&story.mapping()), [(0, 128, CellState::Zero)]);
}

#[test]
fn sizes_and_programs_are_told() {
    let mut story = Story::mapped();
    let path = story.path("a");
    assert_eq!(std::fs::metadata(path).expect("the file").len(), LEN);
    let argv = ["sh", "-c", "echo hello; exit 4"].map(String::from).to_vec();
    let exec = story.fact(Step::Exec { argv, timeout_ms: 20_000 });
    assert_eq!(exec, Fact::Exec { code: 4, output: "hello\n".into() });
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let mut story = Story::new();
    assert_eq!(story.errno(Step::Affinity { cpu: Some(1000) }), "EINVAL");
    assert!(story.failure(Step::Affinity { cpu: Some(1 << 20) }).contains("a CPU set ends at"));
    story.fact(Step::Affinity { cpu: None });
}

#[test]
fn jobs_do_what_their_steps_do() {
    let mut story = Story::mapped();
    let path = story.path("a");
    story.spawn("s", Step::Store { map: "m".into(), offset: 4096, len: 8192, fill: fill(2) });
    assert_eq!(story.join("s"), Fact::Nothing);
    let access = Access::Write;
    story.spawn("t", Step::Touch { map: "m".into(), offset: 0, len: LEN, access });
    story.spawn("w", Step::Write { file: "a".into(), offset: 12288, len: 4096, fill: fill(3) });
    assert_eq!((story.join("t"), story.join("w")), (Fact::Nothing, Fact::Nothing));
    story.spawn("f", Step::Fsync { file: "a".into(), data_only: false });
    assert_eq!(story.join("f"), Fact::Nothing);
    let expected =
        [(0, 8, written(1)), (4096, 16, written(2)), (12288, 8, written(3)), (16384, 96, written(1))];
    story.spawn("r", Step::Read { path, offset: 0, len: LEN, cell_bytes: 512, via: Via::Buffered });
    let Fact::Cells(cells) = story.join("r") else { panic!("not cells") };
    assert_eq!(runs(&cells), expected);
    assert_eq!(runs(&story.mapping()), expected);
    story.spawn("c", Step::Truncate { file: "a".into(), len: 4096 });
    assert_eq!(story.join("c"), Fact::Nothing);
    assert_eq!(runs(&story.file())[1], (4096, 120, CellState::Absent));
}

#[test]
fn the_refusal_of_a_job_is_told_by_its_wait() {
    let mut story = Story::mapped();
    story.fact(Step::Truncate { file: "a".into(), len: 4096 });
    story.spawn("s", Step::Store { map: "m".into(), offset: 8192, len: 4096, fill: fill(2) });
    assert_eq!(story.errno(Step::Join { job: "s".into(), timeout_ms: 60_000 }), "EFAULT");
    story.spawn("u", Step::Umount { dir: "/no/such/mount".into() });
    assert_eq!(story.errno(Step::Join { job: "u".into(), timeout_ms: 60_000 }), "ENOENT");
}

#[test]
fn a_job_that_sleeps_is_seen_asleep_while_the_story_goes_on_and_then_ends() {
    let mut story = Story::mapped();
    let fifo = story.sleeping_job("cat");
    let state = story.job("cat");
    assert!(!state.finished && state.elapsed_us > 0, "{state:?}");
    // Where the kernel shows stacks to this user it waits in fifo_open().
    assert!(state.stack.is_empty() || state.stack.iter().any(|name| name.contains("open")), "{state:?}");
    let failure = story.failure(Step::Join { job: "cat".into(), timeout_ms: 1 });
    assert!(failure.starts_with("job `cat` still runs after 1 ms of waiting: state S"), "{failure}");
    story.fact(Step::Store { map: "m".into(), offset: 0, len: LEN, fill: fill(2) });
    std::fs::write(fifo, "hello").unwrap();
    assert_eq!(story.join("cat"), Fact::Exec { code: 0, output: "hello".into() });
    assert!(story.failure(Step::Settle { job: "cat".into() }).contains("no job `cat`; there are: []"));
}

#[test]
fn an_ended_job_says_so_until_it_is_waited_for() {
    let mut story = Story::new();
    story.spawn("s", Step::Sync);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !story.job("s").finished {
        assert!(Instant::now() < deadline, "{:?}", story.job("s"));
        std::thread::yield_now();
    }
    let state = story.job("s");
    assert_eq!((state.state, state.stack.len()), ('-', 0));
    assert_eq!(story.job("s").elapsed_us, state.elapsed_us);
    assert_eq!(story.join("s"), Fact::Nothing);
}

#[test]
fn names_of_jobs_are_unique_and_only_some_steps_can_be_jobs() {
    let mut story = Story::mapped();
    let fifo = story.sleeping_job("j");
    let spawn = |job: &str, step| Step::Spawn { job: job.into(), step: Box::new(step) };
    assert!(story.failure(spawn("j", Step::Sync)).contains("job `j` exists already"));
    assert!(
        story
            .failure(spawn("k", Step::DropCaches))
            .starts_with("step `drop-caches` cannot be a job; use one of")
    );
    let nested = spawn("l", Step::Sync);
    assert!(story.failure(spawn("k", nested)).starts_with("step `spawn` cannot be a job"));
    let unknown = Step::Fsync { file: "x".into(), data_only: false };
    assert!(story.failure(spawn("k", unknown)).contains("no file `x`; there are: [a]"));
    assert!(
        story.failure(Step::Join { job: "k".into(), timeout_ms: 0 }).contains("no job `k`; there are: [j]")
    );
    std::fs::write(fifo, "").unwrap();
    story.join("j");
}

#[test]
fn cleanup_waits_for_jobs_and_takes_what_they_made() {
    let mut story = Story::mapped();
    story.spawn("s", Step::Fsync { file: "a".into(), data_only: true });
    story.spawn("t", Step::Umount { dir: "/no/such/mount".into() });
    let Fact::Text(text) = story.fact(Step::Cleanup) else { panic!("not a text") };
    assert_eq!(text, "job s: done\njob t: umount2: ENOENT\nmapping m: unmapped\nfile a: closed");
}

#[test]
fn a_direct_read_fills_the_mapping_or_says_how_short_it_was() {
    let mut story = Story::mapped();
    let device = story.path("device");
    let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
    story.fact(Step::Open { file: "d".into(), path: device.clone(), flags });
    story.fact(Step::Write { file: "d".into(), offset: 0, len: 8192, fill: fill(7) });
    let read = |offset, len| Step::ReadDirect {
        map: "m".into(),
        offset,
        len,
        device: device.clone(),
        device_offset: 0,
    };
    // File systems without O_DIRECT refuse the open.
    if let Outcome::Refused(errno) = story.agent.perform(read(0, 8192)) {
        assert_eq!(errno.name, "EINVAL");
        return;
    }
    let expected = [(0, 16, written(7)), (8192, 112, written(1))];
    assert_eq!(runs(&story.mapping()), expected);
    assert_eq!(runs(&story.file()), expected);
    assert_eq!(story.errno(read(100, 4096)), "EINVAL");
    assert!(story.failure(read(4096, 12288)).contains("gave 8192 bytes from 0 on, of 12288"));
    assert!(story.failure(read(LEN, 4096)).contains("are not in the mapping"));
    story.spawn("r", read(4096, 4096));
    assert_eq!(story.join("r"), Fact::Nothing);
    let missing = Step::ReadDirect {
        map: "m".into(),
        offset: 0,
        len: 4096,
        device: "/no/such/device".into(),
        device_offset: 0,
    };
    assert_eq!(story.errno(missing), "ENOENT");
}
