// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was asked, of whom, and when.

use crate::record::Role;
use longpin_proto::agent::{Outcome, Step};
use longpin_proto::control::{Answer, Request};

/// A question and its answer.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'r> {
    /// The agent in the guest.
    Agent {
        /// What was asked.
        step: &'r Step,
        /// What came back.
        outcome: &'r Outcome,
    },
    /// The auditing disk.
    Disk {
        /// What was asked.
        request: &'r Request,
        /// What came back, or why it was refused.
        answer: &'r Result<Answer, String>,
    },
}

/// A question, its answer and their times.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'r> {
    /// Line of the scenario file, 0 for the machine's own.
    pub line: usize,
    /// The scenario's step in a word or two; empty for the machine's own.
    pub label: &'r str,
    /// What it was for.
    pub role: Role,
    /// Of whom.
    pub asked: Asked<'r>,
    /// When it was asked.
    pub from: u64,
    /// When it was answered.
    pub to: u64,
}
