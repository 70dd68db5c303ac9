// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Meaning of a scenario: every case of the matrix is walked through on paper, so that a name that does not exist or
//! a pin that is still held at an unmount is found here and not in a guest.

use super::{Fault, Point, Scenario};
use crate::steps::paper::Paper;
use std::collections::BTreeSet;

/// Every fault of the scenario, each once.
pub fn faults(file: &str, scenario: &Scenario) -> Vec<Fault> {
    let mut found = BTreeSet::new();
    let points = scenario.matrix.points();
    if points.is_empty() {
        found.insert((1, "matrix is empty; take an exclusion away".to_owned()));
    }
    expectations(scenario, &points, &mut found);
    conditions(scenario, &mut found);
    blocked(scenario, &mut found);
    for point in &points {
        releases(point, &mut found);
        found.extend(walked(scenario, point));
    }
    found.into_iter().map(|(line, message)| Fault { file: file.to_owned(), line, message }).collect()
}

/// The first fault of one case, and where.
fn walked(scenario: &Scenario, point: &Point) -> Option<(usize, String)> {
    let mut paper = Paper::new(point);
    for step in scenario.steps_of(point) {
        if let Err(message) = paper.step(step) {
            return Some((step.line, message));
        }
    }
    paper.left_over()
}

/// Pages that the kernel pins for itself it gives back in its own way.
fn releases(point: &Point, found: &mut BTreeSet<(usize, String)>) {
    let Point { pin, release, .. } = point;
    if let Some(given) = pin.given_back().filter(|given| given != release) {
        let text = format!("a {pin} pin is released {given}, by the kernel");
        let mend = format!("exclude {{ pin = \"{pin}\", release = \"{release}\" }}");
        found.insert((1, format!("case {point} cannot be: {text}; {mend}")));
    }
}

/// Jobs that an expectation speaks of must be looked at by a step.
fn blocked(scenario: &Scenario, found: &mut BTreeSet<(usize, String)>) {
    let settled: BTreeSet<&str> = scenario.steps.iter().filter_map(|step| step.settles()).collect();
    for row in &scenario.expect {
        for job in row.blocked.iter().filter(|job| !settled.contains(job.as_str())) {
            let mend = format!("add {{ do = \"settle\", job = \"{job}\" }}");
            found.insert((row.line, format!("job `{job}` is settled by no step; {mend}, or take it away")));
        }
    }
}

fn expectations(scenario: &Scenario, points: &[Point], found: &mut BTreeSet<(usize, String)>) {
    for point in points {
        if scenario.expectation(point).is_none() {
            found.insert((1, format!("case {point} has no expectation; add an [[expect]] that accepts it")));
        }
    }
    for row in &scenario.expect {
        let reached =
            |point: &&Point| scenario.expectation(point).is_some_and(|first| first.line == row.line);
        if points.iter().find(reached).is_none() {
            let text =
                "expectation is never reached: an earlier one accepts its cases, or the matrix has none";
            found.insert((row.line, format!("{text}; move it up or take it out")));
        }
    }
}

/// Conditions must speak of the matrix: a misspelt variant would silently drop a step.
fn conditions(scenario: &Scenario, found: &mut BTreeSet<(usize, String)>) {
    let matrix = &scenario.matrix;
    let steps = scenario.steps.iter().map(|step| (step.line, &step.when));
    let rows = scenario.expect.iter().map(|row| (row.line, &row.when));
    for (line, when) in steps.chain(rows) {
        for name in &when.variant {
            if !matrix.variant.contains(name) {
                let known = matrix.variant.join(", ");
                found.insert((line, format!("variant `{name}` is not in the matrix; use one of {known}")));
            }
        }
        for name in &when.fs {
            if !matrix.fs.iter().any(|flavour| flavour.is_named(name)) {
                found.insert((
                    line,
                    format!("file system `{name}` is not in the matrix; add it to matrix.fs"),
                ));
            }
        }
    }
}
