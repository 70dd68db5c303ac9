// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The image behind a disk: a raw file or a block device, opened and locked. Its size is read once: the disk's
//! capacity does not change while the daemon runs.

use super::lock::{self, Locked};
use rustix::fs::{SeekFrom, seek};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Cannot be opened, or what open means for it.
    #[error("image {path:?}: {source}")]
    Open {
        /// Image.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("image {0:?} is neither a regular file nor a block device")]
    Kind(PathBuf),
    /// Not even one block.
    #[error(
        "image {path:?} is too small: it has {bytes} bytes, a block has {block_bytes}; make it with truncate -s"
    )]
    TooSmall {
        /// Image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Size of a block.
        block_bytes: u32,
    },
    /// Not whole blocks.
    #[error("image {path:?} has {bytes} bytes, which are not whole blocks of {block_bytes}; resize it")]
    Ragged {
        /// Image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Size of a block.
        block_bytes: u32,
    },
    /// Locked by somebody.
    #[error("image {path:?} is in use by {by}; end that or use a copy")]
    InUse {
        /// Image.
        path: PathBuf,
        /// Who has it open.
        by: String,
    },
}

/// An image that is ours.
#[derive(Debug)]
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading, and for writing unless `read_only`.
    pub file: File,
    /// Its size, whole blocks.
    pub bytes: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Opened without the right to write.
    pub read_only: bool,
    /// A block device, not a file.
    pub is_device: bool,
    /// What can be done with it.
    pub abilities: Abilities,
}

/// What the image's file system can do by itself; learned by trying.
#[derive(Debug, Default)]
pub struct Abilities {
    cannot_punch: AtomicBool,
    cannot_zero: AtomicBool,
}

impl Abilities {
    /// Holes.
    pub fn punch(&self) -> bool {
        !self.cannot_punch.load(Ordering::Relaxed)
    }

    /// Zeroed ranges that keep their place.
    pub fn zero(&self) -> bool {
        !self.cannot_zero.load(Ordering::Relaxed)
    }

    /// fallocate(2) with `mode` is not supported.
    pub fn lose(&self, mode: i32) {
        let punched = mode & nix::libc::FALLOC_FL_PUNCH_HOLE != 0;
        let lost = if punched { &self.cannot_punch } else { &self.cannot_zero };
        lost.store(true, Ordering::Relaxed);
    }
}

impl Image {
    /// Open and lock an image.
    pub fn open(path: &Path, block_bytes: u32, read_only: bool) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open { path: path.into(), source };
        // Looked at before it is opened: a named pipe would block.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            return Err(ImageError::Kind(path.into()));
        }
        let mut how = OpenOptions::new();
        how.read(true).write(!read_only);
        if is_device && !read_only {
            // Refused with EBUSY while the device is mounted or part of another (block/bdev.c: bd_prepare_to_claim).
            how.custom_flags(nix::libc::O_EXCL);
        }
        let file = match how.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(in_use(path)),
            Err(error) => return Err(failed(error)),
        };
        // A block device has no size in its metadata.
        let bytes = seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?;
        if bytes < u64::from(block_bytes) {
            return Err(ImageError::TooSmall { path: path.into(), bytes, block_bytes });
        }
        if !bytes.is_multiple_of(u64::from(block_bytes)) {
            return Err(ImageError::Ragged { path: path.into(), bytes, block_bytes });
        }
        if lock::lock(&file, read_only).map_err(failed)? == Locked::InUse {
            return Err(in_use(path));
        }
        Ok(Self {
            path: path.into(),
            file,
            bytes,
            block_bytes,
            read_only,
            is_device,
            abilities: Abilities::default(),
        })
    }
}

fn in_use(path: &Path) -> ImageError {
    let users = std::fs::metadata(path).map(|meta| lock::users(&meta)).unwrap_or_default();
    let by = match &users[..] {
        [] => "another disk of this daemon, or a process that cannot be seen".into(),
        users => users.join(", "),
    };
    ImageError::InUse { path: path.into(), by }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn an_image_of_whole_blocks_is_taken_once() {
        let file = image(8192);
        let first = Image::open(file.path(), 4096, false).unwrap();
        assert_eq!((first.bytes, first.block_bytes, first.is_device), (8192, 4096, false));
        let error = Image::open(file.path(), 4096, false).unwrap_err();
        assert!(matches!(error, ImageError::InUse { .. }), "{error}");
        drop(first);
        Image::open(file.path(), 4096, false).unwrap();
    }

    #[test]
    fn sizes_that_make_no_disk_are_refused() {
        for bytes in [0, 511] {
            let error = Image::open(image(bytes).path(), 512, false).unwrap_err();
            assert!(error.to_string().contains("is too small"), "{error}");
        }
        let error = Image::open(image(4096 + 512).path(), 4096, false).unwrap_err();
        assert!(error.to_string().contains("not whole blocks of 4096"), "{error}");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let missing = Image::open(Path::new("/nonexistent/image"), 512, false).unwrap_err();
        assert!(missing.to_string().contains("No such file"), "{missing}");
        let directory = Image::open(Path::new("/"), 512, true).unwrap_err();
        assert!(directory.to_string().contains("neither a regular file"), "{directory}");
        let null = Image::open(Path::new("/dev/null"), 512, true).unwrap_err();
        assert!(matches!(null, ImageError::Kind(_)), "{null}");
    }
}
