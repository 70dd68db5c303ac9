// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that a guest is made of, built where it is missing.

use anyhow::Context as _;
use longpin_images::{Initramfs, InitramfsSpec, Kernel, Module, Reporter, Store, ToolRoot, report};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The guest agent of this very source state; `build.rs` makes it.
const AGENT: &[u8] = include_bytes!(env!("LONGPIN_AGENT"));

/// A complete set, kept from removal as long as this lives.
pub struct Images {
    store: Store,
    /// Programs of the guest and QEMU.
    pub tool_root: Arc<ToolRoot>,
    /// Guest kernel.
    pub kernel: Kernel,
    /// Driver for that kernel.
    pub module: Module,
    /// What guests boot into, by the programs that they have beside the usual ones.
    initramfs: BTreeMap<BTreeSet<String>, Initramfs>,
}

impl Images {
    /// Take what is there, build the rest; an initramfs for each set of extra programs. Progress goes to standard
    /// error.
    pub fn ensure(programs: impl IntoIterator<Item = BTreeSet<String>>) -> anyhow::Result<Self> {
        let images = Self::with_kernel(Store::kernel, programs)?;
        images.keep()?;
        Ok(images)
    }

    /// The same without extra programs, with the newest kernel that the distribution has now. It is used by others only
    /// after [`Self::keep`].
    pub fn newest() -> anyhow::Result<Self> {
        Self::with_kernel(Store::refresh_kernel, [BTreeSet::new()])
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

    fn with_kernel(
        kernel: impl FnOnce(&Store, &ToolRoot, &dyn Reporter) -> longpin_images::Result<Kernel>,
        programs: impl IntoIterator<Item = BTreeSet<String>>,
    ) -> anyhow::Result<Self> {
        let store = Store::open_default().context("image store cannot be opened")?;
        let reporter = report::for_stderr();
        let tool_root = store.tool_root(&*reporter)?;
        let kernel = kernel(&store, &tool_root, &*reporter)?;
        let module = store.module(&tool_root, &kernel, None, &*reporter)?;
        let mut initramfs = BTreeMap::new();
        for programs in programs {
            let spec = InitramfsSpec {
                agent: AGENT.to_vec(),
                modules: vec![module.path().to_owned()],
                programs: programs.iter().cloned().collect(),
                ..InitramfsSpec::default()
            };
            initramfs.insert(programs, store.initramfs(&tool_root, &kernel, &spec, &*reporter)?);
        }
        Ok(Self { store, tool_root: Arc::new(tool_root), kernel, module, initramfs })
    }
}
