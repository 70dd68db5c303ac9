// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For tests: a tool root whose programs are played by a shell script, and an archive that is a few text files. So the
//! whole way from package lists to a module can be gone without a network and in milliseconds.

use crate::artifact::Plan;
use crate::kernel::Kernel;
use crate::key::Inputs;
use crate::manifest::{ArtifactId, Kind};
use crate::module::Module;
use crate::report::{Reporter, Silent};
use crate::store::Store;
use crate::tool_root::ToolRoot;
use crate::{Result, recipe};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const RUSTC: &str = "rustc 1.85.1 (played)";
/// Stands in for bubblewrap: finds out what is bound where, and plays the program after `--`.
const PLAYER: &str = r##"#!/bin/sh
set -eu
here=$(dirname "$0")
artifact= tree= sources= driver=
while [ "$1" != -- ]; do
    case "$1" in
        --bind | --ro-bind)
            case "$3" in
                /artifact) artifact=$2 ;;
                /longpin/linux) tree=$2 ;;
                /longpin/sources.list) sources=$2 ;;
                /longpin/source) driver=$2 ;;
            esac
            shift 2 ;;
    esac
    shift
done
shift
case "$*" in
    *"apt-get "*" update") echo update >>"$here/asked"; grep -q . "$sources" ;;
    *"apt-cache "*) # Which archive is meant is in the list of sources.
        offers="$here/offers"
        suite=$(awk '{ print $(NF - 1) }' "$sources")
        [ ! -e "$here/offers-$suite" ] || offers="$here/offers-$suite"
        ! grep -q /snapshot "$sources" || offers="$here/offers-then"
        case "$*" in
            *"search --names-only ^linux\\-source"* | *"search --names-only ^linux-source"*) kind=linux-source ;;
            *"search --names-only ^linux-image"*) kind=linux-image ;;
            *"search --names-only ^(linux"*) exit ;;
            *search*) kind=linux-binary ;;
            *) kind= ;;
        esac
        if [ -n "$kind" ]; then sed -n "s/^\($kind[^ ]*\) .*/\1 - played/p" "$offers"; exit; fi
        for name in "$@"; do
            awk -v name="$name" '$1 == name { print name " | " $2 " | archive suite Packages" }' "$offers"
        done ;;
    *"apt-get "*download*linux-image-*) release=${*##*linux-image-}; echo "${release%%=*}" >"$artifact/debs/image.deb" ;;
    *"apt-get "*download*) cat "$sources" >"$here/downloaded-from" ;;
    bash*no-same-owner*) # Unpacking of a linux-image.
        release=$(cat "$artifact/debs/image.deb")
        mkdir -p "$artifact/unpacked/boot" "$artifact/unpacked/lib/modules/$release"
        : >"$artifact/unpacked/lib/modules/$release/modules.order"
        : >"$artifact/unpacked/lib/modules/$release/modules.builtin"
        [ ! -e "$here/half" ] || exit 0
        zeros() { head -c "$1" /dev/zero; }
        { zeros 514; printf HdrS; zeros 8; printf '\000\001'; zeros 240; printf '%s (who) #1\000' "$release"; zeros 2048; } \
            >"$artifact/unpacked/boot/vmlinuz-$release" ;;
    depmod*) ;;
    bash*) # Unpacking: RELEASE SOURCE TREE is what follows the script's name.
        while [ "$1" != bash ] || [ "${2#7.}" = "$2" ]; do shift; done
        release=$2
        mkdir -p "$artifact/lib/modules/$release" "$artifact/unpacked" "$tree/rust"
        echo "$release" >"$artifact/vmlinuz"
        echo "$release" >"$tree/release"
        : >"$artifact/unpacked/Module.symvers"
        printf 'CONFIG_RUST=y\nCONFIG_SMP=y\nCONFIG_MODULES=y\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_VIRTIO_PCI=y\n' >"$tree/.config" ;;
    make*kernelversion) sed 's/+.*//' "$tree/release" ;;
    make*kernelrelease) cat "$tree/release" ;;
    make*modules_prepare) : >"$tree/rust/libkernel.rmeta" ;;
    make*olddefconfig) ;;
    make*M=*modules) # The driver does not build on what is listed as broken.
        release=$(cat "$tree/release")
        if grep -qsx "$release" "$here/broken"; then echo "error[E0433]: played" >&2; exit 2; fi
        printf 'vermagic=%s SMP\0' "$release" >"$driver/guest-driver/longpin.ko" ;;
    *) echo "nobody plays: $*" >&2; exit 99 ;;
esac
"##;

/// The archive, and the machine that asks it.
pub(crate) struct FakeArchive {
    dir: tempfile::TempDir,
    pub store: Store,
}

impl FakeArchive {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let player = dir.path().join("player");
        fs::write(&player, PLAYER).unwrap();
        fs::set_permissions(&player, fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Versions of the kernel that the suite has from now on, as 7.3.4.
    pub(crate) fn offers(&self, versions: &[&str]) {
        fs::write(self.path("offers"), offers(versions)).unwrap();
    }

    /// What it had at the recipe's time.
    pub(crate) fn offered_then(&self, versions: &[&str]) {
        fs::write(self.path("offers-then"), offers(versions)).unwrap();
    }

    /// Image packages of a suite, as name and version.
    pub(crate) fn suite_has(&self, suite: &str, packages: &[(&str, &str)]) {
        let lines: String = packages.iter().map(|(name, version)| format!("{name} {version}\n")).collect();
        fs::write(self.path(&format!("offers-{suite}")), lines).unwrap();
    }

    /// From now on an image package has no image, or has one again.
    pub(crate) fn image_packages_are_half(&self, half: bool) {
        match half {
            true => fs::write(self.path("half"), "").unwrap(),
            false => fs::remove_file(self.path("half")).unwrap(),
        }
    }

    /// On this version the driver does not build.
    pub(crate) fn breaks_on(&self, version: &str) {
        fs::write(self.path("broken"), format!("{}\n", release(version))).unwrap();
    }

    /// How often package lists were read.
    pub(crate) fn times_asked(&self) -> usize {
        fs::read_to_string(self.path("asked")).unwrap_or_default().lines().count()
    }

    /// The list of sources at the last download.
    pub(crate) fn downloaded_from(&self) -> String {
        fs::read_to_string(self.path("downloaded-from")).unwrap()
    }

    /// The root of today's recipe.
    pub(crate) fn root(&self) -> ToolRoot {
        let recipe = recipe::tool_root().unwrap();
        let inputs: Inputs = recipe.inputs(self.store.mirror());
        let plan = Plan {
            kind: Kind::ToolRoot,
            title: "tool root".to_owned(),
            series: recipe.suite.clone(),
            parents: vec![],
            inputs: &inputs,
        };
        let made = self.store.ensure(&plan, &Silent, |build| {
            let etc = build.dir.join("root/etc/apt/sources.list.d");
            fs::create_dir_all(&etc).unwrap();
            fs::write(etc.join("backports.list"), "deb http://archive.example/debian suite main\n").unwrap();
            build.facts.insert("packages".to_owned(), "installed".to_owned());
            build.facts.insert("rustc".to_owned(), RUSTC.to_owned());
            Ok(())
        });
        ToolRoot::played_by(made.unwrap(), &self.path("player"))
    }

    /// What `longpin run` does before it boots.
    pub(crate) fn ensure(&self, root: &ToolRoot) -> Result<(Kernel, Module)> {
        self.take(root, self.store.kernel(root, &Silent)?, &Silent)
    }

    /// What `longpin image build --refresh` does.
    pub(crate) fn refresh(&self, root: &ToolRoot, reporter: &dyn Reporter) -> Result<(Kernel, Module)> {
        self.take(root, self.store.refresh_kernel(root, reporter)?, reporter)
    }

    fn take(&self, root: &ToolRoot, kernel: Kernel, reporter: &dyn Reporter) -> Result<(Kernel, Module)> {
        let module = self.store.module(root, &kernel, None, reporter)?;
        self.store.keep_kernel(root, &kernel)?;
        Ok((kernel, module))
    }

    /// A collection that met no lock. Other tests of this process start programs, and a child has a copy of every
    /// descriptor, those of locks too, until its exec.
    pub(crate) fn gc(&self, all: bool) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !self.store.gc(all).unwrap().busy.is_empty() {
            assert!(std::time::Instant::now() < end, "a lock is never given back");
            std::thread::yield_now();
        }
    }

    pub(crate) fn has(&self, id: &ArtifactId) -> bool {
        self.store.dir(id).join("manifest.json").exists()
    }

    pub(crate) fn store_path(&self) -> &Path {
        self.store.path()
    }
}

pub(crate) fn release(version: &str) -> String {
    format!("{version}+deb13-amd64")
}

fn offers(versions: &[&str]) -> String {
    let lines = versions.iter().map(|version| {
        let series = version.rsplit_once('.').expect("a version has a series").0;
        let package = format!("{version}-1~bpo13+1");
        format!("linux-source-{series} {package}\nlinux-binary-{} {package}\n", release(version))
    });
    lines.collect()
}
