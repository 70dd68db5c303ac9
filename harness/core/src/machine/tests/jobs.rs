// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps beside others: begun, looked at, joined.

use super::{Guest, asleep, between, case, drive, drive_both, env, over, refuse};
use crate::machine::{Action, CaseEnv, CaseMachine, Input};
use crate::record::{Evidence, Role};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::facts::JobState;
use std::cell::Cell;

const STORE: &str = r#""mkfs", "mount", "create", "map", { do = "store", generation = 7, job = "st" },
    { do = "settle", job = "st" }, { do = "join", job = "st" }, "remount", "compare""#;

fn looks(guest: &Guest) -> usize {
    guest.steps.iter().filter(|step| matches!(step, Step::Settle { .. })).count()
}

fn job(state: JobState) -> Option<Outcome> {
    Some(Outcome::Done { fact: Fact::Job(state) })
}

#[test]
fn a_job_that_waits_is_looked_at_until_it_is_sure_and_only_the_last_look_is_kept() {
    let (record, guest) = drive(&case(STORE), &|_| None);
    assert_eq!((looks(&guest), guest.pauses), (4, 150));
    let kept: Vec<&Evidence> = record
        .evidence
        .iter()
        .filter(|piece| matches!(piece, Evidence::Step { role: Role::Settle, .. }))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(crate::verdict::observe(&record).blocked[0].stack, ["folio_wait_writeback"]);
}

#[test]
fn a_slow_machine_is_given_more_looks() {
    let slow = CaseEnv { patience_percent: 300, ..env() };
    let (_, guest) = drive_both(&case(STORE), slow, &|_| None, &|_| None);
    assert_eq!(looks(&guest), 12);
}

#[test]
fn a_job_that_is_over_is_looked_at_once() {
    let (record, guest) = drive(&case(STORE), &|step| match step {
        Step::Settle { .. } => job(over()),
        _ => None,
    });
    assert_eq!((looks(&guest), guest.pauses), (1, 0));
    assert!(crate::verdict::observe(&record).blocked.is_empty());
}

#[test]
fn a_job_that_moves_is_no_job_that_waits() {
    let look = Cell::new(0);
    let (record, guest) = drive(&case(STORE), &|step| match step {
        Step::Settle { .. } => {
            look.set(look.get() + 1);
            match look.get() {
                1..=3 => job(asleep("jbd2_log_wait_commit")),
                4 => job(JobState { state: 'R', stack: Vec::new(), ..asleep("") }),
                5..=7 => job(asleep("folio_wait_writeback")),
                _ => job(over()),
            }
        }
        _ => None,
    });
    assert_eq!(looks(&guest), 8);
    assert!(crate::verdict::observe(&record).blocked.is_empty());
}

#[test]
fn a_job_that_never_settles_is_given_up_in_time() {
    let (record, guest) = drive(&case(STORE), &|step| match step {
        Step::Settle { .. } => job(JobState { state: 'R', stack: Vec::new(), ..asleep("") }),
        _ => None,
    });
    assert!(guest.pauses <= 15_000, "{} ms", guest.pauses);
    let problem = crate::verdict::observe(&record).problem.expect("a problem");
    assert!(
        problem.message.starts_with("the job is neither over nor asleep at one place"),
        "{}",
        problem.message
    );
    assert!(!guest.asked.contains(&"join".to_owned()), "the acts end here");
}

#[test]
fn what_prepares_and_what_follows_a_call_is_no_part_of_the_job() {
    let steps = r#""mkfs", "mount", "create", "map", "pin", { do = "write", generation = 5, job = "wr" }, "sync",
        { do = "join", job = "wr" }, "release", "remount", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let wanted = ["pin", "open", "spawn", "sync", "join", "close", "query-region", "release"];
    assert_eq!(between(&guest, "pin", "release"), wanted);
    let spawned = guest.steps.iter().find_map(|step| match step {
        Step::Spawn { job, step } => Some((job.clone(), step.name())),
        _ => None,
    });
    assert_eq!(spawned, Some(("wr".into(), "write".into())));
}

#[test]
fn a_region_is_there_when_the_job_that_pins_is_joined() {
    let steps = r#""mkfs", "mount", "create", "map", { do = "pin", job = "pin" }, { do = "truncate", pages = 1 },
        { do = "join", job = "pin" }, { do = "truncate", pages = 2 }, "release", "remount", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let wanted = ["spawn", "truncate", "join", "truncate", "query-region", "release"];
    assert_eq!(between(&guest, "spawn", "release"), wanted);
}

#[test]
fn a_refusal_of_a_job_is_that_of_its_step() {
    let refuses = |name: &'static str| {
        move |step: &Step| match step {
            Step::Join { .. } => refuse(name),
            _ => None,
        }
    };
    let fsync = r#""mkfs", "mount", "create", { do = "fsync", job = "f" }, { do = "join", job = "f" }, "remount",
        "compare""#;
    let (_, guest) = drive(&case(fsync), &refuses("EIO"));
    assert!(guest.asked.contains(&"read".to_owned()), "damage that is told does not end a case");
    let pin = r#""mkfs", "mount", "create", "map", { do = "pin", job = "p" }, { do = "join", job = "p" }, "release",
        "remount", "compare""#;
    let (record, guest) = drive(&case(pin), &refuses("EFAULT"));
    assert!(!guest.asked.contains(&"release".to_owned()), "a denied pin does");
    assert_eq!(crate::verdict::observe(&record).errno.as_deref(), Some("EFAULT"));
}

/// Times of a step: what we wait, and what the agent is told.
fn times_of_join(steps: &str, env: CaseEnv) -> (u64, u64) {
    let mut machine = CaseMachine::new(&case(steps), env);
    loop {
        match machine.next() {
            Action::Agent { step: Step::Join { timeout_ms: told, .. }, timeout_ms } => {
                return (timeout_ms, u64::from(told));
            }
            Action::Agent { step, .. } => machine.feed(Input::Reply {
                outcome: Outcome::Done { fact: super::healthy(&step) },
                elapsed_us: 1,
                began_ns: 0,
                ended_ns: 0,
            }),
            Action::Pause { .. } => machine.feed(Input::Paused),
            Action::Disk { request, .. } => {
                machine.feed(Input::Disk { answer: Ok(super::willing(&request)), began_ns: 0, ended_ns: 0 });
            }
            other => panic!("{other:?} before the join"),
        }
    }
}

#[test]
fn a_job_that_never_ends_is_a_hang_that_we_find_before_the_agent_gives_up() {
    let slow = || CaseEnv { patience_percent: 300, ..env() };
    assert_eq!(times_of_join(STORE, env()), (60_000, 80_000));
    assert_eq!(times_of_join(STORE, slow()), (180_000, 200_000));
    let short = STORE.replace("{ do = \"join\"", "{ do = \"join\", deadline_ms = 2000");
    assert_eq!(times_of_join(&short, slow()), (6_000, 26_000));
}

#[test]
fn a_program_that_verifies_is_recorded_as_such_beside_others_as_well() {
    let steps = r#""mkfs", "mount", "create", { do = "exec", argv = ["fio"], verifies = true },
        { do = "exec", argv = ["fio", "b"], verifies = true, job = "fio" }, { do = "join", job = "fio" }"#;
    let (record, _) = drive(&case(steps), &|step| match step {
        Step::Join { .. } => Some(Outcome::Done { fact: Fact::Exec { code: 3, output: "bad".into() } }),
        _ => None,
    });
    let roles = record.evidence.iter().filter(|e| matches!(e, Evidence::Step { role: Role::Verify, .. }));
    assert_eq!(roles.count(), 2);
    let seen = crate::verdict::observe(&record);
    assert_eq!(seen.reason, "`fio b` found its data wrong, code 3: bad");
}

#[test]
fn host_times_of_each_step_are_kept() {
    let (record, _) = drive(&case(STORE), &|_| None);
    let known = record.evidence.iter().all(|piece| match piece {
        Evidence::Step { began_ns, ended_ns, .. } => (*began_ns, *ended_ns) == (1000, 2000),
        Evidence::Disk { began_ns, ended_ns, .. } => (*began_ns, *ended_ns) == (3000, 4000),
        _ => true,
    });
    assert!(known, "{:?}", record.evidence);
}
