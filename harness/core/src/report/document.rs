// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `result.json`: the document of a run, which `--format json` prints as well. `docs/result-schema.md` describes it;
//! a field is only ever added while [`RESULT_SCHEMA`] stays.

use crate::aggregate::{self, Aggregate};
use crate::attempts;
use crate::events::{EventKind, RunEvent};
use crate::exit_code::{ExitCode, Rules, exit_code};
use crate::result::{BootResult, CaseResult, Environment};
use crate::words::Outcome;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the document. 2: `detected` means an errno, `warned` a line of the kernel log, and neither hides what became
/// of the bytes.
pub const RESULT_SCHEMA: u32 = 2;

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`RESULT_SCHEMA`].
    pub schema: u32,
    /// When it began, RFC 3339.
    pub started: String,
    /// The command line that repeats it.
    pub command: String,
    /// Where it ran.
    pub environment: Environment,
    /// Virtual machines, in order.
    pub boots: Vec<BootResult>,
    /// Cases that reported, in the order in which they finished, controls left out.
    pub cases: Vec<CaseResult>,
    /// Of each case that ran more than once, what its runs come to together.
    #[serde(default)]
    pub aggregates: Vec<Aggregate>,
    /// Controls of all boots.
    pub controls: Vec<CaseResult>,
    /// Labels of cases that were planned and never reported.
    pub missing: Vec<String>,
    /// The user stopped it.
    pub interrupted: bool,
    /// Why it ended before its last case, as it was told to; else null.
    #[serde(default)]
    pub stopped: Option<String>,
    /// A flaky case does not make it fail.
    #[serde(default)]
    pub allow_flaky: bool,
    /// Numbers.
    pub summary: Summary,
}

/// Numbers of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Cases that were planned.
    pub planned: usize,
    /// As expected and good.
    pub pass: usize,
    /// Not as expected.
    pub fail: usize,
    /// As expected and known to be bad.
    pub xfail: usize,
    /// Expected bad, turned good.
    pub xpass: usize,
    /// Not as expected, and as expected when it ran again.
    #[serde(default)]
    pub flaky: usize,
    /// Could not be tried.
    pub skip: usize,
    /// Prove nothing, or never reported.
    pub error: usize,
    /// Seconds of the whole run.
    pub seconds: f64,
    /// Cases a minute, counted from the first agent's hello to the last verdict.
    pub cases_per_minute: f64,
}

impl RunResult {
    /// The document of a story.
    pub fn from_events<'e>(events: impl IntoIterator<Item = &'e RunEvent>) -> Self {
        let mut run = Self { schema: RESULT_SCHEMA, ..Self::default() };
        let (mut ready_ms, mut verdict_ms, mut end_ms) = (None, 0, 0);
        let (mut retries, mut verdicts, mut races) = (BTreeSet::new(), 0, &BTreeMap::new());
        for event in events {
            end_ms = end_ms.max(event.at_ms);
            match &event.kind {
                EventKind::RunStarted {
                    environment,
                    cases,
                    started,
                    command,
                    allow_flaky,
                    races: of_run,
                } => {
                    races = of_run;
                    run.allow_flaky = *allow_flaky;
                    run.environment = (**environment).clone();
                    run.missing = cases.clone();
                    run.summary.planned = cases.len();
                    run.started = started.clone();
                    run.command = command.clone();
                }
                EventKind::EnvironmentKnown { environment } => run.environment = (**environment).clone(),
                EventKind::BootReady { .. } => _ = ready_ms.get_or_insert(event.at_ms),
                EventKind::BootEnded(boot) => run.boots.push(boot.clone()),
                EventKind::CaseFinished(case) if case.control => run.controls.push((**case).clone()),
                EventKind::CaseFinished(case) => {
                    verdict_ms = event.at_ms;
                    verdicts += 1;
                    match retries.remove(&case.label()) {
                        true => run.take_retry(case),
                        false => run.take(case),
                    }
                }
                EventKind::RetriesStarted { cases, .. } => retries.extend(cases.iter().cloned()),
                EventKind::Stopped { reason } => run.stopped = Some(reason.clone()),
                EventKind::Interrupted => run.interrupted = true,
                EventKind::BootStarted { .. }
                | EventKind::CaseStarted { .. }
                | EventKind::CaseProgress { .. }
                | EventKind::Notice { .. }
                | EventKind::RunFinished => {}
            }
        }
        run.aggregates = aggregate::aggregates(&run.cases, races);
        aggregate::blame_last_runs(&mut run.cases, &run.aggregates);
        run.summary.count(&run.cases, run.missing.len());
        run.summary.seconds = seconds(end_ms);
        run.summary.cases_per_minute = rate(verdicts, ready_ms.unwrap_or_default(), verdict_ms);
        run
    }

    fn take(&mut self, case: &CaseResult) {
        let label = case.label();
        self.missing.retain(|missing| *missing != label);
        self.cases.push(case.clone());
    }

    /// One more attempt of a case that has reported.
    fn take_retry(&mut self, attempt: &CaseResult) {
        let Some(case) = self.cases.iter_mut().find(|case| case.id == attempt.id) else {
            return self.take(attempt);
        };
        let mut attempts = match case.attempts.is_empty() {
            true => vec![case.clone()],
            false => std::mem::take(&mut case.attempts),
        };
        attempts.push(attempt.clone());
        if let Some(together) = attempts::together(attempts) {
            *case = together;
        }
    }

    /// What the shell is told.
    pub fn exit_code(&self, strict: bool) -> ExitCode {
        let rules = Rules { strict, allow_flaky: self.allow_flaky };
        let cases = self.cases.iter().map(|case| (case.outcome, case.saw_harm()));
        exit_code(cases, self.summary.planned, rules)
    }
}

impl Summary {
    /// Whatever never reported is an error.
    fn count(&mut self, cases: &[CaseResult], missing: usize) {
        self.error = missing;
        for case in cases {
            *match case.outcome {
                Outcome::Pass => &mut self.pass,
                Outcome::Fail => &mut self.fail,
                Outcome::Xfail => &mut self.xfail,
                Outcome::Xpass => &mut self.xpass,
                Outcome::Flaky => &mut self.flaky,
                Outcome::Skip => &mut self.skip,
                Outcome::Error => &mut self.error,
            } += 1;
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn rate(cases: usize, from_ms: u64, to_ms: u64) -> f64 {
    match to_ms.saturating_sub(from_ms) {
        0 => 0.0,
        ms => (cases as f64 * 60_000.0 / ms as f64 * 10.0).round() / 10.0,
    }
}
