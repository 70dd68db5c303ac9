// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asking again until something is so: pages clean, a job over or asleep. Time is counted from what the agent and the
//! pauses took: no clock here.

use longpin_proto::agent::{Fact, Outcome};
use longpin_proto::facts::{JobState, PageState};

/// Milliseconds until it is given up: writeback of a few pages takes far less, and a page that is still dirty after
/// three writeback periods of 5 s will stay so.
const DEADLINE_MS: u64 = 15_000;
/// Milliseconds between two questions whether pages are clean: short beside an fsync, long beside a round trip.
const CLEAN_PAUSE_MS: u64 = 20;
/// Milliseconds between two looks at a job, and how many must show the same: what an idle machine does in a tenth of
/// this is over then, and what still sleeps at the same place waits for something that does not come by itself.
const LOOK_PAUSE_MS: u64 = 50;
const LOOKS: u64 = 4;

/// State of one proof.
#[derive(Debug)]
pub struct Poll {
    left_us: u64,
    pause_ms: u64,
    pause: bool,
    until: Until,
}

#[derive(Debug)]
enum Until {
    Clean,
    Settled {
        /// Looks that must agree.
        looks: u64,
        /// Looks in a row that did.
        same: u64,
        stack: Vec<String>,
    },
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
    pub fn until_clean(patience_percent: u64) -> Self {
        Self::new(patience_percent, CLEAN_PAUSE_MS, Until::Clean)
    }

    /// A slow machine needs more looks as well: it may leave a job asleep for long that nothing keeps waiting.
    pub fn until_settled(patience_percent: u64) -> Self {
        let looks = (LOOKS * patience_percent / 100).max(LOOKS);
        Self::new(patience_percent, LOOK_PAUSE_MS, Until::Settled { looks, same: 0, stack: Vec::new() })
    }

    fn new(patience_percent: u64, pause_ms: u64, until: Until) -> Self {
        Self { left_us: DEADLINE_MS * 10 * patience_percent, pause_ms, pause: false, until }
    }

    /// The pause that is due before the next question, once.
    pub fn take_pause(&mut self) -> Option<u64> {
        std::mem::take(&mut self.pause).then_some(self.pause_ms)
    }

    pub fn judge(&mut self, outcome: &Outcome, elapsed_us: u64) -> Answer {
        let missing = match (&mut self.until, outcome) {
            (Until::Clean, Outcome::Done { fact: Fact::PageState(state) }) => not_clean(state),
            (Until::Settled { looks, same, stack }, Outcome::Done { fact: Fact::Job(job) }) => {
                not_settled(job, *looks, same, stack)
            }
            _ => None,
        };
        let Some(missing) = missing else { return Answer::Shown };
        let spent = elapsed_us + self.pause_ms * 1000;
        if self.left_us <= spent {
            return Answer::GivenUp(missing);
        }
        self.left_us -= spent;
        self.pause = true;
        Answer::Again
    }
}

fn not_clean(state: &PageState) -> Option<String> {
    (state.dirty > 0 || state.writeback > 0).then(|| {
        format!(
            "pages are not clean in time: {} dirty, {} under writeback of {} cached",
            state.dirty, state.writeback, state.cached
        )
    })
}

/// Count the looks that show the job asleep at one place.
fn not_settled(job: &JobState, looks: u64, same: &mut u64, stack: &mut Vec<String>) -> Option<String> {
    let asleep = matches!(job.state, 'S' | 'D') && !job.stack.is_empty();
    if asleep && job.stack == *stack {
        *same += 1;
    } else {
        *same = u64::from(asleep);
        stack.clone_from(&job.stack);
    }
    (!job.finished && *same < looks).then(|| {
        format!(
            "the job is neither over nor asleep at one place after {} ms: state {}, in {}",
            job.elapsed_us / 1000,
            job.state,
            job.stack.first().map_or("no function of the kernel", String::as_str)
        )
    })
}
