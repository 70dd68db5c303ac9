// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest kernels: the distribution's own, from the store, or one that a user brings. What the rest needs of a kernel is
//! in [`Kernel`]; how Debian's is prepared is in `kernel_build`, how a user's is checked in `own_kernel`.

use crate::artifact::{Artifact, Plan};
use crate::chosen::Chosen;
use crate::error::Result;
use crate::kernel_build;
use crate::key::{Inputs, Key};
use crate::manifest::{ArtifactId, Kind, Manifest};
use crate::packages::Choice;
use crate::recipe::{self, KernelRecipe};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Series of the distribution's kernels in the store.
pub(crate) const SERIES: &str = "debian";
/// A list that is older may name packages that the mirror has replaced; a finished kernel needs no list at all.
pub(crate) const LISTS_MAX_AGE: Duration = Duration::from_secs(3600);
/// Copy of the configuration in the artifact of a kernel that a user brings.
pub(crate) const CONFIG: &str = "config";
/// Where a prepared source tree is seen inside the tool root: always the same, since it writes its own path into its
/// files while it is built under one name and is used under another.
pub(crate) const INSIDE: &str = "/longpin/linux";

/// A guest kernel, kept from removal as long as this lives.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) artifact: Artifact,
    pub(crate) release: String,
    /// Its packages; none for a user's own.
    pub(crate) choice: Option<Choice>,
    pub(crate) vmlinuz: PathBuf,
    /// Source and metadata that modules build against, and where it is seen inside the tool root.
    pub(crate) build_dir: Option<(PathBuf, PathBuf)>,
}

impl Kernel {
    /// As `uname -r` will say it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The image that QEMU boots.
    pub fn vmlinuz(&self) -> &Path {
        &self.vmlinuz
    }

    /// The directory with modules.dep.
    pub fn modules_dir(&self) -> PathBuf {
        self.artifact.dir.join("lib/modules").join(&self.release)
    }

    /// The tree that modules build against: source, headers, Rust metadata. None: the kernel came as files alone.
    pub fn build_dir(&self) -> Option<&Path> {
        self.build_dir.as_ref().map(|(path, _)| path.as_path())
    }

    /// Key of all that it was made from.
    pub fn key(&self) -> &Key {
        &self.artifact.manifest.id.key
    }

    /// Name in the store.
    pub fn id(&self) -> &ArtifactId {
        &self.artifact.manifest.id
    }

    /// It is not the distribution's kernel of the recipe: a user named it.
    pub fn is_brought(&self) -> bool {
        self.choice.is_none()
    }

    /// The configuration that it was built with; none where it came without.
    pub(crate) fn config(&self) -> Option<String> {
        let of_tree = self.build_dir.as_ref().map(|(outside, _)| outside.join(".config"));
        let places = [Some(self.artifact.dir.join(CONFIG)), of_tree];
        places.into_iter().flatten().find_map(|path| std::fs::read_to_string(path).ok())
    }

    /// Package version, as `7.3.4-1~bpo13+1`; none for a user's own kernel.
    pub fn package_version(&self) -> Option<&str> {
        self.artifact.manifest.versions.get("linux").map(String::as_str)
    }

    /// Where it came from: its package, or the directory or image that a user named.
    pub fn origin(&self) -> String {
        match self.package_version() {
            Some(version) => format!("Debian package {version}"),
            None => self.artifact.manifest.series.clone(),
        }
    }

    /// What was recorded when it was made.
    pub fn manifest(&self) -> &Manifest {
        &self.artifact.manifest
    }

    /// The build tree as a command in the tool root sees it, and its path there: for modules other than the driver, too.
    pub fn build_binds(&self) -> Option<(Vec<Bind>, &Path)> {
        let (outside, inside) = self.build_dir.as_ref()?;
        let mut binds = vec![Bind::read_only(outside).at(inside)];
        // A `make O=` directory leads to its source by this link.
        if let Ok(source) = std::fs::canonicalize(outside.join("source")) {
            binds.push(Bind::read_only(source));
        }
        Some((binds, inside))
    }
}

impl Store {
    /// The distribution's kernel: the one that was [kept](Self::keep_kernel), else the newest of the suite that the driver
    /// builds on, downloaded and its source prepared (two minutes, 2.5 GB). A finished one needs no network.
    /// Errors: `NoKernel`, `UnfitKernel`, `NoNetwork`, `NoPackage`, `DiskFull`, `Locked`.
    pub fn kernel(&self, root: &ToolRoot, reporter: &dyn Reporter) -> Result<Kernel> {
        let recipe = recipe::kernel()?;
        if let Some(Chosen { choice, .. }) = self.chosen(root.id())
            && recipe.sources().any(|source| source == choice.source)
            && let Some(kernel) = self.finished_kernel(root, &recipe, choice, reporter)?
        {
            return Ok(kernel);
        }
        // None was kept yet, or it is gone. One that is finished is as good, if the lists lead to it.
        let packages = self.packages(root, &recipe, Duration::MAX, reporter)?;
        if let Some(kernel) = self.finished_kernel(root, &recipe, packages.choice.clone(), reporter)? {
            return Ok(kernel);
        }
        drop(packages);
        self.newest_kernel(root, &recipe, LISTS_MAX_AGE, reporter)
    }

    /// The newest kernel of the suite that the driver builds on, by lists that are read now. It is used from then on only
    /// if it is [kept](Self::keep_kernel): until then [`kernel`](Self::kernel) gives the one before.
    pub fn refresh_kernel(&self, root: &ToolRoot, reporter: &dyn Reporter) -> Result<Kernel> {
        self.newest_kernel(root, &recipe::kernel()?, Duration::ZERO, reporter)
    }

    fn newest_kernel(
        &self,
        root: &ToolRoot,
        recipe: &KernelRecipe,
        max_age: Duration,
        reporter: &dyn Reporter,
    ) -> Result<Kernel> {
        let packages = self.packages(root, recipe, max_age, reporter)?;
        let inputs = inputs(root, recipe, &packages.choice)?;
        let plan = plan(root, &packages.choice, &inputs);
        let artifact = self.ensure(&plan, reporter, |build| {
            kernel_build::make(build, &kernel_build::Source { root, packages: &packages, recipe })
        })?;
        Ok(finished(artifact, packages.choice))
    }

    fn finished_kernel(
        &self,
        root: &ToolRoot,
        recipe: &KernelRecipe,
        choice: Choice,
        reporter: &dyn Reporter,
    ) -> Result<Option<Kernel>> {
        let inputs = inputs(root, recipe, &choice)?;
        let found = self.find(&plan(root, &choice, &inputs), reporter)?;
        Ok(found.map(|artifact| finished(artifact, choice)))
    }
}

/// The Rust metadata of a kernel is only good for the very compiler that made it, so the root is part of the key.
fn inputs(root: &ToolRoot, recipe: &KernelRecipe, choice: &Choice) -> Result<Inputs> {
    let mut inputs = Inputs::new(2);
    root.add_to(&mut inputs)?;
    recipe.add_to(&mut inputs);
    inputs.bytes("unpack", kernel_build::UNPACK.as_bytes());
    choice.add_to(&mut inputs);
    Ok(inputs)
}

fn plan<'a>(root: &ToolRoot, choice: &Choice, inputs: &'a Inputs) -> Plan<'a> {
    Plan {
        kind: Kind::Kernel,
        title: format!("kernel {}", choice.release),
        series: SERIES.to_owned(),
        parents: vec![root.id().clone()],
        inputs,
    }
}

fn finished(artifact: Artifact, choice: Choice) -> Kernel {
    let tree = artifact.dir.join(kernel_build::TREE);
    Kernel {
        vmlinuz: artifact.dir.join(kernel_build::VMLINUZ),
        build_dir: Some((tree, PathBuf::from(INSIDE))),
        release: choice.release.clone(),
        choice: Some(choice),
        artifact,
    }
}
