// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One try of a commit: a run of the case, or what kept it from being one.

use super::fingerprint::Fingerprint;
use crate::result::CaseResult;
use crate::words::{Cause, Outcome};
use serde::{Deserialize, Serialize};

/// How the reason of a case begins for which no guest could be started.
pub const NO_GUEST: &str = "infra: no guest: ";

/// What came of a try. Only `Seen` says anything of the fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "try", rename_all = "kebab-case")]
pub enum Try {
    /// The case ran and was proven.
    Seen {
        /// What it showed.
        fingerprint: Fingerprint,
        /// In a sentence.
        why: String,
    },
    /// The case ran, and a step of its argument was not shown.
    Unproven {
        /// Which.
        why: String,
    },
    /// The laboratory or the host got in the way of the case, or a control of its boot was not passed.
    Infra {
        /// How.
        why: String,
    },
    /// The case cannot be tried on what this commit makes.
    NotRun {
        /// What is missing.
        why: String,
    },
    /// The commit does not build.
    NoBuild {
        /// The compiler's words.
        why: String,
    },
    /// A guest with what the commit makes did not get as far as the case.
    NoBoot {
        /// Its last words.
        why: String,
    },
    /// Nothing of the commit was tried: the laboratory does not work.
    Lab {
        /// What does not.
        why: String,
    },
}

impl Try {
    /// Of a case that has reported.
    pub fn of(case: &CaseResult) -> Self {
        let why = case.reason.clone();
        if let Some(fingerprint) = Fingerprint::of(case) {
            return Self::Seen { fingerprint, why };
        }
        match (case.outcome, case.error.as_ref().map(|error| error.cause)) {
            (_, Some(Cause::Unproven)) => Self::Unproven { why },
            (Outcome::Skip, _) => Self::NotRun { why },
            _ => match why.strip_prefix(NO_GUEST) {
                Some(why) => Self::NoBoot { why: why.to_owned() },
                None => Self::Infra { why },
            },
        }
    }

    /// What it showed.
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        match self {
            Self::Seen { fingerprint, .. } => Some(fingerprint),
            _ => None,
        }
    }

    /// What came of it, in a sentence.
    pub fn why(&self) -> &str {
        match self {
            Self::Seen { why, .. }
            | Self::Unproven { why }
            | Self::Infra { why }
            | Self::NotRun { why }
            | Self::NoBuild { why }
            | Self::NoBoot { why }
            | Self::Lab { why } => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(outcome: &str, cause: Option<&str>, observations: &[&str], reason: &str) -> CaseResult {
        let error = cause.map(|cause| serde_json::json!({"cause": cause, "message": reason}));
        let document = serde_json::json!({
            "id": "a/ext4/pin/clean", "attempt": 1, "scenario": "a", "fs": "ext4", "pin": "pin", "release": "clean",
            "variant": null, "control": false, "boot": 1, "observations": observations,
            "headline": observations.last(), "expected": [], "outcome": outcome, "error": error, "reason": reason,
            "generations": {"device": null, "guest": null, "host": null}, "errno": "EFAULT", "findings": [],
            "seconds": 0.0,
            "log": [],
            "reports": [
                {"title": "WARNING in known", "fingerprint": "0", "trace": [], "ignored": "known"},
                {"title": "WARNING in f", "fingerprint": "8f0f5a4d93c1", "trace": ["f"], "ignored": null},
            ],
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn only_what_was_proven_says_anything_of_the_fault() {
        let seen = |observations: &[&str], text: &str| {
            let found = Try::of(&case("fail", None, observations, "a reason: step `fsync` did not"));
            let (fingerprint, why) = (text.parse().unwrap(), "a reason: step `fsync` did not".to_owned());
            assert_eq!(found, Try::Seen { fingerprint, why }, "{text}");
        };
        seen(&["lost"], "lost");
        seen(&["refused"], "refused:EFAULT");
        seen(&["refused", "lost"], "lost+refused:EFAULT");
        seen(&["intact", "splat"], "crash:WARNING in f (8f0f5a4d93c1)");
        seen(&["panic"], "crash:WARNING in f (8f0f5a4d93c1)");
        seen(&["hang"], "crash:hang in step fsync");
        let other = |outcome: &str, cause, reason: &str| Try::of(&case(outcome, cause, &["lost"], reason));
        let why = || "x".to_owned();
        assert_eq!(other("error", Some("unproven"), "x"), Try::Unproven { why: why() });
        assert_eq!(other("error", Some("infra"), "x"), Try::Infra { why: why() });
        assert_eq!(other("skip", None, "x"), Try::NotRun { why: why() });
        assert_eq!(other("error", Some("infra"), "infra: no guest: x"), Try::NoBoot { why: why() });
    }
}
