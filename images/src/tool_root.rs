// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tool root: a small Debian with compilers, file system tools and QEMU, made by mmdebstrap. As root it is made in
//! place; as an ordinary user it comes as a tar stream out of a user namespace and is unpacked with the user's own ids.

use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::job::{self, Watch};
use crate::key::{Inputs, Key};
use crate::manifest::{ArtifactId, Kind, Manifest};
use crate::mirror::Mirror;
use crate::recipe::{self, ToolRootRecipe};
use crate::report::Reporter;
use crate::sandbox::{Bind, Sandbox, find_program, is_superuser};
use crate::store::Store;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// From nothing, over a slow line.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// For a program that only prints.
const QUERY_LIMIT: Duration = Duration::from_secs(60);
/// Makes a kernel by the root's clang, and modules for one that was made so: GNU's linker and assembler serve both.
pub(crate) const CLANG: &str = "CC=clang-19";
const ROOT: &str = "root";
/// mmdebstrap's modes.
const ROOT_MODE: &str = "root";
const USER_MODE: &str = "unshare";

/// A finished tool root, kept from removal as long as this lives.
#[derive(Debug)]
pub struct ToolRoot {
    artifact: Artifact,
    sandbox: Sandbox,
}

impl ToolRoot {
    /// Its `/`.
    pub fn path(&self) -> PathBuf {
        self.artifact.dir.join(ROOT)
    }

    /// Key of its recipe.
    pub fn key(&self) -> &Key {
        &self.artifact.manifest.id.key
    }

    /// Name in the store.
    pub fn id(&self) -> &ArtifactId {
        &self.artifact.manifest.id
    }

    /// What was recorded when it was built.
    pub fn manifest(&self) -> &Manifest {
        &self.artifact.manifest
    }

    /// Version of a package of the recipe, as `1:11.1.3+ds-1~bpo13+1`.
    pub fn package_version(&self, package: &str) -> Option<&str> {
        self.artifact.manifest.versions.get(package).map(String::as_str)
    }

    /// QEMU's own version, as `11.1.3`.
    pub fn qemu_version(&self) -> Result<&str> {
        self.artifact.manifest.fact("qemu")
    }

    /// Hash of the installed packages and their versions: two roots of one recipe differ in it when the suite has moved.
    pub fn packages_hash(&self) -> Result<&str> {
        self.artifact.manifest.fact("packages")
    }

    /// First line of `rustc --version`.
    pub(crate) fn rustc_version(&self) -> Result<&str> {
        self.artifact.manifest.fact("rustc")
    }

    /// Makes the root an input: its recipe, and what the suite gave for it at that time.
    pub(crate) fn add_to(&self, inputs: &mut Inputs) -> Result<()> {
        inputs.value("tool root", self.key().as_str());
        inputs.value("installed", self.packages_hash()?);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn played_by(artifact: Artifact, player: &Path) -> Self {
        let sandbox = Sandbox::played_by(player, &artifact.dir.join(ROOT));
        Self { artifact, sandbox }
    }

    /// `program` inside the root: `/usr` and `/etc` are the root's and read-only, the rest is empty but for `binds`.
    /// The environment is clean; it ends when the calling process ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, binds: &[Bind]) -> Command {
        self.sandbox.command(program, binds)
    }
}

impl Store {
    /// The tool root of today's recipe; built if it is not there (a minute, 1.5 GB, network).
    /// Errors: `MissingProgram`, `NoNetwork`, `NoPackage`, `NoUserNamespace`, `DiskFull`, `Locked`.
    pub fn tool_root(&self, reporter: &dyn Reporter) -> Result<ToolRoot> {
        let recipe = recipe::tool_root()?;
        let inputs = recipe.inputs(self.mirror());
        let plan = Plan {
            kind: Kind::ToolRoot,
            title: "tool root".to_owned(),
            series: recipe.suite.clone(),
            parents: vec![],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| make(build, &recipe, self.mirror()))?;
        let sandbox = Sandbox::new(&artifact.dir.join(ROOT))?;
        Ok(ToolRoot { artifact, sandbox })
    }
}

fn make(build: &mut Build<'_>, recipe: &ToolRootRecipe, mirror: &Mirror) -> Result<()> {
    let root = build.dir.join(ROOT);
    // Before minutes of work: without it the root could not be entered.
    let sandbox = Sandbox::new(&root)?;
    let mmdebstrap = find_program("mmdebstrap", "mmdebstrap", "make the tool root")?;
    if is_superuser() {
        make_in_place(build, &mmdebstrap, recipe, mirror, &root)?;
    } else {
        find_program("newuidmap", "uidmap", "make the tool root as an ordinary user")?;
        make_by_tar(build, &mmdebstrap, recipe, mirror, &root)?;
    }
    // Downloads bind the host's over it, which needs something to lie on.
    let resolv_conf = root.join("etc/resolv.conf");
    crate::tree::remove(&resolv_conf)?;
    std::fs::write(&resolv_conf, "").map_err(Error::io("write", &resolv_conf))?;
    record(build, recipe, &sandbox)
}

/// The line for both ways, without target and address.
fn bootstrap(mmdebstrap: &Path, recipe: &ToolRootRecipe, mirror: &Mirror, mode: &str) -> Result<Command> {
    // mmdebstrap is told to end when we are gone, or it would go on in the background for a minute.
    let mut words =
        vec![find_program("setpriv", "util-linux", "end mmdebstrap with longpin")?.into_os_string()];
    words.extend(["--pdeathsig", "TERM", "--"].map(OsString::from));
    if mode == ROOT_MODE {
        // In its own mount namespace: mmdebstrap mounts /proc, /sys and /dev below the root, and when it is killed they
        // would stay, for the next removal to run into.
        words.push(find_program("unshare", "util-linux", "keep mmdebstrap's mounts apart")?.into_os_string());
        words.extend(["--mount", "--propagation=private", "--"].map(OsString::from));
    }
    words.push(mmdebstrap.as_os_str().to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
        .arg(format!("--mode={mode}"))
        .args(["--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""])
        // It stays in the root, for what is downloaded there later.
        .args(mirror.is_snapshot().then_some("--aptopt=Acquire::Check-Valid-Until \"false\""))
        .arg(format!("--architectures={}", recipe.architecture))
        .arg(format!("--include={}", recipe.packages.join(",")))
        .args(recipe.dpkg_options.iter().map(|option| format!("--dpkgopt={option}")))
        .arg(format!("--customize-hook={}", recipe::BACKPORTS_HOOK))
        .env("LONGPIN_SUITE", &recipe.suite)
        .env("LONGPIN_BACKPORTS", &recipe.backports)
        .env("LONGPIN_PACKAGES", recipe.backports_packages.join(" "))
        .env("LC_ALL", "C.UTF-8")
        // A `make demo` above us must not hand its jobserver down.
        .env_remove("MAKEFLAGS")
        // The user namespace of an ordinary user cannot look into the user's home.
        .current_dir("/");
    Ok(command)
}

fn make_in_place(
    build: &mut Build<'_>,
    mmdebstrap: &Path,
    recipe: &ToolRootRecipe,
    mirror: &Mirror,
    root: &Path,
) -> Result<()> {
    let mut command = bootstrap(mmdebstrap, recipe, mirror, ROOT_MODE)?;
    command.arg("--format=directory").arg(&recipe.suite).arg(root).args(mirror.address());
    // What it leaves there when it is killed goes with the rest of the build.
    let scratch = build.dir.join("tmp");
    std::fs::create_dir(&scratch).map_err(Error::io("create", &scratch))?;
    command.env("TMPDIR", &scratch);
    let reporter = build.reporter;
    reporter.step("tool root: starting mmdebstrap");
    let watch = Watch { line: &mut |line| tell(reporter, line), tick: &mut || {} };
    build.log.run_watched("tool root", &mut command, BUILD_LIMIT, watch)?;
    crate::tree::remove(&scratch)
}

/// The device nodes stay out: a user may not make them, and bubblewrap brings its own.
fn make_by_tar(
    build: &mut Build<'_>,
    mmdebstrap: &Path,
    recipe: &ToolRootRecipe,
    mirror: &Mirror,
    root: &Path,
) -> Result<()> {
    std::fs::create_dir(root).map_err(Error::io("create", root))?;
    build.log.also_writes_to(std::env::temp_dir());
    let tar = find_program("tar", "tar", "unpack the tool root")?;
    let mut unpack = Command::new(&tar);
    unpack.args(["--extract", "--file=-", "--exclude=./dev/*", "--delay-directory-restore", "--directory"]);
    // Its complaints are looked through, and they would come in the user's language.
    unpack.env("LC_ALL", "C");
    unpack.arg(root).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(build.log.stdio()?);
    let mut unpack = unpack.spawn().map_err(Error::io("start", &tar))?;
    let mut sink = unpack.stdin.take().expect("stdin was asked to be a pipe");
    let pipe = std::io::pipe().map_err(Error::io("make pipe for", root));
    let (source, writer) = pipe.inspect_err(|_| job::end(&mut unpack))?;

    let mut command = bootstrap(mmdebstrap, recipe, mirror, USER_MODE)?;
    command.arg("--format=tar").arg(&recipe.suite).arg("-").args(mirror.address());
    command.stdin(Stdio::null()).stdout(writer);
    let reporter = build.reporter;
    reporter.step("tool root: starting mmdebstrap");
    let moved = AtomicU64::new(0);
    let ran = std::thread::scope(|scope| {
        let copier = scope.spawn(|| copy(source, &mut sink, &moved));
        let watch = Watch {
            line: &mut |line| tell(reporter, line),
            tick: &mut || {
                let moved = moved.load(Ordering::Relaxed);
                if moved > 0 {
                    reporter.bytes(moved, None);
                }
            },
        };
        let ran = build.log.run_stderr("tool root", &mut command, BUILD_LIMIT, watch);
        drop(command);
        let copied = copier.join().expect("the copier does not panic");
        ran.and(copied.map_err(Error::io("unpack into", root)))
    });
    drop(sink);
    if ran.is_err() {
        job::end(&mut unpack);
    }
    let status = unpack.wait().map_err(Error::io("wait for", &tar))?;
    // tar's own words come first: mmdebstrap then only says that nobody read it.
    match build.log.explain("tool root") {
        Some(known) if ran.is_err() || !status.success() => Err(known),
        _ if ran.is_err() => ran,
        _ if !status.success() => Err(build.log.failure("unpacking the tool root", &status.to_string())),
        _ => Ok(()),
    }
}

/// Owns the source: when tar is gone, mmdebstrap must see a closed pipe and not a full one.
fn copy(mut from: impl Read, to: &mut impl Write, moved: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        moved.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// mmdebstrap's own steps, in its words.
fn tell(reporter: &dyn Reporter, line: &str) {
    if let Some(step) = line.strip_prefix("I: ")
        && let Some(step) = step.strip_suffix("...")
        && !step.contains(['/', '('])
    {
        reporter.step(&format!("tool root: {step}"));
    } else if line.starts_with("Need to get ") {
        reporter.step(&format!("tool root: QEMU: {}", line.to_lowercase().trim_end_matches('.')));
    }
}

/// Versions of what went in, asked of the root itself; that also proves that it can be entered.
fn record(build: &mut Build<'_>, recipe: &ToolRootRecipe, sandbox: &Sandbox) -> Result<()> {
    build.reporter.step("tool root: asking for versions");
    let mut query = sandbox.command("dpkg-query", &[]);
    query.args(["--show", "--showformat=${Package} ${Version}\\n"]);
    let installed = build.log.capture("list of installed packages", &mut query, QUERY_LIMIT)?;
    for line in installed.lines() {
        let Some((package, version)) = line.split_once(' ') else { continue };
        if recipe.packages.iter().chain(&recipe.backports_packages).any(|wanted| wanted == package) {
            build.versions.insert(package.to_owned(), version.to_owned());
        }
    }
    build.facts.insert("packages".to_owned(), Key::of_bytes(installed.as_bytes()).to_string());
    for (fact, program) in [("qemu", "qemu-system-x86_64"), ("rustc", "rustc")] {
        let mut command = sandbox.command(program, &[]);
        let output = build.log.capture(program, command.arg("--version"), QUERY_LIMIT)?;
        let line = output.lines().next().unwrap_or_default();
        let version = if fact == "qemu" { qemu_version(line) } else { Some(line) };
        let version = version.filter(|text| !text.is_empty()).ok_or_else(|| Error::Unreadable {
            what: format!("output of `{program} --version`"),
            problem: format!("`{line}` has no version"),
            remedy: "see the log of the tool root",
        })?;
        build.facts.insert(fact.to_owned(), version.to_owned());
    }
    Ok(())
}

/// From "QEMU emulator version 11.1.3 (Debian ...)".
fn qemu_version(line: &str) -> Option<&str> {
    line.split_once("version ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_line_has_every_package_and_no_server() {
        let recipe = recipe::tool_root().unwrap();
        let line = |mirror: &Mirror| {
            let command = bootstrap(Path::new("/usr/bin/mmdebstrap"), &recipe, mirror, USER_MODE).unwrap();
            format!("{command:?}")
        };
        let date = |name: &str| (name == "LONGPIN_SNAPSHOT").then(|| "20261126T000000Z".to_owned());
        let old = line(&Mirror::from_variables(date).unwrap());
        assert!(old.contains("Check-Valid-Until"), "lists of a snapshot are over their time: {old}");
        let line = line(&Mirror::default());
        assert!(!line.contains("Check-Valid-Until"), "{line}");
        assert!(recipe.packages.iter().all(|package| line.contains(package.as_str())));
        assert!(line.contains("--mode=unshare") && line.contains("--variant=minbase"));
        assert!(!line.contains("://"), "{line}");
    }

    #[test]
    fn qemu_s_version_is_a_word_of_its_line() {
        let line = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)";
        assert_eq!(qemu_version(line), Some("11.1.3"));
        assert_eq!(qemu_version("qemu: command not found"), None);
    }
}
