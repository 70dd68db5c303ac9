// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What failed in an earlier run, as a run of its own: the scenarios that lie in that run's directory, the machine that it
//! had, and of its cases those that were not as expected.

use crate::args::{LibraryArgs, RunArgs};
use crate::earlier;
use crate::error::{Error, Result};
use crate::library::Library;
use longpin_core::attempts::{is_unexpected, never_ran};
use longpin_core::report::RunResult;
use longpin_core::verdict::Outcome;
use std::collections::BTreeSet;
use std::path::Path;

/// What is to be run again.
#[derive(Debug)]
pub enum Again {
    /// These cases, in this way.
    Cases(Box<RunArgs>),
    /// Nothing, and why.
    Nothing(String),
}

/// What failed in the run that left `dir`; in what `args` give it is as they say.
pub fn failed(args: &RunArgs, dir: &Path) -> Result<Again> {
    let place = dir.display();
    let usage = |why: String| Err(Error::Usage(format!("--rerun-failed {place}: {why}")));
    let run = earlier::read_run(dir, &mut Vec::new())?;
    if run.summary.planned == 0 {
        return usage("its run planned no case; name the directory of one that did".into());
    }
    let ids = unexpected(&run);
    if ids.is_empty() {
        let planned = run.summary.planned;
        return Ok(Again::Nothing(format!(
            "nothing to run again: of the {planned} cases of {place} each reported, and none failed"
        )));
    }
    let scenarios = earlier::scenarios(dir);
    if !scenarios.is_dir() {
        return usage(format!(
            "its scenarios are not there ({}); run the cases by their ids: {}",
            scenarios.display(),
            some(&ids)
        ));
    }
    let known = Library::load(&LibraryArgs::whole(Some(scenarios.clone())))?.cases(1);
    let known: BTreeSet<String> = known.into_iter().map(|case| case.id).collect();
    let unknown: BTreeSet<String> = ids.difference(&known).cloned().collect();
    if !unknown.is_empty() {
        return usage(format!(
            "{} has no such case: {}; the scenarios are not those of the run",
            scenarios.display(),
            some(&unknown)
        ));
    }
    let mut args = args.clone();
    args.inherit(earlier::arguments(dir)?);
    args.library.scenario_dir = Some(scenarios);
    args.library.scenarios = ids.into_iter().collect();
    Ok(Again::Cases(Box::new(args)))
}

/// Ids of cases that were not as expected, or never reported, in any of their runs, and of those of which none ran at all
/// since another failed before.
fn unexpected(run: &RunResult) -> BTreeSet<String> {
    let bad = |outcome| is_unexpected(outcome) || outcome == Outcome::Flaky;
    let ran: BTreeSet<&str> =
        run.cases.iter().filter(|case| !never_ran(case)).map(|case| &*case.id).collect();
    let cases = run.cases.iter().filter(|case| bad(case.outcome) || !ran.contains(&*case.id));
    let cases = cases.map(|case| case.id.clone());
    // Labels: a case that runs again has a number behind its id.
    let missing = run.missing.iter().map(|label| match label.rsplit_once('#') {
        Some((id, attempt)) if attempt.parse::<u32>().is_ok() => id.to_owned(),
        _ => label.clone(),
    });
    cases.chain(missing).collect()
}

/// A few of them.
pub(super) fn some(ids: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = ids.iter().take(4).map(String::as_str).collect();
    let more = if ids.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(" "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::args::{Cli, Command, DiskKind};
    use crate::run::repeat;
    use longpin_core::attempts::NOT_RUN;
    use longpin_core::report::Environment;
    use serde_json::json;
    use std::ffi::OsString;
    use std::fs;
    use std::path::PathBuf;

    fn typed(words: &[&str]) -> RunArgs {
        let words = ["longpin", "run"].iter().chain(words).map(OsString::from);
        match Cli::read(words).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    /// A directory as a run with `options` leaves it: of lost-update on four file systems and of one case that comes twice.
    pub fn earlier(dir: &Path, options: &[&str], outcomes: &[(&str, &str)], missing: &[&str]) {
        let case = |(id, outcome): &(&str, &str)| {
            json!({
                "id": id, "attempt": 1, "scenario": "lost-update", "fs": "ext4", "pin": "pin", "release": "clean",
                "variant": null, "control": false, "boot": 1, "observations": ["lost"], "headline": "lost",
                "expected": ["lost"], "outcome": outcome, "error": null, "reason": "r",
                "generations": {"device": null, "guest": null, "host": null}, "errno": null, "findings": [],
                "audit": null, "log": [], "seconds": 0.1,
            })
        };
        let planned = outcomes.len() + missing.len();
        let result = json!({
            "schema": longpin_core::report::RESULT_SCHEMA, "started": "", "command": "", "environment": Environment::default(),
            "boots": [], "cases": outcomes.iter().map(case).collect::<Vec<_>>(), "controls": [], "missing": missing,
            "interrupted": false,
            "summary": {"planned": planned, "pass": 0, "fail": 0, "xfail": 0, "xpass": 0, "flaky": 0, "skip": 0, "error": 0,
                        "seconds": 1.0, "cases_per_minute": 1.0},
        });
        fs::write(dir.join("result.json"), result.to_string()).unwrap();
        let library = Library::load(&LibraryArgs::whole(None)).unwrap();
        fs::create_dir(earlier::scenarios(dir)).unwrap();
        for (name, text) in library.texts() {
            fs::write(earlier::scenarios(dir).join(format!("{name}.toml")), text).unwrap();
        }
        let script =
            repeat::script(Path::new("/opt/long pin/longpin"), &typed(options), &["lost-*".to_owned()], 7);
        fs::write(dir.join(earlier::SCRIPT), script).unwrap();
    }

    fn again(words: &[&str], dir: &Path) -> RunArgs {
        match failed(&typed(words), dir).unwrap() {
            Again::Cases(args) => *args,
            Again::Nothing(why) => panic!("{why}"),
        }
    }

    fn refusal(words: &[&str], dir: &Path) -> String {
        match failed(&typed(words), dir) {
            Err(Error::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    /// One of each outcome.
    pub const MIXED: [(&str, &str); 6] = [
        ("lost-update/ext4/pin/clean", "fail"),
        ("lost-update/xfs/pin/clean", "xfail"),
        ("lost-update/btrfs/pin/clean", "flaky"),
        ("lost-update/f2fs/pin/clean", "error"),
        ("lost-update/tmpfs/pin/clean", "skip"),
        ("lost-update/ext4/get/clean", "xpass"),
    ];

    #[test]
    fn cases_that_were_not_as_expected_and_those_that_never_reported_run_again_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let missing =
            ["lost-update/xfs/get/clean", "lost-update/xfs/get/clean#2", "lost-update/ext4/pin/clean#12"];
        earlier(dir.path(), &[], &MIXED, &missing);
        let args = again(&[], dir.path());
        let ids = ["btrfs/pin", "ext4/get", "ext4/pin", "f2fs/pin", "xfs/get"]
            .map(|it| format!("lost-update/{it}/clean"));
        assert_eq!(args.library.scenarios, ids);
        let labels = |args: &RunArgs| {
            let cases = Library::load(&args.library).unwrap().cases(args.attempts());
            cases.iter().map(|case| case.label()).collect::<BTreeSet<_>>()
        };
        assert_eq!(labels(&args), BTreeSet::from(ids));
        let narrowed = again(&["--exclude", "*/get/*", "--fs", "ext4,xfs"], dir.path());
        assert_eq!(labels(&narrowed), BTreeSet::from(["lost-update/ext4/pin/clean".to_owned()]));
    }

    #[test]
    fn a_case_that_never_ran_since_another_failed_runs_and_one_that_ran_before_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let skipped = [("lost-update/xfs/pin/clean", "skip"), ("lost-update/tmpfs/pin/clean", "skip")];
        let ran = [("lost-update/ext4/pin/clean", "fail"), ("lost-update/xfs/pin/clean", "xfail")];
        earlier(dir.path(), &["--fail-fast"], &[&ran[..], &skipped].concat(), &[]);
        let path = dir.path().join("result.json");
        let mut result: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for case in &mut result["cases"].as_array_mut().unwrap()[2..] {
            case["reason"] = json!(format!("{NOT_RUN}lost-update/ext4/pin/clean came before"));
        }
        fs::write(&path, result.to_string()).unwrap();
        let ids = ["lost-update/ext4/pin/clean", "lost-update/tmpfs/pin/clean"];
        assert_eq!(again(&[], dir.path()).library.scenarios, ids);
    }

    #[test]
    fn the_machine_is_that_of_the_earlier_run_but_for_what_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let options = [
            "--cpus=1",
            "--memory=512",
            "--disk=qemu",
            "--append",
            "a=b c",
            "--timeout=9",
            "--repeat=3",
            "--strict",
        ];
        let more = ["--disk-dir", "d", "--ignore-log", "known.toml"];
        earlier(dir.path(), &[&options[..], &more].concat(), &MIXED, &[]);
        let args = again(&[], dir.path());
        assert_eq!(args.ignore_log, Some(dir.path().join("ignore-log.toml")), "as it was then");
        assert_eq!((args.machine.cpus, args.machine.memory, args.machine.disk), (1, 512, DiskKind::Qemu));
        assert_eq!(args.machine.own.append, ["a=b c"]);
        assert_eq!(args.machine.disk_dir, Some(std::path::absolute(PathBuf::from("d")).unwrap()));
        assert_eq!((args.timeout.as_secs(), args.seed), (9, Some(7)));
        assert_eq!((args.repeat, args.strict), (1, false), "what is done with the cases is asked anew");
        // As usual, and yet given.
        let args = again(&["--cpus=2", "--append=x", "--seed=3", "--keep-disks"], dir.path());
        assert_eq!((args.machine.cpus, args.machine.memory, args.seed), (2, 512, Some(3)));
        assert_eq!(args.machine.own.append, ["x"]);
        assert_eq!((args.machine.keep_disks, args.machine.disk_dir), (true, None));
    }

    #[test]
    fn where_nothing_failed_there_is_nothing_to_run_and_where_nothing_was_planned_that_is_no_success() {
        let dir = tempfile::tempdir().unwrap();
        earlier(dir.path(), &[], &MIXED[1..2], &[]);
        let Again::Nothing(why) = failed(&typed(&[]), dir.path()).unwrap() else { panic!("nothing failed") };
        assert!(why.starts_with("nothing to run again: of the 1 cases of "), "{why}");
        let dir = tempfile::tempdir().unwrap();
        earlier(dir.path(), &[], &[], &[]);
        assert!(refusal(&[], dir.path()).contains("planned no case"));
    }

    #[test]
    fn what_cannot_be_run_again_is_refused_with_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(&[], dir.path()).contains("is no result directory"));
        earlier(dir.path(), &[], &[("lost-update/ext4/dio/clean", "fail")], &[]);
        assert!(refusal(&[], dir.path()).contains("has no such case: lost-update/ext4/dio/clean"));
        let dir = tempfile::tempdir().unwrap();
        earlier(dir.path(), &[], &MIXED, &[]);
        let script = dir.path().join(earlier::SCRIPT);
        let text = fs::read_to_string(&script).unwrap();
        for (was, is, why) in [
            ("--seed 7", "--sead 7", "unexpected argument '--sead'"),
            ("--seed 7", "--qemu \"$(printf '\\377')\" --seed 7", "is no text"),
            ("exec ", "", "is not the command of a run"),
            ("exec ", "exec 'a", "is not quoted"),
        ] {
            fs::write(&script, text.replace(was, is)).unwrap();
            let refused = refusal(&[], dir.path());
            assert!(refused.contains(why) && refused.contains("repeat.sh"), "{why}: {refused}");
        }
        fs::remove_file(&script).unwrap();
        assert!(refusal(&[], dir.path()).contains("repeat.sh: No such file"));
        fs::remove_dir_all(earlier::scenarios(dir.path())).unwrap();
        assert!(refusal(&[], dir.path()).contains("its scenarios are not there"));
    }
}
