// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's kernel made ready: its packages downloaded and unpacked, and its source configured and prepared just as far
//! as out-of-tree Rust modules need it. Nothing of the kernel itself is compiled, so what boots is Debian's own binary.
//!
//! The artifact: `vmlinuz`, `lib/modules/RELEASE` with modules.dep, config and System.map, and `linux`, the source.

use crate::artifact::Build;
use crate::error::{Error, Result};
use crate::job::Watch;
use crate::kernel::INSIDE;
use crate::packages::{Choice, Packages};
use crate::recipe::KernelRecipe;
use crate::sandbox::Bind;
use crate::tool_root::ToolRoot;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) const TREE: &str = "linux";
pub(crate) const VMLINUZ: &str = "vmlinuz";
/// Part of the key.
pub(crate) const UNPACK: &str = include_str!("../recipes/kernel-unpack.sh");

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(40 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(15 * 60);
const MAKE_LIMIT: Duration = Duration::from_secs(40 * 60);
const QUERY_LIMIT: Duration = Duration::from_secs(120);

/// What a kernel is made from.
pub(crate) struct Source<'a> {
    pub root: &'a ToolRoot,
    pub packages: &'a Packages,
    pub recipe: &'a KernelRecipe,
}

/// A build under way: the artifact's directory is /artifact inside the root, its tree is at [`INSIDE`].
struct Work<'a> {
    source: &'a Source<'a>,
    dir: &'a Path,
    binds: Vec<Bind>,
}

pub(crate) fn make(build: &mut Build<'_>, source: &Source<'_>) -> Result<()> {
    let dir = build.dir;
    let tree = dir.join(TREE);
    for path in [&tree, &dir.join("lib/modules"), &dir.join("debs"), &dir.join("cache/archives/partial")] {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
    }
    let binds = vec![Bind::read_write(dir).at("/artifact"), Bind::read_write(&tree).at(INSIDE)];
    let work = Work { source, dir, binds };
    let choice = &source.packages.choice;
    work.download(build)?;
    work.unpack(build)?;
    let localversion = work.localversion(build)?;
    work.configure(build, &localversion)?;
    work.prepare(build, &localversion)?;
    for path in ["debs", "cache", "unpacked"] {
        crate::tree::remove(&dir.join(path))?;
    }
    build.versions.insert("linux".to_owned(), choice.version.clone());
    for package in ["rustc", "gcc-14", "bindgen", "pahole"] {
        let version = source.root.package_version(package).unwrap_or("unknown");
        build.versions.insert(package.to_owned(), version.to_owned());
    }
    build.facts.insert("release".to_owned(), choice.release.clone());
    build.facts.insert("localversion".to_owned(), localversion);
    Ok(())
}

impl Work<'_> {
    fn choice(&self) -> &Choice {
        &self.source.packages.choice
    }

    fn command(&self, program: &str) -> Command {
        self.source.root.command(program, &self.binds)
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", script, "bash"]);
        command
    }

    fn make(&self, localversion: &str, targets: &[&str]) -> Command {
        let mut command = self.command("make");
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        command.arg(format!("-j{jobs}")).args(["-C", INSIDE]).arg(format!("LOCALVERSION={localversion}"));
        command.args(targets);
        command
    }

    fn download(&self, build: &mut Build<'_>) -> Result<()> {
        let pinned = self.choice().pinned();
        let cache = self.dir.join("cache");
        let apt_get = |argument: &str| {
            let packages = self.source.packages;
            let mut command = packages.apt_get(self.source.root, &cache, "/artifact/debs", &self.binds);
            command.args([argument, "download"]).args(&pinned);
            command
        };
        let what = format!("download of kernel {}", self.choice().release);
        let uris = build.log.capture(&what, &mut apt_get("--print-uris"), QUERY_LIMIT)?;
        let total = uris.lines().filter_map(uri_size).sum();
        build.reporter.step(&format!("kernel {}: downloading", self.choice().release));
        let debs = self.dir.join("debs");
        let reporter = build.reporter;
        let watch = Watch { line: &mut |_| {}, tick: &mut || reporter.bytes(file_bytes(&debs), Some(total)) };
        build.log.run_watched(&what, &mut apt_get("--quiet"), DOWNLOAD_LIMIT, watch)
    }

    /// The source goes from its package through two pipes into the tree: as files between they would cost seconds.
    fn unpack(&self, build: &mut Build<'_>) -> Result<()> {
        let choice = self.choice();
        let what = format!("unpacking of kernel {}", choice.release);
        build.reporter.step(&format!("kernel {}: unpacking source and modules", choice.release));
        let mut command = self.shell(UNPACK);
        command.args([&choice.release, &choice.source, INSIDE]);
        command.args([&choice.binary, &choice.modules, &choice.headers, &choice.base]);
        build.log.run(&what, &mut command, UNPACK_LIMIT)?;
        let vmlinuz = self.dir.join(VMLINUZ);
        if vmlinuz.is_file() {
            return Ok(());
        }
        Err(self.unfit(
            format!("package {} has no vmlinuz where it was looked for", choice.binary),
            "the package's layout is new to this longpin: name an earlier time of the archive with LONGPIN_SNAPSHOT",
        ))
    }

    /// What the distribution appends to the source's own version.
    fn localversion(&self, build: &mut Build<'_>) -> Result<String> {
        let mut command = self.make("", &["-s", "kernelversion"]);
        let version = build.log.capture("version of the kernel source", &mut command, QUERY_LIMIT)?;
        let version = version.trim();
        match self.choice().release.strip_prefix(version) {
            Some(rest) if !version.is_empty() => Ok(rest.to_owned()),
            _ => Err(self.unfit(
                format!("its source calls itself {version}"),
                "the suite is being updated: try again in some hours",
            )),
        }
    }

    fn configure(&self, build: &mut Build<'_>, localversion: &str) -> Result<()> {
        build.reporter.step(&format!("kernel {}: configuring", self.choice().release));
        let path = self.dir.join(TREE).join(".config");
        let mut text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        for line in &self.source.recipe.overrides {
            text.push_str(&line.replace("{release}", &self.choice().release));
            text.push('\n');
        }
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        build.log.run("make olddefconfig", &mut self.make(localversion, &["olddefconfig"]), MAKE_LIMIT)?;
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let missing = missing_lines(&text, &self.source.recipe.required);
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.unfit(
            format!("its configuration has no {} after make olddefconfig", missing.join(", ")),
            "compilers and kernel no longer fit: see rust_is_available in the log, or name an earlier time of the \
             archive with LONGPIN_SNAPSHOT",
        ))
    }

    fn prepare(&self, build: &mut Build<'_>, localversion: &str) -> Result<()> {
        let release = &self.choice().release;
        build.reporter.step(&format!("kernel {release}: building Rust metadata"));
        let reporter = build.reporter;
        let mut tell = |line: &str| {
            if let Some(crate_name) = slow_step(line) {
                reporter.step(&format!("kernel {release}: building Rust metadata ({crate_name})"));
            }
        };
        let watch = Watch { line: &mut tell, tick: &mut || {} };
        let mut command = self.make(localversion, &["prepare", "modules_prepare"]);
        build.log.run_watched("make prepare modules_prepare", &mut command, MAKE_LIMIT, watch)?;
        // Only now: modules_prepare would take it for its own and write over it.
        let symvers = self.dir.join(TREE).join("Module.symvers");
        let debian = self.dir.join("unpacked/Module.symvers");
        fs::rename(&debian, &symvers).map_err(Error::io("move", &debian))?;
        let mut command = self.make(localversion, &["-s", "kernelrelease"]);
        let made = build.log.capture("release of the kernel source", &mut command, QUERY_LIMIT)?;
        if made.trim() == release {
            return Ok(());
        }
        Err(self.unfit(
            format!("its source says release `{}`, so no module would load", made.trim()),
            "see the overrides in images/recipes/kernel.toml",
        ))
    }

    fn unfit(&self, problem: String, remedy: &str) -> Error {
        Error::UnfitKernel { kernel: self.choice().release.clone(), problem, remedy: remedy.to_owned() }
    }
}

/// Size in a line of `apt-get --print-uris`: 'ADDRESS' FILE SIZE HASH.
fn uri_size(line: &str) -> Option<u64> {
    line.strip_prefix('\'')?.split_whitespace().nth(2)?.parse().ok()
}

pub(crate) fn file_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Lines that a configuration lacks.
pub(crate) fn missing_lines<'a>(config: &str, required: &'a [String]) -> Vec<&'a str> {
    required.iter().map(String::as_str).filter(|line| !config.lines().any(|have| have == *line)).collect()
}

/// The crates take most of the time; the rest of make's lines would only flicker.
fn slow_step(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("RUSTC L ")?;
    rest.trim().strip_prefix("rust/")?.strip_suffix(".o")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_apt_s_list() {
        let line = "'https://mirror.example/pool/l.deb' linux-source-7.3_7.3.4_all.deb 166780612 SHA256:00";
        assert_eq!(uri_size(line), Some(166_780_612));
        assert_eq!(uri_size("Reading package lists..."), None);
    }

    #[test]
    fn a_configuration_is_compared_by_whole_lines() {
        let required = ["CONFIG_RUST=y", "CONFIG_BTF=y"].map(str::to_owned);
        let config = "# CONFIG_BTF is not set\nCONFIG_RUST=y\nCONFIG_BTF=yes\n";
        assert_eq!(missing_lines(config, &required), ["CONFIG_BTF=y"]);
    }

    #[test]
    fn only_the_crates_are_shown() {
        assert_eq!(slow_step("  RUSTC L rust/kernel.o"), Some("kernel"));
        assert_eq!(slow_step("  CC      init/main.o"), None);
    }
}
