// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Annotations of a GitHub workflow: lines on standard output that the runner picks out of the log and shows beside the
//! scenario's expectation.

use super::{Entry, labels, one_line, unexpected};
use crate::report::RunResult;
use crate::report::table::numbers;
use std::collections::BTreeMap;

/// GitHub shows ten errors of a step and drops the rest.
const MOST: usize = 10;

/// Where the expectation of a case stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path from the root of the repository.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
}

/// At most ten annotations, the gravest first, and the line of numbers. `places` are by the id of the case.
pub fn github(run: &RunResult, places: &BTreeMap<String, Place>) -> String {
    let groups = unexpected(run);
    let mut lines: Vec<String> = groups.iter().take(MOST).map(|group| annotation(group, places)).collect();
    let more = groups.len().saturating_sub(MOST);
    lines.extend((more > 0).then(|| format!("{more} more reasons to look at are not annotated")));
    lines.push(numbers(&run.summary));
    lines.join("\n") + "\n"
}

fn annotation(group: &[Entry<'_>], places: &BTreeMap<String, Place>) -> String {
    let Some(first) = group.first() else { return String::new() };
    let place = places
        .get(first.id)
        .map(|place| format!("file={},line={},", property(place.file.trim_start_matches("./")), place.line));
    let title = format!("longpin: {} of {}", first.outcome_words(), first.scenario);
    let message = format!("{}: {}", labels(group), first.reason());
    let level = if first.is_good() { "warning" } else { "error" };
    format!("::{level} {}title={}::{}", place.unwrap_or_default(), property(&title), data(&message))
}

/// Text after the second `::`; the escapes are those of `@actions/core`.
fn data(text: &str) -> String {
    // A line of its own could be a command of its own.
    one_line(text, usize::MAX).replace('%', "%25")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
