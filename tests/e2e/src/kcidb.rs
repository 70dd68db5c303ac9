// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The reader of KCIDB's files that KCIDB itself has: kcidb-io, a program of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Tests of each status.
pub type Counts = BTreeMap<String, u64>;

/// Read a file.
///
/// Errors: what is wrong with it.
///
/// # Panics
///
/// If the reader is not there.
pub fn parse(file: &Path) -> Result<Counts, String> {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kcidb/validate");
    let output = Command::new(&reader).arg(file).output().expect("the reader starts");
    let [said, fault] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    match output.status.code() {
        Some(0) => Ok(serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))),
        Some(1) if !fault.contains("Traceback") => Err(fault),
        other => panic!("{}: {other:?}: {fault}", reader.display()),
    }
}
