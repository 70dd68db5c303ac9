// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bisection: what a try of one commit showed, what several tries of it come to, and how sure that is.
//!
//! * [`Fingerprint`]: what a case showed, as it is looked for in every commit,
//! * [`Try`]: one run of the case, or why there is none,
//! * [`HitRate`]: how often the fault shows where it is, and how many clean tries that asks for,
//! * [`difference`]: what the ends of a history differ in,
//! * [`Bisection`]: a whole search,
//! * [`decide`]: good, bad, cannot be tested, or more tries.

mod chance;
mod decide;
mod ends;
mod fingerprint;
mod story;
mod tries;

pub use chance::HitRate;
pub use decide::{Next, Rule, Ruling, Verdict, decide};
pub use ends::{Difference, difference};
pub use fingerprint::Fingerprint;
pub use story::{BISECTION_SCHEMA, Bisection, Current, Found, Question, Step, page, short};
pub use tries::{NO_GUEST, Try};
