// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a line of the kernel log means. The knowledge is data: `patterns.toml` beside this file.

pub mod frames;
pub mod ignored;
pub mod places;
pub mod reports;

use serde::Deserialize;
use std::sync::LazyLock;

vocabulary! {
    /// Class of a log line.
    pub enum Class {
        /// A warning with a trace, an oops, a report of a sanitizer: the kernel thinks that it is broken.
        Splat = "splat",
        /// The kernel died.
        Panic = "panic",
        /// A file system or the block layer says that data is bad, lost or in danger.
        Detector = "detector",
        /// Worth showing, no evidence of anything.
        Note = "note",
    }
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Pieces of text that a line must hold, in this order.
    pub text: Vec<String>,
    /// What it is.
    pub class: Class,
    /// What it means, with the kernel function that prints it.
    pub meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patterns {
    pattern: Vec<Pattern>,
}

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let data: Patterns = toml::from_str(include_str!("patterns.toml")).expect("a test parses patterns.toml");
    data.pattern
});

impl Pattern {
    fn matches(&self, line: &str) -> bool {
        let mut rest = line;
        self.text.iter().all(|piece| match rest.find(piece.as_str()) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

/// The first pattern that a line matches.
pub fn classify(line: &str) -> Option<&'static Pattern> {
    PATTERNS.iter().find(|pattern| pattern.matches(line))
}

/// All patterns, for documentation and tests.
pub fn patterns() -> &'static [Pattern] {
    &PATTERNS
}
