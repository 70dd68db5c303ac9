// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The list of what the kernel says and does not count (`--ignore-log`): each entry with its reason, and the day from which
//! somebody has to look again.

use super::reports::Report;
use serde::Deserialize;
use toml::value::Datetime;

/// What does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    what: What,
    /// `REASON (until DAY)`.
    why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Title(String),
    Fingerprint(String),
    /// Pieces of a line, in this order.
    Text(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    ignore: Vec<toml::Spanned<Line>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    title: Option<String>,
    fingerprint: Option<String>,
    text: Option<Vec<String>>,
    reason: String,
    expires: Datetime,
}

/// A shorter text would match by accident.
const LEAST_BYTES: usize = 5;

impl Ignored {
    /// Read a list. `today` is `YYYY-MM-DD`.
    ///
    /// Errors: everything that is wrong with it, `LINE: what and what to do`; an entry whose day has come is an error.
    pub fn parse(text: &str, today: &str) -> Result<Self, Vec<String>> {
        let list: List = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(1, |span| line_of(text, span.start));
            vec![format!("{at}: {}", error.message())]
        })?;
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        for line in list.ignore {
            let at = line_of(text, line.span().start);
            match entry(line.into_inner(), today) {
                Ok(entry) => entries.push(entry),
                Err(fault) => faults.push(format!("{at}: {fault}")),
            }
        }
        if faults.is_empty() { Ok(Self(entries)) } else { Err(faults) }
    }

    /// Why a report does not count, if it is in the list; `lines` are its own.
    pub fn report<'t>(&self, report: &Report, lines: impl Iterator<Item = &'t str> + Clone) -> Option<&str> {
        self.find(|what| match what {
            What::Title(title) => *title == report.title,
            What::Fingerprint(fingerprint) => *fingerprint == report.fingerprint,
            What::Text(pieces) => lines.clone().any(|line| holds(line, pieces)),
        })
    }

    /// Why a line does not count.
    pub fn line(&self, line: &str) -> Option<&str> {
        self.find(|what| matches!(what, What::Text(pieces) if holds(line, pieces)))
    }

    fn find(&self, fits: impl Fn(&What) -> bool) -> Option<&str> {
        self.0.iter().find(|entry| fits(&entry.what)).map(|entry| entry.why.as_str())
    }
}

fn entry(line: Line, today: &str) -> Result<Entry, String> {
    let Line { title, fingerprint, text, reason, expires } = line;
    let what = match (title, fingerprint, text) {
        (Some(title), None, None) if !title.trim().is_empty() => What::Title(title),
        (None, Some(hex), None) if is_fingerprint(&hex) => What::Fingerprint(hex),
        (None, Some(hex), None) => {
            return Err(format!("fingerprint `{hex}` is not 12 hex digits, as a result has them"));
        }
        (None, None, Some(text)) if text.concat().len() >= LEAST_BYTES => What::Text(text),
        (None, None, Some(_)) => {
            return Err(format!(
                "text of less than {LEAST_BYTES} letters would match by accident; give more of the line"
            ));
        }
        _ => {
            return Err("an entry has one of: title, fingerprint, text (pieces of a line, in order); give exactly one".into());
        }
    };
    if reason.trim().is_empty() {
        return Err("the reason is empty; say why this does not count".into());
    }
    // ISO dates are in order as texts.
    let day = match (expires.date, expires.time) {
        (Some(date), None) => date.to_string(),
        _ => return Err(format!("`expires = {expires}` is no day; write expires = 2027-01-31")),
    };
    if day.as_str() <= today {
        return Err(format!(
            "expired on {day}, and is not ignored any more: {reason}; look whether it still happens, then remove the entry or \
             give it a later day"
        ));
    }
    Ok(Entry { what, why: format!("{reason} (until {day})") })
}

fn is_fingerprint(hex: &str) -> bool {
    hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn holds(line: &str, pieces: &[String]) -> bool {
    let mut rest = line;
    pieces.iter().all(|piece| match rest.find(piece.as_str()) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

/// From 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: &str = "2026-11-27";

    fn faults(text: &str) -> Vec<String> {
        Ignored::parse(text, TODAY).unwrap_err()
    }

    fn report() -> Report {
        Report {
            title: "WARNING in f".into(),
            fingerprint: "0123456789ab".into(),
            trace: Vec::new(),
            ignored: None,
            source: Vec::new(),
        }
    }

    #[test]
    fn an_entry_names_a_report_or_a_line() {
        for (what, report_too, line_too) in [
            ("title = \"WARNING in f\"", true, false),
            ("fingerprint = \"0123456789ab\"", true, false),
            ("text = [\"BUG: \", \"pfn\"]", true, true),
            ("title = \"WARNING in g\"", false, false),
            ("fingerprint = \"0123456789ac\"", false, false),
            ("text = [\"pfn\", \"BUG: \"]", false, false),
        ] {
            let text = format!("[[ignore]]\n{what}\nreason = \"known\"\nexpires = 2026-11-28\n");
            let list = Ignored::parse(&text, TODAY).unwrap();
            let line = "[ 1.0] BUG: Bad page pfn:1";
            let why = Some("known (until 2026-11-28)");
            assert_eq!(list.report(&report(), [line].into_iter()), why.filter(|_| report_too), "{what}");
            assert_eq!(list.line(line), why.filter(|_| line_too), "{what}");
        }
        assert_eq!(Ignored::parse("", TODAY), Ok(Ignored::default()));
    }

    #[test]
    fn an_entry_whose_day_has_come_is_an_error() {
        let entry = |day| format!("\n[[ignore]]\ntitle = \"x\"\nreason = \"bug 7\"\nexpires = {day}\n");
        assert!(Ignored::parse(&entry("2026-11-28"), TODAY).is_ok());
        for day in ["2026-11-27", "2025-12-31"] {
            let found = faults(&entry(day));
            assert!(found.len() == 1 && found[0].starts_with(&format!("2: expired on {day}")), "{found:?}");
            assert!(found[0].contains("bug 7"), "{found:?}");
        }
        let both = faults(&(entry("2025-01-01") + &entry("2024-01-01")));
        assert_eq!(both.len(), 2, "all are named at once");
    }

    #[test]
    fn what_is_no_entry_is_said_with_its_line() {
        let head = "[[ignore]]\n";
        let rest = "\nreason = \"r\"\nexpires = 2027-01-01\n";
        for (text, words) in [
            (format!("{head}title = \"x\"\nexpires = 2027-01-01\n"), "missing field `reason`"),
            (format!("{head}title = \"x\"\nreason = \"r\"\n"), "missing field `expires`"),
            (format!("{head}titel = \"x\"{rest}"), "unknown field `titel`"),
            (format!("{head}title = \"x\"\ntext = [\"abcde\"]{rest}"), "give exactly one"),
            (format!("{head}{}", rest.trim_start()), "give exactly one"),
            (format!("{head}text = [\"B\", \"G\"]{rest}"), "would match by accident"),
            (format!("{head}fingerprint = \"xyz\"{rest}"), "is not 12 hex digits"),
            (format!("{head}title = \"x\"\nreason = \" \"\nexpires = 2027-01-01\n"), "the reason is empty"),
            (format!("{head}title = \"x\"\nreason = \"r\"\nexpires = 12:00:00\n"), "is no day"),
            (format!("{head}title = \"x\"\nreason = \"r\"\nexpires = \"soon\"\n"), "datetime"),
            ("ignore = 3\n".into(), "invalid type"),
        ] {
            let found = faults(&text);
            assert!(found[0].contains(words), "{text}: {found:?}");
            assert!(found[0].split(':').next().unwrap().parse::<usize>().is_ok(), "{found:?}");
        }
    }
}
