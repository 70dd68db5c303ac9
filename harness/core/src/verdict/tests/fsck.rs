// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file systems' own checkers: what their codes and words mean, and what they do to a verdict.

use super::super::fsck::{Fsck, Structure};
use super::super::{Cause, observe};
use super::tale::{Tale, by_dma};
use super::{verdict, words};
use crate::record::{Evidence, FsckReport};

/// Command line, code and output of a real checker.
macro_rules! report {
    ($fs:literal, $name:literal) => {
        parse($fs, include_str!(concat!("../../../tests/fixtures/fsck/", $name, ".txt")))
    };
}

fn parse(fs: &str, fixture: &str) -> FsckReport {
    let mut lines = fixture.splitn(3, '\n');
    let argv = lines.next().expect("a command").split(' ').map(ToOwned::to_owned).collect();
    let code =
        lines.next().and_then(|line| line.strip_prefix("code ")).expect("a code").parse().expect("a number");
    FsckReport { fs: fs.into(), argv, code, output: lines.next().expect("output").into() }
}

#[test]
fn real_outputs_are_what_they_are() {
    use Structure::{Clean, Damaged, DataDamaged, Unusable};
    let table = [
        (report!("ext4", "ext4-clean"), Clean, None),
        (
            report!("ext4", "ext4-damaged"),
            Damaged,
            Some("Entry 'a' in / (2) has deleted/unused inode 13.  Clear? no"),
        ),
        (report!("xfs", "xfs-clean"), Clean, None),
        (report!("xfs", "xfs-damaged"), Damaged, Some("bad nblocks 999 for inode 131, would reset to 16")),
        (report!("btrfs", "btrfs-clean"), Clean, None),
        (
            report!("btrfs", "btrfs-data-damaged"),
            DataDamaged,
            Some("mirror 1 bytenr 13631488 csum 0xddd5c527 expected csum 0xb332e7b9"),
        ),
        (
            report!("btrfs", "btrfs-damaged"),
            Damaged,
            Some("checksum verify failed on 30408704 wanted 0x5eb54914 found 0x1ea2e5a1"),
        ),
        (report!("f2fs", "f2fs-clean"), Clean, None),
        (
            report!("f2fs", "f2fs-damaged"),
            Damaged,
            Some(
                "[ASSERT] (fsck_chk_inode_blk:1049)  --> ino: 0x4 has i_blocks: 0000ffff, but has 17 blocks",
            ),
        ),
        (
            report!("f2fs", "f2fs-stopped"),
            Damaged,
            Some("[ASSERT] (sanity_check_nid: 429)  --> nid[0x4] nat_entry->ino[0x4] footer.ino[0x0]"),
        ),
        (report!("f2fs", "f2fs-unusable"), Unusable, Some("Can't find a valid F2FS superblock at 0x1")),
    ];
    for (report, state, complaint) in table {
        let fsck = Fsck::of(&report);
        assert_eq!((fsck.state, fsck.complaint.as_deref()), (state, complaint), "{report:?}");
    }
}

#[test]
fn codes_and_words_that_say_nothing_of_the_structure() {
    let table = [
        ("ext4", 8, "e2fsck: No such file or directory while trying to open disk.img"),
        ("ext4", 4, "Warning: skipping journal recovery because doing a read-only filesystem check."),
        ("xfs", 2, "ERROR: The filesystem has valuable metadata changes in a log"),
        ("xfs", 1, "ALERT: The filesystem has valuable metadata changes in a log which is being ignored"),
        ("btrfs", 1, "warning, device 2 is missing\nERROR: cannot open file system"),
        ("f2fs", 255, "\tError: Failed to open the device!"),
        ("ext4", 137, ""),
        ("zonefs", 0, ""),
    ];
    for (fs, code, output) in table {
        let report = FsckReport { fs: fs.into(), argv: Vec::new(), code, output: output.into() };
        assert_eq!(Fsck::of(&report).state, Structure::Unusable, "{fs} {code} {output}");
    }
}

#[test]
fn a_result_carries_the_end_of_a_long_output() {
    let output = format!("begin{}end", "\u{e9}".repeat(9000));
    let report = FsckReport { fs: "ext4".into(), argv: Vec::new(), code: 0, output };
    let kept = Fsck::of(&report).output;
    assert!(kept.len() <= 8192 && kept.ends_with("\u{e9}end"), "{} bytes", kept.len());
}

fn checked(fs: &str, code: i32, output: &str) -> super::Observed {
    let mut tale = Tale::of_an_update();
    tale.fsck(fs, code, output);
    tale.compare("a", |_| by_dma(101));
    verdict(tale)
}

#[test]
fn a_damaged_structure_is_damaged() {
    let seen = checked("ext4", 4, "Pass 1: x\nInode 12 has illegal block(s).  Clear? no\n");
    assert_eq!(words(&seen), ["damaged"]);
    assert_eq!(seen.reason, "`fsck -n` complains, code 4: Inode 12 has illegal block(s).  Clear? no");
    assert_eq!(seen.fsck.map(|fsck| fsck.state), Some(Structure::Damaged));
}

#[test]
fn data_that_does_not_match_its_checksum_is_detected() {
    let csum = "mirror 1 bytenr 13631488 csum 0x1 expected csum 0x2";
    let seen = checked(
        "btrfs",
        1,
        &format!("[6/8] checking csums against data\n{csum}\nERROR: errors found in csum tree\n"),
    );
    assert_eq!(words(&seen), ["detected"]);
    assert_eq!(seen.reason, format!("`fsck -n` complains, code 1: {csum}"));
}

#[test]
fn a_clean_or_silent_checker_changes_nothing() {
    assert_eq!(words(&checked("ext4", 0, "")), ["intact"]);
    let seen = checked("ext4", 8, "e2fsck: Permission denied");
    assert_eq!(words(&seen), ["intact"]);
    assert_eq!(seen.fsck.map(|fsck| fsck.state), Some(Structure::Unusable));
}

#[test]
fn a_checker_that_could_not_be_run_is_our_fault() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(101));
    let mut record = tale.end();
    let message = "e2fsck is not installed".to_owned();
    record.evidence.push(Evidence::FsckFailed { fs: "ext4".into(), message });
    let problem = observe(&record).problem.expect("a problem");
    assert_eq!(problem.cause, Cause::Infra);
    assert_eq!(problem.message, "the checker of ext4 could not be run: e2fsck is not installed");
}
