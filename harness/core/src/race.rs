// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scenario declares of a race, as the runs of its case are judged by it together.

use crate::words::Observation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Who wins is not certain, but not always the same does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Race {
    /// The set that comes at least once...
    pub observe: BTreeSet<Observation>,
    /// ... in so many runs.
    pub within: u32,
}
