// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the runs of one case come to together: how often it was as expected, how often each set of observations came, and
//! between which bounds the true shares lie. Of a race that was run often enough, whether it was ever won.

use crate::race::Race;
use crate::result::CaseResult;
use crate::words::{Observation, Outcome};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A share of runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many.
    pub runs: u32,
    /// Bounds of the true share, from 0 to 1: Wilson's interval of 95 %.
    pub low: f64,
    /// The upper one.
    pub high: f64,
}

impl Share {
    fn of(runs: u32, all: u32) -> Self {
        let (low, high) = wilson(runs, all);
        Self { runs, low, high }
    }

    /// `72-99 %`.
    pub fn bounds(&self) -> String {
        format!("{:.0}-{:.0} %", self.low * 100.0, self.high * 100.0)
    }
}

/// Runs that showed the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// What they showed.
    pub observations: BTreeSet<Observation>,
    /// How many did.
    pub share: Share,
}

/// A case that ran more than once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Id of the case.
    pub id: String,
    /// Runs that showed something.
    pub runs: u32,
    /// Runs that proved nothing, or were skipped: not among `runs`.
    pub unproven: u32,
    /// Of `runs`, those that were as expected.
    pub as_expected: Share,
    /// The most frequent first.
    pub seen: Vec<Seen>,
    /// What the scenario declares, if it is a race.
    pub race: Option<Race>,
}

impl Aggregate {
    /// The race was run often enough, and what must come never did.
    pub fn is_never_won(&self) -> bool {
        self.race.as_ref().is_some_and(|race| {
            self.runs >= race.within && self.seen.iter().all(|seen| seen.observations != race.observe)
        })
    }
}

/// Of each case that ran more than once, in the order in which they first came.
pub fn aggregates(cases: &[CaseResult], races: &BTreeMap<String, Race>) -> Vec<Aggregate> {
    let mut order = Vec::new();
    let mut by_id: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    for case in cases {
        let runs = by_id.entry(&case.id).or_default();
        if runs.is_empty() {
            order.push(case.id.as_str());
        }
        runs.push(case);
    }
    let repeated = order.into_iter().filter_map(|id| Some((id, by_id.remove(id)?)));
    repeated
        .filter(|(_, runs)| runs.len() > 1)
        .map(|(id, runs)| aggregate(id, &runs, races.get(id)))
        .collect()
}

fn aggregate(id: &str, cases: &[&CaseResult], race: Option<&Race>) -> Aggregate {
    let showed: Vec<&&CaseResult> = cases.iter().filter(|case| shows(case)).collect();
    let runs = showed.len() as u32;
    let good = showed.iter().filter(|case| matches!(case.outcome, Outcome::Pass | Outcome::Xfail)).count();
    let mut counts: BTreeMap<&BTreeSet<Observation>, u32> = BTreeMap::new();
    for case in &showed {
        *counts.entry(&case.observations).or_default() += 1;
    }
    let mut seen: Vec<Seen> = counts
        .into_iter()
        .map(|(observations, n)| Seen { observations: observations.clone(), share: Share::of(n, runs) })
        .collect();
    seen.sort_by_key(|seen| Reverse(seen.share.runs));
    Aggregate {
        id: id.to_owned(),
        runs,
        unproven: cases.len() as u32 - runs,
        as_expected: Share::of(good as u32, runs),
        seen,
        race: race.cloned(),
    }
}

/// It has observations that count.
fn shows(case: &CaseResult) -> bool {
    !matches!(case.outcome, Outcome::Skip | Outcome::Error)
}

/// A race that was never won shows in its last run, so that every form counts it: what must come is known, and did not. The
/// single run was as expected; all of them together are not.
pub fn blame_last_runs(cases: &mut [CaseResult], aggregates: &[Aggregate]) {
    for aggregate in aggregates.iter().filter(|aggregate| aggregate.is_never_won()) {
        let last = cases.iter_mut().rev().find(|case| case.id == aggregate.id && shows(case));
        let (Some(case), Some(race)) = (last, &aggregate.race) else { continue };
        if !matches!(case.outcome, Outcome::Pass | Outcome::Xfail) {
            continue;
        }
        let words = race.observe.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" + ");
        case.outcome = match race.observe.iter().any(|word| word.is_bad()) {
            true => Outcome::Xpass,
            false => Outcome::Fail,
        };
        case.reason = format!(
            "a race: {words} never came in {} runs, expected at least once in {}: correct the scenario; the last run: {}",
            aggregate.runs, race.within, case.reason
        );
    }
}

/// Wilson's score interval of 95 %: between which bounds a share lies of which `hits` of `all` were seen. Unlike the usual
/// one it is right for few runs and for shares of all or nothing.
pub fn wilson(hits: u32, all: u32) -> (f64, f64) {
    /// Of the normal distribution, two-sided.
    const Z: f64 = 1.959_963_984_540_054;
    if all == 0 {
        return (0.0, 1.0);
    }
    let n = f64::from(all);
    let share = f64::from(hits.min(all)) / n;
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let (middle, scale) = (share + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let rounded = |bound: f64| (bound.clamp(0.0, 1.0) * 10_000.0).round() / 10_000.0;
    (rounded((middle - spread) / scale), rounded((middle + spread) / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_s_interval_is_that_of_the_tables() {
        for (hits, all, low, high) in [
            (0, 0, 0.0, 1.0),
            (0, 1, 0.0, 0.7935),
            (1, 1, 0.2065, 1.0),
            (0, 10, 0.0, 0.2775),
            (1, 10, 0.0179, 0.4042),
            (5, 10, 0.2366, 0.7634),
            (10, 10, 0.7225, 1.0),
            (5, 16, 0.1416, 0.5560),
            (15, 16, 0.7167, 0.9889),
            // These are Newcombe's (Statistics in Medicine 17, 1998, table I).
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (10_000, 10_000, 0.9996, 1.0),
        ] {
            assert_eq!(wilson(hits, all), (low, high), "{hits} of {all}");
        }
    }
}
