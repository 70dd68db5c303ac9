// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A permutation of `0..n` from a seed, without storing it. Pure.
//!
//! Over the next power of two, each step (add, multiply by an odd number, fold the high half into the low half) can
//! be undone, so their composition is a bijection; values outside `0..n` are fed through again until one falls
//! inside (cycle walking), which keeps it a bijection and takes less than two rounds on average.

const ROUNDS: usize = 3;

/// A bijection of `0..n` onto itself.
#[derive(Debug, Clone)]
pub struct Permutation {
    n: u64,
    mask: u64,
    fold: u32,
    keys: [(u64, u64); ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` (n not zero) that belongs to `seed` and `pass`.
    pub fn new(n: u64, seed: u64, pass: u64) -> Self {
        let bits = (64 - n.saturating_sub(1).leading_zeros()).max(1);
        let mut state = mix(seed ^ mix(pass));
        let mut draw = || {
            state = mix(state);
            state
        };
        // An odd factor has an inverse modulo a power of two.
        let keys = std::array::from_fn(|_| (draw(), draw() | 1));
        Self { n, mask: u64::MAX >> (64 - bits), fold: (bits / 2).max(1), keys }
    }

    /// Where `index` (below n) goes.
    pub fn at(&self, index: u64) -> u64 {
        let mut value = self.step(index);
        while value >= self.n {
            value = self.step(value);
        }
        value
    }

    fn step(&self, mut value: u64) -> u64 {
        for (add, factor) in self.keys {
            value = value.wrapping_add(add).wrapping_mul(factor) & self.mask;
            value ^= value >> self.fold;
        }
        value
    }
}

/// SplitMix64: spreads neighbouring seeds and passes over all 64 bits.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: u64, seed: u64, pass: u64) -> Vec<u64> {
        let permutation = Permutation::new(n, seed, pass);
        (0..n).map(|i| permutation.at(i)).collect()
    }

    #[test]
    fn every_value_comes_exactly_once() {
        for n in (1..=300).chain([511, 512, 513, 4095, 65_537]) {
            for seed in [0, 1, u64::MAX] {
                let mut seen = values(n, seed, 3);
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..n), "n={n} seed={seed}");
            }
        }
    }

    #[test]
    fn seed_and_pass_change_the_order_and_nothing_else_does() {
        assert_eq!(values(1000, 7, 0), values(1000, 7, 0));
        assert_ne!(values(1000, 7, 0), values(1000, 7, 1));
        assert_ne!(values(1000, 7, 0), values(1000, 8, 0));
    }

    #[test]
    fn the_order_is_not_nearly_sequential() {
        let order = values(4096, 42, 0);
        let neighbours = order.windows(2).filter(|w| w[0].abs_diff(w[1]) == 1).count();
        // A random permutation has two neighbouring pairs on average.
        assert!(neighbours < 40, "{neighbours} of 4095 steps go to a neighbour");
    }

    #[test]
    fn huge_ranges_need_no_memory() {
        let permutation = Permutation::new(1 << 62, 1, 0);
        assert!(permutation.at(0) < 1 << 62);
        assert_ne!(permutation.at(0), permutation.at(1));
    }
}
