// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels for the laboratory, built by name from the stock kernel's own source: `debug` with what the kernel has to
//! watch itself, `permissive` with the refusal of long-term pins lifted. `images/recipes/lab.toml` says how each is
//! configured and patched.
//!
//! A build that is interrupted goes on where it was: the tree stays in the artifact's partial directory, and make knows
//! what is done.

use crate::artifact::{Build, Plan};
use crate::error::{Error, Result};
use crate::job::Watch;
use crate::kconfig::{KernelOption, kernel_options};
use crate::kernel::{INSIDE, Kernel};
use crate::kernel_build::{TREE, VMLINUZ, missing_lines};
use crate::key::Inputs;
use crate::manifest::Kind;
use crate::own_kernel;
use crate::recipe::{self, LabKernelRecipe, LabRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::{CLANG, ToolRoot};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Copying, cleaning and configuring the source.
const PREPARE_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Ten minutes on two CPUs that have nothing else to do.
const MAKE_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Between two words about how far it is.
const OBJECTS_A_STEP: usize = 200;
/// In the partial artifact: the source is whole, patched and configured.
const READY: &str = "source-ready";
/// In the stock kernel's tree are the results of its own preparation, which would stand in the way.
const SOURCE: &str = include_str!("../recipes/lab-source.sh");
const PATCH: &str = include_str!("../recipes/lab-patch.sh");
/// What no module is built against goes.
const PRUNE: &str = include_str!("../recipes/lab-prune.sh");

/// A kernel of the laboratory, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabKernel {
    /// `debug`, `permissive`, ...
    pub name: String,
}

impl LabKernel {
    /// As on the command line.
    pub fn title(&self) -> String {
        format!("lab:{}", self.name)
    }
}

struct Work<'a> {
    root: &'a ToolRoot,
    /// Tree of the stock kernel.
    stock: &'a Path,
    title: &'a str,
    common: &'a [String],
    recipe: &'a LabKernelRecipe,
    always: &'a [KernelOption],
    dir: &'a Path,
}

impl Store {
    /// A kernel of the laboratory: the source of the stock kernel, built if it is not there (minutes, no network).
    /// Errors: `UnfitKernel` for a name that is unknown, a patch that does not apply, an option that the source has not.
    pub(crate) fn lab_kernel(
        &self,
        root: &ToolRoot,
        wanted: &LabKernel,
        reporter: &dyn Reporter,
    ) -> Result<Kernel> {
        let title = wanted.title();
        let lab = recipe::lab()?;
        let recipe = find(&lab, wanted)?;
        let always = kernel_options()?;
        let stock = self.kernel(root, reporter)?;
        let source = stock.build_dir().expect("the stock kernel comes with its source");
        let inputs = inputs(root, &stock, &lab, recipe, &always)?;
        let plan = Plan {
            kind: Kind::Kernel,
            title: format!("kernel {title}"),
            series: title.clone(),
            parents: vec![root.id().clone(), stock.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure_resumable(&plan, reporter, |build| {
            let (title, common, dir) = (title.as_str(), lab.common.as_slice(), build.dir);
            Work { root, stock: source, title, common, recipe, always: &always, dir }.make(build)
        })?;
        let release = artifact.manifest.fact("release")?.to_owned();
        let (tree, vmlinuz) = (artifact.dir.join(TREE), artifact.dir.join(VMLINUZ));
        Ok(Kernel { artifact, release, choice: None, vmlinuz, build_dir: Some((tree, INSIDE.into())) })
    }
}

fn find<'a>(lab: &'a LabRecipe, wanted: &LabKernel) -> Result<&'a LabKernelRecipe> {
    lab.kernel.iter().find(|kernel| kernel.name == wanted.name).ok_or_else(|| {
        let known = lab.kernel.iter().map(|kernel| format!("lab:{} ({})", kernel.name, kernel.about));
        Error::UnfitKernel {
            kernel: wanted.title(),
            problem: "there is no such kernel".to_owned(),
            remedy: format!("use one of these: {}", known.collect::<Vec<_>>().join("; ")),
        }
    })
}

fn inputs(
    root: &ToolRoot,
    stock: &Kernel,
    lab: &LabRecipe,
    recipe: &LabKernelRecipe,
    always: &[KernelOption],
) -> Result<Inputs> {
    let mut inputs = Inputs::new(1);
    root.add_to(&mut inputs)?;
    inputs.value("stock", stock.key().as_str()).value("clang", if recipe.clang { "yes" } else { "no" });
    inputs.bytes("options", fragment(always, &lab.common, recipe).as_bytes());
    inputs.bytes("patch", recipe.patch()?.as_bytes());
    if recipe.patch.is_some() {
        inputs.bytes("patch script", PATCH.as_bytes());
    }
    inputs.bytes("source", SOURCE.as_bytes()).bytes("prune", PRUNE.as_bytes());
    Ok(inputs)
}

/// What is put behind a `tinyconfig`; the last line about an option counts.
fn fragment(always: &[KernelOption], common: &[String], recipe: &LabKernelRecipe) -> String {
    let name = format!("CONFIG_LOCALVERSION=\"-lab-{}\"", recipe.name);
    let lines = always.iter().map(KernelOption::line).chain(common.iter().cloned());
    lines.chain(recipe.options.iter().cloned()).chain([name]).map(|line| line + "\n").collect()
}

impl Work<'_> {
    fn make(&self, build: &mut Build<'_>) -> Result<()> {
        let ready = self.dir.join(READY);
        if ready.is_file() {
            build.reporter.step(&format!("kernel {}: going on where an earlier build was", self.title));
        } else {
            self.prepare(build)?;
            fs::write(&ready, "").map_err(Error::io("write", &ready))?;
        }
        self.compile(build)?;
        self.take(build)?;
        fs::remove_file(&ready).map_err(Error::io("remove", &ready))
    }

    fn tree(&self) -> PathBuf {
        self.dir.join(TREE)
    }

    fn config(&self) -> Result<String> {
        let path = self.tree().join(".config");
        fs::read_to_string(&path).map_err(Error::io("read", &path))
    }

    fn command(&self, program: &str) -> Command {
        let binds = [
            Bind::read_only(self.stock).at("/stock"),
            Bind::read_write(self.dir).at("/artifact"),
            Bind::read_write(self.tree()).at(INSIDE),
        ];
        self.root.command(program, &binds)
    }

    fn script(&self, text: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", text, "bash", INSIDE]);
        command
    }

    fn make_targets(&self, targets: &[&str]) -> Command {
        let mut command = self.command("make");
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        command.arg(format!("-j{jobs}")).args(["-C", INSIDE]);
        command.args(self.recipe.clang.then_some(CLANG)).args(targets);
        command
    }

    fn prepare(&self, build: &mut Build<'_>) -> Result<()> {
        let (title, tree) = (self.title, self.tree());
        build.reporter.step(&format!("kernel {title}: copying the source of the stock kernel"));
        crate::tree::remove(&tree)?;
        fs::create_dir_all(&tree).map_err(Error::io("create", &tree))?;
        build.log.run(&format!("source of kernel {title}"), &mut self.script(SOURCE), PREPARE_LIMIT)?;
        self.patch(build)?;
        build.reporter.step(&format!("kernel {title}: configuring"));
        build.log.run("make tinyconfig", &mut self.make_targets(&["tinyconfig"]), PREPARE_LIMIT)?;
        let config = self.config()? + &fragment(self.always, self.common, self.recipe);
        let path = tree.join(".config");
        fs::write(&path, config).map_err(Error::io("write", &path))?;
        build.log.run("make olddefconfig", &mut self.make_targets(&["olddefconfig"]), PREPARE_LIMIT)?;
        self.check(&self.config()?)
    }

    fn patch(&self, build: &mut Build<'_>) -> Result<()> {
        let text = self.recipe.patch()?;
        if text.is_empty() {
            return Ok(());
        }
        let path = self.dir.join("patch");
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        let mut apply = self.script(PATCH);
        apply.arg("/artifact/patch");
        build.log.run("patch", &mut apply, PREPARE_LIMIT).map_err(|error| {
            let problem = format!("its patch does not apply to the source of the stock kernel: {error}");
            self.unfit(problem, "the source has moved on: correct the patch in images/recipes")
        })
    }

    /// An option that was asked for and is not there has lost what it depends on.
    fn check(&self, config: &str) -> Result<()> {
        let own = [self.common, &self.recipe.options].concat();
        // An option that is not even offered is as good as one that is not set.
        let missing = missing_lines(config, &own).into_iter().filter(|line| !line.starts_with('#'));
        let always = self.always.iter().filter(|option| !option.is_set(config)).map(KernelOption::line);
        let missing: Vec<String> = missing.map(str::to_owned).chain(always).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let problem = format!("its configuration has no {} after make olddefconfig", missing.join(", "));
        Err(self
            .unfit(problem, "the source has moved on: correct lab.toml or kconfig.toml in images/recipes"))
    }

    fn compile(&self, build: &mut Build<'_>) -> Result<()> {
        let (title, reporter) = (self.title, build.reporter);
        reporter.step(&format!("kernel {title}: compiling"));
        let mut objects = 0;
        let mut count = |line: &str| {
            objects += usize::from(is_object(line));
            if is_object(line) && objects % OBJECTS_A_STEP == 0 {
                reporter.step(&format!("kernel {title}: compiling, {objects} objects are made"));
            }
        };
        let watch = Watch { line: &mut count, tick: &mut || {} };
        let mut make = self.make_targets(&["bzImage", "modules"]);
        build.log.run_watched(&format!("build of kernel {title}"), &mut make, MAKE_LIMIT, watch)
    }

    /// Image, modules and the lists about them into the artifact, as every kernel has them.
    fn take(&self, build: &mut Build<'_>) -> Result<()> {
        own_kernel::take(build, self.root, &self.tree())?;
        for package in ["rustc", "gcc-14", "clang-19"] {
            let version = self.root.package_version(package).unwrap_or("unknown");
            build.versions.insert(package.to_owned(), version.to_owned());
        }
        build.log.run("removal of what no module needs", &mut self.script(PRUNE), PREPARE_LIMIT)
    }

    fn unfit(&self, problem: String, remedy: &str) -> Error {
        Error::UnfitKernel { kernel: self.title.to_owned(), problem, remedy: remedy.to_owned() }
    }
}

/// `  CC      fs/ext4/inode.o`, `  RUSTC L rust/core.o`.
fn is_object(line: &str) -> bool {
    matches!(line.split_whitespace().next(), Some("CC" | "AS" | "RUSTC")) && line.ends_with(".o")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_has_a_name_and_a_patch_that_is_there() {
        let lab = recipe::lab().unwrap();
        let names: Vec<&str> = lab.kernel.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["debug", "permissive", "plain"]);
        for kernel in &lab.kernel {
            let patch = kernel.patch().unwrap();
            assert_eq!(patch.is_empty(), kernel.patch.is_none());
            assert!(patch.is_empty() || patch.contains("\n--- a/mm/gup.c\n+++ b/mm/gup.c\n@@ "));
        }
    }

    #[test]
    fn the_last_line_about_an_option_is_the_kernel_s_own() {
        let lab = recipe::lab().unwrap();
        let always = kernel_options().unwrap();
        let text = fragment(&always, &lab.common, &lab.kernel[0]);
        assert!(text.contains("CONFIG_RUST=y\n") && text.contains("CONFIG_SCSI_DEBUG=m\n"), "{text}");
        assert!(
            text.ends_with("CONFIG_SOFTLOCKUP_DETECTOR=y\nCONFIG_LOCALVERSION=\"-lab-debug\"\n"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_name_is_answered_by_those_that_are_known() {
        let lab = recipe::lab().unwrap();
        let error = find(&lab, &LabKernel { name: "debgu".to_owned() }).err().unwrap().to_string();
        assert!(error.contains("lab:debgu") && error.contains("lab:debug (KASAN, lockdep"), "{error}");
    }

    #[test]
    fn objects_are_counted_and_nothing_else() {
        assert!(is_object("  CC      fs/ext4/inode.o") && is_object("  CC [M]  drivers/scsi/scsi_debug.o"));
        assert!(is_object("  RUSTC L rust/core.o"));
        assert!(!is_object("  CC      arch/x86/kernel/asm-offsets.s") && !is_object("  LD      vmlinux.o"));
    }
}
