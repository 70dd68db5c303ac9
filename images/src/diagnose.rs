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

/// util-linux' unshare and bubblewrap, started by root.
const POWERLESS_ROOT: [&str; 4] = [
    "unshare: unshare failed: Operation not permitted",
    "unshare: cannot change root filesystem propagation",
    "Creating new namespace failed: Operation not permitted",
    "bwrap: Failed to make / slave: Permission denied",
];

const UNSIGNED: [&str; 2] = ["NO_PUBKEY", "is not signed"];

/// Where a build keeps its files.
pub(crate) struct Places<'a> {
    /// The log's, in the store.
    pub log: &'a Path,
    /// Files that its programs make elsewhere, if they do.
    pub scratch: Option<&'a Path>,
}

/// The known reason behind a failure, if there is one.
pub(crate) fn explain(what: &str, lines: &[&str], places: &Places<'_>) -> Option<Error> {
    let what = || what.to_owned();
    let log = || places.log.to_owned();
    if let Some(line) = lines.iter().find(|line| line.contains("No space left on device")) {
        let (place, remedy) = match places.scratch {
            // Into the store only tar writes then.
            Some(scratch) if !line.starts_with("tar: ") => {
                (scratch.to_owned(), "free 2 GiB there, or set TMPDIR to a directory on another disk")
            }
            _ => (
                log().parent().map(Path::to_owned).unwrap_or_default(),
                "free 6 GiB there, run `longpin image gc`, or set LONGPIN_CACHE to another disk",
            ),
        };
        return Some(Error::DiskFull { what: what(), place, remedy, log: log() });
    }
    if let Some(reason) = find(lines, &POWERLESS_ROOT) {
        return Some(Error::PowerlessRoot { what: what(), reason, log: log() });
    }
    if let Some(reason) = find(lines, &NO_USER_NAMESPACE) {
        return Some(Error::NoUserNamespace { what: what(), reason, log: log() });
    }
    // Before the missing packages: without a server apt finds none of them.
    if let Some(reason) = find(lines, &UNREACHABLE) {
        let host = server(lines, &reason);
        return Some(Error::NoNetwork { what: what(), host, reason, log: log() });
    }
    if let Some(reason) = find(lines, &UNSIGNED) {
        return Some(Error::Unsigned { what: what(), reason, log: log() });
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
        let places = Places { log: Path::new("/c/logs/x.log"), scratch: None };
        explain("tool root", lines, &places).map(|error| error.to_string())
    }

    #[test]
    fn a_full_scratch_directory_is_not_taken_for_a_full_store() {
        let places = Places { log: Path::new("/c/logs/x.log"), scratch: Some(Path::new("/scratch")) };
        let said = |line: &str| explain("tool root", &[line], &places).unwrap().to_string();
        let dpkg = said("dpkg: error processing archive x.deb: cannot copy: No space left on device");
        assert!(dpkg.contains("the device of /scratch; ") && dpkg.contains("TMPDIR"), "{dpkg}");
        let tar = said("tar: ./usr/bin/gcc: Cannot write: No space left on device");
        assert!(tar.contains("the device of /c/logs; ") && tar.contains("LONGPIN_CACHE"), "{tar}");
    }

    #[test]
    fn root_without_rights_reads_that_it_has_none() {
        let said = text(&["unshare: unshare failed: Operation not permitted"]).unwrap();
        assert!(said.contains("container") && said.contains("--privileged"), "{said}");
    }

    #[test]
    fn lists_that_nobody_can_check_name_the_keyring() {
        let said = text(&[
            "W: GPG error: http://m/debian trixie InRelease: The following signatures couldn't be verified because \
             the public key is not available: NO_PUBKEY 6ED0E7B82643E131",
            "E: The repository 'http://m/debian trixie InRelease' is not signed.",
            "E: Unable to locate package gcc-14",
        ])
        .unwrap();
        assert!(said.contains("debian-archive-keyring gpg"), "{said}");
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
