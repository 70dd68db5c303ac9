// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file per subcommand; `run` has a module of its own.

pub mod compare;
pub mod doctor;
pub mod findings;
pub mod image;
pub mod kconfig;
pub mod list;
pub mod minimise;
pub mod pinner;
pub mod report;
pub mod shell;
