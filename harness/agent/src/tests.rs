// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stories of several steps, on files of this host.

use crate::modules::Modules;
use crate::steps::Agent;
use longpin_proto::agent::{Access, Advice, Backing, Fact, Fallocate, Fill, OpenFlags, Outcome, Step, Via};
use longpin_proto::facts::{CellState, Cells, PageState, Source, Writer};

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
        story.fact(Step::WriteCells { file: "a".into(), offset: 0, len: LEN, fill: fill(1) });
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
        let step = Step::ReadCells { path, offset: 0, len: LEN, cell_bytes: 512, via: Via::Buffered };
        let Fact::Cells(cells) = self.fact(step) else { panic!("not cells") };
        cells
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
    let advise = Step::Advise { map: "m".into(), offset: 16384, len: 4096, advice: Advice::PopulateWrite };
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
    story.fact(Step::Advise { map: "m".into(), offset: 0, len: LEN, advice: Advice::Dontneed });
    assert_eq!(runs(&story.mapping()), [(0, 128, CellState::Zero)]);
}

#[test]
fn sizes_and_programs_are_told() {
    let mut story = Story::mapped();
    let path = story.path("a");
    let Fact::Stat { size, .. } = story.fact(Step::Stat { path }) else { panic!("not a stat") };
    assert_eq!(size, LEN);
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
