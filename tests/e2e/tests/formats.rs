// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Results in the forms that others read, by those others' own readers.

use longpin_e2e::kcidb;
use longpin_e2e::kunit::{self, Counts};
use longpin_e2e::{Lab, read_json};
use quick_junit::Report;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn option(form: &str, file: &Path) -> String {
    format!("{form}={}", file.display())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn junit(path: &Path) -> Report {
    let text = read(path);
    Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What the kernel's parser must count.
fn wanted(summary: &Value) -> Counts {
    let count = |words: &[&str]| words.iter().map(|word| summary[word].as_u64().expect("a number")).sum();
    Counts {
        passed: count(&["pass", "xfail"]),
        failed: count(&["fail", "xpass", "error"]),
        skipped: count(&["skip"]),
        crashed: 0,
        errors: 0,
    }
}

fn assert_counts(ktap: &Path, xml: &Path, summary: &Value) {
    let (counts, said) = kunit::parse(ktap);
    assert_eq!(counts, wanted(summary), "{said}\n{}", read(ktap));
    let report = junit(xml);
    let count = |word: &str| summary[word].as_u64().expect("a number") as usize;
    assert_eq!(
        (report.tests, report.failures, report.errors),
        (count("planned"), count("fail") + count("xpass"), count("error")),
        "{}",
        read(xml)
    );
}

/// What the published schema has to say of a document.
fn schema_faults(document: &Value) -> Vec<String> {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/result.schema.json");
    let validator = jsonschema::draft202012::new(&read_json(&schema)).expect("a schema of draft 2020-12");
    let errors = validator.iter_errors(document);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn one_run_is_written_in_every_form_and_the_kernel_s_parser_counts_as_the_table_does() {
    let lab = Lab::new();
    let [xml, page, copy, data, ktap] =
        ["a.xml", "a.md", "a.json", "a.kcidb", "a.ktap"].map(|name| lab.path(name));
    std::fs::write(&xml, "of an earlier run").expect("the place is writable");
    let files = [("junit", &xml), ("markdown", &page), ("json", &copy), ("kcidb", &data)];
    let files = files.map(|(form, file)| option(form, file)).join(",");
    let forms = format!("ktap,{files}");
    let args = ["lost-update", "inflight-change/ext4/pin/clean", "--fs", "ext4,tmpfs", "--pin", "pin"];
    let ended = lab.run(&[&args[..], &["--repeat", "2", "--format", &forms]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(read_json(&copy), result);
    assert_eq!(schema_faults(&result), [""; 0]);
    let environment = &result["environment"];
    let percent = environment["deadline_percent"].as_u64().expect("a number");
    match environment["accel"].as_str() {
        Some("kvm") => assert_eq!(percent, 100),
        _ => {
            assert!((300..=1200).contains(&percent), "{percent}");
            let said = format!("deadlines: {} times those of hardware, as a tr", percent as f64 / 100.0);
            assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        }
    }
    let command = result["command"].as_str().expect("text");
    assert!(command.contains("--format ktap") && !command.contains("junit"), "{command}");

    std::fs::write(&ktap, &ended.stdout).expect("the place is writable");
    assert_counts(&ktap, &xml, &result["summary"]);
    assert_eq!(result["summary"]["planned"], 6, "{}", ended.stdout);
    assert!(ended.stdout.contains("  ok 1 lost-update/ext4/pin/clean # XFAIL "), "{}", ended.stdout);
    assert!(ended.stdout.contains("lost-update/tmpfs/pin/clean@2\n"), "{}", ended.stdout);
    let kernel = result["environment"]["kernel"]["release"].as_str().expect("text");
    for suite in junit(&xml).test_suites {
        let has =
            suite.properties.iter().any(|it| it.name.as_str() == "kernel" && it.value.as_str() == kernel);
        assert!(has, "{}", read(&xml));
    }
    assert!(read(&page).contains("Nothing unexpected."), "{}", read(&page));
    let summary = |word: &str| result["summary"][word].as_u64().expect("a number");
    let counts = [("FAIL", summary("xfail")), ("PASS", summary("pass"))];
    assert_eq!(
        kcidb::parse(&data),
        Ok(counts.map(|(word, n)| (word.to_owned(), n)).into()),
        "{}",
        read(&data)
    );

    let again = lab.start(&["report", &lab.out().display().to_string(), "--format", "ktap"]).end();
    assert_eq!((again.code, again.stdout), (Some(0), ended.stdout), "{}", again.stderr);
    lab.assert_tidy();
}

/// A run with every outcome, text that looks like a result, and an end before its time.
fn troubled_run(lab: &Lab) -> (PathBuf, Value) {
    let words = [
        ("pass", Value::Null),
        ("fail", Value::Null),
        ("xfail", Value::Null),
        ("xpass", Value::Null),
        ("skip", Value::Null),
        ("error", json!({ "cause": "infra", "message": "m" })),
        ("error", json!({ "cause": "unproven", "message": "m" })),
    ];
    let hostile = "a # SKIP b\nok 1 s1/ext4/pin/clean\n# Subtest: s1\nKTAP version 2 é <&>";
    let log = ["reboot: System halted", "Kernel panic - not syncing: VFS: no root", hostile]
        .map(|text| json!({ "class": "panic", "text": text, "meaning": "m" }));
    let case = |(n, (outcome, error)): (usize, (&str, Value))| {
        let scenario = format!("s{}", n % 2);
        json!({
            "id": format!("{scenario}/ext4/pin/clean/v{n}"), "attempt": 1 + n / 5, "scenario": scenario,
            "fs": "ext4", "pin": "pin", "release": "clean", "variant": format!("v{n}"), "control": false,
            "boot": 1, "observations": ["panic"], "headline": "panic", "expected": ["intact"],
            "outcome": outcome, "error": error, "reason": hostile,
            "generations": { "device": null, "guest": null, "host": null }, "errno": null, "findings": [],
            "seconds": 1.5, "log": log,
        })
    };
    let summary = json!({
        "planned": 9, "pass": 1, "fail": 1, "xfail": 1, "xpass": 1, "skip": 1, "error": 4,
        "seconds": 1.0, "cases_per_minute": 1.0,
    });
    let environment = json!({
        "kernel": { "release": "r", "version": "v", "source": "s" }, "qemu": { "version": "v", "path": "p" },
        "accel": "tcg", "module": { "name": "n", "hash": "h" }, "tool_root": "t", "seed": 1,
        "host": { "kernel": "k", "cpu": "c", "cpus": 1, "memory_kib": 1 },
    });
    let cases: Vec<Value> = words.into_iter().enumerate().map(case).collect();
    let run = json!({
        "schema": 2, "started": "2027-01-01T00:00:00Z", "command": "longpin run", "environment": environment,
        "boots": [], "cases": cases, "controls": [], "missing": ["s1/ext4/pin/clean#3", "s2/ext4/pin/clean"],
        "interrupted": true, "summary": summary,
    });
    let dir = lab.path("troubled");
    std::fs::create_dir(&dir).expect("the place is new");
    std::fs::write(dir.join("result.json"), run.to_string()).expect("the place is writable");
    (dir, run)
}

#[test]
fn a_run_with_every_outcome_reads_the_same_in_every_form() {
    let lab = Lab::new();
    let (dir, run) = troubled_run(&lab);
    assert_eq!(schema_faults(&run), [""; 0]);
    let [ktap, xml, data] = ["a.ktap", "a.xml", "a.kcidb"].map(|name| lab.path(name));
    let forms =
        [option("ktap", &ktap), option("junit", &xml), option("kcidb", &data), "github".into()].join(",");
    let ended = lab.start(&["report", &dir.display().to_string(), "--format", &forms]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_counts(&ktap, &xml, &run["summary"]);
    // Pass; fail, xfail, xpass; unproven; infra and two that never reported.
    let counts = [("PASS", 1), ("FAIL", 3), ("SKIP", 1), ("ERROR", 1), ("MISS", 3)];
    assert_eq!(
        kcidb::parse(&data),
        Ok(counts.map(|(word, n)| (word.to_owned(), n)).into()),
        "{}",
        read(&data)
    );
    assert_eq!(ended.stdout.matches("::error ").count(), 6, "{}", ended.stdout);
    assert!(!dir.join("report.html").exists(), "forms instead of a drawing");
}

/// The checker of KCIDB's files is one that refuses.
#[test]
fn a_kcidb_file_with_a_fault_is_refused_by_its_reader() {
    let lab = Lab::without_images();
    let (dir, _) = troubled_run(&lab);
    let file = lab.path("a.kcidb");
    let ended = lab.start(&["report", &dir.display().to_string(), "--format", &option("kcidb", &file)]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let good = read_json(&file);
    for (at, fault, said) in [
        ("/tests/0/status", json!("XFAIL"), "is not one of"),
        ("/tests/0/path", json!("longpin.a b"), "does not match"),
        ("/tests/0/start_time", json!("yesterday"), "is not a 'date-time'"),
        ("/tests/1/id", good["tests"][0]["id"].clone(), "an id is there twice"),
        ("/tests/2/build_id", json!("longpin:other"), "is nowhere"),
        ("/version/minor", json!(4), "greater than the maximum"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(at).expect("the file has it") = fault;
        std::fs::write(&file, bad.to_string()).expect("the place is writable");
        let refused = kcidb::parse(&file).expect_err(at);
        assert!(refused.contains(said), "{at}: {refused}");
    }
}

#[test]
fn what_cannot_be_written_is_said_before_anything_boots() {
    let lab = Lab::without_images();
    for (forms, fault) in [
        ("junit=no/such/a.xml", "--format junit=no/such/a.xml: the file cannot be written: "),
        ("ktap,json", "two formats go to standard output"),
        ("xml=a", "`xml` is no format; use one of table, json, ktap"),
    ] {
        let ended = lab.run(&["lost-update", "--format", forms]);
        assert_eq!(ended.code, Some(3), "{forms}: {}", ended.stderr);
        assert!(ended.stderr.contains(fault), "{forms}: {}", ended.stderr);
        assert!(!lab.out().exists(), "{forms}: no result directory for a run that never began");
    }
}
