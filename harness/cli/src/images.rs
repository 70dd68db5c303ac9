// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that a guest is made of, built where it is missing.

use crate::error::{Error, Result};
use crate::kernel_choice::KernelChoice;
use crate::module_choice::ModuleChoice;
use anyhow::Context as _;
use longpin_core::machine::Lacks;
use longpin_images::{
    ExtraFile, Initramfs, InitramfsSpec, Kernel, KernelTree, Module, Overlay, Reporter, Store, ToolRoot,
    report,
};
use longpin_proto::pinner::GUEST_PATH;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The guest agent of this very source state; `build.rs` makes it.
const AGENT: &[u8] = include_bytes!(env!("LONGPIN_AGENT"));

/// The driver for a kernel.
pub enum Driver {
    /// Its module.
    Module(Box<Module>),
    /// There is none, and why, with the remedy. Cases that need it are skipped.
    Missing(String),
}

/// What the user brings into a guest beside a kernel.
#[derive(Default)]
pub struct Brought {
    /// A tree for its root.
    pub overlay: Option<Overlay>,
    /// In the place of our driver.
    pub driver: Option<ModuleChoice>,
    /// Beside it.
    pub modules: Vec<ModuleChoice>,
    /// A program that pins.
    pub pinner: Option<Pinner>,
}

/// A program of the user's that pins, as it was read.
pub struct Pinner {
    /// File on the host.
    pub path: PathBuf,
    content: Vec<u8>,
}

impl Pinner {
    /// Errors: `Usage` if it is no program.
    pub fn read(path: &Path) -> Result<Self> {
        let unusable = |problem: String| Error::Usage(format!("--pinner {}: {problem}", path.display()));
        let about = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
        if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
            return Err(unusable("it is no file that may be executed".into()));
        }
        let content = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// BLAKE3 of the file, hex.
    pub fn hash(&self) -> String {
        blake3::hash(&self.content).to_hex().to_string()
    }

    fn file(&self) -> ExtraFile {
        ExtraFile { path: GUEST_PATH.to_owned(), permissions: 0o755, content: self.content.clone() }
    }
}

/// A module as it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Name in the guest's list.
    pub name: String,
    /// As for finit_module(2).
    pub params: String,
}

/// A complete set, kept from removal as long as this lives.
pub struct Images {
    store: Store,
    /// Programs of the guest and QEMU.
    pub tool_root: Arc<ToolRoot>,
    /// Guest kernel.
    pub kernel: Kernel,
    /// Driver for that kernel.
    pub driver: Driver,
    /// What the user brought.
    pub brought: Brought,
    /// Modules that every guest loads, in order: those of the user, then the driver.
    pub loads: Vec<Load>,
    /// What guests boot into, by the programs that they have beside the usual ones.
    initramfs: BTreeMap<BTreeSet<String>, Initramfs>,
}

impl Images {
    /// Take what is there, build the rest; an initramfs for each set of extra programs. Progress goes to standard
    /// error. `anew`: a name of the archive is looked up again.
    ///
    /// Errors: `Usage` if something that the user names cannot be used.
    pub fn ensure(
        kernel: &KernelChoice,
        brought: Brought,
        anew: bool,
        programs: impl IntoIterator<Item = BTreeSet<String>>,
    ) -> Result<Self> {
        if let (KernelChoice::Own { module: Some(_), .. }, Some(_)) = (kernel, &brought.driver) {
            return Err(Error::Usage(
                "two drivers are named, by --driver and by module= of --kernel; leave one out".into(),
            ));
        }
        match kernel {
            KernelChoice::Stock => {
                let images = Self::stock(Store::kernel, brought, programs)?;
                images.keep()?;
                Ok(images)
            }
            KernelChoice::Own { kernel, module } => {
                let base = Base::open()?;
                let kernel = base
                    .store
                    .own_kernel(&base.tool_root, kernel, anew, &*base.reporter)
                    .map_err(unusable)?;
                let driver = match (module, &brought.driver) {
                    (Some(path), _) => {
                        Driver::Module(Box::new(Module::prebuilt(path, &kernel).map_err(unusable)?))
                    }
                    (None, Some(choice)) => brought_driver(choice, &kernel)?,
                    (None, None) => base.own_driver(&kernel)?,
                };
                base.finish(kernel, driver, brought, programs)
            }
        }
    }

    /// The same without extra programs, with the newest kernel that the distribution has now. It is used by others only
    /// after [`Self::keep`].
    pub fn newest() -> anyhow::Result<Self> {
        match Self::stock(Store::refresh_kernel, Brought::default(), [BTreeSet::new()]) {
            Ok(images) => Ok(images),
            Err(Error::Infra(error)) => Err(error),
            Err(error) => Err(error.into()),
        }
    }

    /// This kernel works: it is the one to use from now on.
    pub fn keep(&self) -> anyhow::Result<()> {
        let kept = self.store.keep_kernel(&self.tool_root, &self.kernel);
        kept.context("the choice of the kernel cannot be recorded")
    }

    /// What a guest with these extra programs boots into.
    ///
    /// Errors: [`Self::ensure`] was not told of them.
    pub fn initramfs(&self, programs: &BTreeSet<String>) -> anyhow::Result<&Initramfs> {
        self.initramfs.get(programs).with_context(|| format!("no initramfs was made with {programs:?}"))
    }

    /// What cases must do without.
    pub fn lacks(&self) -> Lacks {
        let driver = match &self.driver {
            Driver::Module(_) => None,
            Driver::Missing(why) => Some(why.clone()),
        };
        let modules = self.initramfs.values().flat_map(Initramfs::absent_modules).collect();
        Lacks { driver, pinner: self.brought.pinner.is_none(), modules }
    }

    /// Builds the modules of a directory for the kernel, in place.
    pub fn build_modules(&self, dir: &Path, include: &Path) -> longpin_images::Result<Vec<PathBuf>> {
        self.store.build_modules(&self.tool_root, &self.kernel, dir, include, &*report::for_stderr())
    }

    fn stock(
        kernel: impl FnOnce(&Store, &ToolRoot, &dyn Reporter) -> longpin_images::Result<Kernel>,
        brought: Brought,
        programs: impl IntoIterator<Item = BTreeSet<String>>,
    ) -> Result<Self> {
        let base = Base::open()?;
        let kernel = kernel(&base.store, &base.tool_root, &*base.reporter).map_err(infra)?;
        let driver = match &brought.driver {
            Some(choice) => brought_driver(choice, &kernel)?,
            None => {
                let module = base.store.module(&base.tool_root, &kernel, None, &*base.reporter);
                Driver::Module(Box::new(module.map_err(infra)?))
            }
        };
        base.finish(kernel, driver, brought, programs)
    }
}

/// Configure and build a kernel's source tree, in place; `configured` sees its configuration before anything is compiled.
///
/// Errors: there is no tool root, or `configured` has one; within it what make says.
pub fn build_kernel(
    dir: &Path,
    base: Option<&str>,
    log: &Path,
    configured: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<longpin_images::Result<()>> {
    let Base { reporter, tool_root, .. } = Base::open()?;
    let mut tree = match KernelTree::open(&tool_root, dir, log) {
        Ok(tree) => tree,
        Err(error) => return Ok(Err(error)),
    };
    let config = match tree.configure(base, &*reporter) {
        Ok(config) => config,
        Err(error) => return Ok(Err(error)),
    };
    configured(&config)?;
    Ok(tree.build(&config, &*reporter))
}

/// What every kernel is made ready with.
struct Base {
    store: Store,
    reporter: Box<dyn Reporter>,
    tool_root: ToolRoot,
}

impl Base {
    fn open() -> anyhow::Result<Self> {
        let store = Store::open_default().context("image store cannot be opened")?;
        let reporter = report::for_stderr();
        let tool_root = store.tool_root(&*reporter)?;
        Ok(Self { store, reporter, tool_root })
    }

    /// A kernel without Rust, or one that the driver does not compile for, is a kernel all the same.
    fn own_driver(&self, kernel: &Kernel) -> Result<Driver> {
        use longpin_images::Error as Image;
        let release = kernel.release();
        match self.store.module(&self.tool_root, kernel, None, &*self.reporter) {
            Ok(module) => Ok(Driver::Module(Box::new(module))),
            Err(Image::UnfitKernel { problem, remedy, .. }) => {
                Ok(Driver::Missing(format!("there is none for kernel {release}: {problem}; {remedy}")))
            }
            Err(Image::CommandFailed { log, tail, .. }) => Ok(Driver::Missing(format!(
                "there is none for kernel {release}: it does not build for it ({}; the whole output is in {}); name a \
                 longpin.ko that was built for it (module=FILE)",
                tail.lines().next().unwrap_or("the compiler said nothing").trim(),
                log.display()
            ))),
            Err(error) => Err(Error::Infra(error.into())),
        }
    }

    fn finish(
        self,
        kernel: Kernel,
        driver: Driver,
        brought: Brought,
        programs: impl IntoIterator<Item = BTreeSet<String>>,
    ) -> Result<Images> {
        let Self { store, reporter, tool_root } = self;
        let (mut files, mut loads) = (Vec::new(), Vec::new());
        for choice in &brought.modules {
            let module = brought_module("--module", choice, &kernel)?;
            loads.push(Load { name: module.name(), params: choice.params.join(" ") });
            files.push(module.path().to_owned());
        }
        if let Driver::Module(module) = &driver {
            let params = brought.driver.as_ref().map(|choice| choice.params.join(" ")).unwrap_or_default();
            loads.push(Load { name: module.name(), params });
            files.push(module.path().to_owned());
        }
        let names: Vec<&String> = loads.iter().map(|load| &load.name).collect();
        if let Some(name) =
            names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name))
        {
            return Err(Error::Usage(format!(
                "--module: two modules are named `{name}`; name another one, or give it with --driver if it is to be the driver"
            )));
        }
        let finished = |error| match error {
            // What the kernel lacks shows when its modules are looked for.
            longpin_images::Error::NoSuchModule { .. }
                if !brought.modules.is_empty() || brought.driver.is_some() =>
            {
                Error::Usage(format!(
                    "--module, --driver: {error}; of two modules name the one first that the other needs"
                ))
            }
            longpin_images::Error::NoSuchModule { .. } if kernel.is_brought() => unusable(error),
            longpin_images::Error::UnfitOverlay { .. } => Error::Usage(error.to_string()),
            error => infra(error),
        };
        let mut initramfs = BTreeMap::new();
        for programs in programs {
            let spec = InitramfsSpec {
                agent: AGENT.to_vec(),
                modules: files.clone(),
                programs: programs.iter().cloned().collect(),
                overlay: brought.overlay.clone(),
                files: brought.pinner.iter().map(Pinner::file).collect(),
                ..InitramfsSpec::default()
            };
            let made = store.initramfs(&tool_root, &kernel, &spec, &*reporter).map_err(finished)?;
            initramfs.insert(programs, made);
        }
        Ok(Images { store, tool_root: Arc::new(tool_root), kernel, driver, brought, loads, initramfs })
    }
}

fn infra(error: longpin_images::Error) -> Error {
    Error::Infra(error.into())
}

fn brought_driver(choice: &ModuleChoice, kernel: &Kernel) -> Result<Driver> {
    Ok(Driver::Module(Box::new(brought_module("--driver", choice, kernel)?)))
}

fn brought_module(option: &str, choice: &ModuleChoice, kernel: &Kernel) -> Result<Module> {
    let module = Module::prebuilt(&choice.path, kernel);
    let checked = module.and_then(|module| module.check_params(&choice.params).map(|()| module));
    checked.map_err(|error| Error::Usage(format!("{option}: {error}")))
}

/// The user named it, so it is the user's to change.
fn unusable(error: longpin_images::Error) -> Error {
    Error::Usage(format!("--kernel: {error}"))
}
