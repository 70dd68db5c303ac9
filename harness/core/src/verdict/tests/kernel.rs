// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins of the kernel's own users: no device sees their writes, and the agent's word stands for its ledger.

use super::super::Cause;
use super::tale::{LEN, RUN, Tale, by_dma, cpu, errno};
use super::{verdict, words};
use crate::dmesg::Class;
use crate::record::Role;
use crate::verdict::Observed;
use crate::words::Observation;
use longpin_proto::agent::{Fact, Outcome, PinMode, Program, Step};
use longpin_proto::disk::{Author, Change};
use longpin_proto::facts::{CellState, KernelLine, Pinned};

fn pin() -> Step {
    let (region, map, mode) = ("r".into(), "m".into(), PinMode::VmWritev);
    Step::Pin { region, map, offset: 0, len: LEN, mode, file_offset: 0, run: RUN }
}

/// Pinned, by a call that took so many references, and written once.
fn of_a_copy(references: i64) -> Tale {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.seen(
        Role::Act,
        pin(),
        Fact::Pinned(Pinned { region: Pinned::FIRST_REGION, references, by: String::new() }),
    );
    tale.dma_unrecorded(101);
    tale.done(Step::Release { region: "r".into(), dirty: true });
    tale.remount();
    tale
}

#[test]
fn what_the_agent_had_copied_is_what_the_file_should_hold() {
    for (found, word) in [(by_dma(101), "intact"), (cpu(1), "lost")] {
        let mut tale = of_a_copy(2);
        tale.compare("a", |_| found.clone());
        let seen = verdict(tale);
        assert_eq!(words(&seen), [word]);
        assert_eq!(seen.generations.device, Some(101));
    }
}

#[test]
fn a_pin_taken_by_a_job_is_known_as_well() {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.spawn("j", pin());
    tale.join("j", Fact::Pinned(Pinned { region: Pinned::FIRST_REGION, references: 2, by: String::new() }));
    tale.dma_unrecorded(101);
    tale.remount();
    tale.compare("a", |_| cpu(1));
    assert_eq!(words(&verdict(tale)), ["lost"]);
}

#[test]
fn the_word_of_the_agent_counts_for_no_region_of_the_driver() {
    let mut tale = of_a_copy(2);
    tale.map(true);
    tale.pin();
    tale.dma_unrecorded(102);
    tale.release();
    tale.compare("a", |_| by_dma(102));
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Unproven);
    assert!(
        problem.message.contains("102 was not shown to land: the ledger has 0 of"),
        "{}",
        problem.message
    );
}

#[test]
fn pages_that_nobody_counted_as_pinned_prove_nothing() {
    let mut tale = of_a_copy(0);
    tale.compare("a", |_| by_dma(101));
    let problem = verdict(tale).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Unproven);
    assert!(problem.message.starts_with("the guest's count of pins did not grow"), "{}", problem.message);
}

/// What rxe registers on demand holds no page; if the count of pins grew all the same, it was something else.
#[test]
fn pages_that_are_faulted_for_on_demand_are_not_counted_as_pinned() {
    for (references, cause) in [(0, None), (2, Some(Cause::Unproven))] {
        let mut tale = Tale::of_a_file();
        tale.map(true);
        let Step::Pin { region, map, offset, len, file_offset, run, .. } = pin() else { unreachable!() };
        let step = Step::Pin { region, map, offset, len, mode: PinMode::RxeOdp, file_offset, run };
        let region = Pinned::FIRST_REGION;
        tale.seen(Role::Act, step, Fact::Pinned(Pinned { region, references, by: String::new() }));
        tale.dma_unrecorded(101);
        tale.done(Step::Release { region: "r".into(), dirty: false });
        tale.remount();
        tale.compare("a", |_| by_dma(101));
        let seen = verdict(tale);
        assert_eq!(seen.problem.as_ref().map(|problem| problem.cause), cause, "{references}");
        if cause.is_none() {
            assert_eq!(words(&seen), ["intact"]);
        }
    }
}

#[test]
fn a_page_that_changed_in_flight_to_what_was_copied_was_changed_by_the_copy() {
    for (before, after, word) in [(1, 101, "unstable"), (101, 101, "intact"), (1, 2, "intact")] {
        let mut tale = of_a_copy(2);
        let hit = tale.hit(0, Change::BeforeFetch, Author::Other);
        (hit.region, hit.generation_before, hit.generation_after) = (None, Some(before), Some(after));
        tale.compare("a", |_| by_dma(101));
        let seen = verdict(tale);
        assert_eq!(words(&seen), [word], "{before} -> {after}");
        let counts = seen.audit.map(|audit| (audit.hits_by_dma, audit.hits_by_others));
        assert_eq!(counts, Some(if word == "unstable" { (1, 0) } else { (0, 1) }));
    }
}

#[test]
fn a_write_that_was_kept_off_is_refused_where_a_program_says_so() {
    let of = |name: &str, call: &str| {
        let mut tale = Tale::of_a_file();
        tale.map(true);
        let by = "tale 7: for reading".to_owned();
        let pinned = Pinned { region: Pinned::FIRST_REGION, references: 2, by };
        tale.seen(Role::Act, pin(), Fact::Pinned(pinned));
        let dma = Program { offset: 0, len: LEN, generation: 100, passes: 1, cell_bytes: 512 };
        let step = Step::Dma { program: "p".into(), region: "r".into(), dma, run: RUN };
        tale.evidence(Role::Act, step, Outcome::Refused(errno(name, call)));
        verdict(tale)
    };
    let seen = of("EFAULT", "pinner tale 7: DMA write");
    assert_eq!(words(&seen), ["refused"]);
    assert!(seen.reason.contains("pinner tale 7: DMA write gave EFAULT"), "{}", seen.reason);
    for (name, call) in [("EIO", "pinner tale 7: DMA write"), ("EFAULT", "ioctl(LONGPIN_IOC_SUBMIT)")] {
        assert_eq!(of(name, call).problem.map(|problem| problem.cause), Some(Cause::Infra), "{name} {call}");
    }
}

/// Pinned for reading, written all the same; the content of the mapping and of the file afterwards.
fn of_a_blocked_write(mapping: CellState, file: CellState, log: &[&str]) -> Observed {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    let pinned = Pinned { region: Pinned::FIRST_REGION, references: 2, by: String::new() };
    tale.seen(Role::Act, pin(), Fact::Pinned(pinned));
    tale.dma_kept_off(101);
    tale.prove_dma(|_| mapping.clone());
    tale.done(Step::Release { region: "r".into(), dirty: false });
    tale.remount();
    tale.compare("a", |_| file.clone());
    let line = |text: &&str| KernelLine { seq: 1, level: 3, time_us: 9_000_000, text: (*text).to_owned() };
    tale.seen(Role::Frame, Step::KernelLog, Fact::Log(log.iter().map(line).collect()));
    verdict(tale)
}

#[test]
fn a_write_that_did_not_land_and_of_which_the_device_was_told_nothing_has_its_own_word() {
    let line = "DMAR: [DMA Write NO_PASID] Request device [0000:00:05.0] fault addr 0x101000 [fault reason 0x05] PTE \
                Write access is not set";
    let seen = of_a_blocked_write(cpu(1), cpu(1), &[line]);
    assert_eq!(words(&seen), ["dma-blocked"]);
    assert!(!Observation::DmaBlocked.is_bad());
    assert_eq!((seen.log[0].text.as_str(), seen.log[0].class), (line, Class::Note));
    assert!(seen.reason.contains("DMA generation 101 into 2 pages of region `r`"), "{}", seen.reason);
    assert!(seen.reason.contains(&format!("it was told nothing; kernel log: {line}")), "{}", seen.reason);
    let untold = of_a_blocked_write(cpu(1), cpu(1), &[]);
    assert_eq!(words(&untold), ["dma-blocked"]);
    assert!(untold.reason.contains("the kernel log has nothing of it"), "{}", untold.reason);
}

#[test]
fn what_was_kept_off_and_is_there_contradicts_itself_or_stands_where_nobody_put_it() {
    let problem = of_a_blocked_write(by_dma(101), cpu(1), &[]).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Infra);
    assert!(problem.message.contains("is seen through the mapping at byte 0"), "{}", problem.message);
    let seen = of_a_blocked_write(cpu(1), by_dma(101), &[]);
    assert_ne!(words(&seen), ["dma-blocked"]);
}

#[test]
fn a_kernel_without_the_call_skips_and_one_that_says_no_refuses() {
    let of = |name: &str, call: &str| {
        let mut tale = Tale::of_a_file();
        tale.map(true);
        tale.evidence(Role::Act, pin(), Outcome::Refused(errno(name, call)));
        verdict(tale)
    };
    for name in ["ENOSYS", "EPERM"] {
        assert!(of(name, "io_uring_setup").skip.is_some(), "{name}");
    }
    for name in ["EFAULT", "EOPNOTSUPP"] {
        assert_eq!(words(&of(name, "io_uring_register(IORING_REGISTER_BUFFERS)")), ["refused"]);
    }
    let problem = of("ENOMEM", "io_uring_register(IORING_REGISTER_BUFFERS)").problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Infra);
}
