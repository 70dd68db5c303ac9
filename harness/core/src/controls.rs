// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two controls of every boot: a pin without DMA must be intact (where there is no driver, a file that nobody pins),
//! and a planted corruption must be seen, by guest and host. A boot in which one of them fails can prove nothing, so its cases become errors.

use crate::plan::Case;
use crate::scenario::{Fault, Scenario};
use crate::verdict::{Cause, Finding, Judgement, Observed, Outcome, Reader};
use std::sync::Arc;

const INTACT: (&str, &str) =
    ("control-intact.toml", include_str!("../../../tests/selftest/control-intact.toml"));
const CORRUPT: (&str, &str) =
    ("control-corrupt.toml", include_str!("../../../tests/selftest/control-corrupt.toml"));

/// The controls, to run before the first case of a boot, in a guest with or without the driver.
///
/// Errors: a fault in one of the built-in files, which a test excludes.
pub fn cases(driver: bool) -> Result<Vec<Case>, Vec<Fault>> {
    let mut cases = Vec::new();
    for (file, text) in [INTACT, CORRUPT] {
        let scenario = Arc::new(Scenario::parse(file, text)?);
        let points = scenario.matrix.points();
        cases
            .extend(points.into_iter().map(|point| Case { control: true, ..Case::new(&scenario, point, 1) }));
    }
    // One that pins has a twin that does not: the other is for the other kind of guest.
    let twins: Vec<String> =
        cases.iter().filter(|case| case.needs_driver()).map(|case| case.scenario.name.clone()).collect();
    cases.retain(|case| case.needs_driver() == driver || !twins.contains(&case.scenario.name));
    Ok(cases)
}

/// The judgement of a control is stricter than of a case: a corruption must be found by both readers.
pub fn passed(case: &Case, seen: &Observed, judgement: &Judgement) -> bool {
    let found_by = |reader| seen.findings.iter().any(|finding: &Finding| finding.reader == reader);
    case.control
        && match judgement.outcome {
            Outcome::Pass => true,
            Outcome::Xfail => found_by(Reader::Guest) && found_by(Reader::Host),
            _ => false,
        }
}

/// The judgement of a case whose boot failed a control.
pub fn spoiled(control: &str) -> Judgement {
    Judgement {
        outcome: Outcome::Error,
        cause: Some(Cause::Infra),
        reason: format!("infra: control {control} failed in the same boot, so nothing in it counts"),
    }
}
