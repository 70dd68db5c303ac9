// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct reads as pins.

use super::{RUN, asleep, between, case_of, drive, drive_both, env, over, refuse};
use crate::plan::Case;
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Action, MAX_HOLD_MS, Match, Op, Rule};
use std::cell::Cell;

const STEPS: &str = r#""mkfs", "mount", "create", "map", "pin", { do = "dma", generation = 100, passes = 2 },
    "prove-dma", "query-region", { do = "dma", program = "q", first_page = 1, generation = 200, wait = false },
    { do = "dma-wait", program = "q" }, "release", "remount", "compare""#;

fn dio(steps: &str) -> Case {
    case_of("ext4", "dio", "dirty", steps, "intact")
}

#[test]
fn a_pin_is_a_read_that_the_second_disk_holds() {
    let (_, guest) = drive(&dio(STEPS), &|_| None);
    let asked = between(&guest, "add-rule", "umount");
    let wanted = [
        "add-rule",
        "spawn",
        "await-held",
        "held-dma",
        "held-dma",
        "held-dma",
        "read-mapping",
        "held-dma",
        "release-held",
        "drop-rule",
        "join",
        "unmap",
        "close",
        "umount",
    ];
    assert_eq!(asked, wanted);
    let name = "dio.r.0".to_owned();
    let rule = Rule {
        name: name.clone(),
        disk: 1,
        matching: Match { op: Some(Op::Read), range: Some((0, 8192)), ..Match::default() },
        action: Action::Hold { fetch: Default::default(), cap_ms: MAX_HOLD_MS },
        limit: 0,
    };
    assert_eq!(guest.requests[1], Request::AddRule(rule));
    let read = Step::ReadDirect {
        map: "m".into(),
        offset: 0,
        len: 8192,
        device: "/dev/vdb".into(),
        device_offset: 0,
    };
    assert!(guest.steps.contains(&Step::Spawn { job: name, step: Box::new(read) }));
}

#[test]
fn a_region_is_announced_and_written_by_the_disk_generation_by_generation() {
    let (_, guest) = drive(&dio(STEPS), &|_| None);
    let dma: Vec<(u32, u64, u64, u64)> = guest
        .requests
        .iter()
        .filter_map(|request| match request {
            Request::HeldDma {
                region,
                file_offset: 0,
                offset,
                len,
                generation,
                run: RUN,
                cell_bytes: 512,
                ..
            } => Some((*region, *offset, *len, *generation)),
            _ => None,
        })
        .collect();
    let region = 0x8000_0001;
    let wanted =
        [(region, 0, 0, 0), (region, 0, 8192, 100), (region, 0, 8192, 101), (region, 4096, 4096, 200)];
    assert_eq!(dma, wanted);
}

#[test]
fn two_pins_have_rules_ranges_and_numbers_of_their_own() {
    let steps = r#""mkfs", "mount", "create", "map", { do = "pin", pages = 1 },
        { do = "pin", region = "s", first_page = 1 }, { do = "dma", generation = 100 },
        { do = "dma", region = "s", program = "q", generation = 200 }, "release", { do = "release", region = "s" },
        "remount", "compare""#;
    let (_, guest) = drive(&dio(steps), &|_| None);
    let ranges: Vec<Option<(u64, u64)>> = guest
        .requests
        .iter()
        .filter_map(|request| match request {
            Request::AddRule(rule) => Some(rule.matching.range),
            _ => None,
        })
        .collect();
    assert_eq!(ranges, [Some((0, 4096)), Some((4096, 4096))]);
    let of_second = guest.requests.iter().find_map(|request| match request {
        Request::HeldDma { rule, region: 0x8000_0002, file_offset, .. } => {
            Some((rule.as_str(), *file_offset))
        }
        _ => None,
    });
    assert_eq!(of_second, Some(("dio.s.1", 4096)));
}

#[test]
fn a_case_with_a_pin_of_the_drivers_beside_asks_the_driver() {
    let steps = STEPS.replace("\"map\", \"pin\"", "\"map\", { do = \"pin\", mode = \"pin\" }");
    let (_, guest) = drive(&dio(&steps), &|_| None);
    assert!(guest.asked.contains(&"query-region".to_owned()) && guest.asked.contains(&"dma-wait".to_owned()));
    assert!(!guest.asked.contains(&"held-dma".to_owned()));
}

/// No read comes to the disk.
fn none_held(request: &Request) -> Option<Result<Answer, String>> {
    match request {
        Request::AwaitHeld { .. } => Some(Ok(Answer::Held { requests: Vec::new(), complete: false })),
        _ => None,
    }
}

#[test]
fn a_read_that_the_kernel_refuses_is_found_by_its_job() {
    let (record, guest) = drive_both(
        &dio(STEPS),
        env(),
        &|step| match step {
            Step::Settle { .. } => Some(Outcome::Done { fact: Fact::Job(over()) }),
            Step::Join { .. } => refuse("EFAULT"),
            _ => None,
        },
        &none_held,
    );
    let wanted = ["spawn", "await-held", "settle", "join", "drop-rule", "cleanup"];
    assert_eq!(between(&guest, "spawn", "cleanup"), wanted);
    let seen = crate::verdict::observe(&record);
    assert_eq!(seen.problem, None);
    assert_eq!(
        (seen.headline().map(|word| word.as_str()), seen.errno.as_deref()),
        (Some("refused"), Some("EFAULT"))
    );
}

#[test]
fn a_read_that_is_late_is_awaited_again_and_no_miss_is_kept() {
    let asked = Cell::new(0);
    let (record, guest) = drive_both(&dio(STEPS), env(), &|_| None, &|request| match request {
        Request::AwaitHeld { .. } => {
            asked.set(asked.get() + 1);
            let complete = asked.get() == 3;
            Some(Ok(Answer::Held { requests: Vec::new(), complete }))
        }
        _ => None,
    });
    let wanted = ["spawn", "await-held", "settle", "await-held", "settle", "await-held", "held-dma"];
    assert_eq!(between(&guest, "spawn", "held-dma"), wanted);
    assert!(
        crate::verdict::observe(&record).problem.is_none_or(|problem| !problem.message.contains("awaited"))
    );
}

#[test]
fn a_read_that_never_comes_is_given_up() {
    let (record, guest) = drive_both(
        &dio(STEPS),
        env(),
        &|step| match step {
            Step::Settle { .. } => Some(Outcome::Done { fact: Fact::Job(asleep("io_schedule")) }),
            _ => None,
        },
        &none_held,
    );
    let waits = guest.requests.iter().filter(|request| matches!(request, Request::AwaitHeld { .. })).count();
    assert_eq!(waits, 15, "of one second each");
    assert_eq!(guest.asked.iter().filter(|name| *name == "drop-rule").count(), 1);
    let problem = crate::verdict::observe(&record).problem.expect("a problem");
    assert_eq!(problem.message, "rule `dio.r.0` held 0 pages in 0 requests in time, and 2 were awaited");
}
