// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a file system's own checker says, in the mode that only looks. Codes and messages as of e2fsprogs 1.47,
//! xfsprogs 6.13, btrfs-progs 6.14 and f2fs-tools 1.16; `tests/fixtures/fsck` holds outputs of each.

use crate::record::FsckReport;
use serde::{Deserialize, Serialize};

vocabulary! {
    /// State of a file system by its checker.
    pub enum Structure {
        /// Nothing to complain of.
        Clean = "clean",
        /// The structure is damaged.
        Damaged = "damaged",
        /// The structure is whole; data does not match its checksum.
        DataDamaged = "data-damaged",
        /// The checker could not say: the log was not replayed, a device was missing, it failed.
        Unusable = "unusable",
    }
}

/// The checker's word in a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fsck {
    /// Command as it was run.
    pub argv: Vec<String>,
    /// Exit code; 128 + signal.
    pub code: i32,
    /// What it means.
    pub state: Structure,
    /// The line that tells most; null if it is clean.
    pub complaint: Option<String>,
    /// The end of its output.
    pub output: String,
}

/// Bytes of output that go into a result; the record has more.
const OUTPUT_BYTES: usize = 8192;

impl Fsck {
    /// Understand a report.
    pub fn of(report: &FsckReport) -> Self {
        let state = structure(report);
        let complaint = match state {
            Structure::Clean => None,
            _ => complaint(report).map(ToOwned::to_owned),
        };
        let mut from = report.output.len().saturating_sub(OUTPUT_BYTES);
        while !report.output.is_char_boundary(from) {
            from += 1;
        }
        let output = report.output[from..].to_owned();
        Self { argv: report.argv.clone(), code: report.code, state, complaint, output }
    }
}

fn structure(report: &FsckReport) -> Structure {
    let says = |texts: &[&str]| texts.iter().any(|text| report.output.contains(text));
    match (report.fs.as_str(), report.code) {
        (_, 127..=192) => Structure::Unusable,
        // A journal that was not replayed makes spurious complaints.
        ("ext4", _) if says(&["skipping journal recovery"]) => Structure::Unusable,
        ("ext4", 0) => Structure::Clean,
        // 4: errors left uncorrected; 8 and more: it could not work.
        ("ext4", code) if code < 8 => Structure::Damaged,
        ("ext4", _) => Structure::Unusable,
        ("xfs", _) if says(&["valuable metadata changes in a log", "fatal error"]) => Structure::Unusable,
        ("xfs", 0) => Structure::Clean,
        ("xfs", 1) => Structure::Damaged,
        // 2: the log is dirty.
        ("xfs", _) => Structure::Unusable,
        ("btrfs", 0) => Structure::Clean,
        ("btrfs", _) => btrfs(&report.output),
        ("f2fs", 0) if !says(&["[Fail]", "[ASSERT]"]) => Structure::Clean,
        // After a complaint it may also stop for an answer that nobody gives, with a code of failure.
        ("f2fs", _) if says(&["[Fail]", "[ASSERT]"]) => Structure::Damaged,
        ("f2fs", 1 | 4) => Structure::Damaged,
        _ => Structure::Unusable,
    }
}

/// `btrfs check` has one code for every complaint. With damaged data alone it says "errors found in csum tree" after a
/// line for each block, and nothing else.
fn btrfs(output: &str) -> Structure {
    let absent =
        ["is missing", "is currently mounted", "cannot open device", "No such file", "Permission denied"];
    if absent.iter().any(|text| output.contains(text)) {
        return Structure::Unusable;
    }
    let complaints: Vec<&str> = output.lines().filter(|line| is_btrfs_complaint(line)).collect();
    let of_data = |line: &&str| line.starts_with("mirror ") || line.contains("errors found in csum tree");
    match !complaints.is_empty() && complaints.iter().all(of_data) {
        true => Structure::DataDamaged,
        false => Structure::Damaged,
    }
}

fn is_btrfs_complaint(line: &str) -> bool {
    ["ERROR", "mirror ", "checksum verify failed", "bad ", "ref mismatch", "root ", "unresolved ref"]
        .iter()
        .any(|start| line.trim_start().starts_with(start))
        || line.contains("errors ")
}

/// The first line that is not what a checker says of every file system.
fn complaint(report: &FsckReport) -> Option<&str> {
    let usual: &[&str] = match report.fs.as_str() {
        "ext4" => &["e2fsck ", "Pass ", "IGNORED"],
        "xfs" => &["Phase ", "- ", "Cannot get host", "Repair may fail", "the image and", "No modify flag"],
        _ => &[],
    };
    let mut lines = report.output.lines().map(str::trim).filter(|line| !line.is_empty());
    match report.fs.as_str() {
        "btrfs" => lines.find(|line| is_btrfs_complaint(line)),
        "f2fs" => lines.find(|line| line.contains("[ASSERT]") || line.contains("[Fail]")),
        _ => lines.find(|line| !usual.iter().any(|start| line.starts_with(start))),
    }
    .or_else(|| report.output.lines().map(str::trim).rfind(|line| !line.is_empty()))
}
