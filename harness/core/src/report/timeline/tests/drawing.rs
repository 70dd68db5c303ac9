// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The HTML file: what is in it, what cannot be in it.

use super::super::page::{CaseReport, MAX_ATTEMPTS, Report, html};
use super::tales;
use crate::report::{CaseResult, RunResult};
use std::collections::BTreeMap;

fn report<'r>(run: &'r RunResult, cases: Vec<CaseReport<'r>>) -> String {
    html(&Report { run, cases, lore: BTreeMap::new(), notices: Vec::new() }).expect("the template renders")
}

fn case(result: &CaseResult) -> CaseReport<'_> {
    CaseReport { result, story: Ok(tales::lost_update()), why: None }
}

/// The JSON of a script element.
fn data(page: &str, id: &str) -> serde_json::Value {
    let (_, rest) = page.split_once(&format!("id=\"{id}\">")).unwrap_or_else(|| panic!("no {id}"));
    let (text, _) = rest.split_once("</script>").expect("an end tag");
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_case_is_a_row_and_its_story_is_data() {
    let (_, result) = tales::lost_update_record();
    let page = report(&RunResult::default(), vec![case(&result)]);
    assert!(page.contains("data-label=\"case/xfs/pin/clean\""));
    let story = &data(&page, "data-0")["story"];
    assert_eq!(story["lanes"][1]["name"], "pages 0–15 of /mnt/a");
    assert_eq!(story["lanes"][1]["rows"][0]["bars"][2]["t"], "DMA 101");
    assert!(
        data(&page, "shared")["words"]["lost"]
            .as_str()
            .is_some_and(|word| word.starts_with("A completed write"))
    );
}

#[test]
fn nothing_that_a_guest_can_choose_becomes_markup() {
    let evil = "</script><img src=x onerror=alert(1)>\"'&";
    let (_, mut result) = tales::lost_update_record();
    result.fs = evil.into();
    result.reason = evil.into();
    let mut run = RunResult { command: evil.into(), missing: vec![evil.into()], ..RunResult::default() };
    run.environment.kernel.release = evil.into();
    let mut case = case(&result);
    case.why = Some(evil.into());
    if let Ok(story) = &mut case.story {
        story.lanes[1].name = evil.into();
    }
    let page = report(&run, vec![case]);
    assert!(!page.contains("<img"), "markup got through");
    assert_eq!(page.matches("</script>").count(), 3, "shared, one case, the script itself");
    assert_eq!(data(&page, "data-0")["story"]["lanes"][1]["name"], evil);
}

#[test]
fn the_file_asks_nothing_of_a_network() {
    let (_, result) = tales::lost_update_record();
    let page = report(&RunResult::default(), vec![case(&result)]);
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"), "no policy");
    for word in ["<link", "@import", "url(http", "src=", "fetch(", "XMLHttpRequest", "innerHTML", "eval("] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn more_attempts_with_the_same_verdict_are_rows_without_a_drawing() {
    let results: Vec<CaseResult> =
        (1..=6).map(|attempt| CaseResult { attempt, ..tales::lost_update_record().1 }).collect();
    let page = report(&RunResult::default(), results.iter().map(case).collect());
    let drawn = (0..6).filter(|n| !data(&page, &format!("data-{n}"))["story"].is_null()).count();
    assert_eq!(drawn, MAX_ATTEMPTS);
    let missing = data(&page, "data-5")["missing"].clone();
    assert!(missing.as_str().is_some_and(|why| why.contains("--case 'case/xfs/pin/clean#6'")), "{missing}");
}

#[test]
fn a_case_without_a_record_says_so() {
    let (_, result) = tales::lost_update_record();
    let case =
        CaseReport { result: &result, story: Err("no timeline: cases/x.json: gone".into()), why: None };
    let page = report(&RunResult::default(), vec![case]);
    assert_eq!(data(&page, "data-0")["missing"], "no timeline: cases/x.json: gone");
}
