// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Unix sockets that QEMU connects to: bound before it starts, so that nothing it says is lost and nobody polls for
//! a file to appear.

use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Longest path of a unix socket (`sun_path` holds 108 bytes with its NUL).
const MAX_PATH_BYTES: usize = 107;
/// Between two looks at whether the peer is still alive.
const SLICE: Duration = Duration::from_millis(50);

/// A socket that waits for one connection.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Bind a new socket.
    pub fn bind(path: PathBuf) -> anyhow::Result<Self> {
        let len = path.as_os_str().len();
        if len > MAX_PATH_BYTES {
            bail!(
                "socket path {} has {len} bytes, at most {MAX_PATH_BYTES} are possible; set TMPDIR to a shorter directory",
                path.display()
            );
        }
        let inner =
            UnixListener::bind(&path).with_context(|| format!("{} cannot be bound", path.display()))?;
        Ok(Self { inner, path })
    }

    /// Wait for the peer. Gives up when one of `ends` disconnects or the deadline passes.
    pub fn accept(&self, ends: &[&Receiver<()>], deadline: Deadline) -> anyhow::Result<UnixStream> {
        loop {
            if self.ready(SLICE.min(deadline.left()))? {
                return Ok(self.inner.accept().context("connection cannot be accepted")?.0);
            }
            if ends.iter().any(|end| end.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)) {
                bail!("nobody connected to {}: the peer ended", self.path.display());
            }
            if deadline.passed() {
                bail!("nobody connected to {} in time", self.path.display());
            }
        }
    }

    fn ready(&self, timeout: Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(&self.inner, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).context("timeout is out of range")?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("socket cannot be polled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_made_before_accept_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path().join("s")).unwrap();
        let _peer = UnixStream::connect(&listener.path).unwrap();
        listener.accept(&[], Deadline::after(Duration::from_secs(30))).unwrap();
    }

    #[test]
    fn a_dead_peer_ends_the_wait_before_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path().join("s")).unwrap();
        let gone = crossbeam_channel::bounded::<()>(0).1;
        let deadline = Deadline::after(Duration::from_secs(600));
        let error = listener.accept(&[&gone], deadline).unwrap_err().to_string();
        assert!(error.ends_with("the peer ended") && !deadline.passed(), "{error}");
    }

    #[test]
    fn silence_ends_with_the_deadline_and_a_long_path_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path().join("s")).unwrap();
        let error = listener.accept(&[], Deadline::after(Duration::ZERO)).unwrap_err().to_string();
        assert!(error.ends_with("in time"), "{error}");
        let error = Listener::bind(dir.path().join("x".repeat(120))).unwrap_err().to_string();
        assert!(error.contains("set TMPDIR"), "{error}");
    }
}
