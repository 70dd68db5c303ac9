// SPDX-License-Identifier: Apache-2.0 OR MIT
//! State of a file's pages in the page cache: by cachestat(2), which looks without touching them, or, in a kernel that has
//! none (before 6.5), by the flags of each page (`page_flags`).
//!
//! The latter needs a mapping, and mmap(2) waits for the mmap lock, which a job may hold (see `jobs`): so a process of its
//! own does it.

use crate::error::{OrRefused, StepError, failed};
use crate::{launcher, page_flags, sys};
use longpin_proto::facts::{PageState, PageStateSource};
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

/// A few thousand pages take milliseconds, a translated guest on a busy host some hundred.
const FLAGS_DEADLINE: Duration = Duration::from_secs(15);

/// What this kernel has.
pub fn source() -> Result<PageStateSource, StepError> {
    let directory =
        rustix::fs::open("/", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).or_failed("/")?;
    Ok(match sys::cachestat(&directory, 0, 1) {
        Err(Errno::NOSYS) => PageStateSource::Kpageflags,
        _ => PageStateSource::Cachestat,
    })
}

/// State of `[offset, offset + len)`.
pub fn page_state(file: impl AsFd, offset: u64, len: u64) -> Result<PageState, StepError> {
    match sys::cachestat(&file, offset, len) {
        Err(Errno::NOSYS) => by_flags(file, offset, len),
        stat => {
            let stat = stat.or_refused("cachestat")?;
            let sys::CacheStat { cached, dirty, writeback, evicted, .. } = stat;
            Ok(PageState { cached, dirty, writeback, evicted })
        }
    }
}

fn by_flags(file: impl AsFd, offset: u64, len: u64) -> Result<PageState, StepError> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd());
    let argv = ["/proc/self/exe".to_owned(), page_flags::ARGUMENT.to_owned(), path];
    let argv = [argv.as_slice(), &[offset.to_string(), len.to_string()]].concat();
    let finished = launcher::run(&argv, FLAGS_DEADLINE, &AtomicI32::new(0))?;
    match (finished.code, page_flags::parse(&finished.output)) {
        (0, Some(state)) => Ok(state),
        (code, _) => failed!("flags of the pages: ended with {code}: {}", finished.output.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_pages_are_cached_and_dirty() {
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, &[1; 8192], 4096).unwrap();
        let state = page_state(&file, 0, 16384).unwrap();
        assert_eq!((state.cached, state.dirty), (2, 2));
        assert_eq!(page_state(&file, 0, 4096).unwrap().cached, 0);
    }
}
