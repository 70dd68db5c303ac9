// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cases that wait for a boot. Cases that need different machines cannot share one, so they are put
//! together by their needs, in the order in which each first comes, and keep their order otherwise.

use longpin_core::plan::Case;
use longpin_core::scenario::MachineNeeds;
use std::collections::VecDeque;

/// Cases in the order in which they will run.
pub struct Pending(VecDeque<Case>);

impl Pending {
    /// Put together by needs.
    pub fn new(cases: Vec<Case>) -> Self {
        let mut needs: Vec<MachineNeeds> = Vec::new();
        let mut order = |case: &Case| {
            let wanted = case.machine();
            needs.iter().position(|known| *known == wanted).unwrap_or_else(|| {
                needs.push(wanted);
                needs.len() - 1
            })
        };
        let mut cases: Vec<(usize, Case)> = cases.into_iter().map(|case| (order(&case), case)).collect();
        cases.sort_by_key(|(group, _)| *group);
        Self(cases.into_iter().map(|(_, case)| case).collect())
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the next boot must have.
    pub fn needs(&self) -> MachineNeeds {
        self.0.front().map(Case::machine).unwrap_or_default()
    }

    /// Cases that wait for such a machine, out of the line.
    pub fn take(&mut self, wants: impl Fn(&MachineNeeds) -> bool) -> Vec<Case> {
        let all = std::mem::take(&mut self.0);
        let (taken, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| wants(&case.machine()));
        self.0 = left.into();
        taken
    }

    /// Can the next case run on this machine?
    pub fn has_next_with(&self, needs: &MachineNeeds) -> bool {
        self.0.front().is_some_and(|case| case.machine() == *needs)
    }

    /// The next case, if it can run on this machine.
    pub fn next_with(&mut self, needs: &MachineNeeds) -> Option<Case> {
        self.has_next_with(needs).then(|| self.0.pop_front()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_core::scenario::Scenario;
    use std::sync::Arc;

    fn case(name: &str, machine: &str, attempt: u32) -> Case {
        let text = format!(
            "schema = 1\nname = \"{name}\"\ntitle = \"t\"\nmechanism = \"m\"\n{machine}\nmatrix.fs = [\"tmpfs\"]\n\
             step = [\"mkfs\"]\n[[expect]]\nobserve = \"intact\"\nreason = \"r\"\n"
        );
        let scenario = Arc::new(Scenario::parse(&format!("{name}.toml"), &text).unwrap());
        let point = scenario.matrix.points().remove(0);
        Case::new(&scenario, point, attempt)
    }

    #[test]
    fn cases_of_one_scenario_that_pin_behind_an_iommu_have_a_boot_of_their_own() {
        let text = "schema = 1\nname = \"a\"\ntitle = \"t\"\nmechanism = \"m\"\nmatrix.fs = [\"tmpfs\"]\n\
             matrix.pin = [\"vfio\", \"vm-writev\"]\nmatrix.release = [\"dirty\"]\nmatrix.variant = [\"x\", \"y\"]\n\
             step = [\"mkfs\", \"mount\", \"create\", \"map\", \"pin\", \"release\"]\n\
             [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";
        let scenario = Arc::new(Scenario::parse("a.toml", text).unwrap());
        let points = scenario.matrix.points().into_iter();
        let mut pending = Pending::new(points.map(|point| Case::new(&scenario, point, 1)).collect());
        let mut boots = Vec::new();
        while !pending.is_empty() {
            let needs = pending.needs();
            let pins =
                std::iter::from_fn(|| pending.next_with(&needs)).map(|case| case.point.pin.to_string());
            boots.push((needs.iommu, pins.collect::<Vec<_>>().join(" ")));
        }
        assert_eq!(boots, [(true, "vfio vfio".to_owned()), (false, "vm-writev vm-writev".to_owned())]);
    }

    #[test]
    fn a_boot_takes_cases_of_one_machine_and_order_is_kept_otherwise() {
        let fio = "machine.programs = [\"fio\"]";
        let cases = vec![case("a", "", 1), case("b", fio, 1), case("a", "", 2), case("b", fio, 2)];
        let mut pending = Pending::new(cases);
        let mut boots = Vec::new();
        while !pending.is_empty() {
            let needs = pending.needs();
            let labels = std::iter::from_fn(|| pending.next_with(&needs)).map(|case| case.label());
            boots.push(labels.collect::<Vec<_>>().join(" "));
        }
        let mut pending = Pending::new(vec![case("a", "", 1), case("b", fio, 1), case("c", "", 1)]);
        let needs = pending.needs();
        let labels = |cases: Vec<Case>| cases.iter().map(Case::label).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(pending.take(|machine| *machine == needs)), "a/tmpfs/none/none c/tmpfs/none/none");
        assert_eq!(labels(pending.take(|_| true)), "b/tmpfs/none/none");
        assert!(pending.is_empty());
        assert_eq!(boots, ["a/tmpfs/none/none a/tmpfs/none/none#2", "b/tmpfs/none/none b/tmpfs/none/none#2"]);
    }
}
