// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wish to end, from a signal, the control socket or the last front-end that left, and the waits that it must
//! interrupt: for front-ends to connect, and for connected ones to leave.

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
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    handles: Vec<(u64, Option<ShutdownHandle>)>,
}

/// A connection that a request to end shuts down. Ends with this value.
pub(crate) struct Attached<'a> {
    stop: &'a Stop,
    id: u64,
}

impl Attached<'_> {
    /// End the connection's registration; how many others there are.
    pub(crate) fn leave(self) -> usize {
        let mut connections = self.stop.connections.lock();
        connections.handles.retain(|(id, _)| *id != self.id);
        connections.handles.len()
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.stop.connections.lock().handles.retain(|(id, _)| *id != self.id);
    }
}

impl Stop {
    /// Not requested yet.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { requested: AtomicBool::new(false), event, connections: Mutex::default() })
    }

    /// End the daemon. Returns at once.
    pub fn request(&self) {
        let connections = self.connections.lock();
        self.requested.store(true, Ordering::Release);
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            log::error!("cannot wake the daemon to end it: {error}");
        }
        for connection in connections.handles.iter().filter_map(|(_, handle)| handle.as_ref()) {
            connection.shutdown();
        }
    }

    /// Whether the daemon is to end.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// From now on a request also shuts this connection down.
    pub(crate) fn attach(&self, handle: Option<ShutdownHandle>) -> Attached<'_> {
        let mut connections = self.connections.lock();
        if self.is_requested()
            && let Some(handle) = &handle
        {
            handle.shutdown();
        }
        let id = connections.next;
        connections.next += 1;
        connections.handles.push((id, handle));
        Attached { stop: self, id }
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
