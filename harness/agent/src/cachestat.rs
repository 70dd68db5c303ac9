// SPDX-License-Identifier: Apache-2.0 OR MIT
//! State of a file's pages in the page cache, by cachestat(2): it looks without touching them.

use crate::error::{OrRefused, StepError};
use crate::sys;
use longpin_proto::facts::PageState;
use rustix::fd::AsFd;

/// State of `[offset, offset + len)`.
pub fn page_state(file: impl AsFd, offset: u64, len: u64) -> Result<PageState, StepError> {
    let stat = sys::cachestat(file, offset, len).or_refused("cachestat")?;
    Ok(PageState { cached: stat.cached, dirty: stat.dirty, writeback: stat.writeback, evicted: stat.evicted })
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
