// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Views of a run: the JSON document and the table. Functions of events and of nothing else.

mod document;
mod table;

pub use document::{
    BootResult, CaseError, CaseResult, Environment, HostInfo, KernelInfo, ModuleInfo, QemuInfo,
    RESULT_SCHEMA, RunResult, Summary,
};
pub use table::{TableStyle, table};
