// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Text contract of longpin: JSON, one document a line, versioned.
//!
//! * [`agent`]: harness to agent (steps) and agent to harness (facts),
//! * [`control`]: harness to device daemon,
//! * [`disk`]: rules of the auditing disk and what it found,
//! * [`filesystem`]: the table of file systems, for all of them,
//! * [`facts`]: the facts themselves, as the verdict reads them,
//! * [`pinner`]: agent to a pinner of the user's, in lines of plain words.
#![deny(unsafe_code, missing_docs)]

pub mod agent;
pub mod control;
pub mod disk;
pub mod facts;
pub mod filesystem;
pub mod line;
pub mod pinner;

/// The word by which a message is known: the tag of its document.
fn tag(message: &impl serde::Serialize, key: &str) -> String {
    let document = serde_json::to_value(message).unwrap_or_default();
    document.get(key).and_then(|word| word.as_str()).unwrap_or_default().to_owned()
}
