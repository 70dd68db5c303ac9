// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Golden lines of the kernel log and what they are.

use longpin_core::dmesg::{classify, patterns};

const LINES: &str = include_str!("fixtures/kernel.log");

#[test]
fn lines_are_what_they_are() {
    let lines = LINES.lines().filter(|line| !line.starts_with('#'));
    for (class, line) in lines.map(|line| line.split_once('\t').expect("class and line")) {
        let found = classify(line).map_or("-", |pattern| pattern.class.as_str());
        assert_eq!(found, class, "{line}");
    }
}

#[test]
fn a_pattern_has_pieces_and_says_what_it_means() {
    assert!(patterns().len() > 30);
    for pattern in patterns() {
        // A short piece alone would match by accident.
        assert!(
            pattern.text.concat().len() >= 5 && pattern.text.iter().all(|piece| piece.len() >= 3),
            "{pattern:?}"
        );
        assert!(!pattern.meaning.is_empty(), "{pattern:?}");
    }
}
