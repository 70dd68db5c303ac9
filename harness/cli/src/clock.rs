// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's one clock: the device stamps its ledger with it, and so do we what we send and get.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, ns.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Since boot, so never negative, and below 2^64 ns for five centuries.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_clock_that_instants_are_made_of() {
        let (before, instant) = (monotonic_ns(), std::time::Instant::now());
        while instant.elapsed().as_micros() < 100 {}
        assert!(monotonic_ns() - before >= 100_000);
    }
}
