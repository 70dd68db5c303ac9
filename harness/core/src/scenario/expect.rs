// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scenario expects of a case, and why.

use crate::matrix::Condition;
use crate::words::Observation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One row of expectations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// Line in the file.
    pub line: usize,
    /// Cases that it speaks of.
    pub when: Condition,
    /// The exact set of observations.
    pub observe: BTreeSet<Observation>,
    /// Name of the errno that a refusal or a detection must carry, if the row says one.
    pub errno: Option<String>,
    /// The exact set of jobs that `settle` finds asleep.
    #[serde(default)]
    pub blocked: BTreeSet<String>,
    /// The kernel's mechanism, with its functions.
    pub reason: String,
}

impl Expectation {
    /// The kernel is known to do harm here: the set holds a word worse than `refused`.
    pub fn is_known_bad(&self) -> bool {
        self.observe.iter().any(|word| word.is_bad())
    }
}
