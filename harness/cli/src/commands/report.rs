// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin report`: from a result directory to one HTML file and one trace. Reads what a run left behind, of this
//! version or an older one; boots nothing.

use crate::args::{Color, ReportArgs};
use crate::earlier::{kept_library, parse, read_run};
use crate::error::{Error, Result};
use crate::formats::{self, Content};
use crate::output;
use crate::run::result_dir::file_name;
use crate::terminal;
use crate::whole_file;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_core::record::{self, CaseRecord};
use longpin_core::report::timeline::Story;
use longpin_core::report::timeline::page::{self, CaseReport, Lore, Report};
use longpin_core::report::trace::trace;
use longpin_core::report::{CaseResult, RunResult, TableStyle};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Make both files, or the forms that are asked for instead.
pub fn report(args: &ReportArgs) -> Result<ExitCode> {
    let mut notices = Vec::new();
    formats::check(&args.format)?;
    let run = read_run(&args.dir, &mut notices)?;
    if !args.format.is_empty() {
        return forms(args, &run);
    }
    let chosen = choose(&run, &args.case)?;
    let all = with_attempts(&run).len();
    if chosen.len() < all {
        notices.push(format!("{} of the run's {all} cases, chosen by --case", chosen.len()));
    }
    let (lore, whys) = lore(&args.dir);
    let cases: Vec<CaseReport<'_>> = chosen
        .into_iter()
        .map(|result| CaseReport {
            story: story(&args.dir, result),
            why: whys.get(&result.id).cloned(),
            result,
        })
        .collect();
    let told = |name: &str| cases.iter().any(|case| case.result.scenario == name);
    let lore: BTreeMap<_, _> = lore.into_iter().filter(|(name, _)| told(name)).collect();
    let stories = cases.iter().filter_map(|case| Some((case.result.label(), case.story.as_ref().ok()?)));
    let stories: Vec<(String, &Story)> = stories.collect();
    let trace = trace(stories.iter().map(|(label, story)| (label.as_str(), *story)));
    let trace = serde_json::to_vec(&trace).context("the trace cannot be written as JSON")?;
    let html = page::html(&Report { run: &run, cases: cases.clone(), lore, notices });
    let html = html.context("the report cannot be written as HTML")?;
    let html_path = args.out.clone().unwrap_or_else(|| args.dir.join("report.html"));
    let trace_path = args.trace.clone().unwrap_or_else(|| args.dir.join("trace.json"));
    write(&html_path, html.as_bytes())?;
    write(&trace_path, &trace)?;
    output::text(&format!(
        "report: {}\ntrace:  {} (open it at https://ui.perfetto.dev)\n",
        html_path.display(),
        trace_path.display()
    ))?;
    Ok(ExitCode::Good)
}

/// What `run --format` would have written.
fn forms(args: &ReportArgs, run: &RunResult) -> Result<ExitCode> {
    formats::make_ready(&args.format)?;
    let style =
        TableStyle { color: terminal::stdout_has_color(Color::Auto), width: Some(terminal::stdout_width()) };
    let places = kept_library(&args.dir).map(|library| library.places()).unwrap_or_default();
    Content { run, style, places: &places }.write(&args.format)?;
    Ok(ExitCode::Good)
}

/// The cases that were asked for, by label; all if none.
fn choose<'r>(run: &'r RunResult, labels: &[String]) -> Result<Vec<&'r CaseResult>> {
    let all = with_attempts(run);
    for label in labels {
        if !all.iter().any(|case| case.label() == *label || case.id == *label) {
            let known: Vec<String> = all.iter().take(8).map(|case| case.label()).collect();
            let more = if all.len() > known.len() { ", ..." } else { "" };
            return Err(Error::Usage(format!(
                "--case {label}: the run has no such case; use one of {}{more}",
                known.join(", ")
            )));
        }
    }
    let wanted = |case: &&'r CaseResult| {
        labels.is_empty() || labels.iter().any(|label| case.label() == *label || case.id == *label)
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// Whatever has a record: a case that was run again, and beside it those of its attempts for which it does not stand.
fn with_attempts(run: &RunResult) -> Vec<&CaseResult> {
    let mut found = Vec::new();
    for case in &run.cases {
        found.push(case);
        found.extend(case.attempts.iter().filter(|attempt| attempt.attempt != case.attempt));
    }
    found
}

/// The timeline of a case, or what keeps it from being drawn.
fn story(dir: &Path, result: &CaseResult) -> std::result::Result<Story, String> {
    let name = format!("cases/{}.json", file_name(&result.label()));
    let path = dir.join(&name);
    let text = fs::read_to_string(&path).map_err(|error| format!("no timeline: {name}: {error}"))?;
    let record: CaseRecord =
        parse(Path::new(&name), &text, record::SCHEMA).map_err(|error| format!("no timeline: {error}"))?;
    Ok(Story::of(&record, result))
}

/// What the scenarios of the run say of themselves, and why they expect what they expect.
fn lore(dir: &Path) -> (BTreeMap<String, Lore>, BTreeMap<String, String>) {
    let cases = kept_library(dir).map(|library| library.cases(1)).unwrap_or_default();
    let (mut lore, mut whys) = (BTreeMap::new(), BTreeMap::new());
    for case in cases {
        let scenario = &case.scenario;
        let mechanism = scenario.mechanism.trim().to_owned();
        lore.insert(scenario.name.clone(), Lore { title: scenario.title.clone(), mechanism });
        if let Some(row) = case.expectation() {
            whys.insert(case.id.clone(), row.reason.clone());
        }
    }
    (lore, whys)
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    whole_file::write(path, content).with_context(|| format!("{} cannot be written", path.display()))
}
