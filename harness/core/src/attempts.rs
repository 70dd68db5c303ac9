// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A case that was run again: its attempts, and what they come to together. A failure is never hidden by a later attempt:
//! if one of these was as expected the case is `flaky`, else the gravest of them counts.

use crate::result::CaseResult;
use crate::words::Outcome;

/// Whether an outcome is one for which a case is run again.
pub fn is_unexpected(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Fail | Outcome::Xpass | Outcome::Error)
}

/// How the reason of a case begins that was to run and did not, since others failed before.
pub const NOT_RUN: &str = "not run: ";

/// Whether a case was skipped because others failed before, and not for what it needs.
pub fn never_ran(case: &CaseResult) -> bool {
    case.outcome == Outcome::Skip && case.reason.starts_with(NOT_RUN)
}

/// The case that `attempts`, in order, come to; none if there is none. It has the fields of the attempt that decides: the
/// gravest that was not as expected, the first of these.
pub fn together(attempts: Vec<CaseResult>) -> Option<CaseResult> {
    let deciding = attempts.iter().min_by_key(|attempt| gravity(attempt.outcome))?;
    let mut case = deciding.clone();
    let as_expected = attempts.iter().find(|it| matches!(it.outcome, Outcome::Pass | Outcome::Xfail));
    if let Some(good) = as_expected.filter(|_| is_unexpected(deciding.outcome)) {
        case.reason = format!(
            "{} at attempt {} of {}, but at attempt {} {}: {}",
            good.outcome,
            good.attempt,
            attempts.len(),
            deciding.attempt,
            deciding.outcome_words(),
            deciding.reason
        );
        case.outcome = Outcome::Flaky;
        case.error = None;
    }
    case.attempts = attempts;
    Some(case)
}

/// What the kernel did weighs more than what the laboratory could not do.
fn gravity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Fail => 0,
        Outcome::Xpass => 1,
        Outcome::Error => 2,
        Outcome::Flaky | Outcome::Pass | Outcome::Xfail | Outcome::Skip => 3,
    }
}
