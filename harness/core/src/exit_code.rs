// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the shell is told of a run.

use crate::verdict::{Observation, Outcome};
use std::collections::BTreeSet;

/// Exit codes of `longpin run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Every outcome is pass, xfail or skip, and not all are skip.
    Good = 0,
    /// A fail or an xpass; with `--strict` also any observation but `intact` or `refused`.
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

/// Exit code of a run. `cases` are the outcomes of the cases that reported, `planned` is how many should have.
///
/// An error weighs more than a fail: whoever trusts the run must mend it first.
pub fn exit_code<'a>(
    cases: impl IntoIterator<Item = (Outcome, &'a BTreeSet<Observation>)>,
    planned: usize,
    strict: bool,
) -> ExitCode {
    let (mut reported, mut skipped, mut error, mut bad) = (0, 0, false, false);
    for (outcome, observations) in cases {
        reported += 1;
        skipped += usize::from(outcome == Outcome::Skip);
        error |= outcome == Outcome::Error;
        bad |= matches!(outcome, Outcome::Fail | Outcome::Xpass);
        bad |= strict && observations.iter().any(|word| word.is_bad());
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
    use Outcome::{Error, Fail, Pass, Skip, Xfail, Xpass};

    fn code(outcomes: &[Outcome], planned: usize, strict: bool) -> ExitCode {
        let sets: Vec<BTreeSet<Observation>> = outcomes
            .iter()
            .map(|outcome| {
                let bad = matches!(outcome, Xfail | Fail);
                [if bad { Observation::Lost } else { Observation::Intact }].into()
            })
            .collect();
        exit_code(outcomes.iter().copied().zip(&sets), planned, strict)
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
