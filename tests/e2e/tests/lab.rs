// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels of the laboratory: the driver under everything that the kernel has to watch itself, and what a kernel does that
//! takes long-term pins of file pages. Each kernel is built first, which takes minutes: `make test-long`.

use longpin_e2e::Lab;
use longpin_e2e::driver_check::{INTERFACE_TESTS, MIRROR_TESTS, STORMS, all_are_ok};
use longpin_e2e::driver_guest;
use longpin_e2e::kselftest::{self, Outcome};
use serde_json::Value;

/// What these kernels cannot do: run a 32-bit program.
const NOT_THERE: &str = "compat";

#[test]
#[ignore = "builds a kernel: make test-long"]
fn the_driver_keeps_every_promise_while_the_kernel_watches_itself() {
    let tests: Vec<&str> = INTERFACE_TESTS.into_iter().filter(|name| *name != NOT_THERE).collect();
    let told = driver_guest::run_on_lab("debug", &tests, &[]);
    all_are_ok(&told, &tests);
    assert!(!told.console.contains("unreferenced object"), "{}", told.console);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn memory_that_nobody_pins_is_given_back_while_the_kernel_watches_itself() {
    let told = driver_guest::run_on_lab("debug", &MIRROR_TESTS, &[]);
    all_are_ok(&told, &MIRROR_TESTS);
    assert!(!told.console.contains("unreferenced object"), "{}", told.console);
    let told = driver_guest::run_on_lab("debug", &["mirror-silent"], &["invalidate_timeout_ms=2000"]);
    all_are_ok(&told, &["mirror-silent"]);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn each_allocation_of_the_driver_may_fail() {
    let told = driver_guest::run_on_lab("debug", &["failing-allocations"], &[]);
    all_are_ok(&told, &["failing-allocations"]);
    assert!(!told.console.contains("unreferenced object"), "{}", told.console);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn pages_come_back_from_a_bad_device_while_the_kernel_watches_itself() {
    // A slow device must take longer with all its answers than the driver waits.
    for (tests, timeout_ms) in [
        (&["silent-device", "anonymous"][..], 10_000),
        (&["lying-device"], 10_000),
        (&["slow-device", "anonymous"], 4_000),
        (&["pulled-out", "anonymous"], 10_000),
        (&["hot-removal"], 10_000),
    ] {
        let told = driver_guest::run_on_lab("debug", tests, &[&format!("device_timeout_ms={timeout_ms}")]);
        all_are_ok(&told, tests);
    }
}

/// What the refusal of Linux 6.5 keeps away.
#[test]
#[ignore = "builds a kernel: make test-long"]
fn a_permissive_kernel_takes_long_term_pins_and_loses_what_the_refusal_saves() {
    let lab = Lab::new();
    let args = ["lost-update", "late-dirty", "inflight-change", "reflink-bleed", "--pin", "longterm"];
    lab.run(&[&args[..], &["--kernel", "lab:permissive"]].concat());
    let result = lab.result();
    let cases = result["cases"].as_array().expect("cases is a list");
    assert!(cases.len() >= 18, "{result}");
    let refused: Vec<&Value> = cases.iter().filter(|case| case["headline"] == "refused").collect();
    assert!(refused.is_empty(), "{refused:?}");
    // As under a plain pin, which no kernel refuses.
    for (id, headline) in [
        ("lost-update/ext4/longterm/clean", "lost"),
        ("lost-update/xfs/longterm/clean", "lost"),
        ("lost-update/btrfs/longterm/clean", "lost"),
        ("lost-update/f2fs/longterm/clean", "lost"),
        ("late-dirty/ext4/longterm/dirty", "intact"),
        ("inflight-change/ext4/longterm/clean", "unstable"),
        ("inflight-change/btrfs/longterm/clean", "detected"),
        ("reflink-bleed/xfs/longterm/dirty/pin-before", "bleed"),
    ] {
        let case = cases.iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("{id}: {result}"));
        assert_eq!(case["headline"], headline, "{case}");
    }
    lab.assert_tidy();
}

/// Rounds of one storm.
fn a_storm(storm: &str, rounds: u32) {
    assert!(STORMS.contains(&storm));
    let told = driver_guest::run_storms(Some("debug"), &[storm], rounds);
    all_are_ok(&told, &[storm]);
    assert!(!told.console.contains("unreferenced object"), "{}", told.console);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn owners_are_killed_a_thousand_times() {
    a_storm("kill-storm", 1000);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn the_driver_is_unbound_a_thousand_times() {
    a_storm("unbind-storm", 1000);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn the_module_is_removed_a_thousand_times() {
    a_storm("module-storm", 1000);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn the_device_is_unplugged_a_thousand_times() {
    a_storm("plug-storm", 1000);
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn pages_are_taken_from_a_writing_device_for_minutes() {
    // A round has some 500 faults, of which this kernel does 366 a second.
    a_storm("mirror-storm", 400);
}

/// Which pins the kernel allows is what its own tests say, on each file system and by each way into GUP.
#[test]
#[ignore = "builds a kernel: make test-long"]
fn pins_are_refused_where_the_kernel_s_own_tests_say_so() {
    const FILE_SYSTEMS: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];
    let lab = Lab::new();
    let theirs = kselftest::run(&lab, "lab:debug", &FILE_SYSTEMS);
    lab.run(&["longterm-refused", "--kernel", "lab:debug", "--pin", "longterm,longterm-ro"]);
    let result = lab.result();
    let mut compared = 0;
    for case in result["cases"].as_array().expect("cases is a list") {
        let (fs, pin, variant) = (word(case, "fs"), word(case, "pin"), word(case, "variant"));
        let mapping = match variant {
            "shared" => "MAP_SHARED",
            "private" => "MAP_PRIVATE",
            _ => continue,
        };
        let access = if pin == "longterm" { "R/W" } else { "R/O" };
        for way in ["GUP", "GUP-fast"] {
            for file in ["tmpfile", "local tmpfile"] {
                let name = format!("{access} longterm {way} pin in {mapping} file mapping ... with {file}");
                let key = (fs.to_owned(), "gup_longterm".to_owned(), name);
                let Some(outcome) = theirs.get(&key) else { continue };
                // A pass is a refusal where their table wants one: a shared mapping, for writing, not of memory.
                let theirs_refused = match outcome {
                    Outcome::Pass => pin == "longterm" && variant == "shared" && fs != "tmpfs",
                    _ => panic!("{key:?}: {outcome:?}"),
                };
                assert_eq!(case["headline"] == "refused", theirs_refused, "{key:?}: {case}");
                compared += 1;
            }
        }
    }
    // Four file systems, two pins, two mappings, by two ways with two files each.
    assert_eq!(compared, 64, "{theirs:?}");
    let wrong: Vec<_> = theirs.iter().filter(|(_, outcome)| **outcome == Outcome::Fail).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    lab.assert_tidy();
}

fn word<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("{name}: {case}"))
}
