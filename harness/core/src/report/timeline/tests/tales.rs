// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The scenarios that the drawing was made for, by hand.

use super::Story;
use super::tape::{BYTE, GPA, LEN, RUN, Tape, result, writer};
use crate::record::{CaseRecord, Role};
use crate::report::CaseResult;
use crate::verdict::Observation;
use longpin_proto::agent::{Fact, Fill, OpenFlags, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Action, Change, Fetch, Held, Match, Op, PageRef, Rule};
use longpin_proto::facts::Source;
use longpin_wire::ledger;

fn judged(record: CaseRecord, word: Observation) -> (CaseRecord, CaseResult) {
    let result = result(word, &record);
    (record, result)
}

pub fn lost_update() -> Story {
    let (record, result) = lost_update_record();
    Story::of(&record, &result)
}

pub fn lost_update_record() -> (CaseRecord, CaseResult) {
    let mut tape = Tape::new("lost-update/xfs/pin/clean");
    tape.prepare();
    tape.pin();
    tape.dma(100);
    tape.fsync();
    tape.prove_clean();
    tape.dma(101);
    tape.release(false);
    tape.remount();
    tape.compare("/mnt/a", BYTE, writer(Source::Dma, 100));
    tape.host_reads("/mnt/a", BYTE, writer(Source::Dma, 100));
    judged(tape.end(), Observation::Lost)
}

fn hold_rule() -> Request {
    Request::AddRule(Rule {
        name: "w".into(),
        disk: 0,
        matching: Match { op: Some(Op::Write), stamped: Some(RUN), ..Match::default() },
        action: Action::Hold { fetch: Fetch::Late, cap_ms: 20_000 },
        limit: 0,
    })
}

/// fsync in a job, its write held.
fn fsync_held(tape: &mut Tape) -> u64 {
    tape.line().ask(hold_rule(), Answer::Ok, 90_000);
    let fsync = Step::Fsync { file: "a".into(), data_only: false };
    tape.line().act(Step::Spawn { job: "f".into(), step: Box::new(fsync) }, 300_000);
    let submitted = tape.now;
    tape.on_disk(ledger::KIND_DISK_SUBMIT, 41);
    tape.wait(4_000);
    tape.on_disk(ledger::KIND_DISK_HOLD, 41);
    tape.wait(600_000);
    let page = |i: u64| PageRef {
        byte: BYTE + i * 4096,
        gpa: GPA + i * 4096,
        len: 4096,
        region: None,
        file_offset: Some(i * 4096),
    };
    let held = Held {
        request: 41,
        disk: 0,
        rule: "w".into(),
        op: Op::Write,
        byte: BYTE,
        len: LEN,
        submitted_ns: submitted,
        pages: (0..16).map(page).collect(),
    };
    let wait = Request::AwaitHeld { rule: "w".into(), pages: 16, timeout_ms: 1000 };
    tape.line().ask(wait, Answer::Held { requests: vec![held], complete: true }, 200_000);
    submitted
}

fn release_held(tape: &mut Tape) -> (u64, u64) {
    tape.line();
    tape.on_disk(ledger::KIND_DISK_RELEASE, 41);
    tape.wait(3_000);
    let fetched = tape.now;
    tape.on_disk(ledger::KIND_DISK_FETCH, 41);
    tape.wait(90_000);
    let completed = tape.now;
    tape.on_disk(ledger::KIND_DISK_COMPLETE, 41);
    tape.ask(Request::ReleaseHeld { rule: "w".into() }, Answer::Released { holds: Vec::new() }, 20_000);
    let done = Outcome::Done { fact: Fact::Nothing };
    tape.line().step(Role::Act, Step::Join { job: "f".into(), timeout_ms: 1000 }, done, 1_900_000);
    (fetched, completed)
}

pub fn inflight_change() -> Story {
    let (record, result) = inflight_change_record();
    Story::of(&record, &result)
}

pub fn inflight_change_record() -> (CaseRecord, CaseResult) {
    let mut tape = Tape::new("inflight-change/xfs/pin/clean");
    tape.prepare();
    tape.pin();
    tape.dma(100);
    let submitted = fsync_held(&mut tape);
    tape.dma(101);
    let (fetched, completed) = release_held(&mut tape);
    tape.release(false);
    tape.remount();
    tape.compare("/mnt/a", BYTE, writer(Source::Dma, 101));
    tape.audit(Change::BeforeFetch, submitted, fetched, completed);
    tape.host_reads("/mnt/a", BYTE, writer(Source::Dma, 101));
    judged(tape.end(), Observation::Unstable)
}

pub fn reflink_bleed() -> Story {
    let (record, result) = reflink_bleed_record();
    Story::of(&record, &result)
}

pub fn reflink_bleed_record() -> (CaseRecord, CaseResult) {
    let mut tape = Tape::new("reflink-bleed/xfs/pin/dirty/pin-before");
    tape.prepare();
    tape.pin();
    tape.fsync();
    tape.line();
    let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
    tape.act(Step::Open { file: "b".into(), path: "/mnt/b".into(), flags }, 400_000);
    tape.act(Step::Reflink { from: "a".into(), to: "b".into() }, 1_200_000);
    tape.read(Role::Snapshot, "/mnt/b", writer(Source::Cpu, 1));
    tape.dma(100);
    tape.release(true);
    tape.line();
    let began = tape.now;
    tape.wait(300_000);
    tape.on_disk(ledger::KIND_DISK_SUBMIT, 57);
    tape.wait(2_000);
    tape.on_disk(ledger::KIND_DISK_FETCH, 57);
    tape.wait(80_000);
    tape.on_disk(ledger::KIND_DISK_COMPLETE, 57);
    tape.wait(900_000);
    tape.over(Role::Act, Step::Sync, Outcome::Done { fact: Fact::Nothing }, began);
    tape.remount();
    tape.compare("/mnt/a", BYTE, writer(Source::Dma, 100));
    tape.read(Role::CompareSnapshot, "/mnt/b", writer(Source::Dma, 100));
    tape.extents("/mnt/b", BYTE);
    tape.host_reads("/mnt/a", BYTE, writer(Source::Dma, 100));
    tape.host_reads("/mnt/b", BYTE, writer(Source::Dma, 100));
    judged(tape.end(), Observation::Bleed)
}

/// A device that can fault, and a page that is held on its way to the disk.
pub fn device_that_waits() -> Story {
    let mut tape = Tape::new("stable-pages/xfs/notifier/clean");
    tape.prepare();
    tape.mirror();
    tape.device_faults();
    tape.wait(1_000_000);
    tape.populate();
    tape.dma(100);
    tape.invalidate();
    fsync_held(&mut tape);
    tape.wait(1_000_000);
    tape.device_faults();
    tape.wait(40_000_000);
    release_held(&mut tape);
    tape.wait(1_000_000);
    tape.populate();
    tape.dma(101);
    tape.release(false);
    tape.remount();
    tape.compare("/mnt/a", BYTE, writer(Source::Dma, 101));
    let (record, result) = judged(tape.end(), Observation::Intact);
    Story::of(&record, &result)
}

pub fn stable_pages() -> Story {
    let (record, result) = stable_pages_record();
    Story::of(&record, &result)
}

pub fn stable_pages_record() -> (CaseRecord, CaseResult) {
    let mut tape = Tape::new("stable-pages/xfs/pin/clean");
    tape.prepare();
    tape.pin();
    tape.dma(100);
    fsync_held(&mut tape);
    let fill = Fill { run: RUN, generation: 2, cell_bytes: 512, source: Source::Cpu };
    let store = Step::Store { map: "m".into(), offset: 0, len: LEN, fill };
    tape.line().act(Step::Spawn { job: "s".into(), step: Box::new(store) }, 200_000);
    tape.wait(40_000_000);
    let stack = ["io_schedule", "folio_wait_bit_common", "folio_wait_stable", "iomap_page_mkwrite"];
    tape.job_state("s", 'D', &stack, false, 40_000);
    release_held(&mut tape);
    let done = Outcome::Done { fact: Fact::Nothing };
    tape.line().step(Role::Act, Step::Join { job: "s".into(), timeout_ms: 1000 }, done, 100_000);
    tape.release(false);
    tape.remount();
    tape.compare("/mnt/a", BYTE, writer(Source::Cpu, 2));
    judged(tape.end(), Observation::Intact)
}
