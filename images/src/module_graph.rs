// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which kernel modules a guest needs, and in which order they load: modules.dep and modules.builtin, read as text.

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Modules of one kernel.
#[derive(Debug, Default)]
pub(crate) struct ModuleGraph {
    release: String,
    /// Name to path from the modules directory, and names that it needs, in load order.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

/// A module that goes into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    pub name: String,
    /// From the modules directory.
    pub path: String,
    /// All that must be loaded before, in that order.
    pub before: Vec<String>,
}

impl ModuleGraph {
    /// Of the directory that has modules.dep.
    pub(crate) fn read(release: &str, dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(Error::io("read", &path))
        };
        Self::parse(release, &read("modules.dep")?, &read("modules.builtin")?)
    }

    fn parse(release: &str, dep: &str, builtin: &str) -> Result<Self> {
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
        Ok(graph)
    }

    /// These modules and all that they need, each once, dependencies first. What is built in is left out.
    /// Errors: `NoSuchModule`.
    pub(crate) fn closure<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Needed>> {
        let mut needed: Vec<Needed> = Vec::new();
        for wanted in names {
            let wanted = name_of(wanted);
            let Some((_, before)) = self.files.get(&wanted) else {
                if self.builtin.contains(&wanted) {
                    continue;
                }
                return Err(Error::NoSuchModule { release: self.release.clone(), module: wanted });
            };
            for name in before.iter().chain([&wanted]) {
                if needed.iter().any(|have| have.name == *name) {
                    continue;
                }
                let (path, before) = self.files.get(name).ok_or_else(|| Error::NoSuchModule {
                    release: self.release.clone(),
                    module: name.clone(),
                })?;
                needed.push(Needed { name: name.clone(), path: path.clone(), before: before.clone() });
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
        ModuleGraph::parse("7.3.4", DEP, BUILTIN).unwrap()
    }

    fn names(needed: &[Needed]) -> Vec<&str> {
        needed.iter().map(|needed| needed.name.as_str()).collect()
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs_and_only_once() {
        let needed = graph().closure(["ext4", "btrfs", "ext4"]).unwrap();
        assert_eq!(names(&needed), ["jbd2", "mbcache", "crc16", "ext4", "xor", "raid6_pq", "btrfs"]);
        assert_eq!(needed[6].before, ["xor", "raid6_pq"]);
        assert_eq!(needed[6].path, "kernel/fs/btrfs/btrfs.ko.xz");
    }

    #[test]
    fn what_is_built_in_is_left_out_and_a_dash_is_an_underscore() {
        let needed = graph().closure(["virtio_pci", "virtio-console", "virtio_rng"]).unwrap();
        assert_eq!(names(&needed), ["virtio_rng"]);
    }

    #[test]
    fn a_module_that_the_kernel_does_not_have_is_named() {
        let error = graph().closure(["f2fs"]).unwrap_err().to_string();
        assert!(error.starts_with("kernel 7.3.4 has no module `f2fs`"), "{error}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = ModuleGraph::parse("7.3.4", "kernel/a.ko\n", "").unwrap_err().to_string();
        assert!(error.contains("line `kernel/a.ko` has no colon"), "{error}");
    }
}
