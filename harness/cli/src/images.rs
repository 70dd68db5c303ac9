// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that a guest is made of, built where it is missing.

use anyhow::Context as _;
use longpin_images::{Initramfs, InitramfsSpec, Kernel, Module, Reporter, Store, ToolRoot, report};
use std::sync::Arc;

/// The guest agent of this very source state; `build.rs` makes it.
const AGENT: &[u8] = include_bytes!(env!("LONGPIN_AGENT"));

/// A complete set, kept from removal as long as this lives.
pub struct Images {
    /// Programs of the guest and QEMU.
    pub tool_root: Arc<ToolRoot>,
    /// Guest kernel.
    pub kernel: Kernel,
    /// Driver for that kernel.
    pub module: Module,
    /// What the guest boots into.
    pub initramfs: Initramfs,
}

impl Images {
    /// Take what is there, build the rest. Progress goes to standard error.
    pub fn ensure() -> anyhow::Result<Self> {
        Self::with_kernel(Store::kernel)
    }

    /// The same, with the newest kernel that the distribution has now.
    pub fn refresh() -> anyhow::Result<Self> {
        Self::with_kernel(Store::refresh_kernel)
    }

    fn with_kernel(
        kernel: impl FnOnce(&Store, &ToolRoot, &dyn Reporter) -> longpin_images::Result<Kernel>,
    ) -> anyhow::Result<Self> {
        let store = Store::open_default().context("image store cannot be opened")?;
        let reporter = report::for_stderr();
        let tool_root = store.tool_root(&*reporter)?;
        let kernel = kernel(&store, &tool_root, &*reporter)?;
        let module = store.module(&tool_root, &kernel, None, &*reporter)?;
        let spec = InitramfsSpec {
            agent: AGENT.to_vec(),
            modules: vec![module.path().to_owned()],
            ..InitramfsSpec::default()
        };
        let initramfs = store.initramfs(&tool_root, &kernel, &spec, &*reporter)?;
        Ok(Self { tool_root: Arc::new(tool_root), kernel, module, initramfs })
    }
}
