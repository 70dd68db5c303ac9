// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files and devices: open, stamped writes, reads that survive errors, sizes, clones, syncs, knobs below /proc and /sys.

use crate::cells::{self, CellReader};
use crate::error::{OrRefused, StepError, failed};
use crate::sys::{self, DedupeRange, PAGE_BYTES};
use longpin_proto::agent::{Fallocate, Fill, Lease, OpenFlags, Via};
use longpin_proto::facts::Cells;
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Open a file as the step says.
pub fn open(path: &str, flags: OpenFlags) -> Result<OwnedFd, StepError> {
    let mut oflags = if flags.write { OFlags::RDWR } else { OFlags::RDONLY };
    oflags.set(OFlags::CREATE, flags.create);
    oflags.set(OFlags::TRUNC, flags.truncate);
    oflags.set(OFlags::DIRECT, flags.direct);
    open_with(path, oflags)
}

fn open_with(path: &str, oflags: OFlags) -> Result<OwnedFd, StepError> {
    rustix::fs::open(path, oflags | OFlags::CLOEXEC, Mode::from(0o600)).or_refused(&format!("open({path})"))
}

/// Take a lease, change it, or give it back.
pub fn lease(file: impl AsFd, lease: Lease) -> Result<(), StepError> {
    let kind = match lease {
        Lease::Read => libc::F_RDLCK,
        Lease::Write => libc::F_WRLCK,
        Lease::None => libc::F_UNLCK,
    };
    sys::set_lease(file.as_fd(), kind).or_refused("fcntl(F_SETLEASE)")
}

/// Wait until the kernel wants a write lease to be something else: when it would send SIGIO.
pub fn await_lease_break(file: impl AsFd, wait: Duration) -> Result<(), StepError> {
    let deadline = Instant::now() + wait;
    while sys::lease(file.as_fd()).or_refused("fcntl(F_GETLEASE)")? == libc::F_WRLCK {
        if Instant::now() >= deadline {
            return failed!("nobody asked for the lease within {} ms", wait.as_millis());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Write stamped cells by pwrite(2), 1 MiB a call.
pub fn write_cells(file: impl AsFd, offset: u64, len: u64, fill: &Fill) -> Result<(), StepError> {
    cells::validate_fill(offset, len, fill)?;
    let mut buffer = AlignedBuffer::new(cells::WINDOW_BYTES.min(len) as usize);
    for window in (0..len).step_by(cells::WINDOW_BYTES as usize) {
        let bytes = &mut buffer.bytes()[..cells::WINDOW_BYTES.min(len - window) as usize];
        cells::stamp_range(bytes, offset + window, 0, fill);
        write_all_at(&file, bytes, offset + window).or_refused("pwrite")?;
    }
    Ok(())
}

fn write_all_at(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&file, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Read cells of a file. Refused only if it cannot be opened.
pub fn read_cells(path: &str, offset: u64, len: u64, cell_bytes: u32, via: Via) -> Result<Cells, StepError> {
    cells::validate_cell_bytes(cell_bytes)?;
    cells::validate_range(offset, len)?;
    match via {
        Via::Buffered => {
            let file = open_with(path, OFlags::RDONLY)?;
            let reader = CellReader::new(cell_bytes, |at, out: &mut [u8]| rustix::io::pread(&file, out, at));
            Ok(reader.read(offset, len, offset))
        }
        Via::Direct => {
            let file = open_with(path, OFlags::RDONLY | OFlags::DIRECT)?;
            let mut buffer = AlignedBuffer::new((cells::WINDOW_BYTES + 2 * PAGE_BYTES) as usize);
            let reader =
                CellReader::new(cell_bytes, |at, out: &mut [u8]| read_direct(&file, &mut buffer, at, out));
            Ok(reader.read(offset, len, offset))
        }
    }
}

/// pread(2) of any range by aligned O_DIRECT reads around it.
fn read_direct(file: impl AsFd, buffer: &mut AlignedBuffer, at: u64, out: &mut [u8]) -> Result<usize, Errno> {
    let start = at - at % PAGE_BYTES;
    let skip = (at - start) as usize;
    let cover = (skip + out.len()).next_multiple_of(PAGE_BYTES as usize);
    let got = rustix::io::pread(file, &mut buffer.bytes()[..cover], start)?;
    let n = got.saturating_sub(skip).min(out.len());
    out[..n].copy_from_slice(&buffer.bytes()[skip..skip + n]);
    Ok(n)
}

/// Overwrite bytes of a device behind every cache of the file system: O_DIRECT, whole pages read, changed, written.
pub fn poke_device(device: &str, offset: u64, len: u64, byte: u8) -> Result<(), StepError> {
    if len == 0 || len > cells::WINDOW_BYTES {
        return failed!("poke of {len} bytes; use 1 to {}", cells::WINDOW_BYTES);
    }
    cells::validate_range(offset, len)?;
    let file = open_with(device, OFlags::RDWR | OFlags::DIRECT | OFlags::DSYNC)?;
    let start = offset - offset % PAGE_BYTES;
    let skip = (offset - start) as usize;
    let cover = (skip + len as usize).next_multiple_of(PAGE_BYTES as usize);
    let mut buffer = AlignedBuffer::new(cover);
    let got = rustix::io::pread(&file, buffer.bytes(), start).or_refused("pread")?;
    if got < skip + len as usize {
        return failed!("{device} ends before byte {}", offset + len);
    }
    buffer.bytes()[skip..skip + len as usize].fill(byte);
    write_all_at(&file, &buffer.bytes()[..got], start).or_refused("pwrite")
}

/// fallocate(2).
pub fn fallocate(file: impl AsFd, mode: Fallocate, offset: u64, len: u64) -> Result<(), StepError> {
    let (flags, call) = match mode {
        Fallocate::Allocate => (FallocateFlags::empty(), "fallocate"),
        Fallocate::PunchHole => {
            (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, "fallocate(FALLOC_FL_PUNCH_HOLE)")
        }
        Fallocate::ZeroRange => (FallocateFlags::ZERO_RANGE, "fallocate(FALLOC_FL_ZERO_RANGE)"),
    };
    rustix::fs::fallocate(file, flags, offset, len).or_refused(call)
}

/// ioctl(FIDEDUPERANGE) of the first bytes. A file system may share less at a time than it is asked for.
pub fn dedupe(from: impl AsFd, to: impl AsFd, len: u64) -> Result<(), StepError> {
    const CALL: &str = "ioctl(FIDEDUPERANGE)";
    const DIFFERS: i32 = 1;
    let mut done = 0;
    while done < len {
        let mut range = DedupeRange {
            source_offset: done,
            source_len: len - done,
            destination: to.as_fd().as_raw_fd().into(),
            destination_offset: done,
            ..DedupeRange::default()
        };
        sys::dedupe(&from, &mut range).or_refused(CALL)?;
        match range.status {
            0 if range.bytes_deduped > 0 => done += range.bytes_deduped,
            0 => return failed!("{CALL} shared none of {} bytes", len - done),
            DIFFERS => return failed!("{CALL} finds that the files differ behind byte {done}"),
            errno => return Err::<(), _>(Errno::from_raw_os_error(-errno)).or_refused(CALL),
        }
    }
    Ok(())
}

/// copy_file_range(2) of the first bytes.
pub fn copy_range(from: impl AsFd, to: impl AsFd, len: u64) -> Result<(), StepError> {
    let (mut read_at, mut written_at) = (0, 0);
    while written_at < len {
        let left = usize::try_from(len - written_at).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut written_at), left);
        if copied.or_refused("copy_file_range")? == 0 {
            return failed!("copy_file_range copied {written_at} of {len} bytes: the file is shorter");
        }
    }
    Ok(())
}

/// fsync(2) or fdatasync(2).
pub fn fsync(file: impl AsFd, data_only: bool) -> Result<(), StepError> {
    if data_only {
        rustix::fs::fdatasync(file).or_refused("fdatasync")
    } else {
        rustix::fs::fsync(file).or_refused("fsync")
    }
}

/// syncfs(2) on a directory.
pub fn syncfs(dir: &str) -> Result<(), StepError> {
    let dir = open_with(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::syncfs(dir).or_refused("syncfs")
}

/// sync(2), then drop the page cache, dentries and inodes.
pub fn drop_caches() -> Result<(), StepError> {
    rustix::fs::sync();
    write_text("/proc/sys/vm/drop_caches", "3")
}

/// Write a value below /sys or /proc.
pub fn write_sys(path: &str, value: &str) -> Result<(), StepError> {
    validate_sys(path)?;
    write_text(path, value)
}

/// Write to an existing file in one call, as the kernel's knobs want it.
pub fn write_text(path: &str, value: &str) -> Result<(), StepError> {
    let file = open_with(path, OFlags::WRONLY)?;
    rustix::io::write(file, value.as_bytes()).or_refused(&format!("write({path})")).map(|_| ())
}

fn validate_sys(path: &str) -> Result<(), StepError> {
    let below = path.starts_with("/sys/") || path.starts_with("/proc/");
    if below && !path.split('/').any(|part| part == "..") {
        return Ok(());
    }
    failed!("`{path}` is not below /sys or /proc")
}

/// A buffer that O_DIRECT takes: aligned to a page, which covers every logical block size that Linux mounts on x86.
struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    fn new(len: usize) -> Self {
        let storage = vec![0; len + PAGE_BYTES as usize];
        let start = storage.as_ptr().align_offset(PAGE_BYTES as usize);
        Self { storage, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::facts::{CellState, Source};

    const FILL: Fill = Fill { run: 1, generation: 2, cell_bytes: 512, source: Source::Cpu };

    fn temporary() -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let path = file.path().display().to_string();
        (file, path)
    }

    #[test]
    fn buffered_and_direct_reads_of_unaligned_ranges_agree() {
        let (file, path) = temporary();
        write_cells(file.as_file(), 0, 3 << 20, &FILL).unwrap();
        rustix::fs::ftruncate(file.as_file(), (3 << 20) - 100).unwrap();
        for (offset, len) in [(0, 3 << 20), (512, 4096), (4096 - 512, 2 << 20), ((3 << 20) - 1024, 8192)] {
            let buffered = read_cells(&path, offset, len, 512, Via::Buffered).unwrap();
            match read_cells(&path, offset, len, 512, Via::Direct) {
                Ok(direct) => assert_eq!(direct, buffered, "{offset} {len}"),
                // File systems without O_DIRECT refuse the open.
                Err(StepError::Refused(errno)) => assert_eq!(errno.name, "EINVAL"),
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    /// An open waits for a lease only if it may: this one says at once that it would.
    #[test]
    fn a_write_lease_is_asked_for_when_somebody_opens_the_file() {
        let (named, path) = temporary();
        let file = named.as_file();
        let wait = Duration::from_millis(1);
        match lease(file, Lease::Write) {
            // A file system without leases.
            Err(StepError::Refused(errno)) if errno.name == "EINVAL" => return,
            other => other.unwrap(),
        }
        let Err(StepError::Failed(text)) = await_lease_break(file, wait) else { panic!("it was asked for") };
        assert_eq!(text, "nobody asked for the lease within 1 ms");
        let open = || open_with(&path, OFlags::RDONLY | OFlags::NONBLOCK);
        let Err(StepError::Refused(errno)) = open() else { panic!("opened") };
        assert_eq!(errno.name, "EAGAIN");
        await_lease_break(file, wait).unwrap();
        lease(file, Lease::None).unwrap();
        open().unwrap();
    }

    #[test]
    fn a_poke_changes_its_bytes_only() {
        let (file, path) = temporary();
        write_cells(file.as_file(), 0, 16384, &FILL).unwrap();
        match poke_device(&path, 5000, 3, 0xee) {
            Err(StepError::Refused(errno)) if errno.name == "EINVAL" => return,
            other => other.unwrap(),
        }
        let mut expected = vec![0; 16384];
        cells::stamp_range(&mut expected, 0, 0, &FILL);
        expected[5000..5003].fill(0xee);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert!(poke_device(&path, 0, 0, 0).is_err());
        assert!(poke_device(&path, 16384, 1, 0).is_err());
    }

    #[test]
    fn an_open_that_fails_names_the_path() {
        let Err(StepError::Refused(errno)) = open("/no/such/file", OpenFlags::default()) else {
            panic!("opened")
        };
        assert_eq!((errno.name.as_str(), errno.call.as_str()), ("ENOENT", "open(/no/such/file)"));
    }

    #[test]
    fn knobs_are_only_below_sys_and_proc() {
        for path in ["/etc/passwd", "/proc/../etc/passwd", "proc/self/stat"] {
            assert!(matches!(write_sys(path, "1"), Err(StepError::Failed(_))), "{path}");
        }
    }

    #[test]
    fn a_punched_hole_reads_as_zero() {
        let (file, path) = temporary();
        write_cells(file.as_file(), 0, 16384, &FILL).unwrap();
        fallocate(file.as_file(), Fallocate::PunchHole, 4096, 4096).unwrap();
        let cells = read_cells(&path, 0, 16384, 512, Via::Buffered).unwrap();
        assert_eq!(cells.runs[1].state, CellState::Zero);
        assert_eq!((cells.runs[1].offset, cells.runs[1].count, cells.runs.len()), (4096, 8, 3));
    }
}
