// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin report` of a real run: opened in a real browser, and the trace looked at as Perfetto does.

use longpin_e2e::browser::{self, View};
use longpin_e2e::{Ended, Lab, read_json};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A write that is held while the device writes again: everything that a timeline can show is in it.
const HELD: &str = r#"
schema = 1
name = "held"
title = "the page changes while its write is held"
mechanism = "of a test"
matrix.fs = ["ext4"]
matrix.pin = ["pin"]
matrix.release = ["clean"]
step = [
    "mkfs",
    "mount",
    "create",
    "map",
    { do = "touch", access = "write" },
    "pin",
    { do = "dma", generation = 100 },
    "hold-write",
    { do = "fsync", job = "f" },
    "await-held",
    { do = "dma", generation = 101 },
    "release-write",
    { do = "join", job = "f" },
    "drop-rule",
    "release",
    "remount",
    "compare",
]
[[expect]]
observe = "unstable"
reason = "the device writes while the disk holds the write"
"#;

const HELD_CASE: &str = "held/ext4/pin/clean";
const LOST_CASE: &str = "lost-update/ext4/pin/clean";

fn report(lab: &Lab, args: &[&str]) -> Ended {
    let out = lab.out();
    let dir = out.to_str().expect("temporary paths are UTF-8");
    lab.start(&[&["report", dir], args].concat()).end()
}

/// One run for all that is looked at.
fn run(lab: &Lab) {
    let file = lab.path("held.toml");
    std::fs::write(&file, HELD).expect("the place is writable");
    let file = file.to_str().expect("temporary paths are UTF-8");
    let ended = lab.run(&[file, "lost-update", "--fs", "ext4", "--pin", "pin"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
}

fn url(lab: &Lab, case: &str) -> String {
    format!("file://{}#case={case}", lab.out().join("report.html").display())
}

/// Pictures stay after the test: target/report-pictures.
fn pictures() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let dir = target.join("report-pictures");
    std::fs::create_dir_all(&dir).expect("target is writable");
    dir
}

#[test]
fn a_run_becomes_a_page_that_a_browser_shows_without_a_network() {
    let lab = Lab::new();
    run(&lab);
    let ended = report(&lab, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let held = browser::load(&lab.path(""), &url(&lab, HELD_CASE));
    assert!(held.console.is_empty(), "{:?}", held.console);
    assert!(held.dom.contains("data-ready=\"yes\""), "the script did not come to its end");
    for case in [HELD_CASE, LOST_CASE] {
        assert!(held.dom.contains(&format!("data-label=\"{case}\"")), "{case} has no row");
    }
    assert_eq!(held.count("timeline"), 1, "one case is open");
    for class in
        ["bar pin", "bar write", "bar hold", "bar job", "tick dma", "tick fetch", "tick hit", "moment grave"]
    {
        // In the drawing, and for bars and ticks in the legend as well.
        assert!(held.count(class) >= 1, "no `{class}` in the drawing");
    }
    assert!(held.dom.contains("put generation 101 where generation 100 had been submitted"));
    assert!(held.dom.contains("pages 0–15 of /mnt/a"), "pages with the same history are one lane");

    let lost = browser::load(&lab.path(""), &url(&lab, LOST_CASE));
    assert!(lost.console.is_empty(), "{:?}", lost.console);
    assert!(lost.count("tick bad") >= 1 && lost.dom.contains("no call returned an error"));
    assert!(lost.dom.contains("no later write takes them to the disk"), "the disk was watched");

    findings_explain_both(&lab);
    take_pictures(&lab);
    trace_is_what_perfetto_reads(&lab.out().join("trace.json"));
}

/// The same run as a page of text: each verdict with its reason, and the command that shows it again.
fn findings_explain_both(lab: &Lab) {
    let out = lab.out();
    let dir = out.to_str().expect("temporary paths are UTF-8");
    let ended = lab.start(&["findings", dir, dir]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for part in [
        "### held",
        "of a test",
        "| ext4 | **unstable** |",
        "- why: the device writes while the disk holds the write",
        "- again: `longpin run lost-update/ext4/pin/clean`",
        &format!("- {dir}: unstable (1)"),
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let file = lab.path("findings.md");
    let name = file.to_str().expect("temporary paths are UTF-8");
    let written = lab.start(&["findings", dir, dir, "--out", name]).end();
    assert_eq!((written.code, written.stdout.as_str()), (Some(0), ""), "{}", written.stderr);
    assert_eq!(std::fs::read_to_string(&file).expect("it was written"), ended.stdout);
    let nothing = lab.start(&["findings", name]).end();
    assert_eq!(nothing.code, Some(3), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("is no result directory"), "{}", nothing.stderr);
}

/// What a person sees of one case: wide and narrow, light and dark. The files stay.
fn take_pictures(lab: &Lab) {
    let file = lab.path("held.html");
    let name = file.to_str().expect("temporary paths are UTF-8");
    let trace = lab.path("held.json");
    let trace = trace.to_str().expect("temporary paths are UTF-8");
    let ended = report(lab, &["--case", HELD_CASE, "--out", name, "--trace", trace]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let html = std::fs::read_to_string(&file).expect("the report was written");
    assert!(html.contains(HELD_CASE) && !html.contains(LOST_CASE), "--case chooses");
    for (name, width, height, dark) in [
        ("wide-light", 1280, 1600, false),
        ("wide-dark", 1280, 1600, true),
        ("narrow-light", 360, 2600, false),
        ("narrow-dark", 360, 2600, true),
    ] {
        let picture = pictures().join(format!("{name}.png"));
        browser::picture(
            &lab.path(""),
            &format!("file://{}", file.display()),
            View { width, height, dark },
            &picture,
        );
        let bytes = std::fs::metadata(&picture).expect("taken").len();
        assert!(bytes > 50_000, "{}: {bytes} bytes, as good as empty", picture.display());
    }
}

/// Chrome's trace event format in its object form, as Perfetto's importer takes it.
fn trace_is_what_perfetto_reads(path: &Path) {
    let trace = read_json(path);
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let mut processes: BTreeMap<u64, String> = BTreeMap::new();
    let mut owner: BTreeMap<u64, u64> = BTreeMap::new();
    let mut slices: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for event in events {
        let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("no {name}: {event}"));
        let time = |name: &str| event[name].as_f64().unwrap_or_else(|| panic!("no {name}: {event}"));
        let (pid, tid) = (number("pid"), number("tid"));
        assert_eq!(*owner.entry(tid).or_insert(pid), pid, "two processes share thread {tid}");
        match event["ph"].as_str() {
            Some("M") if event["name"] == "process_name" => {
                processes.insert(pid, event["args"]["name"].as_str().expect("a name").to_owned());
            }
            Some("M") => assert!(event["args"].is_object()),
            Some("X") => slices.entry(tid).or_default().push((time("ts"), time("dur"))),
            Some("i") => assert!(time("ts") >= 0.0 && event["s"] == "t", "{event}"),
            _ => panic!("an unknown phase: {event}"),
        }
    }
    assert_eq!(processes.into_values().collect::<Vec<_>>(), [LOST_CASE, HELD_CASE]);
    for (tid, mut slices) in slices {
        slices.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Perfetto drops what overlaps on one thread. A nanosecond is what it can tell apart.
        let apart = slices.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0 + 0.001);
        assert!(apart, "thread {tid}: {slices:?}");
    }
    let hold = events.iter().find(|event| event["name"] == "held").expect("a hold");
    let (from, lasting) = (hold["ts"].as_f64().expect("ts"), hold["dur"].as_f64().expect("dur"));
    let within = |event: &Value| event["ts"].as_f64().is_some_and(|at| from < at && at < from + lasting);
    let dma = |event: &&Value| event["ph"] == "i" && event["name"] == "dma";
    assert!(events.iter().filter(dma).any(within), "no DMA write while the request was held");
}

#[test]
fn what_is_no_result_directory_is_named_with_a_remedy() {
    let lab = Lab::without_images();
    std::fs::create_dir(lab.out()).expect("new");
    let ended = report(&lab, &[]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("neither result.json nor events.jsonl"), "{}", ended.stderr);

    for (text, said) in [
        ("{", "is no JSON document"),
        ("{}", "has no field `schema`"),
        ("{\"schema\": 99}", "has schema 99, this longpin reads up to 2"),
        ("{\"schema\": 1}", "missing field"),
    ] {
        std::fs::write(lab.out().join("result.json"), text).expect("writable");
        let ended = report(&lab, &[]);
        assert_eq!(ended.code, Some(3), "{text}");
        assert!(ended.stderr.contains(said), "{text}: {}", ended.stderr);
    }
    assert!(!lab.out().join("report.html").exists());
}

#[test]
fn the_browser_tells_what_a_page_complains_of() {
    let lab = Lab::without_images();
    let page = lab.path("bad.html");
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'\">";
    for (body, said) in [
        ("<script>null.x</script>", "TypeError"),
        ("<img src=\"http://example.org/x.png\">", "Content Security Policy"),
    ] {
        std::fs::write(&page, format!("<!doctype html>{policy}{body}")).expect("writable");
        let seen = browser::load(&lab.path(""), &format!("file://{}", page.display()));
        assert!(seen.console.iter().any(|line| line.contains(said)), "{said}: {:?}", seen.console);
    }
}
