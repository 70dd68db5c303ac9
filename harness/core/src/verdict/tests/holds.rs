// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of the disk that did not do what the argument needs.

use super::super::{Cause, Problem, observe, spoils_boot};
use super::tale::{Tale, by_dma};
use super::verdict;
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{DiskStatus, Held, HoldEnd, HoldReport, Op, PageRef};

fn problem(mut tale: Tale) -> Problem {
    tale.compare("a", |_| by_dma(101));
    verdict(tale).problem.expect("a problem")
}

fn hold(request: u64, end: HoldEnd) -> HoldReport {
    HoldReport {
        rule: "w".into(),
        request,
        disk: 0,
        op: Op::Write,
        byte: 1 << 20,
        len: 65536,
        submitted_ns: 1_000_000_000,
        ended_ns: 21_000_000_000,
        end,
    }
}

#[test]
fn a_hold_that_reached_its_cap_names_rule_pages_and_place() {
    let mut tale = Tale::of_an_update();
    let holds = vec![hold(1, HoldEnd::Released), hold(2, HoldEnd::Cap)];
    tale.disk(Request::DropRule { rule: "w".into() }, Answer::Released { holds });
    let Problem { cause, message } = problem(tale);
    assert_eq!(cause, Cause::Unproven);
    assert_eq!(
        message,
        "rule `w` kept a request of 16 pages at byte 1048576 of disk 0 until its cap, 20000 ms, and nobody had \
         released it"
    );
}

#[test]
fn holds_that_were_released_are_in_the_result_once() {
    let mut tale = Tale::of_an_update();
    let holds = vec![hold(1, HoldEnd::Released)];
    tale.disk(Request::ReleaseHeld { rule: "w".into() }, Answer::Released { holds: holds.clone() });
    tale.hit(0, longpin_proto::disk::Change::BeforeFetch, longpin_proto::disk::Author::Dma);
    tale.audit.as_mut().expect("an audit").holds = holds;
    tale.compare("a", |_| by_dma(101));
    let holds = verdict(tale).audit.expect("an audit").holds;
    assert_eq!(holds.len(), 1);
    assert_eq!((holds[0].sector, holds[0].bytes, holds[0].held_us), (2048, 65536, 20_000_000));
}

#[test]
fn what_was_not_held_in_time_is_unproven() {
    let page = |gpa| PageRef { byte: gpa, gpa, len: 4096, region: None, file_offset: Some(gpa) };
    let held = Held {
        request: 1,
        disk: 0,
        rule: "w".into(),
        op: Op::Write,
        byte: 0,
        len: 8192,
        submitted_ns: 1,
        pages: vec![page(0), page(4096)],
    };
    let mut tale = Tale::of_an_update();
    tale.disk(
        Request::AwaitHeld { rule: "w".into(), pages: 16, timeout_ms: 15_000 },
        Answer::Held { requests: vec![held], complete: false },
    );
    let Problem { cause, message } = problem(tale);
    assert_eq!(cause, Cause::Unproven);
    assert_eq!(message, "rule `w` held 2 pages in 1 requests in time, and 16 were awaited");
}

#[test]
fn a_disk_that_does_not_do_it_is_our_fault() {
    let request = || Request::DropRule { rule: "w".into() };
    let no_rule = Answer::Error { message: "rule `w` is unknown".into() };
    for (answer, part) in [
        (Ok(no_rule), "the disk did not do `drop-rule`: rule `w` is unknown"),
        (Err("no answer in 20 s".to_owned()), "the disk did not do `drop-rule`: no answer in 20 s"),
        (Ok(Answer::Ok), "the disk answered `drop-rule` with Ok"),
    ] {
        let mut tale = Tale::of_an_update();
        tale.disk_says(request(), answer);
        assert_eq!(problem(tale), Problem { cause: Cause::Infra, message: part.into() });
    }
}

#[test]
fn an_image_that_fails_is_no_evidence_of_the_guest() {
    let mut tale = Tale::of_an_update();
    let full = DiskStatus { last_error: Some("ENOSPC at byte 4096".into()), ..DiskStatus::default() };
    tale.disk(Request::Disks, Answer::Disks { disks: vec![DiskStatus::default(), full] });
    let message = "disk 1 failed: ENOSPC at byte 4096".into();
    assert_eq!(problem(tale), Problem { cause: Cause::Infra, message });
}

#[test]
fn a_boot_whose_disks_fail_takes_no_further_case() {
    let full = DiskStatus { last_error: Some("ENOSPC".into()), ..DiskStatus::default() };
    for (request, answer, spoils) in [
        (Request::Disks, Ok(Answer::Disks { disks: vec![full] }), true),
        (Request::Disks, Ok(Answer::Disks { disks: vec![DiskStatus::default()] }), false),
        (Request::Audit, Err("no answer in 20 s".to_owned()), true),
    ] {
        let mut tale = Tale::of_an_update();
        tale.disk_says(request, answer);
        tale.compare("a", |_| by_dma(101));
        let record = tale.end();
        assert_eq!(spoils_boot(&record, &observe(&record)), spoils);
    }
}
