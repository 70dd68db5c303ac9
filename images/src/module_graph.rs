// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which kernel modules a guest needs, and in which order they load: modules.dep, modules.softdep, modules.alias and
//! modules.builtin, read as text. A soft dependency is what a module asks for by name once it runs (an algorithm of the
//! crypto API); the guest has no modprobe that the kernel could call, so it is loaded before.

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Soft dependencies that a module has and does not declare: before Linux 6.16 rxe takes the checksum of its packets from
/// the crypto API, by name.
const UNDECLARED: &str = "softdep rdma_rxe pre: crc32\n";

/// Modules of one kernel.
#[derive(Debug, Default)]
pub(crate) struct ModuleGraph {
    release: String,
    /// Name to path from the modules directory, and names that it needs, in load order.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
    /// Name to the files that its soft dependencies mean.
    soft: BTreeMap<String, Vec<String>>,
}

/// One that is loaded before another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Before {
    pub name: String,
    /// It may refuse to load, as an algorithm for another CPU does.
    pub soft: bool,
}

/// A module that goes into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    pub name: String,
    /// From the modules directory.
    pub path: String,
    /// All that is loaded before, in that order.
    pub before: Vec<Before>,
}

impl ModuleGraph {
    /// Of the directory that has modules.dep.
    pub(crate) fn read(release: &str, dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(Error::io("read", &path))
        };
        // depmod writes both always; a kernel that nobody ran it for has neither.
        let maybe = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let soft = [maybe("modules.softdep"), maybe("modules.alias")];
        Self::parse(
            release,
            &read("modules.dep")?,
            &read("modules.builtin")?,
            soft.each_ref().map(String::as_str),
        )
    }

    fn parse(release: &str, dep: &str, builtin: &str, [softdep, alias]: [&str; 2]) -> Result<Self> {
        let mut graph = Self { release: release.to_owned(), ..Self::default() };
        for line in dep.lines().filter(|line| !line.trim().is_empty()) {
            let (path, needs) = line.split_once(':').ok_or_else(|| Error::Unreadable {
                what: format!("modules.dep of {release}"),
                problem: format!("line `{line}` has no colon"),
                remedy: "run depmod for that kernel",
            })?;
            // depmod lists the closure so that loading from the last to the first is right.
            let before = needs.split_whitespace().rev().map(name_of).collect();
            graph.files.insert(name_of(path), (path.to_owned(), before));
        }
        graph.builtin = builtin.lines().map(name_of).collect();
        graph.read_soft(softdep, alias);
        graph.read_soft(UNDECLARED, alias);
        Ok(graph)
    }

    /// `softdep NAME pre: WANTED... post: ...`; what is wanted is a module's name or one of the aliases of several.
    fn read_soft(&mut self, softdep: &str, alias: &str) {
        let mut aliases: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for words in alias.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            if let ["alias", alias, name] = words[..] {
                aliases.entry(alias).or_default().push(name_of(name));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            let files = before.flat_map(|wanted| match self.files.contains_key(&name_of(wanted)) {
                true => vec![name_of(wanted)],
                false => aliases.get(wanted).cloned().unwrap_or_default(),
            });
            let files: Vec<String> = files.filter(|file| self.files.contains_key(file)).collect();
            self.soft.entry(name_of(name)).or_default().extend(files);
        }
    }

    /// Is it there, as a file or built in?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.has_file(name) || self.builtin.contains(&name_of(name))
    }

    /// Is it there as a file, so that it can be loaded with parameters?
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.files.contains_key(&name_of(name))
    }

    /// All that is loaded before a module that needs these, each once.
    pub(crate) fn before_all<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Before>> {
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for name in names.into_iter().map(name_of).filter(|name| !self.builtin.contains(name)) {
            self.visit(&name, false, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// All that is loaded before a module, each once.
    fn before(&self, name: &str) -> Result<Vec<Before>> {
        let mut order = Vec::new();
        self.visit(name, false, &mut BTreeSet::new(), &mut order)?;
        order.pop();
        Ok(order)
    }

    /// Appends a module after all that it needs. `seen` ends the circles that soft dependencies can make.
    fn visit(
        &self,
        name: &str,
        soft: bool,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Before>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            // What was wanted softly so far may not refuse any more.
            if let Some(known) = order.iter_mut().find(|known| known.name == name) {
                known.soft &= soft;
            }
            return Ok(());
        }
        let (_, needs) = self
            .files
            .get(name)
            .ok_or_else(|| Error::NoSuchModule { release: self.release.clone(), module: name.to_owned() })?;
        for name in needs {
            self.visit(name, soft, seen, order)?;
        }
        for name in self.soft.get(name).into_iter().flatten() {
            self.visit(name, true, seen, order)?;
        }
        order.push(Before { name: name.to_owned(), soft });
        Ok(())
    }

    /// These modules and all that they need, each once, dependencies first. What is built in is left out.
    /// Errors: `NoSuchModule`.
    pub(crate) fn closure<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Needed>> {
        let mut needed: Vec<Needed> = Vec::new();
        for wanted in names {
            let wanted = name_of(wanted);
            if !self.files.contains_key(&wanted) {
                if self.builtin.contains(&wanted) {
                    continue;
                }
                return Err(Error::NoSuchModule { release: self.release.clone(), module: wanted });
            }
            let before = self.before(&wanted)?;
            for name in before.iter().map(|before| &before.name).chain([&wanted]) {
                if needed.iter().any(|have| have.name == *name) {
                    continue;
                }
                let (path, _) = self.files.get(name).ok_or_else(|| Error::NoSuchModule {
                    release: self.release.clone(),
                    module: name.clone(),
                })?;
                needed.push(Needed { name: name.clone(), path: path.clone(), before: self.before(name)? });
            }
        }
        Ok(needed)
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is `virtio_rng`: the kernel has no `-` in names.
pub(crate) fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// A module's file, compressed or not.
pub(crate) fn is_module(path: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|suffix| path.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/mbcache.ko.xz:
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/crc/crc16.ko.xz:
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/lib/raid/xor/xor.ko.xz:
kernel/lib/raid/raid6/raid6_pq.ko.xz: kernel/lib/raid/xor/xor.ko.xz
kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/raid/raid6/raid6_pq.ko.xz kernel/lib/raid/xor/xor.ko.xz
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n";

    fn graph() -> ModuleGraph {
        ModuleGraph::parse("7.3.4", DEP, BUILTIN, ["", ""]).unwrap()
    }

    fn before(module: &Needed) -> Vec<(&str, bool)> {
        module.before.iter().map(|before| (before.name.as_str(), before.soft)).collect()
    }

    fn names(needed: &[Needed]) -> Vec<&str> {
        needed.iter().map(|needed| needed.name.as_str()).collect()
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs_and_only_once() {
        let needed = graph().closure(["ext4", "btrfs", "ext4"]).unwrap();
        assert_eq!(names(&needed), ["jbd2", "mbcache", "crc16", "ext4", "xor", "raid6_pq", "btrfs"]);
        assert_eq!(before(&needed[6]), [("xor", false), ("raid6_pq", false)]);
        assert_eq!(needed[6].path, "kernel/fs/btrfs/btrfs.ko.xz");
    }

    #[test]
    fn what_is_built_in_is_left_out_and_a_dash_is_an_underscore() {
        let needed = graph().closure(["virtio_pci", "virtio-console", "virtio_rng"]).unwrap();
        assert_eq!(names(&needed), ["virtio_rng"]);
        assert!(graph().has("virtio-console") && !graph().has_file("virtio-console"));
        assert!(graph().has_file("virtio_rng"));
    }

    #[test]
    fn a_module_that_the_kernel_does_not_have_is_named() {
        let error = graph().closure(["f2fs"]).unwrap_err().to_string();
        assert!(error.starts_with("kernel 7.3.4 has no module `f2fs`"), "{error}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = ModuleGraph::parse("7.3.4", "kernel/a.ko\n", "", ["", ""]).unwrap_err().to_string();
        assert!(error.contains("line `kernel/a.ko` has no colon"), "{error}");
    }

    /// As Debian's 6.1 has it, shortened.
    #[test]
    fn what_a_module_asks_for_once_it_runs_is_loaded_before_and_may_refuse() {
        let dep = "kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko\nkernel/lib/libcrc32c.ko:\n\
                   kernel/arch/x86/crypto/crc32c-intel.ko:\nkernel/crypto/crc32c_generic.ko:\n";
        let softdep = "# Soft dependencies\nsoftdep libcrc32c pre: crc32c built_in_only post: xfs\n";
        let alias = "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias fs-xfs xfs\n";
        let graph = ModuleGraph::parse("6.1.0-50-amd64", dep, "", [softdep, alias]).unwrap();
        let needed = graph.closure(["xfs"]).unwrap();
        assert_eq!(names(&needed), ["crc32c_intel", "crc32c_generic", "libcrc32c", "xfs"]);
        let algorithms = [("crc32c_intel", true), ("crc32c_generic", true)];
        assert_eq!(before(&needed[2]), algorithms);
        assert_eq!(before(&needed[3]), [algorithms[0], algorithms[1], ("libcrc32c", false)]);
        assert!(graph.has("crc32c-intel") && !graph.has("crc32c"));
    }

    #[test]
    fn a_soft_dependency_that_no_module_declares_is_known() {
        let dep = "kernel/crypto/crc32_generic.ko:\nkernel/drivers/infiniband/sw/rxe/rdma_rxe.ko: \
                   kernel/drivers/infiniband/core/ib_core.ko\nkernel/drivers/infiniband/core/ib_core.ko:\n";
        let graph = ModuleGraph::parse("6.1", dep, "", ["", "alias crc32 crc32_generic\n"]).unwrap();
        let needed = graph.closure(["rdma_rxe"]).unwrap();
        let rxe = needed.iter().find(|module| module.name == "rdma_rxe").expect("it is needed");
        assert_eq!(before(rxe), [("ib_core", false), ("crc32_generic", true)]);
    }

    #[test]
    fn soft_dependencies_in_a_circle_and_one_that_is_needed_as_well_come_once() {
        let dep = "a.ko: b.ko\nb.ko:\nc.ko:\n";
        let softdep = "softdep a pre: b c\nsoftdep b pre: c\nsoftdep c pre: b a\n";
        let graph = ModuleGraph::parse("1", dep, "", [softdep, ""]).unwrap();
        let needed = graph.closure(["a"]).unwrap();
        assert_eq!(names(&needed), ["c", "b", "a"]);
        assert_eq!(before(&needed[2]), [("c", true), ("b", false)]);
    }
}
