// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every format counts what the table counts, and carries hostile text as text.

use longpin_core::dmesg::Class;
use longpin_core::dmesg::reports::Report as KernelReport;
use longpin_core::events::{EventKind, RunEvent};
use longpin_core::report::formats::{Place, github, junit, kcidb, ktap, markdown};
use longpin_core::report::{CaseError, CaseResult, Environment, RunResult, Summary};
use longpin_core::verdict::{Cause, Generations, LogLine, Observation, Outcome};
use quick_junit::{FlakyOrRerun, NonSuccessKind, Report, TestCaseStatus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What no format may pass on as it is.
const HOSTILE: &str =
    "a < b & c > d # SKIP x\nok 1 y\r::error::z\u{1b}[31m\u{0} | `|` %0A é\u{2028}\u{ffff} KTAP version 1";

fn case(id: &str, outcome: Outcome, headline: Observation) -> CaseResult {
    let mut words = id.split('/').map(str::to_owned);
    let mut word = || words.next().expect("four words");
    CaseResult {
        id: id.to_owned(),
        attempt: 1,
        scenario: word(),
        fs: word(),
        pin: word(),
        release: word(),
        variant: None,
        control: false,
        boot: 1,
        observations: [headline].into(),
        headline: Some(headline),
        expected: BTreeSet::new(),
        outcome,
        error: None,
        reason: format!("{outcome} of {id}"),
        generations: Generations::default(),
        errno: None,
        findings: Vec::new(),
        mirror: None,
        audit: None,
        blocked: Vec::new(),
        fsck: None,
        seconds: 0.5,
        log: Vec::new(),
        reports: Vec::new(),
        attempts: Vec::new(),
    }
}

fn error(id: &str, cause: Cause) -> CaseResult {
    let mut case = case(id, Outcome::Error, Observation::Intact);
    case.error = Some(CaseError { cause, message: "m".into() });
    case
}

fn run(cases: Vec<CaseResult>, missing: &[&str], interrupted: bool) -> RunResult {
    let labels = cases.iter().map(CaseResult::label);
    let environment = Environment { accel: "tcg".into(), seed: 7, ..Environment::default() };
    let started = EventKind::RunStarted {
        environment: Box::new(environment),
        cases: labels.chain(missing.iter().map(|label| (*label).to_owned())).collect(),
        started: "2027-01-01T00:00:00Z".into(),
        command: "longpin run a --seed 7".into(),
        allow_flaky: false,
        races: BTreeMap::new(),
    };
    let finished = cases.into_iter().map(|case| EventKind::CaseFinished(Box::new(case)));
    let stop = interrupted.then_some(EventKind::Interrupted);
    let kinds = std::iter::once(started).chain(finished).chain(stop);
    let events: Vec<RunEvent> = kinds.map(|kind| RunEvent { at_ms: 1000, kind }).collect();
    RunResult::from_events(&events)
}

/// A case that failed twice, once by its own and once by the laboratory's fault, and then passed.
fn flaky(id: &str) -> CaseResult {
    let fail = case(id, Outcome::Fail, Observation::Lost);
    let broken = CaseResult { attempt: 2, boot: 2, ..error(id, Cause::Infra) };
    let good = CaseResult { attempt: 3, boot: 3, ..case(id, Outcome::Pass, Observation::Intact) };
    longpin_core::attempts::together(vec![fail, broken, good]).expect("three attempts")
}

/// One of each kind, in two scenarios that finish in turns, and two that never reported.
fn everything() -> RunResult {
    let again = CaseResult { attempt: 2, ..case("a/ext4/pin/clean", Outcome::Pass, Observation::Intact) };
    let mut hostile = case("b/xfs/pin/clean", Outcome::Fail, Observation::Panic);
    hostile.reason = HOSTILE.to_owned();
    hostile.log = [
        HOSTILE,
        "reboot: System halted",
        "Kernel panic - not syncing: VFS: no root",
        "ok 3 b/late/pin/clean",
    ]
    .map(|text| LogLine { class: Class::Panic, text: text.to_owned(), meaning: "m".into() })
    .into();
    let mut known = case("a/btrfs/pin/clean", Outcome::Xfail, Observation::Lost);
    known.reason = "known # SKIP it".into();
    let cases = vec![
        case("a/ext4/pin/clean", Outcome::Pass, Observation::Intact),
        hostile,
        known,
        case("b/f2fs/pin/clean", Outcome::Xpass, Observation::Intact),
        case("a/tmpfs/pin/clean", Outcome::Skip, Observation::Intact),
        error("b/tmpfs/pin/clean", Cause::Infra),
        error("b/ext4/pin/clean", Cause::Unproven),
        case("c/ext4/pin/clean", Outcome::Skip, Observation::Intact),
        again,
        flaky("b/tmpfs/pin/dirty"),
    ];
    run(cases, &["b/late/pin/clean#2", "d/ext4/pin/clean"], true)
}

fn pass_fail_skip(summary: &Summary) -> (usize, usize, usize) {
    (summary.pass + summary.xfail, summary.fail + summary.xpass + summary.flaky + summary.error, summary.skip)
}

#[test]
fn the_run_of_these_tests_has_one_of_each() {
    let Summary { planned, pass, fail, xfail, xpass, flaky, skip, error, .. } = everything().summary;
    assert_eq!((planned, pass, fail, xfail, xpass, flaky, skip, error), (12, 2, 1, 1, 1, 1, 2, 4));
}

/// Results of the cases of a KTAP text: lines of the second level.
fn ktap_results(text: &str) -> Vec<&str> {
    let inner = text.lines().filter_map(|line| line.strip_prefix("  "));
    inner.filter(|line| line.starts_with("ok ") || line.starts_with("not ok ")).collect()
}

#[test]
fn ktap_counts_what_the_table_counts() {
    let run = everything();
    let text = ktap(&run);
    let results = ktap_results(&text);
    let failed = results.iter().filter(|line| line.starts_with("not ok")).count();
    let skipped = results.iter().filter(|line| line.contains(" # SKIP ")).count();
    let passed = results.len() - failed - skipped;
    assert_eq!((passed, failed, skipped), pass_fail_skip(&run.summary), "{text}");
    assert_eq!(results.len(), run.summary.planned);
}

#[test]
fn ktap_says_each_outcome_in_its_way() {
    let text = ktap(&everything());
    for line in [
        "KTAP version 1",
        "1..4",
        "  # Subtest: a",
        "  1..4",
        "  ok 1 a/ext4/pin/clean",
        "  ok 2 a/btrfs/pin/clean # XFAIL known @ SKIP it",
        "  ok 3 a/tmpfs/pin/clean # SKIP skip of a/tmpfs/pin/clean",
        "  ok 4 a/ext4/pin/clean@2",
        "ok 1 a",
        "  # xpass: xpass of b/f2fs/pin/clean",
        "  not ok 2 b/f2fs/pin/clean",
        "  # error (infra): error of b/tmpfs/pin/clean",
        "  not ok 3 b/tmpfs/pin/clean",
        "  # error (unproven): error of b/ext4/pin/clean",
        "  not ok 4 b/ext4/pin/clean",
        "  # flaky: pass at attempt 3 of 3, but at attempt 1 fail: fail of b/tmpfs/pin/dirty",
        "  # attempt 1 (boot 1): fail: lost: fail of b/tmpfs/pin/dirty",
        "  # attempt 2 (boot 2): error (infra): intact: error of b/tmpfs/pin/dirty",
        "  # attempt 3 (boot 3): pass: intact: pass of b/tmpfs/pin/dirty",
        "  not ok 5 b/tmpfs/pin/dirty",
        "  # error (missing): never reported: the run was interrupted",
        "  not ok 6 b/late/pin/clean@2",
        "not ok 2 b",
        "ok 3 c # SKIP every case was skipped",
        "  not ok 1 d/ext4/pin/clean",
        "not ok 4 d",
        "# the run was interrupted",
    ] {
        assert!(text.lines().any(|it| it == line), "no line `{line}` in\n{text}");
    }
    // The kernel's parser stops at these, wherever they are.
    for end in ["System halted", "VFS:"] {
        assert!(!text.contains(&format!(": {end}")), "{text}");
    }
    let odd = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{2028}');
    assert_eq!(odd, None, "{text}");
}

fn report(run: &RunResult) -> (String, Report) {
    let text = junit(run).expect("a report");
    let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (text, report)
}

#[test]
fn junit_counts_what_the_table_counts() {
    let run = everything();
    let (text, report) = report(&run);
    let Summary { planned, pass, fail, xfail, xpass, flaky, skip, error, .. } = run.summary;
    let failures = fail + xpass + flaky;
    assert_eq!((report.tests, report.failures, report.errors), (planned, failures, error), "{text}");
    let tests: Vec<_> = report.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
    let is = |kind: fn(&TestCaseStatus) -> bool| tests.iter().filter(|test| kind(&test.status)).count();
    assert_eq!(is(|status| matches!(status, TestCaseStatus::Skipped { .. })), xfail + skip);
    assert_eq!(is(|status| matches!(status, TestCaseStatus::Success { .. })), pass);
    let names: BTreeSet<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    assert_eq!(names.len(), planned, "names are unique: {text}");
    let suites: Vec<&str> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!(suites, ["a", "b", "c", "d"]);
}

#[test]
fn junit_has_the_reason_the_kind_and_the_environment() {
    let (text, report) = report(&everything());
    for suite in &report.test_suites {
        for (name, value) in [("accel", "tcg"), ("seed", "7"), ("interrupted", "true")] {
            let has =
                suite.properties.iter().any(|it| it.name.as_str() == name && it.value.as_str() == value);
            assert!(has, "{name} of {}: {text}", suite.name.as_str());
        }
    }
    let find = |name: &str| {
        let mut tests = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
        &tests.find(|test| test.name.as_str() == name).unwrap_or_else(|| panic!("{name}: {text}")).status
    };
    match find("a/btrfs/pin/clean") {
        TestCaseStatus::Skipped { message: Some(message), .. } => {
            assert_eq!(message.as_str(), "xfail: known # SKIP it");
        }
        other => panic!("{other:?}"),
    }
    for (name, wanted, word) in [
        ("b/xfs/pin/clean", NonSuccessKind::Failure, "fail"),
        ("b/f2fs/pin/clean", NonSuccessKind::Failure, "xpass"),
        ("b/tmpfs/pin/clean", NonSuccessKind::Error, "error (infra)"),
        ("b/ext4/pin/clean", NonSuccessKind::Error, "error (unproven)"),
        ("b/late/pin/clean#2", NonSuccessKind::Error, "error (missing)"),
    ] {
        match find(name) {
            TestCaseStatus::NonSuccess { kind, ty: Some(ty), .. } => {
                assert_eq!((*kind, ty.as_str()), (wanted, word), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(text.contains("a &lt; b &amp; c") && text.contains('é'), "{text}");
    let odd = text.chars().find(|c| c.is_control() && *c != '\n' || ['\u{2028}', '\u{ffff}'].contains(c));
    assert_eq!(odd, None, "{text}");
}

#[test]
fn text_of_a_guest_is_of_bounded_length_in_every_format() {
    let mut case = case("a/ext4/pin/clean", Outcome::Fail, Observation::Lost);
    case.reason = "é".repeat(100_000);
    let line = LogLine { class: Class::Note, text: "é".repeat(10_000), meaning: String::new() };
    case.log = vec![line; 100];
    let run = run(vec![case], &[], false);
    let kcidb = kcidb(&run).expect("JSON");
    let texts =
        [ktap(&run), junit(&run).expect("xml"), github(&run, &BTreeMap::new()), markdown(&run), kcidb];
    for text in texts {
        let cut = text.contains(" [...]") || text.contains(r" \[...\]");
        assert!(text.len() < 40_000 && cut, "{} bytes", text.len());
    }
}

#[test]
fn github_points_at_the_expectation_the_gravest_first() {
    let place = Place { file: "./tests/a,b.toml".into(), line: 12 };
    let places = [("b/xfs/pin/clean".to_owned(), place)].into();
    let text = github(&everything(), &places);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.first().copied().unwrap_or_default();
    assert!(
        first.starts_with(
            "::error file=tests/a%2Cb.toml,line=12,title=longpin%3A fail of b::b/xfs/pin/clean: a < b & c > d # SKIP x ok 1"
        ),
        "{text}"
    );
    assert!(first.contains("%250A é"), "an escape of the guest's is none of ours: {text}");
    let words =
        ["fail", "xpass", "flaky", "error (unproven)", "error (infra)", "error (missing)", "error (missing)"];
    for (line, word) in lines.iter().zip(words) {
        assert!(line.starts_with("::error ") && line.contains(&format!("title=longpin%3A {word}")), "{text}");
    }
    assert_eq!(lines.len(), words.len() + 1, "{text}");
    assert!(
        lines[words.len()]
            .starts_with("12 of 12 cases: 2 pass, 1 xfail, 1 fail, 1 xpass, 1 flaky, 2 skip, 4 error")
    );
}

#[test]
fn github_has_at_most_ten_annotations_and_like_ones_are_one() {
    let other = |n: usize| {
        let mut case = case(&format!("s{n}/ext4/pin/clean"), Outcome::Fail, Observation::Lost);
        if n >= 30 {
            case.headline = Some(Observation::Panic);
        }
        case
    };
    let text = github(&run((0..31).map(other).collect(), &[], false), &BTreeMap::new());
    assert_eq!(text.matches("::error ").count(), 10, "{text}");
    assert!(text.starts_with("::error title=longpin%3A fail of s30::"), "a panic is graver: {text}");
    assert!(text.contains("\n21 more reasons"), "{text}");

    let missing: Vec<String> = (0..40).map(|n| format!("a/ext4/pin/v{n}")).collect();
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    let text = github(&run(Vec::new(), &missing, true), &BTreeMap::new());
    assert_eq!(text.matches("::error ").count(), 1, "{text}");
    assert!(text.contains("a/ext4/pin/v3 and 36 more: never reported"), "{text}");
}

#[test]
fn markdown_counts_what_the_table_counts_and_keeps_text_in_its_cell() {
    let text = markdown(&everything());
    assert!(text.contains("\n| 12 | 2 | 1 | 1 | 1 | 1 | 2 | 4 | 1.0 |\n"), "{text}");
    assert!(text.contains("The run was interrupted."), "{text}");
    let row = text.lines().find(|line| line.starts_with("| fail |")).unwrap_or_else(|| panic!("{text}"));
    let bare = row.replace("\\|", "");
    assert_eq!(bare.matches('|').count(), 5, "four cells: {row}");
    assert!(row.contains("a &lt; b &amp; c &gt; d \\# SKIP x ok 1"), "{row}");
    assert_eq!(text.lines().filter(|line| line.starts_with("| error (")).count(), 4, "{text}");
    let good = markdown(&run(vec![case("a/ext4/pin/clean", Outcome::Pass, Observation::Intact)], &[], false));
    assert!(good.contains("Nothing unexpected.") && !good.contains("### Unexpected"), "{good}");
}

/// Attempts of the case `name`, as elements of JUnit.
fn reruns(report: &Report, name: &str) -> (bool, FlakyOrRerun, Vec<(NonSuccessKind, String)>) {
    let mut tests = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
    let test = tests.find(|test| test.name.as_str() == name).expect("a test of this name");
    let (good, kind, runs) = match &test.status {
        TestCaseStatus::Success { flaky_runs } => (true, FlakyOrRerun::Flaky, flaky_runs),
        TestCaseStatus::NonSuccess { reruns, .. } => (false, reruns.kind, &reruns.runs),
        TestCaseStatus::Skipped { .. } => panic!("{name} is skipped"),
    };
    let message = |text: &Option<quick_junit::XmlString>| text.as_ref().expect("a message").to_string();
    (good, kind, runs.iter().map(|run| (run.kind, message(&run.message))).collect())
}

#[test]
fn junit_has_the_attempts_of_a_flaky_case_which_fails_unless_it_is_allowed() {
    let mut run = everything();
    let attempts = vec![
        (NonSuccessKind::Failure, "attempt 1: fail: fail of b/tmpfs/pin/dirty".to_owned()),
        (NonSuccessKind::Error, "attempt 2: error (infra): error of b/tmpfs/pin/dirty".to_owned()),
    ];
    for allowed in [false, true] {
        run.allow_flaky = allowed;
        let (text, report) = report(&run);
        assert_eq!(
            reruns(&report, "b/tmpfs/pin/dirty"),
            (allowed, FlakyOrRerun::Flaky, attempts.clone()),
            "{text}"
        );
    }
}

#[test]
fn junit_has_the_other_attempts_of_a_case_that_always_failed() {
    let id = "a/ext4/pin/clean";
    let again = CaseResult { attempt: 2, ..case(id, Outcome::Fail, Observation::Lost) };
    let together = longpin_core::attempts::together(vec![error(id, Cause::Infra), again]);
    let (text, report) = report(&run(vec![together.expect("two attempts")], &[], false));
    let attempts = vec![(NonSuccessKind::Error, format!("attempt 1: error (infra): error of {id}"))];
    let name = format!("{id}#2");
    assert_eq!(reruns(&report, &name), (false, FlakyOrRerun::Rerun, attempts), "{text}");
}

#[test]
fn a_flaky_case_that_is_allowed_is_green_and_still_shown() {
    let run = RunResult { allow_flaky: true, ..run(vec![flaky("a/ext4/pin/clean")], &[], false) };
    let text = ktap(&run);
    assert!(text.contains("\n  ok 1 a/ext4/pin/clean\n") && text.contains("# flaky: pass at"), "{text}");
    let text = github(&run, &BTreeMap::new());
    assert!(text.starts_with("::warning title=longpin%3A flaky of a::"), "{text}");
    let text = markdown(&run);
    assert!(text.contains("\n| flaky | a/ext4/pin/clean | lost | pass at attempt 3 of 3"), "{text}");
}

#[test]
fn what_never_ran_says_why_in_every_format() {
    let why = "not run: 3 unexpected cases came before";
    let stopped = RunResult { stopped: Some(why.into()), ..run(Vec::new(), &["a/ext4/pin/clean"], false) };
    let places = BTreeMap::new();
    let kcidb = kcidb(&stopped).expect("JSON");
    let texts = [ktap(&stopped), report(&stopped).0, github(&stopped, &places), markdown(&stopped), kcidb];
    for text in texts {
        assert!(text.contains("error (missing)") && text.contains(why), "{text}");
    }
}

/// The document, and of each test the attempt's label, the status and the excerpt.
fn kcidb_tests(run: &RunResult) -> (Value, BTreeMap<String, (String, String)>) {
    let text = kcidb(run).expect("JSON");
    let data: Value = serde_json::from_str(&text).expect("what was written as JSON");
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let tests = data["tests"].as_array().expect("a list").iter().map(|test| {
        let id = word(&test["id"]).expect("an id");
        let label = id.splitn(3, ':').nth(2).expect("origin, run and label").to_owned();
        (label, (word(&test["status"]).expect("a status"), word(&test["log_excerpt"]).unwrap_or_default()))
    });
    let tests = tests.collect();
    (data, tests)
}

#[test]
fn kcidb_says_of_every_case_what_it_says_of_the_tested_kernel() {
    let mut run = everything();
    for allowed in [false, true] {
        run.allow_flaky = allowed;
        let (data, tests) = kcidb_tests(&run);
        let statuses: Vec<_> =
            tests.iter().map(|(label, (status, _))| (label.as_str(), status.as_str())).collect();
        let wanted = [
            ("a/btrfs/pin/clean", "FAIL"),
            ("a/ext4/pin/clean", "PASS"),
            ("a/ext4/pin/clean#2", "PASS"),
            ("a/tmpfs/pin/clean", "SKIP"),
            ("b/ext4/pin/clean", "ERROR"),
            ("b/f2fs/pin/clean", "FAIL"),
            ("b/late/pin/clean#2", "MISS"),
            ("b/tmpfs/pin/clean", "MISS"),
            ("b/tmpfs/pin/dirty", if allowed { "PASS" } else { "FAIL" }),
            ("b/xfs/pin/clean", "FAIL"),
            ("c/ext4/pin/clean", "SKIP"),
            ("d/ext4/pin/clean", "MISS"),
        ];
        assert_eq!(statuses, wanted);
        assert_eq!(data["tests"].as_array().map(Vec::len), Some(run.summary.planned), "ids are unique");
    }
}

#[test]
fn kcidb_tells_a_known_failure_by_an_issue_and_an_improvement_by_its_absence() {
    let mut run = everything();
    for case in &mut run.cases {
        case.expected = [Observation::Lost, Observation::Warned].into();
    }
    let (data, _) = kcidb_tests(&run);
    let ids: Vec<_> = data["issues"].as_array().expect("a list").iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["longpin:a:lost+warned", "longpin:b:lost+warned"], "{data:#}");
    let incidents = data["incidents"].as_array().expect("a list");
    let told: Vec<_> = incidents.iter().map(|it| (&it["issue_id"], &it["present"])).collect();
    assert_eq!(told, [(ids[0], &json!(true)), (ids[1], &json!(false))], "{data:#}");
    let tests = data["tests"].as_array().expect("a list");
    for (incident, id) in incidents.iter().zip(["a/btrfs/pin/clean", "b/f2fs/pin/clean"]) {
        let test = tests.iter().find(|test| test["id"] == incident["test_id"]).expect("its test");
        assert!(test["id"].as_str().is_some_and(|it| it.ends_with(id)), "{test:#}");
        assert_eq!(
            (&test["status"], &incident["issue_version"]),
            (&json!("FAIL"), &data["issues"][0]["version"])
        );
    }
}

#[test]
fn kcidb_has_paths_of_its_own_alphabet_and_what_explains_a_case() {
    let mut odd = case("a/ext4:data=journal/pin/clean", Outcome::Fail, Observation::Panic);
    odd.log = vec![LogLine { class: Class::Panic, text: HOSTILE.into(), meaning: "m".into() }];
    odd.reports = vec![KernelReport {
        title: "BUG in f".into(),
        fingerprint: "0123456789ab".into(),
        trace: Vec::new(),
        ignored: None,
        source: vec!["f+0x1/0x2 (a.c:7)".into()],
    }];
    let run = run(vec![odd, flaky("b/tmpfs/pin/dirty")], &[], false);
    let (data, tests) = kcidb_tests(&run);
    let (of_case, of_flaky) = (&data["tests"][0], &data["tests"][1]);
    assert_eq!(of_case["path"], "longpin.a.ext4_data_journal.pin.clean");
    assert_eq!(of_case["misc"]["kernel_reports"][0]["fingerprint"], "0123456789ab");
    assert_eq!((&of_case["start_time"], &of_case["duration"]), (&json!("2027-01-01T00:00:00Z"), &json!(0.5)));
    assert_eq!(of_case["environment"]["misc"]["accel"], "tcg");
    let (_, excerpt) = &tests["a/ext4:data=journal/pin/clean"];
    assert!(
        excerpt.contains("observed: panic; expected: ") && excerpt.contains("log (panic): a < b"),
        "{excerpt}"
    );
    assert!(excerpt.contains("\nsource: f+0x1/0x2 (a.c:7)\n"), "{excerpt}");
    let odd = excerpt.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(odd, None, "{excerpt}");
    let outcomes: Vec<_> = of_flaky["misc"]["attempts"].as_array().expect("a list").iter().collect();
    let outcomes: Vec<_> = outcomes.iter().map(|attempt| attempt["outcome"].as_str()).collect();
    assert_eq!(outcomes, [Some("fail"), Some("error (infra)"), Some("pass")]);
}

#[test]
fn kcidb_ids_are_of_the_run_and_builds_of_the_kernel() {
    let id = |data: &Value, list: &str| data[list][0]["id"].as_str().expect("an id").to_owned();
    let data = |run: &RunResult| kcidb_tests(run).0;
    let one = everything();
    let mut later = one.clone();
    later.started = "2027-01-01T00:00:01Z".into();
    let mut other = later.clone();
    other.environment.kernel.key = "k2".into();
    assert_eq!(data(&one), data(&one.clone()));
    assert_ne!(id(&data(&one), "tests"), id(&data(&later), "tests"));
    assert_eq!(id(&data(&one), "builds"), id(&data(&later), "builds"));
    assert_eq!(id(&data(&other), "builds"), "longpin:k2");
    let never = data(&RunResult::default());
    assert_eq!((&never["tests"], &never["version"]), (&json!([]), &json!({ "major": 5, "minor": 3 })));
}

#[test]
fn kcidb_takes_no_excerpt_that_is_longer_than_the_schema_allows() {
    let mut case = case("a/ext4/pin/clean", Outcome::Fail, Observation::Lost);
    let attempt = CaseResult { reason: "é".repeat(1000), ..case.clone() };
    case.attempts = (1..=200).map(|number| CaseResult { attempt: number, ..attempt.clone() }).collect();
    let (_, tests) = kcidb_tests(&run(vec![case], &[], false));
    let excerpt = &tests["a/ext4/pin/clean"].1;
    let chars = excerpt.chars().count();
    assert!((15_000..=16_384).contains(&chars) && excerpt.ends_with("\n[...]\n"), "{chars} characters");
}
