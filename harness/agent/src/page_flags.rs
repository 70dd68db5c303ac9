// SPDX-License-Identifier: Apache-2.0 OR MIT
//! State of a file's pages by `/proc/kpageflags`, for kernels without cachestat(2). A program of its own: the agent's
//! binary with the argument [`ARGUMENT`], a file, an offset and a length.
//!
//! mincore(2) says which pages are in the cache. Only those are touched, by a mapping for reading with MADV_RANDOM, so
//! that nothing is read in; `/proc/self/pagemap` then has their frames, and `/proc/kpageflags` the flags of those. A tail
//! page has the flags of its head (fs/proc/page.c).

use crate::error::{OrRefused, StepError, failed};
use crate::sys::{MapSource, PAGE_BYTES, UserMemory};
use longpin_proto::facts::PageState;
use rustix::fs::{Mode, OFlags};
use rustix::mm::Advice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

/// First argument of the program.
pub const ARGUMENT: &str = "page-flags";
/// Bits of `/proc/kpageflags` (include/uapi/linux/kernel-page-flags.h).
const DIRTY: u64 = 1 << 4;
const WRITEBACK: u64 = 1 << 8;
const SWAPBACKED: u64 = 1 << 14;
const COMPOUND_TAIL: u64 = 1 << 16;
/// Of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
/// Tail pages of one folio at most: the largest has 1 GiB.
const MAX_TAILS: u64 = 1 << 18;
/// How often a page is touched that is in the cache and does not come: it can be taken out, or be under a lock.
const TOUCHES: u32 = 100;

/// The whole program: `FILE OFFSET LENGTH`.
pub fn program(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let path = arguments.next().unwrap_or_default();
    let mut number = || arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    match state(&path, number(), number()) {
        Ok(PageState { cached, dirty, writeback, .. }) => {
            println!("{cached} {dirty} {writeback}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the program printed.
pub fn parse(output: &str) -> Option<PageState> {
    let mut numbers = output.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (cached, dirty, writeback) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(PageState { cached, dirty, writeback, evicted: 0 })
}

/// `[offset, offset + len)` of a file; a length of 0 means to its end.
fn state(path: &str, offset: u64, len: u64) -> Result<PageState, StepError> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).or_failed(path)?;
    let size = rustix::fs::fstat(&file).or_failed(path)?.st_size as u64;
    let first = offset / PAGE_BYTES * PAGE_BYTES;
    let end = if len == 0 { size } else { offset.saturating_add(len).min(size) };
    let mut state = PageState { cached: 0, dirty: 0, writeback: 0, evicted: 0 };
    if end <= first {
        return Ok(state);
    }
    let len = (end - first).next_multiple_of(PAGE_BYTES);
    let mut memory = UserMemory::map(MapSource::File(&file, first), len, true, false).or_failed("mmap")?;
    memory.advise(0, len, Advice::Random).or_failed("madvise(MADV_RANDOM)")?;
    let frames = Frames::open()?;
    for (page, in_cache) in memory.in_core().or_failed("mincore")?.into_iter().enumerate() {
        if !in_cache {
            continue;
        }
        let Some(flags) = frames.of_page(&mut memory, page as u64 * PAGE_BYTES)? else { continue };
        state.cached += 1;
        // Pages of tmpfs are dirty for the swap; no writeback would clean them, and cachestat(2) does not count them.
        state.dirty += u64::from(flags & (DIRTY | SWAPBACKED) == DIRTY);
        state.writeback += u64::from(flags & WRITEBACK != 0);
    }
    Ok(state)
}

/// Flags of page frames.
struct Frames {
    pagemap: File,
    flags: File,
}

impl Frames {
    fn open() -> Result<Self, StepError> {
        let open = |path: &str| match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                failed!("no {path} and no cachestat(2): the kernel needs CONFIG_PROC_PAGE_MONITOR=y")
            }
            opened => opened.or_failed(path),
        };
        Ok(Self { pagemap: open("/proc/self/pagemap")?, flags: open("/proc/kpageflags")? })
    }

    /// None: the page has left the cache.
    fn of_page(&self, memory: &mut UserMemory, offset: u64) -> Result<Option<u64>, StepError> {
        for _ in 0..TOUCHES {
            // Past the end of a file that is shorter now there is nothing.
            if memory.load(offset, &mut [0]).is_err() {
                return Ok(None);
            }
            let entry =
                number(&self.pagemap, memory.address(offset) / PAGE_BYTES).or_failed("/proc/self/pagemap")?;
            if entry & PRESENT != 0 {
                return self.of_frame(entry & FRAME).map(Some);
            }
        }
        failed!("a page of the file is in the cache and does not stay in a mapping")
    }

    fn of_frame(&self, frame: u64) -> Result<u64, StepError> {
        if frame == 0 {
            return failed!("/proc/self/pagemap hides its frames: that takes CAP_SYS_ADMIN");
        }
        for head in (frame.saturating_sub(MAX_TAILS)..=frame).rev() {
            let flags = number(&self.flags, head).or_failed("/proc/kpageflags")?;
            if flags & COMPOUND_TAIL == 0 {
                return Ok(flags);
            }
        }
        failed!("/proc/kpageflags: frame {frame:#x} has no head")
    }
}

/// The number at this index of a file of 64-bit numbers.
fn number(file: &File, index: u64) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, index * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_printed_is_read_again_and_nothing_else() {
        let state = PageState { cached: 3, dirty: 2, writeback: 1, evicted: 0 };
        assert_eq!(parse("3 2 1\n"), Some(state));
        for other in ["", "3 2", "3 2 1 0", "open: ENOENT"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    /// Against cachestat(2), where this host has both and lets us read the flags (root).
    #[test]
    fn flags_say_what_cachestat_says() {
        if File::open("/proc/kpageflags").is_err() || !rustix::process::geteuid().is_root() {
            return;
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 40_000]).unwrap();
        file.as_file().sync_all().unwrap();
        file.as_file().write_all_at(&[8; 5000], 12_288).unwrap();
        let path = file.path().display().to_string();
        for (offset, len) in [(0, 0), (0, 40_000), (4096, 8192), (12_288, 4096), (1 << 20, 4096)] {
            let expected = crate::page_state::page_state(file.as_file(), offset, len).unwrap();
            let seen = state(&path, offset, len).unwrap();
            assert_eq!((seen.cached, seen.dirty), (expected.cached, expected.dirty), "{offset} {len}");
        }
        assert_eq!(state(&path, 12_288, 8192).unwrap().dirty, 2);
        let memory = rustix::fs::memfd_create("longpin-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&memory, &[1; 8192], 0).unwrap();
        let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&memory));
        let expected = crate::page_state::page_state(&memory, 0, 8192).unwrap();
        let seen = state(&path, 0, 8192).unwrap();
        assert_eq!((seen.cached, seen.dirty), (2, 0));
        assert_eq!((expected.cached, expected.dirty), (2, 0));
    }
}
