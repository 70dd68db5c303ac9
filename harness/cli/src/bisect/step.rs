// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin bisect-step`: one commit, for `git bisect run`. Whatever goes wrong here must not be taken for a verdict: to
//! git every exit code from 1 to 127 but 125 says bad.

use super::log;
use super::subject::{Named, Subject};
use super::trial::Trial;
use crate::args::{BisectStepArgs, TryArgs};
use crate::error::{Error, Result};
use crate::library::Library;
use crate::output;
use crate::run::ignored;
use anyhow::Context as _;
use longpin_core::bisect::{Fingerprint, HitRate, Rule, Ruling, Verdict};
use longpin_core::plan::Case;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Name of the command.
pub const NAME: &str = "bisect-step";
/// Exit code: the command line is wrong. 3, as elsewhere, would say that the commit is bad.
pub const USAGE: u8 = 129;
/// Exit code: no verdict, and none to be had.
const STOP: u8 = 128;

/// Try the commit that is checked out.
pub fn step(args: &BisectStepArgs) -> u8 {
    // The exit code of a panic, 101, would say that the commit is bad.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::exit(i32::from(STOP));
    }));
    match try_commit(args) {
        Ok(verdict) => verdict.exit_code(args.common.reverse),
        Err(error) => {
            output::note(&format!("longpin: {error}"));
            match error {
                Error::Usage(_) => USAGE,
                Error::Interrupted | Error::Infra(_) => STOP,
            }
        }
    }
}

fn try_commit(args: &BisectStepArgs) -> Result<Verdict> {
    let common = &args.common;
    let named = Named {
        module: ("--module-dir", args.module_dir.as_deref()),
        device: ("--device-dir", args.device_dir.as_deref()),
    };
    let (subject, _, source) = Subject::of(named, common)?;
    let library = Library::load(&common.library)?;
    let case = only_case(&library)?;
    let rule = rule(&common.tries, common.seen, &case)?;
    ignored::open(common.ignore_log.as_deref())?;
    let source =
        source.canonicalize().map_err(|error| Error::Usage(format!("{}: {error}", source.display())))?;
    let commit = commit(&source);
    let dir = step_dir(&common.out, &commit)?;
    let (machine, mut tries) = match subject.make(&common.machine, &source, &common.out, &dir)? {
        Ok(machine) => (machine, Vec::new()),
        Err(one) => (common.machine.clone(), vec![one]),
    };
    let trial = Trial {
        library: common.library.clone(),
        machine,
        args: &common.tries,
        ignore_log: common.ignore_log.clone(),
        only_driver: subject.is_module(),
    };
    let ruling = trial.judge(&dir, &rule, &mut tries, |_| Ok(()))?;
    tell(&common.out, &commit, &ruling, &dir)?;
    Ok(ruling.verdict)
}

fn tell(out: &Path, commit: &str, ruling: &Ruling, dir: &Path) -> anyhow::Result<()> {
    let line = log::line(commit, ruling, dir);
    log::append(out, &line)?;
    output::text(&format!("{line}\n"))
}

/// The only case that is chosen.
pub fn only_case(library: &Library) -> Result<Case> {
    let mut cases = library.cases(1);
    match (cases.len(), cases.pop()) {
        (1, Some(case)) => Ok(case),
        (n, _) => Err(Error::Usage(format!(
            "{n} cases are chosen, and one has to decide; name it (longpin run --dry-run lists them), or narrow the choice \
             by --fs, --pin, --release and --variant"
        ))),
    }
}

/// By what the arguments say; what is to be seen without the fault is what the scenario expects, if they do not say.
pub fn rule(args: &TryArgs, rate: HitRate, case: &Case) -> Result<Rule> {
    let Some(bad) = args.bad_is.clone() else {
        return Err(Error::Usage(
            "--bad-is: say what the case shows with the fault, as --bad-is lost".into(),
        ));
    };
    let good = match &args.good_is {
        Some(good) => good.clone(),
        None => expected(case).ok_or_else(|| {
            Error::Usage(format!("--good-is: say what {} shows without the fault", case.id))
        })?,
    };
    if bad.matches(&good) || good.matches(&bad) {
        return Err(Error::Usage(format!(
            "--bad-is {bad} and what {} shows without the fault ({good}) are the same; say both, --bad-is and --good-is",
            case.id
        )));
    }
    let needed = rate.needed(args.error);
    if needed > args.max_tries {
        return Err(Error::Usage(format!(
            "a fault that shows in {rate} tries takes {needed} clean tries for a `good` that is wrong with a probability of {} \
             at most; allow them (--max-tries {needed}), or a greater --error",
            args.error
        )));
    }
    Ok(Rule { bad, good, rate, error: args.error, hits: args.hits, most_tries: args.max_tries })
}

fn expected(case: &Case) -> Option<Fingerprint> {
    let row = case.expectation()?;
    Fingerprint::expected(&row.observe, row.errno.as_deref())
}

/// What is checked out there, for people; a directory that is in no repository has no name.
fn commit(dir: &Path) -> String {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(dir)
        .args(["rev-parse", "--short=12", "HEAD"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let out = git.output().ok().filter(|out| out.status.success());
    let name = out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// A new directory below `out`: `003-1234567890ab`.
fn step_dir(out: &Path, commit: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(out).with_context(|| format!("{} cannot be created", out.display()))?;
    let entries = fs::read_dir(out).with_context(|| format!("{} cannot be read", out.display()))?;
    let number = |name: String| name.split_once('-').and_then(|(number, _)| number.parse::<u32>().ok());
    let last = entries
        .flatten()
        .filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned()))
        .max()
        .unwrap_or(0);
    let dir = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let dir = dir.join(format!("{:03}-{commit}", last + 1));
    fs::create_dir(&dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    Ok(dir)
}
