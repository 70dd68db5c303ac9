// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case showed, as it is looked for in other commits: the set of observations, or the title of the kernel's report of
//! itself. Two crashes are the same if their titles are, unless one is asked for that was reached in a certain way.

use crate::result::CaseResult;
use crate::words::{Observation, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Of a report's own fingerprint.
const FINGERPRINT_DIGITS: usize = 12;

/// Words that say that something broke, and not what.
const CRASHES: [Observation; 3] = [Observation::Splat, Observation::Panic, Observation::Hang];

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fingerprint {
    /// The case came to its end, and nothing broke.
    Seen {
        /// The set.
        observations: BTreeSet<Observation>,
        /// Name of the errno of a refusal; none: whatever it was.
        errno: Option<String>,
    },
    /// A splat, a panic or a hang.
    Crash {
        /// What it is known by.
        title: String,
        /// Of the report: who called, too. None: whoever called, or there was no report.
        report: Option<String>,
    },
}

impl Fingerprint {
    /// Of a case that showed something; else none.
    pub fn of(case: &CaseResult) -> Option<Self> {
        if case.observations.is_empty() || matches!(case.outcome, Outcome::Skip | Outcome::Error) {
            return None;
        }
        if let Some((title, report)) = crash(case) {
            return Some(Self::Crash { title, report });
        }
        let errno = case.errno.clone().filter(|_| case.observations.contains(&Observation::Refused));
        Some(Self::Seen { observations: case.observations.clone(), errno })
    }

    /// Of what a scenario expects; none where that is a crash, of which it does not know the title.
    pub fn expected(observations: &BTreeSet<Observation>, errno: Option<&str>) -> Option<Self> {
        let crashes = CRASHES.iter().any(|word| observations.contains(word));
        let errno = errno.filter(|_| observations.contains(&Observation::Refused)).map(str::to_owned);
        (!crashes).then(|| Self::Seen { observations: observations.clone(), errno })
    }

    /// `seen`, of a try, is what this looks for.
    pub fn matches(&self, seen: &Self) -> bool {
        match (self, seen) {
            (
                Self::Seen { observations, errno },
                Self::Seen { observations: other_observations, errno: other },
            ) => observations == other_observations && (errno.is_none() || errno == other),
            (Self::Crash { title, report }, Self::Crash { title: other_title, report: other }) => {
                title == other_title && (report.is_none() || report == other)
            }
            _ => false,
        }
    }

    /// The same, whoever called: how a crash is reached changes from commit to commit.
    pub fn by_title(&self) -> Self {
        match self {
            Self::Crash { title, .. } => Self::Crash { title: title.clone(), report: None },
            seen => seen.clone(),
        }
    }

    /// Something broke, or bytes are wrong.
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Seen { observations, .. } => observations.iter().any(|word| word.is_bad()),
            Self::Crash { .. } => true,
        }
    }
}

/// Title, and fingerprint of the report.
fn crash(case: &CaseResult) -> Option<(String, Option<String>)> {
    let has = |word| case.observations.contains(&word);
    if has(Observation::Splat) || has(Observation::Panic) {
        // What is ignored counts nowhere.
        let report = case.reports.iter().find(|report| report.ignored.is_none());
        return Some(match report {
            Some(report) => (report.title.clone(), Some(report.fingerprint.clone())),
            None if has(Observation::Panic) => ("panic without a word".to_owned(), None),
            None => ("splat without a word".to_owned(), None),
        });
    }
    has(Observation::Hang).then(|| match between(&case.reason, "step `", '`') {
        Some(step) => (format!("hang in step {step}"), None),
        None => ("hang".to_owned(), None),
    })
}

fn between<'t>(text: &'t str, before: &str, end: char) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(end).map(|(word, _)| word)
}

/// `WARNING in f (8f0f5a4d93c1)`, as a case's reason has it: title and fingerprint.
fn title_and_report(text: &str) -> (&str, Option<&str>) {
    let parts = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
    match parts {
        Some((title, report)) if is_report(report) => (title, Some(report)),
        _ => (text, None),
    }
}

fn is_report(text: &str) -> bool {
    text.len() == FINGERPRINT_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

const USAGE: &str = "write observations as lost or lost+warned, refused:EFAULT with an errno, or crash:TITLE";

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(title) = text.strip_prefix("crash:") {
            let title = title.trim();
            return match title_and_report(title) {
                ("", _) => Err(format!("`{text}` has no title; {USAGE}")),
                (title, report) => {
                    Ok(Self::Crash { title: title.to_owned(), report: report.map(str::to_owned) })
                }
            };
        }
        let (words, errno) = match text.split_once(':') {
            Some((words, errno)) => (words, Some(errno.to_owned())),
            None => (text, None),
        };
        let parse = |word: &str| {
            Observation::parse(word.trim())
                .ok_or_else(|| format!("`{word}` is no observation; use {}; {USAGE}", Observation::list()))
        };
        let observations = words.split('+').map(parse).collect::<Result<BTreeSet<_>, _>>()?;
        if let Some(word) = CRASHES.iter().find(|word| observations.contains(word)) {
            return Err(format!("`{word}` may be any; name the one that is meant by its title; {USAGE}"));
        }
        if errno.is_some() && !observations.contains(&Observation::Refused) {
            return Err(format!("`{text}` has an errno, which only `refused` has; {USAGE}"));
        }
        if errno.as_deref() == Some("") {
            return Err(format!("`{text}` has no errno behind the colon; {USAGE}"));
        }
        Ok(Self::Seen { observations, errno })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen { observations, errno } => {
                let words: Vec<&str> = observations.iter().rev().map(|word| word.as_str()).collect();
                f.write_str(&words.join("+"))?;
                errno.iter().try_for_each(|errno| write!(f, ":{errno}"))
            }
            Self::Crash { title, report: None } => write!(f, "crash:{title}"),
            Self::Crash { title, report: Some(report) } => write!(f, "crash:{title} ({report})"),
        }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "lost",
            "lost+refused",
            "refused:EFAULT",
            "intact",
            "crash:NULL pointer dereference in f",
            "crash:WARNING in f (8f0f5a4d93c1)",
            "crash:panic: no such board (rev 2)",
            "crash:hang in step fsync",
        ] {
            let fingerprint: Fingerprint = text.parse().unwrap();
            assert_eq!(fingerprint.to_string(), text);
        }
        let either_order: [Fingerprint; 2] = ["warned+lost", "lost+warned"].map(|text| text.parse().unwrap());
        assert_eq!(either_order[0], either_order[1]);
    }

    #[test]
    fn other_texts_are_refused_with_the_form() {
        for (text, part) in [
            ("", "is no observation"),
            ("lsot", "use intact, refused"),
            ("lost:EIO", "only `refused` has"),
            ("refused:", "no errno behind"),
            ("crash:", "no title"),
            ("panic", "by its title"),
            ("lost+hang", "by its title"),
        ] {
            let error = text.parse::<Fingerprint>().unwrap_err();
            assert!(error.contains(part) && error.contains("crash:TITLE"), "{text}: {error}");
        }
    }

    #[test]
    fn an_errno_counts_where_it_is_asked_for() {
        let of = |text: &str| text.parse::<Fingerprint>().unwrap();
        assert!(of("refused").matches(&of("refused:EFAULT")));
        assert!(of("refused:EFAULT").matches(&of("refused:EFAULT")));
        assert!(!of("refused:EFAULT").matches(&of("refused:EOPNOTSUPP")));
        assert!(!of("lost").matches(&of("lost+warned")), "another set");
        assert!(!of("lost").matches(&of("crash:a")));
    }

    #[test]
    fn a_crash_is_the_same_by_its_title_and_who_called_counts_where_it_is_asked_for() {
        let of = |text: &str| text.parse::<Fingerprint>().unwrap();
        let seen = of("crash:WARNING in f (8f0f5a4d93c1)");
        assert!(of("crash:WARNING in f").matches(&seen));
        assert!(of("crash:WARNING in f (8f0f5a4d93c1)").matches(&seen));
        assert!(!of("crash:WARNING in f (000000000000)").matches(&seen));
        assert!(!of("crash:WARNING in g").matches(&seen));
        assert_eq!(seen.by_title(), of("crash:WARNING in f"));
        assert_eq!(of("lost").by_title(), of("lost"));
    }
}
