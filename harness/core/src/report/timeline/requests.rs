// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to the disk in words, and the lane of those that carry no page of a file of the case.

use super::{Bar, BarKind, Lane, MAX_MARKS, Row, RowKind, Tick, TickKind, words};
use crate::record::DiskLedgerEntry;
use crate::replay::{DiskRequest, FLUSH, IN, OUT, Replay};
use longpin_proto::disk::Change;
use longpin_wire::ledger;

/// What a change in flight means.
pub fn change_words(change: Change) -> &'static str {
    match change {
        Change::BeforeFetch => "the disk has the new content, which nobody had submitted",
        Change::AfterFetch => "the disk has what was submitted, the memory has moved on",
        Change::Torn => "the disk has a mix that the page never was",
        Change::Back => "the memory changed there and back, the disk has what was between",
    }
}

/// One lane for everything else that the disk was asked.
pub fn lane_of_others(replay: &Replay<'_>) -> Option<Lane> {
    let files = super::history::paths(replay);
    let ours = |request: &DiskRequest| {
        !request.is_read() && request.pages.iter().any(|((path, _), _)| files.contains(path))
    };
    let mut stretches: Vec<Stretch> = Vec::new();
    for request in replay.requests.iter().filter(|request| !ours(request)) {
        stretches.push(Stretch::of(request));
    }
    let mut row = Row::new(RowKind::Others);
    row.bars = merge(stretches).into_iter().map(Stretch::bar).collect();
    row.ticks = power(replay);
    let note = "metadata, journal, reads".to_owned();
    (!row.is_empty()).then(|| Lane { name: "disk, other requests".into(), note, rows: vec![row] })
}

fn power(replay: &Replay<'_>) -> Vec<Tick> {
    let tick = |entry: &DiskLedgerEntry| {
        let (text, detail) = match entry.kind {
            ledger::KIND_DISK_POWER_CUT => {
                ("power cut", "the content that a loss of power would leave was noted")
            }
            ledger::KIND_DISK_RESTORE => ("restored", "the noted content is the disk's again"),
            _ => return None,
        };
        let at = replay.clock.since(entry.time_ns);
        Some(Tick { kind: TickKind::Power, at, text: text.into(), detail: detail.into(), later: false })
    };
    replay.ledger.disk.iter().filter_map(tick).collect()
}

/// Requests that overlap or follow closely, as one bar.
#[derive(Debug, Clone, PartialEq)]
struct Stretch {
    from: u64,
    to: u64,
    reads: u64,
    writes: u64,
    flushes: u64,
    others: u64,
    bytes: u64,
    failed: u64,
}

impl Stretch {
    fn of(request: &DiskRequest) -> Self {
        let is = |op: u32| u64::from(request.op == op);
        Self {
            from: request.submit,
            to: request.complete.unwrap_or(request.submit),
            reads: is(IN),
            writes: is(OUT),
            flushes: is(FLUSH),
            others: u64::from(![IN, OUT, FLUSH].contains(&request.op)),
            bytes: request.len,
            failed: u64::from(request.failed),
        }
    }

    fn take(&mut self, other: &Self) {
        self.to = self.to.max(other.to);
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.others += other.others;
        self.bytes += other.bytes;
        self.failed += other.failed;
    }

    fn bar(self) -> Bar {
        let parts = [
            (self.reads, "read"),
            (self.writes, "write"),
            (self.flushes, "flush"),
            (self.others, "other request"),
            (self.failed, "failure"),
        ];
        let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| match (*n, *word) {
            (1, word) => format!("1 {word}"),
            (n, "flush") => format!("{n} flushes"),
            (n, word) => format!("{n} {word}s"),
        });
        let detail = format!("{}, {} KiB", parts.collect::<Vec<_>>().join(", "), self.bytes / 1024);
        let kind = match (self.writes + self.flushes + self.others, self.reads) {
            (0, _) => BarKind::Read,
            _ => BarKind::Other,
        };
        Bar { kind, from: self.from, to: self.to, text: String::new(), detail }
    }
}

/// Join what overlaps, then the nearest neighbours until few enough are left.
fn merge(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_by_key(|stretch| stretch.from);
    let mut gap = 0;
    loop {
        let mut merged: Vec<Stretch> = Vec::new();
        for stretch in &stretches {
            match merged.last_mut() {
                Some(last) if stretch.from <= last.to.saturating_add(gap) => last.take(stretch),
                _ => merged.push(stretch.clone()),
            }
        }
        if merged.len() <= MAX_MARKS / 3 {
            return merged;
        }
        stretches = merged;
        gap = (gap * 4).max(10_000);
    }
}

/// `write of 64 KiB at byte 98304`.
pub fn request_words(request: &DiskRequest) -> String {
    let op = match request.op {
        OUT => "write",
        IN => "read",
        _ => "request",
    };
    let mut text = format!("{op} {} of {} KiB at byte {}", request.number, request.len / 1024, request.byte);
    if let Some(complete) = request.complete {
        text += &format!(", in flight {}", words::duration(complete - request.submit.min(complete)));
    }
    if request.failed {
        text += ", answered with an error";
    }
    text
}
