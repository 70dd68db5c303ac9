// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a walk through a record gathers, piece by piece. Times are nanoseconds since the first event.

use crate::record::Role;
use longpin_proto::agent::{Outcome, PinMode, Step};
use longpin_proto::control::{Answer, Request};
use longpin_proto::facts::{Cells, Errno, JobState, Source};

/// A page of a file (or of memory that is no file's).
pub type PageKey = (String, u64);

/// What was asked, of whom.
#[derive(Clone, Copy)]
pub enum Act<'r> {
    Agent { step: &'r Step, outcome: &'r Outcome },
    Disk { request: &'r Request, answer: &'r Result<Answer, String> },
}

/// A step and its time.
#[derive(Clone, Copy)]
pub struct Did<'r> {
    pub line: usize,
    pub role: Role,
    pub act: Act<'r>,
    pub from: u64,
    pub to: u64,
}

/// Pages that are pinned.
pub struct Pin {
    pub name: String,
    /// Number in ledger and stamps, once it is known.
    pub number: Option<u32>,
    pub path: String,
    /// In the file.
    pub offset: u64,
    pub len: u64,
    /// Label of the first byte in ledger entries.
    pub label: u64,
    /// None: by an O_DIRECT read.
    pub mode: Option<PinMode>,
    pub from: u64,
    pub to: Option<u64>,
    /// How it was given back.
    pub dirty: Option<bool>,
}

/// A write into memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageWrite {
    pub at: u64,
    pub source: Source,
    pub generation: u64,
    /// All bytes of the page.
    pub whole: bool,
}

/// A step beside others.
pub struct Job<'r> {
    pub name: String,
    pub step: &'r Step,
    pub from: u64,
    /// When it was over at the latest; none: it never was.
    pub to: Option<u64>,
    /// Looks at it while it was not over.
    pub looks: Vec<(u64, &'r JobState)>,
    /// A look found it over.
    pub seen_over: bool,
    pub outcome: Option<&'r Outcome>,
}

/// Who read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Guest,
    Mapping,
    Host,
}

/// Content as somebody read it.
pub struct Reading<'r> {
    pub reader: Reader,
    pub role: Role,
    pub path: String,
    /// None: after the guest was gone, or the record has no times.
    pub at: Option<u64>,
    pub cells: Result<&'r Cells, &'r Errno>,
}
