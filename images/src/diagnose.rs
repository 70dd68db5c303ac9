// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a failed command's output says about the reason. Pure: lines in, error out. The phrases are those of apt,
//! mmdebstrap, dpkg, tar and newuidmap, which print the same ones since many releases.

use crate::error::Error;
use std::path::Path;

/// Lines that are kept for the explanation: apt repeats its errors at the end, after up to a page of others.
pub(crate) const WINDOW_LINES: usize = 200;

const UNREACHABLE: [&str; 7] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect to",
    "Unable to connect to",
    "Connection timed out",
    "Connection failed",
    "Network is unreachable",
];

const NO_USER_NAMESPACE: [&str; 7] = [
    "newuidmap",
    "newgidmap",
    "/etc/subuid",
    "/etc/subgid",
    "unprivileged_userns_clone",
    "No permissions to create new namespace",
    "setting up uid map: Permission denied",
];

/// The known reason behind a failure, if there is one.
pub(crate) fn explain(what: &str, lines: &[&str], log: &Path) -> Option<Error> {
    let what = || what.to_owned();
    let log = || log.to_owned();
    if lines.iter().any(|line| line.contains("No space left on device")) {
        let place = log().parent().map(Path::to_owned).unwrap_or_default();
        return Some(Error::DiskFull { what: what(), place, log: log() });
    }
    if let Some(reason) = find(lines, &NO_USER_NAMESPACE) {
        return Some(Error::NoUserNamespace { what: what(), reason, log: log() });
    }
    // Before the missing packages: without a server apt finds none of them.
    if let Some(reason) = find(lines, &UNREACHABLE) {
        let host = server(lines, &reason);
        return Some(Error::NoNetwork { what: what(), host, reason, log: log() });
    }
    let package = lines.iter().find_map(|line| missing_package(line))?;
    Some(Error::NoPackage { what: what(), package: package.to_owned(), log: log() })
}

fn find(lines: &[&str], phrases: &[&str]) -> Option<String> {
    let line = lines.iter().find(|line| phrases.iter().any(|phrase| line.contains(phrase)))?;
    Some(line.trim().trim_start_matches("E: ").trim_start_matches("W: ").to_owned())
}

/// "Temporary failure resolving 'HOST'", or the address in another line.
fn server(lines: &[&str], reason: &str) -> String {
    let quoted = reason.split('\'').nth(1).filter(|text| text.contains('.'));
    let address = || {
        let line = lines.iter().find(|line| line.contains("://"))?;
        let rest = line.split("://").nth(1)?;
        rest.split(['/', ' ']).next()
    };
    quoted.or_else(address).unwrap_or("unknown").to_owned()
}

/// The name in apt's three ways to say that it has no such package.
fn missing_package(line: &str) -> Option<&str> {
    if let Some((_, rest)) = line.split_once("Unable to locate package ") {
        return rest.split_whitespace().next();
    }
    if line.contains("has no installation candidate") {
        return line.split('\'').nth(1);
    }
    if let Some((_, rest)) = line.split_once("Version '")
        && rest.contains("' was not found")
    {
        return rest.rsplit('\'').nth(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[&str]) -> Option<String> {
        explain("tool root", lines, Path::new("/c/logs/x.log")).map(|error| error.to_string())
    }

    #[test]
    fn no_network_names_the_server_and_the_log() {
        let said = text(&[
            "Err:1 http://mirror.example/debian trixie InRelease",
            "  Temporary failure resolving 'mirror.example'",
            "E: Unable to locate package gcc-14",
        ])
        .unwrap();
        assert!(said.contains("package server `mirror.example` cannot be reached"), "{said}");
        assert!(said.contains("LONGPIN_MIRROR"), "{said}");
        assert!(said.ends_with("/c/logs/x.log"), "{said}");
    }

    #[test]
    fn a_refused_connection_is_named_by_the_address_that_was_printed() {
        let said = text(&[
            "Err:1 http://127.0.0.1:9/debian trixie InRelease",
            "  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        ])
        .unwrap();
        assert!(said.contains("package server `127.0.0.1:9` cannot be reached"), "{said}");
    }

    #[test]
    fn a_missing_package_is_named() {
        for line in [
            "E: Unable to locate package bindgen",
            "E: Package 'bindgen' has no installation candidate",
            "E: Version '1.2-3' for 'bindgen' was not found",
        ] {
            let said = text(&["Reading package lists...", line]).unwrap();
            assert!(said.contains("package `bindgen` is not in the suite"), "{line}: {said}");
        }
    }

    #[test]
    fn a_full_disk_names_the_place() {
        let said = text(&[
            "dpkg: error: failed to write (No space left on device)",
            "E: Unable to locate package x",
        ]);
        assert!(said.unwrap().contains("no space left on the device of /c/logs"));
    }

    #[test]
    fn a_user_without_subordinate_ids_reads_what_to_install() {
        let said = text(&["E: invalid idmap: nobody has no entry in /etc/subuid"]).unwrap();
        assert!(said.contains("/etc/subuid"), "{said}");
        assert!(said.contains("package uidmap"), "{said}");
    }

    #[test]
    fn other_failures_are_not_explained_away() {
        assert_eq!(text(&["make: *** [Makefile:1] Error 2"]), None);
        assert_eq!(text(&[]), None);
    }
}
