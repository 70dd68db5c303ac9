// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the shell is told of a run.

use crate::verdict::Outcome;

/// Exit codes of `longpin run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Every outcome is pass, xfail or skip, and not all are skip.
    Good = 0,
    /// A fail, an xpass or a flaky case; with `--strict` also any observation but `intact` or `refused`.
    Bad = 1,
    /// An error, or a case that never reported.
    Error = 2,
    /// Bad usage, or a scenario file with a fault.
    Usage = 3,
    /// All cases were skipped.
    AllSkipped = 4,
}

impl ExitCode {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What a run forgives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nothing bad may be seen, not even what is known and expected.
    pub strict: bool,
    /// A flaky case is as good as one that passed.
    pub allow_flaky: bool,
}

/// Exit code of a run. `cases` are the outcomes of the cases that reported, each with whether something bad was seen;
/// `planned` is how many should have reported.
///
/// An error weighs more than a fail: whoever trusts the run must mend it first.
pub fn exit_code(cases: impl IntoIterator<Item = (Outcome, bool)>, planned: usize, rules: Rules) -> ExitCode {
    let (mut reported, mut skipped, mut error, mut bad) = (0, 0, false, false);
    for (outcome, harm) in cases {
        reported += 1;
        skipped += usize::from(outcome == Outcome::Skip);
        error |= outcome == Outcome::Error;
        bad |= matches!(outcome, Outcome::Fail | Outcome::Xpass);
        bad |= outcome == Outcome::Flaky && !rules.allow_flaky;
        bad |= rules.strict && harm;
    }
    match (error || reported < planned, bad) {
        (true, _) => ExitCode::Error,
        (false, true) => ExitCode::Bad,
        (false, false) if reported == 0 => ExitCode::Error,
        (false, false) if skipped == reported => ExitCode::AllSkipped,
        (false, false) => ExitCode::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Error, Fail, Flaky, Pass, Skip, Xfail, Xpass};

    fn code(outcomes: &[Outcome], planned: usize, strict: bool) -> ExitCode {
        let rules = Rules { strict, allow_flaky: false };
        exit_code(outcomes.iter().map(|outcome| (*outcome, matches!(outcome, Xfail | Fail))), planned, rules)
    }

    #[test]
    fn a_flaky_case_is_bad_unless_it_is_allowed_and_strict_forgives_no_harm() {
        let flaky = |allow_flaky, strict, harm| {
            exit_code([(Pass, false), (Flaky, harm)], 2, Rules { strict, allow_flaky })
        };
        assert_eq!(flaky(false, false, false), ExitCode::Bad);
        assert_eq!(flaky(true, false, true), ExitCode::Good);
        assert_eq!(flaky(true, true, true), ExitCode::Bad);
        assert_eq!(flaky(true, true, false), ExitCode::Good);
    }

    #[test]
    fn the_worst_case_decides_and_an_error_weighs_most() {
        assert_eq!(code(&[Pass, Xfail, Skip], 3, false), ExitCode::Good);
        assert_eq!(code(&[Pass, Fail], 2, false), ExitCode::Bad);
        assert_eq!(code(&[Pass, Xpass], 2, false), ExitCode::Bad);
        assert_eq!(code(&[Fail, Error], 2, false), ExitCode::Error);
        assert_eq!(code(&[Skip, Skip], 2, false), ExitCode::AllSkipped);
    }

    #[test]
    fn a_case_that_never_reported_is_an_error() {
        assert_eq!(code(&[Pass], 2, false), ExitCode::Error);
        assert_eq!(code(&[], 0, false), ExitCode::Error);
    }

    #[test]
    fn strict_forgives_no_known_bad_row() {
        assert_eq!(code(&[Pass, Xfail], 2, true), ExitCode::Bad);
        assert_eq!(code(&[Pass, Pass], 2, true), ExitCode::Good);
    }
}
