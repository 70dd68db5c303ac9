// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The trace against the documented format: "Trace Event Format", and what Perfetto's importer makes of it.

use super::super::timeline::tests::tales;
use super::super::timeline::{RowKind, Story};
use super::trace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

fn stories() -> Vec<(&'static str, Story)> {
    vec![
        ("lost-update/xfs/pin/clean", tales::lost_update()),
        ("inflight-change/xfs/pin/clean", tales::inflight_change()),
        ("stable-pages/xfs/pin/clean", tales::stable_pages()),
    ]
}

fn document(stories: &[(&'static str, Story)]) -> Value {
    let document = trace(stories.iter().map(|(label, story)| (*label, story)));
    serde_json::from_str(&serde_json::to_string(&document).expect("JSON")).expect("JSON")
}

fn events(document: &Value) -> &[Value] {
    document["traceEvents"].as_array().expect("a list of events")
}

/// Nanoseconds as Perfetto's importer reads a number: times 1000, cut off.
fn nanoseconds(micros: &Value) -> u64 {
    (micros.as_f64().expect("a number") * 1000.0) as u64
}

#[test]
fn every_event_has_what_its_phase_demands_and_nothing_else() {
    let document = document(&stories());
    assert_eq!(document["displayTimeUnit"], "ns");
    assert!(events(&document).len() > 50);
    for event in events(&document) {
        let fields: BTreeSet<&str> =
            event.as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted: &[&str] = match event["ph"].as_str().expect("a phase") {
            "M" => &["args", "name", "ph", "pid", "tid"],
            "X" => &["args", "cat", "dur", "name", "ph", "pid", "tid", "ts"],
            "i" => &["args", "cat", "name", "ph", "pid", "s", "tid", "ts"],
            other => panic!("phase {other}"),
        };
        assert_eq!(fields, wanted.iter().copied().collect(), "{event}");
        assert!(
            event["pid"].as_u64().is_some_and(|pid| pid > 0)
                && event["tid"].as_u64().is_some_and(|tid| tid > 0)
        );
        assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
    }
}

#[test]
fn a_case_is_a_process_and_no_two_share_a_thread() {
    let stories = stories();
    let document = document(&stories);
    let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
    let mut names: BTreeMap<u64, &str> = BTreeMap::new();
    for event in events(&document) {
        let (pid, tid) = (event["pid"].as_u64().expect("pid"), event["tid"].as_u64().expect("tid"));
        assert_eq!(*owners.entry(tid).or_insert(pid), pid, "thread {tid} has two processes");
        if event["name"] == "process_name" {
            names.insert(pid, event["args"]["name"].as_str().expect("a name"));
        }
    }
    assert_eq!(
        names.into_values().collect::<Vec<_>>(),
        stories.iter().map(|(label, _)| *label).collect::<Vec<_>>()
    );
}

#[test]
fn events_of_a_thread_do_not_overlap_as_the_importer_reads_them() {
    let document = document(&stories());
    let mut busy: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for event in events(&document).iter().filter(|event| event["ph"] == "X") {
        let from = nanoseconds(&event["ts"]);
        let bars = busy.entry(event["tid"].as_u64().expect("tid")).or_default();
        bars.push((from, from + nanoseconds(&event["dur"])));
    }
    for (tid, mut bars) in busy {
        bars.sort_unstable();
        assert!(bars.windows(2).all(|pair| pair[0].1 <= pair[1].0), "thread {tid}: {bars:?}");
    }
}

#[test]
fn the_importer_reads_exact_nanoseconds() {
    let document = document(&stories());
    for event in events(&document).iter().filter(|event| event["ph"] != "M") {
        assert_eq!(nanoseconds(&event["ts"]), event["args"]["at_ns"].as_u64().expect("at_ns"), "{event}");
        if event["ph"] == "X" {
            assert_eq!(nanoseconds(&event["dur"]), event["args"]["lasting_ns"].as_u64().expect("lasting_ns"));
        }
    }
}

#[test]
fn every_bar_and_tick_of_the_timeline_is_there() {
    let stories = stories();
    let document = document(&stories);
    let count = |ph: &str| events(&document).iter().filter(|event| event["ph"] == ph).count();
    let rows = || stories.iter().flat_map(|(_, story)| &story.lanes).flat_map(|lane| &lane.rows);
    assert_eq!(count("X"), rows().map(|row| row.bars.len()).sum::<usize>());
    let moments: usize = stories.iter().map(|(_, story)| story.moments.len()).sum();
    assert_eq!(count("i"), rows().map(|row| row.ticks.len()).sum::<usize>() + moments);
    assert!(rows().any(|row| row.kind == RowKind::Flight));
}

#[test]
fn a_run_without_timelines_is_an_empty_trace() {
    let document = document(&[("empty", Story::default())]);
    assert!(events(&document).is_empty());
}
