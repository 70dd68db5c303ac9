// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Content keys: the blake3 hash of everything that goes into an artifact. Two builds with the same key would make the
//! same thing, so the first one is used again; whatever can change the result must be added here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Hex digits of a key: 80 bits tell thousands of artifacts apart and still fit in a path.
const HEX_DIGITS: usize = 20;

/// Identity of an artifact's content, as in its directory's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Reads a key from a directory's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == HEX_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.to_owned()))
    }

    /// Key of these bytes alone.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex()[..HEX_DIGITS].to_owned())
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects labelled inputs; the key covers labels, values and their order.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    hasher: blake3::Hasher,
    recorded: BTreeMap<String, String>,
}

impl Inputs {
    /// `format` is the version of the builder's code: a change of what it makes from the same inputs counts it up.
    pub(crate) fn new(format: u32) -> Self {
        let mut inputs = Self::default();
        inputs.value("format", &format.to_string());
        inputs
    }

    /// A short input, recorded as it is.
    pub(crate) fn value(&mut self, label: &str, value: &str) -> &mut Self {
        self.absorb(label, value.as_bytes());
        self.recorded.insert(label.to_owned(), value.to_owned());
        self
    }

    /// A long input, recorded by its hash.
    pub(crate) fn bytes(&mut self, label: &str, value: &[u8]) -> &mut Self {
        self.absorb(label, value);
        self.recorded.insert(label.to_owned(), format!("blake3:{}", Key::of_bytes(value)));
        self
    }

    /// Length before content, so that no two different lists of inputs hash the same bytes.
    fn absorb(&mut self, label: &str, value: &[u8]) {
        for part in [label.as_bytes(), value] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }

    /// The key of what was added so far.
    pub(crate) fn key(&self) -> Key {
        Key(self.hasher.finalize().to_hex()[..HEX_DIGITS].to_owned())
    }

    /// Labels and values, for the manifest.
    pub(crate) fn recorded(&self) -> &BTreeMap<String, String> {
        &self.recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pairs: &[(&str, &str)]) -> Key {
        let mut inputs = Inputs::new(1);
        for (label, value) in pairs {
            inputs.value(label, value);
        }
        inputs.key()
    }

    #[test]
    fn the_same_inputs_give_the_same_key() {
        assert_eq!(key(&[("a", "1"), ("b", "2")]), key(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn every_change_of_label_value_border_or_order_changes_the_key() {
        let all = [
            key(&[("a", "1"), ("b", "2")]),
            key(&[("a", "1"), ("b", "3")]),
            key(&[("a", "1"), ("c", "2")]),
            key(&[("a", "1b"), ("", "2")]),
            key(&[("b", "2"), ("a", "1")]),
            key(&[("a", "1")]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one), "inputs {i} collide");
        }
    }

    #[test]
    fn the_builders_format_is_part_of_the_key() {
        assert_ne!(Inputs::new(1).key(), Inputs::new(2).key());
    }

    #[test]
    fn bytes_and_text_of_one_content_give_one_key_and_bytes_are_recorded_by_hash() {
        let mut text = Inputs::new(1);
        text.value("x", "content");
        let mut bytes = Inputs::new(1);
        bytes.bytes("x", b"content");
        assert_eq!(text.key(), bytes.key());
        assert!(bytes.recorded()["x"].starts_with("blake3:"));
        assert_eq!(text.recorded()["x"], "content");
    }

    #[test]
    fn only_a_whole_key_is_read_back() {
        let key = key(&[]);
        assert_eq!(Key::parse(key.as_str()), Some(key.clone()));
        assert_eq!(Key::parse(&key.as_str()[1..]), None);
        assert_eq!(Key::parse("zz9a0000000000000000"), None);
    }
}
