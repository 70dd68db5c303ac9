// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine against a scripted agent: which steps come, in which order, and where a case goes when one fails.

mod dio;
mod disk;
mod filesystem;
mod fsck;
mod jobs;

use super::{Action, CaseEnv, CaseMachine, Input, Lacks, Trouble};
use crate::plan::Case;
use crate::record::{CaseRecord, Evidence, FsckReport, Role};
use crate::scenario::Scenario;
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::disk::AuditReport;
use longpin_proto::facts::{
    CellState, Cells, DmaResult, Errno, Extent, JobState, PageState, PinCounters, RegionState, Source, Writer,
};
use longpin_wire::ledger;
use std::sync::Arc;

const RUN: u64 = 42;

fn case(steps: &str) -> Case {
    case_of("ext4", "pin", "clean", steps, "intact")
}

fn case_of(fs: &str, pin: &str, release: &str, steps: &str, observe: &str) -> Case {
    let text = format!(
        "schema = 1\nname = \"story\"\ntitle = \"t\"\nmechanism = \"m\"\npages = 2\nmatrix.fs = [\"{fs}\"]\n\
         matrix.pin = [\"{pin}\"]\nmatrix.release = [\"{release}\"]\nstep = [{steps}]\n\
         [[expect]]\nobserve = \"{observe}\"\nreason = \"r\"\n"
    );
    let scenario = Arc::new(Scenario::parse("story.toml", &text).expect("a valid scenario"));
    let point = scenario.matrix.points().remove(0);
    Case::new(&scenario, point, 1)
}

/// What the machine asked of the guest and of the disks.
#[derive(Default)]
struct Guest {
    steps: Vec<Step>,
    requests: Vec<Request>,
    /// Both, by name, and what else was asked for.
    asked: Vec<String>,
    pauses: u64,
}

/// A job that waits in a function of the kernel.
fn asleep(function: &str) -> JobState {
    JobState { finished: false, elapsed_us: 5000, state: 'D', stack: vec![function.to_owned()] }
}

fn over() -> JobState {
    JobState { finished: true, elapsed_us: 5000, state: '-', stack: Vec::new() }
}

fn healthy(step: &Step) -> Fact {
    let region =
        RegionState { pages: 2, segments: 1, running: 0, pages_with_mapping: 2, zone: 2, folio_pages: 1 };
    match step {
        Step::Pin { .. } | Step::QueryRegion { .. } => Fact::Region(region),
        Step::DmaWait { .. } => Fact::Dma(DmaResult {
            kept_off: 0,
            fault_errno: None,
            status: 0,
            cells_done: 16,
            last_generation: 100,
            started_ns: 1,
            finished_ns: 2,
        }),
        Step::PageState { .. } => {
            Fact::PageState(PageState { cached: 2, dirty: 0, writeback: 0, evicted: 0 })
        }
        Step::Read { .. } | Step::ReadMapping { .. } => Fact::Cells(content(100, Source::Dma)),
        Step::Extents { .. } => Fact::Extents(vec![
            Extent { logical: 0, physical: 4096, len: 4096, flags: 0, located: true },
            Extent { logical: 4096, physical: 0, len: 4096, flags: 0x800, located: false },
        ]),
        Step::Settle { .. } => Fact::Job(asleep("folio_wait_writeback")),
        Step::Exec { .. } => Fact::Exec { code: 0, output: String::new() },
        Step::PinCounters => Fact::Pins(PinCounters::default()),
        Step::KernelLog => Fact::Log(Vec::new()),
        _ => Fact::Nothing,
    }
}

/// What a disk answers that does as it is told.
fn willing(request: &Request) -> Answer {
    match request {
        Request::AwaitHeld { .. } => Answer::Held { requests: Vec::new(), complete: true },
        Request::ReleaseHeld { .. } | Request::DropRule { .. } => Answer::Released { holds: Vec::new() },
        Request::Audit => Answer::Audit(AuditReport { run: RUN, ..AuditReport::default() }),
        Request::Disks => Answer::Disks { disks: Vec::new() },
        _ => Answer::Ok,
    }
}

fn content(generation: u64, source: Source) -> Cells {
    let mut cells = Cells { cell_bytes: 512, runs: Vec::new(), hash: String::new() };
    cells.push(0, 16, CellState::Whole(Writer { run: RUN, region: 1, generation, source }));
    cells
}

fn write(run: u64, file_offset: u64, time_ns: u64) -> ledger::Entry {
    ledger::Entry {
        time_ns,
        kind: ledger::KIND_DMA_WRITE,
        region: 1,
        dma_addr: 0,
        len: 4096,
        generation: 100,
        file_offset,
        run,
        program: 1,
        detail: 0,
    }
}

fn env() -> CaseEnv {
    CaseEnv {
        run: RUN,
        device: "/dev/vda".into(),
        second_device: "/dev/vdb".into(),
        audited: true,
        lacks: Lacks::default(),
        dir: "/mnt".into(),
        patience_percent: 100,
    }
}

/// Drive a case to its end. Each step is answered as a healthy guest would, unless the script says otherwise.
fn drive(case: &Case, script: &dyn Fn(&Step) -> Option<Outcome>) -> (CaseRecord, Guest) {
    drive_both(case, env(), script, &|_| None)
}

/// `drive`, with a script for the disks as well.
fn drive_both(
    case: &Case,
    env: CaseEnv,
    script: &dyn Fn(&Step) -> Option<Outcome>,
    disks: &dyn Fn(&Request) -> Option<Result<Answer, String>>,
) -> (CaseRecord, Guest) {
    let mut guest = Guest::default();
    let mut machine = CaseMachine::new(case, env);
    for _ in 0..5000 {
        let input = match machine.next() {
            Action::Agent { step, timeout_ms } => {
                assert!(timeout_ms >= 1000, "{step:?} has {timeout_ms} ms");
                let outcome = script(&step).unwrap_or_else(|| Outcome::Done { fact: healthy(&step) });
                guest.asked.push(step.name());
                guest.steps.push(step);
                Input::Reply { outcome, elapsed_us: 100, began_ns: 1000, ended_ns: 2000 }
            }
            Action::Disk { request, timeout_ms } => {
                assert!(timeout_ms >= 1000, "{request:?} has {timeout_ms} ms");
                let answer = disks(&request).unwrap_or_else(|| Ok(willing(&request)));
                let name = serde_json::to_value(&request).expect("json")["request"].clone();
                guest.asked.push(name.as_str().expect("a name").to_owned());
                guest.requests.push(request);
                Input::Disk { answer, began_ns: 3000, ended_ns: 4000 }
            }
            Action::Fsck { fs } => {
                guest.asked.push(format!("fsck {fs}"));
                let argv = vec!["e2fsck".into(), "-fn".into()];
                Input::Fsck(Ok(FsckReport { fs, argv, code: 0, output: String::new() }))
            }
            Action::Pause { ms } => {
                guest.pauses += ms;
                Input::Paused
            }
            Action::ReadImage { extents, len, cell_bytes } => {
                assert!(len > 0 && len % 4096 == 0 && cell_bytes == 512, "{len} {cell_bytes}");
                assert!(extents.iter().all(|extent| extent.located), "{extents:?}");
                Input::Image(Ok(content(100, Source::Dma)))
            }
            Action::SyncLedger => {
                Input::Ledger(vec![write(RUN, 4096, 2), write(RUN, 0, 1), write(RUN + 1, 0, 3)])
            }
            Action::Finished => return (machine.into_record(), guest),
        };
        machine.feed(input);
    }
    panic!("the case does not end");
}

/// What was asked from one name to another, both included.
fn between(guest: &Guest, from: &str, to: &str) -> Vec<String> {
    let start = guest.asked.iter().position(|name| name == from).expect("a beginning");
    let rest = &guest.asked[start..];
    let end = rest.iter().position(|name| name == to).expect("an end");
    rest[..=end].to_vec()
}

fn ops(guest: &Guest) -> Vec<String> {
    guest.steps.iter().map(Step::name).collect()
}

fn refuse(name: &str) -> Option<Outcome> {
    Some(Outcome::Refused(Errno { errno: 14, name: name.into(), call: "call(2)".into() }))
}

const UPDATE: &str = r#""mkfs", "mount", "create", "map", { do = "touch", access = "write" }, "pin",
    { do = "dma", generation = 100 }, "prove-dma", "fsync", "prove-clean", "release", "remount", "compare""#;

const FRAME: [&str; 3] = ["clear-warn-once", "kernel-log", "pin-counters"];
const TAIL: [&str; 3] = ["cleanup", "pin-counters", "kernel-log"];

#[test]
fn a_case_runs_from_frame_to_ledger() {
    let (record, guest) = drive(&case(UPDATE), &|_| None);
    let wanted = [
        &FRAME[..],
        &[
            "mkfs",
            "mount",
            "open",
            "write",
            "fsync",
            "map",
            "touch",
            "pin",
            "dma",
            "dma-wait",
            "read-mapping",
        ],
        &[
            "fsync",
            "page-state",
            "release",
            "unmap",
            "close",
            "umount",
            "drop-caches",
            "mount",
            "read",
            "extents",
        ],
        &TAIL[..],
    ]
    .concat();
    assert_eq!(ops(&guest), wanted);
    assert!(
        matches!(&record.evidence[record.evidence.len() - 2], Evidence::Image { path, .. } if path == "/mnt/a")
    );
    let Some(Evidence::Ledger { entries, .. }) = record.evidence.last() else { panic!("no ledger") };
    let order: Vec<u64> = entries.iter().map(|entry| entry.file_offset).collect();
    assert_eq!(order, [0, 4096], "sorted by time, other cases left out");
}

#[test]
fn the_whole_way_from_machine_to_verdict_is_intact() {
    let (record, _) = drive(&case(UPDATE), &|_| None);
    let seen = crate::verdict::observe(&record);
    assert_eq!(seen.problem, None);
    assert_eq!(seen.reason, "guest and host read DMA generation 100");
}

#[test]
fn offsets_labels_and_paths_are_filled_in() {
    let (_, guest) = drive(&case(UPDATE), &|_| None);
    let pin = guest.steps.iter().find_map(|step| match step {
        Step::Pin { offset, len, file_offset, run, .. } => Some((*offset, *len, *file_offset, *run)),
        _ => None,
    });
    assert_eq!(pin, Some((0, 8192, 0, RUN)));
    let fill = guest.steps.iter().find_map(|step| match step {
        Step::Write { len, fill, .. } => {
            Some((*len, fill.run, fill.generation, fill.cell_bytes, fill.source))
        }
        _ => None,
    });
    assert_eq!(fill, Some((8192, RUN, 1, 512, Source::Cpu)));
    let path = guest.steps.iter().find_map(|step| match step {
        Step::Open { path, .. } => Some(path.clone()),
        _ => None,
    });
    assert_eq!(path.as_deref(), Some("/mnt/a"));
}

#[test]
fn a_refused_pin_goes_to_clean_up_at_once() {
    let (record, guest) = drive(&case(UPDATE), &|step| match step {
        Step::Pin { .. } => refuse("EFAULT"),
        _ => None,
    });
    let after: Vec<String> = ops(&guest).into_iter().skip_while(|op| op != "pin").skip(1).collect();
    assert_eq!(after, TAIL);
    assert!(
        matches!(record.evidence.last(), Some(Evidence::Ledger { .. })),
        "the ledger is read all the same"
    );
}

#[test]
fn an_fsync_that_reports_damage_does_not_end_the_case() {
    let (record, guest) = drive(&case(UPDATE), &|step| match step {
        Step::Fsync { .. } => refuse("EIO"),
        _ => None,
    });
    assert!(ops(&guest).contains(&"read".to_owned()));
    assert_eq!(crate::verdict::observe(&record).errno.as_deref(), Some("EIO"));
}

#[test]
fn a_failed_step_and_a_mount_that_is_refused_end_the_acts() {
    let failed = |step: &Step| match step {
        Step::Mkfs { .. } => Some(Outcome::Failed { message: "no such program".into() }),
        _ => None,
    };
    let (_, guest) = drive(&case(UPDATE), &failed);
    assert_eq!(ops(&guest), [&FRAME[..], &["mkfs"], &TAIL[..]].concat());

    let (_, guest) = drive(&case(UPDATE), &|step| match step {
        Step::Mount { .. } => refuse("EUCLEAN"),
        _ => None,
    });
    assert_eq!(ops(&guest), [&FRAME[..], &["mkfs", "mount"], &TAIL[..]].concat());
}

#[test]
fn once_warnings_that_cannot_be_cleared_do_not_end_the_case() {
    let (_, guest) = drive(&case(UPDATE), &|step| match step {
        Step::ClearWarnOnce => refuse("ENOENT"),
        _ => None,
    });
    assert!(ops(&guest).contains(&"read".to_owned()));
}

#[test]
fn clean_is_asked_for_until_it_is_so() {
    let asked = std::cell::Cell::new(0);
    let (record, guest) = drive(&case(UPDATE), &|step| match step {
        Step::PageState { .. } => {
            asked.set(asked.get() + 1);
            let dirty = if asked.get() < 4 { 1 } else { 0 };
            Some(Outcome::Done {
                fact: Fact::PageState(PageState { cached: 2, dirty, writeback: 0, evicted: 0 }),
            })
        }
        _ => None,
    });
    assert_eq!(asked.get(), 4);
    assert_eq!(guest.pauses, 60);
    let proofs =
        record.evidence.iter().filter(|e| matches!(e, Evidence::Step { role: Role::ProveClean, .. }));
    assert_eq!(proofs.count(), 1, "only the answer that counts is kept");
}

#[test]
fn a_page_that_never_gets_clean_is_given_up_in_time() {
    let (record, guest) = drive(&case(UPDATE), &|step| match step {
        Step::PageState { .. } => {
            let state = PageState { cached: 2, dirty: 0, writeback: 2, evicted: 0 };
            Some(Outcome::Done { fact: Fact::PageState(state) })
        }
        _ => None,
    });
    assert!(guest.pauses <= 15_000, "{} ms", guest.pauses);
    let seen = crate::verdict::observe(&record);
    let problem = seen.problem.expect("a problem");
    assert_eq!(problem.message, "pages are not clean in time: 0 dirty, 2 under writeback of 2 cached");
    assert_eq!(ops(&guest)[ops(&guest).len() - 3..], TAIL);
}

#[test]
fn trouble_ends_the_case_where_it_stands() {
    let mut machine = CaseMachine::new(&case(UPDATE), env());
    assert!(matches!(machine.next(), Action::Disk { request: Request::Case { run: RUN }, .. }));
    machine.feed(Input::Trouble(Trouble::Interrupted));
    assert_eq!(machine.next(), Action::Finished);
    assert_eq!(machine.into_record().evidence, [Evidence::Trouble(Trouble::Interrupted)]);
}

#[test]
fn the_driver_is_asked_after_each_step_that_can_take_pages_away() {
    let steps = r#""mkfs", "mount", "create", "map", "pin", { do = "truncate", pages = 1 },
        { do = "punch", pages = 1 }, { do = "write", generation = 5, direct = true }, "release", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let from_truncate: Vec<String> = ops(&guest).into_iter().skip_while(|op| op != "truncate").collect();
    let wanted =
        ["truncate", "query-region", "fallocate", "query-region", "open", "write", "close", "query-region"];
    assert_eq!(from_truncate[..wanted.len()], wanted);
}

#[test]
fn a_poke_goes_to_the_place_that_the_extents_gave() {
    let steps =
        r#""mkfs", "mount", "create", "umount", { do = "poke-device", page = 0 }, "mount", "compare""#;
    let (_, guest) = drive(&case(steps), &|_| None);
    let at_umount: Vec<String> = ops(&guest).into_iter().skip_while(|op| op != "close").collect();
    assert_eq!(at_umount[..5], ["close", "extents", "umount", "drop-caches", "poke-device"]);
    let poke = guest.steps.iter().find_map(|step| match step {
        Step::PokeDevice { offset, len, .. } => Some((*offset, *len)),
        _ => None,
    });
    assert_eq!(poke, Some((4096, 4096)));
}

#[test]
fn patience_stretches_every_deadline() {
    let slow = CaseEnv { patience_percent: 300, ..env() };
    let (mut normal, mut patient) =
        (CaseMachine::new(&case(UPDATE), env()), CaseMachine::new(&case(UPDATE), slow));
    let (Action::Disk { timeout_ms: short, .. }, Action::Disk { timeout_ms: long, .. }) =
        (normal.next(), patient.next())
    else {
        panic!("the first action is a request");
    };
    assert_eq!(long, 3 * short);
}

#[test]
fn a_step_may_bring_its_own_deadline() {
    let mut machine = CaseMachine::new(&case("{ do = \"sync\", deadline_ms = 3000 }"), env());
    let deadline = loop {
        match machine.next() {
            Action::Agent { step: Step::Sync, timeout_ms } => break timeout_ms,
            Action::Agent { step, .. } => {
                let outcome = Outcome::Done { fact: healthy(&step) };
                machine.feed(Input::Reply { outcome, elapsed_us: 1, began_ns: 0, ended_ns: 0 });
            }
            Action::Disk { request, .. } => {
                machine.feed(Input::Disk { answer: Ok(willing(&request)), began_ns: 0, ended_ns: 0 });
            }
            other => panic!("{other:?} before the sync"),
        }
    };
    assert_eq!(deadline, 3000);
}
