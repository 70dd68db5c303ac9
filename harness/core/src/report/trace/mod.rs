// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The timelines of a run as a trace for ui.perfetto.dev: Chrome's JSON trace event format, in its object form.
//!
//! One process for each case, one thread for each row of its lanes, complete events (`X`) for what lasts and instants
//! (`i`) for what does not. Perfetto drops complete events of one thread that overlap without being nested, and keeps
//! thread ids apart only if no two processes share one; so bars inside others get a thread of their own, and each id
//! is used once. The format counts microseconds in floating point, and the importer cuts off below a nanosecond: a
//! tenth of one is added, so that what it keeps is exact. The exact numbers are among the arguments as well.

#[cfg(test)]
mod tests;

use super::timeline::{Bar, RowKind, Story, Tick};
use serde::Serialize;

/// Ids between two cases: more than a case has rows.
const IDS_PER_CASE: u32 = 1000;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

/// One event of the format; fields that its phase does not have are absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Event {
    ph: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<String>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// Scope of an instant: `t`, its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    args: Args,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Args {
    /// Of metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lasting_ns: Option<u64>,
}

/// The trace of the cases, each with its label. Time 0 is the first event of the first case.
pub fn trace<'s>(cases: impl IntoIterator<Item = (&'s str, &'s Story)>) -> Trace {
    let cases: Vec<(&str, &Story)> = cases.into_iter().filter(|(_, story)| !story.lanes.is_empty()).collect();
    let zero = cases.iter().map(|(_, story)| story.origin_ns).min().unwrap_or(0);
    let mut events = Vec::new();
    for (index, (label, story)) in cases.iter().enumerate() {
        let pid = (index as u32 + 1) * IDS_PER_CASE;
        Process { pid, next_tid: pid + 1, since: story.origin_ns - zero, events: &mut events }
            .case(label, story);
    }
    Trace { unit: "ns", events }
}

/// A case on its way into the trace.
struct Process<'e> {
    pid: u32,
    next_tid: u32,
    since: u64,
    events: &'e mut Vec<Event>,
}

impl Process<'_> {
    fn case(&mut self, label: &str, story: &Story) {
        self.name("process_name", self.pid, label);
        self.sort("process_sort_index", self.pid, self.pid / IDS_PER_CASE);
        if story.moments.iter().any(|moment| moment.at.is_some()) {
            let tid = self.thread("moments");
            for moment in &story.moments {
                let Some(at) = moment.at else { continue };
                let cat = if moment.grave { "grave" } else { "moment" };
                self.instant(tid, at, format!("{}: {}", moment.number, moment.text), cat.into(), None);
            }
        }
        for lane in &story.lanes {
            for row in &lane.rows {
                let name = match word(row.kind) {
                    "" => lane.name.clone(),
                    word => format!("{}: {word}", lane.name),
                };
                let (outer, inner): (Vec<&Bar>, Vec<&Bar>) = nested(&row.bars);
                let tid = self.thread(&name);
                self.row(tid, &outer, &row.ticks);
                if !inner.is_empty() {
                    let tid = self.thread(&format!("{name}, within"));
                    self.row(tid, &inner, &[]);
                }
            }
        }
    }

    fn row(&mut self, tid: u32, bars: &[&Bar], ticks: &[Tick]) {
        for bar in bars {
            let (kind, detail) = (word_of(&bar.kind), Some(bar.detail.clone()).filter(|d| !d.is_empty()));
            let name = if bar.text.is_empty() { kind.clone() } else { bar.text.clone() };
            let args = Args {
                detail,
                at_ns: Some(self.since + bar.from),
                lasting_ns: Some(bar.to - bar.from),
                ..Args::default()
            };
            let (ts, dur) = (Some(self.micros(bar.from)), Some(micros(bar.to - bar.from)));
            let cat = Some(kind);
            self.events.push(Event { ph: "X", name, cat, pid: self.pid, tid, ts, dur, s: None, args });
        }
        for tick in ticks {
            let kind = word_of(&tick.kind);
            let name = if tick.text.is_empty() { kind.clone() } else { tick.text.clone() };
            self.instant(tid, tick.at, name, kind, Some(tick.detail.clone()).filter(|d| !d.is_empty()));
        }
    }

    fn instant(&mut self, tid: u32, at: u64, name: String, cat: String, detail: Option<String>) {
        let args = Args { detail, at_ns: Some(self.since + at), ..Args::default() };
        let (ts, cat) = (Some(self.micros(at)), Some(cat));
        self.events.push(Event { ph: "i", name, cat, pid: self.pid, tid, ts, dur: None, s: Some("t"), args });
    }

    fn thread(&mut self, name: &str) -> u32 {
        let tid = self.next_tid;
        self.next_tid += 1;
        self.name("thread_name", tid, name);
        self.sort("thread_sort_index", tid, tid - self.pid);
        tid
    }

    fn name(&mut self, what: &str, tid: u32, name: &str) {
        self.metadata(what, tid, Args { name: Some(name.into()), ..Args::default() });
    }

    fn sort(&mut self, what: &str, tid: u32, index: u32) {
        self.metadata(what, tid, Args { sort_index: Some(index), ..Args::default() });
    }

    fn metadata(&mut self, what: &str, tid: u32, args: Args) {
        let (pid, name) = (self.pid, what.to_owned());
        self.events.push(Event { ph: "M", name, cat: None, pid, tid, ts: None, dur: None, s: None, args });
    }

    fn micros(&self, at: u64) -> f64 {
        micros(self.since + at)
    }
}

/// See the module: a tenth of a nanosecond more, against cutting.
fn micros(ns: u64) -> f64 {
    (ns as f64 + 0.1) / 1000.0
}

/// Bars, and those that lie inside another.
fn nested(bars: &[Bar]) -> (Vec<&Bar>, Vec<&Bar>) {
    let mut busy_until = 0;
    bars.iter().partition(|bar| {
        let outer = bar.from >= busy_until;
        busy_until = busy_until.max(bar.to);
        outer
    })
}

fn word(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Steps | RowKind::Job | RowKind::Others => "",
        RowKind::Memory => "memory",
        RowKind::Pin => "pin",
        RowKind::Flight => "to disk",
        RowKind::Disk => "on disk",
    }
}

/// The word of a kind in the HTML report's data, once for both.
fn word_of(kind: &impl Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
