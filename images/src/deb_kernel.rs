// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels from binary packages (linux-image): a user's own .deb files, or what `archive_kernel` downloads. Image, modules
//! and configuration are taken out and put where every kernel of the store has them.

use crate::artifact::{Build, Plan};
use crate::error::{Error, Result};
use crate::kernel::{CONFIG, Kernel};
use crate::kernel_build::VMLINUZ;
use crate::key::{Inputs, Key};
use crate::manifest::Kind;
use crate::own_kernel::{self, finished};
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Part of the key.
pub(crate) const UNPACK: &str = include_str!("../recipes/deb-unpack.sh");
const UNPACK_LIMIT: Duration = Duration::from_secs(15 * 60);
const UNPACKED: &str = "unpacked";

impl Store {
    /// A kernel from .deb files. Errors: `UnfitKernel` with what they lack.
    pub(crate) fn deb_kernel(
        &self,
        root: &ToolRoot,
        debs: &[PathBuf],
        reporter: &dyn Reporter,
    ) -> Result<Kernel> {
        let mut paths = Vec::new();
        let mut inputs = Inputs::new(1);
        root.add_to(&mut inputs)?;
        inputs.bytes("unpack", UNPACK.as_bytes());
        for deb in debs {
            let path = fs::canonicalize(deb).map_err(Error::io("resolve", deb))?;
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            inputs.value("deb", Key::of_bytes(&bytes).as_str());
            paths.push(path);
        }
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let plan = Plan {
            kind: Kind::Kernel,
            title: format!("kernel of {}", names.join(", ")),
            series: names.join(", "),
            parents: vec![root.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| {
            build.reporter.step("kernel: unpacking packages");
            unpack(build, root, &paths, &names.join(", "))
        })?;
        let release = artifact.manifest.fact("release")?.to_owned();
        Ok(finished(artifact, release, None))
    }
}

/// Makes the artifact of these packages; `what` names them.
pub(crate) fn unpack(build: &mut Build<'_>, root: &ToolRoot, debs: &[PathBuf], what: &str) -> Result<()> {
    let mut binds = vec![Bind::read_write(build.dir).at("/artifact")];
    binds.extend(debs.iter().map(Bind::read_only));
    let mut command = root.command("bash", &binds);
    command.args(["-euo", "pipefail", "-c", UNPACK, "bash"]).args(debs);
    build.log.run(&format!("unpacking of {what}"), &mut command, UNPACK_LIMIT)?;
    let unpacked = build.dir.join(UNPACKED);
    let Parts { release, image, modules } = find(&unpacked, what)?;
    own_kernel::check_files(&image, &modules)?;
    let config = [unpacked.join(format!("boot/config-{release}")), modules.join("config")];
    if let Some(config) = config.iter().find(|path| path.is_file()) {
        rename(config, &build.dir.join(CONFIG))?;
    }
    rename(&image, &build.dir.join(VMLINUZ))?;
    let place = build.dir.join("lib/modules");
    fs::create_dir_all(&place).map_err(Error::io("create", &place))?;
    rename(&modules, &place.join(&release))?;
    crate::tree::remove(&unpacked)?;
    own_kernel::depmod(build, root, &release)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("move", from))
}

/// What a kernel's packages hold.
#[derive(Debug)]
struct Parts {
    release: String,
    image: PathBuf,
    modules: PathBuf,
}

/// `lib/modules/RELEASE`, with the image in it, as newer packages have it, or in `boot`.
fn find(unpacked: &Path, what: &str) -> Result<Parts> {
    let unfit = |problem: String| Error::UnfitKernel {
        kernel: what.to_owned(),
        problem,
        remedy:
            "give the package linux-image-RELEASE, and where it has only a part, linux-binary-RELEASE and \
                 linux-modules-RELEASE beside it, separated by commas"
                .to_owned(),
    };
    let mut found = Vec::new();
    for place in ["lib/modules", "usr/lib/modules"] {
        for entry in fs::read_dir(unpacked.join(place)).into_iter().flatten().flatten() {
            if entry.path().join("modules.order").is_file() {
                found.push(entry);
            }
        }
    }
    let [modules] = found.as_slice() else {
        return Err(unfit(format!("the packages hold the modules of {} kernels", found.len())));
    };
    let release = modules.file_name().to_string_lossy().into_owned();
    let modules = modules.path();
    let beside = Path::new("modules").join(&release).join("vmlinuz");
    let places = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        unpacked.join("lib").join(&beside),
        unpacked.join("usr/lib").join(&beside),
    ];
    let image = places.into_iter().find(|path| path.is_file());
    match image {
        Some(image) => Ok(Parts { release, image, modules }),
        None => Err(unfit(format!("the packages hold modules of {release} and no vmlinuz"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn the_image_lies_in_boot_or_beside_the_modules_or_in_another_package() {
        for (modules, image) in [
            ("lib/modules/6.1/modules.order", "boot/vmlinuz-6.1"),
            ("usr/lib/modules/6.1/modules.order", "usr/lib/modules/6.1/vmlinuz"),
            ("lib/modules/6.1/modules.order", "usr/lib/modules/6.1/vmlinuz"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), modules);
            put(dir.path(), image);
            let parts = find(dir.path(), "x.deb").unwrap();
            assert_eq!((parts.release.as_str(), parts.image), ("6.1", dir.path().join(image)));
            assert_eq!(parts.modules, dir.path().join(modules).parent().unwrap());
        }
    }

    #[test]
    fn packages_that_hold_a_part_or_two_kernels_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = || find(dir.path(), "x.deb").unwrap_err().to_string();
        assert!(
            error().starts_with("kernel x.deb cannot be used: the packages hold the modules of 0 kernels")
        );
        put(dir.path(), "lib/modules/6.1/modules.order");
        let text = error();
        assert!(text.contains("hold modules of 6.1 and no vmlinuz; give the package linux-image"), "{text}");
        put(dir.path(), "lib/modules/6.2/modules.order");
        assert!(error().contains("the modules of 2 kernels"));
    }
}
