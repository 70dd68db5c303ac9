// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The history of each page, and which pages had the same. Sixteen pages that were pinned, written and sent together
//! are one lane; a page that fared otherwise has its own.

use super::words::{self, PAGE};
use crate::record::Role;
use crate::replay::{Content, PageKey, PageWrite, Reader, Reading, Replay, pages_of};
use crate::report::CaseResult;
use longpin_proto::facts::{CellState, Source};
use std::collections::{BTreeMap, BTreeSet};

/// Pages of one file that are looked at: more than any scenario has.
const MAX_PAGES: usize = 4096;
/// Device writes of one page that are shown one by one.
const MAX_WRITES: usize = 12;
/// Events of one page; of more only the last count.
const MAX_EDGES: usize = 240;

/// An event in the life of a page.
#[derive(Debug, Clone, PartialEq)]
pub enum Code {
    /// Index of the pin.
    Pin(usize),
    Unpin(usize),
    /// A CPU or the device wrote.
    Write(PageWrite),
    /// The device wrote over and over.
    Stream,
    /// A request that carries the page: the how-manieth of this page.
    Submit(usize),
    Hold(usize),
    Release(usize),
    Fetch(usize),
    Complete(usize),
    /// The page left its file.
    Left,
    /// Somebody read it: what, and whether it is right.
    Read {
        who: Reader,
        role: Role,
        found: String,
        good: bool,
    },
}

impl Code {
    /// Same event on another page: the time of a write may differ.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write(a), Self::Write(b)) => PageWrite { at: 0, ..*a } == PageWrite { at: 0, ..*b },
            (a, b) => a == b,
        }
    }
}

/// An event of one page, or of several with the same history: first and last time.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    pub code: Code,
    pub from: u64,
    pub to: u64,
    /// Index of the request, of the first page of the group.
    pub request: Option<usize>,
    /// Generations of a stream.
    pub generations: Option<(u64, u64)>,
}

/// Pages with the same history.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    pub path: String,
    pub pages: Vec<u64>,
    pub edges: Vec<Edge>,
    /// Earlier events that were left out.
    pub left_out: usize,
}

/// The histories of all pages that the case is about.
pub fn histories(replay: &Replay<'_>, result: &CaseResult) -> Vec<History> {
    let mut groups: Vec<History> = Vec::new();
    for path in paths(replay) {
        let of_path = groups.len();
        for page in pages(replay, &path) {
            let (edges, left_out) = edges(replay, result, &(path.clone(), page));
            let group = groups[of_path..].iter_mut().find_map(|group| {
                let merged = merge(&group.edges, &edges)?;
                (group.left_out == left_out).then_some((group, merged))
            });
            match group {
                Some((group, merged)) => {
                    group.edges = merged;
                    group.pages.push(page);
                }
                None => groups.push(History { path: path.clone(), pages: vec![page], edges, left_out }),
            }
        }
    }
    groups
}

/// Files that the case is about: pinned ones first, then those that it compares with what they were.
pub fn paths(replay: &Replay<'_>) -> Vec<String> {
    let pinned = replay.pins.iter().map(|pin| pin.path.clone());
    let hit = replay.hits().iter().filter_map(|hit| replay.place_of(hit).0);
    let written =
        replay.memory.writes.keys().map(|(path, _)| path.clone()).filter(|_| replay.pins.is_empty());
    let compared = replay.compared.iter().map(|compared| compared.path.clone());
    let mut paths: Vec<String> = Vec::new();
    for path in pinned.chain(hit).chain(written).chain(compared) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

fn pages(replay: &Replay<'_>, path: &String) -> Vec<u64> {
    let written = replay.memory.writes.keys().filter(|(p, _)| p == path).map(|(_, page)| *page);
    let pinned = replay.pins.iter().filter(|pin| pin.path == *path);
    let pinned = pinned.flat_map(|pin| pages_of(pin.offset, pin.len).take(MAX_PAGES));
    let sent = replay.requests.iter().flat_map(|request| &request.pages);
    let sent = sent.filter(|((p, _), _)| p == path).map(|((_, page), _)| *page);
    let read = replay.readings.iter().filter(|reading| reading.path == *path).filter_map(|r| r.cells.ok());
    let read = read.flat_map(|cells| {
        let bytes = cells.runs.iter().map(|run| run.count).sum::<u64>() * u64::from(cells.cell_bytes);
        pages_of(cells.runs.first().map_or(0, |run| run.offset), bytes).take(MAX_PAGES)
    });
    let all: BTreeSet<u64> = written.chain(pinned).chain(sent).chain(read).collect();
    all.into_iter().take(MAX_PAGES).collect()
}

/// Both histories as one, if they are the same and stay in order when the pages are taken together.
fn merge(group: &[Edge], page: &[Edge]) -> Option<Vec<Edge>> {
    if group.len() != page.len() || !group.iter().zip(page).all(|(a, b)| a.code.same(&b.code)) {
        return None;
    }
    let join = |(a, b): (&Edge, &Edge)| {
        let generations = a.generations.zip(b.generations);
        let generations = generations.map(|((a0, a1), (b0, b1))| (a0.min(b0), a1.max(b1)));
        Edge { from: a.from.min(b.from), to: a.to.max(b.to), generations, ..a.clone() }
    };
    let merged: Vec<Edge> = group.iter().zip(page).map(join).collect();
    merged.windows(2).all(|pair| pair[0].to <= pair[1].from).then_some(merged)
}

fn edges(replay: &Replay<'_>, result: &CaseResult, key: &PageKey) -> (Vec<Edge>, usize) {
    let mut edges = Vec::new();
    let mut add = |at: u64, code: Code, request: Option<usize>| {
        edges.push(Edge { code, from: at, to: at, request, generations: None });
    };
    let (path, page) = key;
    let pins = replay.pins.iter().enumerate();
    for (index, pin) in
        pins.filter(|(_, pin)| pin.path == *path && pages_of(pin.offset, pin.len).contains(page))
    {
        add(pin.from, Code::Pin(index), None);
        if let Some(to) = pin.to {
            add(to, Code::Unpin(index), None);
        }
    }
    if let Some(at) = replay.memory.left.get(key) {
        add(*at, Code::Left, None);
    }
    let sent = replay.requests.iter().enumerate().filter(|(_, request)| request.is_write());
    // Before there was this file, the block was another's.
    let opened = replay.opened.get(path).copied().unwrap_or(0);
    let sent = sent.filter(|(_, request)| request.submit >= opened);
    let sent = sent.filter(|(_, request)| request.pages.iter().any(|(known, _)| known == key));
    for (nth, (index, request)) in sent.enumerate() {
        let index = Some(index);
        add(request.submit, Code::Submit(nth), index);
        let more = [
            (request.hold, Code::Hold(nth)),
            (request.release, Code::Release(nth)),
            (request.fetch, Code::Fetch(nth)),
            (request.complete, Code::Complete(nth)),
        ];
        more.into_iter()
            .filter_map(|(at, code)| Some((at?, code)))
            .for_each(|(at, code)| add(at, code, index));
    }
    let writes = replay.memory.writes.get(key).map_or(&[][..], Vec::as_slice);
    let many = writes.iter().filter(|write| write.source == Source::Dma).count() > MAX_WRITES;
    writes.iter().for_each(|write| add(write.at, Code::Write(*write), None));
    for reading in replay.readings.iter().filter(|reading| reading.path == *path) {
        if let Some((found, good)) = found(replay, result, reading, *page) {
            let (who, role) = (reading.reader, reading.role);
            add(reading.at.unwrap_or(replay.end), Code::Read { who, role, found, good }, None);
        }
    }
    // Stable: what was added first comes first at the same nanosecond.
    edges.sort_by_key(|edge| edge.from);
    if many {
        edges = streams(edges);
    }
    let left_out = edges.len().saturating_sub(MAX_EDGES);
    (edges.split_off(left_out), left_out)
}

/// Device writes that follow each other with nothing between become one event.
fn streams(edges: Vec<Edge>) -> Vec<Edge> {
    let mut out: Vec<Edge> = Vec::new();
    for edge in edges {
        let Code::Write(PageWrite { source: Source::Dma, generation, .. }) = edge.code else {
            out.push(edge);
            continue;
        };
        match out.last_mut() {
            Some(last) if last.code == Code::Stream => {
                last.to = edge.to;
                let known = last.generations.get_or_insert((generation, generation));
                *known = (known.0.min(generation), known.1.max(generation));
            }
            _ => out.push(Edge { code: Code::Stream, generations: Some((generation, generation)), ..edge }),
        }
    }
    out
}

/// What a reading found in a page, and whether the result finds no fault with it there.
fn found(
    replay: &Replay<'_>,
    result: &CaseResult,
    reading: &Reading<'_>,
    page: u64,
) -> Option<(String, bool)> {
    match reading.cells {
        Ok(cells) => {
            let words = in_page(cells, page, replay.run())?;
            let faults = result.findings.iter().filter(|finding| Some(finding.reading) == reading.compared);
            Some((words, !faults.into_iter().any(|finding| finding.touches(page * PAGE, PAGE))))
        }
        Err(errno) => Some((errno.name.clone(), false)),
    }
}

/// Content of a page in words: `DMA 101`, or `DMA 101 + CPU 1`.
pub fn memory_words(writes: &[PageWrite]) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    for write in writes.iter().rev() {
        let word = words::content(write.content());
        if !words.contains(&word) {
            words.push(word);
        }
    }
    (!words.is_empty()).then(|| words.join(" + "))
}

fn in_page(cells: &longpin_proto::facts::Cells, page: u64, run: u64) -> Option<String> {
    let of_page = page * PAGE..(page + 1) * PAGE;
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for part in &cells.runs {
        let cell = u64::from(cells.cell_bytes).max(1);
        let from = part.offset.max(of_page.start);
        let to = (part.offset + part.count * cell).min(of_page.end);
        if from < to {
            *words.entry(state_words(&part.state, run)).or_default() += to - from;
        }
    }
    let mut words: Vec<(String, u64)> = words.into_iter().collect();
    words.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    (!words.is_empty()).then(|| words.into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(" + "))
}

/// A cell in a word.
pub fn state_words(state: &CellState, run: u64) -> String {
    match state {
        CellState::Zero => "zeros".into(),
        CellState::Whole(writer) if writer.run != run => "another case's bytes".into(),
        CellState::Whole(writer) => {
            words::content(Content::Stamp { source: writer.source, generation: writer.generation })
        }
        CellState::Displaced { .. } => "bytes of another place".into(),
        CellState::Torn { .. } => "torn".into(),
        CellState::Foreign { .. } => "foreign bytes".into(),
        CellState::Unreadable { errno: 5 } => "EIO".into(),
        CellState::Unreadable { errno } => format!("errno {errno}"),
        CellState::Absent => "past the end".into(),
    }
}

/// What the disk holds of a page after a write of it, in words, and whether it is a mix.
pub fn carried_words(
    replay: &Replay<'_>,
    request: usize,
    key: &PageKey,
) -> Option<(String, bool, Option<Source>)> {
    let request = &replay.requests[request];
    let (_, byte) = request.pages.iter().find(|(known, _)| known == key)?;
    let torn =
        replay.hit_of(request, *byte).is_some_and(|hit| hit.change == longpin_proto::disk::Change::Torn);
    let writes = replay.carried(request, *byte);
    let mixed = torn || writes.len() > 1;
    let words = memory_words(writes)?;
    let words = if torn { format!("torn: {words}") } else { words };
    Some((words, mixed, writes.last().map(|write| write.source)))
}
