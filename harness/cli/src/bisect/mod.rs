// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bisection: commits are built, tried as `run` tries cases, and judged by `longpin_core::bisect`.

mod build;
pub mod drive;
mod git;
mod log;
pub mod step;
mod subject;
mod trial;
