// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images of longpin: tool root, guest kernel, driver module, initramfs. Recipes are data in `images/recipes/`; results
//! are artifacts in a [`Store`], built once, named by the hash of everything that went in, complete or absent.
//!
//! ```no_run
//! use longpin_images::{Bind, InitramfsSpec, Store, report};
//!
//! let store = Store::open_default()?;
//! let reporter = report::for_stderr();
//! let root = store.tool_root(&*reporter)?;
//! let kernel = store.kernel(&root, &*reporter)?;
//! let module = store.module(&root, &kernel, None, &*reporter)?;
//! store.keep_kernel(&root, &kernel)?;
//! let agent = std::fs::read("longpin-agent").expect("the agent was built before");
//! let spec = InitramfsSpec { agent, modules: vec![module.path().to_owned()], ..InitramfsSpec::default() };
//! let initramfs = store.initramfs(&root, &kernel, &spec, &*reporter)?;
//! let mut qemu = root.command(
//!     "qemu-system-x86_64",
//!     &[Bind::read_only(kernel.vmlinuz()), Bind::read_only(initramfs.path()), Bind::read_write("/run/case")],
//! );
//! qemu.arg("-kernel").arg(kernel.vmlinuz()).arg("-initrd").arg(initramfs.path());
//! # Ok::<(), longpin_images::Error>(())
//! ```
//!
//! Order of the locks, where one build takes more than one: tool root, packages, kernel, module, initramfs.
#![deny(unsafe_code, missing_docs)]

mod archive;
mod archive_kernel;
mod artifact;
mod chosen;
mod deb_kernel;
mod diagnose;
mod durable;
mod error;
#[cfg(test)]
mod fake_archive;
mod initramfs;
mod job;
mod kconfig;
mod kernel;
mod kernel_build;
mod kernel_tree;
mod key;
mod lab_kernel;
mod lock;
mod manifest;
mod mirror;
mod module;
mod module_graph;
mod module_info;
mod overlay;
mod own_kernel;
mod packages;
mod recipe;
pub mod report;
mod sandbox;
mod source_files;
mod store;
mod tool_root;
mod tree;

pub use archive_kernel::ArchiveKernel;
pub use error::{Error, Result};
pub use initramfs::{ExtraFile, Initramfs, InitramfsSpec};
pub use kconfig::{KernelOption, Need, kernel_options};
pub use kernel::Kernel;
pub use kernel_tree::{KernelTree, config_difference};
pub use key::Key;
pub use lab_kernel::LabKernel;
pub use manifest::{ArtifactId, Kind, Manifest};
pub use module::Module;
pub use overlay::Overlay;
pub use own_kernel::OwnKernel;
pub use report::Reporter;
pub use sandbox::Bind;
pub use store::{Collected, Entry, State, Store};
pub use tool_root::ToolRoot;
