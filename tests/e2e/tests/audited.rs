// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cases on the auditing disk: the evidence that it brings, the machines that scenarios ask for, and what bad things
//! on the host's side of the disk are called.

use longpin_e2e::scenario::{self, FIRST_STEP_LINE};
use longpin_e2e::{Lab, RUN_DEADLINE, only_case, read_json, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

fn evidence<'r>(record: &'r Value, kind: &str) -> Vec<&'r Value> {
    let evidence = record["evidence"].as_array().expect("a record has evidence").iter();
    evidence.filter(|evidence| evidence["evidence"] == kind).collect()
}

fn disk_answer<'r>(record: &'r Value, request: &str) -> &'r Value {
    let asked = evidence(record, "disk").into_iter().find(|e| e["request"]["request"] == request);
    &asked.unwrap_or_else(|| panic!("`{request}` was not asked"))["answer"]["Ok"]
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A scenario on ext4 that stands in its last step with a write held.
fn holding(lab: &Lab, cap: &str, last: &str) -> String {
    let hold = format!("{{ do = \"hold-write\", cap_ms = {cap} }}");
    let write = "{ do = \"write\", generation = 2, direct = true, job = \"w\" }";
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", &hold, write, "\"await-held\"", last];
    scenario::write_on(&lab.path(""), "holding", "ext4", "", &steps, "intact")
}

#[test]
fn each_case_carries_the_words_of_disk_checker_and_ledger_on_one_clock() {
    let lab = Lab::new();
    let ended = lab.run(&["late-dirty", "--fs", "ext4,xfs,btrfs,f2fs", "--pin", "pin"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for fs in ["ext4", "xfs", "btrfs", "f2fs"] {
        let record = read_json(&lab.out().join(format!("cases/late-dirty.{fs}.pin.dirty.json")));
        let audit = disk_answer(&record, "audit");
        assert!(number(&audit["writes"]) > 0 && number(&audit["pages"]) > 16, "{fs}: {audit}");
        assert_eq!(audit["hits"], json!([]), "{fs}");

        let checkers = evidence(&record, "fsck");
        let [fsck] = checkers.as_slice() else { panic!("{fs}: {checkers:?}") };
        assert_eq!((&fsck["fs"], &fsck["code"]), (&json!(fs), &json!(0)), "{fsck}");
        assert!(fsck["output"].as_str().is_some_and(|text| !text.is_empty()), "{fsck}");

        let ledgers = evidence(&record, "ledger");
        let of_disk = ledgers[0]["disk"].as_array().expect("a list");
        let steps = evidence(&record, "step");
        let (first, last) = (number(&steps[0]["began_ns"]), number(&steps[steps.len() - 1]["ended_ns"]));
        assert!(!of_disk.is_empty(), "{fs}");
        for entry in of_disk {
            assert!((first..last).contains(&number(&entry["time_ns"])), "{fs}: {entry} in {first}..{last}");
        }
        assert!(steps.iter().all(|step| number(&step["began_ns"]) <= number(&step["ended_ns"])), "{fs}");
    }
    lab.assert_tidy();
}

#[test]
fn on_qemus_disk_the_same_verdict_comes_out_and_cases_that_rule_the_disk_are_skipped() {
    let lab = Lab::new();
    let ended =
        lab.run(&["lost-update", "inflight-change", "--fs", "ext4", "--pin", "pin", "--disk", "qemu"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for case in result["cases"].as_array().expect("a list") {
        match case["scenario"].as_str() {
            Some("lost-update") => assert_eq!(case["headline"], "lost", "{case}"),
            _ => assert!(
                case["outcome"] == "skip"
                    && case["reason"].as_str().is_some_and(|r| r.contains("--disk audited")),
                "{case}"
            ),
        }
    }
    assert_eq!(number(&result["summary"]["skip"]), 2, "{}", result["summary"]);
    lab.assert_tidy();
}

#[test]
fn a_hold_that_reaches_its_cap_and_one_that_never_comes_prove_nothing() {
    let lab = Lab::new();
    let capped = holding(&lab, "1000", "{ do = \"join\", job = \"w\" }");
    let steps = [
        "\"mkfs\"",
        "\"mount\"",
        "\"create\"",
        "\"hold-write\"",
        "{ do = \"await-held\", deadline_ms = 1000 }",
    ];
    let missing = scenario::write_on(&lab.path(""), "missing", "ext4", "", &steps, "intact");
    let ended = lab.run(&[&capped, &missing]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let result = lab.result();
    let cases = result["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 2, "{cases:?}");
    for (case, part) in cases.iter().zip(["until its cap", "held"]) {
        assert_eq!(
            (&case["outcome"], &case["error"]["cause"]),
            (&json!("error"), &json!("unproven")),
            "{case}"
        );
        assert!(case["reason"].as_str().is_some_and(|reason| reason.contains(part)), "{case}");
    }
    lab.assert_tidy();
}

#[test]
fn a_full_file_system_under_the_image_is_an_infrastructure_error_with_its_name() {
    let lab = Lab::new();
    let small = lab.path("small");
    std::fs::create_dir(&small).expect("the place is new");
    let small = small.to_str().expect("temporary paths are UTF-8");
    // 48 MiB take the controls; 128 MiB they do not.
    let create = "{ do = \"create\", pages = 32768 }";
    let file = scenario::write_on(
        &lab.path(""),
        "filling",
        "ext4",
        "",
        &["\"mkfs\"", "\"mount\"", create],
        "intact",
    );
    let out = lab.out();
    let out = out.to_str().expect("temporary paths are UTF-8");
    let changes = ["--size", "50331648", "--tmpfs", small];
    let args = ["run", &file, "--disk-dir", small, "--out", out];
    let ended = lab.start_changed(&changes, std::process::Stdio::null(), &args).end();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!((&case["outcome"], &case["error"]["cause"]), (&json!("error"), &json!("infra")), "{case}");
    let reason = case["reason"].as_str().expect("a reason");
    assert!(reason.contains("disk 0 failed: write of image") && reason.contains("No space left"), "{reason}");
    lab.assert_tidy();
}

/// A seccomp filter, as `struct sock_filter[]`: io_uring_setup(2) of x86-64 gives EPERM, all else is allowed.
fn no_io_uring(lab: &Lab) -> std::fs::File {
    const IO_URING_SETUP: u32 = 425;
    const RET_EPERM: u32 = 0x0005_0001;
    const RET_ALLOW: u32 = 0x7fff_0000;
    let program: [(u16, u8, u8, u32); 4] =
        [(0x20, 0, 0, 0), (0x15, 0, 1, IO_URING_SETUP), (0x06, 0, 0, RET_EPERM), (0x06, 0, 0, RET_ALLOW)];
    let mut bytes = Vec::new();
    for (code, jt, jf, k) in program {
        bytes.extend(code.to_le_bytes());
        bytes.extend([jt, jf]);
        bytes.extend(k.to_le_bytes());
    }
    let path = lab.path("no-io-uring.bpf");
    std::fs::write(&path, bytes).expect("the place is writable");
    std::fs::File::open(path).expect("it was just written")
}

#[test]
fn a_daemon_that_cannot_serve_its_disk_ends_the_run_with_its_own_word_and_the_doctor_knows() {
    let lab = Lab::new();
    let out = lab.out();
    let out = out.to_str().expect("temporary paths are UTF-8");
    let args = ["run", "lost-update", "--fs", "ext4", "--pin", "pin", "--out", out];
    let ended = lab.start_changed(&["--seccomp", "0"], no_io_uring(&lab).into(), &args).end();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!((&case["outcome"], &case["error"]["cause"]), (&json!("error"), &json!("infra")), "{case}");
    let reason = case["reason"].as_str().expect("a reason");
    assert!(reason.contains("longpin-device") && reason.contains("refused io_uring"), "{reason}");

    let ended = lab.start_changed(&["--seccomp", "0"], no_io_uring(&lab).into(), &["doctor"]).end();
    assert_eq!(ended.code, Some(2), "{}", ended.stdout);
    assert!(ended.stdout.contains("missing  auditing disk: io_uring cannot be set up"), "{}", ended.stdout);
    lab.assert_tidy();
}

#[test]
fn scenarios_that_ask_for_another_machine_get_a_boot_of_their_own() {
    let lab = Lab::new();
    let dir = lab.path("");
    let plain =
        scenario::write(&dir, "plain", &["{ do = \"exec\", argv = [\"true\"], verifies = true }"], "intact");
    let fio = "{ do = \"exec\", argv = [\"fio\", \"--version\"], verifies = true }";
    let with_fio =
        scenario::write_on(&dir, "with-fio", "tmpfs", "machine.programs = [\"fio\"]", &[fio], "intact");
    let told = "{ do = \"exec\", argv = [\"grep\", \"-w\", \"longpin.test=1\", \"/proc/cmdline\"], verifies = true }";
    let head = "machine.kernel_args = [\"longpin.test=1\"]";
    let with_args = scenario::write_on(&dir, "with-args", "tmpfs", head, &[told], "intact");
    let ended = lab.run(&[&with_fio, &plain, &with_args, "--repeat", "2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    let boot_of = |scenario: &str| {
        let cases = result["cases"].as_array().expect("a list").iter();
        let boots: Vec<u64> =
            cases.filter(|case| case["scenario"] == scenario).map(|case| number(&case["boot"])).collect();
        assert!(boots.len() == 2 && boots[0] == boots[1], "{scenario}: {boots:?}");
        boots[0]
    };
    let boots = ["with-fio", "plain", "with-args"].map(boot_of);
    let mut different = boots.to_vec();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different, [1, 2, 3], "{boots:?}");
    lab.assert_tidy();
}

#[test]
fn in_a_shell_a_held_write_waits_until_it_is_let_go_on_the_host() {
    let lab = Lab::new();
    let file = holding(&lab, "1000", "{ do = \"join\", job = \"w\" }");
    let until = (FIRST_STEP_LINE + 6).to_string();
    let (running, mut typing) = lab.start_typing(&["shell", &file, "--until", &until]);
    let said = wait_for("the shell", RUN_DEADLINE, || {
        let said = running.said();
        said.contains("the disks are").then_some(said)
    });
    let socket = said.split("nc -N -U ").nth(1).and_then(|rest| rest.lines().next());
    let socket = socket.unwrap_or_else(|| panic!("no control socket is told: {said}"));

    let mut control = UnixStream::connect(socket).expect("the daemon listens");
    let mut answers = BufReader::new(control.try_clone().expect("a socket can be cloned"));
    let mut ask = |request: Value| -> Value {
        writeln!(control, "{request}").expect("the daemon reads");
        let mut line = String::new();
        answers.read_line(&mut line).expect("the daemon answers");
        serde_json::from_str(&line).expect("one document a line")
    };
    assert!(number(&ask(json!({"request": "disks"}))["disks"][0]["held"]) > 0);
    let released = ask(json!({"request": "release-held", "rule": "w"}));
    let holds = released["holds"].as_array().unwrap_or_else(|| panic!("{released}"));
    assert!(!holds.is_empty() && holds.iter().all(|hold| hold["end"] == "released"), "{released}");
    typing.write_all(b"exit\n").expect("the shell reads");
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    drop(typing);
    lab.assert_tidy();
}
