// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From scenarios and a filter to cases: stable ids, a stable order, attempts, boots.

mod filter;
#[cfg(test)]
mod tests;

pub use filter::{Filter, FilterError, Words};

use crate::scenario::{Expectation, MachineNeeds, Point, Scenario};
use std::sync::Arc;

/// One case: a scenario at one point of its matrix, in one attempt.
#[derive(Debug, Clone)]
pub struct Case {
    /// `scenario/fs/pin/release[/variant]`: the same in every run and for every attempt.
    pub id: String,
    /// From 1; `--repeat` makes more than one.
    pub attempt: u32,
    /// What is to be done.
    pub scenario: Arc<Scenario>,
    /// Where in the matrix.
    pub point: Point,
    /// It must show nothing, or a planted fault: its failure makes the boot unbelievable.
    pub control: bool,
}

impl Case {
    /// The case of a point.
    pub fn new(scenario: &Arc<Scenario>, point: Point, attempt: u32) -> Self {
        let id = format!("{}/{point}", scenario.name);
        Self { id, attempt, scenario: scenario.clone(), point, control: false }
    }

    /// Id and, where there are several, the attempt: `lost-update/ext4/pin/clean#2`.
    pub fn label(&self) -> String {
        match self.attempt {
            1 => self.id.clone(),
            attempt => format!("{}#{attempt}", self.id),
        }
    }

    /// It can only run in a guest with the driver.
    pub fn needs_driver(&self) -> bool {
        self.scenario.steps_of(&self.point).any(|step| step.needs(&self.point).driver)
    }

    /// What it needs of its virtual machine: what the scenario does, and what its pins do.
    pub fn machine(&self) -> MachineNeeds {
        let iommu = self.scenario.steps_of(&self.point).any(|step| step.needs(&self.point).iommu);
        MachineNeeds { iommu, ..self.scenario.machine.clone() }
    }

    /// What the scenario expects. Checked scenarios have one for each point.
    pub fn expectation(&self) -> Option<&Expectation> {
        self.scenario.expectation(&self.point)
    }
}

/// All cases of `scenarios` that the filter accepts, in the order of the scenarios and their matrices, whole attempts
/// one after the other: a verdict that changes shows early.
pub fn cases(scenarios: &[Arc<Scenario>], filter: &Filter, repeat: u32) -> Vec<Case> {
    (1..=repeat.max(1))
        .flat_map(|attempt| scenarios.iter().map(move |scenario| (attempt, scenario)))
        .filter(|(_, scenario)| filter.wants_group(scenario))
        .flat_map(|(attempt, scenario)| {
            let points =
                scenario.matrix.points().into_iter().filter(|point| filter.wants_point(scenario, point));
            points.map(move |point| Case::new(scenario, point, attempt))
        })
        .collect()
}
