// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that a guest is made of, built where it is missing.

use crate::error::{Error, Result};
use crate::kernel_choice::KernelChoice;
use anyhow::Context as _;
use longpin_core::machine::Lacks;
use longpin_images::{Initramfs, InitramfsSpec, Kernel, Module, Overlay, Reporter, Store, ToolRoot, report};
use std::collections::{BTreeMap, BTreeSet};
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
                let driver = match module {
                    Some(path) => {
                        Driver::Module(Box::new(Module::prebuilt(path, &kernel).map_err(unusable)?))
                    }
                    None => base.own_driver(&kernel)?,
                };
                base.finish(kernel, driver, brought, programs).map_err(|error| match error {
                    // What the kernel lacks shows when its modules are looked for.
                    longpin_images::Error::NoSuchModule { .. } => unusable(error),
                    error => unfinished(error),
                })
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
        Lacks { driver, modules }
    }

    fn stock(
        kernel: impl FnOnce(&Store, &ToolRoot, &dyn Reporter) -> longpin_images::Result<Kernel>,
        brought: Brought,
        programs: impl IntoIterator<Item = BTreeSet<String>>,
    ) -> Result<Self> {
        let base = Base::open()?;
        let kernel = kernel(&base.store, &base.tool_root, &*base.reporter).map_err(infra)?;
        let module = base.store.module(&base.tool_root, &kernel, None, &*base.reporter).map_err(infra)?;
        base.finish(kernel, Driver::Module(Box::new(module)), brought, programs).map_err(unfinished)
    }
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

    /// A kernel without Rust, or with another Rust API than the driver's, is a kernel all the same.
    fn own_driver(&self, kernel: &Kernel) -> Result<Driver> {
        use longpin_images::Error as Image;
        let release = kernel.release();
        match self.store.module(&self.tool_root, kernel, None, &*self.reporter) {
            Ok(module) => Ok(Driver::Module(Box::new(module))),
            Err(Image::UnfitKernel { problem, remedy, .. }) => {
                Ok(Driver::Missing(format!("there is none for kernel {release}: {problem}; {remedy}")))
            }
            Err(Image::CommandFailed { log, .. }) => Ok(Driver::Missing(format!(
                "there is none for kernel {release}: it does not build, since its Rust interfaces are not those of \
                 the stock kernel (the compiler's words are in {}); name a longpin.ko that was built for it (module=FILE)",
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
    ) -> longpin_images::Result<Images> {
        let Self { store, reporter, tool_root } = self;
        let module = match &driver {
            Driver::Module(module) => Some(module.path().to_owned()),
            Driver::Missing(_) => None,
        };
        let mut initramfs = BTreeMap::new();
        for programs in programs {
            let spec = InitramfsSpec {
                agent: AGENT.to_vec(),
                modules: module.iter().cloned().collect(),
                programs: programs.iter().cloned().collect(),
                overlay: brought.overlay.clone(),
                ..InitramfsSpec::default()
            };
            initramfs.insert(programs, store.initramfs(&tool_root, &kernel, &spec, &*reporter)?);
        }
        Ok(Images { store, tool_root: Arc::new(tool_root), kernel, driver, brought, initramfs })
    }
}

fn infra(error: longpin_images::Error) -> Error {
    Error::Infra(error.into())
}

/// What the user added may not go together with what the guest has.
fn unfinished(error: longpin_images::Error) -> Error {
    match error {
        longpin_images::Error::UnfitOverlay { .. } => Error::Usage(error.to_string()),
        error => infra(error),
    }
}

/// The user named it, so it is the user's to change.
fn unusable(error: longpin_images::Error) -> Error {
    Error::Usage(format!("--kernel: {error}"))
}
