// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin soak`: plans of chance, run in a guest, come to verdicts that are known or explained.

use longpin_e2e::Lab;
use serde_json::Value;

#[test]
fn a_plan_is_written_as_a_scenario_and_the_same_seed_is_the_same_plan() {
    let lab = Lab::without_images();
    let words = ["soak", "--seed", "7", "--fs", "xfs", "--write-scenario"];
    let write = |file: &str| lab.start(&[&words[..], &[file]].concat()).end();
    let first = write("-");
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stdout.contains("name = \"soak-7\""), "{}", first.stdout);
    assert_eq!(write("soak-7.toml").code, Some(0));
    assert_eq!(std::fs::read_to_string(lab.path("soak-7.toml")).expect("it was written"), first.stdout);
    let dry = lab.start(&["run", "./soak-7.toml", "--dry-run"]).end();
    assert_eq!((dry.code, dry.stdout.as_str()), (Some(0), "soak-7/xfs/none/none\n"), "{}", dry.stderr);
    let wrong = write("other.toml");
    assert_eq!(wrong.code, Some(3));
    assert!(wrong.stderr.contains("write it to soak-7.toml"), "{}", wrong.stderr);
    let unknown = lab.start(&["soak", "--fs", "fat"]).end();
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.stderr.contains("file system `fat` is unknown"), "{}", unknown.stderr);
}

/// Which plans show what is left to chance; that each is explained, or a failure with its seed, is not.
#[test]
fn every_plan_of_a_soak_is_explained_or_named_with_its_seed() {
    let lab = Lab::new();
    let out = lab.out();
    let out = out.to_str().expect("temporary paths are UTF-8");
    let ended = lab.start(&["soak", "--seed", "1", "--cases", "8", "--out", out, "--format", "json"]).end();
    let document: Value = serde_json::from_str(&ended.stdout).expect("a document");
    let cases = document["cases"].as_array().expect("cases");
    assert_eq!((cases.len(), document["command"].as_str()), (8, Some("longpin soak --seed 1 --cases 8")));
    assert!(ended.stderr.contains(" 0 broken, "), "{}", ended.stderr);
    let outcome = |case: &Value, word: &str| case["outcome"] == *word;
    let failed: Vec<&Value> = cases.iter().filter(|case| outcome(case, "fail")).collect();
    assert_eq!(ended.code, Some(i32::from(!failed.is_empty())), "{}", ended.stderr);
    for case in failed {
        let seed = case["scenario"].as_str().and_then(|name| name.strip_prefix("soak-")).expect("a seed");
        let again = format!(
            "again: longpin soak --seed {seed} --cases 1 --fs {}",
            case["fs"].as_str().expect("a name")
        );
        assert!(ended.stderr.contains(&again), "{}", ended.stderr);
    }
    let proven = cases.iter().filter(|case| ["pass", "xfail", "fail"].iter().any(|word| outcome(case, word)));
    assert!(proven.count() >= 4, "{}", ended.stderr);
    lab.assert_tidy();
}
