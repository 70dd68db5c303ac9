// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that a user brings: the directory where one was built, or an image with its modules. Image and modules are
//! copied into the store, so that a later `make` in that directory cannot change a machine that is running.

use crate::archive_kernel::ArchiveKernel;
use crate::artifact::{Artifact, Build, Plan};
use crate::error::{Error, Result};
use crate::kconfig::{self, Need};
use crate::kernel::{CONFIG, Kernel};
use crate::kernel_build::VMLINUZ;
use crate::key::Inputs;
use crate::lab_kernel::LabKernel;
use crate::manifest::Kind;
use crate::module_graph;
use crate::report::Reporter;
use crate::sandbox::Bind;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEPMOD_LIMIT: Duration = Duration::from_secs(5 * 60);
const IMAGE: &str = "arch/x86/boot/bzImage";
const SYMVERS: &str = "Module.symvers";
/// Where a user's kernel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnKernel {
    /// The directory where it was built (`make O=` directories too).
    BuildDir(PathBuf),
    /// Files alone; the driver must then be given as a module.
    Files {
        /// bzImage.
        image: PathBuf,
        /// lib/modules/RELEASE.
        modules: PathBuf,
    },
    /// Binary packages: linux-image, and where it has only a part, the others.
    Packages(Vec<PathBuf>),
    /// A package of the distribution's archive.
    Archive(ArchiveKernel),
    /// Built from the stock kernel's source.
    Lab(LabKernel),
}

/// A module file: from where, and its place below the modules directory.
struct Found {
    from: PathBuf,
    to: PathBuf,
}

/// All that is copied.
struct Files {
    release: String,
    image: PathBuf,
    /// Its configuration, where it came with it.
    config: Option<PathBuf>,
    modules: Vec<Found>,
    builtin: PathBuf,
    /// In the order of linking, which depmod keeps.
    order: String,
}

impl Store {
    /// A user's own kernel. Its image and modules are copied; modules build against the directory itself. `anew`: a name
    /// of the archive is looked up again; it stays the kernel that it was otherwise.
    /// Errors: `UnfitKernel` with what is missing and how to mend it.
    pub fn own_kernel(
        &self,
        root: &ToolRoot,
        own: &OwnKernel,
        anew: bool,
        reporter: &dyn Reporter,
    ) -> Result<Kernel> {
        let (files, build_dir, place) = match own {
            OwnKernel::BuildDir(dir) => {
                let dir = fs::canonicalize(dir).map_err(Error::io("resolve", dir))?;
                (of_build_dir(&dir)?, Some(dir.clone()), dir)
            }
            OwnKernel::Files { image, modules } => {
                let modules = fs::canonicalize(modules).map_err(Error::io("resolve", modules))?;
                let image = fs::canonicalize(image).map_err(Error::io("resolve", image))?;
                (of_files(&image, &modules)?, None, image)
            }
            OwnKernel::Packages(debs) => return self.deb_kernel(root, debs, reporter),
            OwnKernel::Archive(wanted) => return self.archive_kernel(root, wanted, anew, reporter),
            OwnKernel::Lab(wanted) => return self.lab_kernel(root, wanted, reporter),
        };
        let mut inputs = inputs(root, &files)?;
        if let Some(dir) = &build_dir {
            // Absent where the kernel has no modules.
            inputs.bytes(SYMVERS, &fs::read(dir.join(SYMVERS)).unwrap_or_default());
        }
        let plan = Plan {
            kind: Kind::Kernel,
            title: format!("kernel {}", files.release),
            series: place.display().to_string(),
            parents: vec![root.id().clone()],
            inputs: &inputs,
        };
        let artifact = self.ensure(&plan, reporter, |build| make(build, root, &files))?;
        Ok(finished(artifact, files.release, build_dir))
    }
}

pub(crate) fn finished(artifact: Artifact, release: String, build_dir: Option<PathBuf>) -> Kernel {
    let vmlinuz = artifact.dir.join(VMLINUZ);
    // Its own path inside too: the tree may have been built by absolute paths.
    let build_dir = build_dir.map(|dir| (dir.clone(), dir));
    Kernel { artifact, release, choice: None, vmlinuz, build_dir }
}

/// Modules count by size and time, as make sees them: to hash gigabytes at every start would cost seconds.
fn inputs(root: &ToolRoot, files: &Files) -> Result<Inputs> {
    let mut inputs = Inputs::new(2);
    root.add_to(&mut inputs)?;
    inputs.value("release", &files.release).bytes("image", &read(&files.image)?);
    if let Some(config) = &files.config {
        inputs.bytes("config", &read(config)?);
    }
    let mut modules = String::new();
    for module in &files.modules {
        let meta = fs::metadata(&module.from).map_err(Error::io("look at", &module.from))?;
        let (path, time) = (module.from.display(), (meta.mtime(), meta.mtime_nsec()));
        modules.push_str(&format!("{path} {} {time:?}\n", meta.size()));
    }
    inputs.bytes("modules", modules.as_bytes());
    Ok(inputs)
}

fn of_build_dir(dir: &Path) -> Result<Files> {
    let unfit = |problem: String, remedy: &str| Error::UnfitKernel {
        kernel: dir.display().to_string(),
        problem,
        remedy: remedy.to_owned(),
    };
    let config = dir.join(".config");
    let is_there = |name: &str| {
        let remedy = "build it there: make bzImage modules; or give the directory where that was done";
        dir.join(name).is_file().then_some(()).ok_or_else(|| unfit(format!("{name} is missing"), remedy))
    };
    [IMAGE, ".config", "modules.builtin"].into_iter().try_for_each(is_there)?;
    let options = text(&config)?;
    check_config(&dir.display().to_string(), &options)?;
    let has_modules = options.lines().any(|line| line == "CONFIG_MODULES=y");
    if has_modules {
        ["modules.order", SYMVERS].into_iter().try_for_each(is_there)?;
    }
    let image = dir.join(IMAGE);
    let bytes = read(&image)?;
    let release = image_release(&bytes)
        .ok_or_else(|| unfit(format!("{IMAGE} is not a bzImage"), "build it again: make bzImage"))?;
    if let Some(short) = cut_short(&bytes) {
        return Err(unfit(format!("{IMAGE} {short}"), "build it again: make bzImage"));
    }
    // A kernel without modules may have been built with them before.
    let order = if has_modules { text(&dir.join("modules.order"))? } else { String::new() };
    let modules: Vec<Found> = order.lines().map(|line| Found::in_build_dir(dir, line)).collect();
    if let Some(absent) = modules.iter().find(|module| !module.from.is_file()) {
        let problem = format!("{} is in modules.order but not there", absent.from.display());
        return Err(unfit(problem, "build the modules: make modules"));
    }
    let order = modules.iter().map(|module| format!("{}\n", module.to.display())).collect();
    Ok(Files { release, image, config: Some(config), modules, builtin: dir.join("modules.builtin"), order })
}

/// Nothing boots without these, whatever else the kernel can do.
fn check_config(kernel: &str, config: &str) -> Result<()> {
    let missing = kconfig::missing(config, Need::Boot)?;
    let Some(first) = missing.first() else { return Ok(()) };
    let lines: Vec<String> = missing.iter().map(|option| option.line()).collect();
    let problem = format!("its configuration has no {} ({})", lines.join(", "), first.why);
    let remedy = "set that (`longpin kconfig` prints all that it takes), and build it again".to_owned();
    Err(Error::UnfitKernel { kernel: kernel.to_owned(), problem, remedy })
}

impl Found {
    /// A line of modules.order: `fs/ext4/ext4.o`, in older kernels `fs/ext4/ext4.ko`.
    fn in_build_dir(dir: &Path, line: &str) -> Self {
        let path = Path::new(line.trim()).with_extension("ko");
        Self { from: dir.join(&path), to: Path::new("kernel").join(path) }
    }
}

fn of_files(image: &Path, modules: &Path) -> Result<Files> {
    let unfit = |problem: String, remedy: &str| Error::UnfitKernel {
        kernel: image.display().to_string(),
        problem,
        remedy: remedy.to_owned(),
    };
    let bytes = read(image)?;
    let release = image_release(&bytes).ok_or_else(|| {
        unfit("it is not a bzImage".to_owned(), "give arch/x86/boot/bzImage or /boot/vmlinuz-*")
    })?;
    if let Some(short) = cut_short(&bytes) {
        return Err(unfit(format!("it {short}"), "copy it again, whole"));
    }
    if !modules.ends_with(&release) {
        let problem = format!("it is release {release}, and the modules are in {}", modules.display());
        return Err(unfit(problem, "give the lib/modules/RELEASE of the same kernel"));
    }
    for name in ["modules.order", "modules.builtin"] {
        if !modules.join(name).is_file() {
            let problem = format!("{} has no {name}", modules.display());
            return Err(unfit(problem, "give what make modules_install made"));
        }
    }
    // Beside the modules, or beside the image under its own release, as distributions have it.
    let beside = image.with_file_name(format!("config-{release}"));
    let config =
        [modules.join("config"), modules.join("build/.config"), beside].into_iter().find(|p| p.is_file());
    if let Some(config) = &config {
        check_config(&image.display().to_string(), &text(config)?)?;
    }
    let mut found = Vec::new();
    find_modules(modules, modules, &mut found)?;
    found.sort_by(|a, b| a.to.cmp(&b.to));
    let order = text(&modules.join("modules.order"))?;
    Ok(Files {
        release,
        image: image.to_owned(),
        config,
        modules: found,
        builtin: modules.join("modules.builtin"),
        order,
    })
}

/// Links are not followed: `build` leads to the source.
fn find_modules(base: &Path, dir: &Path, found: &mut Vec<Found>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let kind = entry.file_type().map_err(Error::io("look at", dir))?;
        let path = entry.path();
        if kind.is_dir() {
            find_modules(base, &path, found)?;
        } else if kind.is_file() && module_graph::is_module(&path.to_string_lossy()) {
            let to = path.strip_prefix(base).expect("the walk began there").to_owned();
            found.push(Found { from: path, to });
        }
    }
    Ok(())
}

fn make(build: &mut Build<'_>, root: &ToolRoot, files: &Files) -> Result<()> {
    build.reporter.step(&format!("kernel {}: copying image and modules", files.release));
    copy(&files.image, &build.dir.join(VMLINUZ))?;
    if let Some(config) = &files.config {
        copy(config, &build.dir.join(CONFIG))?;
    }
    let modules = build.dir.join("lib/modules").join(&files.release);
    for module in &files.modules {
        copy(&module.from, &modules.join(&module.to))?;
    }
    fs::create_dir_all(&modules).map_err(Error::io("create", &modules))?;
    copy(&files.builtin, &modules.join("modules.builtin"))?;
    let order = modules.join("modules.order");
    fs::write(&order, &files.order).map_err(Error::io("write", &order))?;
    depmod(build, root, &files.release)
}

/// Takes image and modules out of a directory where a kernel was built.
pub(crate) fn take(build: &mut Build<'_>, root: &ToolRoot, dir: &Path) -> Result<()> {
    make(build, root, &of_build_dir(dir)?)
}

/// The lists of what each module needs; the last step of a kernel's artifact.
pub(crate) fn depmod(build: &mut Build<'_>, root: &ToolRoot, release: &str) -> Result<()> {
    let mut depmod = root.command("depmod", &[Bind::read_write(build.dir).at("/artifact")]);
    depmod.args(["--basedir=/artifact", release]);
    build.log.run("depmod", &mut depmod, DEPMOD_LIMIT)?;
    build.facts.insert("release".to_owned(), release.to_owned());
    Ok(())
}

/// Image and modules are of one release, and of a configuration that boots.
pub(crate) fn check_files(image: &Path, modules: &Path) -> Result<()> {
    of_files(image, modules).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    fs::copy(from, to).map(drop).map_err(Error::io("copy", from))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("read", path))
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// The release that a bzImage states: `kernel_version` of the setup header points to it
/// (Documentation/arch/x86/boot.rst).
fn image_release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(at) + 0x200..)?.split(|&byte| byte == 0).next()?;
    let release = std::str::from_utf8(text).ok()?.split(' ').next()?;
    (!release.is_empty()).then(|| release.to_owned())
}

/// What a bzImage lacks at its end, by the sizes in its header: `setup_sects` and `syssize`. A signed one is longer.
fn cut_short(image: &[u8]) -> Option<String> {
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => u64::from(*sectors),
    };
    let paragraphs = u32::from_le_bytes(image.get(0x1f4..0x1f8)?.try_into().ok()?);
    let whole = (sectors + 1) * 512 + u64::from(paragraphs) * 16;
    let bytes = image.len() as u64;
    (bytes < whole).then(|| format!("is cut short: {bytes} of {whole} bytes are there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(release: &str) -> Vec<u8> {
        // The setup's own sectors, and three paragraphs behind them.
        let mut bytes = vec![0; 5 * 512 + 3 * 16];
        bytes[0x1f4] = 3;
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        let text = format!("{release} (who@where) #1 SMP\0");
        bytes[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    fn put(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn bootable() -> String {
        kconfig::missing("", Need::Boot).unwrap().iter().map(|option| option.line() + "\n").collect()
    }

    fn build_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), ".config", bootable() + "CONFIG_MODULES=y\n");
        put(dir.path(), IMAGE, image("7.3.0-lab"));
        put(dir.path(), "modules.order", "fs/ext4/ext4.o\n");
        put(dir.path(), "modules.builtin", "");
        put(dir.path(), "Module.symvers", "");
        put(dir.path(), "fs/ext4/ext4.ko", "x");
        dir
    }

    #[test]
    fn a_build_directory_gives_release_image_and_modules() {
        let dir = build_dir();
        let files = of_build_dir(dir.path()).unwrap();
        assert_eq!(files.release, "7.3.0-lab");
        assert_eq!(files.modules[0].from, dir.path().join("fs/ext4/ext4.ko"));
        assert_eq!(files.modules[0].to, Path::new("kernel/fs/ext4/ext4.ko"));
        assert_eq!(files.order, "kernel/fs/ext4/ext4.ko\n");
    }

    #[test]
    fn a_kernel_without_modules_needs_no_list_of_them() {
        let dir = build_dir();
        put(dir.path(), ".config", bootable());
        fs::remove_file(dir.path().join(SYMVERS)).unwrap();
        assert!(of_build_dir(dir.path()).unwrap().modules.is_empty());
        put(dir.path(), ".config", bootable() + "CONFIG_MODULES=y\n");
        let error = of_build_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains("Module.symvers is missing; build it there: make bzImage modules"), "{error}");
    }

    #[test]
    fn what_a_build_directory_lacks_is_named_with_the_remedy() {
        let dir = build_dir();
        fs::remove_file(dir.path().join("fs/ext4/ext4.ko")).unwrap();
        let error = of_build_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains("ext4.ko is in modules.order but not there; build the modules"), "{error}");
        put(
            dir.path(),
            ".config",
            bootable().replace("CONFIG_BLK_DEV_INITRD=y\n", "").replace("BLK=y", "BLK=m"),
        );
        let error = of_build_dir(dir.path()).err().unwrap().to_string();
        let wanted =
            "has no CONFIG_BLK_DEV_INITRD=y (the guest lives in an initramfs); set that (`longpin kconfig`";
        assert!(error.contains(wanted), "{error}");
        fs::remove_file(dir.path().join(IMAGE)).unwrap();
        let error = of_build_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains("arch/x86/boot/bzImage is missing; build it there"), "{error}");
    }

    #[test]
    fn modules_of_another_release_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "bzImage", image("7.3.4"));
        put(dir.path(), "lib/modules/7.3.4/modules.order", "");
        put(dir.path(), "lib/modules/7.3.4/modules.builtin", "");
        put(dir.path(), "lib/modules/7.3.4/kernel/virtio-rng.ko.xz", "");
        put(dir.path(), "lib/modules/7.3.5/modules.order", "");
        let of = |release: &str| {
            of_files(&dir.path().join("bzImage"), &dir.path().join("lib/modules").join(release))
        };
        assert_eq!(of("7.3.4").unwrap().modules[0].to, Path::new("kernel/virtio-rng.ko.xz"));
        let error = of("7.3.5").err().unwrap().to_string();
        assert!(error.contains("it is release 7.3.4, and the modules are in"), "{error}");
        put(dir.path(), "config-7.3.4", "CONFIG_64BIT=y\n");
        let error = of("7.3.4").err().unwrap().to_string();
        assert!(error.contains("its configuration has no CONFIG_BINFMT_ELF=y, CONFIG_BLK"), "{error}");
    }

    #[test]
    fn only_a_bzimage_states_a_release() {
        assert_eq!(image_release(&image("7.3.4+deb13-amd64")).as_deref(), Some("7.3.4+deb13-amd64"));
        assert_eq!(image_release(b"\x7fELF"), None);
        let whole = image("7.3.4");
        assert_eq!(cut_short(&whole), None);
        assert_eq!(cut_short(&[&whole[..], b"signature"].concat()), None);
        let short = cut_short(&whole[..whole.len() - 1]);
        assert_eq!(short.as_deref(), Some("is cut short: 2607 of 2608 bytes are there"));
        assert_eq!(image_release(&vec![0; 0x400]), None);
    }
}
