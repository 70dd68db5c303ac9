// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file systems' own checkers: what their codes and words mean, and what they do to a verdict.

use super::super::fsck::Fsck;
use super::super::{Cause, observe};
use super::tale::{Tale, by_dma};
use super::{verdict, words};
use crate::record::{Evidence, FsckReport};
use longpin_proto::filesystem::Structure;

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
