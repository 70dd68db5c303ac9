// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Jobs that sleep in the kernel while the scenario goes on, on a real kernel.

use longpin_e2e::scenario;
use longpin_e2e::{Lab, only_case};
use serde_json::json;

/// A store sleeps in a page fault of a frozen file system, and with it the mmap lock of the agent. A program thaws it,
/// started before the store, or only after it was seen asleep; both CPUs are busy all the while.
fn thawed_by(name: &str, steps: [&str; 4]) -> String {
    let [before, busy, after, join] = steps;
    format!(
        r#"schema = 1
name = "{name}"
title = "of a test"
mechanism = "none"
groups = ["test"]
matrix.fs = ["xfs"]

step = [
    {{ do = "write-sys", path = "/proc/sys/kernel/domainname", value = "frozen" }},
    "mkfs",
    "mount",
    "create",
    "map",
    {{ do = "touch", access = "write" }},
    "fsync",
    "prove-clean",
    {busy}
    {{ do = "exec", argv = ["xfs_io", "-F", "-r", "-x", "-c", "freeze", "/mnt"] }},
    {before}
    {{ do = "store", generation = 2, job = "store" }},
    {{ do = "settle", job = "store" }},
    {after}
    {join}
    {{ do = "join", job = "store" }},
    "remount",
    "compare",
]

[[expect]]
observe = "intact"
blocked = ["store"]
reason = "the store sleeps until the thaw"
"#
    )
}

fn judge(name: &str, steps: [&str; 4]) {
    let lab = Lab::new();
    let file = lab.path(&format!("{name}.toml"));
    std::fs::write(&file, thawed_by(name, steps)).expect("the place is writable");
    let ended = lab.run(&[file.to_str().expect("temporary paths are UTF-8")]);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!((&case["outcome"], &case["headline"]), (&json!("pass"), &json!("intact")), "{case}");
    assert_eq!(case["blocked"][0]["job"], "store", "{case}");
    let stack = case["blocked"][0]["stack"].as_array().expect("a stack");
    assert!(stack.iter().any(|function| function == "do_user_addr_fault"), "{case}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    lab.assert_tidy();
}

const BUSY: &str = r#"{ do = "exec", argv = ["sh", "-ec", "for cpu in 0 1; do setsid timeout 20 sh -c 'while :; do :; done' > /dev/null 2>&1 & done"] },"#;

#[test]
fn a_program_that_was_about_to_start_when_a_job_fell_asleep_in_a_fault_releases_it() {
    let thaw = r#"{ do = "exec", job = "thaw", timeout_ms = 60_000, argv = ["sh", "-ec", "until [ \"$(cat /proc/sys/kernel/domainname)\" = thawed ]; do sleep 0.1; done; xfs_io -F -r -x -c thaw /mnt"] },"#;
    let word = r#"{ do = "write-sys", path = "/proc/sys/kernel/domainname", value = "thawed" },"#;
    judge("thaw-from-before", [thaw, BUSY, word, r#"{ do = "join", job = "thaw" },"#]);
}

#[test]
fn a_program_starts_while_a_job_sleeps_in_a_fault() {
    let thaw = r#"{ do = "exec", argv = ["xfs_io", "-F", "-r", "-x", "-c", "thaw", "/mnt"] },"#;
    judge("thaw-from-after", ["", BUSY, thaw, ""]);
}

#[test]
fn a_program_that_outlives_its_step_in_a_session_of_its_own_ends_with_the_case() {
    let lab = Lab::new();
    let stray = r#"{ do = "exec", argv = ["sh", "-ec", "setsid sh -c 'exec 3< /mnt/a; echo open > /tmp/stray; exec sleep 1000' > /dev/null 2>&1 & until [ -s /tmp/stray ]; do sleep 0.1; done"] }"#;
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", "\"compare\"", stray];
    let file = scenario::write(&lab.path(""), "stray", &steps, "intact");
    let ended = lab.run(&[&file]);
    let result = lab.result();
    assert_eq!(only_case(&result)["outcome"], "pass", "{result}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    lab.assert_tidy();
}
