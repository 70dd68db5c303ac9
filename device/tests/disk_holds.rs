// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests that a rule keeps: what goes on meanwhile, what they bring to the disk, and how they end.

mod driver;

use driver::{Blk, Control, Daemon, Done, EVENT_IDX, INDIRECT, VERSION_1, wait_for};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{
    Action, AuditReport, Change, Fetch, HoldEnd, HoldReport, InFlight, Match, Op, Rule,
};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const OK: Done = Done { status: 0, written: 1 };
const IOERR: Done = Done { status: 1, written: 1 };

fn start() -> (Daemon, Control, Blk) {
    let daemon = Daemon::with_disk(4 * MIB, |_| {});
    let mut control = daemon.control();
    control.order(&Request::Case { run: 7 });
    let blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT | 1 << 9, 2);
    (daemon, control, blk)
}

/// Keep requests of a kind that touch the first MiB.
fn hold(control: &mut Control, op: Op, fetch: Fetch) {
    let matching = Match { op: Some(op), range: Some((0, MIB)), ..Match::default() };
    let action = Action::Hold { fetch, cap_ms: 60_000 };
    control.order(&Request::AddRule(Rule { name: "w".into(), disk: 0, matching, action, limit: 0 }));
}

fn await_held(control: &mut Control, pages: u64) {
    let request = Request::AwaitHeld { rule: "w".into(), pages, timeout_ms: 60_000 };
    match control.ask(&request) {
        Answer::Held { requests, complete } => assert!(complete, "{requests:?}"),
        other => panic!("{other:?}"),
    }
}

fn release(control: &mut Control) -> Vec<HoldReport> {
    match control.ask(&Request::ReleaseHeld { rule: "w".into() }) {
        Answer::Released { holds } => holds,
        other => panic!("{other:?}"),
    }
}

fn audit(control: &mut Control) -> AuditReport {
    match control.ask(&Request::Audit) {
        Answer::Audit(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_held_write_is_in_nobodys_way() {
    let (daemon, mut control, mut blk) = start();
    hold(&mut control, Op::Write, Fetch::Late);
    let held = blk.start_write(0, 0, &[1; 8192]);
    await_held(&mut control, 2);
    // Writes elsewhere, reads of the very place, flushes; on its queue and on the other.
    for _ in 0..100 {
        assert_eq!(blk.write_disk(4096, &[2; 4096]), 0);
        assert_eq!(blk.read_disk(0, 8192), [0; 8192]);
        assert_eq!(blk.flush(), 0);
        let slot = blk.start_flush(1);
        assert_eq!(blk.wait(1, slot), OK);
        let slot = blk.start_write_zeroes(1, 6000, 8, true);
        assert_eq!(blk.wait(1, slot), OK);
    }
    assert_eq!(blk.poll(0, held), None);
    let status = control.disk();
    assert_eq!((status.held, status.in_flight), (1, 1));
    assert!(daemon.image("disk")[..8192].iter().all(|byte| *byte == 0));
    let holds = release(&mut control);
    assert_eq!(holds.len(), 1);
    assert_eq!((holds[0].end, holds[0].byte, holds[0].len), (HoldEnd::Released, 0, 8192));
    // The answer to the release comes after the completion.
    assert_eq!(blk.poll(0, held), Some(OK));
    assert_eq!(blk.read_disk(0, 8192), [1; 8192]);
    assert_eq!(control.disk().held, 0);
}

#[test]
fn when_the_bytes_are_taken_decides_what_is_on_the_disk() {
    let all = |byte| vec![byte; 4096];
    let cases = [
        (Fetch::Late, all(2), Change::BeforeFetch),
        (Fetch::Early, all(1), Change::AfterFetch),
        (Fetch::Split, [[1; 2048], [2; 2048]].concat(), Change::Torn),
    ];
    for (fetch, on_disk, change) in cases {
        let (daemon, mut control, mut blk) = start();
        hold(&mut control, Op::Write, fetch);
        let held = blk.start_write(0, 8, &all(1));
        await_held(&mut control, 1);
        blk.write(blk.data_at(0, held), &all(2));
        release(&mut control);
        assert_eq!(blk.wait(0, held), OK);
        assert!(daemon.image("disk")[4096..8192] == on_disk, "{fetch:?}");
        let report = audit(&mut control);
        assert_eq!((report.writes, report.pages, report.hits.len()), (1, 1, 1), "{fetch:?}");
        let hit = &report.hits[0];
        assert_eq!((hit.change, hit.byte, hit.differing_bytes), (change, 4096, 4096), "{fetch:?}");
        assert_eq!(hit.gpa, blk.data_at(0, held));
        assert_eq!(control.disk().hits_by_others, 1);
    }
}

#[test]
fn a_held_read_reads_what_is_there_at_its_release() {
    let (_daemon, mut control, mut blk) = start();
    hold(&mut control, Op::Read, Fetch::Late);
    let held = blk.start_read(0, 0, 4096);
    await_held(&mut control, 1);
    assert_eq!(blk.write_disk(0, &[5; 4096]), 0);
    assert_eq!(blk.read(blk.data_at(0, held), 4096), [0xdd; 4096], "not touched while it is held");
    release(&mut control);
    assert_eq!(blk.wait(0, held), Done { status: 0, written: 4097 });
    assert_eq!(blk.read(blk.data_at(0, held), 4096), [5; 4096]);
}

#[test]
fn a_held_flush_and_a_held_discard_are_done_at_their_release() {
    let (daemon, mut control, mut blk) = start();
    assert_eq!(blk.write_disk(0, &[1; 4096]), 0);
    hold(&mut control, Op::WriteZeroes, Fetch::Late);
    let zeroes = blk.start_write_zeroes(0, 0, 8, false);
    wait_for("the request to be held", || control.disk().held == 1);
    assert_eq!(blk.read_disk(0, 4096), [1; 4096]);
    release(&mut control);
    assert_eq!(blk.wait(0, zeroes), OK);
    assert!(daemon.image("disk")[..4096].iter().all(|byte| *byte == 0));
    let any = Match { op: Some(Op::Flush), ..Match::default() };
    let action = Action::Hold { fetch: Fetch::Late, cap_ms: 60_000 };
    let rule = Rule { name: "f".into(), disk: 0, matching: any, action, limit: 1 };
    control.order(&Request::AddRule(rule));
    let flush = blk.start_flush(0);
    wait_for("the flush to be held", || control.disk().held == 1);
    assert_eq!(blk.flush(), 0, "the next one is not");
    assert!(matches!(control.ask(&Request::DropRule { rule: "f".into() }), Answer::Released { .. }));
    assert_eq!(blk.wait(0, flush), OK);
}

#[test]
fn a_rule_that_fails_requests_gives_errors_and_changes_nothing() {
    let (daemon, mut control, mut blk) = start();
    let matching = Match { op: Some(Op::Write), ..Match::default() };
    let rule = Rule { name: "e".into(), disk: 0, matching, action: Action::Fail, limit: 2 };
    control.order(&Request::AddRule(rule));
    assert_eq!([blk.write_disk(0, &[1; 512]), blk.write_disk(0, &[1; 512])], [1, 1]);
    assert!(daemon.image("disk")[..512].iter().all(|byte| *byte == 0));
    assert_eq!(blk.write_disk(0, &[1; 512]), 0, "after its limit");
    assert_eq!(control.disk().errors, 2);
}

#[test]
fn a_driver_that_takes_a_queue_back_gets_its_held_requests() {
    let (daemon, mut control, mut blk) = start();
    hold(&mut control, Op::Write, Fetch::Late);
    let slots: Vec<_> = (0..10).map(|i| blk.start_write(0, i * 8, &[1; 4096])).collect();
    await_held(&mut control, 10);
    let begin = Instant::now();
    assert_eq!(blk.stop_queue(0), 10);
    assert!(begin.elapsed() < Duration::from_secs(20), "it did not wait for the cap of the hold");
    for slot in slots {
        assert_eq!(blk.poll(0, slot), Some(IOERR));
    }
    assert!(daemon.image("disk")[..40_960].iter().all(|byte| *byte == 0));
    let report = audit(&mut control);
    assert!(report.holds.len() == 10 && report.holds.iter().all(|hold| hold.end == HoldEnd::Dropped));
    blk.restart();
    let held = blk.start_write(0, 0, &[3; 4096]);
    await_held(&mut control, 1);
    release(&mut control);
    assert_eq!(blk.wait(0, held), OK);
}

#[test]
fn a_guest_that_dies_leaves_nothing_held() {
    let (daemon, mut control, mut blk) = start();
    hold(&mut control, Op::Write, Fetch::Late);
    for i in 0..10 {
        blk.start_write((i % 2) as usize, i * 8, &[1; 4096]);
    }
    await_held(&mut control, 10);
    drop(blk);
    wait_for("the requests to be dropped", || {
        let status = control.disk();
        (status.held, status.in_flight) == (0, 0)
    });
    assert!(daemon.image("disk").iter().all(|byte| *byte == 0));
    let mut blk = daemon.connect_disk("disk", VERSION_1, 2);
    control.order(&Request::Case { run: 8 });
    assert_eq!(blk.write_disk(0, &[1; 512]), 0);
    daemon.stop().unwrap();
}

#[test]
fn memory_that_leaves_the_guest_under_a_hold_is_an_error_at_the_release() {
    for op in [Op::Write, Op::Read] {
        let (_daemon, mut control, mut blk) = start();
        hold(&mut control, op, Fetch::Late);
        let held =
            if op == Op::Write { blk.start_write(1, 0, &[1; 4096]) } else { blk.start_read(1, 0, 4096) };
        await_held(&mut control, 1);
        // A hold keeps no map change waiting. The rings and the buffers of slots below stay.
        let begin = Instant::now();
        let end = blk.data_at(1, held);
        blk.set_memory(end);
        assert!(begin.elapsed() < Duration::from_secs(20));
        release(&mut control);
        assert_eq!(blk.wait(1, held), IOERR, "{op:?}");
        blk.set_memory(driver::RAM_BYTES);
        assert_eq!(blk.write_disk(4096, &[1; 512]), 0);
    }
}

#[test]
fn a_power_cut_drops_or_tears_what_is_held() {
    for (in_flight, torn) in [(InFlight::Drop, 0), (InFlight::Tear, 4096)] {
        let (_daemon, mut control, mut blk) = start();
        assert_eq!(blk.write_disk(0, &[1; 8192]), 0);
        hold(&mut control, Op::Write, Fetch::Late);
        let held = blk.start_write(0, 0, &[2; 8192]);
        let single = blk.start_write(1, 64, &[2; 512]);
        await_held(&mut control, 3);
        control.order(&Request::PowerCut { disk: 0, in_flight });
        release(&mut control);
        assert_eq!((blk.wait(0, held), blk.wait(1, single)), (OK, OK), "the disk goes on");
        assert_eq!(blk.read_disk(0, 8192), [2; 8192]);
        control.order(&Request::Restore { disk: 0 });
        let bytes = blk.read_disk(0, 8192);
        assert!(
            bytes[..torn].iter().all(|b| *b == 2) && bytes[torn..].iter().all(|b| *b == 1),
            "{in_flight:?}"
        );
        assert_eq!(blk.read_disk(64, 512), [0; 512], "one sector is all or nothing");
    }
}

#[test]
fn the_daemon_ends_under_a_hold() {
    let (daemon, mut control, mut blk) = start();
    hold(&mut control, Op::Write, Fetch::Late);
    blk.start_write(0, 0, &[1; 4096]);
    await_held(&mut control, 1);
    let begin = Instant::now();
    daemon.stop().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20));
}
