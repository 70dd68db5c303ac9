// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file system's own checker: how it is called so that it only looks, and what its exit code and output mean.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// State of a file system by its checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Structure {
    /// Nothing to complain of.
    Clean,
    /// The structure is damaged.
    Damaged,
    /// The structure is whole; data does not match its checksum.
    DataDamaged,
    /// The checker could not say: the log was not replayed, a device was missing, it failed.
    Unusable,
}

/// A checker of the tool root.
#[derive(Debug)]
pub struct Checker {
    /// Program and arguments, without the image, which comes last and is read-only.
    pub argv: &'static [&'static str],
    /// The first that fits says what a report means. None fits, or a signal ended it: [`Structure::Unusable`].
    pub readings: &'static [Reading],
    /// Which of its lines complain.
    pub complaints: Complaints,
}

/// What a code together with some output means.
#[derive(Debug)]
pub struct Reading {
    /// Exit codes.
    pub codes: RangeInclusive<i32>,
    /// And what the output has.
    pub says: Says,
    /// This is meant.
    pub means: Structure,
}

/// A condition on an output.
#[derive(Debug)]
pub enum Says {
    /// None.
    Anything,
    /// One of these texts is in it.
    OneOf(&'static [&'static str]),
    /// None of these texts is in it.
    NoneOf(&'static [&'static str]),
    /// It complains, and each line that does is one of these.
    OnlyComplaints(Lines),
}

/// Which lines of an output are complaints.
#[derive(Debug)]
pub enum Complaints {
    /// These.
    Are(Lines),
    /// All but these, which it says of every file system.
    AllBut(Lines),
}

/// Lines, by their text without the indentation.
#[derive(Debug)]
pub struct Lines {
    /// They begin with one of these,
    pub begin: &'static [&'static str],
    /// or contain one of these.
    pub contain: &'static [&'static str],
}

impl Lines {
    /// The line is one of them.
    pub fn have(&self, line: &str) -> bool {
        let line = line.trim();
        self.begin.iter().any(|text| line.starts_with(text))
            || self.contain.iter().any(|text| line.contains(text))
    }
}

impl Complaints {
    /// The line complains.
    pub fn have(&self, line: &str) -> bool {
        match self {
            _ if line.trim().is_empty() => false,
            Self::Are(lines) => lines.have(line),
            Self::AllBut(usual) => !usual.have(line),
        }
    }
}

impl Checker {
    /// What a report means.
    pub fn structure(&self, code: i32, output: &str) -> Structure {
        // 127: not found; from 128 on: ended by a signal.
        if (127..=192).contains(&code) {
            return Structure::Unusable;
        }
        let fits = |reading: &&Reading| reading.codes.contains(&code) && self.says(&reading.says, output);
        self.readings.iter().find(fits).map_or(Structure::Unusable, |reading| reading.means)
    }

    fn says(&self, says: &Says, output: &str) -> bool {
        let any = |texts: &[&str]| texts.iter().any(|text| output.contains(text));
        match says {
            Says::Anything => true,
            Says::OneOf(texts) => any(texts),
            Says::NoneOf(texts) => !any(texts),
            Says::OnlyComplaints(lines) => {
                let mut complaints = output.lines().filter(|line| self.complaints.have(line)).peekable();
                complaints.peek().is_some() && complaints.all(|line| lines.have(line))
            }
        }
    }

    /// The line of an output that tells most: the first complaint, else the last line.
    pub fn complaint<'a>(&self, output: &'a str) -> Option<&'a str> {
        let first = output.lines().find(|line| self.complaints.have(line));
        first.map(str::trim).or_else(|| last_line(output))
    }
}

/// The last line that is not empty.
fn last_line(output: &str) -> Option<&str> {
    output.lines().map(str::trim).rfind(|line| !line.is_empty())
}
