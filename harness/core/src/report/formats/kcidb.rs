// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file for KCIDB, the database in which kernel CI systems put their results: schema v5.3. What a status means there is a
//! statement about the tested kernel, so a known failure is a FAIL with an incident of a known issue.

use super::{Entry, environment, one_line, suites};
use crate::report::RunResult;
use crate::result::CaseResult;
use crate::verdict::{Cause, Observation, Outcome};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Who reports; every id begins with it.
const ORIGIN: &str = "longpin";
/// Of an issue: goes up when the text of issues changes, as the database keeps the highest only.
const ISSUE_VERSION: u32 = 1;
/// Characters of an excerpt; the schema takes 16384.
const EXCERPT_CHARS: usize = 16_000;

/// The whole run.
pub fn kcidb(run: &RunResult) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(&Data::new(run))? + "\n")
}

/// No property may be null: what is unknown is left out.
#[derive(Serialize)]
struct Data<'r> {
    version: Version,
    checkouts: [Checkout; 1],
    builds: [Build<'r>; 1],
    tests: Vec<Test<'r>>,
    issues: Vec<Issue>,
    incidents: Vec<Incident>,
}

#[derive(Serialize)]
struct Version {
    major: u32,
    minor: u32,
}

#[derive(Serialize)]
struct Checkout {
    id: String,
    origin: &'static str,
    comment: String,
    valid: bool,
}

#[derive(Serialize)]
struct Build<'r> {
    id: String,
    origin: &'static str,
    checkout_id: String,
    comment: String,
    architecture: &'static str,
    status: Status,
    misc: BuildMisc<'r>,
}

#[derive(Serialize)]
struct BuildMisc<'r> {
    version: &'r str,
    stock: bool,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Fail,
    Error,
    Miss,
    Pass,
    Skip,
}

#[derive(Serialize)]
struct Test<'r> {
    id: String,
    origin: &'static str,
    build_id: String,
    path: String,
    status: Status,
    comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_excerpt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    environment: Place<'r>,
    misc: TestMisc<'r>,
}

#[derive(Clone, Serialize)]
struct Place<'r> {
    comment: String,
    misc: BTreeMap<&'r str, String>,
}

#[derive(Serialize)]
struct TestMisc<'r> {
    outcome: String,
    #[serde(flatten)]
    case: Option<CaseMisc<'r>>,
}

#[derive(Serialize)]
struct CaseMisc<'r> {
    observations: &'r BTreeSet<Observation>,
    expected: &'r BTreeSet<Observation>,
    attempt: u32,
    boot: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<&'r str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernel_reports: Vec<KernelReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Attempt<'r>>,
}

#[derive(Serialize)]
struct KernelReport {
    title: String,
    fingerprint: String,
}

#[derive(Serialize)]
struct Attempt<'r> {
    attempt: u32,
    boot: u32,
    outcome: String,
    observations: &'r BTreeSet<Observation>,
}

#[derive(Serialize)]
struct Issue {
    id: String,
    origin: &'static str,
    version: u32,
    culprit: Culprit,
    comment: String,
}

#[derive(Serialize)]
struct Culprit {
    code: bool,
    tool: bool,
    harness: bool,
}

#[derive(Serialize)]
struct Incident {
    id: String,
    origin: &'static str,
    issue_id: String,
    issue_version: u32,
    test_id: String,
    present: bool,
    comment: String,
}

impl<'r> Data<'r> {
    fn new(run: &'r RunResult) -> Self {
        let kernel = &run.environment.kernel;
        let key = match kernel.key.as_str() {
            "" => digest(&[&kernel.release, &kernel.version, &kernel.source]),
            key => one_line(key, usize::MAX),
        };
        let build_id = format!("{ORIGIN}:{key}");
        let mut data = Self {
            version: Version { major: 5, minor: 3 },
            checkouts: [Checkout {
                id: build_id.clone(),
                origin: ORIGIN,
                comment: text(&kernel.source),
                valid: true,
            }],
            builds: [Build {
                id: build_id.clone(),
                origin: ORIGIN,
                checkout_id: build_id.clone(),
                comment: text(&kernel.release),
                architecture: "x86_64",
                status: Status::Pass,
                misc: BuildMisc { version: &kernel.version, stock: kernel.stock },
            }],
            tests: Vec::new(),
            issues: Vec::new(),
            incidents: Vec::new(),
        };
        let (run_key, place) = (run_key(run), Place::new(run));
        let start_time = Some(run.started.as_str()).filter(|it| is_moment(it));
        let mut issues = BTreeMap::new();
        for entry in suites(run).iter().flat_map(|suite| &suite.entries) {
            let id = format!("{ORIGIN}:{run_key}:{}", one_line(&entry.label, usize::MAX));
            if let Some((issue, present)) = known(entry) {
                data.incidents.push(Incident {
                    id: id.clone(),
                    origin: ORIGIN,
                    issue_id: issue.id.clone(),
                    issue_version: ISSUE_VERSION,
                    test_id: id.clone(),
                    present,
                    comment: entry.reason(),
                });
                issues.insert(issue.id.clone(), issue);
            }
            data.tests.push(Test {
                id,
                origin: ORIGIN,
                build_id: build_id.clone(),
                path: path(entry.id),
                status: status(entry),
                comment: entry.reason(),
                log_excerpt: excerpt(entry),
                start_time,
                duration: entry.case.map(|case| case.seconds).filter(|it| it.is_finite()),
                environment: place.clone(),
                misc: TestMisc { outcome: entry.outcome_words(), case: entry.case.map(CaseMisc::new) },
            });
        }
        data.issues.extend(issues.into_values());
        data
    }
}

impl Place<'_> {
    fn new(run: &RunResult) -> Self {
        let (environment_of_run, host) = (environment(run), &run.environment.host);
        let (qemu, accel) = (&run.environment.qemu.version, &run.environment.accel);
        let host_words = [
            ("host-kernel", text(&host.kernel)),
            ("host-cpu", text(&host.cpu)),
            ("host-cpus", host.cpus.to_string()),
            ("host-memory-kib", host.memory_kib.to_string()),
        ];
        let words = environment_of_run.into_iter().chain(host_words);
        Self {
            comment: text(&format!("QEMU {qemu}, {accel}")),
            misc: words.filter(|(_, value)| !value.is_empty()).collect(),
        }
    }
}

impl<'r> CaseMisc<'r> {
    fn new(case: &'r CaseResult) -> Self {
        let reports = case.reports.iter().filter(|report| report.ignored.is_none());
        Self {
            observations: &case.observations,
            expected: &case.expected,
            attempt: case.attempt,
            boot: case.boot,
            errno: case.errno.as_deref(),
            kernel_reports: reports
                .map(|report| KernelReport {
                    title: text(&report.title),
                    fingerprint: text(&report.fingerprint),
                })
                .collect(),
            attempts: case
                .attempts
                .iter()
                .map(|attempt| Attempt {
                    attempt: attempt.attempt,
                    boot: attempt.boot,
                    outcome: attempt.outcome_words(),
                    observations: &attempt.observations,
                })
                .collect(),
        }
    }
}

/// By the schema's words: FAIL says that the tested code is faulty, ERROR that the test did not complete by a fault of its
/// own, MISS that the harness kept it from running.
fn status(entry: &Entry<'_>) -> Status {
    match (entry.outcome, entry.cause) {
        (Outcome::Pass, _) => Status::Pass,
        (Outcome::Flaky, _) if entry.is_good() => Status::Pass,
        (Outcome::Fail | Outcome::Xfail | Outcome::Xpass | Outcome::Flaky, _) => Status::Fail,
        (Outcome::Skip, _) => Status::Skip,
        (Outcome::Error, Some(Cause::Unproven)) => Status::Error,
        (Outcome::Error, Some(Cause::Infra) | None) => Status::Miss,
    }
}

/// The known issue that a scenario expects, and whether it was there.
fn known(entry: &Entry<'_>) -> Option<(Issue, bool)> {
    let present = match entry.outcome {
        Outcome::Xfail => true,
        Outcome::Xpass => false,
        Outcome::Pass | Outcome::Fail | Outcome::Flaky | Outcome::Skip | Outcome::Error => return None,
    };
    let words: Vec<&str> = entry.case?.expected.iter().rev().map(|word| word.as_str()).collect();
    let scenario = text(entry.scenario);
    let issue = Issue {
        id: format!("{ORIGIN}:{scenario}:{}", words.join("+")),
        origin: ORIGIN,
        version: ISSUE_VERSION,
        culprit: Culprit { code: true, tool: false, harness: false },
        comment: format!("{scenario}: {}, as the scenario explains", words.join(" ")),
    };
    Some((issue, present))
}

/// The place in the tree of tests: words of letters, digits, `_` and `-`, with dots between them.
fn path(id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let words = id.split('/').filter(|word| !word.is_empty());
    let words = words.map(|word| word.chars().map(allowed).collect::<String>());
    std::iter::once(ORIGIN.to_owned()).chain(words).collect::<Vec<_>>().join(".")
}

/// What helps to understand whatever is no plain pass.
fn excerpt(entry: &Entry<'_>) -> Option<String> {
    if entry.outcome == Outcome::Pass {
        return None;
    }
    let mut excerpt = String::new();
    let mut left = EXCERPT_CHARS;
    for line in
        std::iter::once(format!("{}: {}", entry.outcome_words(), entry.reason())).chain(entry.details())
    {
        let chars = line.chars().count() + 1;
        if chars > left {
            excerpt.push_str("[...]\n");
            break;
        }
        left -= chars;
        excerpt.push_str(&line);
        excerpt.push('\n');
    }
    Some(excerpt)
}

/// The same for every view of a run, and for no other run.
fn run_key(run: &RunResult) -> String {
    let (host, seed) = (&run.environment.host, run.environment.seed.to_string());
    digest(&[&run.started, &seed, &run.command, &host.kernel, &host.cpu, &host.memory_kib.to_string()])
}

fn digest(words: &[&str]) -> String {
    let hash = Sha256::digest(words.join("\0"));
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The `2027-01-01T00:00:00Z` of a run, with any fraction of a second. A run that never began has none.
fn is_moment(text: &str) -> bool {
    let Some((whole, fraction)) = text.strip_suffix('Z').map(|it| it.split_once('.').unwrap_or((it, "0")))
    else {
        return false;
    };
    let like = "0000-00-00T00:00:00".bytes();
    let fits = |(byte, like): (u8, u8)| if like == b'0' { byte.is_ascii_digit() } else { byte == like };
    whole.len() == like.len()
        && whole.bytes().zip(like).all(fits)
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

fn text(text: &str) -> String {
    one_line(text, super::REASON_CHARS)
}
