// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A directory tree of the user's that a guest finds in its root: firmware, programs, other versions of those that it
//! has. It is read once, so that every boot of a run gets the same, and named by its content.
//!
//! The kernel unpacks a file over one that is there, but never a directory over something else or the reverse
//! (clean_path() in init/initramfs.c fails without a word), so such trees are refused.

use crate::archive::{Archive, There};
use crate::error::{Error, Result};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Set-user-ID and the like included.
const PERMISSIONS: u32 = 0o7777;
/// What is ours: the agent, and the modules that it loads.
const OURS: [&str; 2] = ["/init", "/lib/longpin"];
/// The agent mounts over these; file systems under test come to the last.
const MOUNTED_OVER: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/mnt"];

/// The tree, read.
#[derive(Debug, Clone)]
pub struct Overlay {
    dir: PathBuf,
    entries: Vec<Entry>,
    hash: String,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Absolute, in the guest.
    path: String,
    from: PathBuf,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Directory { permissions: u32 },
    File { permissions: u32, content: Vec<u8> },
    Symlink { target: String },
}

impl Overlay {
    /// Reads the tree. A guest has it in memory twice for a moment, so it may have `most_bytes` at most.
    ///
    /// Errors: `UnfitOverlay`; `Io` if something in it cannot be read.
    pub fn read(dir: &Path, most_bytes: u64) -> Result<Self> {
        if !dir.is_dir() {
            let problem = if dir.exists() { "it is no directory" } else { "there is no such directory" };
            return Err(unfit(
                dir,
                problem,
                "give the directory whose content is to lie in the guest's root",
            ));
        }
        let mut reading = Reading { entries: Vec::new(), left: most_bytes, most_bytes };
        reading.directory(dir, "")?;
        let entries = reading.entries;
        let mut hasher = blake3::Hasher::new();
        for Entry { path, what, .. } in &entries {
            let (kind, permissions, content) = match what {
                What::Directory { permissions } => ("directory", *permissions, &[][..]),
                What::File { permissions, content } => ("file", *permissions, content.as_slice()),
                What::Symlink { target } => ("symlink", 0, target.as_bytes()),
            };
            // No path and no content can be taken for another one's: the length stands before them.
            let head = format!("{kind} {permissions:o} {} {} {path}", path.len(), content.len());
            hasher.update(head.as_bytes()).update(content);
        }
        Ok(Self { dir: dir.to_owned(), entries, hash: hasher.finalize().to_hex().to_string() })
    }

    /// Where it was read.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// BLAKE3 of paths, permissions and content, hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Behind all that the archive has.
    pub(crate) fn add_to(&self, archive: &mut Archive) -> Result<()> {
        for Entry { path, from, what } in &self.entries {
            let directory = matches!(what, What::Directory { .. });
            let problem = match archive.there(path) {
                There::Directory if !directory => Some("is a directory in the guest"),
                There::Other if directory => Some("is a file or a symbolic link in the guest"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Err(unfit(from, &format!("{path} {problem}"), "give it another place"));
            }
            let added = match what {
                What::Directory { permissions } => archive.directory_with(path, *permissions),
                What::File { permissions, content } => archive.file(path, *permissions, content),
                What::Symlink { target } => archive.symlink(path, target),
            };
            added.map_err(Error::io("pack", from))?;
        }
        Ok(())
    }
}

struct Reading {
    entries: Vec<Entry>,
    left: u64,
    most_bytes: u64,
}

impl Reading {
    /// In the order of the names, each directory before what lies in it.
    fn directory(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        let listed = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut listed = listed.map_err(Error::io("read", dir))?;
        listed.sort_by_key(fs::DirEntry::file_name);
        for entry in listed {
            let from = entry.path();
            let name = entry.file_name();
            let name =
                name.to_str().ok_or_else(|| unfit(&from, "its name is not UTF-8", "give it another name"))?;
            self.entry(&from, format!("{prefix}/{name}"))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, path: String) -> Result<()> {
        let meta = fs::symlink_metadata(from).map_err(Error::io("look at", from))?;
        let (kind, permissions) = (meta.file_type(), meta.permissions().mode() & PERMISSIONS);
        let lies_in =
            |dir: &str| path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(ours) = OURS.iter().find(|ours| lies_in(ours)) {
            let problem = format!("{ours} is longpin's own in the guest");
            return Err(unfit(from, &problem, "leave it out, or give it another place"));
        }
        if !kind.is_dir()
            && let Some(dir) = MOUNTED_OVER.iter().find(|dir| lies_in(dir))
        {
            let problem = format!("a file system is mounted over {dir} in the guest, which would hide it");
            return Err(unfit(from, &problem, "give it another place"));
        }
        let special = [
            (kind.is_socket(), "a socket"),
            (kind.is_fifo(), "a FIFO"),
            (kind.is_block_device() || kind.is_char_device(), "a device node"),
        ];
        if let Some((_, what)) = special.iter().find(|(is, _)| *is) {
            let remedy = "an overlay has directories, files and symbolic links; leave it out";
            return Err(unfit(from, &format!("it is {what}"), remedy));
        }
        let what = match kind {
            kind if kind.is_dir() => What::Directory { permissions },
            kind if kind.is_symlink() => {
                let target = fs::read_link(from).map_err(Error::io("read", from))?;
                let target = target
                    .to_str()
                    .ok_or_else(|| unfit(from, "its target is not UTF-8", "give it another target"))?;
                What::Symlink { target: target.to_owned() }
            }
            _ => {
                self.account(from, meta.len())?;
                What::File { permissions, content: fs::read(from).map_err(Error::io("read", from))? }
            }
        };
        let below = matches!(what, What::Directory { .. }).then(|| path.clone());
        self.entries.push(Entry { path, from: from.to_owned(), what });
        below.map_or(Ok(()), |path| self.directory(from, &path))
    }

    fn account(&mut self, from: &Path, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let most = self.most_bytes >> 20;
            let problem =
                format!("with it the overlay has more than {most} MiB, a quarter of the guest's memory");
            unfit(from, &problem, "leave out what is not needed, or give the guest more (--memory)")
        })?;
        Ok(())
    }
}

fn unfit(path: &Path, problem: &str, remedy: &str) -> Error {
    Error::UnfitOverlay { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("usr/bin")).unwrap();
        fs::write(at("usr/bin/tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at("usr/bin/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(at("usr/bin"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("tool", at("usr/bin/alias")).unwrap();
        symlink("/nowhere", at("dangling")).unwrap();
        dir
    }

    fn names(overlay: &Overlay) -> Vec<&str> {
        overlay.entries.iter().map(|entry| entry.path.as_str()).collect()
    }

    fn problem(dir: &Path) -> String {
        Overlay::read(dir, 100).unwrap_err().to_string()
    }

    #[test]
    fn a_tree_keeps_its_modes_and_links_and_is_named_by_its_content() {
        let dir = tree();
        let overlay = Overlay::read(dir.path(), 100).unwrap();
        assert_eq!(names(&overlay), ["/dangling", "/usr", "/usr/bin", "/usr/bin/alias", "/usr/bin/tool"]);
        let what: Vec<&What> = overlay.entries.iter().map(|entry| &entry.what).collect();
        assert!(matches!(what[0], What::Symlink { target } if target == "/nowhere"));
        assert!(matches!(what[2], What::Directory { permissions: 0o700 }));
        assert!(matches!(what[4], What::File { permissions: 0o4750, content } if content == b"#!/bin/sh\n"));
        assert_eq!(Overlay::read(tree().path(), 100).unwrap().hash(), overlay.hash());
        fs::set_permissions(dir.path().join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(Overlay::read(dir.path(), 100).unwrap().hash(), overlay.hash());
    }

    #[test]
    fn what_cannot_be_in_a_guest_is_refused_with_the_path_and_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(problem(&at("absent")).contains("no such directory; give the directory"));
        fs::write(at("file"), "x").unwrap();
        assert!(problem(&at("file")).contains("it is no directory"));
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(problem(dir.path()).contains("socket: it is a socket; an overlay has directories, files"));
        drop(socket);
        fs::remove_file(at("socket")).unwrap();
        for name in ["init", "lib/longpin/modules", "tmp/x", "dev/x", "mnt/a"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            let problem = problem(dir.path());
            assert!(problem.contains("give it another place"), "{name}: {problem}");
        }
        fs::write(at("file"), vec![0; 101]).unwrap();
        assert!(problem(dir.path()).contains("--memory"));
    }

    #[test]
    fn files_replace_files_and_nothing_else() {
        let guest = || {
            let mut archive = Archive::default();
            archive.file("/usr/bin/tool", 0o755, b"old").unwrap();
            archive.symlink("/lib64", "usr/lib64").unwrap();
            archive
        };
        let overlay = Overlay::read(tree().path(), 100).unwrap();
        let mut archive = guest();
        overlay.add_to(&mut archive).unwrap();
        let bytes = archive.finish().unwrap();
        let count = |text: &[u8]| bytes.windows(text.len()).filter(|window| *window == text).count();
        assert_eq!((count(b"usr/bin/tool\0"), count(b"usr/bin\0")), (2, 1));

        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib64")).unwrap();
        let error = Overlay::read(dir.path(), 100).unwrap().add_to(&mut guest()).unwrap_err();
        assert!(error.to_string().contains("/lib64 is a file or a symbolic link in the guest"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("usr"), "x").unwrap();
        let error = Overlay::read(dir.path(), 100).unwrap().add_to(&mut guest()).unwrap_err();
        assert!(error.to_string().contains("/usr is a directory in the guest"), "{error}");
    }
}
