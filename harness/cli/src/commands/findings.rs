// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin findings`: what a run found, as a page for documentation or a mail. Reads result directories; boots nothing.

use crate::args::FindingsArgs;
use crate::earlier::{kept_library, read_run_and_note};
use crate::error::Result;
use crate::formats::write_file;
use crate::output;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_core::findings::{Findings, markdown};
use longpin_core::report::RunResult;

/// Write the page.
pub fn findings(args: &FindingsArgs) -> Result<ExitCode> {
    let run = read_run_and_note(&args.dir)?;
    let others = args
        .others
        .iter()
        .map(|dir| Ok((dir.display().to_string(), read_run_and_note(dir)?)))
        .collect::<Result<Vec<(String, RunResult)>>>()?;
    let cases = kept_library(&args.dir)?.cases(1);
    let found = Findings::of(&run, &others, &cases);
    let page = markdown(&found, &args.dir.display().to_string(), &run, &others);
    match &args.out {
        None => output::text(&page)?,
        Some(file) => {
            write_file(file, &page).with_context(|| format!("{} cannot be written", file.display()))?
        }
    }
    Ok(ExitCode::Good)
}
