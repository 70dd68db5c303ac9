// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run found, for people who were not there: each scenario with its verdicts on every file system, and for each bad
//! verdict why, in the words of the scenario, what was seen, the command that shows it again, and what other kernels do.
//!
//! Nothing is judged here: verdicts and reasons are those of the results.

mod markdown;
mod overview;
mod prose;

pub use markdown::markdown;
pub use overview::{Overview, Worst};

use crate::plan::Case;
use crate::report::RunResult;
use crate::report::formats::gravest_first;
use crate::result::CaseResult;
use crate::words::Outcome;
use std::collections::{BTreeMap, BTreeSet};

/// What runs found, scenario by scenario, in the order of the first run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The scenarios with cases in the first run.
    pub scenarios: Vec<Scenario>,
    /// The gravest of each scenario on each file system.
    pub overview: Overview,
}

/// One scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Name.
    pub name: String,
    /// One line; empty where the scenario is not known any more.
    pub title: String,
    /// What happens in the kernel.
    pub mechanism: String,
    /// Columns of the table: `pin/release`.
    pub columns: Vec<String>,
    /// Rows of the table: the file system, with the variant where there is one, and a cell for each column; none where the
    /// matrix has no such case.
    pub rows: Vec<(String, Vec<Option<Cell>>)>,
    /// The bad verdicts, gravest first.
    pub harm: Vec<Harm>,
    /// Cases that were skipped, or errors, with the reason.
    pub without: Vec<(String, String)>,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What was seen, gravest first; the outcome where nothing was.
    pub words: String,
    /// It is bad.
    pub bad: bool,
}

/// Cases with the same bad verdict for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// What was seen, gravest first.
    pub words: String,
    /// Why, as the scenario explains it; empty where it expects something else.
    pub why: String,
    /// Ids of the cases.
    pub cases: Vec<String>,
    /// What was seen in the first of them.
    pub seen: String,
    /// The same cases in the other runs: name of the run, what was seen, in how many of them.
    pub elsewhere: Vec<(String, BTreeMap<String, usize>)>,
}

impl Findings {
    /// Of the first run, beside others; `cases` are those that the scenarios of the first run have.
    pub fn of(run: &RunResult, others: &[(String, RunResult)], cases: &[Case]) -> Self {
        let known: BTreeMap<&str, &Case> = cases.iter().map(|case| (case.id.as_str(), case)).collect();
        let mut names: Vec<&str> = Vec::new();
        for case in &run.cases {
            if !names.contains(&case.scenario.as_str()) {
                names.push(&case.scenario);
            }
        }
        let scenarios = names.into_iter().map(|name| Scenario::of(name, run, others, &known)).collect();
        Self { scenarios, overview: Overview::of(run) }
    }
}

impl Scenario {
    fn of(
        name: &str,
        run: &RunResult,
        others: &[(String, RunResult)],
        known: &BTreeMap<&str, &Case>,
    ) -> Self {
        let results: Vec<&CaseResult> = run.cases.iter().filter(|case| case.scenario == name).collect();
        let about = results.iter().find_map(|result| known.get(result.id.as_str()));
        let (columns, rows) = table(&results);
        let without = results.iter().filter(|result| result.observations.is_empty());
        Self {
            name: name.to_owned(),
            title: about.map(|case| case.scenario.title.clone()).unwrap_or_default(),
            mechanism: about.map(|case| case.scenario.mechanism.trim().to_owned()).unwrap_or_default(),
            columns,
            rows,
            harm: harm(&results, others, known),
            without: without.map(|result| (result.label(), result.reason.clone())).collect(),
        }
    }
}

impl Cell {
    fn of(attempts: &[&CaseResult]) -> Option<Self> {
        let mut words: Vec<String> = Vec::new();
        for result in attempts {
            let seen = seen(result);
            if !words.contains(&seen) {
                words.push(seen);
            }
        }
        let bad = attempts.iter().any(|result| result.saw_harm());
        (!words.is_empty()).then(|| Self { words: words.join(" or "), bad })
    }
}

/// What was seen, or what came of a case in which nothing was.
fn seen(result: &CaseResult) -> String {
    match (result.observations.is_empty(), result.outcome) {
        (true, outcome) => outcome.to_string(),
        (false, Outcome::Error) => format!("{} ({})", gravest_first(&result.observations), Outcome::Error),
        (false, _) => gravest_first(&result.observations),
    }
}

type Rows = Vec<(String, Vec<Option<Cell>>)>;

fn table(results: &[&CaseResult]) -> (Vec<String>, Rows) {
    let column = |result: &CaseResult| format!("{}/{}", result.pin, result.release);
    let row = |result: &CaseResult| match &result.variant {
        Some(variant) => format!("{} {variant}", result.fs),
        None => result.fs.clone(),
    };
    let in_order = |of: &dyn Fn(&CaseResult) -> String| {
        let mut words: Vec<String> = Vec::new();
        for result in results {
            let word = of(result);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    };
    let columns = in_order(&column);
    let cell = |name: &str, of_column: &str| {
        let attempts = results.iter().copied();
        let here = attempts.filter(|result| row(result) == name && column(result) == of_column);
        Cell::of(&here.collect::<Vec<_>>())
    };
    let rows = in_order(&row).into_iter().map(|name| {
        let cells = columns.iter().map(|of_column| cell(&name, of_column)).collect();
        (name, cells)
    });
    let rows = rows.collect();
    (columns, rows)
}

fn harm(results: &[&CaseResult], others: &[(String, RunResult)], known: &BTreeMap<&str, &Case>) -> Vec<Harm> {
    let mut groups: Vec<(BTreeSet<_>, Harm)> = Vec::new();
    for result in results.iter().filter(|result| result.observations.iter().any(|word| word.is_bad())) {
        let expectation = known.get(result.id.as_str()).and_then(|case| case.expectation());
        // An explanation of something else explains nothing.
        let expectation = expectation.filter(|row| row.accepts(&result.observations));
        let why = expectation.map(|row| row.reason.clone()).unwrap_or_default();
        let same =
            |(words, harm): &&mut (BTreeSet<_>, Harm)| *words == result.observations && harm.why == why;
        match groups.iter_mut().find(same) {
            Some((_, harm)) if harm.cases.contains(&result.id) => {}
            Some((_, harm)) => harm.cases.push(result.id.clone()),
            None => groups.push((
                result.observations.clone(),
                Harm {
                    words: gravest_first(&result.observations),
                    why,
                    cases: vec![result.id.clone()],
                    // The result says why as well.
                    seen: result.reason.split("; known: ").next().unwrap_or_default().to_owned(),
                    elsewhere: Vec::new(),
                },
            )),
        }
    }
    // Stable: the library's order stays among those that are as grave.
    groups.sort_by(|(a, _), (b, _)| b.last().cmp(&a.last()));
    let mut harm: Vec<Harm> = groups.into_iter().map(|(_, harm)| harm).collect();
    for harm in &mut harm {
        harm.elsewhere = others.iter().map(|(name, run)| (name.clone(), there(run, &harm.cases))).collect();
    }
    harm
}

/// What a run saw of these cases.
fn there(run: &RunResult, ids: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        let words = run.cases.iter().find(|case| case.id == *id).map_or("not run".to_owned(), seen);
        *counts.entry(words).or_default() += 1;
    }
    counts
}
