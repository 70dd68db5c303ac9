// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the two ends of a history differ in: of the cases that were tried at both, the one that tells them apart best, what
//! it shows with the fault and without, and how often the fault shows where it is.

use super::chance::HitRate;
use super::fingerprint::Fingerprint;
use super::tries::Try;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// What commits are judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Id of the case.
    pub case: String,
    /// What it shows with the fault.
    pub bad: Fingerprint,
    /// What it shows without.
    pub good: Fingerprint,
    /// How often the fault shows at the bad end.
    pub rate: HitRate,
}

/// Compare the ends. `bad_end` and `good_end` are tries with the id of their case; `bad` and `good` are what the user says
/// of them.
///
/// Errors: why they cannot be told apart, in a sentence with the fix.
pub fn difference(
    bad_end: &[(String, Try)],
    good_end: &[(String, Try)],
    bad: Option<&Fingerprint>,
    good: Option<&Fingerprint>,
) -> Result<Difference, String> {
    untestable("bad", bad_end)?;
    untestable("good", good_end)?;
    let found = ids(good_end).into_iter().filter_map(|id| of_case(id, bad_end, good_end, bad, good));
    // The first of those that show it most often.
    let best = found.min_by_key(|difference| {
        let HitRate { hits, tries } = difference.rate;
        Reverse(u64::from(hits) * 1_000_000 / u64::from(tries.max(1)))
    });
    let Some(best) = best else {
        return Err(format!(
            "the ends cannot be told apart: the bad one shows {}, the good one {}; name other ends, or a case that shows the \
             fault",
            shown(bad_end),
            shown(good_end)
        ));
    };
    if bad.is_none() && good.is_none() && best.good.is_bad() && !best.bad.is_bad() {
        return Err(format!(
            "the good end shows `{}` and the bad one `{}`: if that is what is meant say --bad-is {} --good-is {}, else change \
             the ends",
            best.good, best.bad, best.bad, best.good
        ));
    }
    Ok(best)
}

/// Nothing at all was seen there.
fn untestable(end: &str, tries: &[(String, Try)]) -> Result<(), String> {
    match tries.iter().any(|(_, one)| one.fingerprint().is_some()) {
        true => Ok(()),
        false => Err(format!(
            "the {end} end cannot be tested: {}; name another one",
            tries.first().map_or("nothing was tried", |(_, one)| one.why())
        )),
    }
}

fn ids(tries: &[(String, Try)]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for (id, _) in tries {
        if !ids.contains(&id.as_str()) {
            ids.push(id);
        }
    }
    ids
}

fn of_case(
    id: &str,
    bad_end: &[(String, Try)],
    good_end: &[(String, Try)],
    bad: Option<&Fingerprint>,
    good: Option<&Fingerprint>,
) -> Option<Difference> {
    let seen = |tries: &[(String, Try)]| -> Vec<Fingerprint> {
        let of_case = tries.iter().filter(|(other, _)| other == id);
        of_case.filter_map(|(_, one)| one.fingerprint().cloned()).collect()
    };
    let (at_bad, at_good) = (seen(bad_end), seen(good_end));
    let good = match good {
        Some(good) => good.clone(),
        None => at_good.first()?.by_title(),
    };
    let bad = match bad {
        Some(bad) => bad.clone(),
        None => most_frequent(at_bad.iter().filter(|seen| !good.matches(seen)).map(Fingerprint::by_title))?,
    };
    let hits = at_bad.iter().filter(|seen| bad.matches(seen)).count() as u32;
    let tries = at_bad.len() as u32;
    (hits > 0 && !bad.matches(&good) && !good.matches(&bad)).then(|| Difference {
        case: id.to_owned(),
        bad,
        good,
        rate: HitRate { hits, tries },
    })
}

/// Of several the first.
fn most_frequent(seen: impl Iterator<Item = Fingerprint>) -> Option<Fingerprint> {
    let mut counts: Vec<(Fingerprint, u32)> = Vec::new();
    for one in seen {
        match counts.iter_mut().find(|(known, _)| *known == one) {
            Some((_, count)) => *count += 1,
            None => counts.push((one, 1)),
        }
    }
    counts.into_iter().min_by_key(|(_, count)| Reverse(*count)).map(|(one, _)| one)
}

/// `lost 5x, intact 3x`.
fn shown(tries: &[(String, Try)]) -> String {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for (_, one) in tries {
        let word = one.fingerprint().map_or_else(|| "nothing".to_owned(), |seen| format!("`{seen}`"));
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    counts.into_iter().map(|(word, count)| format!("{word} {count}x")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(words: &[(&str, &str)]) -> Vec<(String, Try)> {
        let one = |(id, word): &(&str, &str)| {
            let one = match word.parse() {
                Ok(fingerprint) => Try::Seen { fingerprint, why: "w".into() },
                Err(_) => Try::NoBuild { why: (*word).to_owned() },
            };
            ((*id).to_owned(), one)
        };
        words.iter().map(one).collect()
    }

    fn found(bad: &[(&str, &str)], good: &[(&str, &str)]) -> Result<String, String> {
        let difference = difference(&tries(bad), &tries(good), None, None)?;
        let Difference { case, bad, good, rate } = difference;
        Ok(format!("{case} {bad} {good} {rate}"))
    }

    #[test]
    fn the_case_that_tells_the_ends_apart_most_often_decides() {
        let bad = [("a", "lost"), ("a", "intact"), ("b", "lost"), ("b", "lost"), ("c", "intact")];
        let good = [("a", "intact"), ("b", "intact"), ("c", "intact")];
        assert_eq!(found(&bad, &good).unwrap(), "b lost intact 2/2");
        assert_eq!(found(&bad[..2], &good).unwrap(), "a lost intact 1/2");
    }

    #[test]
    fn the_fault_is_what_shows_most_often_of_what_the_good_end_does_not_show() {
        let bad = [("a", "crash:x"), ("a", "lost"), ("a", "lost"), ("a", "intact"), ("a", "no build")];
        assert_eq!(found(&bad, &[("a", "intact")]).unwrap(), "a lost intact 2/4");
        // A crash is known by its title, however it was reached.
        let crashes = ["crash:x (111111111111)", "crash:x (222222222222)", "lost"].map(|word| ("a", word));
        assert_eq!(found(&crashes, &[("a", "intact")]).unwrap(), "a crash:x intact 2/3");
        // Good as it is: a pin that should be refused.
        assert_eq!(
            found(&[("a", "intact")], &[("a", "refused:EFAULT")]).unwrap(),
            "a intact refused:EFAULT 1/1"
        );
    }

    #[test]
    fn ends_that_do_not_differ_or_cannot_be_tested_are_refused_with_what_they_show() {
        let lost = [("a", "lost"), ("a", "lost")];
        let same = found(&lost, &[("a", "lost")]).unwrap_err();
        assert!(
            same.contains("the bad one shows `lost` 2x, the good one `lost` 1x; name other ends"),
            "{same}"
        );
        let broken = found(&lost, &[("a", "no build: x.c:1: error")]).unwrap_err();
        assert_eq!(broken, "the good end cannot be tested: no build: x.c:1: error; name another one");
        assert!(found(&[], &lost).unwrap_err().contains("the bad end cannot be tested: nothing was tried"));
        let swapped = found(&[("a", "intact")], &lost[..1]).unwrap_err();
        assert!(swapped.contains("--bad-is intact --good-is lost"), "{swapped}");
    }

    #[test]
    fn what_the_user_says_of_the_ends_counts() {
        let bad = tries(&[("a", "torn"), ("a", "torn"), ("a", "lost")]);
        let good = tries(&[("a", "intact")]);
        let lost: Fingerprint = "lost".parse().unwrap();
        let by_user = difference(&bad, &good, Some(&lost), None).unwrap();
        assert_eq!((by_user.bad, by_user.rate), (lost, HitRate { hits: 1, tries: 3 }));
        let unseen: Fingerprint = "bleed".parse().unwrap();
        assert!(difference(&bad, &good, Some(&unseen), None).is_err());
        let ways = tries(&[("a", "crash:x (111111111111)"), ("a", "crash:x (222222222222)")]);
        let one: Fingerprint = "crash:x (222222222222)".parse().unwrap();
        let by_way = difference(&ways, &good, Some(&one), None).unwrap();
        assert_eq!((by_way.bad, by_way.rate), (one.clone(), HitRate { hits: 1, tries: 2 }));
        let same = difference(&ways, &ways[..1], Some(&one), None).unwrap_err();
        assert!(same.contains("cannot be told apart"), "{same}");
    }
}
