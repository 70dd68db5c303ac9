// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JUnit's XML as GitLab, Jenkins and GitHub actions read it: flat, a suite is a scenario, a test a case with its attempt.

use super::{Entry, REASON_CHARS, Suite, environment, one_line, suites};
use crate::attempts::is_unexpected;
use crate::report::RunResult;
use crate::verdict::Outcome;
use quick_junit::{
    FlakyOrRerun, NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestRerun,
    TestSuite,
};
use std::time::Duration;

/// The whole run.
pub fn junit(run: &RunResult) -> Result<String, SerializeError> {
    let mut report = Report::new("longpin");
    report.set_time(duration(run.summary.seconds));
    report.add_test_suites(suites(run).iter().map(|suite| test_suite(run, suite)));
    report.to_string()
}

/// Readers show one suite by itself, so each says where it ran.
fn test_suite(run: &RunResult, suite: &Suite<'_>) -> TestSuite {
    let mut tests = TestSuite::new(suite.name);
    let environment = environment(run).into_iter().map(|(name, value)| Property::new(name, value));
    tests.add_properties(environment);
    tests.add_property(("interrupted", if run.interrupted { "true" } else { "false" }));
    tests.add_properties(run.stopped.iter().map(|why| Property::new("stopped", one_line(why, REASON_CHARS))));
    tests.set_time(duration(suite.entries.iter().map(seconds).sum()));
    tests.add_test_cases(suite.entries.iter().map(test_case));
    tests
}

fn test_case(entry: &Entry<'_>) -> TestCase {
    let mut test = TestCase::new(one_line(&entry.label, usize::MAX), status(entry));
    test.set_classname(entry.scenario);
    test.set_time(duration(seconds(entry)));
    test
}

fn status(entry: &Entry<'_>) -> TestCaseStatus {
    let mut status = match entry.outcome {
        Outcome::Pass => return TestCaseStatus::success(),
        Outcome::Flaky if entry.is_good() => TestCaseStatus::success(),
        Outcome::Xfail | Outcome::Skip => TestCaseStatus::skipped(),
        Outcome::Fail | Outcome::Xpass | Outcome::Flaky => {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        }
        Outcome::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_message(format!("{}: {}", entry.outcome_words(), entry.reason()));
    status.set_type(entry.outcome_words());
    let details = entry.details();
    if !details.is_empty() {
        status.set_description(details.join("\n"));
    }
    if entry.outcome == Outcome::Flaky {
        status.set_rerun_kind(FlakyOrRerun::Flaky);
    }
    status.add_reruns(reruns(entry));
    status
}

/// Attempts that were not as expected, without the one that the case itself stands for.
fn reruns<'e>(entry: &'e Entry<'_>) -> impl Iterator<Item = TestRerun> + 'e {
    let stands_for = entry.case.filter(|_| entry.outcome != Outcome::Flaky).map(|case| case.attempt);
    let attempts = entry.case.into_iter().flat_map(|case| &case.attempts);
    attempts.filter(move |it| is_unexpected(it.outcome) && Some(it.attempt) != stands_for).map(|attempt| {
        let kind = match attempt.outcome {
            Outcome::Error => NonSuccessKind::Error,
            _ => NonSuccessKind::Failure,
        };
        let (words, reason) = (attempt.outcome_words(), one_line(&attempt.reason, REASON_CHARS));
        let mut rerun = TestRerun::new(kind);
        rerun.set_time(duration(attempt.seconds));
        rerun.set_message(format!("attempt {}: {words}: {reason}", attempt.attempt));
        rerun.set_type(words);
        rerun
    })
}

fn seconds(entry: &Entry<'_>) -> f64 {
    entry.case.map_or(0.0, |case| case.seconds)
}

/// Of a number in a document, which may be anything.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
