// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest boots into: the agent as /init, busybox, mkfs programs with their libraries, and kernel modules ready
//! to be loaded, listed in `/lib/longpin/modules` as `NAME PATH DEPENDENCY...` in load order (`?DEPENDENCY`: it may refuse
//! to load), and for modprobe in the usual modules.dep and modules.builtin.

use crate::archive::Archive;
use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::key::{Inputs, Key};
use crate::manifest::Kind;
use crate::module_graph::{Before, ModuleGraph, Needed, name_of};
use crate::module_info;
use crate::overlay::Overlay;
use crate::recipe::{self, InitramfsRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STAGE: &str = include_str!("../recipes/initramfs-stage.sh");
const STAGE_LIMIT: Duration = Duration::from_secs(5 * 60);
const FILE: &str = "initramfs.cpio";
/// Fact: names of the modules that the kernel has not.
const ABSENT: &str = "absent modules";
/// In the guest.
const MODULES: &str = "/lib/longpin/ko";
const MODULE_LIST: &str = "/lib/longpin/modules";
/// Mount points of the agent.
const DIRECTORIES: [&str; 8] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/root", "/etc"];

/// What a guest gets beside the recipe.
#[derive(Debug, Clone, Default)]
pub struct InitramfsSpec {
    /// The agent, a static program: becomes /init.
    pub agent: Vec<u8>,
    /// Module files of our own, such as longpin.ko.
    pub modules: Vec<PathBuf>,
    /// Modules of the kernel beside the recipe's, by name.
    pub kernel_modules: Vec<String>,
    /// Extras of the recipe, by name: programs too big for every guest, such as `fio`.
    pub programs: Vec<String>,
    /// More files.
    pub files: Vec<ExtraFile>,
    /// A tree of the user's, above everything else.
    pub overlay: Option<Overlay>,
}

impl InitramfsSpec {
    /// Names of the extras, each once.
    fn extras(&self) -> Vec<String> {
        BTreeSet::from_iter(self.programs.iter().cloned()).into_iter().collect()
    }

    /// Whatever is made later under the same name makes this one stale.
    fn series(&self, kernel: &Kernel) -> String {
        let mut names = vec![kernel.id().to_string()];
        names.extend(self.extras());
        names.extend(self.files.iter().map(|file| file.path.clone()));
        names.extend(self.overlay.iter().map(|overlay| overlay.dir().display().to_string()));
        names.join("+")
    }
}

/// A file for the guest.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// Absolute, in the guest.
    pub path: String,
    /// As 0o755.
    pub permissions: u32,
    /// Bytes.
    pub content: Vec<u8>,
}

/// A finished initramfs, kept from removal as long as this lives.
#[derive(Debug)]
pub struct Initramfs {
    artifact: Artifact,
}

impl Initramfs {
    /// The cpio archive, for QEMU's `-initrd`.
    pub fn path(&self) -> PathBuf {
        self.artifact.dir.join(FILE)
    }

    /// Key of everything in it.
    pub fn key(&self) -> &Key {
        &self.artifact.manifest.id.key
    }

    /// Modules of the recipe that the kernel has neither as files nor built in. The distribution's own kernel has all.
    pub fn absent_modules(&self) -> BTreeSet<String> {
        let names = self.artifact.manifest.facts.get(ABSENT).map(String::as_str).unwrap_or_default();
        names.split_whitespace().map(str::to_owned).collect()
    }
}

/// A module file of ours, read.
struct OwnModule {
    name: String,
    bytes: Vec<u8>,
}

impl Store {
    /// The initramfs for a kernel; built if it is not there (seconds, no network).
    /// Errors: `NoSuchModule`, `NoSuchExtra`, `Unreadable`, `Locked`.
    pub fn initramfs(
        &self,
        root: &ToolRoot,
        kernel: &Kernel,
        spec: &InitramfsSpec,
        reporter: &dyn Reporter,
    ) -> Result<Initramfs> {
        let recipe = recipe::initramfs()?;
        let own = spec.modules.iter().map(|path| OwnModule::read(path)).collect::<Result<Vec<_>>>()?;
        let programs = programs(&recipe, spec)?;
        let inputs = inputs(root, kernel, spec, &recipe, &own)?;
        let plan = Plan {
            kind: Kind::Initramfs,
            title: "initramfs".to_owned(),
            series: spec.series(kernel),
            parents: vec![root.id().clone(), kernel.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| {
            let content = Content { root, kernel, spec, own: &own, recipe: &recipe, programs: &programs };
            content.make(build)
        })?;
        Ok(Initramfs { artifact })
    }
}

impl OwnModule {
    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        Ok(Self { name: name_of(&path.to_string_lossy()), bytes })
    }
}

/// Programs of the recipe and of the extras, each once.
fn programs<'a>(recipe: &'a InitramfsRecipe, spec: &InitramfsSpec) -> Result<BTreeSet<&'a str>> {
    let mut programs: BTreeSet<_> = recipe.programs.iter().map(String::as_str).collect();
    for name in &spec.programs {
        programs.extend(recipe.extra(name)?.programs.iter().map(String::as_str));
    }
    Ok(programs)
}

fn inputs(
    root: &ToolRoot,
    kernel: &Kernel,
    spec: &InitramfsSpec,
    recipe: &InitramfsRecipe,
    own: &[OwnModule],
) -> Result<Inputs> {
    let mut inputs = Inputs::new(4);
    root.add_to(&mut inputs)?;
    inputs.value("kernel", kernel.key().as_str());
    inputs.bytes("recipe", InitramfsRecipe::text().as_bytes()).bytes("stage", STAGE.as_bytes());
    // The recipe's and those of the file systems.
    inputs.value("programs", &recipe.programs.join(" ")).value("modules", &recipe.modules.join(" "));
    inputs.value("kernel modules", &spec.kernel_modules.join(" ")).bytes("agent", &spec.agent);
    inputs.value("extras", &spec.extras().join(" "));
    for module in own {
        inputs.bytes(&format!("module {}", module.name), &module.bytes);
    }
    for file in &spec.files {
        inputs.bytes(&format!("file {} {:o}", file.path, file.permissions), &file.content);
    }
    if let Some(overlay) = &spec.overlay {
        inputs.value("overlay", overlay.hash());
    }
    Ok(inputs)
}

struct Content<'a> {
    root: &'a ToolRoot,
    kernel: &'a Kernel,
    spec: &'a InitramfsSpec,
    own: &'a [OwnModule],
    recipe: &'a InitramfsRecipe,
    programs: &'a BTreeSet<&'a str>,
}

impl Content<'_> {
    fn make(&self, build: &mut Build<'_>) -> Result<()> {
        build.reporter.step("initramfs: unpacking modules, collecting programs");
        let modules_dir = self.kernel.modules_dir();
        let graph = ModuleGraph::read(self.kernel.release(), &modules_dir)?;
        let absent = self.absent(&graph)?;
        let needed = self.needed(&graph, &absent)?;
        let (ko, files) = (build.dir.join("ko"), build.dir.join("files"));
        for dir in [&ko, &files] {
            fs::create_dir(dir).map_err(Error::io("create", dir))?;
        }
        for module in &needed {
            let from = modules_dir.join(&module.path);
            let suffix = module.path.rsplit_once(".ko").map_or("", |(_, suffix)| suffix);
            let to = ko.join(format!("{}.ko{suffix}", module.name));
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        }
        for module in self.own {
            let to = ko.join(format!("{}.ko", module.name));
            fs::write(&to, &module.bytes).map_err(Error::io("write", &to))?;
        }
        let mut command = self.root.command("bash", &[Bind::read_write(build.dir).at("/artifact")]);
        command.args(["-euo", "pipefail", "-O", "nullglob", "-c", STAGE, "bash"]);
        command.args(self.programs).args(&self.recipe.data).arg(&self.recipe.busybox);
        build.log.run("collection of the guest's programs", &mut command, STAGE_LIMIT)?;

        build.reporter.step("initramfs: packing");
        let modules = self.modules(&graph, needed)?;
        let path = build.dir.join(FILE);
        let mut archive = self.pack(&files, &ko, &modules).map_err(Error::io("pack", &path))?;
        if let Some(overlay) = &self.spec.overlay {
            overlay.add_to(&mut archive)?;
        }
        let archive = archive.finish().map_err(Error::io("pack", &path))?;
        fs::write(&path, archive).map_err(Error::io("write", &path))?;
        crate::tree::remove(&files)?;
        crate::tree::remove(&ko)?;
        build.facts.insert("release".to_owned(), self.kernel.release().to_owned());
        if !absent.is_empty() {
            build.facts.insert(ABSENT.to_owned(), absent.join(" "));
        }
        Ok(())
    }

    /// Modules of the recipe that the kernel has not: of the distribution's own kernel a fault, of another one only if no
    /// case can run without.
    fn absent(&self, graph: &ModuleGraph) -> Result<Vec<&'_ str>> {
        let is_there = |name: &str| match self.recipe.with_parameters.iter().any(|module| module == name) {
            true => graph.has_file(name),
            false => graph.has(name),
        };
        let modules = self.recipe.modules.iter().map(String::as_str);
        let absent: Vec<&str> = modules.filter(|name| !is_there(name)).collect();
        let fault =
            |name: &&&str| !self.kernel.is_brought() || self.recipe.indispensable.iter().any(|i| i == **name);
        match absent.iter().find(fault) {
            Some(name) => Err(Error::NoSuchModule {
                release: self.kernel.release().to_owned(),
                module: (*name).to_owned(),
            }),
            None => Ok(absent),
        }
    }

    /// Modules of the kernel: the recipe's, the caller's, and what our own need.
    fn needed(&self, graph: &ModuleGraph, absent: &[&str]) -> Result<Vec<Needed>> {
        let depends = self.own.iter().flat_map(|module| module_info::depends(&module.bytes));
        let of_kernel: Vec<String> = depends.filter(|name| !self.is_own(name)).collect();
        let there = self.recipe.modules.iter().filter(|name| !absent.contains(&name.as_str()));
        let names = there.chain(&self.spec.kernel_modules).chain(&of_kernel);
        let mut needed = graph.closure(names.map(String::as_str))?;
        // One of ours takes the place of the kernel's.
        needed.retain(|module| !self.is_own(&module.name));
        Ok(needed)
    }

    fn is_own(&self, name: &str) -> bool {
        let name = name_of(name);
        self.own.iter().any(|module| module.name == name)
    }

    /// All modules of the guest, our own last.
    fn modules(&self, graph: &ModuleGraph, needed: Vec<Needed>) -> Result<Vec<Loadable>> {
        let of_kernel =
            needed.into_iter().map(|module| Loadable { name: module.name, before: module.before });
        let mut modules: Vec<_> = of_kernel.collect();
        for module in self.own {
            let mut before: Vec<Before> = Vec::new();
            for name in module_info::depends(&module.bytes) {
                let name = name_of(&name);
                let mut needs = match modules.iter().find(|other| other.name == name && self.is_own(&name)) {
                    Some(own) => {
                        let itself = Before { name, soft: false };
                        own.before.iter().cloned().chain([itself]).collect()
                    }
                    None => graph.before_all([name.as_str()])?,
                };
                needs.retain(|need| !before.iter().any(|known| known.name == need.name));
                before.append(&mut needs);
            }
            modules.push(Loadable { name: module.name.clone(), before });
        }
        Ok(modules)
    }

    fn pack(&self, files: &Path, ko: &Path, modules: &[Loadable]) -> std::io::Result<Archive> {
        let mut archive = Archive::default();
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        // The kernel opens it for /init before anything is mounted.
        archive.device("/dev/console", 5, 1)?;
        archive.file("/init", 0o755, &self.spec.agent)?;
        archive_tree(&mut archive, files, "")?;
        archive.symlink("/bin/busybox", &self.recipe.busybox)?;
        for applet in &self.recipe.applets {
            archive.symlink(&format!("/bin/{applet}"), &self.recipe.busybox)?;
        }
        archive_tree(&mut archive, ko, MODULES)?;
        archive.file(MODULE_LIST, 0o644, module_list(modules).as_bytes())?;
        let of_release = format!("/lib/modules/{}", self.kernel.release());
        archive.file(&format!("{of_release}/modules.dep"), 0o644, dep_list(modules).as_bytes())?;
        // So that a module which this kernel has built in is no error.
        let builtin = fs::read(self.kernel.modules_dir().join("modules.builtin"))?;
        archive.file(&format!("{of_release}/modules.builtin"), 0o644, &builtin)?;
        for file in &self.spec.files {
            archive.file(&file.path, file.permissions, &file.content)?;
        }
        Ok(archive)
    }
}

/// A module of the guest, and those that are loaded before it, in that order.
struct Loadable {
    name: String,
    before: Vec<Before>,
}

fn guest_path(module: &str) -> String {
    format!("{MODULES}/{module}.ko")
}

/// Lines of `/lib/longpin/modules`.
fn module_list(modules: &[Loadable]) -> String {
    let line = |module: &Loadable| {
        let before = module.before.iter().map(|before| match before.soft {
            true => format!("?{}", before.name),
            false => before.name.clone(),
        });
        let words = [module.name.clone(), guest_path(&module.name)].into_iter().chain(before);
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    modules.iter().map(line).collect()
}

/// Lines of modules.dep: modprobe loads from the last to the first, and stops at one that refuses.
fn dep_list(modules: &[Loadable]) -> String {
    let line = |module: &Loadable| {
        let hard = module.before.iter().rev().filter(|before| !before.soft);
        let before: String = hard.map(|before| " ".to_owned() + &guest_path(&before.name)).collect();
        format!("{}:{before}\n", guest_path(&module.name))
    };
    modules.iter().map(line).collect()
}

/// A staged tree: directories and files only, in the order of their names.
fn archive_tree(archive: &mut Archive, dir: &Path, prefix: &str) -> std::io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            archive_tree(archive, &entry.path(), &path)?;
        } else {
            let permissions = entry.metadata()?.permissions().mode() & 0o777;
            archive.file(&path, permissions, &fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_come_beside_the_usual_programs_each_once() {
        let recipe = recipe::initramfs().unwrap();
        let with = |names: &[&str]| InitramfsSpec {
            programs: names.iter().map(|name| (*name).to_owned()).collect(),
            ..InitramfsSpec::default()
        };
        let usual = programs(&recipe, &with(&[])).unwrap();
        assert!(usual.contains("/usr/sbin/mkfs.ext4") && !usual.contains("/usr/bin/fio"));
        let more = programs(&recipe, &with(&["fio", "fio"])).unwrap();
        assert_eq!(more.difference(&usual).collect::<Vec<_>>(), [&"/usr/bin/fio"]);
        assert_eq!(with(&["fio", "a", "fio"]).extras(), ["a", "fio"]);
        assert!(matches!(programs(&recipe, &with(&["emacs"])), Err(Error::NoSuchExtra { .. })));
    }

    #[test]
    fn the_module_lists_have_name_path_and_dependencies_in_load_order_and_for_modprobe_reversed() {
        let module = |name: &str, before: &[&str]| Loadable {
            name: name.to_owned(),
            before: before
                .iter()
                .map(|name| Before {
                    name: name.trim_start_matches('?').to_owned(),
                    soft: name.starts_with('?'),
                })
                .collect(),
        };
        let modules = [module("jbd2", &[]), module("ext4", &["mbcache", "?crc32c_intel", "jbd2"])];
        assert_eq!(
            module_list(&modules),
            "jbd2 /lib/longpin/ko/jbd2.ko\n\
             ext4 /lib/longpin/ko/ext4.ko mbcache ?crc32c_intel jbd2\n"
        );
        assert_eq!(
            dep_list(&modules),
            "/lib/longpin/ko/jbd2.ko:\n\
             /lib/longpin/ko/ext4.ko: /lib/longpin/ko/jbd2.ko /lib/longpin/ko/mbcache.ko\n"
        );
    }
}
