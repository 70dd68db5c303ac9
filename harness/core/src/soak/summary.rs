// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a soak came to. A plan that proves nothing is no failure of the kernel's, and no success either: it is counted.

use crate::exit_code::ExitCode;
use crate::report::RunResult;
use crate::result::CaseResult;
use crate::words::{Cause, Outcome};
use std::fmt;

/// Plans by what came of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Everything was intact.
    pub intact: usize,
    /// Something else was seen, which the table explains.
    pub explained: usize,
    /// Nothing was shown: unproven, or skipped.
    pub unproven: usize,
    /// A fault of ours, or never reported: which.
    pub broken: Vec<String>,
    /// Something was seen that no row explains: which, with file system and what was seen.
    pub failed: Vec<Failed>,
}

/// A plan with an anomaly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its seed, as the name of its scenario has it.
    pub seed: String,
    /// File system.
    pub fs: String,
    /// What was seen.
    pub seen: String,
}

impl Summary {
    /// Of a run.
    pub fn of(result: &RunResult) -> Self {
        let mut summary = Self { broken: result.missing.clone(), ..Self::default() };
        for case in &result.cases {
            summary.add(case);
        }
        summary
    }

    fn add(&mut self, case: &CaseResult) {
        match (case.outcome, &case.error) {
            (Outcome::Pass, _) => self.intact += 1,
            (Outcome::Xfail, _) => self.explained += 1,
            (Outcome::Skip, _) => self.unproven += 1,
            (Outcome::Error, Some(error)) if error.cause == Cause::Unproven => self.unproven += 1,
            (Outcome::Error, _) => self.broken.push(case.label()),
            (Outcome::Fail | Outcome::Xpass | Outcome::Flaky, _) => {
                let words: Vec<&str> = case.observations.iter().map(|word| word.as_str()).collect();
                let seed = case.scenario.trim_start_matches("soak-").to_owned();
                self.failed.push(Failed { seed, fs: case.fs.clone(), seen: words.join(", ") });
            }
        }
    }

    /// What the shell is told.
    pub fn exit_code(&self) -> ExitCode {
        match (self.broken.is_empty(), self.failed.is_empty()) {
            (false, _) => ExitCode::Error,
            (true, false) => ExitCode::Bad,
            (true, true) if self.intact + self.explained == 0 => ExitCode::Error,
            (true, true) => ExitCode::Good,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { intact, explained, unproven, broken, failed } = self;
        write!(
            f,
            "soak: {intact} intact, {explained} explained, {unproven} unproven, {} broken, {} failed",
            broken.len(),
            failed.len()
        )?;
        for Failed { seed, fs, seen } in failed {
            write!(
                f,
                "\nseed {seed} on {fs} shows {seen}, which no row explains; again: longpin soak --seed {seed} --cases 1 --fs {fs}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Observation;

    fn case(outcome: &str, cause: Option<&str>, observations: &[Observation]) -> CaseResult {
        let error = cause.map(|cause| serde_json::json!({"cause": cause, "message": "m"}));
        serde_json::from_value(serde_json::json!({
            "id": "soak-7/ext4/none/none", "attempt": 1, "scenario": "soak-7", "fs": "ext4", "pin": "none",
            "release": "none", "variant": null, "control": false, "boot": 1, "observations": observations,
            "headline": null, "expected": [], "outcome": outcome, "error": error, "reason": "r",
            "generations": {"device": null, "guest": null, "host": null}, "errno": null, "findings": [],
            "seconds": 0.0, "log": [],
        }))
        .expect("a case")
    }

    fn of(cases: Vec<CaseResult>, missing: &[&str]) -> Summary {
        let missing = missing.iter().map(|label| (*label).to_owned()).collect();
        Summary::of(&RunResult { cases, missing, ..RunResult::default() })
    }

    #[test]
    fn what_no_row_explains_fails_with_its_seed() {
        let good = || case("pass", None, &[Observation::Intact]);
        let known = || case("xfail", None, &[Observation::Lost]);
        let unproven = || case("error", Some("unproven"), &[]);
        assert_eq!(of(vec![good(), known(), unproven()], &[]).exit_code(), ExitCode::Good);
        let failed = of(vec![good(), case("fail", None, &[Observation::Bleed])], &[]);
        assert_eq!(failed.exit_code(), ExitCode::Bad);
        let text = failed.to_string();
        assert!(text.contains("1 failed\nseed 7 on ext4 shows bleed, which no row explains"), "{text}");
        assert!(text.ends_with("again: longpin soak --seed 7 --cases 1 --fs ext4"), "{text}");
        assert_eq!(of(vec![good(), case("error", Some("infra"), &[])], &[]).exit_code(), ExitCode::Error);
        assert_eq!(of(vec![good()], &["soak-8/ext4/none/none"]).exit_code(), ExitCode::Error);
        assert_eq!(of(vec![unproven()], &[]).exit_code(), ExitCode::Error, "nothing was shown at all");
    }
}
