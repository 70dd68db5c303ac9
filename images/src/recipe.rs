// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The recipes, data files in `images/recipes/`, compiled in. Their text is part of the keys, comments included: a
//! rebuild too many is cheaper than a stale one.

use crate::error::{Error, Result};
use crate::kconfig::{KernelOption, Need};
use crate::key::Inputs;
use crate::mirror::Mirror;
use longpin_proto::filesystem::{self, FileSystem};
use serde::Deserialize;
use std::collections::BTreeMap;

const TOOL_ROOT: &str = include_str!("../recipes/tool-root.toml");
const KERNEL: &str = include_str!("../recipes/kernel.toml");
const INITRAMFS: &str = include_str!("../recipes/initramfs.toml");
const ARCHIVE: &str = include_str!("../recipes/archive.toml");
const LAB: &str = include_str!("../recipes/lab.toml");
/// Patches that the kernels of lab.toml name.
const PATCHES: [(&str, &str); 1] =
    [("lab-permissive.patch", include_str!("../recipes/lab-permissive.patch"))];
const KCONFIG: &str = include_str!("../recipes/kconfig.toml");
/// mmdebstrap's customize hook.
pub(crate) const BACKPORTS_HOOK: &str = include_str!("../recipes/backports-hook.sh");

/// `tool-root.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolRootRecipe {
    pub suite: String,
    pub backports: String,
    pub architecture: String,
    pub packages: Vec<String>,
    pub backports_packages: Vec<String>,
    pub dpkg_options: Vec<String>,
}

/// `kernel.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelRecipe {
    pub series: Vec<String>,
    pub snapshot: String,
    pub source: String,
    pub binary: String,
    pub modules: String,
    pub headers: String,
    pub base: String,
    pub flavour: String,
    pub overrides: Vec<String>,
    pub required: Vec<String>,
}

/// `archive.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveRecipe {
    pub suites: Vec<String>,
    pub architecture: String,
    pub image: String,
    pub parts: Vec<String>,
}

impl ArchiveRecipe {
    /// Text for the key of what a name means.
    pub(crate) fn text() -> &'static str {
        ARCHIVE
    }
}

/// `initramfs.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InitramfsRecipe {
    pub programs: Vec<String>,
    pub data: Vec<String>,
    pub busybox: String,
    pub applets: Vec<String>,
    pub modules: Vec<String>,
    pub indispensable: Vec<String>,
    pub with_parameters: Vec<String>,
    pub extras: BTreeMap<String, Extra>,
}

/// Programs that a guest has only when it is asked for them by the extra's name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extra {
    pub programs: Vec<String>,
}

/// `lab.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabRecipe {
    pub common: Vec<String>,
    pub kernel: Vec<LabKernelRecipe>,
}

/// One kernel of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabKernelRecipe {
    pub name: String,
    /// For people.
    pub about: String,
    #[serde(default)]
    pub clang: bool,
    pub patch: Option<String>,
    pub options: Vec<String>,
}

impl LabKernelRecipe {
    /// Text of its patch; empty without one.
    pub(crate) fn patch(&self) -> Result<&'static str> {
        let Some(name) = &self.patch else { return Ok("") };
        let known = PATCHES.iter().find(|(known, _)| known == name);
        known.map(|(_, text)| *text).ok_or_else(|| Error::Unreadable {
            what: "lab.toml".to_owned(),
            problem: format!("there is no patch `{name}`"),
            remedy: "this binary was built from a broken tree: build it again",
        })
    }
}

/// With the packages of the file systems.
pub(crate) fn tool_root() -> Result<ToolRootRecipe> {
    let mut recipe: ToolRootRecipe = parse("tool-root.toml", TOOL_ROOT)?;
    recipe.packages.extend(of_file_systems(|fs| fs.packages.to_vec()));
    Ok(recipe)
}

pub(crate) fn kernel() -> Result<KernelRecipe> {
    parse("kernel.toml", KERNEL)
}

/// With the programs of the file systems, and the modules of these.
pub(crate) fn initramfs() -> Result<InitramfsRecipe> {
    let mut recipe: InitramfsRecipe = parse("initramfs.toml", INITRAMFS)?;
    recipe.programs.extend(of_file_systems(FileSystem::programs));
    recipe.modules.extend(of_file_systems(|fs| fs.modules.to_vec()));
    Ok(recipe)
}

fn of_file_systems(words: fn(&'static FileSystem) -> Vec<&'static str>) -> impl Iterator<Item = String> {
    filesystem::ALL.iter().flat_map(words).map(str::to_owned)
}

pub(crate) fn archive() -> Result<ArchiveRecipe> {
    parse("archive.toml", ARCHIVE)
}

pub(crate) fn lab() -> Result<LabRecipe> {
    parse("lab.toml", LAB)
}

/// With the options of the file systems.
pub(crate) fn kconfig() -> Result<Vec<KernelOption>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Kconfig {
        option: Vec<KernelOption>,
    }
    let Kconfig { mut option } = parse("kconfig.toml", KCONFIG)?;
    for fs in filesystem::ALL.iter().filter(|fs| fs.device().is_some()) {
        let name = format!("{}_FS", fs.mounts().to_uppercase());
        if !option.iter().any(|known| known.name == name) {
            let why = format!("cases on {}", fs.name);
            option.push(KernelOption {
                name,
                formerly: None,
                need: Need::Library,
                value: "y".to_owned(),
                module: true,
                why,
            });
        }
    }
    Ok(option)
}

fn parse<T: for<'de> Deserialize<'de>>(name: &'static str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| Error::Recipe { name, message: error.to_string() })
}

impl ToolRootRecipe {
    /// What the root's key covers. Counted up with the format: what `tool_root.rs` makes of the recipe.
    pub(crate) fn inputs(&self, mirror: &Mirror) -> Inputs {
        let mut inputs = Inputs::new(1);
        inputs.bytes("recipe", TOOL_ROOT.as_bytes()).bytes("hook", BACKPORTS_HOOK.as_bytes());
        inputs.value("packages", &self.packages.join(" "));
        inputs.value("mirror", &mirror.label());
        inputs
    }
}

impl KernelRecipe {
    /// Text for the key of the package lists and of what is chosen from them.
    pub(crate) fn text() -> &'static str {
        KERNEL
    }

    /// What it has a say in of a kernel whose packages are chosen. The rest of it decides which are: a new series in the
    /// list makes no finished kernel another one.
    pub(crate) fn add_to(&self, inputs: &mut Inputs) {
        inputs.value("overrides", &self.overrides.join("\n")).value("required", &self.required.join("\n"));
    }

    /// Names of the source packages that the driver builds on.
    pub(crate) fn sources(&self) -> impl Iterator<Item = String> {
        self.series.iter().map(|series| self.source.replace("{series}", series))
    }
}

impl InitramfsRecipe {
    /// Text for the key.
    pub(crate) fn text() -> &'static str {
        INITRAMFS
    }

    /// Errors: `NoSuchExtra`.
    pub(crate) fn extra(&self, name: &str) -> Result<&Extra> {
        self.extras.get(name).ok_or_else(|| {
            let known: Vec<_> = self.extras.keys().map(String::as_str).collect();
            Error::NoSuchExtra { name: name.to_owned(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_valid() {
        let root = tool_root().unwrap();
        let initramfs = initramfs().unwrap();
        assert_eq!(archive().unwrap().architecture, root.architecture);
        assert!(kernel().unwrap().required.contains(&"CONFIG_RUST=y".to_owned()));
        assert!(
            ["rustc", "f2fs-tools"].iter().all(|name| root.packages.iter().any(|package| package == name))
        );
        assert!(initramfs.modules.iter().any(|module| module == "f2fs"));
        let extras = initramfs.extras.values().flat_map(|extra| &extra.programs);
        let special = initramfs.indispensable.iter().chain(&initramfs.with_parameters);
        assert!(special.into_iter().all(|name| initramfs.modules.contains(name)));
        assert!(initramfs.programs.iter().chain(extras).all(|path| path.starts_with('/')));
    }

    #[test]
    fn an_extra_that_is_not_there_is_named_with_those_that_are() {
        let recipe = initramfs().unwrap();
        assert_eq!(recipe.extra("fio").unwrap().programs, ["/usr/bin/fio"]);
        let error = recipe.extra("emacs").unwrap_err().to_string();
        assert!(
            error.starts_with("the guest has no program `emacs` on demand; there are: chrt, "),
            "{error}"
        );
    }

    #[test]
    fn the_mirror_is_part_of_the_root_s_key() {
        let recipe = tool_root().unwrap();
        let key = |mirror: Option<&str>| {
            let given = |name: &str| mirror.filter(|_| name == "LONGPIN_MIRROR").map(str::to_owned);
            recipe.inputs(&Mirror::from_variables(given).unwrap())
        };
        let keys = [None, Some("m"), Some("n")].map(|mirror| key(mirror).key());
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
        let recorded = key(Some("https://me:secret@m/debian"));
        assert_eq!(recorded.recorded()["mirror"], "https://m/debian");
    }

    #[test]
    fn no_recipe_names_a_server() {
        for text in [TOOL_ROOT, KERNEL, INITRAMFS, ARCHIVE, KCONFIG, BACKPORTS_HOOK] {
            assert!(!text.contains("://"), "a recipe names a server");
        }
    }
}
