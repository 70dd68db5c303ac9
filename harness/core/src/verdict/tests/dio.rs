// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Direct reads as pins: no driver, and DMA by the disk that holds the read.

use super::super::Cause;
use super::tale::{CELL, LEN, RUN, Tale, by_dma, cpu, errno};
use super::{verdict, words};
use crate::record::{LedgerEntry, Role};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::{Held, Op};
use longpin_wire::ledger;

const NAME: &str = "dio.r.0";

fn read_direct() -> Step {
    Step::ReadDirect { map: "m".into(), offset: 0, len: LEN, device: "/dev/vdb".into(), device_offset: 0 }
}

fn held(byte: u64, len: u64) -> Held {
    let (request, rule) = (byte + 1, NAME.to_owned());
    Held { request, disk: 1, rule, op: Op::Read, byte, len, submitted_ns: 1, pages: Vec::new() }
}

fn of_a_read(requests: Vec<Held>) -> Tale {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.spawn(NAME, read_direct());
    tale.disk(
        Request::AwaitHeld { rule: NAME.into(), pages: 2, timeout_ms: 1000 },
        Answer::Held { requests, complete: true },
    );
    tale
}

/// DMA over a part of the region, as the disk reports it.
fn dma(tale: &mut Tale, offset: u64, len: u64, generation: u64) {
    for page in (offset..offset + len).step_by(4096) {
        tale.device_writes(generation, page);
    }
    tale.disk(
        Request::HeldDma {
            rule: NAME.into(),
            region: 0x8000_0001,
            file_offset: 0,
            offset,
            len,
            generation,
            run: RUN,
            cell_bytes: CELL,
        },
        Answer::Ok,
    );
}

fn release(tale: &mut Tale) {
    tale.disk(Request::ReleaseHeld { rule: NAME.into() }, Answer::Released { holds: Vec::new() });
    tale.join(NAME, Fact::Nothing);
    tale.remount();
}

#[test]
fn dma_into_a_held_read_is_what_the_file_should_hold() {
    for (found, word) in [(by_dma(100), "intact"), (cpu(1), "lost")] {
        let mut tale = of_a_read(vec![held(0, LEN)]);
        dma(&mut tale, 0, LEN, 100);
        tale.prove_dma(|_| by_dma(100));
        release(&mut tale);
        tale.compare("a", |_| found.clone());
        let seen = verdict(tale);
        assert_eq!(words(&seen), [word]);
        assert_eq!(seen.generations.device, Some(100));
    }
}

#[test]
fn a_region_that_is_only_announced_was_not_written() {
    let mut tale = of_a_read(vec![held(0, LEN)]);
    dma(&mut tale, 0, 0, 0);
    release(&mut tale);
    tale.compare("a", |_| cpu(1));
    let problem = verdict(tale).problem.expect("a problem");
    assert!(problem.message.starts_with("no DMA was done into the 8192 bytes"), "{}", problem.message);
}

#[test]
fn dma_that_the_ledger_does_not_have_did_not_land() {
    let mut tale = of_a_read(vec![held(0, LEN)]);
    dma(&mut tale, 0, LEN, 100);
    tale.ledger.retain(|entry: &LedgerEntry| entry.kind != ledger::KIND_DMA_WRITE);
    release(&mut tale);
    tale.compare("a", |_| by_dma(100));
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Unproven);
    assert!(problem.message.contains("the ledger has 0 of 16 cells"), "{}", problem.message);
}

#[test]
fn a_request_that_nobody_wrote_to_brings_the_disks_own_bytes() {
    let mut tale = of_a_read(vec![held(0, 4096), held(4096, 4096)]);
    dma(&mut tale, 0, 4096, 100);
    release(&mut tale);
    tale.compare("a", |offset| if offset < 4096 { by_dma(100) } else { cpu(1) });
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Unproven);
    assert!(
        problem.message.contains("4096 bytes") && problem.message.contains("byte 4096"),
        "{}",
        problem.message
    );
}

#[test]
fn a_read_that_the_kernel_refuses_is_refused() {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.spawn(NAME, read_direct());
    tale.disk(
        Request::AwaitHeld { rule: NAME.into(), pages: 2, timeout_ms: 1000 },
        Answer::Held { requests: Vec::new(), complete: false },
    );
    tale.evidence(Role::Act, Tale::join_step(NAME), Outcome::Refused(errno("EFAULT", "pread(2)")));
    let seen = verdict(tale);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["refused"], Some("EFAULT")));
    assert_eq!(seen.reason, "read-direct: pread(2) gave EFAULT");
}

#[test]
fn a_read_that_was_over_before_it_was_held_is_no_pin() {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.spawn(NAME, read_direct());
    tale.disk(
        Request::AwaitHeld { rule: NAME.into(), pages: 2, timeout_ms: 1000 },
        Answer::Held { requests: Vec::new(), complete: false },
    );
    tale.join(NAME, Fact::Nothing);
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Unproven);
    assert!(problem.message.starts_with("rule `dio.r.0` held 0 pages"), "{}", problem.message);
}
