// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a disk does otherwise than a plain one: rules, and the requests that they hold. Pure: no thread, no memory,
//! no clock; times are arguments.
//!
//! [`Rules`] decides about a request, [`Holds`] keeps those that wait and says when their time is over. Both belong
//! to `audit::Watch`, which has the lock and the threads.

mod holds;
mod rules;

pub use holds::{Ended, Holds, Place};
pub use rules::{Decision, RuleError, Rules, Subject};

/// Most rules at once, over all disks. Each costs a comparison for each request.
pub const MAX_RULES: usize = 64;
