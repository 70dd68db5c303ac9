// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All of a run in one table: the gravest word of each scenario on each file system. What comes only where a driver gives
//! its pages back without the dirty bit is the driver's fault, and is told from what comes with it as well.

use crate::report::RunResult;
use crate::result::CaseResult;
use crate::words::Observation;

/// One row for each scenario, one column for each file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Names of the file systems, without mount options.
    pub file_systems: Vec<String>,
    /// Names of the scenarios, with a cell for each file system; none where no case of it saw anything.
    pub rows: Vec<(String, Vec<Option<Worst>>)>,
}

/// The gravest word of some cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worst {
    /// The word.
    pub word: Observation,
    /// It was seen in cases of release `clean` only.
    pub clean_only: bool,
}

impl Worst {
    fn of<'r>(results: impl Iterator<Item = &'r CaseResult> + Clone) -> Option<Self> {
        let gravest = |clean: bool| {
            let of_release = results.clone().filter(|result| (result.release == CLEAN) == clean);
            of_release.flat_map(|result| &result.observations).max().copied()
        };
        // A kernel that hurts itself does so whatever the driver forgets.
        let hurt = |word| matches!(word, Observation::Splat | Observation::Panic | Observation::Hang);
        let of_clean = |word| Self { word, clean_only: !hurt(word) };
        match (gravest(false), gravest(true)) {
            (Some(word), Some(clean)) if clean > word => Some(of_clean(clean)),
            (Some(word), _) => Some(Self { word, clean_only: false }),
            (None, clean) => clean.map(of_clean),
        }
    }
}

/// How a driver gives pages back that forgets to set them dirty.
const CLEAN: &str = "clean";

impl Overview {
    /// Of a run.
    pub fn of(run: &RunResult) -> Self {
        let (mut file_systems, mut names): (Vec<String>, Vec<String>) = Default::default();
        for case in &run.cases {
            for (list, word) in [(&mut file_systems, base(&case.fs)), (&mut names, case.scenario.as_str())] {
                if !list.iter().any(|known| known == word) {
                    list.push(word.to_owned());
                }
            }
        }
        let cell = |name: &str, fs: &str| {
            Worst::of(run.cases.iter().filter(|case| case.scenario == name && base(&case.fs) == fs))
        };
        let rows =
            names.iter().map(|name| (name.clone(), file_systems.iter().map(|fs| cell(name, fs)).collect()));
        Self { rows: rows.collect(), file_systems }
    }
}

/// A file system without its mount options.
fn base(fs: &str) -> &str {
    fs.split(':').next().unwrap_or(fs)
}
