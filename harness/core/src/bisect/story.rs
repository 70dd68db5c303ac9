// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A whole bisection: the document from which a search goes on after it was cut off, and what people are told of it.

use super::decide::{Ruling, Verdict};
use super::ends::Difference;
use super::fingerprint::Fingerprint;
use super::tries::Try;
use crate::report::html::{STYLE, content_policy};
use askama::Template;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Version of the document.
pub const BISECTION_SCHEMA: u32 = 1;

/// A search, as far as it got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bisection {
    /// [`BISECTION_SCHEMA`].
    pub schema: u32,
    /// What is searched, and how: another question has another answer.
    pub question: Question,
    /// What the ends differ in; none: they were not measured yet.
    pub difference: Option<Difference>,
    /// The greatest probability with which each `good` may be wrong.
    pub error: f64,
    /// Commits that were judged, the ends first.
    pub steps: Vec<Step>,
    /// The commit that is being tried.
    pub current: Option<Current>,
    /// The answer.
    pub found: Option<Found>,
}

/// What is searched, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The commit that has the fault.
    pub bad: String,
    /// The commit that has it not.
    pub good: String,
    /// The fix is looked for: the bad one is the older.
    pub reverse: bool,
    /// Options that matter, as text.
    pub options: String,
}

impl Question {
    /// The older end.
    pub fn old(&self) -> &str {
        if self.reverse { &self.bad } else { &self.good }
    }

    /// The newer one.
    pub fn new_end(&self) -> &str {
        if self.reverse { &self.good } else { &self.bad }
    }
}

/// A commit that was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub number: u32,
    /// `bad end`, `good end`; empty: one between them.
    pub role: String,
    /// Its whole id.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// The verdict.
    pub ruling: Ruling,
    /// Its tries of the case that decides.
    pub tries: Vec<Try>,
    /// Directory of its results.
    pub dir: String,
    /// How long it took.
    pub seconds: f64,
    /// When it was judged, RFC 3339.
    pub at: String,
}

/// A commit that is being tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// From 1.
    pub number: u32,
    /// Its whole id.
    pub commit: String,
    /// Tries that are over.
    pub tries: Vec<Try>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// The first commit with the fault, or with its fix.
    First(String),
    /// It is one of these: the others of them cannot be tested.
    OneOf(Vec<String>),
}

impl Bisection {
    /// The last step of a commit.
    pub fn step_of(&self, commit: &str) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.commit == commit)
    }

    fn what(&self) -> &'static str {
        if self.question.reverse { "fixed" } else { "bad" }
    }

    /// The answer in a line.
    pub fn answer(&self) -> String {
        let what = self.what();
        match &self.found {
            Some(Found::First(commit)) => {
                let subject = self.step_of(commit).map(|step| step.subject.as_str()).unwrap_or_default();
                format!("first {what} commit: {} {subject}", short(commit))
            }
            Some(Found::OneOf(commits)) => {
                let names: Vec<&str> = commits.iter().map(|commit| short(commit)).collect();
                format!(
                    "the first {what} commit is one of {}: the others of them cannot be tested",
                    names.join(" ")
                )
            }
            None => "no answer yet".to_owned(),
        }
    }

    /// The answer, what it rests on, and the ends beside it.
    pub fn text(&self) -> String {
        let mut text = self.answer() + "\n";
        text.extend(self.facts().map(|fact| fact + "\n"));
        for (name, step) in self.sides() {
            let _ = writeln!(text, "{name:<9} {} {}: {}", short(&step.commit), step.shown(), step.why());
        }
        text
    }

    fn facts(&self) -> impl Iterator<Item = String> {
        let difference = self.difference.iter().map(|difference| {
            let Difference { case, bad, good, rate } = difference;
            format!("{case}: `{bad}` with the fault ({rate} tries at the bad end), `{good}` without")
        });
        let count = |verdict| self.between().filter(move |step| step.ruling.verdict == verdict).count();
        let wrong: f64 = self.steps.iter().map(Step::wrong).sum();
        let numbers = format!(
            "{} commits tried: {} good, {} bad, {} skipped; a good of them is wrong with a probability of {:.4} at most",
            self.between().count(),
            count(Verdict::Good),
            count(Verdict::Bad),
            count(Verdict::Skip),
            wrong
        );
        difference.chain([numbers])
    }

    fn between(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.role.is_empty())
    }

    /// The ends, and the commit that was found.
    fn sides(&self) -> Vec<(&str, &Step)> {
        let found = match &self.found {
            Some(Found::First(commit)) => self.step_of(commit),
            _ => None,
        };
        let ends = self.steps.iter().filter(|step| !step.role.is_empty());
        ends.map(|step| (step.role.as_str(), step)).chain(found.map(|step| ("found", step))).collect()
    }
}

impl Step {
    /// What its tries showed, and how often: `lost 5x, intact 3x`.
    pub fn shown(&self) -> String {
        let mut counts: Vec<(String, u32)> = Vec::new();
        for one in &self.tries {
            let word = one.fingerprint().map_or_else(|| "nothing".to_owned(), Fingerprint::to_string);
            match counts.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => counts.push((word, 1)),
            }
        }
        counts.into_iter().map(|(word, count)| format!("{word} {count}x")).collect::<Vec<_>>().join(", ")
    }

    /// The sentence of the try that decided: the first with the verdict's own words.
    pub fn why(&self) -> &str {
        let bad = |one: &&Try| one.fingerprint().is_some_and(Fingerprint::is_bad);
        let telling = match self.ruling.verdict {
            Verdict::Bad => self.tries.iter().find(bad),
            _ => None,
        };
        telling.or_else(|| self.tries.first()).map_or("", Try::why)
    }

    /// The probability that its verdict is wrong.
    fn wrong(&self) -> f64 {
        if self.ruling.verdict == Verdict::Good { self.ruling.wrong_good } else { 0.0 }
    }

    /// For the page.
    fn tone(&self) -> &'static str {
        match self.ruling.verdict {
            Verdict::Good => "good",
            Verdict::Bad => "bad",
            Verdict::Skip | Verdict::Stop => "none",
        }
    }

    fn short(&self) -> &str {
        short(&self.commit)
    }
}

/// As git abbreviates it, and long enough for any kernel.
pub fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

#[derive(Template)]
#[template(path = "bisect.html")]
struct Page<'b> {
    policy: String,
    style: &'static str,
    bisection: &'b Bisection,
    answer: String,
    facts: Vec<String>,
    sides: Vec<(&'b str, &'b Step)>,
    log: &'b str,
}

/// The same as one HTML file, with what git says of it.
///
/// Errors: what the template engine could not write; an argument cannot cause one.
pub fn page(bisection: &Bisection, log: &str) -> Result<String, askama::Error> {
    let policy = content_policy(&[STYLE], &[]);
    let (answer, facts) = (bisection.answer(), bisection.facts().collect());
    Page { policy, style: STYLE, bisection, answer, facts, sides: bisection.sides(), log }.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bisect::HitRate;

    fn step(number: u32, role: &str, commit: &str, verdict: Verdict, words: &[&str]) -> Step {
        let tries = words.iter().map(|word| match word.parse() {
            Ok(fingerprint) => Try::Seen { fingerprint, why: format!("why {word}") },
            Err(_) => Try::NoBuild { why: (*word).to_owned() },
        });
        let ruling = Ruling {
            verdict,
            reason: "because <b>".to_owned(),
            wrong_good: 0.02,
            hits: 0,
            clean: 0,
            tries: words.len() as u32,
        };
        Step {
            number,
            role: role.to_owned(),
            commit: commit.repeat(40),
            subject: format!("subject of {commit} <script>"),
            ruling,
            tries: tries.collect(),
            dir: format!("00{number}"),
            seconds: 1.0,
            at: "2026-11-27T16:35:17Z".to_owned(),
        }
    }

    fn bisection() -> Bisection {
        let difference = Difference {
            case: "a/ext4/pin/clean".to_owned(),
            bad: "lost".parse().unwrap(),
            good: "intact".parse().unwrap(),
            rate: HitRate { hits: 5, tries: 8 },
        };
        Bisection {
            schema: BISECTION_SCHEMA,
            question: Question { bad: "b".repeat(40), good: "a".repeat(40), ..Question::default() },
            difference: Some(difference),
            error: 0.01,
            steps: vec![
                step(1, "bad end", "b", Verdict::Bad, &["intact", "lost", "lost"]),
                step(2, "good end", "a", Verdict::Good, &["intact", "intact"]),
                step(3, "", "c", Verdict::Skip, &["no build: error"]),
                step(4, "", "d", Verdict::Good, &["intact"]),
                step(5, "", "e", Verdict::Bad, &["lost"]),
            ],
            current: None,
            found: Some(Found::First("e".repeat(40))),
        }
    }

    #[test]
    fn the_answer_stands_beside_the_ends_with_what_it_rests_on() {
        let text = bisection().text();
        assert_eq!(
            text,
            "first bad commit: eeeeeeeeeeee subject of e <script>\n\
             a/ext4/pin/clean: `lost` with the fault (5/8 tries at the bad end), `intact` without\n\
             3 commits tried: 1 good, 1 bad, 1 skipped; a good of them is wrong with a probability of 0.0400 at most\n\
             bad end   bbbbbbbbbbbb intact 1x, lost 2x: why lost\n\
             good end  aaaaaaaaaaaa intact 2x: why intact\n\
             found     eeeeeeeeeeee lost 1x: why lost\n"
        );
        let several =
            Bisection { found: Some(Found::OneOf(vec!["c".repeat(40), "e".repeat(40)])), ..bisection() };
        assert_eq!(
            several.answer(),
            "the first bad commit is one of cccccccccccc eeeeeeeeeeee: the others of them cannot be tested"
        );
        let mut fix = bisection();
        fix.question.reverse = true;
        assert!(fix.answer().starts_with("first fixed commit: eeee"));
        assert_eq!((fix.question.old(), fix.question.new_end()), (&*"b".repeat(40), &*"a".repeat(40)));
    }

    #[test]
    fn the_document_is_read_as_it_is_written() {
        let text = serde_json::to_string(&bisection()).unwrap();
        assert_eq!(serde_json::from_str::<Bisection>(&text).unwrap(), bisection());
    }

    #[test]
    fn no_subject_becomes_markup() {
        let page = page(&bisection(), "git bisect good <script>").unwrap();
        assert!(!page.contains("<script") && !page.contains("because <b>"), "{page}");
        for part in ["first bad commit: eeeeeeeeeeee", "skip", "git bisect good", "why intact", "0.0200"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
