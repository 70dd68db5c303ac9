// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The smallest scenario that still shows something: steps of one case are left out, for as long as what was seen of it is
//! seen. What to try is decided here; whoever runs it says what came of it.

mod reduce;
#[cfg(test)]
mod tests;

use crate::matrix::Point;
use crate::scenario::Scenario;
use crate::words::Observation;
use reduce::Reduction;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What a case must show: its gravest word, and where the kernel reported something, that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The headline.
    pub headline: Observation,
    /// Fingerprints of what the kernel said about itself.
    pub reports: BTreeSet<String>,
}

impl Shown {
    /// It is what is wanted: the same headline, and among its reports all that are wanted.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        self.headline == wanted.headline && self.reports.is_superset(&wanted.reports)
    }
}

/// A search for the smallest scenario.
#[derive(Debug, Clone)]
pub struct Minimise {
    case: Case,
    name: String,
    reduction: Reduction,
}

/// One case of a scenario, as a file of its own can have it.
#[derive(Debug, Clone)]
struct Case {
    /// Keys of the head but for those that are written anew, as lines.
    head: Vec<String>,
    title: String,
    matrix: Vec<String>,
    /// Steps without their conditions, a line each.
    steps: Vec<String>,
}

/// Something to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which steps.
    items: Vec<usize>,
    /// The scenario's file.
    pub text: String,
}

impl Candidate {
    /// Steps that it has.
    pub fn steps(&self) -> usize {
        self.items.len()
    }
}

impl Minimise {
    /// Of a case of this scenario file. The smallest one will be called `name`.
    ///
    /// Errors: the text is no scenario, with the reason.
    pub fn new(text: &str, point: &Point, name: &str) -> Result<Self, String> {
        let case = Case::of(text, point)?;
        let reduction = Reduction::new(case.steps.len());
        Ok(Self { case, name: name.to_owned(), reduction })
    }

    /// The whole case as a scenario of its own.
    pub fn whole(&self) -> Candidate {
        self.made_of((0..self.case.steps.len()).collect())
    }

    /// What to try next.
    pub fn propose(&mut self) -> Option<Candidate> {
        let (case, name) = (&self.case, &self.name);
        let items = self.reduction.propose(|items| case.possible(name, items))?;
        Some(self.made_of(items))
    }

    /// What came of it: does it show what is looked for?
    pub fn told(&mut self, candidate: Candidate, shows: bool) {
        self.reduction.told(candidate.items, shows);
    }

    /// Steps of the smallest so far, and of the whole.
    pub fn steps(&self) -> (usize, usize) {
        (self.reduction.kept().len(), self.case.steps.len())
    }

    /// The smallest so far as a scenario that expects what was seen.
    pub fn smallest(&self, seen: &BTreeSet<Observation>, blocked: &BTreeSet<String>, reason: &str) -> String {
        self.case.document(&self.name, self.reduction.kept(), seen, blocked, reason)
    }

    fn made_of(&self, items: Vec<usize>) -> Candidate {
        let text = self.case.tried(&self.name, &items);
        Candidate { items, text }
    }
}

/// Keys of the head that go over as they are.
const HEAD: [&str; 3] = ["pages", "cell_bytes", "machine"];

impl Case {
    fn of(text: &str, point: &Point) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let scenario_steps = table.get("step").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let name = table.get("name").and_then(toml::Value::as_str).unwrap_or_default();
        let scenario = Scenario::parse(&format!("{name}.toml"), text)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        // Both have the steps in the file's order.
        let steps =
            scenario_steps.into_iter().zip(&scenario.steps).filter(|(_, step)| step.when.accepts(point));
        let steps = steps.map(|(step, _)| line(step)).collect();
        let head = HEAD.iter().filter_map(|key| Some(format!("{key} = {}", table.get(*key)?))).collect();
        let Point { fs, pin, release, variant } = point;
        let variant = variant.as_ref().map(|variant| format!(" ({variant})")).unwrap_or_default();
        Ok(Self {
            head,
            title: format!("{}{variant}, without what is not needed", scenario.title),
            matrix: vec![
                format!("matrix.fs = [\"{fs}\"]"),
                format!("matrix.pin = [\"{pin}\"]"),
                format!("matrix.release = [\"{release}\"]"),
            ],
            steps,
        })
    }

    /// A document that is only run, so that it expects anything.
    fn tried(&self, name: &str, items: &[usize]) -> String {
        self.document(name, items, &BTreeSet::from([Observation::Intact]), &BTreeSet::new(), "not known yet")
    }

    fn document(
        &self,
        name: &str,
        items: &[usize],
        seen: &BTreeSet<Observation>,
        blocked: &BTreeSet<String>,
        reason: &str,
    ) -> String {
        let Self { head, title, matrix, steps } = self;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |words: Vec<&str>| words.into_iter().map(quoted).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "schema = 1\nname = {}\ntitle = {}\nmechanism = {}\n",
            quoted(name),
            quoted(title),
            quoted(reason)
        );
        let mut push =
            |line: &str| writeln!(text, "{line}").expect("a string takes all that is written to it");
        head.iter().for_each(|line| push(line));
        push("");
        matrix.iter().for_each(|line| push(line));
        push("\nstep = [");
        items.iter().for_each(|item| push(&format!("    {},", steps[*item])));
        push("]\n\n[[expect]]");
        push(&format!("observe = [{}]", list(seen.iter().map(|word| word.as_str()).collect())));
        if !blocked.is_empty() {
            push(&format!("blocked = [{}]", list(blocked.iter().map(String::as_str).collect())));
        }
        push(&format!("reason = {}", quoted(reason)));
        text
    }

    /// These steps, without those that cannot be done without one that is missing; none: no such case can be.
    fn possible(&self, name: &str, items: &[usize]) -> Option<Vec<usize>> {
        let mut items = items.to_vec();
        while !items.is_empty() {
            let text = self.tried(name, &items);
            let Err(faults) = Scenario::parse(&format!("{name}.toml"), &text) else { return Some(items) };
            let first = text.lines().position(|line| line == "step = [")? + 2;
            let lines: BTreeMap<usize, usize> =
                items.iter().enumerate().map(|(at, item)| (first + at, *item)).collect();
            let wrong: BTreeSet<usize> =
                faults.iter().filter_map(|fault| lines.get(&fault.line).copied()).collect();
            // A fault of the whole: nothing that is left out mends it.
            if wrong.is_empty() {
                return None;
            }
            items.retain(|item| !wrong.contains(item));
        }
        None
    }
}

/// A step as one line, without its condition.
fn line(step: toml::Value) -> String {
    match step {
        toml::Value::Table(mut table) => {
            table.remove("when");
            toml::Value::Table(table).to_string()
        }
        name => name.to_string(),
    }
}
