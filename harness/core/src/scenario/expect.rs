// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scenario expects of a case, and why.

use crate::matrix::Condition;
use crate::race::Race;
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
    /// Who wins is not certain; none: the case shows the same in every run.
    #[serde(default)]
    pub race: Option<RaceRow>,
    /// The kernel's mechanism, with its functions.
    pub reason: String,
}

/// Of a race: [`Expectation::observe`] is the set that comes at least once in so many runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaceRow {
    /// In how many.
    pub within: u32,
    /// Other sets, any of which may come.
    pub or: Vec<BTreeSet<Observation>>,
}

impl Expectation {
    /// A run that shows this is as expected.
    pub fn accepts(&self, seen: &BTreeSet<Observation>) -> bool {
        *seen == self.observe || self.race.as_ref().is_some_and(|race| race.or.contains(seen))
    }

    /// What the runs of this case must come to together, if it is a race.
    pub fn race(&self) -> Option<Race> {
        let RaceRow { within, .. } = self.race.as_ref()?;
        Some(Race { observe: self.observe.clone(), within: *within })
    }

    /// The kernel is known to do harm here: the set holds a word worse than `refused`.
    pub fn is_known_bad(&self) -> bool {
        self.observe.iter().any(|word| word.is_bad())
    }
}
