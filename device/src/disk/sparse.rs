// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies of images that cost what is in them: shared blocks where the file system can, else data without holes.

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes of one step where the host does not copy by itself; also the grain of holes that are found by reading.
const STEP: u64 = 1 << 20;

/// Give `to` the first `bytes` of `from`. `to` may have any content before; it is not made longer or shorter, and has
/// at least so many bytes.
pub fn copy(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    let whole = from.metadata()?.is_file() && from.metadata()?.len() == bytes;
    if whole && ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < bytes {
        let data = next(from, SeekFrom::Data(at), bytes, at)?;
        clear(to, at, data - at)?;
        let hole = next(from, SeekFrom::Hole(data), bytes, bytes)?;
        copy_data(from, to, data, hole)?;
        at = hole;
    }
    Ok(())
}

/// Where the next data or hole is; `otherwise` on files that do not know (block devices say EINVAL).
fn next(file: &File, whence: SeekFrom, end: u64, otherwise: u64) -> io::Result<u64> {
    match seek(file, whence) {
        Ok(at) => Ok(at.min(end)),
        // No data up to the end of the file.
        Err(Errno::NXIO) => Ok(end),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(otherwise),
        Err(error) => Err(error.into()),
    }
}

fn copy_data(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let (mut source, mut target) = (at, at);
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
        at += match copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes as u64,
            // Across file systems, from devices, on old kernels.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                let step = STEP.min(end - at);
                copy_step(from, to, at, step)?;
                step
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

fn copy_step(from: &File, to: &File, at: u64, len: u64) -> io::Result<()> {
    let mut bytes = vec![0; len as usize];
    from.read_exact_at(&mut bytes, at)?;
    if bytes.iter().all(|byte| *byte == 0) { clear(to, at, len) } else { to.write_all_at(&bytes, at) }
}

/// Make a range read as zeroes.
fn clear(file: &File, at: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len) {
        Err(Errno::OPNOTSUPP) => write_zeroes(file, at, len),
        other => Ok(other?),
    }
}

fn write_zeroes(file: &File, at: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; STEP.min(len) as usize];
    let ends = (at..at + len).step_by(STEP as usize);
    ends.into_iter().try_for_each(|step| {
        let len = (at + len - step).min(STEP) as usize;
        file.write_all_at(&zeroes[..len], step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn file(dir: &str, bytes: u64) -> File {
        let file = tempfile::tempfile_in(dir).unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    fn content(file: &File, bytes: u64) -> Vec<u8> {
        let mut content = vec![0; bytes as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    fn allocated(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512
    }

    fn check(from: &File, to: &File, bytes: u64) {
        to.write_all_at(&vec![0xee; bytes as usize], 0).unwrap();
        copy(from, to, bytes).unwrap();
        assert!(content(from, bytes) == content(to, bytes));
        assert!(allocated(to) < bytes / 2, "holes stay holes");
    }

    #[test]
    fn content_and_holes_are_copied_over_what_was_there() {
        const BYTES: u64 = 16 << 20;
        let from = file("/tmp", BYTES);
        for at in [0, 5 << 20, BYTES - 4096] {
            from.write_all_at(&[0x5a; 4096], at).unwrap();
        }
        check(&from, &file("/tmp", BYTES), BYTES);
        // Another file system.
        check(&from, &file("/dev/shm", BYTES), BYTES);
        check(&file("/dev/shm", BYTES), &file("/tmp", BYTES), BYTES);
    }

    #[test]
    fn zeroes_are_written_where_there_are_no_holes() {
        let to = file("/tmp", 3 << 20);
        to.write_all_at(&[1; 3 << 20], 0).unwrap();
        write_zeroes(&to, 512, (2 << 20) + 100).unwrap();
        let bytes = content(&to, 3 << 20);
        assert!(bytes.iter().enumerate().all(|(i, b)| (*b == 0) == (512..(2 << 20) + 612).contains(&i)));
    }
}
