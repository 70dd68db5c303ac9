// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kernel's source tree that is configured and built in place, again and again as its commits are checked out: make builds
//! only what has changed.

use crate::error::{Error, Result};
use crate::job::{Log, Watch};
use crate::kconfig::kernel_options;
use crate::recipe;
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::tool_root::ToolRoot;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CONFIG: &str = ".config";
const CONFIGURE_LIMIT: Duration = Duration::from_secs(30 * 60);
/// A distribution's configuration with all its modules, on two CPUs that do much else.
const MAKE_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
/// Between two words about how far it is.
const OBJECTS_A_STEP: usize = 200;
/// A release with the id of the commit in it would have every module built again at each step.
const SAME_RELEASE: &str = "# CONFIG_LOCALVERSION_AUTO is not set";

/// The tree.
pub struct KernelTree<'a> {
    root: &'a ToolRoot,
    dir: PathBuf,
    log: Log,
}

impl<'a> KernelTree<'a> {
    /// What make says goes to `log`, which is begun anew.
    pub fn open(root: &'a ToolRoot, dir: &Path, log: &Path) -> Result<Self> {
        let dir = fs::canonicalize(dir).map_err(Error::io("resolve", dir))?;
        Ok(Self { root, dir, log: Log::create(log)? })
    }

    /// The user's configuration, or else a small one, and what longpin needs beside it; as `make olddefconfig` leaves it.
    pub fn configure(&mut self, base: Option<&str>, reporter: &dyn Reporter) -> Result<String> {
        reporter.step(&format!("kernel of {}: configuring", self.dir.display()));
        let path = self.dir.join(CONFIG);
        let read = |path: &Path| fs::read_to_string(path).map_err(Error::io("read", path));
        let base = match base {
            Some(base) => base.to_owned(),
            None => {
                self.make("make tinyconfig", &["tinyconfig"], CONFIGURE_LIMIT)?;
                let lines: String = recipe::lab()?.common.iter().map(|line| format!("{line}\n")).collect();
                read(&path)? + &lines
            }
        };
        fs::write(&path, merged(&base)?).map_err(Error::io("write", &path))?;
        self.make("make olddefconfig", &["olddefconfig"], CONFIGURE_LIMIT)?;
        read(&path)
    }

    /// Image and modules.
    pub fn build(&mut self, config: &str, reporter: &dyn Reporter) -> Result<()> {
        let place = self.dir.display().to_string();
        reporter.step(&format!("kernel of {place}: building"));
        let has_modules = config.lines().any(|line| line == "CONFIG_MODULES=y");
        let targets: &[&str] = if has_modules { &["bzImage", "modules"] } else { &["bzImage"] };
        let mut objects = 0;
        let mut count = |line: &str| {
            let made = matches!(line.split_whitespace().next(), Some("CC" | "AS" | "RUSTC"));
            objects += usize::from(made);
            if made && objects % OBJECTS_A_STEP == 0 {
                reporter.step(&format!("kernel of {place}: building, {objects} objects are made"));
            }
        };
        let watch = Watch { line: &mut count, tick: &mut || {} };
        let mut make = self.command(targets);
        self.log.run_watched("build of the kernel", &mut make, MAKE_LIMIT, watch)
    }

    fn make(&mut self, what: &str, targets: &[&str], limit: Duration) -> Result<()> {
        let mut make = self.command(targets);
        self.log.run(what, &mut make, limit)
    }

    fn command(&self, targets: &[&str]) -> Command {
        let mut command = self.root.command("make", &[Bind::read_write(&self.dir)]);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        // An empty one: no `+` for a tree that is not at a tag.
        command.arg(format!("-j{jobs}")).arg("-C").arg(&self.dir).arg("LOCALVERSION=").args(targets);
        command
    }
}

/// The base, and behind it each option of longpin's that it has not: the last line about an option counts.
fn merged(base: &str) -> Result<String> {
    let missing = kernel_options()?.into_iter().filter(|option| !option.is_set(base));
    let lines = missing.map(|option| option.line()).chain([SAME_RELEASE.to_owned()]);
    let mut text = base.to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.extend(lines.map(|line| line + "\n"));
    Ok(text)
}

/// Lines of a configuration that went (`-`) and came (`+`), in the order of their options.
pub fn config_difference(before: &str, after: &str) -> Vec<String> {
    let options = |text: &str| -> std::collections::BTreeMap<String, String> {
        let line = |line: &str| {
            let words = line.trim_start_matches("# ");
            let name = words.split(['=', ' ']).next().filter(|name| name.starts_with("CONFIG_"))?;
            Some((name.to_owned(), line.to_owned()))
        };
        text.lines().filter_map(line).collect()
    };
    let (before, after) = (options(before), options(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old != new {
            lines.extend(old.map(|line| format!("-{line}")));
            lines.extend(new.map(|line| format!("+{line}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_base_has_stays_and_what_it_lacks_comes_behind_it() {
        let text = merged("CONFIG_64BIT=y\nCONFIG_EXT4_FS=m\nCONFIG_RUST=n").unwrap();
        assert!(text.starts_with("CONFIG_64BIT=y\nCONFIG_EXT4_FS=m\nCONFIG_RUST=n\n"), "{text}");
        let behind: Vec<&str> = text.lines().skip(3).collect();
        assert!(behind.contains(&"CONFIG_RUST=y") && behind.contains(&"CONFIG_XFS_FS=y"), "{behind:?}");
        assert!(!behind.contains(&"CONFIG_EXT4_FS=y"), "a module is enough");
        assert_eq!(behind.last(), Some(&SAME_RELEASE));
    }

    #[test]
    fn a_configuration_that_drifts_is_seen_line_by_line() {
        let before = "# Linux 7.3\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n";
        let after = "# Linux 7.4\nCONFIG_A=m\n# CONFIG_B is not set\nCONFIG_D=1\n";
        assert_eq!(
            config_difference(before, after),
            ["-CONFIG_A=y", "+CONFIG_A=m", "-CONFIG_C=\"x\"", "+CONFIG_D=1"]
        );
        assert_eq!(config_difference(before, before), Vec::<String>::new());
    }
}
