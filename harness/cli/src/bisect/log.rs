// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One line for each commit that was judged, to be read beside `git bisect log`.

use anyhow::Context as _;
use longpin_core::bisect::Ruling;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Name of the log in the directory of results.
pub const NAME: &str = "bisect.log";

/// What was decided of a commit, why, and how sure it is.
pub fn line(commit: &str, ruling: &Ruling, dir: &Path) -> String {
    let Ruling { verdict, reason, wrong_good, hits, clean, tries } = ruling;
    let place = dir.file_name().unwrap_or_default().to_string_lossy();
    // A reason of a guest or a compiler may have several lines.
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "{commit} {verdict}: {reason}; {tries} tries, {hits} with the fault, {clean} clean; P(all clean | fault) {wrong_good:.4}; \
         in {place}"
    )
}

/// Now, as it stands before each line.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Append it, with the time.
pub fn append(dir: &Path, line: &str) -> anyhow::Result<()> {
    let path = dir.join(NAME);
    let open = OpenOptions::new().create(true).append(true).open(&path);
    let written = open.and_then(|mut file| file.write_all(format!("{} {line}\n", now()).as_bytes()));
    written.with_context(|| format!("{} cannot be written", path.display()))
}
