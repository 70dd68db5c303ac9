// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is found before anything boots.

use longpin_e2e::Lab;
use longpin_e2e::scenario::{self, FIRST_STEP_LINE};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn wrong_arguments_are_told_from_errors_by_their_exit_code() {
    let lab = Lab::without_images();
    for args in [
        &["run", "--fs"][..],
        &["run", "no-such-scenario"],
        &["run", "lost-update", "--fs", "ntfs"],
        &["run", "lost-update", "--pin", "rw"],
        &["run", "--timeout", "0"],
        &["no-such-command"],
        &[],
    ] {
        let ended = lab.start(args).end();
        assert_eq!(ended.code, Some(3), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{args:?}");
    }
    assert!(!lab.path("longpin-results").exists(), "nothing ran, nothing is left");
}

#[test]
fn an_unknown_word_is_answered_with_the_known_ones() {
    let lab = Lab::without_images();
    let ended = lab.start(&["run", "lost-update", "--pin", "rw"]).end();
    assert!(ended.stderr.contains("`rw`") && ended.stderr.contains("longterm-ro"), "{}", ended.stderr);
}

#[test]
fn a_faulty_scenario_file_is_told_by_line_before_anything_boots() {
    let lab = Lab::without_images();
    let file = scenario::write(&lab.path(""), "faulty", &["\"mkfs\"", "\"mkfss\""], "intact");
    let ended = lab.run(&[&file]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let place = format!("faulty.toml:{}: ", FIRST_STEP_LINE + 1);
    assert!(ended.stderr.contains(&place) && ended.stderr.contains("`mkfss`"), "{}", ended.stderr);
    assert!(!lab.out().exists(), "no result directory for a run that never began");
}

#[test]
fn help_and_version_are_no_mistakes() {
    let lab = Lab::without_images();
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let ended = lab.start(args).end();
        assert_eq!(ended.code, Some(0), "{args:?}");
        assert!(ended.stdout.contains("longpin"), "{args:?}: {}", ended.stdout);
    }
}

#[test]
fn a_result_directory_with_content_is_left_alone() {
    let lab = Lab::without_images();
    std::fs::create_dir(lab.out()).expect("the place is new");
    std::fs::write(lab.out().join("mine"), "x").expect("the place is writable");
    let ended = lab.run(&["lost-update"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("not empty"), "{}", ended.stderr);
}

#[test]
fn the_list_unfolds_every_scenario_into_cases_with_an_expectation() {
    let lab = Lab::without_images();
    let ended = lab.start(&["list", "--format", "json"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let list: Value = serde_json::from_str(&ended.stdout).expect("one document");
    let scenarios = list.as_array().expect("a list");
    for name in ["longterm-refused", "lost-update", "late-dirty", "reflink-bleed"] {
        assert!(scenarios.iter().any(|scenario| scenario["name"] == name), "{name}");
    }
    for case in scenarios.iter().flat_map(|scenario| scenario["cases"].as_array().expect("a list")) {
        assert!(case["expected"].as_array().is_some_and(|words| !words.is_empty()), "{case}");
    }
}

#[test]
fn a_qemu_that_is_too_old_is_named_with_both_versions() {
    let lab = Lab::new();
    let path = lab.path("qemu");
    std::fs::write(&path, "#!/bin/sh\necho 'QEMU emulator version 7.2.9'\n").expect("the place is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    let ended = lab.run(&["lost-update", "--qemu", path.to_str().expect("UTF-8")]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("QEMU 7.2") && ended.stderr.contains("10.2"), "{}", ended.stderr);
    lab.assert_tidy();
}

#[test]
fn the_doctor_finds_this_host_fit_and_names_each_thing_that_it_looked_at() {
    let lab = Lab::new();
    let ended = lab.start(&["doctor"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    for name in [
        "bubblewrap",
        "mmdebstrap",
        "qemu",
        "kvm",
        "translation",
        "device daemon",
        "auditing disk",
        "checkers",
        "image store",
        "memory",
    ] {
        assert!(
            ended.stdout.lines().any(|line| line.contains(&format!(" {name}: "))),
            "{name}: {}",
            ended.stdout
        );
    }
    // A probe guest ran.
    assert!(ended.stdout.contains(" million loops a second here"), "{}", ended.stdout);
}

#[test]
fn a_dry_run_names_its_cases_and_boots_nothing() {
    let lab = Lab::without_images();
    let args = ["run", "lost-*", "--exclude", "*/tmpfs/*,lost-update/xfs", "--pin", "pin", "--dry-run"];
    let ended = lab.start(&args).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let expected = ["ext4", "btrfs", "f2fs"].map(|fs| format!("lost-update/{fs}/pin/clean\n"));
    assert_eq!(ended.stdout, expected.concat());
    assert!(!lab.path("longpin-results").exists());
}
