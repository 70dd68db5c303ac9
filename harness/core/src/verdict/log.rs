// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel log and the console of a case: which lines mean something.

use super::observe::LogLine;
use super::story::Story;
use crate::dmesg;
use crate::record::Trouble;

/// Lines of the case that mean something.
pub fn log(story: &Story<'_>) -> Vec<LogLine> {
    let console: &[String] = match story.trouble {
        Some(Trouble::Panic { console } | Trouble::Hang { console, .. }) => console,
        _ => &[],
    };
    // The console remembers earlier cases of the boot; what was there before the case is not its evidence.
    let ours = |line: &&String| match (console_line(line), story.log_starts_us) {
        (Some((time, _)), Some(start)) => time > start,
        _ => true,
    };
    let console = console.iter().filter(ours).map(|line| console_text(line));
    let lines = story.log.iter().map(|line| line.text.as_str()).chain(console);
    lines
        .filter_map(|text| {
            let pattern = dmesg::classify(text)?;
            let (class, text, meaning) = (pattern.class, text.to_owned(), pattern.meaning.clone());
            Some(LogLine { class, text, meaning })
        })
        .collect()
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
