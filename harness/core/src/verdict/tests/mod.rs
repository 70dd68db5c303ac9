// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every word and every outcome from hand-made evidence.

mod dio;
mod fsck;
mod holds;
mod in_flight;
mod jobs;
mod kernel;
mod outcomes;
mod power;
mod tale;
mod unproven;

use super::{Generations, Observation, Observed, Reader, observe, observe_but, spoils_boot};
use crate::dmesg::ignored::Ignored;
use crate::record::{Evidence, Role, Trouble};
use longpin_proto::agent::{Fact, Step};
use longpin_proto::facts::{CellState, KernelLine, PinCounters, Source, Writer};
use tale::{LEN, RUN, Tale, by_dma, cells, cpu, path};

fn words(seen: &Observed) -> Vec<&'static str> {
    assert_eq!(seen.problem, None, "{}", seen.reason);
    seen.observations.iter().map(|word| word.as_str()).collect()
}

fn verdict(tale: Tale) -> Observed {
    observe(&tale.end())
}

fn fsync() -> Step {
    Step::Fsync { file: "a".into(), data_only: false }
}

#[test]
fn the_last_dma_in_the_file_is_intact() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact"]);
    let all = Some(101);
    assert_eq!(seen.generations, Generations { device: all, guest: all, host: all });
    assert_eq!(seen.reason, "guest and host read DMA generation 101");
}

#[test]
fn a_program_without_an_end_owns_no_generation_after_its_last() {
    let mut tale = Tale::of_a_pin();
    tale.endless(100..102);
    tale.dma(200);
    tale.stopped(101);
    tale.release();
    tale.remount();
    // As if the second had written to other pages: its writes are not those of the first.
    tale.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn a_pin_without_dma_is_intact_if_the_file_is_as_the_cpu_wrote_it() {
    let mut tale = Tale::of_a_pin();
    tale.release();
    tale.remount();
    tale.compare("a", |_| cpu(1));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact"]);
    assert_eq!(seen.generations, Generations { device: None, guest: Some(1), host: Some(1) });
}

/// A page that a fork made common, and that the parent's store then copied, is not the one that is pinned.
#[test]
fn memory_of_no_file_is_compared_through_its_mapping() {
    for (found, expected, reason) in [
        (by_dma(100), "intact", "guest reads DMA generation 100"),
        (
            cpu(2),
            "lost",
            "guest finds CPU generation 2 where DMA generation 100 should be, in 16 cells of anonymous memory m, the first at \
             byte 0",
        ),
    ] {
        let mut tale = Tale::of_a_file();
        tale.map_memory(1);
        tale.pin();
        tale.done(Step::Fork);
        tale.store(2);
        tale.dma(100);
        tale.compare_mapping(|_| found.clone());
        tale.release();
        let seen = verdict(tale);
        assert_eq!(words(&seen), [expected]);
        assert_eq!(seen.reason, reason);
    }
}

#[test]
fn a_private_copy_of_a_file_is_the_file_until_it_is_written() {
    for (found, expected) in [(cpu(1), "intact"), (CellState::Zero, "lost")] {
        let mut tale = Tale::of_a_file();
        tale.map(false);
        tale.compare_mapping(|_| found.clone());
        assert_eq!(words(&verdict(tale)), [expected]);
    }
}

#[test]
fn a_denied_pin_is_refused_and_names_its_errno() {
    let mut tale = Tale::of_a_file();
    tale.map(true);
    tale.refused(Tale::pin_step(), "EFAULT");
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["refused"]);
    assert_eq!(seen.errno.as_deref(), Some("EFAULT"));
}

#[test]
fn a_completed_dma_that_is_absent_is_lost_with_both_generations() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(100));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["lost"]);
    assert_eq!(seen.generations, Generations { device: Some(101), guest: Some(100), host: Some(100) });
    assert_eq!(
        seen.reason,
        "guest and host find DMA generation 100 where DMA generation 101 should be, in 16 cells of /mnt/a, \
         the first at byte 0"
    );
}

#[test]
fn one_lost_cell_is_found_at_its_byte() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |offset| if offset == 4608 { by_dma(100) } else { by_dma(101) });
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["lost"]);
    assert_eq!((seen.findings[0].first_byte, seen.findings[0].cells), (4608, 1));
}

#[test]
fn a_file_that_ends_too_early_or_reads_zeros_is_lost() {
    for state in [CellState::Absent, CellState::Zero] {
        let mut tale = Tale::of_an_update();
        tale.compare("a", |_| state.clone());
        assert_eq!(words(&verdict(tale)), ["lost"], "{state:?}");
    }
}

#[test]
fn what_became_of_the_bytes_and_who_was_told_are_independent() {
    for (content, word) in [(100, "lost"), (101, "intact")] {
        let mut by_errno = Tale::of_an_update();
        by_errno.refused(fsync(), "EIO");
        by_errno.compare("a", |_| by_dma(content));
        let seen = verdict(by_errno);
        assert_eq!((words(&seen), seen.errno.as_deref()), (vec![word, "detected"], Some("EIO")));
        assert_eq!(seen.headline(), Some(Observation::Detected));
    }

    let mut by_log = Tale::of_an_update();
    by_log.log.push("EXT4-fs warning (device vda): page 0 does not have buffers attached".into());
    by_log.compare("a", |_| by_dma(100));
    let seen = verdict(by_log);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["warned", "lost"], None));
    assert_eq!(seen.headline(), Some(Observation::Lost));
    assert!(seen.reason.starts_with("guest and host find DMA generation 100"), "{}", seen.reason);
    assert!(seen.reason.contains("kernel log: EXT4-fs warning"), "{}", seen.reason);

    let mut by_both = Tale::of_an_update();
    by_both.log.push("BTRFS warning (device vda): csum failed root 5 ino 257 off 0".into());
    by_both.refused(fsync(), "EIO");
    by_both.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(by_both)), ["intact", "detected"], "who has an errno needs no log");

    let mut by_read = Tale::of_an_update();
    by_read.guest_reads(Role::CompareWrites, "a", |_| CellState::Unreadable { errno: 5 });
    by_read.host_reads(Role::CompareWrites, "a", true, |_| by_dma(101));
    let seen = verdict(by_read);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["detected"], Some("EIO")));
    assert!(seen.reason.starts_with("guest finds EIO where DMA generation 101 should be"), "{}", seen.reason);
}

#[test]
fn dma_into_pages_that_left_the_file_is_orphaned() {
    let mut tale = Tale::of_a_pin();
    tale.truncate(0);
    tale.query(0);
    tale.truncate(LEN);
    tale.query(0);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |_| CellState::Zero);
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["orphaned"]);
    assert_eq!(seen.generations, Generations { device: Some(100), guest: None, host: None });
    assert!(seen.reason.contains("2 pages that had left /mnt/a"), "{}", seen.reason);
}

#[test]
fn a_direct_write_orphans_only_if_the_driver_says_so() {
    for (pages_with_mapping, content, word) in [(0, cpu(5), "orphaned"), (2, by_dma(100), "intact")] {
        let mut tale = Tale::of_a_pin();
        tale.write("a", 5);
        tale.query(pages_with_mapping);
        tale.dma(100);
        tale.release();
        tale.remount();
        tale.compare("a", |_| content.clone());
        assert_eq!(words(&verdict(tale)), [word]);
    }
}

#[test]
fn a_hole_beside_takes_a_large_folio_away_as_a_whole() {
    let mut tale = Tale::of_a_pin();
    tale.punch(0, 4096);
    tale.query(0);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |offset| if offset < 4096 { CellState::Zero } else { cpu(1) });
    assert_eq!(words(&verdict(tale)), ["orphaned"]);
}

#[test]
fn a_loss_beside_an_orphan_is_seen_as_well() {
    let mut tale = Tale::of_a_pin();
    tale.punch(0, 4096);
    tale.query(1);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |offset| if offset < 4096 { CellState::Zero } else { cpu(1) });
    assert_eq!(words(&verdict(tale)), ["lost", "orphaned"]);
}

#[test]
fn orphaned_bytes_that_come_back_into_the_file_are_a_bleed() {
    let mut tale = Tale::of_a_pin();
    tale.punch(0, LEN);
    tale.query(0);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |offset| if offset == 0 { by_dma(100) } else { CellState::Zero });
    assert_eq!(words(&verdict(tale)), ["orphaned", "bleed"]);
}

#[test]
fn bytes_that_were_cut_off_and_are_back_are_a_bleed() {
    let mut tale = Tale::of_a_file();
    tale.truncate(0);
    tale.truncate(LEN);
    tale.remount();
    tale.compare("a", |_| cpu(1));
    assert_eq!(words(&verdict(tale)), ["bleed"]);
}

#[test]
fn what_a_device_wrote_until_its_owner_was_killed_is_the_files_and_nothing_may_follow() {
    let killed = |generations, found: CellState, late: bool| {
        let mut tale = Tale::of_a_pin();
        tale.killed_in_flight(generations);
        if late {
            tale.device_writes(104, 0);
        }
        tale.remount();
        tale.compare("a", |_| found.clone());
        verdict(tale)
    };
    assert_eq!(words(&killed(100..103, by_dma(102), false)), ["intact"]);
    assert_eq!(words(&killed(100..103, by_dma(101), false)), ["lost"]);
    let late = killed(100..103, by_dma(102), true).problem.expect("a device that goes on");
    assert_eq!(late.message, "the device wrote generation 104 after the release");
    let nothing = killed(100..100, cpu(1), false).problem.expect("no proof");
    assert_eq!(
        nothing.message,
        "DMA program `p` was not shown to be under way when its owner was killed: the ledger has no write of it"
    );
}

#[test]
fn a_half_written_cell_and_bytes_of_nobody_are_torn() {
    let half = CellState::Torn {
        writer: Writer { run: RUN, region: 3, generation: 101, source: Source::Dma },
        first_bad_byte: 256,
    };
    for (state, byte) in [(half, 512 + 256), (CellState::Foreign { head: "eeee".into() }, 512)] {
        let mut tale = Tale::of_an_update();
        tale.compare("a", |offset| if offset == 512 { state.clone() } else { by_dma(101) });
        let seen = verdict(tale);
        assert_eq!(words(&seen), ["torn"]);
        assert_eq!(seen.findings[0].first_byte, byte);
    }
}

#[test]
fn dma_in_a_file_that_was_not_pinned_is_a_bleed() {
    let mut tale = Tale::of_a_pin().create("b", 2);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |_| by_dma(100));
    tale.compare("b", |offset| if offset == 0 { by_dma(100) } else { cpu(2) });
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["bleed"]);
    assert_eq!(seen.findings[0].path, path("b"));
    assert_eq!(seen.generations, Generations { device: Some(100), guest: Some(100), host: Some(100) });
}

#[test]
fn a_clone_that_changes_against_its_snapshot_is_a_bleed() {
    for (content, word) in [(by_dma(100), "bleed"), (cpu(1), "intact")] {
        let mut tale = Tale::of_a_pin().create("b", 2);
        tale.done(Step::Reflink { from: "a".into(), to: "b".into() });
        tale.snapshot("b", |_| cpu(1));
        tale.dma(100);
        tale.release();
        tale.remount();
        tale.compare("a", |_| by_dma(100));
        tale.guest_reads(Role::CompareSnapshot, "b", |_| content.clone());
        tale.host_reads(Role::CompareSnapshot, "b", true, |_| content.clone());
        assert_eq!(words(&verdict(tale)), [word]);
    }
}

#[test]
fn bytes_of_another_case_are_a_bleed() {
    let stale = CellState::Whole(Writer { run: RUN - 1, region: 0, generation: 1, source: Source::Cpu });
    let mut tale = Tale::of_an_update();
    tale.compare("a", |offset| if offset == 0 { stale.clone() } else { by_dma(101) });
    assert_eq!(words(&verdict(tale)), ["bleed"]);
}

#[test]
fn a_warning_in_the_log_is_a_splat() {
    let mut tale = Tale::of_an_update();
    tale.log
        .push("WARNING: fs/ext4/inode.c:3937 at ext4_dirty_folio+0x6c/0xa0 [ext4], CPU#0: longpin/1".into());
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact", "splat"]);
    assert!(seen.reason.starts_with("kernel log: WARNING"), "{}", seen.reason);
}

const REPORT: [&str; 6] = [
    "WARNING: fs/ext4/inode.c:3937 at ext4_dirty_folio+0x6c/0xa0 [ext4], CPU#0: longpin/1",
    "Call Trace:",
    " folio_mark_dirty_lock+0x23/0x40",
    "EXT4-fs warning (device vda): page 0 does not have buffers attached",
    "---[ end trace 0000000000000000 ]---",
    "BUG: unable to handle page fault for address: ffffc900",
];

#[test]
fn a_report_has_its_title_in_the_reason_and_is_counted_once() {
    let mut tale = Tale::of_an_update();
    tale.log.extend(REPORT[..5].iter().chain(&REPORT[..5]).map(|line| (*line).to_owned()));
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact", "warned", "splat"]);
    let [report] = &seen.reports[..] else { panic!("{:?}", seen.reports) };
    assert_eq!(report.trace, ["ext4_dirty_folio", "folio_mark_dirty_lock"]);
    let head = format!("kernel log: WARNING in ext4_dirty_folio ({})", report.fingerprint);
    assert!(seen.reason.starts_with(&head), "{}", seen.reason);
}

#[test]
fn what_is_ignored_is_shown_and_does_not_count_and_nothing_else_is() {
    let ignored = |what: &str| {
        let list = format!("[[ignore]]\n{what}\nreason = \"known\"\nexpires = 2026-12-31\n");
        Ignored::parse(&list, "2026-11-27").unwrap()
    };
    let mut tale = Tale::of_an_update();
    tale.log.extend(REPORT.map(str::to_owned));
    tale.compare("a", |_| by_dma(101));
    let record = tale.end();
    for (what, wanted) in [
        ("title = \"WARNING in ext4_dirty_folio\"", vec!["intact", "warned", "splat"]),
        ("text = [\"EXT4-fs warning\"]", vec!["intact", "splat"]),
    ] {
        assert_eq!(words(&observe_but(&record, &ignored(what))), wanted, "{what}");
    }
    let mut tale = Tale::of_an_update();
    tale.log.push("------------[ cut here ]------------".to_owned());
    tale.log.extend(REPORT[..5].iter().map(|line| (*line).to_owned()));
    tale.compare("a", |_| by_dma(101));
    let record = tale.end();
    let seen = observe_but(&record, &ignored("title = \"WARNING in ext4_dirty_folio\""));
    assert_eq!(words(&seen), ["intact", "warned"], "a line of another's between its own");
    assert_eq!(seen.reports[0].ignored.as_deref(), Some("known (until 2026-12-31)"));
    assert!(seen.log[0].meaning.starts_with("ignored: known"), "{:?}", seen.log);
    assert!(spoils_boot(&record, &seen), "the kernel is no better for it");
    // Nobody can ignore a panic.
    let mut tale = Tale::of_a_pin();
    let console = vec!["Kernel panic - not syncing: sysrq triggered crash".to_owned()];
    tale.trouble(Trouble::Panic { console });
    let seen = observe_but(&tale.record, &ignored("text = [\"Kernel panic\"]"));
    assert_eq!(words(&seen), ["panic"]);
    assert!(seen.reason.contains("sysrq triggered crash"), "{}", seen.reason);
}

#[test]
fn pins_that_are_not_given_back_are_a_leak() {
    let mut tale = Tale::of_an_update();
    tale.pins_after = PinCounters { acquired: 12, released: 10 };
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["leak"]);
    assert_eq!(seen.reason, "0 pins were held before the case and 2 after it");
}

#[test]
fn a_panic_and_a_hang_end_the_case_with_their_words() {
    let mut tale = Tale::of_a_pin();
    let console = vec![
        "BUG: kernel NULL pointer dereference, address: 0000000000000008".into(),
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009".into(),
    ];
    tale.trouble(Trouble::Panic { console });
    assert_eq!(words(&observe(&tale.record)), ["splat", "panic"]);

    let mut tale = Tale::of_a_pin();
    let waited = "20 s for step fsync".to_owned();
    tale.trouble(Trouble::Hang { waited, console: Vec::new() });
    let seen = observe(&tale.record);
    assert_eq!(words(&seen), ["hang"]);
    assert_eq!(seen.reason, "no answer: 20 s for step fsync");
}

#[test]
fn the_console_of_an_earlier_case_is_no_evidence() {
    for (text, wanted) in [
        ("[    9.999999] BTRFS error (device vda): x", vec!["hang"]),
        ("[   10.000001] BTRFS error (device vda): x", vec!["warned", "hang"]),
    ] {
        let mut tale = Tale::of_a_pin();
        let line = KernelLine { seq: 1, level: 6, time_us: 10_000_000, text: "mounted".into() };
        tale.seen(Role::Drain, Step::KernelLog, Fact::Log(vec![line]));
        tale.trouble(Trouble::Hang { waited: "w".into(), console: vec![text.into()] });
        assert_eq!(words(&observe(&tale.record)), wanted, "{text}");
    }
}

#[test]
fn what_the_kernel_says_before_the_first_step_and_after_the_last_is_judged() {
    let splat = || KernelLine { seq: 1, level: 4, time_us: 1, text: "WARNING: mm/gup.c:1 at x".into() };
    for role in [Role::Drain, Role::Frame] {
        let mut tale = Tale::of_an_update();
        tale.compare("a", |_| by_dma(101));
        tale.seen(role, Step::KernelLog, Fact::Log(vec![splat()]));
        let record = tale.end();
        let seen = observe(&record);
        assert_eq!(words(&seen), ["intact", "splat"]);
        assert!(spoils_boot(&record, &seen));
    }
}

#[test]
fn what_the_kernel_says_while_it_powers_off_is_the_last_case_s_and_what_was_read_before_is_not_new() {
    for (time, wanted) in [("10.000000", vec!["intact"]), ("10.000001", vec!["intact", "splat"])] {
        let mut tale = Tale::of_an_update();
        tale.compare("a", |_| by_dma(101));
        let read = KernelLine { seq: 1, level: 6, time_us: 10_000_000, text: "unmounting".into() };
        tale.seen(Role::Frame, Step::KernelLog, Fact::Log(vec![read]));
        let mut record = tale.end();
        let console = vec![
            "[    9.000000] EXT4-fs (vda): unmounting".to_owned(),
            format!("[   {time}] WARNING: mm/gup.c:1 at x"),
        ];
        record.evidence.push(Evidence::PowerOff { console });
        assert_eq!(words(&observe(&record)), wanted, "{time}");
    }
}

#[test]
fn several_things_are_several_words_and_the_gravest_leads() {
    let mut tale = Tale::of_an_update();
    tale.log.push("WARNING: fs/ext4/inode.c:1 at x".into());
    tale.log.push("EXT4-fs warning (device vda): page 0 does not have buffers attached".into());
    tale.compare("a", |_| by_dma(100));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["warned", "lost", "splat"]);
    assert_eq!(seen.headline(), Some(Observation::Splat));
}

#[test]
fn dma_through_a_private_mapping_does_not_belong_to_the_file() {
    let mut tale = Tale::of_a_file();
    tale.map(false);
    tale.pin();
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.compare("a", |_| cpu(1));
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn a_place_that_the_host_cannot_see_is_not_judged_by_the_host() {
    let mut tale = Tale::of_an_update();
    tale.guest_reads(Role::CompareWrites, "a", |_| by_dma(101));
    tale.host_reads(Role::CompareWrites, "a", false, |_| CellState::Zero);
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact"]);
    assert!(seen.findings.iter().all(|finding| finding.reader == Reader::Guest));
}

#[test]
fn a_file_that_only_the_host_reads_does_not_end_the_comparison_of_the_others() {
    let mut tale = Tale::of_a_pin().create("b", 2);
    tale.dma(100);
    tale.release();
    tale.remount();
    tale.host_reads(Role::CompareWrites, "b", true, |_| cpu(2));
    tale.guest_reads(Role::CompareWrites, "a", |_| by_dma(100));
    tale.host_reads(Role::CompareWrites, "a", true, |_| cpu(1));
    let problem = verdict(tale).problem.expect("the readers of /mnt/a differ");
    assert!(
        problem.message.starts_with("guest and host read different bytes of /mnt/a"),
        "{}",
        problem.message
    );
}

#[test]
fn the_order_of_gravity_is_the_documented_one() {
    let order = Observation::list();
    assert_eq!(
        order,
        "intact, refused, dma-blocked, warned, lost, orphaned, unstable, torn, detected, bleed, damaged, splat, leak, \
         panic, hang"
    );
    let good = Observation::ALL.iter().filter(|word| !word.is_bad());
    assert_eq!(good.count(), 3);
    assert_eq!(cells(|_| CellState::Zero).runs.len(), 1);
}
