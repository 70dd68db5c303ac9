// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The library of scenarios that is shipped: every file is valid, and its ids are what they were.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

mod common;

use common::scenarios;
use longpin_core::plan::{self, Filter};

#[test]
fn every_scenario_of_the_library_is_valid() {
    let names: Vec<String> = scenarios().iter().map(|scenario| scenario.name.clone()).collect();
    let wanted = [
        "data-journal",
        "dio-orphan",
        "get-pageout",
        "late-dirty",
        "longterm-refused",
        "lost-update",
        "pin-pageout",
        "private-huge-pin",
        "punch-under-pin",
        "reflink-bleed",
        "ro-pin-write",
        "truncate-under-pin",
    ];
    for name in wanted {
        assert!(names.iter().any(|have| have == name), "{name} is missing of {names:?}");
    }
}

#[test]
fn a_scenario_says_why_in_terms_of_the_kernel() {
    for scenario in scenarios() {
        assert!(scenario.mechanism.len() > 100, "{}: the mechanism is missing", scenario.name);
        for row in &scenario.expect {
            assert!(row.reason.len() > 20, "{}:{}: the reason is missing", scenario.name, row.line);
        }
    }
}

#[test]
fn ids_are_stable() {
    let library = scenarios();
    let cases = plan::cases(&library, &Filter::default(), 1);
    let has = |id: &str| cases.iter().any(|case| case.id == id);
    for id in [
        "lost-update/ext4/pin/clean",
        "late-dirty/btrfs/get/dirty",
        "ro-pin-write/xfs/longterm-ro/dirty/hole",
        "data-journal/ext4:data=journal/get/dirty",
        "reflink-bleed/xfs/pin/dirty/pin-before",
        "longterm-refused/tmpfs:huge=always/longterm/clean/shared",
    ] {
        assert!(has(id), "{id} is gone");
    }
    let mut ids: Vec<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), cases.len(), "two cases have one id");
    eprintln!("{} cases in {} scenarios", cases.len(), library.len());
}
