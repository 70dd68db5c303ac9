// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is bisected, and how the source of a commit becomes something that guests load or boot.

use super::build;
use crate::args::{BisectionArgs, MachineArgs};
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
    /// The accelerator's daemon: guest and driver are the same for all commits.
    Device {
        /// What makes it.
        build: &'a str,
        /// Where it lies then, below its directory.
        made: &'a Path,
    },
    /// The guest's kernel.
    Kernel {
        /// The user's own configuration; none: a small one.
        config: Option<&'a Path>,
    },
}

/// Directories that a command names, with the options that do so.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// A driver's.
    pub module: (&'static str, Option<&'a Path>),
    /// A device's.
    pub device: (&'static str, Option<&'a Path>),
}

impl<'a> Subject<'a> {
    /// By what the arguments say, and the directory that has it, with the option that names it.
    pub fn of(named: Named<'a>, common: &'a BisectionArgs) -> Result<(Self, &'static str, &'a Path)> {
        let usage = |why: String| Err(Error::Usage(why));
        let BisectionArgs { machine, module_name, device_made, device_build, config, .. } = common;
        let Named { module: (module_option, module), device: (device_option, device) } = named;
        // What is of no use without the directory that it is about.
        for (option, given, directory, wanted) in [
            ("--module-name", module_name.is_some(), module, module_option),
            ("--device-made", device_made.is_some(), device, device_option),
            ("--device-build", device_build.is_some(), device, device_option),
        ] {
            if given && directory.is_none() {
                return usage(format!("{option}: it goes with {wanted} DIR"));
            }
        }
        if let Some(option) = module.map(|_| module_option).or(device.map(|_| device_option))
            && config.is_some()
        {
            return usage(format!("--config: it is for the history of a kernel, without {option}"));
        }
        match (module, device, &machine.kernel) {
            (Some(_), _, _) if machine.own.driver.is_some() => {
                usage(format!("--driver: the driver is what {module_option} makes; leave it out"))
            }
            (Some(dir), _, _) => Ok((Self::Module { name: module_name.as_ref() }, module_option, dir)),
            (None, Some(_), _) if machine.own.device_program.is_some() => usage(format!(
                "--device-program, LONGPIN_DEVICE: the device is what {device_option} makes; leave both out"
            )),
            (None, Some(dir), _) => match device_made {
                Some(made) if made.is_relative() => {
                    let build = device_build.as_deref().unwrap_or("make");
                    Ok((Self::Device { build, made }, device_option, dir))
                }
                Some(made) => usage(format!(
                    "--device-made {}: give the path below {device_option}, as target/release/daemon",
                    made.display()
                )),
                None => usage(format!(
                    "--device-made: say what the build makes in {device_option}, as --device-made target/release/daemon"
                )),
            },
            (None, None, KernelChoice::Own { kernel: OwnKernel::BuildDir(dir), module: None }) => {
                Ok((Self::Kernel { config: config.as_deref() }, "--kernel", dir))
            }
            (None, None, KernelChoice::Own { kernel: OwnKernel::BuildDir(_), .. }) => usage(
                "--kernel: one module (module=) does not fit the kernels of a history; leave it out".into(),
            ),
            (None, None, _) => usage(format!(
                "nothing that has a history: name the directory of a driver ({module_option} DIR), of a device \
                 ({device_option} DIR), or of a kernel's source (--kernel DIR)"
            )),
        }
    }

    /// Does nothing change in the guest but the driver? Then a guest that says nothing at all is no commit's fault.
    pub fn is_module(&self) -> bool {
        matches!(self, Self::Module { .. })
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
            Self::Device { build, made } => match build::device(source, build, made, dir)? {
                Ok(path) => machine.own.device_program = Some(path),
                Err(one) => return Ok(Err(one)),
            },
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
            Self::Module { .. } | Self::Device { .. } => Ok(()),
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
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    /// By the words of a command line.
    fn subject(words: &[&str]) -> std::result::Result<(String, &'static str, PathBuf), String> {
        let line = ["longpin", "bisect-step", "case", "--bad-is", "lost"].iter().chain(words);
        let Command::BisectStep(args) = Cli::parse_from(line).command else {
            panic!("another command");
        };
        let named = Named {
            module: ("--module-dir", args.module_dir.as_deref()),
            device: ("--device-dir", args.device_dir.as_deref()),
        };
        let of = Subject::of(named, &args.common);
        of.map(|(subject, option, dir)| (format!("{subject:?}"), option, dir.to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_has_the_history_must_be_named_once() {
        for (words, expected) in [
            (&["--kernel", "debian:6.1"][..], "--module-dir DIR"),
            (&["--kernel", "debian:6.1"], "--kernel DIR"),
            (&["--kernel", "debian:6.1"], "--device-dir DIR"),
            (&["--module-dir", "d", "--config", "c"], "--config: "),
            (&["--device-dir", "d", "--device-made", "m", "--config", "c"], "--config: "),
            (&["--module-name", "m"], "--module-name: it goes with --module-dir DIR"),
            (&["--device-made", "m"], "--device-made: it goes with --device-dir DIR"),
            (&["--device-build", "m"], "--device-build: it goes with --device-dir DIR"),
            (&["--module-dir", "d", "--driver", "m.ko"], "leave it out"),
            (&["--device-dir", "d", "--device-made", "m", "--device-program", "p"], "leave both out"),
            (&["--device-dir", "d"], "--device-made target/release/daemon"),
            (&["--device-dir", "d", "--device-made", "/bin/sh"], "give the path below --device-dir"),
            (&["--kernel", "linux,module=a.ko"], "leave it out"),
        ] {
            let why = subject(words).unwrap_err();
            assert!(why.contains(expected), "{words:?}: {why}");
        }
        let (what, option, dir) = subject(&["--kernel", "linux"]).unwrap();
        assert!(what.starts_with("Kernel") && option == "--kernel" && dir == Path::new("linux"), "{what}");
        let (what, option, dir) = subject(&["--kernel", "linux", "--module-dir", "d"]).unwrap();
        assert!(what.starts_with("Module") && option == "--module-dir" && dir == Path::new("d"), "{what}");
        let (what, option, dir) = subject(&["--device-dir", "d", "--device-made", "m/p"]).unwrap();
        assert_eq!(what, "Device { build: \"make\", made: \"m/p\" }");
        assert!(option == "--device-dir" && dir == Path::new("d"));
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
