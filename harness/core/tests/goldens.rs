// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verdicts of stored records are what they were, field by field.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

mod common;

use common::{file, scenarios};
use longpin_core::plan::{self, Case, Filter};
use longpin_core::record::CaseRecord;
use longpin_core::report::CaseResult;
use longpin_core::verdict;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::BufReader;

/// Differences that are shown.
const SHOWN: usize = 20;
/// Of a run, not of a verdict.
const LEFT_OUT: [&str; 3] = ["attempts", "boot", "seconds"];

fn cases() -> BTreeMap<String, Case> {
    let cases = plan::cases(&scenarios(), &Filter::default(), 1);
    cases.into_iter().map(|case| (case.id.clone(), case)).collect()
}

/// Judged again, by id.
fn verdicts() -> BTreeMap<String, Map<String, Value>> {
    let cases = cases();
    let packed = std::fs::read(file("goldens/records.json.zst")).expect("stored records");
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).expect("a zstd stream");
    let records = serde_json::Deserializer::from_reader(BufReader::new(decoder)).into_iter::<CaseRecord>();
    records
        .map(|record| {
            let record = record.expect("a record");
            let id = record.id.clone();
            let case = cases.get(&id).unwrap_or_else(|| {
                panic!("{id} is a stored record and no case of the library: see tests/goldens/README.md")
            });
            let seen = verdict::observe(&record);
            let expected = case.expectation().expect("the library expects something of each case");
            let judgement = verdict::judge(&seen, expected);
            let result = CaseResult::new(case, 0, &seen, &judgement, 0.0);
            let Ok(Value::Object(mut fields)) = serde_json::to_value(result) else {
                panic!("{id}: a result is an object")
            };
            LEFT_OUT.iter().for_each(|field| drop(fields.remove(*field)));
            // What debug information there was is of a run, too.
            let reports = fields.get_mut("reports").and_then(Value::as_array_mut);
            for report in reports.into_iter().flatten().filter_map(Value::as_object_mut) {
                report.remove("source");
            }
            // Few cases have one.
            if fields.get("reports") == Some(&Value::Array(Vec::new())) {
                fields.remove("reports");
            }
            (id, fields)
        })
        .collect()
}

fn stored() -> BTreeMap<String, Map<String, Value>> {
    let text = std::fs::read_to_string(file("goldens/verdicts.jsonl")).expect("stored verdicts");
    text.lines()
        .map(|line| {
            let fields: Map<String, Value> = serde_json::from_str(line).expect("a line is an object");
            (fields["id"].as_str().expect("an id").to_owned(), fields)
        })
        .collect()
}

/// `ID: FIELD was OLD and is NEW`, for each field that differs.
fn differences(
    was: &BTreeMap<String, Map<String, Value>>,
    is: &BTreeMap<String, Map<String, Value>>,
) -> Vec<String> {
    let empty = Map::new();
    let ids = was.keys().chain(is.keys().filter(|id| !was.contains_key(*id)));
    ids.flat_map(|id| {
        let (was, is) = (was.get(id).unwrap_or(&empty), is.get(id).unwrap_or(&empty));
        let fields = was.keys().chain(is.keys().filter(|field| !was.contains_key(*field)));
        let differing = fields.filter(|field| was.get(*field) != is.get(*field));
        differing
            .map(|field| {
                let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
                format!("{id}: {field} was {} and is {}", text(was.get(field)), text(is.get(field)))
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_verdicts_of_stored_records_are_what_they_were() {
    let is = verdicts();
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        let lines: String =
            is.values().map(|fields| format!("{}\n", Value::Object(fields.clone()))).collect();
        std::fs::write(file("goldens/verdicts.jsonl"), lines).expect("goldens can be written");
    }
    let differences = differences(&stored(), &is);
    let shown: Vec<String> = differences.iter().take(SHOWN).cloned().collect();
    assert!(
        differences.is_empty(),
        "{} differences; see tests/goldens/README.md\n{}",
        differences.len(),
        shown.join("\n")
    );
}

#[test]
fn every_case_of_the_library_has_a_stored_record() {
    let (stored, cases) = (stored(), cases());
    let without: Vec<&String> = cases.keys().filter(|id| !stored.contains_key(*id)).collect();
    assert!(without.is_empty(), "record them, see tests/goldens/README.md: {without:?}");
}

#[test]
fn a_field_that_differs_is_named_with_both_values() {
    let verdict = |text: &str| {
        let fields: Map<String, Value> = serde_json::from_str(text).expect("an object");
        BTreeMap::from([("x/ext4".to_owned(), fields)])
    };
    let (was, is) = (verdict(r#"{"outcome": "pass", "errno": null}"#), verdict(r#"{"outcome": "fail"}"#));
    assert_eq!(differences(&was, &was), Vec::<String>::new());
    assert_eq!(
        differences(&was, &is),
        ["x/ext4: errno was null and is absent", r#"x/ext4: outcome was "pass" and is "fail""#]
    );
    assert_eq!(differences(&BTreeMap::new(), &is), [r#"x/ext4: outcome was absent and is "fail""#]);
}
