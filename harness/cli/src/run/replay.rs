// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One case of an earlier run once more, as it was: its scenario from that run's directory, the same machine, seed and
//! label of stamps, and a kernel, modules and files that are the same by content.

use super::environment;
use super::rerun::some;
use super::result_dir::file_name;
use crate::args::{LibraryArgs, ReplayArgs, RunArgs};
use crate::earlier;
use crate::error::{Error, Result};
use crate::guest::Machine;
use longpin_core::record::{CaseRecord, SCHEMA};
use longpin_core::report::{CaseResult, Environment, RunResult};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Directory of the records below the result directory.
const CASES: &str = "cases";

/// The case as it was.
#[derive(Debug)]
pub struct Then {
    /// Its id.
    pub id: String,
    /// Label in its stamps and ledger entries.
    pub run: u64,
    /// What became of it; none: it was interrupted.
    verdict: Option<String>,
    environment: Environment,
    differing: bool,
}

/// What is to be run, and how.
pub fn open(args: &ReplayArgs) -> Result<(RunArgs, Then)> {
    let (dir, label) = place(args)?;
    let shown = dir.display();
    let usage = |why: String| Error::Usage(format!("{shown}: {why}"));
    let run = earlier::read_run(&dir, &mut Vec::new())?;
    let label = match label {
        Some(label) => label,
        None => only_case(&dir, &run).map_err(usage)?,
    };
    let record = record_of(&dir, &label);
    let text = match std::fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) => {
            return Err(usage(format!(
                "case {label} left no record there ({}: {error}); name one of: {}",
                record.display(),
                some(&ran(&dir, &run))
            )));
        }
    };
    let CaseRecord { id, attempt, run: number, .. } = earlier::parse(&record, &text, SCHEMA)?;
    let scenarios = earlier::scenarios(&dir);
    if !scenarios.is_dir() {
        return Err(usage("its scenarios are not there".into()));
    }
    let mut again = earlier::arguments(&dir)?;
    // How the machine is, with which limits and seed, stays; what was done with many cases does not.
    again.library = LibraryArgs { scenarios: vec![id.clone()], ..LibraryArgs::whole(Some(scenarios)) };
    again.repeat = 1;
    again.retries = 0;
    again.allow_flaky = false;
    again.max_fail = None;
    again.fail_fast = false;
    again.until_fail = false;
    again.out = args.out.clone();
    again.format = args.format.clone();
    again.color = args.color;
    again.verbose = args.verbose;
    let of_run = run.cases.iter().flat_map(attempts).find(|case| case.id == id && case.attempt == attempt);
    let verdict = of_run.map(words);
    let environment = run.environment;
    Ok((again, Then { id, run: number, verdict, environment, differing: args.differing }))
}

impl Then {
    /// What guests are made of is what they were made of then. What differs is refused, or said where that is wanted; of
    /// the laboratory itself it is only said.
    pub fn check(&self, machine: &Machine) -> Result<Vec<String>> {
        let now = environment::collect(machine, 0)?;
        let refused = subject(&self.environment, &now);
        if !refused.is_empty() && !self.differing {
            return Err(Error::Usage(format!(
                "{} cannot be replayed: {}; bring back what it ran with, or give --differing",
                self.id,
                refused.join("; ")
            )));
        }
        Ok(refused.into_iter().chain(laboratory(&self.environment, &now)).collect())
    }

    /// Whether the case came out as it did.
    pub fn compared(&self, now: &RunResult) -> String {
        let now = now.cases.iter().find(|case| case.id == self.id).map(words);
        let word = |verdict: &Option<String>| verdict.clone().unwrap_or_else(|| "no verdict".to_owned());
        match now == self.verdict {
            true => format!("replay:  as it was: {}", word(&now)),
            false => format!("replay:  {}; it was: {}", word(&now), word(&self.verdict)),
        }
    }
}

/// Result directory and label, from the path of a record or of the directory.
fn place(args: &ReplayArgs) -> Result<(PathBuf, Option<String>)> {
    let path = &args.case_dir;
    let is_record = path.extension() == Some(OsStr::new("json"))
        && path.parent().and_then(Path::file_name) == Some(OsStr::new(CASES));
    if !is_record {
        return Ok((path.clone(), args.case.clone()));
    }
    let shown = path.display();
    if args.case.is_some() {
        return Err(Error::Usage(format!("{shown} is the record of a case; name no other beside it")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::Usage(format!("{shown}: {error}")))?;
    let CaseRecord { id, attempt, .. } = earlier::parse(path, &text, SCHEMA)?;
    let dir = path.ancestors().nth(2).filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let label = if attempt == 1 { id } else { format!("{id}#{attempt}") };
    Ok((dir.to_owned(), Some(label)))
}

fn record_of(dir: &Path, label: &str) -> PathBuf {
    dir.join(CASES).join(format!("{}.json", file_name(label)))
}

fn only_case(dir: &Path, run: &RunResult) -> std::result::Result<String, String> {
    let ran = ran(dir, run);
    match ran.len() {
        0 => Err("no case of it has run; name the directory of another run".into()),
        1 => Ok(ran.into_iter().next().unwrap_or_default()),
        many => Err(format!("{many} cases of it have run; name one behind the directory: {}", some(&ran))),
    }
}

/// Labels of what has a record.
fn ran(dir: &Path, run: &RunResult) -> BTreeSet<String> {
    let labels = run.cases.iter().flat_map(attempts).map(CaseResult::label);
    labels.filter(|label| record_of(dir, label).is_file()).collect()
}

fn attempts(case: &CaseResult) -> Vec<&CaseResult> {
    match case.attempts.as_slice() {
        [] => vec![case],
        attempts => attempts.iter().collect(),
    }
}

/// `fail: lost, warned`.
fn words(case: &CaseResult) -> String {
    let seen: Vec<&str> = case.observations.iter().map(|word| word.as_str()).collect();
    match seen.is_empty() {
        true => case.outcome_words(),
        false => format!("{}: {}", case.outcome_words(), seen.join(", ")),
    }
}

/// What is under test, or goes into the guest.
fn subject(then: &Environment, now: &Environment) -> Vec<String> {
    let kernel = |environment: &Environment| {
        format!(
            "{} ({}, key {})",
            environment.kernel.release, environment.kernel.source, environment.kernel.key
        )
    };
    let modules = |environment: &Environment| {
        let modules = environment.additions.modules.iter();
        let modules = modules.map(|module| format!("{} {}", module.path, module.hash));
        if environment.additions.modules.is_empty() {
            "none".to_owned()
        } else {
            modules.collect::<Vec<_>>().join(", ")
        }
    };
    let overlay = |environment: &Environment| {
        let overlay = environment.additions.overlay.as_ref();
        overlay.map_or("none".to_owned(), |overlay| format!("{} {}", overlay.path, overlay.hash))
    };
    let pinner = |environment: &Environment| {
        let pinner = environment.additions.pinner.as_ref();
        pinner.map_or("none".to_owned(), |pinner| format!("{} {}", pinner.path, pinner.hash))
    };
    let driver = |environment: &Environment| match &environment.module.missing {
        Some(_) => "none".to_owned(),
        None => format!("{} {}", environment.module.name, environment.module.hash),
    };
    let device = |environment: &Environment| match &environment.additions.device_program {
        Some(path) => format!("{path} {}", environment.device.hash),
        None => "longpin-device".to_owned(),
    };
    // The release of the guest itself is known when it has booted, and the key covers it.
    let kernels = (then.kernel.key != now.kernel.key).then(|| differ("kernel", &kernel(then), &kernel(now)));
    let others = [
        ("driver", driver(then), driver(now)),
        ("modules", modules(then), modules(now)),
        ("overlay", overlay(then), overlay(now)),
        ("program that pins", pinner(then), pinner(now)),
        ("device program", device(then), device(now)),
    ];
    let others = others.into_iter().filter(|(_, then, now)| then != now);
    kernels.into_iter().chain(others.map(|(what, then, now)| differ(what, &then, &now))).collect()
}

/// What tests it.
fn laboratory(then: &Environment, now: &Environment) -> Vec<String> {
    let pieces = [
        ("acceleration", &then.accel, &now.accel),
        ("tool root", &then.tool_root, &now.tool_root),
        ("longpin", &then.longpin.hash, &now.longpin.hash),
    ];
    let pieces = pieces.into_iter().filter(|(_, then, now)| then != now);
    pieces.map(|(what, then, now)| differ(what, then, now)).collect()
}

fn differ(what: &str, then: &str, now: &str) -> String {
    format!("{what} was {then}, is {now}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::run::rerun::tests::{MIXED, earlier};
    use longpin_core::result::PinnerInfo;
    use std::ffi::OsString;
    use std::fs;

    const FAILED: &str = "lost-update/ext4/pin/clean";

    fn typed(words: &[&str]) -> ReplayArgs {
        let words = ["longpin", "replay"].iter().chain(words).map(OsString::from);
        match Cli::read(words).unwrap().command {
            Command::Replay(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// A run of several cases, of which these left a record.
    fn left(options: &[&str], ids: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        earlier(dir.path(), options, &MIXED, &[]);
        fs::create_dir(dir.path().join(CASES)).unwrap();
        for id in ids {
            let record = serde_json::to_string(&CaseRecord::new(*id, 1, 77, 512)).unwrap();
            fs::write(record_of(dir.path(), id), record).unwrap();
        }
        dir
    }

    fn opened(dir: &Path, words: &[&str]) -> Result<(RunArgs, Then)> {
        open(&typed(&[&[dir.to_str().unwrap()], words].concat()))
    }

    fn refusal(dir: &Path, words: &[&str]) -> String {
        match opened(dir, words) {
            Err(Error::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_case_is_run_as_it_was_and_alone() {
        let options = ["--cpus=1", "--repeat=3", "--fail-fast", "--timeout=9", "--fs=ext4"];
        let dir = left(&options, &[FAILED]);
        let by_record = dir.path().join("cases/lost-update.ext4.pin.clean.json");
        for (args, then) in [
            opened(dir.path(), &[FAILED]).unwrap(),
            opened(dir.path(), &[]).unwrap(),
            open(&typed(&[by_record.to_str().unwrap(), "--out", "o"])).unwrap(),
        ] {
            assert_eq!((args.machine.cpus, args.timeout.as_secs(), args.seed), (1, 9, Some(7)));
            assert_eq!((args.attempts(), args.fail_fast), (1, false));
            assert_eq!(args.library.fs, LibraryArgs::whole(None).fs, "the id alone chooses");
            assert_eq!(args.library.scenarios, [FAILED]);
            assert_eq!(args.library.scenario_dir, Some(dir.path().join("scenarios")));
            assert_eq!(
                (then.id.as_str(), then.run, then.verdict.as_deref()),
                (FAILED, 77, Some("fail: lost"))
            );
        }
    }

    #[test]
    fn what_cannot_be_replayed_is_refused_with_what_can_be_named() {
        let why = refusal(left(&[], &[]).path(), &[]);
        assert!(why.contains("no case of it has run"), "{why}");
        let dir = left(&[], &[FAILED, "lost-update/xfs/pin/clean"]);
        let why = refusal(dir.path(), &[]);
        assert!(why.contains("2 cases of it have run; name one behind the directory: lost-update/"), "{why}");
        let why = refusal(dir.path(), &["lost-update/xfs/get/dirty"]);
        assert!(why.contains("case lost-update/xfs/get/dirty left no record there"), "{why}");
        let record = dir.path().join("cases/lost-update.ext4.pin.clean.json");
        assert!(refusal(&record, &[FAILED]).contains("name no other beside it"));
        assert!(refusal(&dir.path().join("cases/x.json"), &[]).contains("No such file"));
        assert!(refusal(&dir.path().join("nowhere"), &[]).contains("is no result directory"));
        fs::remove_dir_all(earlier::scenarios(dir.path())).unwrap();
        assert!(refusal(dir.path(), &[FAILED]).contains("its scenarios are not there"));
    }

    #[test]
    fn what_goes_into_the_guest_is_held_against_what_went_into_it() {
        let then = Environment::default();
        assert!(subject(&then, &then).is_empty() && laboratory(&then, &then).is_empty());
        let mut now = then.clone();
        now.kernel.release = "7.3.4".into();
        now.kernel.version = "#1".into();
        assert!(subject(&then, &now).is_empty(), "known only from a guest");
        now.kernel.key = "k2".into();
        now.module.hash = "m2".into();
        now.longpin.hash = "l2".into();
        let refused = subject(&then, &now);
        assert!(
            refused.len() == 2 && refused[0].contains("key k2") && refused[1].ends_with(" m2"),
            "{refused:?}"
        );
        assert_eq!(laboratory(&then, &now), ["longpin was , is l2"]);

        let mut other = then.clone();
        other.additions.pinner = Some(PinnerInfo { path: "p".into(), hash: "1".into() });
        assert_eq!(subject(&then, &other), ["program that pins was none, is p 1"]);
        let mut newer = other.clone();
        newer.additions.pinner = Some(PinnerInfo { path: "p".into(), hash: "2".into() });
        assert_eq!(subject(&other, &newer), ["program that pins was p 1, is p 2"]);
    }
}
