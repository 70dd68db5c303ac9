// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inherited file descriptors: the one thing here that the compiler cannot check.
#![expect(unsafe_code, reason = "a number from the command line becomes an owned descriptor")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Mutex;

/// Descriptors that were handed out already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Take over a descriptor that the parent process left open for us. Only before the program opens files of its own:
/// later the number may be one of those.
///
/// Errors: standard streams, numbers that are not open, and numbers that were taken before.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if number <= 2 || !taken.insert(number) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a descriptor to pass on, or passed twice",
        ));
    }
    // SAFETY: `borrow_raw` wants an open descriptor for the borrow's life and never -1. It is above 2; if it is not
    // open, `fcntl` says EBADF and nothing else uses the borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: `from_raw_fd` wants an open descriptor that nobody else owns. `fcntl` found it open; it was inherited,
    // since `main` calls this before it opens anything, and `TAKEN` lets each number through once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd as _;

    #[test]
    fn a_descriptor_is_taken_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = inherit(number).unwrap();
        assert!(inherit(number).is_err(), "twice");
        drop(owned);
    }

    #[test]
    fn closed_numbers_and_standard_streams_are_refused() {
        assert_eq!(inherit(900_000).unwrap_err().raw_os_error(), Some(9));
        for number in [-1, 0, 1, 2] {
            assert!(inherit(number).is_err(), "{number}");
        }
    }
}
