// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A moment until which something is waited for. Every wait of the harness takes one.

use std::time::{Duration, Instant};

/// Pause between two looks at a condition that cannot be waited for otherwise.
const POLL_PAUSE: Duration = Duration::from_millis(5);

/// How long a message may take from its socket to whoever waits for it, on a host that does much else.
pub const HAND_OVER: Duration = Duration::from_secs(1);

/// A moment on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The moment.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The earlier of two.
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Time left; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Has it passed?
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// Look at `condition` until it gives something or the deadline passes (one last look included).
    pub fn poll<T>(self, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let late = self.passed();
            if let Some(value) = condition() {
                return Some(value);
            }
            if late {
                return None;
            }
            std::thread::sleep(POLL_PAUSE.min(self.left()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_is_seen_even_after_the_deadline() {
        assert_eq!(Deadline::after(Duration::ZERO).poll(|| Some(7)), Some(7));
    }

    #[test]
    fn a_condition_that_never_holds_ends_with_the_deadline() {
        let mut looks = 0;
        let end: Option<()> = Deadline::after(Duration::from_millis(20)).poll(|| {
            looks += 1;
            None
        });
        assert!(end.is_none() && looks >= 2, "{looks} looks");
    }

    #[test]
    fn the_earlier_of_two_wins() {
        let (near, far) = (Deadline::after(Duration::from_secs(1)), Deadline::after(Duration::from_secs(9)));
        assert_eq!(near.min(far), near);
        assert_eq!(far.min(near), near);
    }
}
