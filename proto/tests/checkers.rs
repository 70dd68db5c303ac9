// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real outputs of every checker of the table are what they are. `checkers/NAME.txt` holds those of file system NAME:
//!
//! ```text
//! === COMMAND LINE
//! code EXIT CODE
//! means clean | damaged: COMPLAINT | data-damaged: COMPLAINT | unusable: COMPLAINT
//! OUTPUT
//! ```

use longpin_proto::filesystem::{self, Checker, FileSystem, Structure};
use std::path::Path;

/// One output.
struct Report<'a> {
    argv: &'a str,
    code: i32,
    means: &'a str,
    complaint: Option<&'a str>,
    output: &'a str,
}

fn reports(text: &str) -> Vec<Report<'_>> {
    let section = |section| {
        let mut lines = str::splitn(section, 4, '\n');
        let argv = lines.next().expect("a command line");
        let code = lines.next().and_then(|line| line.strip_prefix("code ")).expect("a code");
        let means = lines.next().and_then(|line| line.strip_prefix("means ")).expect("what it means");
        let (means, complaint) = match means.split_once(": ") {
            Some((means, complaint)) => (means, Some(complaint)),
            None => (means, None),
        };
        let output = lines.next().expect("an output");
        Report { argv, code: code.parse().expect("a number"), means, complaint, output }
    };
    let first = text.strip_prefix("=== ").expect("a file begins with `=== `");
    first.split("\n=== ").map(section).collect()
}

/// Word of a state, and the complaint where it is not clean.
fn read<'a>(checker: &Checker, report: &Report<'a>) -> (String, Option<&'a str>) {
    let state = checker.structure(report.code, report.output);
    let word = serde_json::to_value(state).expect("a word").as_str().expect("a word").to_owned();
    (word, (state != Structure::Clean).then(|| checker.complaint(report.output)).flatten())
}

#[test]
fn real_outputs_of_every_checker_are_what_they_are() {
    // One over another is that one to its checker.
    for fs in filesystem::ALL.iter().filter(|fs| fs.over().is_none()) {
        let Some(checker) = fs.checker() else { continue };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/checkers/{fs}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{fs} has no outputs of its checker, {}: {error}", path.display())
        });
        let reports = reports(&text);
        for report in &reports {
            assert!(report.argv.starts_with(checker.argv[0]), "{fs}: {} is another program", report.argv);
            let wanted = (report.means.to_owned(), report.complaint);
            assert_eq!(read(checker, report), wanted, "{fs}: {}", report.argv);
        }
        for word in ["clean", "damaged"] {
            assert!(reports.iter().any(|report| report.means == word), "{fs} has no output that is {word}");
        }
    }
}

#[test]
fn a_checker_that_a_signal_ended_says_nothing() {
    let checker = FileSystem::find("ext4").and_then(FileSystem::checker).expect("a checker");
    for code in [127, 134, 137, 139] {
        assert_eq!(checker.structure(code, "Inode 12 is bad"), Structure::Unusable, "{code}");
    }
}
