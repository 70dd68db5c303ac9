// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JUnit's XML as GitLab, Jenkins and GitHub actions read it: flat, a suite is a scenario, a test a case with its attempt.

use super::{Entry, Suite, environment, one_line, suites};
use crate::report::RunResult;
use crate::verdict::Outcome;
use quick_junit::{NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
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
        Outcome::Xfail | Outcome::Skip => TestCaseStatus::skipped(),
        Outcome::Fail | Outcome::Xpass => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Outcome::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status.set_message(format!("{}: {}", entry.outcome_words(), entry.reason()));
    status.set_type(entry.outcome_words());
    let details = entry.details();
    if !details.is_empty() {
        status.set_description(details.join("\n"));
    }
    status
}

fn seconds(entry: &Entry<'_>) -> f64 {
    entry.case.map_or(0.0, |case| case.seconds)
}

/// Of a number in a document, which may be anything.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
