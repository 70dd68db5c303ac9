// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's own reader of KTAP, from the source of the guest's kernel.

use longpin_images::{Bind, Store, report};
use std::path::Path;

/// Prints the counts as JSON; whatever the parser has to say goes before.
const SCRIPT: &str = "\
import json, sys
sys.path.insert(0, sys.argv[1])
import kunit_parser, kunit_printer
with open(sys.argv[2], encoding='utf-8') as lines:
    test = kunit_parser.parse_run_tests(lines, kunit_printer.Printer(output=sys.stdout))
counts = test.counts
print(json.dumps([counts.passed, counts.failed, counts.crashed, counts.skipped, counts.errors]))
";

/// What it counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    /// `ok`, with XFAIL too.
    pub passed: u64,
    /// `not ok`.
    pub failed: u64,
    /// `# SKIP`.
    pub skipped: u64,
    /// Tests without a result.
    pub crashed: u64,
    /// Faults of the text itself.
    pub errors: u64,
}

/// Read a file; the counts and what the parser said.
///
/// # Panics
///
/// If the parser does not come to an end.
pub fn parse(file: &Path) -> (Counts, String) {
    let store = Store::open_default().expect("the image store can be opened");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root was built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel was built");
    let source = kernel.build_dir().expect("the distribution's kernel comes with its source");
    let parser = source.join("tools/testing/kunit");
    let output = root
        .command("python3", &[Bind::read_only(&parser), Bind::read_only(file)])
        .args(["-B", "-c", SCRIPT])
        .args([&parser, file])
        .output()
        .expect("the tool root can be entered");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{said}{}",
        parser.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let last = said.lines().last().unwrap_or_default();
    let [passed, failed, crashed, skipped, errors] =
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"));
    (Counts { passed, failed, skipped, crashed, errors }, said)
}
