// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Good files become scenarios, bad ones become messages that name file, line, value and mend.

mod disk;
mod jobs;
mod needs;

use super::{Pin, Release, Scenario, Step, parse};
use crate::words::Observation;
use std::collections::BTreeSet;

const HEAD: &str = "schema = 1\nname = \"story\"\ntitle = \"t\"\nmechanism = \"m\"\n";
const MATRIX: &str = "matrix.fs = [\"ext4\"]\nmatrix.pin = [\"pin\"]\nmatrix.release = [\"clean\"]\n";
const EXPECT: &str = "[[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";

/// Faults of a scenario with these steps, which begin on line 8.
fn faults_of_steps(steps: &str) -> Vec<String> {
    faults(&format!("{HEAD}{MATRIX}step = [\n{steps}\n]\n{EXPECT}"))
}

fn faults(text: &str) -> Vec<String> {
    match Scenario::parse("story.toml", text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// Steps as they stand in a file, whether the case makes sense or not.
fn steps_of(steps: &[&str]) -> Vec<Step> {
    let text = format!("{HEAD}{MATRIX}step = [\n{}\n]\n{EXPECT}", steps.join(",\n"));
    parse::document("story.toml", &text).expect("steps that can be read").steps
}

#[track_caller]
fn only(faults: &[String], message: &str) {
    assert_eq!(faults, [message]);
}

#[test]
fn a_short_file_is_a_whole_scenario() {
    let steps = "\"mkfs\", \"mount\",\n\"create\",\n{ do = \"map\", shared = false },\n\"pin\", \"release\", \"compare\"";
    let text = format!("{HEAD}{MATRIX}step = [\n{steps}\n]\n{EXPECT}");
    let scenario = Scenario::parse("dir/story.toml", &text).expect("valid");
    assert_eq!((scenario.pages, scenario.cell_bytes), (16, 512));
    let points = scenario.matrix.points();
    assert_eq!(points.len(), 1);
    assert_eq!((points[0].fs.fs.name, points[0].pin, points[0].release), ("ext4", Pin::Pin, Release::Clean));
    assert_eq!((scenario.steps[2].line, scenario.steps[2].name()), (10, "create"));
    let long = [
        r#"{ do = "create", file = "a", pages = 16, generation = 1 }"#,
        r#"{ do = "map", map = "m", file = "a", shared = false, write = true }"#,
    ];
    assert_eq!(scenario.steps[2..4], steps_of(&long));
}

#[test]
fn the_long_form_of_steps_is_the_same_document() {
    let long = format!("{HEAD}{MATRIX}{EXPECT}[[step]]\ndo = \"mkfs\"\n[[step]]\ndo = \"sync\"\n");
    let short = format!("{HEAD}{MATRIX}step = [\"mkfs\", {{ do = \"sync\" }}]\n{EXPECT}");
    let steps = |text: &str| Scenario::parse("story.toml", text).expect("valid").steps;
    assert_eq!(steps(&long), steps(&short));
}

#[test]
fn a_pin_mode_that_is_unknown_is_named_with_its_line() {
    let text = format!("{HEAD}matrix.fs = [\"ext4\"]\nmatrix.pin = [\n  \"pin\",\n  \"rw\",\n]\n{EXPECT}");
    only(&faults(&text), &format!("story.toml:8: pin mode `rw` is unknown; use one of {}", Pin::list()));
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let text = format!(
        "{HEAD}matrix.fs = [\"ext5\"]\nstep = [\n\"mkfs\",\n\"mout\",\n{{ do = \"dma\", gen = 1 }},\n]\n{EXPECT}"
    );
    let faults = faults(&text);
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].starts_with("story.toml:5: file system `ext5` is unknown; use one of ext4, xfs"));
    assert!(
        faults[1].starts_with("story.toml:8: step `mout` is unknown; use one of add-layer, advise, affinity")
    );
    assert_eq!(faults[2], "story.toml:9: step `dma` has no `generation`; add `generation = ...`");
}

#[test]
fn syntax_schema_and_name() {
    let broken = faults("schema = 1\nname = \"story\ntitle = \"t\"\n");
    assert!(broken[0].starts_with("story.toml:2: not valid TOML: "), "{broken:?}");
    only(&faults("name = \"story\"\n"), "story.toml:1: scenario has no `schema`; add `schema = 1`");
    only(&faults("\nschema = 2\n"), "story.toml:2: schema 2 is not known here; this program reads schema 1");
    let other = format!("{}{MATRIX}{EXPECT}", HEAD.replace("story", "tale"));
    only(
        &faults(&other),
        "story.toml:2: name `tale` is not the file's; write name = \"story\" or rename the file",
    );
}

#[test]
fn keys_types_and_numbers() {
    only(
        &faults_of_steps("\"mkfs\",\n{ do = \"mount\", opts = \"x\" }"),
        "story.toml:10: step `mount` has no key `opts`; it takes deadline_ms, do, when",
    );
    only(
        &faults_of_steps("{ do = \"mkfs\", args = 3 }"),
        "story.toml:9: step `mkfs`: `args` is of type integer; write a string or a list of strings",
    );
    only(
        &faults_of_steps("\"mount\",\n{ do = \"create\", pages = 0 }"),
        "story.toml:10: step `create`: `pages` = 0 is empty; use 1 or more",
    );
    only(
        &faults_of_steps("\"mount\",\n{ do = \"create\", pages = -1 }"),
        "story.toml:10: step `create`: `pages` = -1 is not a number from 0 up",
    );
    only(
        &faults_of_steps("{ do = \"sync\", deadline_ms = 10 }"),
        "story.toml:9: `deadline_ms` = 10 is too short to be told from load; use 1000 or more",
    );
    let cell = format!("{HEAD}cell_bytes = 500\n{MATRIX}{EXPECT}");
    only(&faults(&cell), "story.toml:5: `cell_bytes` = 500 is no cell; use a power of two, 64 to 4096");
}

#[test]
fn names_must_exist_where_they_are_used() {
    only(
        &faults_of_steps("\"mount\",\n\"create\",\n{ do = \"map\", file = \"b\" }"),
        "story.toml:11: handle `b` does not exist here; there is a",
    );
    only(
        &faults_of_steps("\"mount\",\n\"pin\""),
        "story.toml:10: mapping `m` does not exist here; there is none",
    );
    only(
        &faults_of_steps("\"create\""),
        "story.toml:9: the file system is not mounted here; put a `mount` before",
    );
    only(
        &faults_of_steps("\"mount\", \"create\",\n\"create\""),
        "story.toml:10: file `a` exists already; give the second one another name",
    );
}

#[test]
fn pins_and_programs_are_in_order() {
    let pinned = "\"mount\", \"create\", \"map\", \"pin\"";
    only(
        &faults_of_steps(&format!("{pinned},\n\"remount\"")),
        "story.toml:10: region `r` is still pinned at `remount`; put a `release` before",
    );
    only(
        &faults_of_steps(&format!(
            "{pinned},\n{{ do = \"dma\", generation = 100, wait = false }},\n\"release\""
        )),
        "story.toml:11: program `p` still writes into `r`; put a dma-wait before",
    );
    only(
        &faults_of_steps(&format!("{pinned},\n\"prove-dma\"")),
        "story.toml:10: program `p` has not run; put a dma before",
    );
    only(
        &faults_of_steps(&format!("{pinned},\n{{ do = \"dma\", generation = 1 }}")),
        "story.toml:10: generation 1 is written twice; give this step another",
    );
    only(
        &faults_of_steps(&format!(
            "{pinned},\n{{ do = \"dma\", generation = 100, first_page = 10, pages = 7 }}"
        )),
        "story.toml:10: region `r` has 16 pages; this step reaches page 17",
    );
    let killed = format!(
        "{pinned}, {{ do = \"dma\", generation = 100, passes = 0, wait = false }},\n\"kill-owner\",\n"
    );
    assert_eq!(faults_of_steps(&format!("{killed}\"remount\", \"compare\"")), [""; 0]);
    only(
        &faults_of_steps(&format!("{killed}\"dma-wait\"")),
        "story.toml:11: running program `p` does not exist here; there is none",
    );
    only(
        &faults_of_steps(&format!("{killed}\"kill-owner\"")),
        "story.toml:11: no region is pinned by the driver here, so it has no owner; put a `pin` before",
    );
    let unpinned =
        format!("{HEAD}matrix.fs = [\"ext4\"]\nstep = [\"mount\", \"create\", \"map\",\n\"pin\"]\n{EXPECT}");
    only(
        &faults(&unpinned),
        "story.toml:7: step `pin` has no mode in this case; add `matrix.pin` or `mode = ...`",
    );
}

#[test]
fn a_file_system_is_not_asked_for_what_it_has_not() {
    only(
        &faults_of_steps("\"mount\", \"create\",\n\"reflink\""),
        "story.toml:10: ext4 has no reflink; take it from matrix.fs",
    );
    let tmpfs = format!("{HEAD}matrix.fs = [\"tmpfs\"]\nstep = [\"mount\",\n\"umount\"]\n{EXPECT}");
    only(
        &faults(&tmpfs),
        "story.toml:7: tmpfs loses its files at an umount; use `remount`, or take it from matrix.fs",
    );
}

#[test]
fn expectations_cover_the_matrix_once_each() {
    let none = format!(
        "{HEAD}{MATRIX}[[expect]]\nfs = \"ext4\"\npin = \"get\"\nobserve = \"intact\"\nreason = \"r\"\n"
    );
    let faults_of_none = faults(&none);
    assert_eq!(
        faults_of_none,
        [
            "story.toml:1: case ext4/pin/clean has no expectation; add an [[expect]] that accepts it",
            "story.toml:8: expectation is never reached: an earlier one accepts its cases, or the matrix has none; \
             move it up or take it out",
        ]
    );
    let words = format!("{HEAD}{MATRIX}[[expect]]\nobserve = [\"intact\", \"gone\"]\nreason = \"r\"\n");
    let message = &faults(&words)[0];
    assert!(
        message.starts_with("story.toml:9: observation `gone` is unknown; use one of intact, refused"),
        "{message}"
    );
}

#[test]
fn a_condition_speaks_of_the_matrix() {
    let steps = "{ do = \"mkfs\", when = { variant = \"hole\" } }";
    let message = &faults_of_steps(steps)[0];
    assert!(message.starts_with("story.toml:9: variant `hole` is not in the matrix"), "{message}");
    only(
        &faults_of_steps("{ do = \"mkfs\", when = { fs = \"xfs\" } }"),
        "story.toml:9: file system `xfs` is not in the matrix; add it to matrix.fs",
    );
}

#[test]
fn a_flavour_is_a_file_system_with_options() {
    let text = format!(
        "{HEAD}matrix.fs = [\"ext4:data=journal\", \"tmpfs\"]\nstep = [{{ do = \"mkfs\", when = {{ fs = \"ext4\" }} }}]\n{EXPECT}"
    );
    let scenario = Scenario::parse("story.toml", &text).expect("valid");
    let points = scenario.matrix.points();
    assert_eq!(points[0].to_string(), "ext4:data=journal/none/none");
    assert_eq!(points[0].fs.options, "data=journal");
    assert_eq!(scenario.steps_of(&points[0]).count(), 1);
    assert_eq!(scenario.steps_of(&points[1]).count(), 0);
}

#[test]
fn a_race_says_how_often_it_must_be_won_and_what_else_may_come() {
    let row = |more: &str| {
        format!(
            "{HEAD}{MATRIX}step = [\"mkfs\", \"mount\", \"create\", \"map\", \"pin\", \"release\"]\n\
                 [[expect]]\nobserve = \"lost\"\nreason = \"r\"\n{more}"
        )
    };
    let text = row("race = true\nwithin = 20\nor = [\"intact\", \"lost warned\"]\n");
    let scenario = Scenario::parse("story.toml", &text).expect("valid");
    let race = scenario.expect[0].race.as_ref().expect("a race");
    let words = |words: &[Observation]| words.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(race.within, 20);
    assert_eq!(race.or, [words(&[Observation::Intact]), words(&[Observation::Lost, Observation::Warned])]);
    for (more, part) in [
        ("within = 3\n", "add `race = true`"),
        ("or = [\"intact\"]\n", "add `race = true`"),
        ("race = true\nor = [\"intact\"]\n", "add `within = N`"),
        ("race = true\nwithin = 0\nor = [\"intact\"]\n", "add `within = N`"),
        ("race = true\nwithin = 3\n", "no other end"),
        ("race = true\nwithin = 3\nor = [\"lost\"]\n", "no other end"),
        ("race = true\nwithin = 3\nor = [\"intact fine\"]\n", "observation `fine` is unknown"),
    ] {
        let faults = faults(&row(more));
        assert!(faults.len() == 1 && faults[0].contains(part), "{more}: {faults:?}");
    }
}
