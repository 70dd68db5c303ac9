// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tries of one commit: runs of the case as `longpin run` makes them, each batch in a result directory of its own,
//! until they come to a verdict.

use crate::args::{Color, LibraryArgs, MachineArgs, RunArgs, TryArgs};
use crate::error::{Error, Result};
use crate::run::{self, ignored};
use anyhow::Context as _;
use longpin_core::bisect::{Next, Rule, Ruling, Try, decide};
use longpin_core::report::RunResult;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// With less than this, what was seen may be the disk's fault.
const ROOM: u64 = 64 << 20;

/// How tries are made, whatever the commit.
pub struct Trial<'a> {
    /// Which case.
    pub library: LibraryArgs,
    /// How guests are run; the driver or the kernel is that of the commit.
    pub machine: MachineArgs,
    /// Tries in a boot, and how long each may take.
    pub args: &'a TryArgs,
    /// What the kernel says and does not count.
    pub ignore_log: Option<PathBuf>,
    /// Nothing but the driver is another one in each commit: a guest that says nothing at all is no commit's fault.
    pub only_driver: bool,
}

impl Trial<'_> {
    /// Try until there is a verdict. `tries` are those that were made before; each batch is told to `keep` as soon as it is
    /// there.
    ///
    /// Errors: `Usage`, `Interrupted`, and whatever `keep` has.
    pub fn judge(
        &self,
        dir: &Path,
        rule: &Rule,
        tries: &mut Vec<Try>,
        mut keep: impl FnMut(&[Try]) -> Result<()>,
    ) -> Result<Ruling> {
        loop {
            match decide(tries, rule) {
                Next::Done(ruling) => return Ok(ruling),
                Next::Try(more) => {
                    let batch = self.batch(dir, tries.len(), more.min(self.args.tries_per_boot))?;
                    tries.extend(batch.into_iter().map(|(_, one)| one));
                    keep(tries)?;
                }
            }
        }
    }

    /// `n` tries of each chosen case, with the case's id; `before` were made already.
    pub fn batch(&self, dir: &Path, before: usize, n: u32) -> Result<Vec<(String, Try)>> {
        let out = match n {
            1 => dir.join(format!("try-{}", before + 1)),
            n => dir.join(format!("tries-{}-{}", before + 1, before + n as usize)),
        };
        // Left by a run that was killed.
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("{} cannot be removed", out.display()))?;
        }
        // Which may expire at midnight; that is not the commit's.
        ignored::open(self.ignore_log.as_deref())?;
        let lab = |why: String| vec![(String::new(), Try::Lab { why })];
        let (result, _) = match run::run_silently(&self.run_args(&out, n)) {
            Ok(done) => done,
            Err(Error::Infra(error)) => return Ok(lab(format!("{error:#}"))),
            // A parameter that the driver of this commit does not have, or a module that it needs and the kernel has not.
            Err(Error::Usage(why))
                if why.starts_with("--driver") || why.starts_with("--module, --driver") =>
            {
                return Ok(vec![(String::new(), Try::NotRun { why })]);
            }
            // What a kernel or device of the history is, and what it cannot do, is the commit's.
            Err(Error::Usage(why)) if !self.only_driver => {
                return Ok(vec![(String::new(), Try::NotRun { why })]);
            }
            Err(error) => return Err(error),
        };
        if result.interrupted {
            return Err(Error::Interrupted);
        }
        let tries = self.tries(&result, &out);
        let useless = tries.iter().any(|(_, one)| one.fingerprint().is_none());
        match useless.then(|| self.full_disk(&out)).flatten() {
            Some(why) => Ok(lab(why)),
            None => Ok(tries),
        }
    }

    fn tries(&self, result: &RunResult, out: &Path) -> Vec<(String, Try)> {
        let console = |boot: u32| {
            let bytes = fs::read(out.join(format!("boot-{boot}/console.log"))).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let cases = result.cases.iter().map(|case| {
            let one = match Try::of(case) {
                Try::NoBoot { why } if self.only_driver && console(case.boot).trim().is_empty() => {
                    Try::Lab { why }
                }
                one => one,
            };
            (case.id.clone(), one)
        });
        let missing = result.missing.iter().map(|label| {
            let id = label.split_once('#').map_or(label.as_str(), |(id, _)| id);
            (id.to_owned(), Try::Infra { why: "the case never reported".to_owned() })
        });
        cases.chain(missing).collect()
    }

    /// A place that is written to during a try and has no room left.
    fn full_disk(&self, out: &Path) -> Option<String> {
        let disks = self.machine.disk_dir.clone().unwrap_or_else(std::env::temp_dir);
        let places: [PathBuf; 3] = [out.to_owned(), disks, std::env::temp_dir()];
        places.iter().find_map(|place| {
            let room = rustix::fs::statvfs(place).ok()?;
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            (free < ROOM).then(|| format!("{}: only {} MiB are free", place.display(), free >> 20))
        })
    }

    fn run_args(&self, out: &Path, n: u32) -> RunArgs {
        RunArgs {
            library: self.library.clone(),
            machine: self.machine.clone(),
            rerun_failed: None,
            repeat: n,
            retries: 0,
            allow_flaky: false,
            max_fail: None,
            fail_fast: false,
            until_fail: false,
            dry_run: false,
            verbose: false,
            color: Color::Auto,
            cases_per_boot: n,
            timeout: self.args.timeout,
            out: Some(out.to_owned()),
            format: Vec::new(),
            ignore_log: self.ignore_log.clone(),
            strict: false,
            seed: None,
            given: BTreeSet::new(),
            typed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;
    use longpin_core::report::CaseResult;

    fn no_guest() -> CaseResult {
        let reason = "infra: no guest: it does not boot";
        serde_json::from_value(serde_json::json!({
            "id": "a/ext4/pin/clean", "attempt": 1, "scenario": "a", "fs": "ext4", "pin": "pin", "release": "clean",
            "variant": null, "control": false, "boot": 2, "observations": [], "headline": null, "expected": [],
            "outcome": "error", "error": {"cause": "infra", "message": reason}, "reason": reason,
            "generations": {"device": null, "guest": null, "host": null}, "errno": null, "findings": [],
            "seconds": 0.0, "log": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_guest_that_says_nothing_is_the_commit_s_fault_only_where_the_kernel_is() {
        let Command::BisectStep(args) = Cli::try_parse_from(["longpin", "bisect-step"]).unwrap().command
        else {
            panic!("another command");
        };
        let (out, why) = (tempfile::tempdir().unwrap(), "it does not boot".to_owned());
        let result = RunResult {
            cases: vec![no_guest()],
            missing: vec!["b/ext4/pin/clean#2".to_owned()],
            ..RunResult::default()
        };
        let tries = |only_driver| {
            let (library, machine) = (args.common.library.clone(), args.common.machine.clone());
            let trial = Trial { library, machine, args: &args.common.tries, ignore_log: None, only_driver };
            trial.tries(&result, out.path())
        };
        assert_eq!(tries(true)[0], ("a/ext4/pin/clean".to_owned(), Try::Lab { why: why.clone() }));
        assert_eq!(tries(false)[0].1, Try::NoBoot { why: why.clone() });
        let missing = &tries(true)[1];
        assert!(missing.0 == "b/ext4/pin/clean" && matches!(missing.1, Try::Infra { .. }), "{missing:?}");
        fs::create_dir(out.path().join("boot-2")).unwrap();
        fs::write(out.path().join("boot-2/console.log"), "[    0.0] Linux version 7.3\n").unwrap();
        assert_eq!(tries(true)[0].1, Try::NoBoot { why });
    }
}
