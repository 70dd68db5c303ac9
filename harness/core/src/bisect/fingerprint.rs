// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case showed, as it is looked for in other commits: the set of observations, or the title of a crash. Two crashes
//! are the same if their titles are; numbers, addresses and line numbers, which move from commit to commit, are no part of
//! a title.

use crate::dmesg::Class;
use crate::result::CaseResult;
use crate::words::{Observation, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Lines of the console after the first of a report in which the function is looked for.
const REPORT_LINES: usize = 60;

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
    },
}

impl Fingerprint {
    /// Of a case that showed something; else none. `console` is what the guest's kernel said in that boot: a report in the
    /// log of the case has its function there.
    pub fn of(case: &CaseResult, console: &str) -> Option<Self> {
        if case.observations.is_empty() || matches!(case.outcome, Outcome::Skip | Outcome::Error) {
            return None;
        }
        if let Some(title) = crash(case, console) {
            return Some(Self::Crash { title });
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
            (Self::Crash { title }, Self::Crash { title: other }) => title == other,
            _ => false,
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

fn crash(case: &CaseResult, console: &str) -> Option<String> {
    let has = |word| case.observations.contains(&word);
    if has(Observation::Splat) || has(Observation::Panic) {
        // Markers frame a report and say nothing of it.
        let of = |class| {
            let line = |line: &&crate::verdict::LogLine| line.class == class && !line.text.contains("---[");
            case.log.iter().find(line)
        };
        let line = of(Class::Splat).or_else(|| of(Class::Panic)).map(|line| line.text.as_str());
        return Some(match line {
            Some(line) => title(line, console),
            None if has(Observation::Panic) => "panic without a word".to_owned(),
            None => "splat without a word".to_owned(),
        });
    }
    has(Observation::Hang).then(|| match between(&case.reason, "step `", '`') {
        Some(step) => format!("hang in step {step}"),
        None => "hang".to_owned(),
    })
}

/// The line, and where it says nothing of the place the function that the report names: its `RIP:` line.
fn title(line: &str, console: &str) -> String {
    let words = normal(line);
    // Reports of warnings and sanitizers name it themselves.
    if line.contains("+0x") {
        return words;
    }
    let mut lines = console.lines().skip_while(|other| !other.contains(line)).take(REPORT_LINES);
    let function = lines.find_map(|line| {
        let (_, place) = line.split_once("RIP: ")?;
        let name = place.split_once(':').map_or(place, |(_, name)| name);
        name.split_once("+0x").map(|(name, _)| name.trim().to_owned())
    });
    match function {
        Some(function) => format!("{words} in {function}"),
        None => words,
    }
}

fn between<'t>(text: &'t str, before: &str, end: char) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(end).map(|(word, _)| word)
}

/// Without what differs from run to run and from build to build.
fn normal(line: &str) -> String {
    // What follows says where it ran, not what it was.
    let line = line.split(" CPU#").next().unwrap_or(line);
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        if matches!(word, "CPU:" | "PID:") {
            continue;
        }
        let word = word.split("+0x").next().unwrap_or(word).trim_end_matches([',', ';', '!']);
        let word = match word.rsplit_once(':') {
            Some((file, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => file,
            _ => word,
        };
        if !word.is_empty() && !is_number(word) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// `4`, `0x1f`, `ffff88810a2b3c40`, `[#1]`.
fn is_number(word: &str) -> bool {
    let core = word.trim_matches(['[', ']', '(', ')', '<', '>', '#', ':', '.']);
    let core = core.strip_prefix("0x").unwrap_or(core);
    !core.is_empty()
        && core.bytes().any(|b| b.is_ascii_digit())
        && core.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

const USAGE: &str = "write observations as lost or lost+warned, refused:EFAULT with an errno, or crash:TITLE";

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(title) = text.strip_prefix("crash:") {
            let title = title.trim();
            return match title {
                "" => Err(format!("`{text}` has no title; {USAGE}")),
                title => Ok(Self::Crash { title: title.to_owned() }),
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
            Self::Crash { title } => write!(f, "crash:{title}"),
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
            "crash:BUG: kernel NULL pointer dereference in f",
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
    fn a_title_has_nothing_that_moves() {
        for (line, expected) in [
            (
                "WARNING: CPU: 0 PID: 17 at mm/gup.c:148 try_grab_folio+0x1/0x2",
                "WARNING: at mm/gup.c try_grab_folio",
            ),
            (
                "WARNING: mm/gup.c:148 at try_grab_folio+0x1/0x2, CPU#1: longpin-agent/63",
                "WARNING: mm/gup.c at try_grab_folio",
            ),
            (
                "BUG: KASAN: slab-use-after-free in sample_find+0x15/0x30 [sample]",
                "BUG: KASAN: slab-use-after-free in sample_find [sample]",
            ),
            ("kernel BUG at fs/ext4/inode.c:2847!", "kernel BUG at fs/ext4/inode.c"),
            ("Oops: 0002 [#1] SMP NOPTI", "Oops: SMP NOPTI"),
            (
                "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
                "Kernel panic - not syncing: Attempted to kill init exitcode=0x0000000b",
            ),
        ] {
            assert_eq!(title(line, ""), expected);
        }
    }

    #[test]
    fn a_report_without_a_place_has_the_function_of_its_console() {
        let line = "BUG: kernel NULL pointer dereference, address: 0000000000000008";
        let console = format!(
            "[ 1.0] RIP: 0010:of_another+0x1/0x2\n[ 2.0] {line}\n[ 2.0] #PF: supervisor write access\n\
             [ 2.0] RIP: 0010:sample_probe+0x1d/0x90 [sample]\n[ 2.1] RIP: 0033:0x401000\n"
        );
        assert_eq!(title(line, &console), "BUG: kernel NULL pointer dereference address: in sample_probe");
        assert_eq!(title(line, ""), "BUG: kernel NULL pointer dereference address:");
    }
}
