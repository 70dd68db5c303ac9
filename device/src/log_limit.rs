// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Complaints about a guest: the first few as warnings, the rest for those who debug. A guest can make millions.

use std::sync::atomic::{AtomicU32, Ordering};

const WARNINGS: u32 = 16;

/// Counts complaints of one connection.
#[derive(Debug, Default)]
pub struct LogLimit(AtomicU32);

impl LogLimit {
    /// Log what `text` says.
    pub fn warn(&self, text: impl FnOnce() -> String) {
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(1)));
        match before.unwrap_or(WARNINGS) {
            n if n < WARNINGS => log::warn!("{}", text()),
            WARNINGS => log::warn!("{}; further complaints about this guest at level debug", text()),
            _ => log::debug!("{}", text()),
        }
    }
}
