// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of the disks, losses of power, other devices, and the frame that audited disks get.

use super::{Guest, RUN, UPDATE, between, case, case_of, drive, drive_both, env, refuse};
use crate::machine::{CaseEnv, Lacks};
use crate::plan::Case;
use crate::record::{DiskLedgerEntry, Evidence};
use longpin_proto::agent::Step;
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Action, Fetch, InFlight, Match, Op, Rule};
use longpin_wire::ledger;

const HELD: &str = r#""mkfs", "mount", "create", { do = "hold-write", fetch = "early" },
    { do = "write", generation = 5, job = "wr" }, { do = "await-held", pages = 2 }, "release-write",
    { do = "join", job = "wr" }, "drop-rule", "remount", "compare""#;

fn unaudited() -> CaseEnv {
    CaseEnv { audited: false, ..env() }
}

fn request(guest: &Guest, is: impl Fn(&Request) -> bool) -> &Request {
    guest.requests.iter().find(|request| is(request)).expect("a request")
}

#[test]
fn a_case_is_named_to_the_disks_first_and_audited_before_the_evidence() {
    let (record, guest) = drive(&case(UPDATE), &|_| None);
    assert_eq!(guest.asked[0], "case");
    assert_eq!(guest.requests[0], Request::Case { run: RUN });
    let end = between(&guest, "cleanup", "fsck ext4");
    assert_eq!(end, ["cleanup", "pin-counters", "kernel-log", "audit", "disks", "fsck ext4"]);
    let last: Vec<&Evidence> = record.evidence.iter().rev().take(3).collect();
    assert!(matches!(
        last[..],
        [Evidence::Ledger { .. }, Evidence::Image { .. }, Evidence::Fsck(report)] if report.fs == "ext4"
    ));
}

#[test]
fn an_ordinary_case_asks_nothing_of_disks_that_are_not_ours() {
    let (record, guest) = drive_both(&case(UPDATE), unaudited(), &|_| None, &|_| None);
    assert_eq!(guest.requests, []);
    assert!(guest.asked.contains(&"fsck ext4".to_owned()), "the host sees that image as well");
    assert_eq!(crate::verdict::observe(&record).audit, None);
}

#[test]
fn a_case_that_rules_the_disk_is_skipped_without_one() {
    let dio =
        r#""mkfs", "mount", "create", "map", "pin", { do = "dma", generation = 100 }, "release", "compare""#;
    for (case, line) in [(case(HELD), 9), (case_of("ext4", "dio", "dirty", dio, "intact"), 9)] {
        let (record, guest) = drive_both(&case, unaudited(), &|_| None, &|_| None);
        assert!(guest.asked.is_empty(), "{:?}", guest.asked);
        let message =
            format!("line {line} of the scenario needs the auditing disk; run it with --disk audited");
        assert_eq!(record.evidence, [Evidence::Skip { message }]);
    }
}

#[test]
fn a_case_that_needs_what_the_kernel_has_not_is_skipped_with_the_reason() {
    let no_driver = |modules: &[&str]| CaseEnv {
        lacks: Lacks {
            pinner: true,
            driver: Some("kernel 6.1 has no Rust".into()),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
        },
        ..env()
    };
    let skipped = |case: &Case, env: CaseEnv| {
        let (record, guest) = drive_both(case, env, &|_| None, &|_| None);
        match record.evidence.as_slice() {
            [Evidence::Skip { message }] => {
                assert!(guest.asked.is_empty(), "{:?}", guest.asked);
                Some(message.clone())
            }
            _ => None,
        }
    };
    let pins =
        r#""mkfs", "mount", "create", "map", "pin", { do = "dma", generation = 100 }, "release", "compare""#;
    let of = |pin: &str, steps: &str| case_of("ext4", pin, "dirty", steps, "intact");
    let wanted = Some("line 9 of the scenario needs the driver; kernel 6.1 has no Rust".to_owned());
    assert_eq!(skipped(&of("longterm-ro", pins), no_driver(&[])), wanted);
    assert_eq!(
        skipped(&of("dio", &pins.replace(r#""pin""#, r#"{ do = "pin", mode = "get" }"#)), no_driver(&[])),
        wanted
    );
    assert_eq!(skipped(&of("dio", pins), no_driver(&["xfs"])), None);
    assert_eq!(skipped(&of("longterm-ro", pins), env()), None);
    let copied = pins.replace("generation = 100", "generation = 100, pages = 1");
    assert_eq!(skipped(&of("vm-writev", &copied), no_driver(&[])), None);
    let wanted = "line 9 of the scenario needs a program that pins; name yours: --pin exec:PATH";
    assert_eq!(skipped(&of("exec", pins), no_driver(&[])).as_deref(), Some(wanted));
    let with_pinner = CaseEnv { lacks: Lacks { pinner: false, ..no_driver(&[]).lacks }, ..env() };
    assert_eq!(skipped(&of("exec", pins), with_pinner), None);
    let wanted =
        "line 9 of the scenario pins by vfio_pci, which the kernel has neither as a module nor built in";
    assert_eq!(skipped(&of("vfio", pins), no_driver(&["vfio_pci"])).as_deref(), Some(wanted));
    assert_eq!(skipped(&of("vfio", pins), no_driver(&[])), None);
    let no_fs = skipped(&of("dio", pins), no_driver(&["ext4"]));
    assert_eq!(no_fs.as_deref(), Some("the kernel has no ext4, neither as a module nor built in"));
    let load = r#"{ do = "load-module", module = "dm-integrity" }, "mkfs", "mount", "create", "compare""#;
    let no_module = skipped(&case_of("ext4", "none", "none", load, "intact"), no_driver(&["dm_integrity"]));
    assert_eq!(
        no_module.as_deref(),
        Some("line 9 of the scenario loads dm-integrity, which the kernel has not as a module")
    );
    assert!(of("get", pins).needs_driver() && !of("dio", pins).needs_driver());
}

#[test]
fn a_hold_is_ruled_awaited_let_go_and_dropped() {
    let (_, guest) = drive(&case(HELD), &|_| None);
    let rule = Rule {
        name: "w".into(),
        disk: 0,
        matching: Match { op: Some(Op::Write), stamped: Some(RUN), ..Match::default() },
        action: Action::Hold { fetch: Fetch::Early, cap_ms: 20_000 },
        limit: 0,
    };
    assert_eq!(*request(&guest, |r| matches!(r, Request::AddRule(_))), Request::AddRule(rule));
    let awaited = Request::AwaitHeld { rule: "w".into(), pages: 2, timeout_ms: 15_000 };
    assert_eq!(*request(&guest, |r| matches!(r, Request::AwaitHeld { .. })), awaited);
    let asked = between(&guest, "add-rule", "drop-rule");
    let wanted = ["add-rule", "open", "spawn", "await-held", "release-held", "join", "close", "drop-rule"];
    assert_eq!(asked, wanted);
    assert!(!between(&guest, "umount", "audit").contains(&"drop-rule".to_owned()), "it was dropped before");
}

#[test]
fn caps_and_waits_are_stretched_as_deadlines_are() {
    let slow = CaseEnv { patience_percent: 300, ..env() };
    let (_, guest) = drive_both(&case(HELD), slow, &|_| None, &|_| None);
    assert!(matches!(
        request(&guest, |r| matches!(r, Request::AddRule(_))),
        Request::AddRule(Rule { action: Action::Hold { cap_ms: 60_000, .. }, .. })
    ));
    assert!(matches!(
        request(&guest, |r| matches!(r, Request::AwaitHeld { .. })),
        Request::AwaitHeld { timeout_ms: 45_000, .. }
    ));
}

#[test]
fn each_kind_of_rule_says_what_it_does() {
    let steps = r#""mkfs", "mount", "create", { do = "hold-write", match = "pinned", cap_ms = 500 }, "drop-rule",
        { do = "hold-read", disk = 1 }, { do = "drop-rule", rule = "r" },
        { do = "delay-write", ms = 7, fetch = "split", match = "any" }, "drop-rule",
        { do = "fail-write", limit = 3 }, "drop-rule", "remount", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let rules: Vec<Rule> = guest
        .requests
        .iter()
        .filter_map(|request| match request {
            Request::AddRule(rule) => Some(rule.clone()),
            _ => None,
        })
        .collect();
    let rule = |name: &str, disk, op, action| Rule {
        name: name.into(),
        disk,
        matching: Match { op: Some(op), ..Match::default() },
        action,
        limit: 0,
    };
    let held = Action::Hold { fetch: Fetch::Late, cap_ms: 500 };
    let mut pinned = rule("w", 0, Op::Write, held);
    pinned.matching.pinned = Some(RUN);
    let mut failing = rule("w", 0, Op::Write, Action::Fail);
    (failing.matching.stamped, failing.limit) = (Some(RUN), 3);
    let wanted = [
        pinned,
        rule("r", 1, Op::Read, Action::Hold { fetch: Fetch::Late, cap_ms: 20_000 }),
        rule("w", 0, Op::Write, Action::Delay { fetch: Fetch::Split, ms: 7 }),
        failing,
    ];
    assert_eq!(rules, wanted);
}

#[test]
fn what_a_broken_off_case_holds_is_let_go_before_the_clean_up() {
    let (_, guest) = drive(&case(HELD), &|step| match step {
        Step::Spawn { .. } => refuse("ENOMEM"),
        _ => None,
    });
    assert_eq!(between(&guest, "spawn", "cleanup"), ["spawn", "drop-rule", "cleanup"]);
    assert!(!guest.asked.contains(&"fsck ext4".to_owned()));
}

#[test]
fn writes_that_do_not_come_end_the_acts() {
    let missing = |request: &Request| match request {
        Request::AwaitHeld { .. } => Some(Ok(Answer::Held { requests: Vec::new(), complete: false })),
        _ => None,
    };
    let (record, guest) = drive_both(&case(HELD), env(), &|_| None, &missing);
    assert_eq!(between(&guest, "await-held", "cleanup"), ["await-held", "drop-rule", "cleanup"]);
    let problem = crate::verdict::observe(&record).problem.expect("a problem");
    assert_eq!(problem.message, "rule `w` held 0 pages in 0 requests in time, and 2 were awaited");
}

#[test]
fn a_disk_that_refuses_ends_the_acts() {
    let unable = |request: &Request| match request {
        Request::AddRule(_) => Some(Err("no such disk".to_owned())),
        _ => None,
    };
    let (record, guest) = drive_both(&case(HELD), env(), &|_| None, &unable);
    assert!(!guest.asked.contains(&"spawn".to_owned()));
    let problem = crate::verdict::observe(&record).problem.expect("a problem");
    assert_eq!(problem.message, "the disk did not do `add-rule`: no such disk");
}

#[test]
fn a_loss_of_power_is_noted_and_put_back_while_nothing_is_mounted() {
    let steps = r#""mkfs", "mount", "create", { do = "power-cut", in_flight = "tear" }, "restore", "mount", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let cut = Request::PowerCut { disk: 0, in_flight: InFlight::Tear };
    assert_eq!(*request(&guest, |r| matches!(r, Request::PowerCut { .. })), cut);
    let wanted = ["power-cut", "close", "umount", "drop-caches", "restore"];
    assert_eq!(between(&guest, "power-cut", "restore"), wanted);
    let unmounted = r#""mkfs", "mount", "create", "power-cut", "umount", "restore", "mount", "compare""#;
    let (_, guest) = drive(&case(unmounted), &|_| None);
    assert_eq!(between(&guest, "umount", "restore"), ["umount", "drop-caches", "restore"]);
}

#[test]
fn on_another_device_the_host_looks_at_nothing() {
    let steps =
        r#"{ do = "use-device", path = "/dev/mapper/i" }, "mkfs", "mount", "create", "remount", "compare""#;
    let (record, guest) = drive(&case(steps), &|_| None);
    let devices: Vec<&str> = guest
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Mkfs { device, .. } | Step::Mount { device, .. } => Some(device.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(devices, ["/dev/mapper/i"; 3]);
    assert!(guest.asked.contains(&"extents".to_owned()), "they tell what a sector in the kernel log is");
    assert!(!guest.asked.contains(&"fsck ext4".to_owned()));
    assert!(!record.evidence.iter().any(|piece| matches!(piece, Evidence::Image { .. })));
    assert_eq!(crate::verdict::observe(&record).problem, None);
}

#[test]
fn entries_of_accelerator_and_disks_are_told_apart() {
    let entry = |time_ns, kind, run| ledger::Entry {
        time_ns,
        kind,
        region: 1,
        dma_addr: 77,
        len: 1 << 20,
        generation: 4096,
        file_offset: 0x5000,
        run,
        program: 1,
        detail: 0,
    };
    let mut machine = crate::machine::CaseMachine::new(&case(UPDATE), env());
    machine.feed(crate::machine::Input::Ledger(vec![
        entry(3, ledger::KIND_DISK_COMPLETE, RUN),
        entry(2, ledger::KIND_DMA_WRITE, RUN),
        entry(1, ledger::KIND_DISK_SUBMIT, RUN),
        entry(1, ledger::KIND_DISK_SUBMIT, RUN + 1),
    ]));
    let record = machine.into_record();
    let Some(Evidence::Ledger { entries, disk }) = record.evidence.last() else { panic!("no ledger") };
    assert_eq!(entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [ledger::KIND_DMA_WRITE]);
    let submit = DiskLedgerEntry {
        time_ns: 1,
        kind: ledger::KIND_DISK_SUBMIT,
        disk: 1,
        request: 77,
        byte: 1 << 20,
        len: 4096,
        gpa: 0x5000,
        run: RUN,
        op: 1,
        detail: 0,
    };
    assert_eq!(disk[0], submit);
    assert_eq!(disk[1].kind, ledger::KIND_DISK_COMPLETE);
}
