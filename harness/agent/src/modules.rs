// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel modules by `/lib/longpin/modules`: one line each, `NAME PATH DEP...`, dependencies in load order. One that is
//! written `?DEP` may refuse to load: an algorithm for another CPU, say, beside one for all.
//!
//! The list is made with the initramfs, so the guest needs neither modprobe nor decompression. What the kernel has
//! built in is not in the list, but in `/lib/modules/RELEASE/modules.builtin`: /sys/module has only those of them that
//! have parameters.

use crate::error::{OrRefused, StepError, failed};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Where the initramfs keeps the list; relative paths in it begin here.
pub const LIST: &str = "/lib/longpin/modules";

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Module {
    name: String,
    path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dependency {
    name: String,
    may_refuse: bool,
}

/// The list, and names of what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    list: Vec<Module>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Read [`LIST`] and what is built in; without one there are no modules.
    pub fn read() -> Result<Self, StepError> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let builtin = text_of(&format!("/lib/modules/{release}/modules.builtin"))?;
        Self::parse(&text_of(LIST)?, LIST, &builtin)
    }

    fn parse(text: &str, file: &str, builtin: &str) -> Result<Self, StepError> {
        let base = Path::new(file).parent().unwrap_or(Path::new("/"));
        let mut modules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let Some(path) = words.next() else {
                return failed!("{file}:{}: module `{name}` has no path; use `NAME PATH DEP...`", index + 1);
            };
            let dependencies = words.map(|word| Dependency {
                name: canonical(word.trim_start_matches('?')),
                may_refuse: word.starts_with('?'),
            });
            let dependencies = dependencies.collect();
            modules.push(Module { name: canonical(name), path: base.join(path), dependencies });
        }
        // `kernel/drivers/scsi/sd_mod.ko`
        let name = |line: &str| Some(canonical(line.rsplit('/').next()?.strip_suffix(".ko")?));
        Ok(Self { list: modules, builtin: builtin.lines().filter_map(name).collect() })
    }

    /// Is it in the list?
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Load a module and what it needs; what is there already stays. Refused with the errno of finit_module(2).
    pub fn load(&self, name: &str, parameters: &str) -> Result<(), StepError> {
        let name = canonical(name);
        let Some(module) = self.find(&name) else {
            return match self.builtin.contains(&name) {
                true if parameters.is_empty() => Ok(()),
                true => failed!(
                    "module `{name}` is built into this kernel, so it takes no parameters any more; build it as a module"
                ),
                false if is_loaded(&name) => Ok(()),
                false => failed!("module `{name}` is not in {LIST}; add it to the initramfs"),
            };
        };
        for Dependency { name: dependency, may_refuse } in &module.dependencies {
            match self.find(dependency).map(|module| insert(module, "")) {
                Some(Err(StepError::Refused(_))) if *may_refuse => {}
                Some(inserted) => inserted?,
                None if self.builtin.contains(dependency) || is_loaded(dependency) => {}
                None => return failed!("module `{name}` needs `{dependency}`, which is not in {LIST}"),
            }
        }
        insert(module, parameters)
    }

    fn find(&self, name: &str) -> Option<&Module> {
        let name = canonical(name);
        self.list.iter().find(|module| module.name == name)
    }
}

/// A file that may be absent.
fn text_of(path: &str) -> Result<String, StepError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => text.or_failed(path),
    }
}

/// delete_module(2), without waiting for users to go. Refused with EAGAIN or EBUSY while there are some.
pub fn unload(name: &str) -> Result<(), StepError> {
    let Ok(name) = CString::new(canonical(name)) else { return failed!("module name contains a zero byte") };
    rustix::system::delete_module(&name, libc::O_NONBLOCK).or_refused("delete_module")
}

fn insert(module: &Module, parameters: &str) -> Result<(), StepError> {
    if is_loaded(&module.name) {
        return Ok(());
    }
    let Ok(parameters) = CString::new(parameters) else {
        return failed!("module parameters contain a zero byte");
    };
    let file = std::fs::File::open(&module.path).or_failed(&module.path.display().to_string())?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        // Loaded meanwhile; unless the file is another module than the list says.
        Err(rustix::io::Errno::EXIST) if is_loaded(&module.name) => Ok(()),
        other => other.or_refused(&format!("finit_module({})", module.name)),
    }
}

/// Loaded or built in.
fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// File names have `-` where the kernel says `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# made with the initramfs\nmbcache modules/mbcache.ko\next4 modules/ext4.ko mbcache ?crc32c-intel jbd2\n\nraid6-pq /x/raid6-pq.ko\n";

    #[test]
    fn lines_give_name_path_and_dependencies_in_order() {
        let modules = Modules::parse(TEXT, LIST, "").unwrap();
        let ext4 = modules.find("ext4").unwrap();
        assert_eq!(ext4.path, Path::new("/lib/longpin/modules/ext4.ko"));
        let dependency = |name: &str, may_refuse| Dependency { name: name.to_owned(), may_refuse };
        let expected =
            [dependency("mbcache", false), dependency("crc32c_intel", true), dependency("jbd2", false)];
        assert_eq!(ext4.dependencies, expected);
        assert_eq!(modules.find("raid6_pq").unwrap().path, Path::new("/x/raid6-pq.ko"));
        assert_eq!(modules.list.len(), 3);
    }

    #[test]
    fn a_line_without_a_path_names_its_place() {
        let Err(StepError::Failed(message)) = Modules::parse("a a.ko\nb\n", LIST, "") else {
            panic!("accepted")
        };
        assert!(message.starts_with("/lib/longpin/modules:2: module `b`"), "{message}");
    }

    #[test]
    fn an_unknown_module_or_dependency_is_named() {
        let modules = Modules::parse("m m.ko no_such_dependency\n", LIST, "").unwrap();
        let Err(StepError::Failed(message)) = modules.load("no-such-module", "") else { panic!("loaded") };
        assert!(message.contains("no_such_module"), "{message}");
        let Err(StepError::Failed(message)) = modules.load("m", "") else { panic!("loaded") };
        assert!(message.contains("needs `no_such_dependency`"), "{message}");
    }

    /// Most of what is built in has no directory in /sys/module.
    #[test]
    fn what_is_built_in_needs_no_loading_and_takes_no_parameters() {
        let builtin = "kernel/drivers/scsi/no-such-disk.ko\nkernel/drivers/scsi/other.ko\n";
        let modules = Modules::parse("m m.ko no_such_module\n", LIST, builtin).unwrap();
        assert_eq!(modules.load("no_such_disk", ""), Ok(()));
        let Err(StepError::Failed(message)) = modules.load("no-such-disk", "dif=1") else { panic!("loaded") };
        assert!(message.contains("`no_such_disk` is built into this kernel"), "{message}");
    }
}
