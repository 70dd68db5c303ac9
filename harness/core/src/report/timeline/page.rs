// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report as one HTML file: styles, script and data inside, nothing from a network, and a content security policy
//! that keeps it so. Rows of the table are in the file as they are; a case's details are data until it is opened.
//!
//! File names, log lines and everything else that a guest can choose is hostile: the template escapes it, the data
//! cannot end its script element, and the script makes text nodes only.

use super::Story;
use crate::report::html::{STYLE, content_policy};
use crate::report::{BootResult, CaseResult, RunResult};
use crate::verdict::{Observation, Outcome};
use askama::Template;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Attempts of one case with the same verdict that are drawn; of others the row stays.
pub const MAX_ATTEMPTS: usize = 3;
/// Bytes of drawings in one file; later ones are left out, cases that passed first.
pub const MAX_DATA_BYTES: usize = 8 << 20;

const SCRIPT: &str = include_str!("../../../templates/report.js");

/// What a scenario says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lore {
    /// One line.
    pub title: String,
    /// What happens in the kernel and why.
    pub mechanism: String,
}

/// A case of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseReport<'r> {
    /// Its row.
    pub result: &'r CaseResult,
    /// Its timeline, or why there is none.
    pub story: Result<Story, String>,
    /// Why the scenario expects what it expects.
    pub why: Option<String>,
}

/// Everything in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Report<'r> {
    /// The run.
    pub run: &'r RunResult,
    /// Its cases, or some of them, in order.
    pub cases: Vec<CaseReport<'r>>,
    /// By scenario.
    pub lore: BTreeMap<String, Lore>,
    /// What people should know first: the run did not finish, some cases were chosen.
    pub notices: Vec<String>,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    policy: String,
    style: &'static str,
    script: &'static str,
    run: &'r RunResult,
    boots: &'r [BootResult],
    headline: String,
    started: String,
    facts: Vec<(&'static str, String)>,
    counts: Vec<(Outcome, usize)>,
    file_systems: Vec<&'r str>,
    rows: Vec<Row<'r>>,
    controls: &'r [CaseResult],
    words: Vec<(&'static str, String)>,
    outcomes: Vec<(&'static str, String)>,
    notices: Vec<String>,
    shared: String,
}

/// A row of the table.
struct Row<'r> {
    number: usize,
    label: String,
    result: &'r CaseResult,
    generations: String,
    data: String,
}

impl Row<'_> {
    fn tone(&self) -> &'static str {
        match self.result.headline {
            Some(word) if word.is_bad() => "bad",
            Some(_) => "good",
            None => "none",
        }
    }
}

/// What the script needs of a case beside its row.
#[derive(Serialize)]
struct Data<'r> {
    story: Option<&'r Story>,
    missing: Option<&'r String>,
    reason: &'r str,
    why: Option<&'r String>,
    scenario: &'r str,
    observations: &'r BTreeSet<Observation>,
    outcome: Outcome,
    log: &'r [crate::verdict::LogLine],
}

/// What cases share.
#[derive(Serialize)]
struct Shared<'r> {
    lore: &'r BTreeMap<String, Lore>,
    words: BTreeMap<&'static str, String>,
    outcomes: BTreeMap<&'static str, String>,
}

/// The file.
///
/// Errors: what the template engine could not write; an argument cannot cause one.
pub fn html(report: &Report<'_>) -> Result<String, askama::Error> {
    let run = report.run;
    let words: Vec<_> =
        Observation::ALL.iter().map(|word| (word.as_str(), unwrap_lines(word.doc()))).collect();
    let outcomes: Vec<_> =
        Outcome::ALL.iter().map(|word| (word.as_str(), unwrap_lines(word.doc()))).collect();
    let shared = Shared {
        lore: &report.lore,
        words: words.iter().cloned().collect(),
        outcomes: outcomes.iter().cloned().collect(),
    };
    let mut notices = report.notices.clone();
    if !run.missing.is_empty() {
        notices.push(format!("never reported: {}", run.missing.join(", ")));
    }
    let file_systems: BTreeSet<&str> = report.cases.iter().map(|case| case.result.fs.as_str()).collect();
    let page = Page {
        policy: content_policy(&[STYLE], &[SCRIPT]),
        style: STYLE,
        script: SCRIPT,
        started: minute(&run.started),
        run,
        boots: &run.boots,
        headline: headline(report),
        facts: facts(run),
        counts: counts(report),
        file_systems: file_systems.into_iter().collect(),
        rows: rows(report),
        controls: &run.controls,
        words,
        outcomes,
        notices,
        shared: json(&shared),
    };
    page.render()
}

/// JSON that can stand in a script element: no `<` begins an end tag or a comment.
fn json(value: &impl Serialize) -> String {
    // Writing our own plain types into memory does not fail.
    serde_json::to_string(value).unwrap_or_else(|_| "null".into()).replace('<', "\\u003c")
}

fn unwrap_lines(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn headline(report: &Report<'_>) -> String {
    match report.cases.len() {
        1 => "1 case".into(),
        n => format!("{n} cases"),
    }
}

fn facts(run: &RunResult) -> Vec<(&'static str, String)> {
    let environment = &run.environment;
    let host = &environment.host;
    let or_unknown = |text: String| if text.is_empty() { "not known".to_owned() } else { text };
    let kernel = match environment.kernel.source.as_str() {
        "" => environment.kernel.release.clone(),
        source => format!("{} ({source})", environment.kernel.release),
    };
    let accel = match environment.accel.as_str() {
        "tcg" => "tcg: QEMU's translator, no hardware virtualization".to_owned(),
        other => other.to_owned(),
    };
    vec![
        ("Guest kernel", or_unknown(kernel.trim().to_owned())),
        ("QEMU", or_unknown(environment.qemu.version.clone())),
        ("Accelerator", or_unknown(accel)),
        ("Seed", environment.seed.to_string()),
        ("Started", or_unknown(minute(&run.started))),
        ("Took", format!("{:.1} s", run.summary.seconds)),
        ("Host", format!("{}, {} CPUs, Linux {}", host.cpu, host.cpus, host.kernel)),
    ]
}

/// `2026-11-23T21:33:16.38Z` without what nobody reads.
fn minute(rfc3339: &str) -> String {
    match (rfc3339.split_once('T'), rfc3339.ends_with('Z')) {
        (Some((day, time)), true) => format!("{day} {} UTC", time.split(['.', 'Z']).next().unwrap_or(time)),
        _ => rfc3339.to_owned(),
    }
}

fn counts(report: &Report<'_>) -> Vec<(Outcome, usize)> {
    let count = |outcome| report.cases.iter().filter(|case| case.result.outcome == outcome).count();
    let all = Outcome::ALL.iter().map(|outcome| (*outcome, count(*outcome)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn rows<'r>(report: &'r Report<'r>) -> Vec<Row<'r>> {
    let drawn = drawn(report);
    let row = |(number, case): (usize, &'r CaseReport<'r>)| {
        let result = case.result;
        let generations = [result.generations.device, result.generations.guest, result.generations.host];
        let generations = generations.map(|g| g.map_or("–".to_owned(), |g| g.to_string())).join(" / ");
        let left_out;
        let (story, missing) = match (&case.story, drawn.contains(&number)) {
            (Ok(story), true) => (Some(story), None),
            (Ok(_), false) => {
                left_out = format!(
                    "not drawn, to keep this file small: `longpin report DIR --case '{}'` draws it",
                    result.label()
                );
                (None, Some(&left_out))
            }
            (Err(why), _) => (None, Some(why)),
        };
        let data = Data {
            story,
            missing,
            reason: &result.reason,
            why: case.why.as_ref(),
            scenario: &result.scenario,
            observations: &result.observations,
            outcome: result.outcome,
            log: &result.log,
        };
        Row { number, label: result.label(), result, generations, data: json(&data) }
    };
    report.cases.iter().enumerate().map(row).collect()
}

/// Cases whose drawing is in the file: few attempts of the same, and what is not a pass before what is.
fn drawn(report: &Report<'_>) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..report.cases.len()).collect();
    order.sort_by_key(|index| report.cases[*index].result.outcome == Outcome::Pass);
    let mut attempts: BTreeMap<(&str, Outcome, &BTreeSet<Observation>), usize> = BTreeMap::new();
    let mut bytes = 0;
    let mut drawn = BTreeSet::new();
    for index in order {
        let case = &report.cases[index];
        let Ok(story) = &case.story else { continue };
        let result = case.result;
        let same = attempts.entry((&result.id, result.outcome, &result.observations)).or_default();
        *same += 1;
        let size = if *same <= MAX_ATTEMPTS { json(story).len() } else { continue };
        if bytes + size <= MAX_DATA_BYTES {
            bytes += size;
            drawn.insert(index);
        }
    }
    drawn
}
