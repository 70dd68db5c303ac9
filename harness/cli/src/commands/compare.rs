// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin compare`: results side by side. What is no result directory is taken for a kernel, and run first.

use crate::args::{Cli, Command, CompareArgs, RunArgs};
use crate::earlier::read_run_and_note;
use crate::error::{Error, Result};
use crate::formats::{self, CompareForm, Output, write_file};
use crate::output;
use crate::run;
use crate::terminal;
use anyhow::Context as _;
use clap::Parser as _;
use longpin_core::compare::{Comparison, html, markdown, table};
use longpin_core::exit_code::ExitCode;
use longpin_core::report::{RunResult, TableStyle};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What stands beside what.
enum Operand {
    Dir(PathBuf),
    Kernel(Box<RunArgs>),
}

/// Compare.
pub fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let outputs = outputs(&args.format)?;
    let operands = args.runs.iter().map(|word| operand(word, &args.run)).collect::<Result<Vec<_>>>()?;
    let kernels = operands.iter().filter(|operand| matches!(operand, Operand::Kernel(_))).count();
    if kernels == 0 && !args.run.is_empty() {
        return Err(Error::Usage(
            "what stands behind `--` is for kernels that are to be run, and only result directories are named".into(),
        ));
    }
    let mut runs: Vec<(String, RunResult)> = Vec::new();
    for (word, operand) in args.runs.iter().zip(operands) {
        runs.push((word.to_string_lossy().into_owned(), result(operand)?));
    }
    let comparison = Comparison::of(&runs);
    for output in &outputs {
        write(&comparison, args, output)?;
    }
    Ok(comparison.exit_code())
}

/// Where nothing else goes to standard output, people see the table.
fn outputs(asked: &[Output<CompareForm>]) -> Result<Vec<Output<CompareForm>>> {
    formats::check(asked)?;
    formats::make_ready(asked)?;
    let mut outputs = asked.to_vec();
    if formats::to_stdout(asked).is_none() {
        outputs.insert(0, Output { form: CompareForm::Table, file: None });
    }
    Ok(outputs)
}

fn operand(word: &OsStr, run: &[OsString]) -> Result<Operand> {
    let dir = Path::new(word);
    if ["result.json", "events.jsonl"].iter().any(|name| dir.join(name).exists()) {
        return Ok(Operand::Dir(dir.to_owned()));
    }
    let own = ["longpin".into(), "run".into(), "--kernel".into(), word.to_owned()];
    let line = own.into_iter().chain(run.iter().cloned());
    let usage = |what: String| Error::Usage(format!("{}: {what}", word.display()));
    let parsed = Cli::try_parse_from(line).map_err(|error| {
        usage(format!("it is no result directory, and cannot be run as a kernel:\n{error}"))
    })?;
    match parsed.command {
        Command::Run(args)
            if args.dry_run
                || !args.format.is_empty()
                || args.out.is_some()
                || args.rerun_failed.is_some() =>
        {
            Err(usage("--dry-run, --format, --out and --rerun-failed of `run` have no sense here".into()))
        }
        Command::Run(args) => Ok(Operand::Kernel(args)),
        _ => unreachable!("the line says run"),
    }
}

fn result(operand: Operand) -> Result<RunResult> {
    match operand {
        Operand::Dir(dir) => read_run_and_note(&dir),
        Operand::Kernel(args) => {
            let (result, dir) = run::run_silently(&args)?;
            output::note(&format!("results: {}", dir.display()));
            // What one kernel did says nothing beside a part of what another did.
            if result.interrupted { Err(Error::Interrupted) } else { Ok(result) }
        }
    }
}

fn write(comparison: &Comparison, args: &CompareArgs, output: &Output<CompareForm>) -> anyhow::Result<()> {
    let style = match output.file {
        Some(_) => TableStyle { color: false, width: None },
        None => TableStyle {
            color: terminal::stdout_has_color(args.color),
            width: Some(terminal::stdout_width()),
        },
    };
    let text = match output.form {
        CompareForm::Table => table(comparison, args.all, style),
        CompareForm::Json => {
            serde_json::to_string_pretty(comparison).context("the comparison as JSON")? + "\n"
        }
        CompareForm::Markdown => markdown(comparison),
        CompareForm::Html => html(comparison).context("the comparison as HTML")?,
    };
    match &output.file {
        None => output::text(&text),
        Some(file) => {
            write_file(file, &text).with_context(|| format!("{} cannot be written", file.display()))
        }
    }
}
