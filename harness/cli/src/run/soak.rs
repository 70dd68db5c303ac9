// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin soak`: plans of consecutive seeds, run and judged as any scenario is.

use super::{carry_out, print, random_seed};
use crate::args::{LibraryArgs, RunArgs, SoakArgs};
use crate::error::{Error, Result};
use crate::formats;
use crate::library::Library;
use crate::output;
use crate::quote;
use crate::whole_file;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_core::scenario::Flavour;
use longpin_core::soak::{FILE_SYSTEMS, Plan, Summary};
use longpin_proto::filesystem::FileSystem;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

/// Run, report, and say what the plans came to.
pub fn soak(args: &SoakArgs) -> Result<ExitCode> {
    formats::check(&args.format)?;
    let file_systems = flavours(&args.fs)?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let plan = |seed| Plan::of(seed, &file_systems).context("no file system to choose from");
    if let Some(file) = &args.write_scenario {
        return write(file, &plan(seed)?);
    }
    let dir = tempfile::tempdir().context("no place for the scenarios")?;
    for n in 0..args.cases {
        let Plan { name, text, .. } = plan(seed.wrapping_add(n))?;
        let path = dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let args = run_args(args, seed, dir.path());
    let library = Library::load(&args.library)?;
    let done = carry_out(&args, &library, library.cases(1), None)?;
    let printed = print(&args, &library, &done.result);
    output::note(&format!("results: {}", done.dir.display()));
    output::note(&format!("repeat:  {}", done.result.command));
    let summary = Summary::of(&done.result);
    output::note(&summary.to_string());
    done.written.and(printed)?;
    Ok(summary.exit_code())
}

fn flavours(words: &[String]) -> Result<Vec<Flavour>> {
    let usual = || FILE_SYSTEMS.map(str::to_owned).to_vec();
    let words = if words.is_empty() { usual() } else { words.to_vec() };
    let parse = |word: &String| {
        Flavour::parse(word).map_err(|name| {
            Error::Usage(format!("file system `{name}` is unknown; use one of {}", FileSystem::list()))
        })
    };
    words.iter().map(parse).collect()
}

fn write(file: &Path, plan: &Plan) -> Result<ExitCode> {
    if file == Path::new("-") {
        output::text(&plan.text)?;
        return Ok(ExitCode::Good);
    }
    if file.file_stem() != Some(OsStr::new(&plan.name)) {
        let file = file.display();
        return Err(Error::Usage(format!(
            "{file}: a scenario has the name of its file; write it to {}.toml",
            plan.name
        )));
    }
    whole_file::write(file, plan.text.as_bytes())
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(ExitCode::Good)
}

fn run_args(args: &SoakArgs, seed: u32, scenarios: &Path) -> RunArgs {
    let none = Vec::new;
    let library = LibraryArgs {
        scenarios: none(),
        scenario_dir: Some(scenarios.to_owned()),
        group: none(),
        exclude: none(),
        fs: none(),
        pin: none(),
        release: none(),
        variant: none(),
    };
    let fs = match args.fs.as_slice() {
        [] => String::new(),
        list => format!(" --fs {}", quote::word(&list.join(","))),
    };
    RunArgs {
        library,
        machine: args.machine.clone(),
        rerun_failed: None,
        repeat: 1,
        retries: 0,
        allow_flaky: false,
        max_fail: None,
        fail_fast: false,
        until_fail: false,
        dry_run: false,
        verbose: args.verbose,
        color: args.color,
        cases_per_boot: 100,
        timeout: args.timeout,
        out: args.out.clone(),
        format: args.format.clone(),
        ignore_log: None,
        strict: false,
        seed: Some(seed),
        given: BTreeSet::new(),
        typed: Some(format!("longpin soak --seed {seed} --cases {}{fs}", args.cases)),
    }
}
