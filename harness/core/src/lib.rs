// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pure heart of the harness: what is to be done, what was seen, what it means.
//!
//! Nothing here touches a process, a socket, a file, the environment or a clock (`clippy.toml` beside this crate
//! keeps it so). Text and facts go in, actions and words come out:
//!
//! * [`scenario`]: a TOML file becomes a checked [`scenario::Scenario`],
//! * [`plan`]: scenarios and a filter become [`plan::Case`]s with stable ids,
//! * [`machine`]: drives one case, an action at a time,
//! * [`record`]: all raw evidence of one case, in order,
//! * [`dmesg`]: what a line of the kernel log means,
//! * [`verdict`]: evidence becomes observations, observations become an outcome,
//! * [`controls`]: the two cases that show that a boot can be believed,
//! * [`result`]: what came of each case; [`events`]: the story of a run; [`report`] holds the views of it,
//! * [`compare`]: runs side by side; [`bisect`]: what the tries of one commit come to,
//! * [`findings`]: what a run found, for people who were not there,
//! * [`soak`]: random plans, and what explains what they show,
//! * [`exit_code`]: what the shell is told.
#![deny(unsafe_code, missing_docs)]

#[macro_use]
mod vocabulary;

pub mod aggregate;
pub mod attempts;
pub mod bisect;
pub mod compare;
pub mod controls;
pub mod dmesg;
pub mod events;
pub mod exit_code;
mod fields;
pub mod findings;
pub mod machine;
mod matrix;
pub mod minimise;
mod operations;
pub mod plan;
pub mod race;
pub mod record;
mod replay;
pub mod report;
pub mod result;
pub mod scenario;
pub mod soak;
pub mod steps;
pub mod verdict;
mod words;
