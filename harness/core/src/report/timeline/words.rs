// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Durations, pages and generations in words. No number is rounded so far that two events change places.

use crate::replay::Content;
use longpin_proto::agent::PinMode;
use longpin_proto::facts::Source;

/// Bytes of a page.
pub(super) const PAGE: u64 = longpin_proto::disk::PAGE_BYTES;

/// `870 ns`, `12.3 µs`, `4.21 ms`, `1.25 s`.
pub fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// `page 3`, `pages 0–15`, `pages 0, 2–5, 9 and 4 more`. `pages` in ascending order.
pub(super) fn pages(pages: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *page => *last = *page,
            _ => runs.push((*page, *page)),
        }
    }
    let shown = runs.iter().take(3).map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}–{last}"),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    let left: u64 = runs.iter().skip(3).map(|(first, last)| last - first + 1).sum();
    if left > 0 {
        text += &format!(" and {left} more");
    }
    format!("{} {text}", if pages.len() == 1 { "page" } else { "pages" })
}

/// `DMA 101`, `CPU 1`, `zeros`.
pub(super) fn content(content: Content) -> String {
    match content {
        Content::Zero => "zeros".into(),
        Content::Stamp { source, generation } => {
            let source = match source {
                Source::Dma => "DMA",
                Source::Cpu => "CPU",
                Source::Planted => "planted",
                Source::Unknown => "unknown",
            };
            format!("{source} {generation}")
        }
    }
}

/// Who pins, where the driver does not.
pub(super) fn other(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Exec => "the program",
        _ => "the kernel",
    }
}

/// `1 page`, `16 pages`.
pub(super) fn count(n: u64, thing: &str) -> String {
    match n {
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_three_digits_and_a_unit() {
        let words = [7, 1_234, 56_780, 999_400, 1_000_000, 12_345_678, 2_500_000_000].map(duration);
        assert_eq!(words, ["7 ns", "1.23 µs", "56.8 µs", "999 µs", "1.00 ms", "12.3 ms", "2.50 s"]);
    }

    #[test]
    fn neighbouring_pages_are_one_range() {
        assert_eq!(pages(&[3]), "page 3");
        assert_eq!(pages(&[0, 1, 2, 3]), "pages 0–3");
        assert_eq!(pages(&[0, 2, 3, 9, 11, 12]), "pages 0, 2–3, 9 and 2 more");
    }
}
