// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wish to end, from a signal or the control socket, and the two waits that it must interrupt: for a front-end
//! to connect, and for a connected one to leave.

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use vhost_user_backend::ShutdownHandle;

/// What a wait ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// The descriptor is readable.
    Readable,
    /// The daemon is to end.
    Stopped,
}

/// Set once.
pub struct Stop {
    requested: AtomicBool,
    event: OwnedFd,
    connection: Mutex<Option<ShutdownHandle>>,
}

impl Stop {
    /// Not requested yet.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { requested: AtomicBool::new(false), event, connection: Mutex::new(None) })
    }

    /// End the daemon. Returns at once.
    pub fn request(&self) {
        let connection = self.connection.lock();
        self.requested.store(true, Ordering::Release);
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            log::error!("cannot wake the daemon to end it: {error}");
        }
        if let Some(connection) = connection.as_ref() {
            connection.shutdown();
        }
    }

    /// Whether the daemon is to end.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// From now on a request also shuts this connection down.
    pub(crate) fn attach(&self, handle: Option<ShutdownHandle>) {
        let mut connection = self.connection.lock();
        if self.is_requested()
            && let Some(handle) = &handle
        {
            handle.shutdown();
        }
        *connection = handle;
    }

    /// Wait until `fd` is readable, or until the daemon is to end.
    pub(crate) fn wait_readable(&self, fd: impl AsFd) -> io::Result<Woken> {
        loop {
            let mut fds = [PollFd::new(&self.event, PollFlags::IN), PollFd::new(&fd, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_requested() {
                return Ok(Woken::Stopped);
            }
            if !fds[1].revents().is_empty() {
                return Ok(Woken::Readable);
            }
        }
    }
}
