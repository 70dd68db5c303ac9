// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asking again until pages are clean. Time is counted from what the agent and the pauses took: no clock here.

use longpin_proto::agent::{Fact, Outcome};

/// Milliseconds between two questions: short beside an fsync, long beside a round trip.
const PAUSE_MS: u64 = 20;
/// Milliseconds until a proof is given up: writeback of a few pages takes far less, and a page that is still dirty
/// after three writeback periods of 5 s will stay so.
const DEADLINE_MS: u64 = 15_000;

/// State of one proof.
#[derive(Debug)]
pub struct Poll {
    left_us: u64,
    pause: bool,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Proven.
    Shown,
    /// Not yet.
    Again,
    /// Not in time.
    GivenUp(String),
}

impl Poll {
    pub fn new(patience_percent: u64) -> Self {
        Self { left_us: DEADLINE_MS * 10 * patience_percent, pause: false }
    }

    /// The pause that is due before the next question, once.
    pub fn take_pause(&mut self) -> Option<u64> {
        std::mem::take(&mut self.pause).then_some(PAUSE_MS)
    }

    pub fn judge(&mut self, outcome: &Outcome, elapsed_us: u64) -> Answer {
        let Outcome::Done { fact: Fact::PageState(state) } = outcome else { return Answer::Shown };
        if state.dirty == 0 && state.writeback == 0 {
            return Answer::Shown;
        }
        let spent = elapsed_us + PAUSE_MS * 1000;
        if self.left_us <= spent {
            return Answer::GivenUp(format!(
                "pages are not clean in time: {} dirty, {} under writeback of {} cached",
                state.dirty, state.writeback, state.cached
            ));
        }
        self.left_us -= spent;
        self.pause = true;
        Answer::Again
    }
}
