// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rate limit by absolute deadlines. Pure: the time is an argument.
//!
//! Cell k is due at `start + k / rate`, whatever happened before, so a thread that was late catches up and the
//! average rate is exact.

const NS_PER_S: u128 = 1_000_000_000;

/// Pace of one program.
pub(super) struct Pace {
    cells_per_s: u64,
    start_ns: u64,
}

/// What a program may do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Move so many cells, not zero.
    Cells(u64),
    /// Nothing before this time.
    NotBefore(u64),
}

impl Pace {
    /// `cells_per_s` of 0: no limit.
    pub(super) fn new(cells_per_s: u64, start_ns: u64) -> Self {
        Self { cells_per_s, start_ns }
    }

    pub(super) fn due(&self, now_ns: u64, done: u64) -> Due {
        if self.cells_per_s == 0 {
            return Due::Cells(u64::MAX);
        }
        let elapsed = u128::from(now_ns.saturating_sub(self.start_ns));
        // The first cell is due at the start itself.
        let due = saturate(elapsed * u128::from(self.cells_per_s) / NS_PER_S).saturating_add(1);
        match due.saturating_sub(done) {
            0 => {
                let wait = (u128::from(done) * NS_PER_S).div_ceil(u128::from(self.cells_per_s));
                Due::NotBefore(self.start_ns.saturating_add(saturate(wait)))
            }
            cells => Due::Cells(cells),
        }
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_are_due_at_their_own_time() {
        let pace = Pace::new(1000, 5_000);
        assert_eq!(pace.due(5_000, 0), Due::Cells(1));
        assert_eq!(pace.due(5_000, 1), Due::NotBefore(1_005_000));
        assert_eq!(pace.due(1_004_999, 1), Due::NotBefore(1_005_000));
        assert_eq!(pace.due(1_005_000, 1), Due::Cells(1));
        // Late by ten cells: all ten are due.
        assert_eq!(pace.due(10_005_000, 1), Due::Cells(10));
    }

    #[test]
    fn without_a_rate_everything_is_due() {
        assert_eq!(Pace::new(0, 7).due(0, u64::MAX), Due::Cells(u64::MAX));
    }

    proptest! {
        /// At the time that a wait names, a cell is due; one nanosecond before, none is.
        #[test]
        fn a_wait_ends_exactly_when_the_next_cell_is_due(
            rate in 1u64.., start in 0u64..1 << 40, now in 0u64..1 << 41, done in 0u64..1 << 40,
        ) {
            let pace = Pace::new(rate, start);
            if let Due::NotBefore(at) = pace.due(now.max(start), done) && at < u64::MAX {
                prop_assert!(matches!(pace.due(at, done), Due::Cells(_)));
                prop_assert_eq!(pace.due(at - 1, done), Due::NotBefore(at));
            }
        }
    }
}
