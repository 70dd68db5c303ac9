// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that change on their way to the disk, and who else speaks of them.

use super::super::{Cause, Observed, observe};
use super::tale::{RUN, Tale, by_dma, path};
use super::{verdict, words};
use crate::record::{Evidence, Role};
use longpin_proto::agent::{Fact, Step};
use longpin_proto::disk::{Author, Change, Span};
use longpin_proto::facts::{CellState, Extent};

fn problem(tale: Tale) -> (Cause, String) {
    let problem = verdict(tale).problem.expect("a problem");
    (problem.cause, problem.message)
}

#[test]
fn a_change_by_dma_that_ends_well_is_unstable_and_is_told_in_full() {
    let mut tale = Tale::of_an_update();
    // The first DMA write into page 1 with generation 100 is the second entry, 2 us after the submission at 0.
    let hit = tale.hit(4096, Change::BeforeFetch, Author::Dma);
    hit.spans = vec![Span { offset: 24, len: 4, before: "64000000".into(), after: "65000000".into() }];
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["unstable"]);
    assert_eq!(
        seen.reason,
        "page at byte 4096 of /mnt/a (sector 2056) changed in flight, DMA generation 100 -> 101, 4096 bytes, \
         0.002 ms after submission; the disk got 101"
    );
    let audit = seen.audit.expect("an audit");
    assert_eq!((audit.writes, audit.pages, audit.hits_by_dma, audit.hits_by_others), (3, 20, 1, 0));
    let hit = audit.first_hit.expect("a hit");
    assert_eq!(
        (hit.path, hit.file_offset, hit.sector, hit.after_us),
        (Some(path("a")), Some(4096), 2056, Some(2))
    );
    assert_eq!(hit.first_bytes.map(|span| span.after), Some("65000000".into()));
}

#[test]
fn what_a_cpu_changes_in_flight_is_counted_and_no_verdict() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Other);
    tale.hit(4096, Change::AfterFetch, Author::Other);
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["intact"]);
    assert_eq!(seen.reason, "guest and host read DMA generation 101");
    let audit = seen.audit.expect("an audit");
    assert_eq!((audit.hits_by_dma, audit.hits_by_others), (0, 2));
    assert_eq!(audit.first_hit.map(|hit| hit.author), Some(Author::Other));
}

#[test]
fn a_change_of_both_counts_as_ours_and_several_are_told_by_the_first() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Other);
    tale.hit(4096, Change::AfterFetch, Author::Mixed);
    tale.hit(0, Change::Back, Author::Dma);
    tale.compare("a", |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["unstable"]);
    assert!(seen.reason.contains("byte 4096") && seen.reason.contains("the disk got 100"), "{}", seen.reason);
    assert!(seen.reason.ends_with("and one more page likewise"), "{}", seen.reason);
}

#[test]
fn a_page_that_nobody_knows_is_not_of_the_case() {
    let mut tale = Tale::of_an_update();
    let hit = tale.hit(0, Change::BeforeFetch, Author::Dma);
    (hit.region, hit.file_offset) = (None, None);
    tale.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(tale)), ["intact"]);
}

#[test]
fn a_change_that_the_disk_did_not_get_is_a_loss_that_the_audit_explains() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::AfterFetch, Author::Dma);
    tale.compare("a", |_| by_dma(100));
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["lost"]);
    assert!(seen.reason.starts_with("guest and host find DMA generation 100"), "{}", seen.reason);
    assert!(seen.reason.ends_with("the disk got 100"), "{}", seen.reason);
}

fn half_new(offset: u64) -> CellState {
    if offset % 4096 < 2048 { by_dma(100) } else { by_dma(101) }
}

#[test]
fn a_page_of_which_the_disk_got_a_mix_is_torn_if_the_mix_stays() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::Torn, Author::Dma);
    tale.hit(4096, Change::Torn, Author::Dma);
    tale.compare("a", half_new);
    let seen = verdict(tale);
    assert_eq!(words(&seen), ["torn"]);
    assert_eq!(seen.findings[0].cells, 8);
    assert!(seen.reason.contains("the disk got a mix of both"), "{}", seen.reason);

    let mut whole = Tale::of_an_update();
    whole.hit(0, Change::Torn, Author::Dma);
    whole.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(whole)), ["unstable"]);
}

#[test]
fn the_same_mix_without_the_audit_is_only_a_loss() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", half_new);
    assert_eq!(words(&verdict(tale)), ["lost"]);

    let mut by_cpu = Tale::of_an_update();
    by_cpu.hit(0, Change::Torn, Author::Other);
    by_cpu.compare("a", half_new);
    assert_eq!(words(&verdict(by_cpu)), ["lost"]);
}

fn csum_failed(offset: u64) -> String {
    format!(
        "BTRFS warning (device vda): csum failed root 5 ino 257 off {offset} csum 0x12345678 expected csum \
         0x87654321 mirror 1"
    )
}

/// A page changed in flight, and the file system says that one does not match its checksum.
fn told_by_btrfs(offset: u64) -> Observed {
    let mut tale = Tale::of_an_update();
    tale.hit(4096, Change::BeforeFetch, Author::Dma);
    tale.log.push(csum_failed(offset));
    tale.guest_reads(Role::CompareWrites, "a", |_| CellState::Unreadable { errno: 5 });
    tale.host_reads(Role::CompareWrites, "a", true, |_| by_dma(101));
    verdict(tale)
}

#[test]
fn btrfs_and_the_audit_name_the_same_page() {
    let seen = told_by_btrfs(4096);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["detected"], Some("EIO")));
    assert!(seen.reason.ends_with("btrfs and the audit name the same page, offset 4096"), "{}", seen.reason);
}

#[test]
fn a_page_that_btrfs_names_and_the_audit_did_not_see_is_a_contradiction() {
    // DMA never went there.
    let problem = told_by_btrfs(8192).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Infra);
    assert_eq!(
        problem.message,
        "btrfs names the page at offset 8192, and the audit saw only those at 4096 change"
    );
}

/// DMA after the file system's checksum and before the disk's first look: the page is wrong for the file system, and
/// did not change under the eyes of the disk.
#[test]
fn a_page_that_dma_changed_before_the_first_look_is_detected() {
    let seen = told_by_btrfs(0);
    assert_eq!((words(&seen), seen.errno.as_deref()), (vec!["detected"], Some("EIO")));
    assert_eq!((seen.problem, seen.agreement), (None, None));

    // No page changed at all.
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Dma);
    tale.audit.as_mut().expect("an audit").hits.clear();
    tale.log.push(csum_failed(0));
    tale.guest_reads(Role::CompareWrites, "a", |_| CellState::Unreadable { errno: 5 });
    tale.host_reads(Role::CompareWrites, "a", true, |_| by_dma(101));
    let seen = verdict(tale);
    assert_eq!((words(&seen), seen.problem), (vec!["detected"], None));
}

#[test]
fn a_page_whose_place_the_audit_does_not_know_contradicts_nobody() {
    let mut tale = Tale::of_an_update();
    tale.hit(4096, Change::BeforeFetch, Author::Dma);
    let unknown = tale.hit(0, Change::BeforeFetch, Author::Other);
    (unknown.region, unknown.file_offset, unknown.byte) = (None, None, 77 << 20);
    tale.log.push(csum_failed(0));
    tale.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(tale)), ["warned", "unstable"]);
}

#[test]
fn dm_integrity_speaks_of_a_sector_of_its_device() {
    for (sector, agrees) in [("0x1008", true), ("0x1010", false)] {
        let mut tale = Tale::of_an_update();
        tale.hit(4096, Change::BeforeFetch, Author::Dma);
        tale.log.push(format!("device-mapper: integrity: dm-0: Checksum failed at sector {sector}"));
        tale.guest_reads(Role::CompareWrites, "a", |_| CellState::Unreadable { errno: 84 });
        // The file lies on dm-0, which the host cannot read: extents are taken, and not for an image.
        let extent = Extent { logical: 0, physical: 0x1000 * 512, len: 12288, flags: 0, located: true };
        tale.seen(Role::Act, Step::Extents { path: path("a") }, Fact::Extents(vec![extent]));
        let seen = verdict(tale);
        assert_eq!(seen.problem.is_none(), agrees, "{}", seen.reason);
        assert!(seen.reason.contains("dm-integrity"), "{}", seen.reason);
        assert_eq!(seen.errno.as_deref(), Some("EILSEQ"));
    }
}

#[test]
fn changes_that_were_not_kept_may_be_ours_where_dma_was_done() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Other);
    tale.audit.as_mut().expect("an audit").hits_left_out = 7;
    tale.compare("a", |_| by_dma(101));
    let (cause, message) = problem(tale);
    assert_eq!(cause, Cause::Unproven);
    assert!(message.starts_with("7 pages that changed in flight were not kept"), "{message}");

    let mut quiet = Tale::of_a_pin();
    quiet.hit(0, Change::BeforeFetch, Author::Other);
    quiet.audit.as_mut().expect("an audit").hits_left_out = 7;
    quiet.release();
    quiet.remount();
    quiet.compare("a", |_| super::cpu(1));
    assert_eq!(words(&verdict(quiet)), ["intact"]);
}

#[test]
fn pages_that_nobody_looked_at_to_the_end_may_have_been_changed_by_us() {
    let unread = || {
        let mut tale = Tale::of_an_update();
        tale.hit(0, Change::BeforeFetch, Author::Other);
        tale.audit.as_mut().expect("an audit").pages_unread = 3;
        tale
    };
    let mut tale = unread();
    tale.compare("a", |_| by_dma(101));
    let (cause, message) = problem(tale);
    assert_eq!(cause, Cause::Unproven);
    assert!(message.starts_with("3 pages of audited writes were not in the guest's memory"), "{message}");

    let mut proven = unread();
    proven.hit(4096, Change::BeforeFetch, Author::Dma);
    proven.compare("a", |_| by_dma(101));
    assert_eq!(words(&verdict(proven)), ["unstable"]);
}

/// The disk kept hashes, and DMA wrote to a part of the page.
#[test]
fn a_change_of_which_nobody_knows_who_made_it_is_no_verdict() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Unknown);
    tale.hit(4096, Change::Torn, Author::Unknown);
    tale.compare("a", |_| by_dma(101));
    let (cause, message) = problem(tale);
    assert_eq!(cause, Cause::Unproven);
    assert!(message.starts_with("2 pages changed in flight, and too little"), "{message}");

    // Beside one that is proven it changes nothing.
    let mut proven = Tale::of_an_update();
    proven.hit(0, Change::BeforeFetch, Author::Unknown);
    proven.hit(4096, Change::BeforeFetch, Author::Dma);
    proven.compare("a", |_| by_dma(101));
    let seen = verdict(proven);
    assert_eq!(words(&seen), ["unstable"]);
    assert!(seen.reason.contains("byte 4096"), "{}", seen.reason);
}

#[test]
fn the_audit_of_another_case_proves_nothing() {
    let mut tale = Tale::of_an_update();
    tale.hit(0, Change::BeforeFetch, Author::Dma);
    tale.audit.as_mut().expect("an audit").run = RUN + 1;
    tale.compare("a", |_| by_dma(101));
    let (cause, message) = problem(tale);
    assert_eq!(cause, Cause::Infra);
    assert_eq!(message, "the disk audited case 0x8, not this one");
}

#[test]
fn a_record_without_the_new_fields_is_judged_as_before() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(100));
    let mut json = serde_json::to_value(tale.end()).expect("json");
    let evidence = json["evidence"].as_array_mut().expect("a list");
    for piece in evidence.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        piece.retain(|key, _| !["began_ns", "ended_ns", "disk"].contains(&key.as_str()));
    }
    let record: crate::record::CaseRecord = serde_json::from_value(json).expect("an old record");
    assert!(
        record.evidence.iter().any(|piece| matches!(piece, Evidence::Ledger { disk, .. } if disk.is_empty()))
    );
    let seen = observe(&record);
    assert_eq!((words(&seen), seen.audit), (vec!["lost"], None));
}
