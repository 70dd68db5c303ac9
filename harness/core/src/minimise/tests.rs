// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Searches whose runs are played.

use super::Minimise;
use crate::matrix::Point;
use crate::scenario::Scenario;
use crate::words::Observation;
use std::collections::BTreeSet;

const PADDED: &str = r#"
schema = 1
name = "padded"
title = "lost, and much beside it"
mechanism = "known"
pages = 8
machine.programs = ["fio"]
matrix.fs = ["ext4", "xfs"]
matrix.pin = ["pin"]
matrix.release = ["clean"]
matrix.variant = ["one", "two"]
step = [
    "mkfs",
    "mount",
    "create",
    { do = "create", file = "c", generation = 2 },
    "map",
    { do = "touch", access = "write" },
    { do = "write", file = "c", generation = 3, job = "w" },
    "pin",
    { do = "dma", generation = 100 },
    { do = "reflink", when = { fs = "xfs" } },
    { do = "hold-write", when = { variant = "two" } },
    { do = "fsync", job = "f" },
    { do = "join", job = "w" },
    { do = "drop-rule", when = { variant = "two" } },
    { do = "join", job = "f" },
    "sync",
    { do = "dma", generation = 101 },
    "release",
    "remount",
    "compare",
    { do = "compare", file = "c" },
]
[[expect]]
observe = "lost"
reason = "known"
"#;

fn point(id: &str) -> Point {
    let scenario = Scenario::parse("padded.toml", PADDED).expect("it is one");
    let points = scenario.matrix.points();
    points.into_iter().find(|point| point.to_string() == id).expect("a case of it")
}

fn minimise(id: &str) -> Minimise {
    Minimise::new(PADDED, &point(id), "small").expect("it can be taken apart")
}

/// Verbs of a document, by the parser.
fn verbs(text: &str) -> Vec<String> {
    Scenario::parse("small.toml", text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    let table: toml::Table = text.parse().expect("it was just parsed");
    let steps = table["step"].as_array().expect("a list").iter();
    steps.map(|step| step.as_str().or_else(|| step["do"].as_str()).expect("a name").to_owned()).collect()
}

#[test]
fn the_whole_case_is_a_scenario_of_its_own_without_conditions() {
    let whole = minimise("ext4/pin/clean/one").whole();
    let verbs = verbs(&whole.text);
    assert_eq!((verbs.len(), whole.steps()), (18, 18));
    assert!(!verbs.iter().any(|verb| ["reflink", "hold-write", "drop-rule"].contains(&verb.as_str())));
    assert!(!whole.text.contains("when"), "{}", whole.text);
    assert!(whole.text.contains("pages = 8") && whole.text.contains("fio"), "{}", whole.text);
    assert_eq!(minimise("xfs/pin/clean/two").whole().steps(), 21);
}

#[test]
fn what_shows_it_stays_and_every_candidate_is_possible() {
    // The device writes after the last writeback.
    let shows = |verbs: &[String]| {
        let last = |verb: &str| verbs.iter().rposition(|it| it == verb);
        let synced = last("fsync").max(last("sync"));
        synced.is_some()
            && last("dma") > synced
            && last("release").is_some()
            && last("compare") > last("remount")
    };
    let mut search = minimise("ext4/pin/clean/one");
    let mut tries = 0;
    while let Some(candidate) = search.propose() {
        let shows = shows(&verbs(&candidate.text));
        search.told(candidate, shows);
        tries += 1;
    }
    let seen = BTreeSet::from([Observation::Lost]);
    let text = search.smallest(&seen, &BTreeSet::new(), "found by a search");
    let left = verbs(&text);
    assert!(shows(&left), "{left:?}");
    assert_eq!(left.len(), 9, "{left:?}");
    assert_eq!(search.steps(), (9, 18));
    assert!(tries < 60, "{tries}");
    let scenario = Scenario::parse("small.toml", &text).expect("it is one");
    assert_eq!(scenario.expect[0].observe, seen);
    assert_eq!(scenario.mechanism, "found by a search");
}

#[test]
fn what_is_needed_as_a_whole_loses_nothing() {
    let mut search = minimise("ext4/pin/clean/one");
    while let Some(candidate) = search.propose() {
        search.told(candidate, false);
    }
    assert_eq!(search.steps(), (18, 18));
}

#[test]
fn a_text_that_is_no_scenario_is_refused() {
    assert!(Minimise::new("schema = ", &point("ext4/pin/clean/one"), "small").is_err());
    let error =
        Minimise::new(&PADDED.replace("\"mount\",", ""), &point("ext4/pin/clean/one"), "small").unwrap_err();
    assert!(error.contains("mount"), "{error}");
}
