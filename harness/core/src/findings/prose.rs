// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Text of scenarios and results in Markdown: names of functions, flags and fields as code, all else as text that
//! Markdown reads as nothing but text.

use crate::report::formats::escaped;

/// The text. What stands in backticks stays so; a word with `_` or `()` in it gets them.
pub fn prose(text: &str) -> String {
    let text = &text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Between the first backtick and the second is code, and so on; one that is alone is a letter.
    let pieces: Vec<&str> = text.split('`').collect();
    if pieces.len().is_multiple_of(2) {
        return escaped(text);
    }
    let piece = |(index, piece): (usize, &&str)| match index % 2 {
        1 => format!("`{piece}`"),
        _ => piece.split(' ').map(word).collect::<Vec<_>>().join(" "),
    };
    pieces.iter().enumerate().map(piece).collect()
}

const PUNCTUATION: [char; 4] = ['.', ',', ';', ':'];

/// A word; punctuation around it is none of it.
fn word(word: &str) -> String {
    let from = word.find(|letter: char| letter != '(').unwrap_or(word.len());
    let (before, rest) = word.split_at(from);
    let mut core = rest.trim_end_matches(PUNCTUATION);
    // The bracket of a sentence, not of a call.
    while core.ends_with(')') && core.matches(')').count() > core.matches('(').count() {
        core = core[..core.len() - 1].trim_end_matches(PUNCTUATION);
    }
    let after = &rest[core.len()..];
    let name = |letter: char| letter.is_ascii_alphanumeric() || "_()=|-".contains(letter);
    let is_code = (core.contains('_') || core.contains("()")) && core.chars().all(name);
    if is_code { format!("{}`{core}`{}", escaped(before), escaped(after)) } else { escaped(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_kernel_are_code() {
        for (text, expected) in [
            ("xfs_map_blocks() finds no extent", "`xfs_map_blocks()` finds no extent"),
            ("it (folio_split(), later) fails", "it (`folio_split()`, later) fails"),
            ("sets it dirty (bio_dirty_fn())", "sets it dirty (`bio_dirty_fn()`)"),
            ("a call (FOLL_PIN | FOLL_WRITE).", "a call (`FOLL_PIN` \\| `FOLL_WRITE`)."),
            ("variant `pin-before`: here", "variant `pin-before`: here"),
            ("WARN_ON_ONCE(!folio_buffers())", "WARN\\_ON\\_ONCE(\\!folio\\_buffers())"),
        ] {
            assert_eq!(prose(text), expected, "{text}");
        }
    }

    #[test]
    fn text_stays_text() {
        for text in ["<b>*x*</b>", "a ` alone", "[a](b)", "| x |", "", "_", "()"] {
            let shown = prose(text);
            assert!(!shown.contains("<b>"), "{shown}");
            assert!(shown == escaped(text) || shown.replace('`', "") == text, "{shown}");
        }
        assert_eq!(prose("`<script>` here"), "`<script>` here", "code is shown as it is");
    }
}
