// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Histories of pages as lanes: what the memory holds, who pins it, what is on its way, what the disk holds.

use super::history::{Code, Edge, History, carried_words, memory_words};
use super::requests::{change_words, request_words};
use super::words::{self, duration};
use super::{Bar, BarKind, Lane, MAX_PAGE_LANES, Row, RowKind, Tick, TickKind};
use crate::replay::{Answered, Asked, DeviceFault, Known, PageWrite, Reader, Replay, errno_name};
use longpin_proto::agent::{Outcome, Step};
use longpin_proto::facts::Source;

/// A lane for each history, the first ones.
pub fn of_pages(replay: &Replay<'_>, histories: &[History], notes: &mut Vec<String>) -> Vec<Lane> {
    let told: Vec<&History> = histories.iter().filter(|history| !history.edges.is_empty()).collect();
    if told.len() > MAX_PAGE_LANES {
        let left: usize = told[MAX_PAGE_LANES..].iter().map(|history| history.pages.len()).sum();
        notes.push(format!(
            "{} with other histories have no lane of their own here; the record has them",
            words::count(left as u64, "more page")
        ));
    }
    told.iter().take(MAX_PAGE_LANES).map(|history| lane(replay, history)).collect()
}

fn lane(replay: &Replay<'_>, history: &History) -> Lane {
    let key = (history.path.clone(), history.pages[0]);
    let name = format!("{} of {}", words::pages(&history.pages), history.path);
    let mut notes = Vec::new();
    if history.pages.len() > 1 {
        notes.push("same history".to_owned());
    }
    notes.extend(shares(replay, &history.path).map(|other| format!("blocks shared with {other}")));
    if history.left_out > 0 {
        notes.push(format!("{} left out", words::count(history.left_out as u64, "earlier event")));
    }
    let mut rows = vec![
        memory(replay, history),
        pins(replay, history),
        flight(replay, history),
        disk(replay, history, &key),
    ];
    rows.retain(|row| !row.is_empty());
    Lane { name, note: notes.join(", "), rows }
}

/// Another file that has a block with this one, by the extents of both.
fn shares<'w>(replay: &'w Replay<'_>, path: &str) -> Option<&'w String> {
    let ours = replay.extents.get(path)?;
    let overlap = |theirs: &&longpin_proto::facts::Extent| {
        ours.iter().any(|ours| {
            ours.located
                && theirs.located
                && ours.physical < theirs.physical + theirs.len
                && theirs.physical < ours.physical + ours.len
        })
    };
    let mut others = replay.extents.iter().filter(|(other, _)| *other != path);
    others.find(|(_, extents)| extents.iter().any(overlap)).map(|(other, _)| other)
}

/// When the page cache lost the page: its file system was unmounted.
fn dropped(replay: &Replay<'_>, since: u64) -> u64 {
    let unmounted = replay.exchanges.iter().find(|exchange| {
        let unmount = matches!(
            exchange.asked,
            Asked::Agent { step: Step::Umount { .. }, outcome: Outcome::Done { .. } }
        );
        unmount && exchange.to > since
    });
    unmounted.map_or(replay.end, |exchange| exchange.to)
}

fn memory(replay: &Replay<'_>, history: &History) -> Row {
    let mut row = Row::new(RowKind::Memory);
    let writes: Vec<&Edge> =
        history.edges.iter().filter(|e| matches!(e.code, Code::Write(_) | Code::Stream)).collect();
    for (index, edge) in writes.iter().enumerate() {
        let until = writes.get(index + 1).map_or_else(|| dropped(replay, edge.to), |next| next.from);
        let (kind, text) = content(replay, history, edge);
        let pages = words::pages(&history.pages);
        let spread = match edge.to - edge.from {
            0 => String::new(),
            ns => format!(", the last page {} after the first", duration(ns)),
        };
        let (tick, who) = match edge.code {
            Code::Write(PageWrite { source: Source::Dma, .. }) | Code::Stream => {
                (TickKind::Dma, "the device")
            }
            _ => (TickKind::Cpu, "a CPU"),
        };
        let detail = format!("{who} writes {text} into {pages} in memory{spread}");
        row.ticks.push(Tick { kind: tick, at: edge.from, text: String::new(), detail, later: false });
        let detail = format!("{pages} in memory: {text}");
        row.bars.push(Bar { kind, from: edge.from, to: until.max(edge.to), text, detail });
    }
    let left = history.edges.iter().filter(|edge| edge.code == Code::Left);
    row.ticks.extend(left.map(|edge| Tick {
        kind: TickKind::Left,
        at: edge.from,
        text: "left the file".into(),
        detail: "the page is no longer a page of its file".into(),
        later: false,
    }));
    row.ticks.sort_by_key(|tick| tick.at);
    row
}

fn content(replay: &Replay<'_>, history: &History, edge: &Edge) -> (BarKind, String) {
    if let Some((first, last)) = edge.generations {
        return (BarKind::Dma, format!("DMA {first}–{last}"));
    }
    let Code::Write(write) = edge.code else { return (BarKind::Unknown, String::new()) };
    let key = (history.path.clone(), history.pages[0]);
    let parts = match write.whole {
        true => std::slice::from_ref(&write),
        false => replay.memory.at(&key, write.at),
    };
    let kind = match (parts.len(), write.source) {
        (2.., _) => BarKind::Mixed,
        (_, Source::Dma) => BarKind::Dma,
        (_, Source::Cpu) => BarKind::Cpu,
        _ => BarKind::Unknown,
    };
    (kind, memory_words(parts).unwrap_or_default())
}

fn pins(replay: &Replay<'_>, history: &History) -> Row {
    let mut row = Row::new(RowKind::Pin);
    let mut waits = Vec::new();
    for edge in &history.edges {
        let Code::Pin(index) = edge.code else { continue };
        let pin = &replay.pins[index];
        if !pin.holds_pages() {
            let (known, faults) = replay.device_had(pin, history.pages[0]);
            row.bars.extend(known.into_iter().map(known_bar));
            waits.extend(faults.iter().map(fault_bar));
            continue;
        }
        let end = history.edges.iter().find(|other| other.code == Code::Unpin(index));
        let (mode, text) = match pin.mode() {
            Some(mode) => (mode.flags(), "pinned"),
            None => ("by the kernel, for an O_DIRECT read that the disk holds", "pinned by a read"),
        };
        let released = match (end, pin.dirty) {
            (None, _) => ", never released",
            (_, Some(true)) => ", released dirty",
            (_, Some(false)) => ", released clean: no dirty bit",
            (_, None) => "",
        };
        let to = end.map_or(replay.end, |end| end.to);
        let detail = format!("pinned, {mode}{released}");
        row.bars.push(Bar { kind: BarKind::Pin, from: edge.from, to, text: text.into(), detail });
    }
    let mut bars = apart(row.bars);
    // A device that may read a page waits to write there: one bar inside the other, or beside it.
    waits.retain(|wait: &Bar| {
        bars.iter().all(|bar| {
            let beside = bar.to <= wait.from || wait.to <= bar.from;
            beside || (bar.from <= wait.from && wait.to <= bar.to)
        })
    });
    bars.extend(waits);
    bars.sort_by_key(|bar| (bar.from, std::cmp::Reverse(bar.to)));
    Row { bars, ..row }
}

/// The device could use the page.
fn known_bar(known: Known) -> Bar {
    let (text, may) = if known.writable { ("mapped", "write") } else { ("read-only", "only read") };
    let detail = format!("nobody holds the page; the device may {may} there until the kernel takes it back");
    Bar { kind: BarKind::Pin, from: known.from, to: known.to, text: text.into(), detail }
}

/// The device waited for the page.
fn fault_bar(fault: &DeviceFault) -> Bar {
    let what = if fault.write { "write" } else { "read" };
    let end = match fault.answer {
        Some(Answered::Page) => "then it has the page".to_owned(),
        Some(Answered::Refused(errno)) => format!("in vain ({})", errno_name(errno as i32)),
        None => "unanswered: the program ended".to_owned(),
    };
    let waited = duration(fault.to.saturating_sub(fault.from));
    let detail = format!("the device faults for a {what} and waits {waited}, {end}");
    Bar { kind: BarKind::Blocked, from: fault.from, to: fault.to, text: "fault".into(), detail }
}

/// Bars that overlap end where the next begins: two pins of one page in one row.
fn apart(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.sort_by_key(|bar| bar.from);
    for index in 1..bars.len() {
        let next = bars[index].from;
        let bar = &mut bars[index - 1];
        if bar.to > next {
            bar.to = next;
            bar.detail += " (another pin of the page begins before this one ends)";
        }
    }
    bars
}

fn flight(replay: &Replay<'_>, history: &History) -> Row {
    let mut row = Row::new(RowKind::Flight);
    let find = |code: Code| history.edges.iter().find(|edge| edge.code == code);
    for edge in &history.edges {
        let (Code::Submit(nth), Some(index)) = (&edge.code, edge.request) else { continue };
        let request = &replay.requests[index];
        let complete = find(Code::Complete(*nth));
        let to = complete.map_or(replay.end, |edge| edge.to);
        let mut detail = request_words(request);
        if complete.is_none() {
            detail += ", never completed";
        }
        let text = if request.failed { "write fails" } else { "write" };
        row.bars.push(Bar { kind: BarKind::Write, from: edge.from, to, text: text.into(), detail });
        if let Some(hold) = find(Code::Hold(*nth)) {
            let release = find(Code::Release(*nth));
            let (from, to) = (hold.from.max(edge.from), release.map_or(to, |edge| edge.to.min(to)));
            let end = if request.hold_broken { "ended by its cap or a reset" } else { "then released" };
            let detail = format!("held by the disk for {}, {end}", duration(to.saturating_sub(from)));
            row.bars.push(Bar { kind: BarKind::Hold, from, to: to.max(from), text: "held".into(), detail });
        }
        if let Some(fetch) = find(Code::Fetch(*nth)) {
            let detail = "the disk takes the bytes out of the guest's memory".to_owned();
            row.ticks.push(Tick {
                kind: TickKind::Fetch,
                at: fetch.from,
                text: String::new(),
                detail,
                later: false,
            });
        }
        let key = (history.path.clone(), history.pages[0]);
        let byte = request.pages.iter().find(|(known, _)| *known == key).map(|(_, byte)| *byte);
        if let Some(hit) = byte.and_then(|byte| replay.hit_of(request, byte)) {
            let at = replay.clock.since(hit.completed_ns).clamp(edge.from, to.max(edge.from));
            let detail = format!("the audit: changed in flight; {}", change_words(hit.change));
            row.ticks.push(Tick { kind: TickKind::Hit, at, text: String::new(), detail, later: false });
        }
    }
    row.ticks.sort_by_key(|tick| tick.at);
    row
}

fn disk(replay: &Replay<'_>, history: &History, key: &(String, u64)) -> Row {
    let mut row = Row::new(RowKind::Disk);
    let done: Vec<&Edge> = history
        .edges
        .iter()
        .filter(|edge| matches!(edge.code, Code::Complete(_)))
        .filter(|edge| edge.request.is_some_and(|index| !replay.requests[index].failed))
        .collect();
    for (index, edge) in done.iter().enumerate() {
        let Some((text, mixed, source)) =
            edge.request.and_then(|request| carried_words(replay, request, key))
        else {
            continue;
        };
        let kind = match source {
            _ if mixed => BarKind::Mixed,
            Some(Source::Dma) => BarKind::Dma,
            Some(Source::Cpu) => BarKind::Cpu,
            _ => BarKind::Unknown,
        };
        let to = done.get(index + 1).map_or(replay.end, |next| next.from);
        let detail = format!("on the disk: {text}");
        if let Some(last) = row.bars.last_mut().filter(|last| (last.kind, &last.text) == (kind, &text)) {
            last.to = to;
            continue;
        }
        row.bars.push(Bar { kind, from: edge.from, to: to.max(edge.to), text, detail });
    }
    for edge in &history.edges {
        let Code::Read { who, found, good, .. } = &edge.code else { continue };
        let (what, text) = match who {
            Reader::Guest => ("the guest reads the file", format!("guest: {found}")),
            Reader::Host => ("the host reads the image, after the guest has gone", format!("host: {found}")),
            // The mapping shows the memory, which has a row of its own.
            Reader::Mapping => continue,
        };
        let kind = if *good { TickKind::Good } else { TickKind::Bad };
        let detail = format!("{what}: {found}");
        let later = *who == Reader::Host;
        row.ticks.push(Tick { kind, at: edge.from, text, detail, later });
    }
    row
}
