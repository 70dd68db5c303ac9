// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The timeline of a case: what the device, the file system and the disk did to each page, and when.
//!
//! [`Story::of`] turns a record into lanes of bars and ticks, numbered moments, the bytes that differ and an
//! explanation in plain words. Pure: the drawing ([`page`]) and the trace (`super::trace`) only read it. All times
//! come from one clock of the host; the record says nothing of order that this clock does not show.

mod axis;
mod bytes;
mod claims;
mod history;
mod lanes;
mod lead;
mod moments;
pub mod page;
mod requests;
mod steps;
#[cfg(test)]
pub(super) mod tests;
mod words;

pub use axis::{Axis, Knot};
pub use bytes::{HexDiff, HexLine, Placed};
pub use words::duration;

use crate::record::{CaseRecord, FsckReport};
use crate::replay::Replay;
use crate::report::CaseResult;
use serde::Serialize;

/// Lanes of pages beyond this are left out; a note says how many.
pub const MAX_PAGE_LANES: usize = 12;
/// Bars and ticks of one row beyond this are merged with their neighbours.
pub const MAX_MARKS: usize = 120;
/// Lines of a checker's output that are kept, from its end.
const FSCK_LINES: usize = 40;

/// A case as it can be drawn and told.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Story {
    /// First event, CLOCK_MONOTONIC of the host, ns; all other times count from here.
    pub origin_ns: u64,
    /// What people count from: the first moment, in nanoseconds after the first event.
    pub zero: u64,
    /// Where instants lie.
    pub axis: Axis,
    /// From top to bottom.
    pub lanes: Vec<Lane>,
    /// What happened, in order.
    pub moments: Vec<Moment>,
    /// Two or three sentences for somebody who has never seen the project.
    pub lead: String,
    /// Who holds which content at the end.
    pub placed: Vec<Placed>,
    /// Bytes before and after.
    pub hex: Vec<HexDiff>,
    /// What is missing or was left out.
    pub notes: Vec<String>,
    /// Output of the file system's own checker, if it ran.
    pub fsck: Option<Fsck>,
}

/// The file system's own word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fsck {
    /// Command.
    pub command: String,
    /// Exit code.
    pub code: i32,
    /// Output, its last lines.
    pub output: String,
}

impl Fsck {
    fn of(report: &FsckReport) -> Self {
        let lines: Vec<&str> = report.output.lines().collect();
        let kept = &lines[lines.len().saturating_sub(FSCK_LINES)..];
        Self { command: report.argv.join(" "), code: report.code, output: kept.join("\n") }
    }
}

/// A lane: the steps, a job, pages of a file with the same history, the disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lane {
    /// `pages 0–15 of /mnt/a`.
    pub name: String,
    /// What else there is to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// What a row of a lane shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowKind {
    /// Steps of the scenario.
    Steps,
    /// A step that runs concurrently.
    Job,
    /// Content of the page in the guest's memory.
    Memory,
    /// Pins.
    Pin,
    /// Requests to the disk that carry the page.
    Flight,
    /// Content of the page's block on the disk.
    Disk,
    /// Requests that carry no page of a file of the case.
    Others,
}

/// Bars of a row do not overlap, but that one may lie inside another (a hold in its request).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What it shows.
    pub kind: RowKind,
    /// Ascending by begin, the outer one first.
    pub bars: Vec<Bar>,
    /// Ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ticks: Vec<Tick>,
}

impl Row {
    fn new(kind: RowKind) -> Self {
        Self { kind, bars: Vec::new(), ticks: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.bars.is_empty() && self.ticks.is_empty()
    }
}

/// Kind of a bar; the legend has a word for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarKind {
    /// A step of the scenario.
    Step,
    /// A step that only looks: a proof, a reading.
    Look,
    /// A step that the kernel refused.
    Refused,
    /// A step that runs concurrently.
    Job,
    /// It sleeps in the kernel.
    Blocked,
    /// The pages are pinned.
    Pin,
    /// A write on its way to the disk.
    Write,
    /// A read from the disk.
    Read,
    /// Flush, discard, and requests that carry nothing of the case.
    Other,
    /// The disk holds the request by order.
    Hold,
    /// A content that a CPU wrote.
    Cpu,
    /// A content that the device wrote.
    Dma,
    /// Zeros, or nothing.
    Zero,
    /// Parts of several contents, or bytes of nobody.
    Mixed,
    /// Not known from the record.
    Unknown,
}

impl BarKind {
    /// Something goes on while it lasts; else it only says how things are.
    fn is_work(self) -> bool {
        use BarKind::*;
        matches!(self, Step | Look | Refused | Job | Blocked | Write | Read | Other | Hold)
    }
}

/// Something that lasts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What it is.
    #[serde(rename = "k")]
    pub kind: BarKind,
    /// Begin, nanoseconds.
    #[serde(rename = "a")]
    pub from: u64,
    /// End.
    #[serde(rename = "b")]
    pub to: u64,
    /// Name in the bar.
    #[serde(rename = "t", skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What more there is to say, without the times.
    #[serde(rename = "d", skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Kind of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TickKind {
    /// The device wrote.
    Dma,
    /// A CPU wrote: store or pwrite.
    Cpu,
    /// The disk took the bytes.
    Fetch,
    /// The audit saw a change in flight.
    Hit,
    /// The content was read, and is as it should be.
    Good,
    /// The content was read, and is not.
    Bad,
    /// The page left its file.
    Left,
    /// The disk lost power, or got back what it had then.
    Power,
}

/// Something without a duration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// What it is.
    #[serde(rename = "k")]
    pub kind: TickKind,
    /// When, nanoseconds.
    #[serde(rename = "a")]
    pub at: u64,
    /// Short label.
    #[serde(rename = "t", skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What more there is to say.
    #[serde(rename = "d", skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// It came after the last event, at a time that the record does not have.
    #[serde(rename = "l", skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
}

/// A numbered moment: the same number stands in the drawing and in the text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// From 1, in the order of time.
    pub number: usize,
    /// When; none: after the last event, without a time of its own.
    pub at: Option<u64>,
    /// Up to when, for a stretch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Here it went wrong.
    pub grave: bool,
    /// One sentence.
    pub text: String,
}

impl Story {
    /// The story that a record tells, in the light of what it was judged to be.
    pub fn of(record: &CaseRecord, result: &CaseResult) -> Self {
        let replay = Replay::of(record);
        let claims = claims::Claims::of(&replay);
        let histories = history::histories(&replay, result);
        let mut notes = Vec::new();
        let mut lanes = steps::lanes(&replay);
        lanes.extend(lanes::of_pages(&replay, &histories, &mut notes));
        lanes.extend(requests::lane_of_others(&replay));
        let moments = moments::moments(&replay, &claims, result);
        if !replay.clock.timed {
            notes.push(
                "the record has no host times of its steps (it was made by an older longpin): the timeline shows \
                 only what the device's ledger has; run the case again for a whole one"
                    .into(),
            );
        }
        let ends = moments.iter().flat_map(|moment| moment.at.into_iter().chain(moment.until));
        Self {
            origin_ns: replay.clock.origin_ns,
            zero: moments.iter().find_map(|moment| moment.at).unwrap_or(0),
            axis: Axis::of(&lanes, ends),
            lead: lead::lead(&replay, &claims, result),
            placed: bytes::placed(&replay, &histories),
            hex: bytes::hex(&replay, result, &histories),
            fsck: replay.fsck.map(Fsck::of),
            lanes,
            moments,
            notes,
        }
    }
}
