// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which items can go: halves first, then smaller pieces, then each by itself, until none can any more. This is delta debugging
//! as Zeller and Hildebrandt describe it ("Simplifying and isolating failure-inducing input", 2002), for complements only: an
//! item that is needed is seldom enough without what stands before it.

use std::collections::BTreeSet;

/// A search; items are numbered from 0.
#[derive(Debug, Clone)]
pub struct Reduction {
    kept: Vec<usize>,
    /// How many are left out at once.
    piece: usize,
    /// Where in `kept` the next piece begins.
    at: usize,
    /// Something has gone since the last pass of single items began.
    progress: bool,
    tried: BTreeSet<Vec<usize>>,
}

impl Reduction {
    /// Of so many items.
    pub fn new(items: usize) -> Self {
        Self {
            kept: (0..items).collect(),
            piece: items.div_ceil(2).max(1),
            at: 0,
            progress: false,
            tried: BTreeSet::new(),
        }
    }

    /// What cannot be left out, as far as is known.
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// What to try next; none: nothing is left to try. `possible` makes a valid selection out of one that may lack what others
    /// need, by leaving out more; none if there is no such.
    pub fn propose(&mut self, possible: impl Fn(&[usize]) -> Option<Vec<usize>>) -> Option<Vec<usize>> {
        loop {
            if self.at >= self.kept.len() {
                match self.piece {
                    1 if !self.progress => return None,
                    1 => self.progress = false,
                    _ => self.piece = self.piece.div_ceil(2),
                }
                self.at = 0;
                if self.kept.is_empty() {
                    return None;
                }
            }
            let end = (self.at + self.piece).min(self.kept.len());
            let without: Vec<usize> = [&self.kept[..self.at], &self.kept[end..]].concat();
            match possible(&without) {
                Some(candidate) if self.tried.insert(candidate.clone()) => return Some(candidate),
                _ => self.at = end,
            }
        }
    }

    /// What [`Self::propose`] gave shows what is looked for, or does not.
    pub fn told(&mut self, candidate: Vec<usize>, shows: bool) {
        if shows {
            self.kept = candidate;
            self.progress = true;
        } else {
            self.at += self.piece;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left where exactly these are needed, and how many tries it took.
    fn reduced(
        items: usize,
        needed: &[usize],
        possible: impl Fn(&[usize]) -> Option<Vec<usize>>,
    ) -> (Vec<usize>, usize) {
        let mut reduction = Reduction::new(items);
        let mut tries = 0;
        while let Some(candidate) = reduction.propose(&possible) {
            tries += 1;
            assert!(tries < 5000, "it does not end");
            let shows = needed.iter().all(|item| candidate.contains(item));
            reduction.told(candidate, shows);
        }
        (reduction.kept().to_vec(), tries)
    }

    #[test]
    fn what_is_needed_stays_and_all_else_goes() {
        for needed in [&[][..], &[0], &[39], &[3, 17], &[0, 1, 2, 20, 38, 39]] {
            let (kept, tries) = reduced(40, needed, |items| Some(items.to_vec()));
            assert_eq!(kept, needed);
            assert!(tries < 130, "{needed:?} took {tries} tries");
        }
        assert_eq!(reduced(0, &[], |items| Some(items.to_vec())).0, Vec::<usize>::new());
    }

    #[test]
    fn what_cannot_be_is_not_tried() {
        // Item 5 is of no use without 4, nor 4 without 5.
        let pairs = |items: &[usize]| {
            let both = items.contains(&4) && items.contains(&5);
            Some(items.iter().copied().filter(|item| both || !matches!(item, 4 | 5)).collect())
        };
        assert_eq!(reduced(12, &[4, 9], pairs).0, [4, 5, 9]);
        assert_eq!(reduced(12, &[9], pairs).0, [9]);
        assert_eq!(reduced(12, &[9], |_| None), ((0..12).collect(), 0));
    }

    #[test]
    fn one_that_goes_only_after_another_goes_too() {
        // 1 can go only when 8 has gone, which comes later in the pass.
        let possible = |items: &[usize]| (items.contains(&1) || !items.contains(&8)).then(|| items.to_vec());
        assert_eq!(reduced(10, &[2], possible).0, [2]);
    }
}
