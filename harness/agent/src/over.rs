// SPDX-License-Identifier: Apache-2.0 OR MIT
//! File systems over the files of another one, which is mounted beside: `/mnt` lies over `/mnt.below`.
//!
//! There every layer is a directory with its number for a name. The highest takes what is written; [`add_layer`] puts an
//! empty one above it for the next mount. A directory of the same file system, for each, is what overlayfs works in.

use crate::error::{OrRefused, StepError, failed};
use crate::launcher;
use crate::modules::Modules;
use crate::mounts;
use longpin_proto::filesystem::{By, FileSystem, Over};
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

/// A program that has not mounted by then hangs.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(30);
/// How long a program that was unmounted keeps files of the layers open.
const PROGRAM_END: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);
/// OVERLAYFS_SUPER_MAGIC.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// Where the files are that a mount at `dir` lies over.
fn below(dir: &str) -> String {
    format!("{dir}.below")
}

/// Mount a file system; what it lies over, if it does, before it.
pub fn mount(modules: &Modules, fs: &str, device: &str, dir: &str, options: &str) -> Result<(), StepError> {
    let Some(over) = FileSystem::find(fs).and_then(FileSystem::over) else {
        return mounts::mount(modules, fs, device, dir, options);
    };
    let Some(lower) = FileSystem::find(over.below) else {
        return failed!("`{fs}` lies over `{}`, which is not in the table", over.below);
    };
    let at = below(dir);
    mounts::mount(modules, lower.name, device, &at, lower.options)?;
    let mounted = mount_over(modules, over, Path::new(&at), dir, options);
    if mounted.is_err() {
        let _ = unmount_below(dir);
    }
    mounted
}

/// Unmount, and what it lay over after it: EBUSY while it is in use.
pub fn unmount(dir: &str) -> Result<(), Errno> {
    let unmounted = mounts::unmount(dir);
    // Also where a program of a step did it.
    if matches!(unmounted, Ok(()) | Err(Errno::INVAL | Errno::NOENT)) {
        unmount_below(dir)?;
    }
    unmounted
}

fn mount_over(modules: &Modules, over: &Over, at: &Path, dir: &str, options: &str) -> Result<(), StepError> {
    let join = |own: &str| [own, options].join(",").trim_end_matches(',').to_owned();
    match over.by {
        By::Layers => mounts::mount(modules, over.mounts, over.mounts, dir, &join(&layer_options(at)?)),
        By::Program(program) => {
            let options = &join(&layer_options(at)?);
            mounts::load_file_system(modules, over.mounts)?;
            std::fs::create_dir_all(dir).or_refused(&format!("mkdir({dir})"))?;
            let argv = [program, "-o", options.as_str(), dir].map(str::to_owned);
            let finished = launcher::run(&argv, PROGRAM_DEADLINE, &AtomicI32::new(0))?;
            match finished.code {
                0 => Ok(()),
                code => failed!("`{}` ended with {code}: {}", argv.join(" "), finished.output.trim_end()),
            }
        }
    }
}

/// From the layers that are there; the first mount makes two.
fn layer_options(at: &Path) -> Result<String, StepError> {
    let mut layers = layers(at).or_refused("readdir")?;
    while layers.len() < 2 {
        layers.push(new_layer(at, layers.len())?);
    }
    let Some((upper, lower)) = layers.split_last() else { return failed!("no layers in {}", at.display()) };
    let lower: Vec<_> = lower.iter().rev().map(|layer| layer.display().to_string()).collect();
    let work = upper.with_extension("work");
    std::fs::create_dir_all(&work).or_refused("mkdir")?;
    let (upper, work) = (upper.display(), work.display());
    Ok(format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":")))
}

/// The next mount at `dir` has an empty layer above those that are there.
pub fn add_layer(dir: &str) -> Result<(), StepError> {
    let at = below(dir);
    let at = Path::new(&at);
    match layers(at).or_refused("readdir")?.len() {
        0 => failed!("{dir} has no layers"),
        number => new_layer(at, number).map(drop),
    }
}

fn new_layer(at: &Path, number: usize) -> Result<PathBuf, StepError> {
    let layer = at.join(number.to_string());
    std::fs::create_dir(&layer).or_refused("mkdir")?;
    Ok(layer)
}

/// From the lowest to the highest.
fn layers(at: &Path) -> std::io::Result<Vec<PathBuf>> {
    let names = std::fs::read_dir(at)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|number| at.join(number.to_string())).collect())
}

/// The file below, where the page cache is not that of the file itself: cachestat(2) finds nothing in an overlay, whose
/// mappings are of the file in a layer (`backing_file_mmap()`).
pub fn real(file: impl AsFd) -> Result<Option<OwnedFd>, StepError> {
    if rustix::fs::fstatfs(&file).or_refused("fstatfs")?.f_type as u64 != OVERLAY_MAGIC {
        return Ok(None);
    }
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let path = std::fs::read_link(link).or_failed("readlink")?;
    let Some((at, rest)) = path.ancestors().skip(1).find_map(|dir| {
        let at = PathBuf::from(below(dir.to_str()?));
        at.is_dir().then_some((at, path.strip_prefix(dir).ok()?))
    }) else {
        return failed!("{} has no layers that are known", path.display());
    };
    for layer in layers(&at).or_failed("readdir")?.into_iter().rev() {
        match rustix::fs::open(layer.join(rest), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => {}
            found => return found.map(Some).or_refused("open"),
        }
    }
    failed!("{} is in no layer", path.display())
}

/// After the mount at `dir` is gone: what it lay over, if it lay over something.
fn unmount_below(dir: &str) -> Result<(), Errno> {
    let at = below(dir);
    let deadline = Instant::now() + PROGRAM_END;
    loop {
        match mounts::unmount(&at) {
            // It lay over nothing.
            Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(POLL),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mount_makes_two_layers_and_every_other_one_has_those_that_are_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("mnt").display().to_string();
        let at = below(&dir);
        std::fs::create_dir(&at).unwrap();
        let StepError::Failed(text) = add_layer(&dir).unwrap_err() else { panic!("refused") };
        assert_eq!(text, format!("{dir} has no layers"));
        let two = format!("lowerdir={at}/0,upperdir={at}/1,workdir={at}/1.work");
        for _ in 0..2 {
            assert_eq!(layer_options(Path::new(&at)).unwrap(), two);
        }
        add_layer(&dir).unwrap();
        let three = format!("lowerdir={at}/1:{at}/0,upperdir={at}/2,workdir={at}/2.work");
        assert_eq!(layer_options(Path::new(&at)).unwrap(), three);
    }

    #[test]
    fn what_is_no_overlay_is_the_file_itself_and_what_lies_over_nothing_has_nothing_below() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(real(file.as_file()).unwrap().is_none());
        unmount_below(&file.path().display().to_string()).unwrap();
    }
}
