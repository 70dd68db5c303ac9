// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How often a fault shows, and what a row of clean tries is worth.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// More clean tries than anybody makes.
const MOST: u32 = 1_000_000;

/// In how many of the tries the fault showed where it is known to be: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitRate {
    /// Tries that showed it.
    pub hits: u32,
    /// All tries that showed something.
    pub tries: u32,
}

impl HitRate {
    /// The probability that `n` tries of a commit that has the fault are all clean.
    ///
    /// The true share of tries that show the fault is not known, only `hits` of `tries`. With every share as likely as any
    /// other before these were seen (Laplace), the share has a Beta(hits + 1, misses + 1) distribution after them, and the
    /// mean of (1 - share)^n over that is the product below. Unlike (1 - hits/tries)^n it is not 0 when every try hit, and
    /// unlike a bound of the share it needs no second probability.
    pub fn all_clean(self, n: u32) -> f64 {
        let misses = f64::from(self.tries.saturating_sub(self.hits));
        let tries = f64::from(self.tries);
        (0..n).map(f64::from).map(|i| (misses + 1.0 + i) / (tries + 2.0 + i)).product()
    }

    /// How many clean tries make the probability of a wrong `good` no greater than `error`.
    pub fn needed(self, error: f64) -> u32 {
        let misses = f64::from(self.tries.saturating_sub(self.hits));
        let tries = f64::from(self.tries);
        let (mut n, mut all_clean) = (0, 1.0);
        while all_clean > error && n < MOST {
            all_clean *= (misses + 1.0 + f64::from(n)) / (tries + 2.0 + f64::from(n));
            n += 1;
        }
        n.max(1)
    }
}

impl fmt::Display for HitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hits, self.tries)
    }
}

impl FromStr for HitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').map(|(hits, tries)| (hits.parse(), tries.parse()));
        match numbers {
            Some((Ok(hits @ 1..), Ok(tries))) if hits <= tries => Ok(Self { hits, tries }),
            _ => Err(format!(
                "`{text}` is no hit rate; write HITS/TRIES with at least one hit, as 8/10 for 8 of 10 tries"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hits: u32, tries: u32) -> HitRate {
        HitRate { hits, tries }
    }

    #[test]
    fn clean_tries_are_worth_what_the_beta_distribution_says() {
        // Mean of (1-p)^n under Beta(h+1, m+1): B(h+1, m+1+n) / B(h+1, m+1).
        for (hits, tries, n, expected) in [
            (1, 1, 0, 1.0),
            (1, 1, 1, 1.0 / 3.0),
            (1, 1, 2, 1.0 / 6.0),
            (1, 1, 5, 1.0 / 21.0),
            (5, 5, 1, 1.0 / 7.0),
            (5, 5, 2, 1.0 / 28.0),
            (10, 10, 2, 1.0 / 78.0),
            (5, 10, 1, 0.5),
            // 6*7 / (12*13)
            (5, 10, 2, 42.0 / 156.0),
            (1, 10, 1, 10.0 / 12.0),
        ] {
            let got = rate(hits, tries).all_clean(n);
            assert!((got - expected).abs() < 1e-12, "{hits}/{tries}, {n}: {got} is not {expected}");
        }
    }

    #[test]
    fn the_number_that_is_needed_is_the_smallest_that_is_enough() {
        for (hits, tries, error, expected) in [
            (1, 1, 0.05, 5),
            (5, 5, 0.05, 2),
            (5, 5, 0.0125, 3),
            (10, 10, 0.01, 3),
            (5, 10, 0.05, 6),
            (5, 10, 0.0125, 9),
            (1, 10, 0.05, 37),
            (1, 1, 1.0, 1),
        ] {
            let needed = rate(hits, tries).needed(error);
            assert_eq!(needed, expected, "{hits}/{tries} at {error}");
            assert!(rate(hits, tries).all_clean(needed) <= error);
            assert!(needed == 1 || rate(hits, tries).all_clean(needed - 1) > error);
        }
    }

    #[test]
    fn the_page_has_the_numbers_that_count() {
        let page = include_str!("../../../../docs/bisect.md");
        let mut rows = 0;
        for line in page.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, rate, a, b, _] = cells.as_slice() else { continue };
            let Ok(rate) = rate.parse::<HitRate>() else { continue };
            assert_eq!([rate.needed(0.05), rate.needed(0.0125)].map(|n| n.to_string()), [*a, *b], "{line}");
            rows += 1;
        }
        assert_eq!(rows, 5);
    }

    #[test]
    fn a_fault_that_shows_seldom_asks_for_more_and_more_knowledge_for_less() {
        let needed: Vec<u32> = (1..=10).map(|hits| rate(hits, 10).needed(0.01)).collect();
        assert!(needed.is_sorted_by(|a, b| a > b), "{needed:?}");
        assert!(rate(50, 100).needed(0.01) < rate(5, 10).needed(0.01));
    }

    #[test]
    fn a_rate_is_read_as_it_is_written_and_nothing_else_is() {
        assert_eq!("8/10".parse(), Ok(rate(8, 10)));
        assert_eq!(rate(8, 10).to_string(), "8/10");
        for text in ["", "1", "0/10", "3/2", "0.5", "-1/2", "1/0", "a/b", "1/2/3"] {
            assert!(text.parse::<HitRate>().is_err(), "{text}");
        }
    }
}
