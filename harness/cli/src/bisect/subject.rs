// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is bisected, and how the source of a commit becomes something that guests load or boot.

use super::build;
use crate::args::MachineArgs;
use crate::error::{Error, Result};
use crate::kernel_choice::KernelChoice;
use crate::module_choice::ModuleChoice;
use anyhow::Context as _;
use longpin_core::bisect::Try;
use longpin_images::OwnKernel;
use std::fs;
use std::path::{Path, PathBuf};

/// The configuration that each step begins with, in the directory of results.
const BASE: &str = "base.config";

/// What has the history.
#[derive(Debug)]
pub enum Subject<'a> {
    /// A driver: the kernel is the same for all commits.
    Module {
        /// Which module of those that it makes, and its parameters.
        name: Option<&'a ModuleChoice>,
    },
    /// The guest's kernel.
    Kernel {
        /// The user's own configuration; none: a small one.
        config: Option<&'a Path>,
    },
}

impl<'a> Subject<'a> {
    /// By what the arguments say, and the directory that has it. `option` names the one of a driver.
    pub fn of(
        option: &'static str,
        module: Option<&'a Path>,
        name: Option<&'a ModuleChoice>,
        config: Option<&'a Path>,
        machine: &'a MachineArgs,
    ) -> Result<(Self, &'static str, &'a Path)> {
        let usage = |why: String| Err(Error::Usage(why));
        match (module, &machine.kernel) {
            (Some(_), _) if machine.own.driver.is_some() => {
                usage(format!("--driver: the driver is what {option} makes; leave it out"))
            }
            (Some(_), _) if config.is_some() => {
                usage(format!("--config: it is for the history of a kernel, without {option}"))
            }
            (Some(dir), _) => Ok((Self::Module { name }, option, dir)),
            (None, _) if name.is_some() => {
                usage(format!("--module-name: it is for the history of a driver, with {option}"))
            }
            (None, KernelChoice::Own { kernel: OwnKernel::BuildDir(dir), module: None }) => {
                Ok((Self::Kernel { config }, "--kernel", dir))
            }
            (None, KernelChoice::Own { kernel: OwnKernel::BuildDir(_), .. }) => usage(
                "--kernel: one module (module=) does not fit the kernels of a history; leave it out".into(),
            ),
            (None, _) => usage(format!(
                "nothing that has a history: name the directory of a driver ({option} DIR), or of a kernel's source \
                 (--kernel DIR)"
            )),
        }
    }

    /// Is the kernel that of the commit?
    pub fn is_kernel(&self) -> bool {
        matches!(self, Self::Kernel { .. })
    }

    /// Build what is checked out in `source`; the machine with it, or why there is none. `out` is the directory of all
    /// results, `dir` that of the step.
    pub fn make(
        &self,
        machine: &MachineArgs,
        source: &Path,
        out: &Path,
        dir: &Path,
    ) -> Result<std::result::Result<MachineArgs, Try>> {
        let mut machine = machine.clone();
        match self {
            Self::Module { name } => {
                let wanted = name.map(|module| module.path.as_path());
                let path = match build::module(&machine.kernel, source, wanted, dir)? {
                    Ok(path) => path,
                    Err(one) => return Ok(Err(one)),
                };
                let params = name.map(|module| module.params.clone()).unwrap_or_default();
                machine.own.driver = Some(ModuleChoice { path, params });
            }
            Self::Kernel { config } => {
                let base = base(*config, source, out)?;
                if let Some(one) = build::kernel(source, base.as_deref(), out, dir)? {
                    return Ok(Err(one));
                }
                machine.kernel =
                    KernelChoice::Own { kernel: OwnKernel::BuildDir(source.to_owned()), module: None };
            }
        }
        Ok(Ok(machine))
    }

    /// What later steps must not find changed is kept before the first.
    pub fn keep(&self, user: &Path, out: &Path) -> Result<()> {
        match self {
            Self::Kernel { config } => base(*config, user, out).map(drop),
            Self::Module { .. } => Ok(()),
        }
    }
}

/// The configuration that the first step was given: `make olddefconfig` changes the tree's own from commit to commit.
fn base(config: Option<&Path>, tree: &Path, out: &Path) -> Result<Option<String>> {
    let kept = out.join(BASE);
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if let Ok(text) = read(&kept) {
        return Ok(Some(text).filter(|text| !text.is_empty()));
    }
    let text = match config {
        Some(path) => {
            read(path).map_err(|error| Error::Usage(format!("--config {}: {error}", path.display())))?
        }
        None => read(&tree.join(".config")).unwrap_or_default(),
    };
    if config.is_some() && !text.lines().any(|line| line.starts_with("CONFIG_")) {
        return Err(Error::Usage(format!(
            "--config {}: it sets no option; give the .config of a kernel",
            config.unwrap_or(tree).display()
        )));
    }
    let partial: PathBuf = out.join(format!("{BASE}.partial"));
    let keep = fs::write(&partial, &text).and_then(|()| fs::rename(&partial, &kept));
    keep.with_context(|| format!("{} cannot be written", kept.display()))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_history_must_be_named_once() {
        let machine = MachineArgs::usual();
        let why = |module, name, config, machine: &MachineArgs| {
            Subject::of("--module-only", module, name, config, machine).unwrap_err().to_string()
        };
        let path = Some(Path::new("d"));
        let name = ModuleChoice { path: "m".into(), params: Vec::new() };
        assert!(why(None, None, None, &machine).contains("--module-only DIR"));
        assert!(why(path, None, path, &machine).starts_with("--config: "));
        assert!(why(None, Some(&name), None, &machine).starts_with("--module-name: "));
        let mut driver = machine.clone();
        driver.own.driver = Some(name.clone());
        assert!(why(path, None, None, &driver).contains("leave it out"));
        let kernel = |text: &str| MachineArgs {
            kernel: KernelChoice::parse(text.as_ref()).unwrap(),
            ..MachineArgs::usual()
        };
        assert!(why(None, None, None, &kernel("debian:6.1")).contains("--kernel DIR"));
        assert!(why(None, None, None, &kernel("linux,module=a.ko")).contains("leave it out"));
        let linux = kernel("linux");
        let (subject, option, dir) = Subject::of("--module-only", None, None, None, &linux).unwrap();
        assert!(subject.is_kernel() && option == "--kernel" && dir == Path::new("linux"));
        let (subject, option, dir) = Subject::of("--module-only", path, Some(&name), None, &linux).unwrap();
        assert!(!subject.is_kernel() && option == "--module-only" && dir == Path::new("d"));
    }

    #[test]
    fn each_step_begins_with_the_configuration_of_the_first() {
        let (tree, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dotconfig = tree.path().join(".config");
        fs::write(&dotconfig, "CONFIG_A=y\n").unwrap();
        assert_eq!(base(None, tree.path(), out.path()).unwrap().as_deref(), Some("CONFIG_A=y\n"));
        fs::write(&dotconfig, "CONFIG_A=m\n").unwrap();
        assert_eq!(base(None, tree.path(), out.path()).unwrap().as_deref(), Some("CONFIG_A=y\n"));
        // A small one, and it stays so when the tree has one of its own.
        let other = tempfile::tempdir().unwrap();
        assert_eq!(base(None, other.path(), other.path()).unwrap(), None);
        fs::write(other.path().join(".config"), "CONFIG_A=m\n").unwrap();
        assert_eq!(base(None, other.path(), other.path()).unwrap(), None);
        let third = tempfile::tempdir().unwrap();
        fs::write(&dotconfig, "nonsense\n").unwrap();
        let error = base(Some(&dotconfig), tree.path(), third.path()).unwrap_err().to_string();
        assert!(error.contains("it sets no option"), "{error}");
    }
}
