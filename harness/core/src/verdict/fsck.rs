// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a file system's own checker says, in the mode that only looks, in a result.

use crate::record::FsckReport;
use longpin_proto::filesystem::{FileSystem, Structure};
use serde::{Deserialize, Serialize};

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
        let checker = FileSystem::find(&report.fs).and_then(FileSystem::checker);
        let state = checker.map_or(Structure::Unusable, |it| it.structure(report.code, &report.output));
        let complaint = match state {
            Structure::Clean => None,
            _ => checker.and_then(|it| it.complaint(&report.output)).map(ToOwned::to_owned),
        };
        let mut from = report.output.len().saturating_sub(OUTPUT_BYTES);
        while !report.output.is_char_boundary(from) {
            from += 1;
        }
        let output = report.output[from..].to_owned();
        Self { argv: report.argv.clone(), code: report.code, state, complaint, output }
    }
}
