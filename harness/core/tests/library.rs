// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The library of scenarios that is shipped: every file is valid, and its ids are what they were.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

use longpin_core::plan::{self, Filter};
use longpin_core::scenario::Scenario;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn library() -> Vec<Arc<Scenario>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("scenario directory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path).expect("text");
            match Scenario::parse(&name, &text) {
                Ok(scenario) => Arc::new(scenario),
                Err(faults) => panic!("{}", faults.iter().map(|f| format!("{f}\n")).collect::<String>()),
            }
        })
        .collect()
}

#[test]
fn every_scenario_of_the_library_is_valid() {
    let names: Vec<String> = library().iter().map(|scenario| scenario.name.clone()).collect();
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
    for scenario in library() {
        assert!(scenario.mechanism.len() > 100, "{}: the mechanism is missing", scenario.name);
        for row in &scenario.expect {
            assert!(row.reason.len() > 20, "{}:{}: the reason is missing", scenario.name, row.line);
        }
    }
}

#[test]
fn ids_are_stable() {
    let library = library();
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
