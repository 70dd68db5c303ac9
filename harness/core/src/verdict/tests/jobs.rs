// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps beside others: what came of a job, and where it waited.

use super::super::{Cause, Observation, Outcome, judge};
use super::outcomes::expected;
use super::tale::{CELL, LEN, RUN, Tale, by_dma, cpu, errno};
use super::{verdict, words};
use crate::record::Role;
use longpin_proto::agent::{Fact, Fill, Outcome as StepOutcome, Step};
use longpin_proto::facts::Source;

fn store(generation: u64) -> Step {
    let fill = Fill { run: RUN, generation, cell_bytes: CELL, source: Source::Cpu };
    Step::Store { map: "m".into(), offset: 0, len: LEN, fill }
}

/// A store beside a held write, joined after DMA.
fn of_a_store(finished: bool) -> Tale {
    let mut tale = Tale::of_a_pin();
    tale.spawn("st", store(7));
    tale.settle("st", finished);
    tale.dma(100);
    tale.join("st", Fact::Nothing);
    tale.release();
    tale.remount();
    tale
}

#[test]
fn what_a_job_writes_counts_where_it_is_joined() {
    let mut tale = of_a_store(true);
    tale.compare("a", |_| cpu(7));
    assert_eq!(words(&verdict(tale)), ["intact"]);
    let mut tale = of_a_store(true);
    tale.compare("a", |_| by_dma(100));
    assert_eq!(words(&verdict(tale)), ["lost"]);
}

#[test]
fn a_job_that_is_never_joined_has_done_nothing() {
    let mut tale = Tale::of_a_pin();
    tale.spawn("st", store(7));
    tale.release();
    tale.remount();
    tale.compare("a", |_| cpu(1));
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn jobs_that_wait_are_compared_with_the_expectation() {
    let blocked = |finished| {
        let mut tale = of_a_store(finished);
        tale.compare("a", |_| cpu(7));
        verdict(tale)
    };
    let mut waits = expected(&[Observation::Intact]);
    waits.blocked = ["st".to_owned()].into();
    let goes_on = expected(&[Observation::Intact]);

    let asleep = blocked(false);
    assert_eq!(asleep.blocked[0].job, "st");
    assert_eq!(asleep.blocked[0].waited_us, 640_000);
    let told = "job `st` waits since 640 ms in folio_wait_writeback < ext4_page_mkwrite";
    let judged = judge(&asleep, &waits);
    assert_eq!(judged.outcome, Outcome::Pass);
    assert!(judged.reason.ends_with(told), "{}", judged.reason);
    let judged = judge(&asleep, &goes_on);
    assert_eq!(judged.outcome, Outcome::Fail);
    assert!(judged.reason.contains(&format!("{told}; expected that no job waits: ")), "{}", judged.reason);

    let over = blocked(true);
    assert_eq!(judge(&over, &goes_on).outcome, Outcome::Pass);
    let judged = judge(&over, &waits);
    assert_eq!(judged.outcome, Outcome::Fail);
    assert!(judged.reason.contains("no job waits; expected that job `st` waits"), "{}", judged.reason);
}

#[test]
fn a_job_is_refused_and_told_as_its_step_would_be() {
    let mut pin = Tale::of_a_file();
    pin.map(true);
    pin.spawn("pin", Tale::pin_step());
    pin.refused(Tale::join_step("pin"), "EFAULT");
    let seen = verdict(pin);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["refused"], Some("EFAULT")));

    let mut fsync = Tale::of_a_pin();
    fsync.spawn("f", Step::Fsync { file: "a".into(), data_only: false });
    fsync.evidence(Role::Act, Tale::join_step("f"), StepOutcome::Refused(errno("EIO", "fsync(2)")));
    fsync.release();
    fsync.remount();
    fsync.compare("a", |_| cpu(1));
    let seen = verdict(fsync);
    assert_eq!(words(&seen), ["intact", "detected"]);
    assert!(seen.reason.starts_with("fsync: fsync(2) gave EIO"), "{}", seen.reason);
}

#[test]
fn a_job_that_fails_is_our_fault() {
    let mut tale = Tale::of_a_pin();
    tale.spawn("f", Step::Sync);
    let failed = StepOutcome::Failed { message: "the thread is gone".into() };
    tale.evidence(Role::Act, Tale::join_step("f"), failed);
    tale.compare("a", |_| cpu(1));
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!((problem.cause, problem.message.as_str()), (Cause::Infra, "sync failed: the thread is gone"));
}

fn verifying(code: i32) -> Tale {
    let mut tale = Tale::of_a_file();
    let argv = vec!["fio".to_owned(), "verify.fio".to_owned()];
    let exec = Fact::Exec { code, output: "first\nverify: bad magic header".into() };
    tale.seen(Role::Verify, Step::Exec { argv, timeout_ms: 1 }, exec);
    tale
}

#[test]
fn a_program_that_verifies_stands_for_a_comparison() {
    let seen = verdict(verifying(0));
    assert_eq!(
        (words(&seen), seen.reason.as_str()),
        (vec!["intact"], "`fio verify.fio` found its data right")
    );
    let seen = verdict(verifying(1));
    assert_eq!(words(&seen), ["torn"]);
    assert_eq!(seen.reason, "`fio verify.fio` found its data wrong, code 1: verify: bad magic header");
}
