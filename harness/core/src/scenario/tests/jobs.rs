// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps beside others.

use super::{EXPECT, HEAD, MATRIX, faults, faults_of_steps, only};

const OPEN: &str = "\"mount\", \"create\", \"map\"";

#[test]
fn steps_that_cannot_wait_take_no_job() {
    only(
        &faults_of_steps("{ do = \"mkfs\", job = \"j\" }"),
        "story.toml:9: step `mkfs` has no key `job`; it takes args, deadline_ms, do, when",
    );
    for step in ["fsync", "sync", "syncfs", "pin", "punch", "zero-range", "allocate"] {
        let steps = format!("{OPEN}, {{ do = \"{step}\", job = \"j\" }}, {{ do = \"join\", job = \"j\" }}");
        assert_eq!(faults_of_steps(&steps), [""; 0], "{step}");
    }
}

#[test]
fn a_job_is_begun_once_and_joined_once() {
    only(
        &faults_of_steps("{ do = \"join\", job = \"j\" }"),
        "story.toml:9: job `j` does not exist here; there is none",
    );
    only(&faults_of_steps("\"settle\""), "story.toml:9: step `settle` has no `job`; add `job = ...`");
    let one = "{ do = \"sync\", job = \"j\" }";
    only(
        &faults_of_steps(&format!("\"mount\",\n{one}")),
        "story.toml:10: job `j` is never joined; add { do = \"join\", job = \"j\" }",
    );
    only(
        &faults_of_steps(&format!("{one}, {{ do = \"join\", job = \"j\" }},\n{one}")),
        "story.toml:10: job `j` exists already; give the second one another name",
    );
    only(
        &faults_of_steps(&format!(
            "{one}, {{ do = \"join\", job = \"j\" }},\n{{ do = \"settle\", job = \"j\" }}"
        )),
        "story.toml:10: job `j` does not exist here; there is none",
    );
}

#[test]
fn a_job_is_over_where_the_case_must_be_quiet() {
    for verb in ["remount", "compare"] {
        only(
            &faults_of_steps(&format!("{OPEN}, {{ do = \"sync\", job = \"j\" }},\n\"{verb}\"")),
            &format!("story.toml:10: job `j` may still run at `{verb}`; put a `join` before"),
        );
    }
}

#[test]
fn a_job_must_be_possible_where_it_begins_and_takes_its_generation() {
    only(
        &faults_of_steps("\"mount\",\n{ do = \"fsync\", job = \"j\" }"),
        "story.toml:10: handle `a` does not exist here; there is none",
    );
    only(
        &faults_of_steps(&format!(
            "{OPEN}, {{ do = \"store\", generation = 5, job = \"j\" }},\n{{ do = \"write\", generation = 5 }}"
        )),
        "story.toml:10: generation 5 is written twice; give this step another",
    );
}

#[test]
fn what_a_job_pins_is_there_at_its_join() {
    let pin = format!("{OPEN}, {{ do = \"pin\", job = \"p\" }}");
    only(
        &faults_of_steps(&format!("{pin},\n\"release\"")),
        "story.toml:10: region `r` does not exist here; there is none",
    );
    let joined = format!("{pin}, {{ do = \"join\", job = \"p\" }}, \"release\", \"compare\"");
    assert_eq!(faults_of_steps(&joined), [""; 0]);
}

#[test]
fn an_expectation_speaks_of_jobs_that_are_looked_at() {
    let expect = "[[expect]]\nobserve = \"intact\"\nblocked = [\"j\"]\nreason = \"r\"\n";
    let unsettled = format!("{HEAD}{MATRIX}step = [\"sync\"]\n{expect}");
    only(
        &faults(&unsettled),
        "story.toml:9: job `j` is settled by no step; add { do = \"settle\", job = \"j\" }, or take it away",
    );
    let steps =
        "{ do = \"sync\", job = \"j\" }, { do = \"settle\", job = \"j\" }, { do = \"join\", job = \"j\" }";
    let settled = format!("{HEAD}{MATRIX}step = [{steps}]\n{expect}");
    assert_eq!(faults(&settled), [""; 0]);
    assert_eq!(
        faults(&settled.replace(expect, EXPECT)),
        [""; 0],
        "a look need not be expected to find it asleep"
    );
}
