// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directory trees as a whole: size on disk and removal.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes that the tree takes on disk, hard links counted once. What vanishes meanwhile is not counted.
pub(crate) fn size_on_disk(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.nlink() == 1 || meta.is_dir() || seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

/// How long a tree may change under its removal: what a killed builder had started needs seconds to end.
const SETTLE: Duration = Duration::from_secs(60);

/// Removes a tree or a file, and is content if there is none. Never goes into another file system: a build that was
/// killed may have left the host's /dev mounted below its root. Blocks for a minute at most while somebody else still
/// writes or removes there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        let removed = match fs::symlink_metadata(path) {
            Ok(meta) => remove_on(path, &meta, meta.dev()),
            Err(error) => Err(Error::io("look at", path)(error)),
        };
        match removed {
            Err(Error::Io { path: missing, source, .. })
                if source.kind() == ErrorKind::NotFound && missing == path =>
            {
                return Ok(());
            }
            Err(Error::Io { source, .. }) if is_moving(&source) && began.elapsed() < SETTLE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => return other,
        }
    }
}

fn is_moving(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
}

fn remove_on(path: &Path, meta: &fs::Metadata, device: u64) -> Result<()> {
    if meta.dev() != device {
        let source = std::io::Error::other("a file system is mounted there; unmount it first");
        return Err(Error::io("remove", path)(source));
    }
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(Error::io("remove", path));
    }
    // A root has directories without write permission; only their owner, us, may change that.
    if meta.permissions().mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(Error::io("chmod", path))?;
    }
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?.path();
        let meta = fs::symlink_metadata(&entry).map_err(Error::io("look at", &entry))?;
        remove_on(&entry, &meta, device)?;
    }
    fs::remove_dir(path).map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_with_its_read_only_directories_and_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::write(&kept, "x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("closed")).unwrap();
        fs::write(tree.join("closed/file"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
        fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(kept.exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn nothing_is_removed_across_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let meta = fs::symlink_metadata(&file).unwrap();
        let error = remove_on(&file, &meta, meta.dev() + 1).unwrap_err().to_string();
        assert!(error.contains("a file system is mounted there"), "{error}");
        assert!(file.exists());
    }

    #[test]
    fn a_tree_that_somebody_still_writes_to_goes_when_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let writing = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while writing.load(std::sync::atomic::Ordering::Relaxed) {
                    n += 1;
                    // Fails while the directory is gone, as a killed builder's children would.
                    let _ = fs::create_dir_all(tree.join(format!("{n}")));
                    if n == 2000 {
                        writing.store(false, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
            while writing.load(std::sync::atomic::Ordering::Relaxed) {
                remove(&tree).unwrap();
            }
        });
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn hard_links_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        fs::write(&one, vec![1_u8; 1 << 20]).unwrap();
        fs::File::open(&one).unwrap().sync_all().unwrap();
        let before = size_on_disk(dir.path());
        fs::hard_link(&one, dir.path().join("two")).unwrap();
        assert_eq!(size_on_disk(dir.path()), before);
    }
}
