// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin minimise`: runs a case without some of its steps, over and over, for as long as it shows the same.

use crate::args::{MinimiseArgs, RunArgs};
use crate::error::{Error, Result};
use crate::formats::write_file;
use crate::library::Library;
use crate::output;
use crate::run;
use crate::scratch::Scratch;
use anyhow::{Context as _, anyhow};
use longpin_core::exit_code::ExitCode;
use longpin_core::minimise::{Candidate, Minimise, Shown};
use longpin_core::plan::Case;
use longpin_core::report::RunResult;
use longpin_core::result::CaseResult;
use longpin_core::verdict::Observation;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// What a run of a candidate showed.
struct Seen {
    observations: BTreeSet<Observation>,
    blocked: BTreeSet<String>,
    shown: Shown,
}

/// Find the smallest scenario, and write it.
pub fn minimise(args: &MinimiseArgs) -> Result<ExitCode> {
    let library = Library::load(&args.library)?;
    let case = only_case(&library)?;
    let name = name(args, &case)?;
    let text = library.texts().find(|(name, _)| *name == case.scenario.name).map(|(_, text)| text.to_owned());
    let text = text.ok_or_else(|| anyhow!("scenario {} has no text", case.scenario.name))?;
    let mut search = Minimise::new(&text, &case.point, &name)
        .map_err(|error| Error::Usage(format!("{} cannot be taken apart: {error}", case.id)))?;
    let mut trials = Trials { args, name: &name, scratch: Scratch::new(&std::env::temp_dir())?, made: 0 };
    // Wrong options are found before anything boots.
    trials.run_args(&[])?;

    let mut seen = trials.whole(&search.whole())?;
    let wanted = Shown { headline: args.shows.unwrap_or(seen.shown.headline), ..seen.shown.clone() };
    output::note(&format!("{}: {}; looking for fewer steps that show it", case.id, wanted.headline.as_str()));
    let mut ended = Ok(());
    while trials.made < args.max_runs {
        let Some(candidate) = search.propose() else { break };
        let tried = candidate.steps();
        let found = match trials.showing(&candidate, &wanted) {
            Ok(found) => found,
            Err(error) => {
                ended = Err(error);
                break;
            }
        };
        search.told(candidate, found.is_some());
        let (left, whole) = search.steps();
        let word = if found.is_some() { "shows it" } else { "does not" };
        output::note(&format!("run {}: {tried} steps: {word}; {left} of {whole} left", trials.made));
        seen = found.unwrap_or(seen);
    }
    let (left, whole) = search.steps();
    let reason = format!(
        "{} shows this with {left} of its {whole} steps; each of these was left out in {} runs, and it was gone",
        case.id, trials.made
    );
    let text = search.smallest(&seen.observations, &seen.blocked, &reason);
    write_file(&args.out, &text).with_context(|| format!("{} cannot be written", args.out.display()))?;
    output::note(&format!("{}: {left} of {whole} steps, after {} runs", args.out.display(), trials.made));
    ended?;
    match trials.made < args.max_runs {
        true => Ok(ExitCode::Good),
        false => Err(anyhow!("{} runs were made (--max-runs): fewer steps may do", trials.made).into()),
    }
}

/// The case that was named.
fn only_case(library: &Library) -> Result<Case> {
    let mut cases = library.cases(1);
    match (cases.pop(), cases.len()) {
        (Some(case), 0) => Ok(case),
        (_, others) => Err(Error::Usage(format!(
            "these words name {} cases; name one, as lost-update/ext4/pin/clean",
            others + 1
        ))),
    }
}

/// A scenario has the name of its file.
fn name(args: &MinimiseArgs, case: &Case) -> Result<String> {
    let stem =
        args.out.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
    match stem {
        Some(stem) if stem != case.scenario.name => Ok(stem.to_owned()),
        _ => Err(Error::Usage(format!(
            "--out {}: the new scenario has the name of its file; write one that ends in .toml and is not {}",
            args.out.display(),
            case.scenario.name
        ))),
    }
}

/// Runs so far.
struct Trials<'a> {
    args: &'a MinimiseArgs,
    name: &'a str,
    scratch: Scratch,
    made: u32,
}

impl Trials<'_> {
    fn run_args(&self, words: &[OsString]) -> Result<Box<RunArgs>> {
        let args = RunArgs::of(words, &self.args.run)
            .map_err(|error| Error::Usage(format!("what stands behind `--` is for `run`:\n{error}")))?;
        let strange = [
            (args.dry_run, "--dry-run"),
            (args.out.is_some() && words.is_empty(), "--out"),
            (args.repeat != 1 && words.is_empty(), "--repeat"),
            (args.rerun_failed.is_some(), "--rerun-failed"),
        ];
        match strange.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(Error::Usage(format!("{option} of `run` has no sense here"))),
            None => Ok(args),
        }
    }

    fn run(&mut self, candidate: &Candidate) -> Result<(RunResult, PathBuf)> {
        self.made += 1;
        let path = self.scratch.path().join(format!("{}.toml", self.name));
        fs::write(&path, &candidate.text).with_context(|| format!("{} cannot be written", path.display()))?;
        let out = self.scratch.path().join(format!("run-{}", self.made));
        let tries = self.args.tries.to_string();
        let words =
            [path.into_os_string(), "--out".into(), out.into_os_string(), "--repeat".into(), tries.into()];
        let (result, dir) = run::run_silently(&*self.run_args(&words)?)?;
        if result.interrupted { Err(Error::Interrupted) } else { Ok((result, dir)) }
    }

    /// The case as it is: it must show something that is worth the search.
    fn whole(&mut self, candidate: &Candidate) -> Result<Seen> {
        let (result, _) = self.run(candidate)?;
        let wanted = self.args.shows;
        let seen = result.cases.iter().filter(|case| !case.control).filter_map(seen);
        let fits =
            |seen: &Seen| wanted.map_or(seen.shown.headline.is_bad(), |word| seen.shown.headline == word);
        let mut all: Vec<Seen> = seen.collect();
        if let Some(at) = all.iter().position(fits) {
            return Ok(all.swap_remove(at));
        }
        let words: BTreeSet<&str> = all.iter().map(|seen| seen.shown.headline.as_str()).collect();
        let words = if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.into_iter().collect::<Vec<_>>().join(", ")
        };
        let problem =
            result.cases.iter().find(|case| case.error.is_some()).map(|case| format!(": {}", case.reason));
        Err(Error::Usage(format!(
            "the case shows {words} in {} tries, and not what is looked for{}; see --tries and --shows",
            self.args.tries,
            problem.unwrap_or_default()
        )))
    }

    /// What a try showed, if one showed what is wanted. What a candidate leaves behind goes with it.
    fn showing(&mut self, candidate: &Candidate, wanted: &Shown) -> Result<Option<Seen>> {
        let (result, dir) = self.run(candidate)?;
        fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
        let seen = result.cases.iter().filter(|case| !case.control).filter_map(seen);
        Ok(seen.into_iter().find(|seen| seen.shown.satisfies(wanted)))
    }
}

/// Nothing of a case that is an error: what it showed until then proves nothing.
fn seen(case: &CaseResult) -> Option<Seen> {
    let headline = case.headline.filter(|_| case.error.is_none())?;
    Some(Seen {
        observations: case.observations.clone(),
        blocked: case.blocked.iter().map(|blocked| blocked.job.clone()).collect(),
        shown: Shown {
            headline,
            reports: case.reports.iter().map(|report| report.fingerprint.clone()).collect(),
        },
    })
}
