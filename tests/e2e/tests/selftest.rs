// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin selftest` finds this host as it should be, and leaves nothing.

use longpin_e2e::Lab;
use serde_json::Value;

#[test]
fn every_kind_of_trouble_gets_its_verdict_and_nothing_is_left() {
    let lab = Lab::new();
    let ended = lab.start(&["selftest", "--format", "json"]).end();
    let document: Value = serde_json::from_str(&ended.stdout).expect("one document");
    let listed = lab.start(&["selftest", "--list", "--format", "json"]).end();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("one document");
    let rows = document["kinds"].as_array().expect("a list");
    assert_eq!(listed.as_array().map(Vec::len), Some(rows.len()), "{}", ended.stderr);
    for row in rows {
        assert_eq!(row["result"], "ok", "{row}");
    }
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    lab.assert_tidy();
}

#[test]
fn kinds_are_listed_and_one_that_there_is_not_is_named() {
    let lab = Lab::without_images();
    let ended = lab.start(&["selftest", "panick"]).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("`panick`") && ended.stderr.contains("panic"), "{}", ended.stderr);
    let ended = lab.start(&["selftest", "--list", "panic"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("panic ") && ended.stdout.lines().count() == 1, "{}", ended.stdout);
}
