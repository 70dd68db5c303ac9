// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that are generated are current, and pages that describe a format describe all of it.
#![expect(clippy::disallowed_methods, reason = "the test reads and, when asked to, writes the pages")]

use longpin_core::verdict::documentation;
use std::path::Path;

#[test]
fn the_page_of_verdicts_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/verdicts.md");
    if std::env::var_os("LONGPIN_BLESS").is_some() {
        std::fs::write(&path, documentation()).expect("docs/verdicts.md can be written");
    }
    let page = std::fs::read_to_string(&path).expect("docs/verdicts.md");
    let mend = "LONGPIN_BLESS=1 cargo test -p longpin-core --test docs";
    assert!(page == documentation(), "docs/verdicts.md is not current; run {mend}");
}

#[test]
fn the_tables_of_steps_are_current() {
    tables_are_current("scenario-format.md", longpin_core::steps::documentation());
}

#[test]
fn the_table_of_what_a_soak_may_show_is_current() {
    tables_are_current("soak.md", [("known", longpin_core::soak::known::documentation())]);
}

/// The parts of a page between `<!-- NAME: generated -->` and `<!-- NAME: end -->`.
fn tables_are_current(page: &str, tables: impl IntoIterator<Item = (&'static str, String)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let mut current = text.clone();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->\n"));
        let from = current.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let to = current.find(&end).unwrap_or_else(|| panic!("no {end}"));
        current.replace_range(from..to, &table);
    }
    if std::env::var_os("LONGPIN_BLESS").is_some() {
        std::fs::write(&path, &current).expect("the page can be written");
    }
    let fix = "LONGPIN_BLESS=1 cargo test -p longpin-core --test docs";
    assert!(text == current, "the tables of docs/{page} are not current; run {fix}");
}

#[test]
fn every_step_that_takes_a_job_is_listed() {
    let page = include_str!("../../../docs/scenario-format.md");
    let list = page.split_once("Any of ").and_then(|(_, rest)| rest.split_once(" takes `job"));
    let (list, _) = list.expect("`Any of ... takes `job``");
    let mut listed: Vec<&str> = list.split(',').map(|word| word.trim().trim_matches('`')).collect();
    let mut known: Vec<&str> = longpin_core::steps::jobs().collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}
