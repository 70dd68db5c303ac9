// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cpio archive of an initramfs, in memory. Everything belongs to root and has no time, so equal content gives equal
//! bytes. Directories come before what lies in them: the kernel makes none by itself (init/initramfs.c).

use cpio::newc;
use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY_TYPE: u32 = 0o040_000;
const DIRECTORY: u32 = DIRECTORY_TYPE | 0o755;
/// The bits that say what an entry is (S_IFMT).
const FILE_TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under way.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    /// Everything else.
    others: BTreeSet<String>,
    entries: u32,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    Nothing,
    Directory,
    Other,
}

impl Archive {
    /// What an archive that is unpacked so far has there.
    pub(crate) fn there(&self, path: &str) -> There {
        let path = path.trim_matches('/');
        match (self.directories.contains(path), self.others.contains(path)) {
            (true, _) => There::Directory,
            (_, true) => There::Other,
            _ => There::Nothing,
        }
    }

    /// A directory with permissions of its own; one that is there keeps what it has.
    pub(crate) fn directory_with(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.parent(path)?;
        let path = path.trim_matches('/');
        match self.directories.insert(path.to_owned()) {
            true => self.entry(path, DIRECTORY_TYPE | permissions, (0, 0), &[]),
            false => Ok(()),
        }
    }

    /// A directory, with those above it.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let path = &path[..at];
            if !path.is_empty() && self.directories.insert(path.to_owned()) {
                self.entry(path, DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A file with permissions, as 0o755.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, FILE | permissions, (0, 0), content)
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// The whole archive.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        newc::trailer(self.bytes)
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        if mode & FILE_TYPE != DIRECTORY_TYPE {
            self.others.insert(path.trim_matches('/').to_owned());
        }
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} is over cpio's limit of 4 GiB"))
        })?;
        let builder = newc::Builder::new(path.trim_start_matches('/'))
            .ino(self.entries)
            .mode(mode)
            .nlink(1)
            .rdev_major(device.0)
            .rdev_minor(device.1);
        let mut writer = builder.write(std::mem::take(&mut self.bytes), size);
        writer.write_all(content)?;
        self.bytes = writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and content of every entry, read by the crate's own reader.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(bytes).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                return found;
            }
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            found.push((entry.name().to_owned(), entry.mode(), content));
            bytes = reader.finish().unwrap();
        }
    }

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.device("/dev/console", 5, 1).unwrap();
        archive.file("/usr/sbin/mke2fs", 0o755, b"program").unwrap();
        archive.symlink("/usr/sbin/mkfs.ext4", "mke2fs").unwrap();
        archive.file("/init", 0o755, b"agent").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn directories_come_first_and_once() {
        let found = entries(&sample());
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        let expected =
            ["dev", "dev/console", "usr", "usr/sbin", "usr/sbin/mke2fs", "usr/sbin/mkfs.ext4", "init"];
        assert_eq!(names, expected);
        assert_eq!(found[4], ("usr/sbin/mke2fs".to_owned(), 0o100_755, b"program".to_vec()));
        assert_eq!(found[5], ("usr/sbin/mkfs.ext4".to_owned(), 0o120_777, b"mke2fs".to_vec()));
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn numbers_and_padding_are_those_of_newc() {
        let mut archive = Archive::default();
        archive.file("ab", 0o644, b"xyz").unwrap();
        let bytes = archive.finish().unwrap();
        // Header of 110 bytes and name of 3 with its zero, padded to 4; then 3 bytes of content, padded to 4.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081a4");
        assert_eq!(&bytes[54..62], b"00000003");
        assert_eq!(&bytes[110..113], b"ab\0");
        assert_eq!(&bytes[116..120], b"xyz\0");
        assert_eq!(&bytes[120..126], b"070701");
    }
}
