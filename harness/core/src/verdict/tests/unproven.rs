// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was not shown is an error, never a pass.

use super::super::{Cause, Problem, observe};
use super::tale::{LEN, Tale, by_dma, cpu, errno};
use crate::record::{Evidence, Role, Trouble};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::facts::{CellState, KERNEL_LOG_OVERRUN};
use longpin_wire::dma;

fn problem(tale: Tale) -> Problem {
    observe(&tale.end()).problem.expect("a problem")
}

fn unproven(tale: Tale, part: &str) {
    let problem = problem(tale);
    assert_eq!(problem.cause, Cause::Unproven, "{}", problem.message);
    assert!(problem.message.contains(part), "{}", problem.message);
}

fn infra(tale: Tale, part: &str) {
    let problem = problem(tale);
    assert_eq!(problem.cause, Cause::Infra, "{}", problem.message);
    assert!(problem.message.contains(part), "{}", problem.message);
}

#[test]
fn dma_that_the_ledger_does_not_know() {
    let mut tale = Tale::of_a_pin();
    tale.dma_unrecorded(100);
    tale.release();
    tale.remount();
    tale.compare("a", |_| by_dma(100));
    unproven(tale, "DMA generation 100 was not shown to land: the ledger has 0 of 16 cells");
}

#[test]
fn a_kernel_log_of_which_lines_are_lost_even_if_the_pin_was_refused() {
    let mut tale = Tale::of_an_update();
    tale.log.push(KERNEL_LOG_OVERRUN.into());
    tale.compare("a", |_| by_dma(101));
    unproven(tale, "the kernel log was overrun");

    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.refused(Tale::pin_step(), "EFAULT");
    tale.log.push(KERNEL_LOG_OVERRUN.into());
    unproven(tale, "the kernel log was overrun");
}

#[test]
fn dma_of_which_a_page_is_missing() {
    let mut tale = Tale::of_a_pin();
    tale.dma_unrecorded(100);
    tale.device_writes(100, 4096);
    tale.release();
    tale.remount();
    tale.compare("a", |_| cpu(1));
    unproven(tale, "8 of 16 cells");
}

#[test]
fn dma_that_is_not_seen_through_the_mapping() {
    let mut tale = Tale::of_a_pin();
    tale.dma(100);
    tale.prove_dma(|offset| if offset == 512 { cpu(1) } else { by_dma(100) });
    tale.release();
    tale.remount();
    tale.compare("a", |_| by_dma(100));
    unproven(tale, "byte 512 holds CPU generation 1");
}

#[test]
fn a_page_that_was_not_shown_clean() {
    let mut tale = Tale::of_an_update();
    let message = "pages are not clean in time: 2 dirty, 0 under writeback of 2 cached".to_owned();
    tale.record.evidence.push(Evidence::Unproven { line: 9, message });
    tale.compare("a", |_| by_dma(100));
    unproven(tale, "pages are not clean in time: 2 dirty");
}

#[test]
fn pages_that_may_have_left_the_file() {
    let mut never_asked = Tale::of_a_pin();
    never_asked.truncate(0);
    never_asked.dma(100);
    never_asked.release();
    never_asked.compare("a", |_| CellState::Absent);
    unproven(never_asked, "it was not asked whether 2 pinned pages left the file");

    let mut unclear = Tale::of_a_pin();
    unclear.truncate(0);
    unclear.query(1);
    unclear.dma(100);
    unclear.release();
    unclear.compare("a", |_| CellState::Absent);
    unproven(unclear, "2 were to leave, the driver says that 1 of 2 did");
}

#[test]
fn nothing_that_was_compared() {
    unproven(Tale::of_an_update(), "no file was compared");
}

#[test]
fn counters_that_were_not_read() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(101));
    let mut record = tale.end();
    record.evidence.retain(|e| !matches!(e, Evidence::Step { role: Role::After, .. }));
    let problem = observe(&record).problem.expect("a problem");
    assert!(problem.message.contains("pin counters"), "{}", problem.message);
}

#[test]
fn a_device_that_ended_a_program_with_an_error() {
    let mut tale = Tale::of_a_pin();
    tale.dma_with_status(100, dma::STATUS_BAD_ADDRESS);
    tale.release();
    tale.compare("a", |_| cpu(1));
    infra(tale, "device status 3");
}

#[test]
fn a_device_that_writes_after_the_release() {
    let mut tale = Tale::of_an_update();
    tale.device_writes(101, 0);
    tale.compare("a", |_| by_dma(101));
    infra(tale, "the device wrote generation 101 after the release");
}

#[test]
fn a_host_that_did_not_read_or_reads_something_else() {
    let mut silent = Tale::of_an_update();
    silent.compare("a", |_| by_dma(101));
    let mut record = silent.end();
    record.evidence.retain(|e| !matches!(e, Evidence::Image { .. }));
    let problem = observe(&record).problem.expect("a problem");
    assert_eq!(problem.message, "the host did not read /mnt/a");

    let mut failed = Tale::of_an_update();
    failed.guest_reads(Role::CompareWrites, "a", |_| by_dma(101));
    let result = Err("disk.img: short read".to_owned());
    failed.record.evidence.push(Evidence::Image { path: "/mnt/a".into(), extents: Vec::new(), result });
    infra(failed, "the host could not read /mnt/a: disk.img: short read");

    let mut other = Tale::of_an_update();
    other.guest_reads(Role::CompareWrites, "a", |_| by_dma(101));
    other.host_reads(Role::CompareWrites, "a", true, |_| by_dma(100));
    infra(other, "guest and host read different bytes of /mnt/a at 0");
}

#[test]
fn a_step_of_ours_that_fails() {
    let mut failed = Tale::of_a_file();
    let step = Step::Mkfs { fs: "ext4".into(), device: "/dev/vda".into(), args: Vec::new() };
    failed.evidence(Role::Act, step, Outcome::Failed { message: "mkfs.ext4 ended with code 1".into() });
    infra(failed, "mkfs failed: mkfs.ext4 ended with code 1");

    let mut refused = Tale::of_a_file();
    refused.refused(Step::Umount { dir: "/mnt".into() }, "EBUSY");
    infra(refused, "umount: call(2) gave EBUSY");

    let mut program = Tale::of_an_update();
    let exec = Fact::Exec { code: 2, output: "first\nlast".into() };
    program.seen(Role::Act, Step::Exec { argv: vec!["fsck".into(), "-n".into()], timeout_ms: 1 }, exec);
    infra(program, "`fsck -n` ended with code 2: last");

    let mut script = Tale::of_an_update();
    let exec = Fact::Exec { code: 1, output: "gone".into() };
    let lines = format!("\n    cd /sys\n    echo {}\n", "x".repeat(100));
    let argv = vec!["sh".into(), "-c".into(), lines];
    script.seen(Role::Act, Step::Exec { argv, timeout_ms: 1 }, exec);
    infra(script, &format!("`sh -c cd /sys echo {}...` ended with code 1: gone", "x".repeat(61)));
}

#[test]
fn a_driver_that_is_at_fault_did_not_refuse() {
    for name in ["ENODEV", "ENOMEM", "ETIMEDOUT"] {
        let mut tale = Tale::of_a_file();
        tale.map(true);
        tale.refused(Tale::pin_step(), name);
        infra(tale, name);
    }
}

#[test]
fn everything_that_dies_around_the_guest() {
    let message = "gone".to_owned();
    for (trouble, part) in [
        (Trouble::AgentLost { message: message.clone() }, "the agent is lost: gone"),
        (Trouble::DeviceLost { message: message.clone() }, "the device daemon is lost: gone"),
        (Trouble::QemuExited { message: message.clone() }, "QEMU ended: gone"),
        (Trouble::Interrupted, "interrupted by the user"),
        (Trouble::Other { message: message.clone() }, "gone"),
    ] {
        let mut tale = Tale::of_a_pin();
        tale.trouble(trouble);
        let seen = observe(&tale.record);
        assert_eq!(seen.problem, Some(Problem { cause: Cause::Infra, message: part.into() }));
        assert!(seen.observations.is_empty());
    }
}

#[test]
fn what_the_guest_cannot_do_is_a_skip_with_what_is_missing() {
    let mut tale = Tale::of_a_file();
    let step = Step::Fallocate {
        file: "a".into(),
        mode: longpin_proto::agent::Fallocate::ZeroRange,
        offset: 0,
        len: LEN,
    };
    tale.evidence(Role::Act, step, Outcome::Refused(errno("EOPNOTSUPP", "fallocate(2)")));
    let seen = observe(&tale.end());
    assert_eq!(seen.skip.as_deref(), Some("fallocate: fallocate(2) is not supported here (EOPNOTSUPP)"));
    assert_eq!(seen.problem, None);
}
