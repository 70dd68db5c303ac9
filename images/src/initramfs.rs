// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest boots into: the agent as /init, busybox, mkfs programs with their libraries, and kernel modules ready
//! to be loaded, listed in `/lib/longpin/modules` as `NAME PATH DEPENDENCY...` in load order.

use crate::archive::Archive;
use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::key::{Inputs, Key};
use crate::manifest::Kind;
use crate::module_graph::{ModuleGraph, Needed, name_of};
use crate::module_info;
use crate::recipe::{self, InitramfsRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STAGE: &str = include_str!("../recipes/initramfs-stage.sh");
const STAGE_LIMIT: Duration = Duration::from_secs(5 * 60);
const FILE: &str = "initramfs.cpio";
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
    /// More files.
    pub files: Vec<ExtraFile>,
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
}

/// A module file of ours, read.
struct OwnModule {
    name: String,
    bytes: Vec<u8>,
}

impl Store {
    /// The initramfs for a kernel; built if it is not there (seconds, no network).
    /// Errors: `NoSuchModule`, `Unreadable`, `Locked`.
    pub fn initramfs(
        &self,
        root: &ToolRoot,
        kernel: &Kernel,
        spec: &InitramfsSpec,
        reporter: &dyn Reporter,
    ) -> Result<Initramfs> {
        let recipe = recipe::initramfs()?;
        let own = spec.modules.iter().map(|path| OwnModule::read(path)).collect::<Result<Vec<_>>>()?;
        let inputs = inputs(root, kernel, spec, &own)?;
        let plan = Plan {
            kind: Kind::Initramfs,
            title: "initramfs".to_owned(),
            series: kernel.id().to_string(),
            parents: vec![root.id().clone(), kernel.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| {
            let content = Content { root, kernel, spec, own: &own, recipe: &recipe };
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

fn inputs(root: &ToolRoot, kernel: &Kernel, spec: &InitramfsSpec, own: &[OwnModule]) -> Result<Inputs> {
    let mut inputs = Inputs::new(1);
    root.add_to(&mut inputs)?;
    inputs.value("kernel", kernel.key().as_str());
    inputs.bytes("recipe", InitramfsRecipe::text().as_bytes()).bytes("stage", STAGE.as_bytes());
    inputs.value("kernel modules", &spec.kernel_modules.join(" ")).bytes("agent", &spec.agent);
    for module in own {
        inputs.bytes(&format!("module {}", module.name), &module.bytes);
    }
    for file in &spec.files {
        inputs.bytes(&format!("file {} {:o}", file.path, file.permissions), &file.content);
    }
    Ok(inputs)
}

struct Content<'a> {
    root: &'a ToolRoot,
    kernel: &'a Kernel,
    spec: &'a InitramfsSpec,
    own: &'a [OwnModule],
    recipe: &'a InitramfsRecipe,
}

impl Content<'_> {
    fn make(&self, build: &mut Build<'_>) -> Result<()> {
        build.reporter.step("initramfs: unpacking modules, collecting programs");
        let modules_dir = self.kernel.modules_dir();
        let graph = ModuleGraph::read(self.kernel.release(), &modules_dir)?;
        let needed = self.needed(&graph)?;
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
        command.args(&self.recipe.programs).args(&self.recipe.data).arg(&self.recipe.busybox);
        build.log.run("collection of the guest's programs", &mut command, STAGE_LIMIT)?;

        build.reporter.step("initramfs: packing");
        let list = module_list(&needed, &self.own_lines(&graph)?);
        let path = build.dir.join(FILE);
        let archive = self.pack(&files, &ko, &list).map_err(Error::io("pack", &path))?;
        fs::write(&path, archive).map_err(Error::io("write", &path))?;
        crate::tree::remove(&files)?;
        crate::tree::remove(&ko)?;
        build.facts.insert("release".to_owned(), self.kernel.release().to_owned());
        Ok(())
    }

    /// Modules of the kernel: the recipe's, the caller's, and what our own need.
    fn needed(&self, graph: &ModuleGraph) -> Result<Vec<Needed>> {
        let own: Vec<String> =
            self.own.iter().flat_map(|module| module_info::depends(&module.bytes)).collect();
        let wanted = self.recipe.modules.iter().chain(&self.spec.kernel_modules).chain(&own);
        graph.closure(wanted.map(String::as_str))
    }

    fn own_lines(&self, graph: &ModuleGraph) -> Result<BTreeMap<String, Vec<String>>> {
        let mut lines = BTreeMap::new();
        for module in self.own {
            let depends = module_info::depends(&module.bytes);
            let before = graph.closure(depends.iter().map(String::as_str))?;
            lines.insert(module.name.clone(), before.into_iter().map(|needed| needed.name).collect());
        }
        Ok(lines)
    }

    fn pack(&self, files: &Path, ko: &Path, list: &str) -> std::io::Result<Vec<u8>> {
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
        for (link, target) in &self.recipe.symlinks {
            archive.symlink(link, target)?;
        }
        archive_tree(&mut archive, ko, MODULES)?;
        archive.file(MODULE_LIST, 0o644, list.as_bytes())?;
        for file in &self.spec.files {
            archive.file(&file.path, file.permissions, &file.content)?;
        }
        archive.finish()
    }
}

/// Lines of `/lib/longpin/modules`.
fn module_list(needed: &[Needed], own: &BTreeMap<String, Vec<String>>) -> String {
    let kernel = needed.iter().map(|module| (&module.name, &module.before));
    let line = |(name, before): (&String, &Vec<String>)| {
        let words = [name.clone(), format!("{MODULES}/{name}.ko")].into_iter().chain(before.iter().cloned());
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    kernel.chain(own).map(line).collect()
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
    fn the_module_list_has_name_path_and_dependencies_in_load_order() {
        let needed = [
            Needed { name: "jbd2".into(), path: "kernel/fs/jbd2/jbd2.ko.xz".into(), before: vec![] },
            Needed { name: "ext4".into(), path: "e".into(), before: vec!["mbcache".into(), "jbd2".into()] },
        ];
        let own = BTreeMap::from([("longpin".to_owned(), vec!["virtio_x".to_owned()])]);
        assert_eq!(
            module_list(&needed, &own),
            "jbd2 /lib/longpin/ko/jbd2.ko\n\
             ext4 /lib/longpin/ko/ext4.ko mbcache jbd2\n\
             longpin /lib/longpin/ko/longpin.ko virtio_x\n"
        );
    }
}
