// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin list`: scenarios and the cases that they unfold to.

use crate::args::{Format, ListArgs};
use crate::error::Result;
use crate::library::Library;
use crate::output;
use longpin_core::exit_code::ExitCode;
use longpin_core::plan::Case;
use longpin_core::scenario::Scenario;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// List what the arguments choose.
pub fn list(args: &ListArgs) -> Result<ExitCode> {
    let cases = Library::load(&args.library)?.cases(1);
    let scenarios: Vec<&[Case]> = cases.chunk_by(|a, b| a.scenario.name == b.scenario.name).collect();
    match args.format {
        Format::Table => output::text(&scenarios.iter().map(|cases| entry(cases)).collect::<String>())?,
        Format::Json => output::json(&scenarios.iter().map(|cases| document(cases)).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::Good)
}

/// Name, title, axes, and what the machine must have.
fn entry(cases: &[Case]) -> String {
    let scenario: &Scenario = &cases[0].scenario;
    let mut text = format!("{}: {} ({} cases)\n", scenario.name, scenario.title, cases.len());
    let machine = &scenario.machine;
    let needs = [
        ("groups", scenario.groups.clone()),
        ("programs", machine.programs.iter().cloned().collect()),
        ("kernel", machine.kernel_args.clone()),
    ];
    for (axis, words) in axes(cases).into_iter().chain(needs) {
        if !words.is_empty() {
            text += &format!("    {axis:<8} {}\n", words.join(" "));
        }
    }
    text
}

/// Words of each axis among the cases, in their order.
fn axes(cases: &[Case]) -> [(&'static str, Vec<String>); 4] {
    let words = |word: &dyn Fn(&Case) -> Option<String>| {
        let mut seen = BTreeSet::new();
        cases.iter().filter_map(word).filter(|word| seen.insert(word.clone())).collect::<Vec<_>>()
    };
    [
        ("fs", words(&|case| Some(case.point.fs.to_string()))),
        ("pin", words(&|case| Some(case.point.pin.to_string()))),
        ("release", words(&|case| Some(case.point.release.to_string()))),
        ("variant", words(&|case| case.point.variant.clone())),
    ]
}

fn document(cases: &[Case]) -> Value {
    let scenario: &Scenario = &cases[0].scenario;
    json!({
        "name": scenario.name,
        "title": scenario.title,
        "mechanism": scenario.mechanism,
        "groups": scenario.groups,
        "machine": scenario.machine,
        "cases": cases.iter().map(case_document).collect::<Vec<_>>(),
    })
}

fn case_document(case: &Case) -> Value {
    let expected = case.expectation();
    json!({
        "id": case.id,
        "fs": case.point.fs.to_string(),
        "pin": case.point.pin,
        "release": case.point.release,
        "variant": case.point.variant,
        "expected": expected.map(|row| &row.observe),
        "race": expected.and_then(|row| row.race.as_ref()),
        "errno": expected.and_then(|row| row.errno.as_ref()),
        "why": expected.map(|row| &row.reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_core::controls;

    #[test]
    fn an_entry_names_each_word_of_an_axis_once() {
        let cases = controls::cases(true).unwrap();
        let text = entry(&cases[..1]);
        assert!(
            text.starts_with("control-intact: control: a pin without DMA changes nothing (1 cases)\n"),
            "{text}"
        );
        assert!(text.contains("    fs       ext4\n    pin      pin\n    release  dirty\n"), "{text}");
    }

    #[test]
    fn what_a_machine_must_have_is_told() {
        let text = "schema = 1\nname = \"a\"\ntitle = \"t\"\nmechanism = \"m\"\nmachine.programs = [\"fio\"]\n\
                    machine.kernel_args = [\"nokaslr\"]\nmatrix.fs = [\"tmpfs\"]\n\
                    step = [{ do = \"exec\", argv = [\"true\"], verifies = true }]\n\
                    [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";
        let scenario = std::sync::Arc::new(Scenario::parse("a.toml", text).unwrap());
        let case = Case::new(&scenario, scenario.matrix.points().remove(0), 1);
        let cases = [case];
        assert!(entry(&cases).ends_with("    programs fio\n    kernel   nokaslr\n"), "{}", entry(&cases));
        assert_eq!(document(&cases)["machine"]["programs"], json!(["fio"]));
    }

    #[test]
    fn a_case_tells_what_is_expected_and_why() {
        let cases = controls::cases(true).unwrap();
        let value = case_document(&cases[0]);
        assert_eq!(value["id"], "control-intact/ext4/pin/dirty");
        assert_eq!(value["expected"], json!(["intact"]));
        assert!(value["why"].as_str().is_some_and(|why| !why.is_empty()));
    }
}
