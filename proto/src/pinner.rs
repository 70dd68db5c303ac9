// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Agent and pinner: a program that pins a part of a file's mapping in its own way and writes into it on request. Lines of
//! plain words, so that a program of any language reads them with `sscanf`; docs/pinners.md describes them for its author.
//!
//! The pinner's standard input and output are one socket, its arguments the numbers of two descriptors: the file, and
//! memory in which bytes to be written lie. It is asked one thing at a time and gives one line to each.

use std::fmt;

/// Version of this protocol, in [`Ask::Hello`].
pub const VERSION: u32 = 1;
/// Longest line of a pinner, with its newline.
pub const MAX_LINE_BYTES: usize = 512;
/// Until when an answer must have come, milliseconds.
pub const ANSWER_MS: u64 = 20_000;
/// Until when a pinner must have ended after [`Ask::Quit`] or the end of its input, milliseconds.
pub const QUIT_MS: u64 = 10_000;
/// Where it lies in the guest.
pub const GUEST_PATH: &str = "/lib/longpin/pinner";

/// What a pinner is asked. All numbers are decimal and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who are you? Answered by [`Name`]'s line.
    Hello,
    /// Map these bytes of the file, shared and writable, and pin their pages.
    Pin {
        /// In the file, page-aligned.
        offset: u64,
        /// Whole pages.
        len: u64,
    },
    /// Write into the pinned pages, past every page table; answer when the bytes are there.
    Dma {
        /// In what is pinned.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Where they lie in the second descriptor.
        at: u64,
    },
    /// Say in a line how you pin.
    Describe,
    /// Unpin, and set a dirty bit or none.
    Release {
        /// Set one.
        dirty: bool,
    },
    /// End.
    Quit,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => write!(f, "hello {VERSION}"),
            Self::Pin { offset, len } => write!(f, "pin {offset} {len}"),
            Self::Dma { offset, len, at } => write!(f, "dma {offset} {len} {at}"),
            Self::Describe => f.write_str("describe"),
            Self::Release { dirty: true } => f.write_str("release dirty"),
            Self::Release { dirty: false } => f.write_str("release clean"),
            Self::Quit => f.write_str("quit"),
        }
    }
}

/// Introduction of a pinner: `pinner VERSION NAME RELEASE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Without blanks.
    pub name: String,
    /// Its own version, without blanks.
    pub release: String,
}

impl Name {
    /// Of the line that answers [`Ask::Hello`]. Errors: what it should be.
    pub fn parse(line: &str) -> Result<Self, String> {
        let wanted = || format!("pinner {VERSION} NAME RELEASE");
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["pinner", version, name, release] if !name.is_empty() && !release.is_empty() => {
                match version.parse() {
                    Ok(VERSION) => Ok(Self { name: (*name).to_owned(), release: (*release).to_owned() }),
                    _ => Err(wanted()),
                }
            }
            _ => Err(wanted()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.release)
    }
}

/// Answer to everything but [`Ask::Hello`] and [`Ask::Quit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `ok`, or `ok TEXT` to [`Ask::Describe`].
    Ok(String),
    /// `errno NUMBER CALL`: this call was refused.
    Errno {
        /// From errno(3).
        number: i32,
        /// Which.
        call: String,
    },
}

impl Answer {
    /// Of a line. Errors: what it should be.
    pub fn parse(line: &str) -> Result<Self, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let refusal = || {
            let (number, call) = rest.split_once(' ')?;
            let number = number.parse().ok().filter(|number| (1..4096).contains(number))?;
            (!call.trim().is_empty()).then(|| Self::Errno { number, call: call.to_owned() })
        };
        let answer = match word {
            "ok" => Some(Self::Ok(rest.to_owned())),
            "errno" => refusal(),
            _ => None,
        };
        answer.ok_or_else(|| "ok, or errno NUMBER CALL".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_words_and_numbers() {
        let lines = [
            (Ask::Hello, "hello 1"),
            (Ask::Pin { offset: 4096, len: 65536 }, "pin 4096 65536"),
            (Ask::Dma { offset: 0, len: 4096, at: 8192 }, "dma 0 4096 8192"),
            (Ask::Describe, "describe"),
            (Ask::Release { dirty: true }, "release dirty"),
            (Ask::Release { dirty: false }, "release clean"),
            (Ask::Quit, "quit"),
        ];
        for (ask, line) in lines {
            assert_eq!(ask.to_string(), line);
        }
    }

    #[test]
    fn an_introduction_has_four_words_and_our_version() {
        let name = Name::parse("pinner 1 sample 0.3").unwrap();
        assert_eq!(name, Name { name: "sample".into(), release: "0.3".into() });
        assert_eq!(name.to_string(), "sample 0.3");
        for wrong in
            ["", "pinner", "pinner 2 a b", "pinner x a b", "pinner 1 a", "pinner 1 a b c", "pinner 1  b"]
        {
            assert_eq!(Name::parse(wrong), Err("pinner 1 NAME RELEASE".into()), "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_ok_or_an_errno_with_its_call() {
        assert_eq!(Answer::parse("ok"), Ok(Answer::Ok(String::new())));
        assert_eq!(Answer::parse("ok registered buffer"), Ok(Answer::Ok("registered buffer".into())));
        let refused = Answer::Errno { number: 14, call: "ioctl(PIN)".into() };
        assert_eq!(Answer::parse("errno 14 ioctl(PIN)"), Ok(refused));
        for wrong in [
            "",
            "yes",
            "okay",
            "errno",
            "errno 14",
            "errno 14 ",
            "errno 0 pin",
            "errno -1 pin",
            "errno EIO pin",
        ] {
            assert_eq!(Answer::parse(wrong), Err("ok, or errno NUMBER CALL".into()), "{wrong}");
        }
    }
}
