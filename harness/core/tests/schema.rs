// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `docs/result.schema.json` describes the document: all of its fields, and no field that it has not.
#![expect(clippy::disallowed_methods, reason = "the test reads the files that the core is given as text")]

use longpin_core::aggregate::{Aggregate, Seen, Share};
use longpin_core::dmesg::Class;
use longpin_core::dmesg::reports::Report;
use longpin_core::race::Race;
use longpin_core::report::{
    AddedModule, AdditionsInfo, BootResult, CaseError, CaseResult, Environment, HostInfo, KernelInfo,
    ModuleInfo, OverlayInfo, PinnerInfo, ProgramInfo, QemuInfo, RESULT_SCHEMA, RunResult, Summary,
};
use longpin_core::verdict::{
    Audit, Blocked, Cause, Finding, Fsck, Generations, HitLine, HoldLine, LogLine, MirrorCounts, Observation,
    Outcome, Reader,
};
use longpin_proto::disk::{Author, Change, HoldEnd, Span};
use longpin_proto::filesystem::Structure;
use serde_json::{Value, json};
use std::path::Path;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn published() -> Value {
    serde_json::from_str(&file("docs/result.schema.json")).expect("JSON")
}

/// What this version writes has every field, and no other.
fn strict(mut schema: Value) -> Value {
    fn tighten(value: &mut Value) {
        match value {
            Value::Object(object) => {
                if let Some(Value::Object(fields)) = object.get("properties") {
                    let names: Vec<Value> = fields.keys().map(|name| json!(name)).collect();
                    object.insert("required".into(), names.into());
                    object.insert("additionalProperties".into(), false.into());
                }
                object.values_mut().for_each(tighten);
            }
            Value::Array(items) => items.iter_mut().for_each(tighten),
            _ => {}
        }
    }
    tighten(&mut schema);
    schema
}

fn faults(schema: &Value, document: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(schema).expect("a schema of draft 2020-12");
    let errors = validator.iter_errors(document);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// No field is null, no list is empty.
fn full() -> RunResult {
    let text = || "x".to_owned();
    let program = || ProgramInfo { version: text(), hash: text() };
    let environment = Environment {
        kernel: KernelInfo {
            release: text(),
            version: text(),
            source: text(),
            key: text(),
            stock: true,
            page_state: text(),
            absent_modules: vec![text()],
        },
        qemu: QemuInfo { version: text(), path: text() },
        accel: text(),
        deadline_percent: 300,
        disk: text(),
        module: ModuleInfo { name: text(), hash: text(), missing: Some(text()) },
        tool_root: text(),
        tool_root_packages: text(),
        longpin: program(),
        device: program(),
        additions: AdditionsInfo {
            append: vec![text()],
            qemu_args: vec![text()],
            overlay: Some(OverlayInfo { path: text(), hash: text() }),
            modules: vec![AddedModule { path: text(), hash: text(), params: vec![text()], driver: true }],
            device_program: Some(text()),
            pinner: Some(PinnerInfo { path: text(), hash: text() }),
        },
        seed: 1,
        host: HostInfo { kernel: text(), cpu: text(), cpus: 1, memory_kib: 1 },
    };
    let hit = HitLine {
        path: Some(text()),
        file_offset: Some(1),
        disk: 1,
        sector: 1,
        change: Change::BeforeFetch,
        author: Author::Dma,
        generation_before: Some(1),
        generation_after: Some(1),
        differing_bytes: 1,
        after_us: Some(1),
        first_bytes: Some(Span { offset: 1, len: 1, before: "0a".into(), after: "ff".into() }),
    };
    let hold = HoldLine { rule: text(), disk: 1, sector: 1, bytes: 1, held_us: 1, end: HoldEnd::Released };
    let case = CaseResult {
        id: text(),
        attempt: 1,
        scenario: text(),
        fs: text(),
        pin: text(),
        release: text(),
        variant: Some(text()),
        control: false,
        boot: 1,
        observations: Observation::ALL.iter().copied().collect(),
        headline: Some(Observation::Lost),
        expected: [Observation::Lost].into(),
        outcome: Outcome::Error,
        error: Some(CaseError { cause: Cause::Infra, message: text() }),
        reason: text(),
        generations: Generations { device: Some(1), guest: Some(1), host: Some(1) },
        errno: Some(text()),
        findings: vec![Finding {
            word: Observation::Lost,
            path: text(),
            reader: Reader::Guest,
            cells: 1,
            first_byte: 1,
            wanted: text(),
            found: text(),
            ranges: vec![(0, 1)],
            reading: 1,
        }],
        mirror: Some(MirrorCounts {
            invalidations: 1,
            longest_invalidation_us: 1,
            faults: 1,
            refused: 1,
            retries: 1,
        }),
        audit: Some(Audit {
            writes: 1,
            pages: 1,
            pages_unread: 1,
            pages_touched: 1,
            hits_by_dma: 1,
            hits_by_others: 1,
            hits_left_out: 1,
            holds: vec![hold],
            first_hit: Some(hit),
        }),
        blocked: vec![Blocked { job: text(), stack: vec![text()], waited_us: 1 }],
        fsck: Some(Fsck {
            argv: vec![text()],
            code: 1,
            state: Structure::Clean,
            complaint: Some(text()),
            output: text(),
        }),
        seconds: 1.5,
        log: vec![LogLine { class: Class::Splat, text: text(), meaning: text() }],
        reports: vec![Report {
            title: text(),
            fingerprint: "0123456789ab".into(),
            trace: vec![text()],
            ignored: Some(text()),
            source: vec![text()],
        }],
        attempts: Vec::new(),
    };
    let case = CaseResult { attempts: vec![case.clone()], ..case };
    let boot = BootResult { boot: 1, seconds_to_agent: Some(1.5), seconds: 1.5, cases: 1, ended: text() };
    let summary = Summary {
        planned: 1,
        pass: 1,
        fail: 1,
        xfail: 1,
        xpass: 1,
        flaky: 1,
        skip: 1,
        error: 1,
        seconds: 1.5,
        cases_per_minute: 1.5,
    };
    RunResult {
        schema: RESULT_SCHEMA,
        started: text(),
        command: text(),
        environment,
        boots: vec![boot],
        cases: vec![case.clone()],
        aggregates: vec![Aggregate {
            id: text(),
            runs: 1,
            unproven: 1,
            as_expected: Share { runs: 1, low: 0.2065, high: 1.0 },
            seen: vec![Seen {
                observations: [Observation::Lost].into(),
                share: Share { runs: 1, low: 0.2065, high: 1.0 },
            }],
            race: Some(Race { observe: [Observation::Lost].into(), within: 1 }),
        }],
        controls: vec![case],
        missing: vec![text()],
        interrupted: false,
        stopped: Some(text()),
        allow_flaky: true,
        summary,
    }
}

#[test]
fn every_field_of_a_document_is_in_the_schema_and_every_field_of_the_schema_in_a_document() {
    let document = serde_json::to_value(full()).expect("JSON");
    assert_eq!(faults(&strict(published()), &document), [""; 0]);
    assert_eq!(faults(&published(), &document), [""; 0]);
}

#[test]
fn the_verdicts_of_the_whole_library_fit_the_schema() {
    let schema = strict(published());
    let validator = jsonschema::draft202012::new(&json!({
        "$ref": "#/$defs/case",
        "$defs": schema["$defs"],
    }))
    .expect("a schema");
    let mut cases = 0;
    for line in file("tests/goldens/verdicts.jsonl").lines() {
        let mut case: Value = serde_json::from_str(line).expect("a line is an object");
        // The fields that are of a run and not of a verdict are not stored.
        case["attempts"] = json!([]);
        case["boot"] = json!(1);
        case["seconds"] = json!(0.5);
        // Nor is a list that is empty in nearly all of them.
        case.as_object_mut().expect("an object").entry("reports").or_insert(json!([]));
        for report in case["reports"].as_array_mut().expect("a list") {
            report["source"] = json!([]);
        }
        let faults: Vec<String> =
            validator.iter_errors(&case).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", case["id"]);
        cases += 1;
    }
    assert!(cases > 400, "{cases} cases");
}

#[test]
fn a_document_that_is_wrong_has_faults() {
    let good = serde_json::to_value(full()).expect("JSON");
    for (place, value) in [
        ("/schema", json!(1)),
        ("/cases/0/outcome", json!("good")),
        ("/cases/0/observations/0", json!("fine")),
        ("/cases/0/attempt", json!(0)),
        ("/cases/0/audit/first_hit/first_bytes/before", json!("no hex")),
        ("/summary", json!({})),
    ] {
        let mut document = good.clone();
        *document.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        assert!(!faults(&published(), &document).is_empty(), "{place}");
    }
}

#[test]
fn the_words_of_the_schema_are_those_of_the_program() {
    let schema = published();
    let words = |place: &str| schema.pointer(place).cloned().unwrap_or_else(|| panic!("{place}"));
    let known = |words: &[&str]| json!(words);
    let observations: Vec<&str> = Observation::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(words("/$defs/observation/enum"), known(&observations));
    let outcomes: Vec<&str> = Outcome::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(words("/$defs/case/properties/outcome/enum"), known(&outcomes));
    let causes: Vec<&str> = Cause::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(words("/$defs/error/properties/cause/enum"), known(&causes));
    let readers: Vec<&str> = Reader::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(words("/$defs/finding/properties/reader/enum"), known(&readers));
    let classes: Vec<&str> = Class::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(words("/$defs/log_line/properties/class/enum"), known(&classes));
}
