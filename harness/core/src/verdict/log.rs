// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel log and the console of a case: which lines mean something.

use super::observe::LogLine;
use crate::dmesg;
use crate::record::Trouble;
use crate::replay::Replay;

/// Lines of the case that mean something.
pub fn log(replay: &Replay<'_>) -> Vec<LogLine> {
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
    lines
        .filter_map(|text| {
            let pattern = dmesg::classify(text)?;
            let (class, text, meaning) = (pattern.class, text.to_owned(), pattern.meaning.clone());
            Some(LogLine { class, text, meaning })
        })
        .collect()
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
