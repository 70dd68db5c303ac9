// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Standard output and standard error. A reader that has seen enough (`longpin list | head`) or a terminal that has gone is
//! no error: what matters stands in the result directory.

use anyhow::Context as _;
use serde::Serialize;
use std::io::{ErrorKind, Write as _};

/// Print text as it is.
pub fn text(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output cannot be written"),
    }
}

/// Say something to people, on standard error. Whether anybody hears it does not matter.
pub fn note(text: &str) {
    // One write: lines of several processes on one stream stay whole.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Print a document.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut words = serde_json::to_string_pretty(document).context("document cannot be written as JSON")?;
    words.push('\n');
    text(&words)
}
