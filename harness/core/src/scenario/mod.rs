// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenario files: text in, a checked [`Scenario`] out. Whatever is wrong with a file is found here, before anything
//! boots, and every fault names file, line, value and mend. `docs/scenario-format.md` describes the format.

mod check;
mod expect;
mod machine;
mod parse;
#[cfg(test)]
mod tests;

pub use crate::fields::Fault;
pub use crate::matrix::{Condition, Flavour, Matrix, Pin, Point, Release};
pub use crate::steps::Step;
pub use expect::{Expectation, RaceRow};
pub use machine::MachineNeeds;

/// Version of the format, the file's `schema`.
pub const SCHEMA: u64 = 1;

/// One reproduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Name, the same as the file's.
    pub name: String,
    /// One line for lists.
    pub title: String,
    /// What happens in the kernel and why.
    pub mechanism: String,
    /// Groups that it belongs to.
    pub groups: Vec<String>,
    /// Pages of a file that says nothing else.
    pub pages: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
    /// What the guest must have.
    pub machine: MachineNeeds,
    /// Axes.
    pub matrix: Matrix,
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// Expectations; the first that accepts a case counts.
    pub expect: Vec<Expectation>,
}

impl Scenario {
    /// Parse and check one file. `file` is its name as the messages give it; its stem must be the scenario's name.
    ///
    /// Errors: every fault of the file, in the order of its lines.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Fault>> {
        let scenario = parse::document(file, text)?;
        let mut faults = check::faults(file, &scenario);
        if faults.is_empty() {
            return Ok(scenario);
        }
        faults.sort_by_key(|fault| fault.line);
        Err(faults)
    }

    /// The expectation of a point: the first that accepts it.
    pub fn expectation(&self, point: &Point) -> Option<&Expectation> {
        self.expect.iter().find(|expectation| expectation.when.accepts(point))
    }

    /// The steps of a point.
    pub fn steps_of<'a>(&'a self, point: &'a Point) -> impl Iterator<Item = &'a Step> {
        self.steps.iter().filter(|step| step.when.accepts(point))
    }
}
