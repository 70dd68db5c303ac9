// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one clock: CLOCK_MONOTONIC in nanoseconds. Responses, ledger and pacing all read it here, so that their
//! times can be compared.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds on CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since the epoch on CLOCK_REALTIME.
pub fn realtime_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

fn nanoseconds(time: Timespec) -> u64 {
    // Neither clock is before its zero on a running host; a clock set before 1970 counts as 1970.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let mut before = monotonic_ns();
        for _ in 0..1000 {
            let now = monotonic_ns();
            assert!(now >= before, "{now} after {before}");
            before = now;
        }
    }
}
