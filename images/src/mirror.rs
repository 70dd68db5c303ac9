// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where packages come from: the distribution's servers, a mirror, or the archive as it was on a day.

use crate::error::{Error, Result};

/// Debian's archive of every state that it ever had; a state is a directory below, named by its time.
const SNAPSHOTS: &str = "http://snapshot.debian.org/archive/debian";

/// The source of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mirror {
    address: Option<String>,
    snapshot: Option<String>,
}

impl Mirror {
    /// `LONGPIN_MIRROR` is the address of a mirror, `LONGPIN_SNAPSHOT` the time of a state of the archive; with both,
    /// that state is looked for below that address. Errors: `NoSuchDate`.
    pub(crate) fn from_variables(value: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let value = |name| value(name).filter(|text| !text.is_empty());
        let snapshot = value("LONGPIN_SNAPSHOT");
        if let Some(date) = &snapshot
            && !is_time(date)
        {
            return Err(Error::NoSuchDate { given: date.clone() });
        }
        Ok(Self { address: value("LONGPIN_MIRROR"), snapshot })
    }

    /// For mmdebstrap; none: the distribution's own servers.
    pub(crate) fn address(&self) -> Option<String> {
        match (&self.address, &self.snapshot) {
            (address, Some(date)) => Some(state_at(address.as_deref().unwrap_or(SNAPSHOTS), date)),
            (address, None) => address.clone(),
        }
    }

    /// Its lists are old on purpose, so their end of validity says nothing.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// For keys and manifests, which others may read: without the password.
    pub(crate) fn label(&self) -> String {
        self.address().map_or("default".to_owned(), |address| without_credentials(&address))
    }
}

/// The source list's first line, for another suite of the same server.
pub(crate) fn line_of_suite(sources: &str, suite: &str) -> Option<String> {
    let (options, address, rest) = first_line(sources)?;
    let (_, components) = rest.trim_start().split_once(' ')?;
    let options = if options.is_empty() { String::new() } else { format!("[{options}] ") };
    Some(format!("deb {options}{address} {suite} {}\n", components.trim()))
}

/// Options, address, and what comes after it.
fn first_line(sources: &str) -> Option<(&str, &str, &str)> {
    let rest = sources.lines().find_map(|line| line.trim().strip_prefix("deb "))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let (address, rest) = rest.trim_start().split_once(' ')?;
    Some((options.trim(), address, rest))
}

/// The source list's first line, with the same suite in the archive's state of this time.
pub(crate) fn line_at(sources: &str, time: &str) -> Option<String> {
    let (options, _, suite) = first_line(sources)?;
    let options = format!("{options} check-valid-until=no");
    Some(format!("deb [{}] {} {}\n", options.trim(), state_at(SNAPSHOTS, time), suite.trim()))
}

fn state_at(address: &str, time: &str) -> String {
    format!("{}/{time}/", address.trim_end_matches('/'))
}

/// `20261126T000000Z`.
fn is_time(text: &str) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.len() == 16 && digits(0..8) && text.get(8..9) == Some("T") && digits(9..15) && text.ends_with('Z')
}

/// The text with `USER:PASSWORD@` cut out of every address.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(['/', ' ', '"', '\'']).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        clean = clean + "://" + &part[host..];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(variables: &[(&str, &str)]) -> Result<Mirror> {
        Mirror::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_date_is_a_directory_of_the_archive_of_snapshots_or_of_the_mirror() {
        let date = ("LONGPIN_SNAPSHOT", "20261126T000000Z");
        let address = |variables: &[(&str, &str)]| mirror(variables).unwrap().address();
        assert_eq!(address(&[]), None);
        assert_eq!(address(&[("LONGPIN_MIRROR", "http://m/debian")]).unwrap(), "http://m/debian");
        assert_eq!(address(&[date]).unwrap(), format!("{SNAPSHOTS}/20261126T000000Z/"));
        assert_eq!(
            address(&[date, ("LONGPIN_MIRROR", "http://m/d/")]).unwrap(),
            "http://m/d/20261126T000000Z/"
        );
    }

    #[test]
    fn a_date_of_another_form_is_refused_with_the_right_one() {
        for date in ["2026-11-26", "20261126", "20261126T000000", "x0261126T000000Z", "2026112éT00000Z"] {
            let error = mirror(&[("LONGPIN_SNAPSHOT", date)]).unwrap_err().to_string();
            assert!(error.contains(date) && error.contains("20261126T000000Z"), "{error}");
        }
    }

    #[test]
    fn a_source_line_keeps_its_suite_and_options_at_another_time() {
        let at = |line: &str| line_at(line, "T").unwrap();
        let new = format!("{SNAPSHOTS}/T/ trixie-backports main\n");
        assert_eq!(
            at("deb http://m/debian trixie-backports main\n"),
            format!("deb [check-valid-until=no] {new}")
        );
        assert_eq!(
            at("# x\ndeb [signed-by=/k.gpg] http://m/debian trixie-backports main\n"),
            format!("deb [signed-by=/k.gpg check-valid-until=no] {new}")
        );
        assert_eq!(line_at("", "T"), None);
        let suite = |line: &str| line_of_suite(line, "bookworm");
        let line = "deb http://m/debian trixie-backports main\n";
        assert_eq!(suite(line).unwrap(), "deb http://m/debian bookworm main\n");
        let line = "deb [signed-by=/k.gpg] http://m/T/ trixie-backports main contrib\n";
        assert_eq!(suite(line).unwrap(), "deb [signed-by=/k.gpg] http://m/T/ bookworm main contrib\n");
        assert_eq!(suite("# nothing\n"), None);
    }

    #[test]
    fn passwords_are_cut_out_and_nothing_else() {
        let mirror = mirror(&[("LONGPIN_MIRROR", "https://me:se@cret@m.example/debian")]).unwrap();
        assert_eq!(mirror.label(), "https://m.example/debian");
        assert_eq!(mirror.address().unwrap(), "https://me:se@cret@m.example/debian");
        let line = "run \"http://u:p@h/a\" x@y http://h/b@c";
        assert_eq!(without_credentials(line), "run \"http://h/a\" x@y http://h/b@c");
    }
}
