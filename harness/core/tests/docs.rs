// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that are generated are current, and pages that describe a format describe all of it.
#![expect(clippy::disallowed_methods, reason = "the test reads and, when asked to, writes the pages")]

use longpin_core::scenario::verbs;
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
fn every_step_is_described() {
    let page = include_str!("../../../docs/scenario-format.md");
    for verb in verbs() {
        assert!(
            page.contains(&format!("| `{verb}` |")),
            "docs/scenario-format.md does not describe step `{verb}`"
        );
    }
}
