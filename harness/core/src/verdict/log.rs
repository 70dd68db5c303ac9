// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel log and the console of a case: which lines mean something.

use super::observe::LogLine;
use crate::dmesg::frames::Frame;
use crate::dmesg::ignored::Ignored;
use crate::dmesg::reports::{Found, Report};
use crate::dmesg::{self, Class};
use crate::record::Trouble;
use crate::replay::Replay;
use std::collections::BTreeMap;

/// What the kernel said.
pub struct Log {
    /// Lines of the case that mean something.
    pub lines: Vec<LogLine>,
    /// Reports that the kernel made of itself, each once.
    pub reports: Vec<Report>,
    /// Traces of these, by fingerprint.
    pub frames: BTreeMap<String, Vec<Frame>>,
}

/// Look at it. What `ignored` has is shown and does not count.
pub fn log(replay: &Replay<'_>, ignored: &Ignored) -> Log {
    let console: &[String] = match replay.trouble {
        Some(Trouble::Panic { console } | Trouble::Hang { console, .. }) => console,
        _ => &[],
    };
    // The console remembers earlier cases of the boot; what was there before the case is not its evidence.
    let ours = newer_than(replay.log_starts_us);
    // At power-off the agent's last reading of the log is the one before: only what came after it is new.
    let last_read = replay.log.iter().map(|line| line.time_us).max().max(replay.log_starts_us);
    let afterwards = newer_than(last_read);
    let console = console.iter().filter(|line| ours(line));
    let console = console.chain(replay.power_off.iter().filter(|line| afterwards(line)));
    let lines =
        replay.log.iter().map(|line| line.text.as_str()).chain(console.map(|line| console_text(line)));
    let lines: Vec<&str> = lines.collect();
    let mut reports: Vec<Report> = Vec::new();
    // Why the lines of a report do not count.
    let mut excused: BTreeMap<usize, String> = BTreeMap::new();
    let mut traces = BTreeMap::new();
    for Found { mut report, frames, lines: its, panic } in dmesg::reports::reports(lines.iter().copied()) {
        // Lines of others may stand between its own.
        let is_splat = |line: &&str| dmesg::classify(line).is_some_and(|it| it.class == Class::Splat);
        let its_lines = lines[its.clone()].iter().copied().filter(is_splat);
        let why = ignored.report(&report, its_lines).filter(|_| !panic).map(str::to_owned);
        excused.extend(why.iter().flat_map(|why| its.clone().map(move |at| (at, why.clone()))));
        report.ignored = why;
        // The console has what the log has.
        if reports.iter().all(|known| known.fingerprint != report.fingerprint) {
            traces.insert(report.fingerprint.clone(), frames);
            reports.push(report);
        }
    }
    let lines = lines.iter().enumerate().filter_map(|(at, text)| {
        let pattern = dmesg::classify(text)?;
        let why = match pattern.class {
            // The kernel is dead, whoever does not mind.
            Class::Panic => None,
            Class::Splat => excused.get(&at).map(String::as_str).or_else(|| ignored.line(text)),
            Class::Detector | Class::Note => ignored.line(text),
        };
        let (class, meaning) = match why {
            Some(why) => (Class::Note, format!("ignored: {why}; {}", pattern.meaning)),
            None => (pattern.class, pattern.meaning.clone()),
        };
        Some(LogLine { class, text: (*text).to_owned(), meaning })
    });
    Log { lines: lines.collect(), reports, frames: traces }
}

/// A line without a time is taken for new.
fn newer_than(start: Option<u64>) -> impl Fn(&str) -> bool {
    move |line| match (console_line(line), start) {
        (Some((time, _)), Some(start)) => time > start,
        _ => true,
    }
}

/// Microseconds and text of a console line: `[   11.828306] text`.
fn console_line(line: &str) -> Option<(u64, &str)> {
    let (time, text) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = time.trim().split_once('.')?;
    Some((seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?, text))
}

fn console_text(line: &str) -> &str {
    console_line(line).map_or(line, |(_, text)| text)
}
