// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Views of a run: the JSON document, the table, the formats of continuous integration, and of each case the timeline and
//! the trace. Functions of events and records, and of nothing else.

mod document;
pub mod formats;
pub(crate) mod html;
mod table;
pub mod timeline;
pub mod trace;

pub use crate::result::{
    AddedModule, AdditionsInfo, BootResult, CaseError, CaseResult, Environment, HostInfo, KernelInfo,
    ModuleInfo, OverlayInfo, PinnerInfo, ProgramInfo, QemuInfo,
};
pub use document::{RESULT_SCHEMA, RunResult, Summary};
pub use table::{TableStyle, table};
pub(crate) use table::{empty_table, table_text};
