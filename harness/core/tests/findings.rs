// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Findings of a run of the whole library: each bad verdict is there once, explained, and with the command that shows it.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

mod common;

use common::{file, scenarios};
use longpin_core::findings::{Findings, markdown};
use longpin_core::plan::{self, Case, Filter};
use longpin_core::report::{CaseResult, RunResult};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn cases() -> Vec<Case> {
    plan::cases(&scenarios(), &Filter::default(), 1)
}

/// The stored verdicts, as a run would have them.
fn whole_library() -> RunResult {
    let text = std::fs::read_to_string(file("goldens/verdicts.jsonl")).expect("stored verdicts");
    let result = |line: &str| -> CaseResult {
        let mut fields: Value = serde_json::from_str(line).expect("a verdict");
        fields["boot"] = json!(1);
        fields["seconds"] = json!(0.0);
        serde_json::from_value(fields).expect("a result")
    };
    RunResult { cases: text.lines().map(result).collect(), ..RunResult::default() }
}

const INTRODUCTION: &str = "\
# What file systems do to pinned pages

What the whole library of scenarios found on one kernel, Debian's 7.3.4, with two CPUs under translation. Each verdict is
explained from the source of that kernel, and comes again by the command beside it. The words are those of
[verdicts.md](verdicts.md); what needs no driver and no longpin to be shown has a C program, and some a fix:
[reports](reports/README.md). What older kernels do: [findings-by-kernel.md](findings-by-kernel.md).

A page like this of a run of your own, and of other kernels beside it:

    longpin run --out mine
    longpin findings mine

This one is made of the stored records of the library (tests/goldens), by the same code:

    LONGPIN_BLESS=1 cargo test --package longpin-core --test findings

";

/// The page of docs/ is made anew when that is asked for; else it must speak of scenarios that there are.
#[test]
fn the_page_of_the_library_speaks_of_its_scenarios() {
    let path = file("../docs/findings.md");
    let mut run = whole_library();
    run.environment.kernel.release = "7.3.4+deb13-amd64".to_owned();
    run.environment.kernel.source = "Debian package 7.3.4-1~bpo13+1".to_owned();
    run.command = "longpin run".to_owned();
    let findings = Findings::of(&run, &[], &cases());
    if std::env::var_os("LONGPIN_BLESS").is_some() {
        let page = INTRODUCTION.to_owned() + &markdown(&findings, "stored records", &run, &[]);
        std::fs::write(&path, page).expect("the page can be written");
    }
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let known: BTreeSet<&str> = findings.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    let told: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(told.len() > 40, "{}", told.len());
    for name in told {
        assert!(known.contains(name), "docs/findings.md has `{name}`, which is no scenario; make it anew");
    }
}

#[test]
fn every_bad_verdict_is_there_once_with_its_reason() {
    let run = whole_library();
    let findings = Findings::of(&run, &[], &cases());
    let bad: BTreeSet<&str> = run
        .cases
        .iter()
        .filter(|case| case.observations.iter().any(|word| word.is_bad()))
        .map(|case| case.id.as_str())
        .collect();
    assert!(bad.len() > 100, "{}", bad.len());
    let harm = || findings.scenarios.iter().flat_map(|scenario| &scenario.harm);
    let found: Vec<&str> = harm().flat_map(|harm| &harm.cases).map(String::as_str).collect();
    assert_eq!(found.len(), bad.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), bad);
    for harm in harm() {
        assert!(!harm.why.is_empty(), "{harm:?}");
    }
    // Each case has its place in a table.
    let cells = findings.scenarios.iter().flat_map(|scenario| &scenario.rows).flat_map(|(_, cells)| cells);
    assert_eq!(cells.flatten().count(), run.cases.len());
}

#[test]
fn the_overview_tells_a_forgetful_driver_from_the_kernel() {
    let findings = Findings::of(&whole_library(), &[], &cases());
    let overview = &findings.overview;
    let cell = |scenario: &str, fs: &str| {
        let column = overview.file_systems.iter().position(|name| name == fs).expect("a column");
        let row = overview.rows.iter().find(|(name, _)| name == scenario).expect("a row");
        row.1[column].map(|worst| (worst.word.as_str(), worst.clean_only))
    };
    assert_eq!(cell("reflink-bleed", "xfs"), Some(("bleed", false)));
    assert_eq!(cell("reflink-bleed", "btrfs"), Some(("lost", true)));
    assert_eq!(cell("reflink-bleed", "ext4"), None);
    let page = markdown(&findings, "here", &whole_library(), &[]);
    let columns = overview.file_systems.len();
    let row = page.lines().find(|line| line.starts_with("| [reflink-bleed](#reflink-bleed) | "));
    assert_eq!(row.map(|row| row.matches(" | ").count()), Some(columns), "{row:?}");
    assert!(page.contains("**bleed**") && page.contains("lost, *clean*"), "{row:?}");
}

#[test]
fn the_page_has_table_reason_command_and_what_others_did() {
    let mut run = whole_library();
    run.cases.retain(|case| case.scenario == "lost-update");
    let mut older = run.clone();
    let id = "lost-update/ext4/pin/clean";
    older.cases.retain(|case| case.id != id);
    let others = [("debian:6.1".to_owned(), older)];
    let findings = Findings::of(&run, &others, &cases());
    let page = markdown(&findings, "here", &run, &others);
    let first = findings.scenarios[0].harm[0].cases.first().expect("no group is empty");
    let again = format!("`longpin run {first}`");
    for part in ["### lost-update", "| ext4 |", "**lost**", &again, "- debian:6.1: "] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("not run (1)"), "{page}");
}

#[test]
fn what_is_not_as_expected_is_not_explained_by_the_expectation() {
    let mut run = whole_library();
    run.cases.retain(|case| case.id == "lost-update/ext4/pin/clean");
    let torn = serde_json::from_value(json!("torn")).expect("a word");
    run.cases[0].observations.insert(torn);
    let findings = Findings::of(&run, &[], &cases());
    assert_eq!(findings.scenarios[0].harm[0].why, "");
    assert!(markdown(&findings, "here", &run, &[]).contains("not explained"));
}
