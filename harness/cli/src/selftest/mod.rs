// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin selftest`: is the laboratory to be trusted on this host? What can go wrong around a case is provoked, each kind
//! in a run of its own of this very program, and outcome, exit code, reason and leftovers are held against what is due.

mod debug_stub;
mod kinds;
mod leftovers;
mod trial;
mod verdict;

use crate::args::{Format, SelftestArgs};
use crate::error::{Error, Result};
use crate::images::{Brought, Images};
use crate::interrupt::Interrupt;
use crate::kernel_choice::KernelChoice;
use crate::output;
use crate::scratch::Scratch;
use anyhow::Context as _;
use clap::ValueEnum as _;
use kinds::{KINDS, Kind};
use longpin_core::exit_code::ExitCode;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use trial::{Trial, Verdict};

/// What came of a kind.
#[derive(Debug, Serialize)]
struct Row {
    kind: &'static str,
    provoked: &'static str,
    /// `ok`, `not ok` or `not tried`.
    result: &'static str,
    /// What differs from what is due, or why it was not tried.
    problems: Vec<String>,
    seconds: f64,
    /// Directory of the run, where something was wrong.
    kept: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    ok: usize,
    not_ok: usize,
    not_tried: usize,
}

/// The whole, as a document.
#[derive(Debug, Serialize)]
struct Document {
    kinds: Vec<Row>,
    counts: Counts,
    interrupted: bool,
    seconds: f64,
}

/// Try the kinds that the arguments name.
pub fn selftest(args: &SelftestArgs) -> Result<ExitCode> {
    let kinds = chosen(&args.kinds)?;
    if args.list {
        list(&kinds, args.format)?;
        return Ok(ExitCode::Good);
    }
    let began = Instant::now();
    let images = Images::ensure(&KernelChoice::Stock, Brought::default(), false, [BTreeSet::new()])?;
    let interrupt = Interrupt::install()?;
    let scratch = Scratch::new(&std::env::temp_dir())?;
    // /proc shows paths as they really are.
    let place = scratch.path().canonicalize().context("the scratch directory")?;
    let accel = args.accel.to_possible_value().context("every accelerator has a word")?;
    let trial = Trial {
        program: std::env::current_exe().context("this program's path")?,
        accel: accel.get_name().to_owned(),
        images: &images,
        interrupt: &interrupt,
    };
    let mut rows = Vec::new();
    let mut kept = None;
    for kind in kinds {
        let began = Instant::now();
        let dir = place.join(kind.name);
        let verdict = match trial.carry_out(kind, &dir) {
            Err(Error::Interrupted) => break,
            other => other.unwrap_or_else(|error| Verdict::NotTried(error.to_string())),
        };
        let mut row = row(kind, verdict, began.elapsed().as_secs_f64());
        if row.result != "ok" && dir.exists() {
            row.kept = Some(keep(&dir, &mut kept)?);
        }
        say(&row, args.format)?;
        rows.push(row);
    }
    let count = |result| rows.iter().filter(|row| row.result == result).count();
    let counts = Counts { ok: count("ok"), not_ok: count("not ok"), not_tried: count("not tried") };
    let code = match (&counts, interrupt.asked()) {
        (Counts { not_ok: 1.., .. }, _) => ExitCode::Bad,
        (Counts { not_tried: 1.., .. }, _) | (_, true) => ExitCode::Error,
        _ => ExitCode::Good,
    };
    let document = Document {
        kinds: rows,
        counts,
        interrupted: interrupt.asked(),
        seconds: began.elapsed().as_secs_f64(),
    };
    match args.format {
        Format::Table => output::text(&summary(&document))?,
        Format::Json => output::json(&document)?,
    }
    Ok(code)
}

/// Errors: `Usage` with the word that names no kind.
fn chosen(words: &[String]) -> Result<Vec<&'static Kind>> {
    if words.is_empty() {
        return Ok(KINDS.iter().collect());
    }
    let find = |word: &String| {
        KINDS.iter().find(|kind| kind.name == word).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            Error::Usage(format!("there is no kind `{word}`; the kinds are {}", names.join(", ")))
        })
    };
    words.iter().map(find).collect()
}

fn list(kinds: &[&Kind], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => {
            let line = |kind: &&Kind| format!("{:<17} {}\n", kind.name, kind.provoked);
            output::text(&kinds.iter().map(line).collect::<String>())
        }
        Format::Json => {
            let entry = |kind: &&Kind| serde_json::json!({ "kind": kind.name, "provoked": kind.provoked });
            output::json(&kinds.iter().map(entry).collect::<Vec<_>>())
        }
    }
}

fn row(kind: &Kind, verdict: Verdict, seconds: f64) -> Row {
    let (result, problems) = match verdict {
        Verdict::Right => ("ok", Vec::new()),
        Verdict::Wrong(problems) => ("not ok", problems),
        Verdict::NotTried(why) => ("not tried", vec![why]),
    };
    Row { kind: kind.name, provoked: kind.provoked, result, problems, seconds, kept: None }
}

/// The run's directory is moved to where it stays, beside those of other kinds.
fn keep(dir: &Path, kept: &mut Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let place = match kept {
        Some(place) => place.clone(),
        None => {
            let place = tempfile::Builder::new().prefix("longpin-selftest-").tempdir();
            let place = place.context("no directory for what is kept")?.keep();
            kept.insert(place).clone()
        }
    };
    let target = place.join(dir.file_name().context("the directory of a kind has a name")?);
    std::fs::rename(dir, &target).with_context(|| format!("{} cannot be kept", dir.display()))?;
    Ok(target)
}

/// A line for each kind as it comes; a document has standard output for itself.
fn say(row: &Row, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => output::text(&line(row)),
        Format::Json => {
            output::note(line(row).trim_end());
            Ok(())
        }
    }
}

fn line(row: &Row) -> String {
    let mut text = format!("{:<9} {:<17} {:5.1} s  {}\n", row.result, row.kind, row.seconds, row.provoked);
    for problem in &row.problems {
        text += &format!("          {}\n", problem.trim_end().replace('\n', "\n          "));
    }
    if let Some(dir) = &row.kept {
        text += &format!("          kept: {}\n", dir.display());
    }
    text
}

fn summary(document: &Document) -> String {
    let Document { kinds, counts, interrupted, seconds } = document;
    let Counts { ok, not_ok, not_tried } = counts;
    let end = if *interrupted { "; interrupted before the others" } else { "" };
    let tried = kinds.len();
    format!("{tried} kinds: {ok} ok, {not_ok} not ok, {not_tried} not tried; {seconds:.1} s{end}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_names_no_kind_is_answered_with_those_that_there_are() {
        assert_eq!(chosen(&[]).unwrap().len(), KINDS.len());
        assert_eq!(chosen(&["panic".to_owned()]).unwrap()[0].name, "panic");
        let Err(Error::Usage(text)) = chosen(&["panick".to_owned()]) else { panic!("accepted") };
        assert!(text.contains("`panick`") && text.contains("qemu-stopped"), "{text}");
    }

    #[test]
    fn a_line_says_what_differs_and_where_the_run_is() {
        let mut row = row(&KINDS[0], Verdict::Wrong(vec!["exit code 1, 0 was due".to_owned()]), 1.0);
        row.kept = Some("/tmp/x/pass".into());
        let text = line(&row);
        assert!(text.starts_with("not ok    pass"), "{text}");
        assert!(text.contains("\n          exit code 1, 0 was due\n          kept: /tmp/x/pass\n"), "{text}");
    }
}
