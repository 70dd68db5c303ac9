// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scenario or a case needs of its virtual machine beside the usual. Cases with the same needs can share a boot, so needs
//! are equal and ordered whatever order a file names its programs in.

use crate::fields::{At, Fault, Fields};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Needs of a scenario, or of a case.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineNeeds {
    /// Programs that the guest must have.
    pub programs: BTreeSet<String>,
    /// More words for the kernel's command line, in the order of the file: a later one overrides.
    pub kernel_args: Vec<String>,
    /// An IOMMU, and a device behind it that a program may drive. No scenario asks for it: it follows from how a case pins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub iommu: bool,
}

impl MachineNeeds {
    /// From the table `machine`, if there is one.
    pub(super) fn parse(fields: &mut Fields<'_, '_>) -> Result<Self, Fault> {
        let Some(mut table) = fields.table("machine", "machine")? else { return Ok(Self::default()) };
        let programs = table.strings("programs")?;
        let strange = |at: &&At<String>| at.value.is_empty() || at.value.contains(['/', ' ']);
        if let Some(At { value, line }) = programs.iter().find(strange) {
            let text =
                format!("program `{value}` is not a name; write it without folder and arguments: \"fio\"");
            return Err(table.fault_at(*line, text));
        }
        let kernel_args = table.strings("kernel_args")?;
        let several = |at: &&At<String>| at.value.is_empty() || at.value.contains(char::is_whitespace);
        if let Some(At { value, line }) = kernel_args.iter().find(several) {
            let text =
                format!("kernel argument `{value}` is not one word; write one string for each argument");
            return Err(table.fault_at(*line, text));
        }
        let values = |list: Vec<At<String>>| list.into_iter().map(|at| at.value);
        let (programs, kernel_args) = (values(programs).collect(), values(kernel_args).collect());
        table.finish()?;
        Ok(Self { programs, kernel_args, iommu: false })
    }
}
