// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an earlier run left behind: its result, its scenarios, and how it was told to run. Of this version or an older
//! one; what cannot be read is said with the file's name.

use crate::args::{Cli, Command, LibraryArgs, RunArgs};
use crate::error::{Error, Result};
use crate::library::Library;
use crate::output;
use clap::Parser as _;
use longpin_core::events::RunEvent;
use longpin_core::report::{RESULT_SCHEMA, RunResult};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Name of the script in the result directory.
pub const SCRIPT: &str = "repeat.sh";
/// Directory of the scenarios below the result directory.
pub const SCENARIOS: &str = "scenarios";
/// The list of what the kernel says and did not count (`--ignore-log`), in the result directory.
pub const IGNORED: &str = "ignore-log.toml";

/// [`read_run`], for commands that tell of notices as they come.
pub fn read_run_and_note(dir: &Path) -> Result<RunResult> {
    let mut notices = Vec::new();
    let run = read_run(dir, &mut notices)?;
    notices.iter().for_each(|notice| output::note(&format!("{}: {notice}", dir.display())));
    Ok(run)
}

/// `result.json`; where a run was cut off before it wrote one, the events that it left.
pub fn read_run(dir: &Path, notices: &mut Vec<String>) -> Result<RunResult> {
    let path = dir.join("result.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // A file in the place of the directory is as good as nothing.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return unfinished(dir, notices);
        }
        Err(error) => return Err(Error::Usage(format!("{}: {error}", path.display()))),
    };
    let run: RunResult = parse(&path, &text, RESULT_SCHEMA)?;
    if run.interrupted {
        notices.push("the run was interrupted before its end".into());
    }
    Ok(run)
}

fn unfinished(dir: &Path, notices: &mut Vec<String>) -> Result<RunResult> {
    let path = dir.join("events.jsonl");
    let Ok(text) = fs::read_to_string(&path) else {
        return Err(Error::Usage(format!(
            "{} is no result directory: it has neither result.json nor events.jsonl; name the directory that \
             `longpin run` printed after `results:`",
            dir.display()
        )));
    };
    // The last line may be half written.
    let events: Vec<RunEvent> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if events.is_empty() {
        return Err(Error::Usage(format!(
            "{} has no event that this version understands, and there is no result.json beside it; run the cases again",
            path.display()
        )));
    }
    notices.push(
        "the run did not come to its end: there is no result.json, this is what its events tell".into(),
    );
    Ok(RunResult::from_events(&events))
}

/// A document of ours, of this version or a clear word about which it is.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str, schema: u32) -> Result<T> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Error::Usage(format!("{} is no JSON document: {error}", path.display())))?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(schema) => Err(Error::Usage(format!(
            "{} has schema {found}, this longpin reads up to {schema}; use the longpin that made it, or a newer one",
            path.display()
        ))),
        Some(_) => serde_json::from_value(value).map_err(|error| {
            Error::Usage(format!(
                "{} is not what this longpin expects: {error}; run the cases again",
                path.display()
            ))
        }),
        None => Err(Error::Usage(format!(
            "{} has no field `schema`: it is no document of longpin",
            path.display()
        ))),
    }
}

/// The scenarios of the run. They lie beside its results; the runs of older versions did not keep them, and have the
/// built-in ones as they are today.
pub fn kept_library(dir: &Path) -> Result<Library> {
    Library::load(&LibraryArgs::whole(Some(scenarios(dir)).filter(|dir| dir.is_dir())))
}

/// Where the scenarios of the run lie.
pub fn scenarios(dir: &Path) -> PathBuf {
    dir.join(SCENARIOS)
}

/// How the run was told to run: the last line of its `repeat.sh`, where paths are absolute.
pub fn arguments(dir: &Path) -> Result<RunArgs> {
    let path = dir.join(SCRIPT);
    let text = fs::read_to_string(&path).map_err(|error| {
        Error::Usage(format!("{}: {error}; without it nobody knows how the run was done", path.display()))
    })?;
    let unknown =
        |why: &str| Error::Usage(format!("{}: {why}; run the cases again by that script", path.display()));
    let last = text.lines().last().unwrap_or_default();
    let words =
        shlex::split(last).ok_or_else(|| unknown("its last line is not quoted as a shell wants it"))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["exec", _, "run", "--scenario-dir", _, words @ .., "$@"] = words.as_slice() else {
        return Err(unknown("its last line is not the command of a run"));
    };
    if words.iter().any(|word| word.starts_with("$(printf ")) {
        return Err(unknown("one of its words is no text"));
    }
    let line = ["longpin", "run"].into_iter().chain(words.iter().copied());
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Run(mut args)) => {
            // As the script names it, from where it lies.
            args.ignore_log = args.ignore_log.map(|_| dir.join(IGNORED));
            Ok(*args)
        }
        Ok(_) => Err(unknown("its last line is not the command of a run")),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(unknown(&format!("this longpin does not understand it: {first}")))
        }
    }
}
