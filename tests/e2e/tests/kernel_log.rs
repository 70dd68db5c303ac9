// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Titles and fingerprints of what a real kernel reports about itself, and the list of what does not count.

use longpin_e2e::{Lab, only_case, read_json};
use serde_json::{Value, json};

const CASE: &str = "get-pageout/ext4/get/dirty/large-folio";

fn words(case: &Value) -> Vec<&str> {
    case["observations"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_warning_has_the_same_fingerprint_in_every_boot_and_can_be_ignored_until_a_day() {
    let lab = Lab::new();
    let ended = lab.run(&[CASE]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    let report = &case["reports"][0];
    assert_eq!(
        (&report["title"], &report["trace"][0]),
        (&json!("WARNING in ext4_dirty_folio"), &json!("ext4_dirty_folio"))
    );
    let fingerprint = report["fingerprint"].as_str().expect("a text");
    let words_of_log = format!("kernel log: WARNING in ext4_dirty_folio ({fingerprint})");
    assert!(case["reason"].as_str().is_some_and(|reason| reason.contains(&words_of_log)), "{case}");
    // The driver has debug information, the distribution's kernel has none.
    let source: Vec<&str> =
        report["source"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let ours = source.iter().find(|line| line.contains("give_back+0x"));
    let ours = ours.unwrap_or_else(|| panic!("{report:#}"));
    assert!(ours.contains(" [longpin] (") && ours.contains("guest-driver/region.rs:"), "{ours}");
    assert!(source[0].starts_with("ext4_dirty_folio+0x") && source[0].ends_with(" [ext4]"), "{report:#}");
    let seen = words(case);
    assert!(seen.contains(&"splat"), "{case}");

    let list = lab.path("known.toml");
    let write = |day: &str| {
        let entry =
            format!("[[ignore]]\nfingerprint = \"{fingerprint}\"\nreason = \"known\"\nexpires = {day}\n");
        std::fs::write(&list, entry).expect("the place is writable");
    };
    let (list, out) = (list.to_str().expect("temporary paths are UTF-8"), lab.path("ignoring"));
    let out_text = out.to_str().expect("temporary paths are UTF-8");
    let run = ["run", CASE, "--ignore-log", list, "--out", out_text];
    write("2020-01-01");
    let ended = lab.start(&run).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("known.toml:1: expired on 2020-01-01"), "{}", ended.stderr);
    assert!(!out.exists(), "nothing ran");

    write("9999-12-31");
    let ended = lab.start(&run).end();
    // The scenario expects the word that is missing now.
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = read_json(&out.join("result.json"));
    let case = only_case(&result);
    let without: Vec<&str> = seen.iter().copied().filter(|word| *word != "splat").collect();
    assert_eq!(words(case), without, "{case}");
    assert_eq!(case["reports"][0]["ignored"], json!("known (until 9999-12-31)"), "{case}");
    assert!(out.join("ignore-log.toml").is_file(), "it is kept");
    lab.assert_tidy();
}
