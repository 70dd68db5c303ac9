// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The document and the table are views of the events, and of nothing else.

use longpin_core::events::{EventKind, RunEvent};
use longpin_core::exit_code::ExitCode;
use longpin_core::plan::{self, Case, Filter};
use longpin_core::race::Race;
use longpin_core::report::{
    BootResult, CaseResult, Environment, RESULT_SCHEMA, RunResult, TableStyle, table,
};
use longpin_core::scenario::Scenario;
use longpin_core::verdict::{
    Audit, Blocked, Cause, Finding, Fsck, Generations, HitLine, HoldLine, Judgement, Observation, Observed,
    Outcome, Problem, Reader,
};
use longpin_proto::disk::{Author, Change, HoldEnd, Span};
use longpin_proto::filesystem::Structure;
use std::collections::BTreeMap;
use std::sync::Arc;

const SCENARIO: &str = r#"
schema = 1
name = "lost-update"
title = "t"
mechanism = "m"
matrix.fs = ["ext4", "tmpfs"]
matrix.pin = ["pin"]
matrix.release = ["clean"]
[[expect]]
fs = "ext4"
observe = "lost"
reason = "no dirty bit"
[[expect]]
observe = "intact"
reason = "the page is the file"
"#;

fn cases() -> Vec<Case> {
    let scenario = Scenario::parse("lost-update.toml", SCENARIO).expect("valid");
    plan::cases(&[Arc::new(scenario)], &Filter::default(), 1)
}

fn event(at_ms: u64, kind: EventKind) -> RunEvent {
    RunEvent { at_ms, kind }
}

fn finished(case: &Case, seen: &Observed, outcome: Outcome, cause: Option<Cause>) -> EventKind {
    let judgement = Judgement { outcome, cause, reason: seen.reason.clone() };
    EventKind::CaseFinished(Box::new(CaseResult::new(case, 1, seen, &judgement, 1.5)))
}

fn lost() -> Observed {
    Observed {
        observations: [Observation::Lost].into(),
        generations: Generations { device: Some(101), guest: Some(100), host: Some(100) },
        reason: "guest and host find generation 100".into(),
        ..Observed::default()
    }
}

/// A run of two cases of which the last entries can be changed.
fn story(last: impl Fn(&Case) -> Option<EventKind>) -> Vec<RunEvent> {
    let cases = cases();
    let environment = Box::new(Environment { accel: "tcg".into(), ..Environment::default() });
    let started = EventKind::RunStarted {
        environment,
        cases: cases.iter().map(Case::label).collect(),
        started: "2027-01-01T00:00:00Z".into(),
        command: "longpin run lost-update".into(),
        allow_flaky: false,
        races: BTreeMap::new(),
    };
    let boot =
        BootResult { boot: 1, seconds_to_agent: Some(6.0), seconds: 12.0, cases: 2, ended: "done".into() };
    let mut events = vec![
        event(0, started),
        event(6_000, EventKind::BootReady { boot: 1, seconds: 6.0 }),
        event(9_000, finished(&cases[0], &lost(), Outcome::Xfail, None)),
    ];
    events.extend(last(&cases[1]).map(|kind| event(12_000, kind)));
    events.push(event(13_000, EventKind::BootEnded(boot)));
    events.push(event(14_000, EventKind::RunFinished));
    events
}

fn intact(case: &Case) -> Option<EventKind> {
    let seen = Observed {
        observations: [Observation::Intact].into(),
        generations: Generations { device: Some(101), guest: Some(101), host: None },
        reason: "guest reads DMA generation 101".into(),
        ..Observed::default()
    };
    Some(finished(case, &seen, Outcome::Pass, None))
}

#[test]
fn the_document_counts_what_happened() {
    let run = RunResult::from_events(&story(intact));
    let summary = &run.summary;
    assert_eq!((summary.planned, summary.pass, summary.xfail, summary.error), (2, 1, 1, 0));
    assert_eq!((summary.seconds, summary.cases_per_minute), (14.0, 20.0));
    assert!(run.missing.is_empty());
    assert_eq!(run.boots[0].seconds_to_agent, Some(6.0));
    assert_eq!((run.exit_code(false), run.exit_code(true)), (ExitCode::Good, ExitCode::Bad));
}

#[test]
fn a_case_that_never_reported_is_missing_and_an_error() {
    let run = RunResult::from_events(&story(|_| None));
    assert_eq!(run.missing, ["lost-update/tmpfs/pin/clean"]);
    assert_eq!(run.summary.error, 1);
    assert_eq!(run.exit_code(false), ExitCode::Error);
}

/// How the second case of the story comes out, attempt by attempt.
fn attempts(outcomes: &[(Outcome, Observation)]) -> RunResult {
    let mut events = story(|_| None);
    let case = cases().remove(1);
    for (attempt, (outcome, word)) in (1..).zip(outcomes) {
        let case = Case { attempt, ..case.clone() };
        if attempt > 1 {
            let retries = EventKind::RetriesStarted { round: attempt - 1, cases: vec![case.label()] };
            events.push(event(20_000, retries));
        }
        let seen =
            Observed { observations: [*word].into(), reason: format!("saw {word}"), ..Observed::default() };
        let cause = (*outcome == Outcome::Error).then_some(Cause::Infra);
        events.push(event(20_000, finished(&case, &seen, *outcome, cause)));
    }
    RunResult::from_events(&events)
}

#[test]
fn a_case_that_is_as_expected_after_a_failure_is_flaky_and_keeps_the_failure() {
    let run = attempts(&[(Outcome::Fail, Observation::Lost), (Outcome::Pass, Observation::Intact)]);
    let summary = &run.summary;
    assert_eq!((summary.planned, summary.xfail, summary.flaky, summary.fail, summary.pass), (2, 1, 1, 0, 0));
    let case = &run.cases[1];
    assert_eq!((case.label().as_str(), case.outcome), ("lost-update/tmpfs/pin/clean", Outcome::Flaky));
    assert_eq!(case.headline, Some(Observation::Lost));
    assert_eq!(case.reason, "pass at attempt 2 of 2, but at attempt 1 fail: saw lost");
    let outcomes: Vec<Outcome> = case.attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Fail, Outcome::Pass]);
    assert_eq!(run.exit_code(false), ExitCode::Bad);
    let allowed = RunResult { allow_flaky: true, ..run.clone() };
    assert_eq!((allowed.exit_code(false), allowed.exit_code(true)), (ExitCode::Good, ExitCode::Bad));
    let text = table(&run, TableStyle { color: false, width: None });
    let row = text.lines().find(|line| line.contains("tmpfs")).expect("a row");
    assert!(text.contains("attempts") && row.contains("flaky") && row.ends_with("fail, pass"), "{text}");
    assert!(text.contains("2 of 2 cases: 1 xfail, 1 flaky;"), "{text}");
}

#[test]
fn a_case_that_is_never_as_expected_is_as_bad_as_its_gravest_attempt() {
    use Outcome::{Error, Fail, Skip, Xpass};
    for (outcomes, wanted, decided) in [
        (&[Fail, Fail][..], Fail, 1),
        (&[Error, Fail, Error], Fail, 2),
        (&[Error, Xpass], Xpass, 2),
        (&[Error, Error], Error, 1),
        (&[Fail, Skip], Fail, 1),
    ] {
        let seen: Vec<_> = outcomes.iter().map(|outcome| (*outcome, Observation::Lost)).collect();
        let run = attempts(&seen);
        let case = &run.cases[1];
        assert_eq!((case.outcome, case.attempt), (wanted, decided), "{outcomes:?}");
        assert_eq!((run.cases.len(), case.attempts.len()), (2, outcomes.len()));
        let code = if wanted == Error { ExitCode::Error } else { ExitCode::Bad };
        assert_eq!(run.exit_code(false), code, "{outcomes:?}");
    }
}

/// Runs of one case; of a race, `lost` comes at least once in `within`.
fn repeated(outcomes: &[(Outcome, Observation)], within: Option<u32>) -> RunResult {
    let case = cases().remove(0);
    let races = within.map(|within| (case.id.clone(), Race { observe: [Observation::Lost].into(), within }));
    let case = |attempt| Case { attempt, ..case.clone() };
    let started = EventKind::RunStarted {
        environment: Box::default(),
        cases: (1..).zip(outcomes).map(|(attempt, _)| case(attempt).label()).collect(),
        started: String::new(),
        command: String::new(),
        allow_flaky: false,
        races: races.into_iter().collect(),
    };
    let runs = (1..).zip(outcomes).map(|(attempt, (outcome, word))| {
        let observations = if *outcome == Outcome::Error { [].into() } else { [*word].into() };
        let seen = Observed { observations, reason: format!("saw {word}"), ..Observed::default() };
        let cause = (*outcome == Outcome::Error).then_some(Cause::Unproven);
        event(1000, finished(&case(attempt), &seen, *outcome, cause))
    });
    RunResult::from_events(&std::iter::once(event(0, started)).chain(runs).collect::<Vec<_>>())
}

#[test]
fn the_runs_of_a_case_are_counted_together() {
    use Observation::{Intact, Lost};
    let mut runs = vec![(Outcome::Xfail, Lost); 3];
    runs.extend([(Outcome::Xpass, Intact), (Outcome::Error, Lost)]);
    let run = repeated(&runs, None);
    let [aggregate] = &run.aggregates[..] else { panic!("{:?}", run.aggregates) };
    assert_eq!((aggregate.runs, aggregate.unproven, aggregate.as_expected.runs), (4, 1, 3));
    let seen: Vec<_> = aggregate.seen.iter().map(|it| (it.observations.first(), it.share.runs)).collect();
    assert_eq!(seen, [(Some(&Lost), 3), (Some(&Intact), 1)]);
    let text = table(&run, TableStyle { color: false, width: None });
    let wanted = "3 of 4, and 1 that prove nothing   30-95 %   lost 3 (30-95 %), intact 1 (5-70 %)";
    assert!(text.contains(wanted), "{text}");
    let page = longpin_core::report::formats::markdown(&run);
    assert!(
        page.contains("\n| lost-update/ext4/pin/clean | 3 of 4, and 1 that prove nothing | 30-95 % | lost 3")
    );
    assert!(RunResult::from_events(&story(intact)).aggregates.is_empty(), "nothing ran twice");
}

#[test]
fn a_race_that_is_never_won_in_as_many_runs_as_it_needs_is_an_xpass() {
    use Observation::{Intact, Lost};
    let (good, won) = ((Outcome::Pass, Intact), (Outcome::Xfail, Lost));
    for (runs, within, wanted) in [
        (vec![good, good, good], Some(3), Some(Outcome::Xpass)),
        (vec![good, good], Some(3), None),
        (vec![good, won, good], Some(3), None),
        (vec![good, good, good], None, None),
        // A run that proves nothing is none.
        (vec![good, good, (Outcome::Error, Intact)], Some(3), None),
    ] {
        let run = repeated(&runs, within);
        let last = &run.cases[runs.len() - 1];
        let (outcome, xpass) = (wanted.unwrap_or(runs[runs.len() - 1].0), usize::from(wanted.is_some()));
        assert_eq!((last.outcome, run.summary.xpass), (outcome, xpass), "{runs:?} {within:?}");
        if wanted.is_some() {
            assert_eq!(run.exit_code(false), ExitCode::Bad);
            assert!(
                last.reason.starts_with("a race: lost never came in 3 runs, expected"),
                "{}",
                last.reason
            );
        }
    }
}

#[test]
fn what_never_ran_since_enough_had_failed_counts_as_an_error_and_the_table_says_so() {
    let mut events = story(|_| None);
    events.push(event(20_000, EventKind::Stopped { reason: "not run: 1 came before".into() }));
    let run = RunResult::from_events(&events);
    assert_eq!((run.summary.error, run.exit_code(false)), (1, ExitCode::Error));
    let text = table(&run, TableStyle { color: false, width: None });
    assert!(text.contains("\nnot run: 1 came before: 1 cases never ran\n"), "{text}");
}

#[test]
fn controls_are_kept_apart_from_cases() {
    let run = RunResult::from_events(&story(|case| intact(&Case { control: true, ..case.clone() })));
    assert_eq!((run.cases.len(), run.controls.len()), (1, 1));
}

#[test]
fn the_document_has_the_fields_that_are_documented() {
    let run = RunResult::from_events(&story(intact));
    let json = serde_json::to_value(&run).expect("json");
    assert_eq!(json["schema"], RESULT_SCHEMA);
    assert_eq!(json["environment"]["accel"], "tcg");
    for key in [
        "kernel",
        "qemu",
        "accel",
        "module",
        "tool_root",
        "tool_root_packages",
        "longpin",
        "device",
        "seed",
        "host",
    ] {
        assert!(json["environment"].get(key).is_some(), "environment.{key}");
    }
    let case = &json["cases"][0];
    assert_eq!(case["id"], "lost-update/ext4/pin/clean");
    assert_eq!(case["observations"], serde_json::json!(["lost"]));
    assert_eq!((&case["headline"], &case["outcome"]), (&"lost".into(), &"xfail".into()));
    assert_eq!(case["generations"], serde_json::json!({"device": 101, "guest": 100, "host": 100}));
    for key in ["scenario", "fs", "pin", "release", "reason", "errno", "seconds", "log"] {
        assert!(case.get(key).is_some(), "cases[].{key}");
    }
    for key in ["pass", "fail", "xfail", "xpass", "flaky", "skip", "error", "seconds", "cases_per_minute"] {
        assert!(json["summary"].get(key).is_some(), "summary.{key}");
    }
    let again: RunResult = serde_json::from_value(json).expect("the document reads back");
    assert_eq!(again, run);
}

#[test]
fn every_field_of_the_document_is_in_its_description() {
    let page = include_str!("../../../docs/result-schema.md");
    let run = RunResult::from_events(&story(|case| {
        Some(finished(case, &everything(), Outcome::Error, Some(Cause::Unproven)))
    }));
    let json = serde_json::to_value(&run).expect("json");
    let mut keys = Vec::new();
    collect(&json, &mut keys);
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/result-schema.md does not describe `{key}`");
    }
}

/// A case with something in every field.
fn everything() -> Observed {
    Observed {
        problem: Some(Problem { cause: Cause::Unproven, message: "not shown".into() }),
        findings: vec![Finding {
            word: Observation::Lost,
            path: "/mnt/a".into(),
            reader: Reader::Host,
            cells: 1,
            first_byte: 0,
            wanted: "CPU generation 1".into(),
            found: "zeros".into(),
            ranges: vec![(0, 512)],
            reading: 0,
        }],
        audit: Some(audit()),
        blocked: vec![Blocked { job: "st".into(), stack: vec!["folio_wait_writeback".into()], waited_us: 9 }],
        fsck: Some(Fsck {
            argv: vec!["e2fsck".into(), "-fn".into()],
            code: 4,
            state: Structure::Damaged,
            complaint: Some("Inode 12".into()),
            output: "Inode 12".into(),
        }),
        ..lost()
    }
}

fn audit() -> Audit {
    let span = Span { offset: 24, len: 8, before: "00".into(), after: "01".into() };
    Audit {
        writes: 3,
        pages: 20,
        pages_unread: 1,
        pages_touched: 4,
        hits_by_dma: 2,
        hits_by_others: 1,
        hits_left_out: 0,
        holds: vec![HoldLine {
            rule: "w".into(),
            disk: 0,
            sector: 8,
            bytes: 4096,
            held_us: 7,
            end: HoldEnd::Released,
        }],
        first_hit: Some(HitLine {
            path: Some("/mnt/a".into()),
            file_offset: Some(0),
            disk: 0,
            sector: 8,
            change: Change::BeforeFetch,
            author: Author::Dma,
            generation_before: Some(100),
            generation_after: Some(101),
            differing_bytes: 4096,
            after_us: Some(1200),
            first_bytes: Some(span),
        }),
    }
}

fn collect(value: &serde_json::Value, keys: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                keys.push(key.clone());
                collect(value, keys);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

#[test]
fn the_table_has_a_row_a_case_and_the_numbers() {
    let run = RunResult::from_events(&story(intact));
    let text = table(&run, TableStyle { color: false, width: None });
    let row = text.lines().find(|line| line.contains("ext4")).expect("a row");
    for part in ["lost-update", "pin", "clean", "lost", "xfail", "101/100/100"] {
        assert!(row.contains(part), "{row}");
    }
    assert!(text.contains("101/101/-"), "{text}");
    assert!(text.ends_with("2 of 2 cases: 1 pass, 1 xfail; 14.0 s, 20 cases a minute\n"), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn the_table_has_a_column_of_hits_where_there_are_some() {
    let without = table(&RunResult::from_events(&story(intact)), TableStyle { color: false, width: None });
    assert!(!without.contains("hits"), "{without}");
    let run = RunResult::from_events(&story(|case| {
        let seen = Observed { audit: Some(audit()), ..lost() };
        Some(finished(case, &seen, Outcome::Xfail, None))
    }));
    let with = table(&run, TableStyle { color: false, width: None });
    let row = with.lines().find(|line| line.contains("tmpfs")).expect("a row");
    assert!(with.contains("hits") && row.trim_end().ends_with('2'), "{with}");
}

#[test]
fn a_document_from_before_the_audit_still_reads() {
    let run = RunResult::from_events(&story(intact));
    let mut json = serde_json::to_value(&run).expect("json");
    for case in json["cases"].as_array_mut().expect("cases") {
        let case = case.as_object_mut().expect("an object");
        case.retain(|key, _| !["audit", "blocked", "fsck", "reports", "attempts"].contains(&key.as_str()));
    }
    json["summary"].as_object_mut().expect("an object").remove("flaky");
    let document = json.as_object_mut().expect("an object");
    document.retain(|key, _| !["stopped", "allow_flaky", "aggregates"].contains(&key.as_str()));
    let again: RunResult = serde_json::from_value(json).expect("an old document");
    assert_eq!(again, run);
}

#[test]
fn colour_and_width_are_the_callers() {
    let run = RunResult::from_events(&story(intact));
    assert!(table(&run, TableStyle { color: true, width: None }).contains('\x1b'));
    let narrow = table(&run, TableStyle { color: false, width: Some(80) });
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
}
