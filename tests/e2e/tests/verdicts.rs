// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Verdicts of a real kernel, by the whole chain.

use longpin_e2e::{Lab, read_json, scenario};
use serde_json::{Value, json};

fn case<'r>(result: &'r Value, id: &str) -> &'r Value {
    let cases = result["cases"].as_array().expect("cases is a list");
    cases.iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("{id} did not report"))
}

#[test]
fn a_lost_update_is_shown_by_three_generations_and_the_printed_document_is_the_one_on_disk() {
    let lab = Lab::new();
    let ended = lab.run(&["lost-update", "--fs", "ext4,tmpfs", "--pin", "pin", "--format", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let printed: Value = serde_json::from_str(&ended.stdout).expect("standard output is one document");
    assert_eq!(printed, lab.result());

    let ext4 = case(&printed, "lost-update/ext4/pin/clean");
    assert_eq!((&ext4["headline"], &ext4["outcome"]), (&json!("lost"), &json!("xfail")), "{ext4}");
    let generation = |reader: &str| ext4["generations"][reader].as_u64().expect("a generation");
    assert!(generation("device") > generation("guest"), "{ext4}");
    assert_eq!(generation("guest"), generation("host"), "{ext4}");

    let tmpfs = case(&printed, "lost-update/tmpfs/pin/clean");
    assert_eq!((&tmpfs["headline"], &tmpfs["outcome"]), (&json!("intact"), &json!("pass")), "{tmpfs}");
    assert_eq!(tmpfs["generations"]["device"], tmpfs["generations"]["guest"], "{tmpfs}");
    assert_eq!(printed["summary"]["planned"], 2);
    lab.assert_tidy();
}

#[test]
fn each_boot_ran_both_controls_and_the_planted_corruption_was_found_by_guest_and_host() {
    let lab = Lab::new();
    let ended =
        lab.run(&["lost-update", "--fs", "tmpfs", "--pin", "pin", "--repeat", "2", "--cases-per-boot", "1"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for boot in [1, 2] {
        let controls = result["controls"].as_array().expect("controls is a list").iter();
        let of_boot: Vec<&Value> = controls.filter(|control| control["boot"] == boot).collect();
        let words: Vec<&Value> = of_boot.iter().map(|control| &control["headline"]).collect();
        assert_eq!(words, [&json!("intact"), &json!("torn")], "boot {boot}");
        let findings = of_boot[1]["findings"].as_array().expect("findings is a list");
        for reader in ["guest", "host"] {
            assert!(findings.iter().any(|finding| finding["reader"] == reader), "{reader}: {findings:?}");
        }
    }
    lab.assert_tidy();
}

#[test]
fn strict_makes_a_known_loss_a_failure() {
    let lab = Lab::new();
    let ended = lab.run(&["lost-update", "--fs", "ext4", "--pin", "pin", "--strict"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(lab.result()["summary"]["xfail"], 1);
    lab.assert_tidy();
}

#[test]
fn a_long_term_pin_is_refused_on_a_disk_file_system_and_not_on_tmpfs() {
    let lab = Lab::new();
    let ended = lab.run(&["longterm-refused", "--fs", "xfs,tmpfs", "--pin", "longterm", "--format", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    let xfs = case(&result, "longterm-refused/xfs/longterm/clean/shared");
    assert_eq!((&xfs["headline"], &xfs["errno"]), (&json!("refused"), &json!("EFAULT")), "{xfs}");
    let tmpfs = case(&result, "longterm-refused/tmpfs/longterm/clean/shared");
    assert_eq!((&tmpfs["headline"], &tmpfs["errno"]), (&json!("intact"), &Value::Null), "{tmpfs}");
    lab.assert_tidy();
}

#[test]
fn a_run_leaves_all_that_is_needed_to_understand_and_repeat_it() {
    let lab = Lab::new();
    let ended = lab.run(&["lost-update", "--fs", "tmpfs", "--pin", "pin", "--seed", "7"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for file in ["console.log", "agent.log", "device.log", "ledger.bin", "qemu.cmd", "qemu.log"] {
        assert!(lab.out().join("boot-1").join(file).is_file(), "{file}");
    }
    assert!(lab.out().join("cases/lost-update.tmpfs.pin.clean.json").is_file());
    let result = lab.result();
    assert_eq!(result["command"], "longpin run lost-update --fs tmpfs --pin pin --seed 7");
    assert!(lab.out().join("scenarios/lost-update.toml").is_file());
    assert_eq!(result["environment"]["seed"], 7);
    for place in [
        "/kernel/release",
        "/qemu/version",
        "/accel",
        "/disk",
        "/module/hash",
        "/tool_root",
        "/tool_root_packages",
        "/longpin/version",
        "/longpin/hash",
        "/device/version",
        "/device/hash",
        "/host/kernel",
    ] {
        let value = result["environment"].pointer(place).and_then(Value::as_str);
        assert!(value.is_some_and(|text| !text.is_empty()), "{place}: {value:?}");
    }
    assert!(result["boots"][0]["seconds_to_agent"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(ended.stdout.contains("1 of 1 cases: 1 pass"), "{}", ended.stdout);
    lab.assert_tidy();
}

#[test]
fn two_runs_at_once_do_not_disturb_each_other() {
    let labs = [Lab::new(), Lab::new()];
    let args = ["lost-update", "--fs", "ext4", "--pin", "pin"];
    let running: Vec<_> = labs.iter().map(|lab| lab.start_run(&args)).collect();
    for (lab, running) in labs.iter().zip(running) {
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(lab.result()["summary"]["xfail"], 1);
        lab.assert_tidy();
    }
}

#[test]
fn a_run_of_a_user_s_own_scenario_is_repeated_by_its_directory_alone() {
    let lab = Lab::new();
    let file = scenario::write(
        &lab.path(""),
        "mine",
        &["\"mkfs\"", "\"mount\"", "\"create\"", "\"compare\""],
        "intact",
    );
    let ended = lab.run(&[&file, "--seed", "7"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    std::fs::remove_file(&file).expect("the file is ours");
    let again = lab.path("again");
    let args = ["--out", again.to_str().expect("temporary paths are UTF-8")];
    let ended = lab.start_script(&lab.out().join("repeat.sh"), &args).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let (first, second) = (lab.result(), read_json(&again.join("result.json")));
    assert_eq!(case(&second, "mine/tmpfs/none/none")["outcome"], "pass");
    for place in
        ["/environment/seed", "/environment/longpin", "/cases/0/observations", "/cases/0/generations"]
    {
        assert_eq!(first.pointer(place), second.pointer(place), "{place}");
    }
    let report = lab.start(&["report", args[1]]).end();
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let html = std::fs::read_to_string(again.join("report.html")).expect("the report is there");
    assert!(html.contains("by the test"), "the reason that the run had");
    lab.assert_tidy();
}

#[test]
fn a_run_that_nobody_listens_to_leaves_its_whole_result() {
    let lab = Lab::new();
    let ended = lab.start_unheard(&["lost-update", "--fs", "tmpfs", "--pin", "pin"]).end();
    assert_eq!(ended.code, Some(0));
    let result = lab.result();
    assert_eq!(case(&result, "lost-update/tmpfs/pin/clean")["outcome"], "pass");
    assert_eq!(result["missing"], json!([]));
    lab.assert_tidy();
}

#[test]
fn a_run_until_failure_ends_with_the_first_one_and_skips_the_rest() {
    let lab = Lab::new();
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", "\"compare\""];
    let file = scenario::write(&lab.path(""), "never-lost", &steps, "lost");
    let ended = lab.run(&[&file, "--until-fail", "--repeat", "3", "--keep-disks"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    let outcomes: Vec<_> =
        result["cases"].as_array().expect("a list").iter().map(|case| &case["outcome"]).collect();
    assert_eq!(outcomes, ["xpass", "skip", "skip"]);
    assert!(ended.stderr.contains("xpass: never-lost/tmpfs/none/none: "), "{}", ended.stderr);
    assert!(lab.out().join("boot-1/disk0.img").is_file(), "--keep-disks");
    lab.assert_tidy();
}

#[test]
fn a_case_that_fails_beside_its_neighbour_is_flaky_as_it_passes_in_a_boot_of_its_own() {
    let lab = Lab::new();
    let mark = "{ do = \"exec\", argv = [\"touch\", \"/mark\"], verifies = true }";
    let look = "{ do = \"exec\", argv = [\"sh\", \"-c\", \"test ! -e /mark\"], verifies = true }";
    let before = scenario::write(&lab.path(""), "a-before", &["\"mkfs\"", mark], "intact");
    let after = scenario::write(&lab.path(""), "b-after", &["\"mkfs\"", look], "intact");
    let junit = lab.path("junit.xml");
    let form = format!("junit={}", junit.display());
    let ended = lab.run(&[&before, &after, "--retries", "2", "--format", &form]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(result["summary"]["planned"], 2, "{result}");
    assert_eq!(result["boots"].as_array().map(Vec::len), Some(2), "one boot more, for one case");
    assert_eq!(case(&result, "a-before/tmpfs/none/none")["attempts"], json!([]));
    let flaky = case(&result, "b-after/tmpfs/none/none");
    assert_eq!((&flaky["outcome"], &flaky["headline"]), (&json!("flaky"), &json!("torn")), "{flaky}");
    let attempts = flaky["attempts"].as_array().expect("attempts");
    let seen: Vec<_> = attempts.iter().map(|it| (&it["outcome"], &it["boot"])).collect();
    assert_eq!(seen, [(&json!("fail"), &json!(1)), (&json!("pass"), &json!(2))], "{flaky}");
    for record in ["b-after.tmpfs.none.none", "b-after.tmpfs.none.none#2"] {
        assert!(lab.out().join(format!("cases/{record}.json")).is_file(), "{record}");
    }
    assert!(ended.stdout.contains("fail, pass"), "{}", ended.stdout);
    let junit = std::fs::read_to_string(junit).expect("the report is there");
    assert!(junit.contains("<flakyFailure"), "{junit}");
    let page = lab.start(&["report", lab.out().to_str().expect("UTF-8")]).end();
    assert_eq!(page.code, Some(0), "{}", page.stderr);
    let page = std::fs::read_to_string(lab.out().join("report.html")).expect("the page is there");
    assert!(page.contains("b-after/tmpfs/none/none#2"), "the second attempt is drawn as well");
    lab.assert_tidy();
}

#[test]
fn a_run_that_ends_after_enough_failures_says_what_never_ran() {
    let lab = Lab::new();
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", "\"compare\""];
    let file = scenario::write(&lab.path(""), "never-lost", &steps, "lost");
    let ended = lab.run(&[&file, "--repeat", "4", "--max-fail", "2"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!((&result["summary"]["xpass"], &result["summary"]["error"]), (&json!(2), &json!(2)));
    assert_eq!(result["missing"], json!(["never-lost/tmpfs/none/none#3", "never-lost/tmpfs/none/none#4"]));
    assert!(ended.stdout.contains("(--max-fail): 2 cases never ran"), "{}", ended.stdout);
    lab.assert_tidy();
}

#[test]
fn only_what_failed_runs_again_from_the_directory_alone() {
    let lab = Lab::new();
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", "\"compare\""];
    let good = scenario::write(&lab.path(""), "good", &steps, "intact");
    let bad = scenario::write(&lab.path(""), "bad", &steps, "lost");
    let ended = lab.run(&[&good, &bad, "--seed", "7", "--cpus", "1"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(case(&lab.result(), "bad/tmpfs/none/none")["outcome"], "xpass");
    for file in [good, bad] {
        std::fs::remove_file(&file).expect("the file is ours");
    }
    let (first, again) = (lab.out(), lab.path("again"));
    let text = |path: &std::path::Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
    let ended = lab.start(&["run", "--rerun-failed", &text(&first), "--out", &text(&again)]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let second = read_json(&again.join("result.json"));
    assert_eq!(second["cases"].as_array().map(Vec::len), Some(1), "{}", second["cases"]);
    assert_eq!(case(&second, "bad/tmpfs/none/none")["outcome"], "xpass");
    assert_eq!(second["environment"]["seed"], 7);
    let qemu = std::fs::read_to_string(again.join("boot-1/qemu.cmd")).expect("the command line is kept");
    assert!(qemu.contains("-smp 1 "), "{qemu}");
    lab.assert_tidy();
}
