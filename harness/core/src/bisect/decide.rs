// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tries of a commit come to. Bad and good have to be shown; whatever shows neither is 125, `git bisect skip`:
//! another crash, a build or a boot that fails, tries that prove nothing.

use super::chance::HitRate;
use super::fingerprint::Fingerprint;
use super::tries::Try;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Tries that prove nothing before a commit is given up.
const MOST_USELESS: u32 = 3;

/// How tries are judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The fault.
    pub bad: Fingerprint,
    /// What the case shows without it.
    pub good: Fingerprint,
    /// How often the fault shows where it is.
    pub rate: HitRate,
    /// The greatest probability with which a `good` may be wrong.
    pub error: f64,
    /// Tries with the fault that make a commit bad.
    pub hits: u32,
    /// Tries of one commit.
    pub most_tries: u32,
}

vocabulary! {
    /// What a commit is.
    pub enum Verdict {
        /// Enough tries were clean, and none had the fault.
        Good = "good",
        /// Enough tries had the fault.
        Bad = "bad",
        /// Neither can be said.
        Skip = "skip",
        /// The laboratory does not work; nothing is said of the commit.
        Stop = "stop",
    }
}

impl Verdict {
    /// What `git bisect run` is told. `reverse`: the fault is in the old commits, and the new ones have its fix.
    pub fn exit_code(self, reverse: bool) -> u8 {
        match (self, reverse) {
            (Self::Good, false) | (Self::Bad, true) => 0,
            (Self::Bad, false) | (Self::Good, true) => 1,
            (Self::Skip, _) => 125,
            (Self::Stop, _) => 128,
        }
    }
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    /// The word.
    pub verdict: Verdict,
    /// In a sentence.
    pub reason: String,
    /// The probability that a commit with the fault shows so many clean tries: that a `good` on these tries is wrong.
    pub wrong_good: f64,
    /// Tries with the fault.
    pub hits: u32,
    /// Tries without it.
    pub clean: u32,
    /// All tries.
    pub tries: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// So many more tries, then ask again.
    Try(u32),
    /// Nothing more.
    Done(Ruling),
}

/// Judge the tries so far.
pub fn decide(tries: &[Try], rule: &Rule) -> Next {
    let count = Count::of(tries, rule);
    let done = |verdict, reason| Next::Done(count.ruling(verdict, reason, rule));
    for one in tries {
        match one {
            Try::Lab { why } => return done(Verdict::Stop, why.clone()),
            Try::NoBuild { why } => return done(Verdict::Skip, format!("it does not build: {why}")),
            _ => {}
        }
    }
    if count.hits >= rule.hits {
        let reason = format!("{} of {} tries show `{}`", count.hits, count.all, rule.bad);
        return done(Verdict::Bad, reason);
    }
    for one in tries {
        match one {
            Try::NoBoot { why } => {
                return done(Verdict::Skip, format!("no guest got as far as the case: {why}"));
            }
            Try::NotRun { why } => return done(Verdict::Skip, format!("the case cannot be tried: {why}")),
            _ => {}
        }
    }
    // What it shows instead may hide the fault: clean tries beside it are no sample of all.
    if let (Some(other), 0) = (&count.other, count.hits) {
        let reason = format!(
            "a try shows `{other}`, which is neither the fault (`{}`) nor what is to be seen without it (`{}`)",
            rule.bad, rule.good
        );
        return done(Verdict::Skip, reason);
    }
    let needed = rule.rate.needed(rule.error);
    if count.hits == 0 && count.clean >= needed {
        return done(Verdict::Good, format!("{} of {} tries show `{}`", count.clean, count.all, rule.good));
    }
    if count.useless >= MOST_USELESS
        && let Some(why) = count.useless_why
    {
        return done(Verdict::Skip, format!("{} tries prove nothing: {why}", count.useless));
    }
    if count.all >= rule.most_tries {
        return done(Verdict::Skip, count.too_few(needed, rule));
    }
    let wanted = match count.hits {
        0 => needed - count.clean,
        hits => rule.hits - hits,
    };
    Next::Try(wanted.min(rule.most_tries - count.all).max(1))
}

#[derive(Default)]
struct Count<'t> {
    all: u32,
    hits: u32,
    clean: u32,
    /// The first that is neither.
    other: Option<&'t Fingerprint>,
    useless: u32,
    useless_why: Option<&'t str>,
}

impl<'t> Count<'t> {
    fn of(tries: &'t [Try], rule: &Rule) -> Self {
        let mut count = Self::default();
        for one in tries {
            count.all += 1;
            match one {
                Try::Seen { fingerprint, .. } if rule.bad.matches(fingerprint) => count.hits += 1,
                Try::Seen { fingerprint, .. } if rule.good.matches(fingerprint) => count.clean += 1,
                Try::Seen { fingerprint, .. } => _ = count.other.get_or_insert(fingerprint),
                Try::Unproven { why } | Try::Infra { why } => {
                    count.useless += 1;
                    count.useless_why = Some(why);
                }
                Try::NotRun { .. } | Try::NoBuild { .. } | Try::NoBoot { .. } | Try::Lab { .. } => {}
            }
        }
        count
    }

    fn too_few(&self, needed: u32, rule: &Rule) -> String {
        let mut text = match self.hits {
            0 => format!("{} of the {needed} clean tries that a `good` takes", self.clean),
            hits => format!("{hits} of the {} tries with `{}` that a `bad` takes", rule.hits, rule.bad),
        };
        let _ = write!(text, " came in {} tries (--max-tries)", self.all);
        text
    }

    fn ruling(&self, verdict: Verdict, reason: String, rule: &Rule) -> Ruling {
        Ruling {
            verdict,
            reason,
            wrong_good: rule.rate.all_clean(self.clean),
            hits: self.hits,
            clean: self.clean,
            tries: self.all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(hits: u32) -> Rule {
        Rule {
            bad: "lost".parse().unwrap(),
            good: "intact".parse().unwrap(),
            rate: HitRate { hits: 5, tries: 10 },
            error: 0.05,
            hits,
            most_tries: 12,
        }
    }

    /// `b`ad, `g`ood, `o`ther crash, other `w`ords, `h`ang, `u`nproven, `i`nfra, `n`ot run, no `B`uild, no `S`tart, `L`ab.
    fn tries(letters: &str) -> Vec<Try> {
        let seen = |text: &str| Try::Seen { fingerprint: text.parse().unwrap(), why: "w".into() };
        let why = || "w".to_owned();
        let one = |letter| match letter {
            'b' => seen("lost"),
            'g' => seen("intact"),
            'o' => seen("crash:BUG: in f"),
            'w' => seen("torn"),
            'h' => seen("crash:hang in step fsync"),
            'u' => Try::Unproven { why: why() },
            'i' => Try::Infra { why: why() },
            'n' => Try::NotRun { why: why() },
            'B' => Try::NoBuild { why: why() },
            'S' => Try::NoBoot { why: why() },
            'L' => Try::Lab { why: why() },
            other => panic!("{other}"),
        };
        letters.chars().map(one).collect()
    }

    /// The word, or how many more tries.
    fn word(letters: &str, hits: u32) -> String {
        match decide(&tries(letters), &rule(hits)) {
            Next::Try(more) => more.to_string(),
            Next::Done(ruling) => ruling.verdict.to_string(),
        }
    }

    #[test]
    fn bad_and_good_are_shown_and_all_else_is_neither() {
        for (letters, hits, expected) in [
            // Nothing yet: six clean tries at 5 of 10.
            ("", 1, "6"),
            ("ggg", 1, "3"),
            ("gggggg", 1, "good"),
            // One with the fault is enough, whatever came before.
            ("b", 1, "bad"),
            ("gggggb", 1, "bad"),
            ("ob", 1, "bad"),
            // Or as many as are asked for.
            ("b", 2, "1"),
            ("gb", 3, "2"),
            ("bgb", 2, "bad"),
            ("bgggggggggg", 2, "1"),
            ("bggggggggggg", 2, "skip"),
            ("bo", 2, "1"),
            // Another crash, other words, another hang: never good or bad, and no clean try beside makes them so.
            ("o", 1, "skip"),
            ("w", 1, "skip"),
            ("h", 1, "skip"),
            ("ggggggo", 1, "skip"),
            // What proves nothing is tried again, but not for ever.
            ("u", 1, "6"),
            ("ui", 1, "6"),
            ("uiu", 1, "skip"),
            ("uugggggg", 1, "good"),
            ("uuub", 1, "bad"),
            ("iii", 1, "skip"),
            // What does not build or boot, or cannot be tried.
            ("B", 1, "skip"),
            ("S", 1, "skip"),
            ("gS", 1, "skip"),
            ("n", 1, "skip"),
            // The laboratory.
            ("L", 1, "stop"),
            ("ggL", 1, "stop"),
            ("bL", 1, "stop"),
        ] {
            assert_eq!(word(letters, hits), expected, "{letters} with {hits}");
        }
    }

    #[test]
    fn no_more_tries_are_asked_for_than_may_be_made() {
        let few = Rule { most_tries: 4, ..rule(1) };
        assert_eq!(decide(&tries(""), &few), Next::Try(4));
        assert_eq!(decide(&tries("ggg"), &few), Next::Try(1));
        let Next::Done(ruling) = decide(&tries("gggg"), &few) else { panic!("more") };
        assert_eq!(ruling.verdict, Verdict::Skip);
        assert_eq!(ruling.reason, "4 of the 6 clean tries that a `good` takes came in 4 tries (--max-tries)");
    }

    #[test]
    fn each_ruling_says_how_likely_a_good_on_its_tries_is_wrong() {
        for (letters, expected) in [("gggggg", 0.0373), ("b", 1.0), ("ggb", 0.2692), ("B", 1.0)] {
            let Next::Done(ruling) = decide(&tries(letters), &rule(1)) else { panic!("{letters}: more") };
            assert!((ruling.wrong_good - expected).abs() < 1e-4, "{letters}: {}", ruling.wrong_good);
            assert!(ruling.verdict != Verdict::Good || ruling.wrong_good <= 0.05);
        }
    }

    #[test]
    fn a_fix_is_looked_for_with_the_words_the_other_way_round() {
        let codes = |reverse| Verdict::ALL.iter().map(|v| v.exit_code(reverse)).collect::<Vec<_>>();
        assert_eq!(codes(false), [0, 1, 125, 128]);
        assert_eq!(codes(true), [1, 0, 125, 128]);
    }
}
