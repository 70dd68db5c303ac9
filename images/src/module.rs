// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's module, built out of tree against a kernel by the tool root's compilers. Its source is embedded in this
//! crate; a directory may be given instead. A .ko that somebody built elsewhere is only checked.

use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::job::{Log, Watch};
use crate::kernel::Kernel;
use crate::key::{Inputs, Key};
use crate::manifest::Kind;
use crate::module_graph::name_of;
use crate::module_info;
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::source_files;
use crate::store::Store;
use crate::tool_root::{CLANG, ToolRoot};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAKE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Where the source is seen inside the tool root: the same for every build, since it ends up in messages.
const INSIDE: &str = "/longpin/source";
const DRIVER: &str = "guest-driver";

static EMBEDDED: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/module_source.rs"));

/// A kernel module file, kept from removal as long as this lives.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    key: Key,
    _artifact: Option<Artifact>,
}

impl Module {
    /// A module that was built elsewhere. Errors: `ModuleMismatch` if it is for another kernel, `Unreadable`.
    pub fn prebuilt(path: &Path, kernel: &Kernel) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        check_vermagic(path, &bytes, kernel)?;
        Ok(Self { path: path.to_owned(), key: Key::of_bytes(&bytes), _artifact: None })
    }

    /// Its name in the guest.
    pub fn name(&self) -> String {
        name_of(&self.path.to_string_lossy())
    }

    /// Whether it has the parameters of these `NAME=VALUE`: the kernel would only log that it ignores one.
    /// Errors: `NoSuchParameter`.
    pub fn check_params(&self, params: &[String]) -> Result<()> {
        // Those that every module takes (unknown_module_param_cb()).
        const OF_ALL: [&str; 2] = ["dyndbg", "async_probe"];
        let bytes = fs::read(&self.path).map_err(Error::io("read", &self.path))?;
        let known = module_info::params(&bytes);
        let names = params.iter().map(|param| param.split('=').next().unwrap_or_default());
        // The kernel takes both for the same (parameq()).
        let canonical = |name: &str| name.replace('-', "_");
        let mut unknown = names
            .filter(|name| !known.iter().chain(&OF_ALL).any(|known| canonical(known) == canonical(name)));
        match unknown.next() {
            None => Ok(()),
            Some(param) => Err(Error::NoSuchParameter {
                path: self.path.clone(),
                param: param.to_owned(),
                known: match known.is_empty() {
                    true => "it has none".to_owned(),
                    false => format!("it has: {}", known.join(", ")),
                },
            }),
        }
    }

    /// The .ko, with its debug information.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Key of source and kernel; of the file itself if it was built elsewhere.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// Files by their path from the repository's root.
type Sources = Vec<(Cow<'static, str>, Cow<'static, [u8]>)>;

impl Store {
    /// The driver for a kernel, from the embedded source or from `source`: the repository, or its guest-driver/.
    /// Built if it is not there (seconds, no network).
    /// Errors: `NoModuleSource`, `UnfitKernel`, `CommandFailed` with the compiler's words, `Locked`.
    pub fn module(
        &self,
        root: &ToolRoot,
        kernel: &Kernel,
        source: Option<&Path>,
        reporter: &dyn Reporter,
    ) -> Result<Module> {
        check_buildable(root, kernel)?;
        let files = match source {
            Some(dir) => read_sources(dir)?,
            None => embedded(EMBEDDED)?,
        };
        let mut inputs = Inputs::new(1);
        root.add_to(&mut inputs)?;
        inputs.value("kernel", kernel.key().as_str());
        for (name, bytes) in &files {
            inputs.bytes(name, bytes);
        }
        let origin = source.map_or("embedded".to_owned(), |dir| dir.display().to_string());
        let plan = Plan {
            kind: Kind::Module,
            title: "driver module".to_owned(),
            series: format!("{} {origin}", kernel.id()),
            parents: vec![root.id().clone(), kernel.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| make(build, root, kernel, &files))?;
        let path = artifact.dir.join(artifact.manifest.fact("file")?);
        Ok(Module { path, key: artifact.manifest.id.key.clone(), _artifact: Some(artifact) })
    }
}

/// Where C modules find `longpin_uapi.h`.
const INCLUDE: &str = "/longpin/include";
const UAPI: &str = include_str!("../../wire/include/longpin_uapi.h");

impl Store {
    /// Builds whatever a directory's Kbuild or Makefile has for the kernel, in place. `longpin_uapi.h` is put into
    /// `include`, which make knows as `LONGPIN_INCLUDE`. Errors: `Unreadable`, `UnfitKernel`, `CommandFailed` with the compiler's words.
    pub fn build_modules(
        &self,
        root: &ToolRoot,
        kernel: &Kernel,
        dir: &Path,
        include: &Path,
        reporter: &dyn Reporter,
    ) -> Result<Vec<PathBuf>> {
        if !["Kbuild", "Makefile"].iter().any(|name| dir.join(name).is_file()) {
            return Err(Error::Unreadable {
                what: dir.display().to_string(),
                problem: "it has neither Kbuild nor Makefile".to_owned(),
                remedy: "give the directory that has a module's source",
            });
        }
        let dir = dir.canonicalize().map_err(Error::io("open", dir))?;
        let Some((mut binds, inside)) = kernel.build_binds() else {
            return Err(Error::UnfitKernel {
                kernel: kernel.release().to_owned(),
                problem: "it came without a build directory, so no module can be built for it".to_owned(),
                remedy: "name the directory where it was built (--kernel DIR)".to_owned(),
            });
        };
        let header = include.join("longpin_uapi.h");
        fs::write(&header, UAPI).map_err(Error::io("write", &header))?;
        binds.push(Bind::read_only(include).at(INCLUDE));
        binds.push(Bind::read_write(&dir).at(INSIDE));
        let mut command = root.command("make", &binds);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        command.arg(format!("-j{jobs}")).arg("-C").arg(inside).arg(format!("M={INSIDE}"));
        command.arg(format!("LONGPIN_INCLUDE={INCLUDE}"));
        if let Some(localversion) = kernel.manifest().facts.get("localversion") {
            command.arg(format!("LOCALVERSION={localversion}"));
        }
        command.arg("modules");
        reporter.step(&format!("modules of {}: building for {}", dir.display(), kernel.release()));
        let mut log = Log::create(&dir.join("longpin-build.log"))?;
        log.run("build of the modules", &mut command, MAKE_LIMIT)?;
        let order = dir.join("modules.order");
        let order = fs::read_to_string(&order).map_err(Error::io("read", &order))?;
        let built: Vec<PathBuf> = order.lines().map(|line| dir.join(line).with_extension("ko")).collect();
        for path in &built {
            let bytes = fs::read(path).map_err(Error::io("read", path))?;
            check_vermagic(path, &bytes, kernel)?;
        }
        Ok(built)
    }
}

fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Result<Sources> {
    let files: Sources = files.iter().map(|(name, bytes)| (Cow::from(*name), Cow::from(*bytes))).collect();
    complete(files, Path::new("this binary"))
}

/// `dir` is the repository or its guest-driver/. Without wire/ beside it, the embedded wire files are taken: a vendor
/// may have copied the driver alone.
fn read_sources(dir: &Path) -> Result<Sources> {
    let repository = if dir.join(DRIVER).is_dir() { dir.to_owned() } else { dir.join("..") };
    if repository != dir && !dir.ends_with(DRIVER) {
        let missing = format!("{DRIVER}/Kbuild");
        return Err(Error::NoModuleSource { dir: dir.to_owned(), missing });
    }
    let mut files = Sources::new();
    for (name, path) in source_files::collect(&repository).map_err(Error::io("read", dir))? {
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        files.push((name.into(), bytes.into()));
    }
    if !files.iter().any(|(name, _)| name.starts_with("wire/")) {
        let wire = EMBEDDED.iter().filter(|(name, _)| name.starts_with("wire/"));
        files.extend(wire.map(|(name, bytes)| (Cow::from(*name), Cow::from(*bytes))));
    }
    complete(files, dir)
}

fn complete(files: Sources, dir: &Path) -> Result<Sources> {
    let kbuild = format!("{DRIVER}/Kbuild");
    for missing in [kbuild.as_str(), "wire/src/dma.rs"] {
        if !files.iter().any(|(name, _)| name == missing) {
            return Err(Error::NoModuleSource { dir: dir.to_owned(), missing: missing.to_owned() });
        }
    }
    Ok(files)
}

/// Whether the root's compilers can build a Rust module for this kernel: its metadata is of one compiler version only.
fn check_buildable(root: &ToolRoot, kernel: &Kernel) -> Result<()> {
    let unfit = |problem: String, remedy: &str| Error::UnfitKernel {
        kernel: kernel.release().to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    // A configuration without Rust is the deeper reason.
    if let Some(config) = kernel.config()
        && let Some(problem) = rust_problem(&config, root.rustc_version()?)
    {
        let remedy = "build it with the rustc of the tool root and CONFIG_RUST=y, and name its directory (--kernel DIR)";
        return Err(unfit(problem, remedy));
    }
    let Some(dir) = kernel.build_dir() else {
        let problem = "it came without a build directory, so no driver can be built for it".to_owned();
        let remedy =
            "name its build directory (--kernel DIR), or a longpin.ko that was built for it (module=FILE)";
        return Err(unfit(problem, remedy));
    };
    if !dir.join("rust/libkernel.rmeta").is_file() {
        let problem = "its directory has no rust/libkernel.rmeta".to_owned();
        return Err(unfit(problem, "build it there: make prepare modules_prepare"));
    }
    Ok(())
}

fn rust_problem(config: &str, rustc: &str) -> Option<String> {
    if !config.lines().any(|line| line == "CONFIG_RUST=y") {
        return Some("its configuration has no CONFIG_RUST=y".to_owned());
    }
    let text = config.lines().find_map(|line| line.strip_prefix("CONFIG_RUSTC_VERSION_TEXT="))?;
    let text = text.trim_matches('"');
    (text != rustc).then(|| format!("it was built by `{text}`, and the tool root has `{rustc}`"))
}

fn make(build: &mut Build<'_>, root: &ToolRoot, kernel: &Kernel, files: &Sources) -> Result<()> {
    let (mut binds, inside) =
        kernel.build_binds().expect("a kernel without build directory was refused before");
    build.reporter.step(&format!("driver: building for {}", kernel.release()));
    let source = build.dir.join("source");
    for (name, bytes) in files {
        let path = source.join(name.as_ref());
        let parent = path.parent().expect("every source lies in a directory");
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    binds.push(Bind::read_write(&source).at(INSIDE));
    let mut command = root.command("make", &binds);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    command.arg(format!("-j{jobs}")).arg("-C").arg(inside).arg(format!("M={INSIDE}/{DRIVER}"));
    if let Some(localversion) = kernel.manifest().facts.get("localversion") {
        command.arg(format!("LOCALVERSION={localversion}"));
    }
    // With the compiler of the kernel: their options differ.
    let clang =
        kernel.config().is_some_and(|config| config.lines().any(|line| line == "CONFIG_CC_IS_CLANG=y"));
    command.args(clang.then_some(CLANG)).arg("modules");
    let watch = Watch { line: &mut |_| {}, tick: &mut || {} };
    build.log.run_watched("build of the driver module", &mut command, MAKE_LIMIT, watch)?;
    let made = find_module(&source.join(DRIVER))?;
    let bytes = fs::read(&made).map_err(Error::io("read", &made))?;
    check_vermagic(&made, &bytes, kernel)?;
    let name = made.file_name().expect("a .ko was found by its name").to_string_lossy().into_owned();
    let kept = build.dir.join(&name);
    fs::rename(&made, &kept).map_err(Error::io("move", &made))?;
    crate::tree::remove(&source)?;
    build.facts.insert("file".to_owned(), name);
    build.facts.insert("release".to_owned(), kernel.release().to_owned());
    build.versions.insert("rustc".to_owned(), root.rustc_version()?.to_owned());
    Ok(())
}

fn find_module(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut modules = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "ko"));
    match (modules.next(), modules.next()) {
        (Some(module), None) => Ok(module),
        (first, _) => Err(Error::Unreadable {
            what: format!("result of {DRIVER}/Kbuild"),
            problem: if first.is_some() { "it made several modules" } else { "it made no module" }.to_owned(),
            remedy: "it must have one obj-m",
        }),
    }
}

/// As the kernel compares it when it loads the module (same_magic()), and the release in any case: with CONFIG_MODVERSIONS
/// the kernel would go by the checksums of what the module uses, which are not known here.
fn check_vermagic(path: &Path, bytes: &[u8], kernel: &Kernel) -> Result<()> {
    check_magic(path, bytes, kernel.release(), kernel.config().as_deref())
}

fn check_magic(path: &Path, bytes: &[u8], release: &str, config: Option<&str>) -> Result<()> {
    let magic = module_info::field(bytes, "vermagic").ok_or_else(|| Error::Unreadable {
        what: path.display().to_string(),
        problem: "it has no vermagic, so it is no kernel module, or a compressed one".to_owned(),
        remedy: "give the .ko that make modules has made",
    })?;
    let (found, words) = magic.split_once(' ').unwrap_or((magic, ""));
    let mismatch = |found: &str, wanted: String| {
        Err(Error::ModuleMismatch { path: path.to_owned(), found: found.to_owned(), wanted })
    };
    if found != release {
        return mismatch(found, release.to_owned());
    }
    match config.and_then(vermagic_words) {
        Some(wanted) if wanted != words.trim_end() => mismatch(magic.trim_end(), format!("{found} {wanted}")),
        _ => Ok(()),
    }
}

/// What stands behind the release in the vermagic of this configuration's modules (VERMAGIC_STRING of
/// include/linux/vermagic.h). None: with CONFIG_RANDSTRUCT a number that the configuration does not have is among it.
fn vermagic_words(config: &str) -> Option<String> {
    let set = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    if set("CONFIG_RANDSTRUCT") {
        return None;
    }
    let preempt = match (set("CONFIG_PREEMPT_RT"), set("CONFIG_PREEMPT_BUILD")) {
        (true, _) => Some("preempt_rt"),
        (_, true) => Some("preempt"),
        _ => None,
    };
    let words = [
        set("CONFIG_SMP").then_some("SMP"),
        preempt,
        set("CONFIG_MODULE_UNLOAD").then_some("mod_unload"),
        set("CONFIG_MODVERSIONS").then_some("modversions"),
    ];
    Some(words.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    fn names(files: &Sources) -> Vec<&str> {
        files.iter().map(|(name, _)| name.as_ref()).collect()
    }

    #[test]
    fn the_repository_and_its_driver_directory_are_the_same_source() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &["guest-driver/Kbuild", "guest-driver/a.rs", "wire/src/dma.rs"]);
        let whole = read_sources(dir.path()).unwrap();
        assert_eq!(names(&whole), ["guest-driver/Kbuild", "guest-driver/a.rs", "wire/src/dma.rs"]);
        assert_eq!(read_sources(&dir.path().join("guest-driver")).unwrap(), whole);
    }

    #[test]
    fn a_driver_alone_gets_the_embedded_wire_files() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &["guest-driver/Kbuild"]);
        let files = read_sources(&dir.path().join("guest-driver")).unwrap();
        assert!(names(&files).contains(&"wire/src/dma.rs"), "{:?}", names(&files));
    }

    #[test]
    fn a_kernel_of_another_compiler_or_without_rust_is_refused() {
        let rustc = "rustc 1.85.1 (4eb161250 2025-03-15)";
        let config = |text: &str| format!("CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=\"{text}\"\n");
        assert_eq!(rust_problem(&config(rustc), rustc), None);
        let problem = rust_problem(&config("rustc 1.99.0"), rustc).unwrap();
        assert!(problem.contains("`rustc 1.99.0`") && problem.contains(rustc), "{problem}");
        let problem = rust_problem("# CONFIG_RUST is not set\n", rustc).unwrap();
        assert!(problem.contains("CONFIG_RUST=y"), "{problem}");
    }

    #[test]
    fn a_module_of_another_release_and_what_is_no_module_are_told_apart() {
        let check = |bytes: &[u8]| check_magic(Path::new("/x/longpin.ko"), bytes, "7.3.4", None);
        assert!(check(b"\0vermagic=7.3.4 SMP preempt mod_unload \0").is_ok());
        let error = check(b"\0vermagic=7.3.5 SMP \0").unwrap_err().to_string();
        assert!(
            error.starts_with("module /x/longpin.ko is for kernel `7.3.5`, not for `7.3.4`; "),
            "{error}"
        );
        let error = check(b"\x28\xb5\x2f\xfd").unwrap_err().to_string();
        assert!(error.contains("no vermagic") && error.contains("make modules"), "{error}");
    }

    #[test]
    fn a_module_of_the_same_release_but_of_another_configuration_is_refused() {
        let check = |magic: &str, config: &str| {
            let bytes = format!("\0vermagic={magic} \0");
            check_magic(Path::new("/x/longpin.ko"), bytes.as_bytes(), "7.3.4", Some(config))
        };
        let config = "CONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_BUILD_AUTO=y\nCONFIG_MODULE_UNLOAD=y\n\
                      # CONFIG_MODVERSIONS is not set\n";
        check("7.3.4 SMP preempt mod_unload", config).unwrap();
        check("7.3.4 SMP preempt_rt mod_unload", &format!("{config}CONFIG_PREEMPT_RT=y\n")).unwrap();
        check("7.3.4", "# CONFIG_SMP is not set\n").unwrap();
        // A number that nobody knows is among them.
        check("7.3.4 SMP RANDSTRUCT_12ab", "CONFIG_RANDSTRUCT=y\n").unwrap();
        let error = check("7.3.4 SMP preempt mod_unload modversions", config).unwrap_err().to_string();
        assert!(
            error.contains("is for kernel `7.3.4 SMP preempt mod_unload modversions`, not for `7.3.4 SMP preempt mod_unload`;"),
            "{error}"
        );
        assert!(check("7.3.4 SMP", config).is_err());
    }

    #[test]
    fn a_parameter_that_the_module_does_not_have_is_named_with_those_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vendor-x.ko");
        fs::write(&path, b"\0parmtype=ports:array of int\0parmtype=a_b:bool\0").unwrap();
        let module = Module { key: Key::of_bytes(b""), path, _artifact: None };
        assert_eq!(module.name(), "vendor_x");
        module.check_params(&["ports=1,2".into(), "a-b=1".into(), "dyndbg=+p".into()]).unwrap();
        let error = module.check_params(&["port=1".into()]).unwrap_err().to_string();
        assert!(error.ends_with("has no parameter `port`; it has: ports, a_b"), "{error}");
    }

    #[test]
    fn a_directory_without_driver_is_named_with_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &["x.rs"]);
        let error = read_sources(dir.path()).unwrap_err().to_string();
        assert!(error.contains("guest-driver/Kbuild is missing"), "{error}");
    }
}
