// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Listening unix sockets: made at a path, or inherited. A path that a live process serves is left alone, a dead
//! socket is replaced, and what was made here is removed at the end.

use rustix::net::{AddressFamily, sockopt};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody serves it.
    #[error("socket {0:?} is served by another process; end that or use another path")]
    InUse(PathBuf),
    /// Something that is not ours to remove.
    #[error("{0:?} exists and is not a socket; remove it or use another path")]
    NotSocket(PathBuf),
    /// Everything else about a path.
    #[error("cannot listen on {path:?}: {source}")]
    Path {
        /// Path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// An inherited descriptor of another kind.
    #[error("file descriptor {0} is not a listening unix stream socket")]
    Descriptor(i32),
}

/// A listening socket.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    /// What to remove at the end: path and inode.
    made: Option<(PathBuf, u64)>,
}

impl SocketFile {
    /// Listen at `path`.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        remove_dead(path)?;
        let failed = |source| ListenError::Path { path: path.into(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { listener, made: Some((path.into(), inode)) })
    }

    /// Listen on an inherited socket.
    pub fn inherited(listener: UnixListener, number: i32) -> Result<Self, ListenError> {
        let listens = sockopt::socket_acceptconn(&listener).unwrap_or(false);
        let unix = sockopt::socket_domain(&listener).is_ok_and(|domain| domain == AddressFamily::UNIX);
        if listens && unix { Ok(Self { listener, made: None }) } else { Err(ListenError::Descriptor(number)) }
    }

    /// The socket itself.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Behind the name of what listens, in messages.
    pub fn name(&self) -> String {
        let address = self.listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        path.map_or_else(String::new, |path| format!(" at socket {path:?}"))
    }

    /// Make a blocked `accept` return.
    pub(crate) fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

impl AsFd for SocketFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some((path, inode)) = &self.made {
            // Only our own: somebody may have put another in its place.
            if fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == *inode) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Remove a socket that nobody serves.
fn remove_dead(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Path { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ListenError::NotSocket(path.into())),
        Ok(_) => {}
    }
    // A stream connection would be taken for a guest's. A datagram socket cannot connect to a stream socket, but
    // the error tells whether there is one: EPROTOTYPE from a live socket, ECONNREFUSED from a dead file
    // (net/unix/af_unix.c: unix_find_bsd()).
    match UnixDatagram::unbound().and_then(|probe| probe.connect(path)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        _ => Err(ListenError::InUse(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_socket_is_refused_and_does_not_notice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = SocketFile::bind(&path).unwrap();
        assert!(matches!(SocketFile::bind(&path), Err(ListenError::InUse(p)) if p == path));
        live.listener().set_nonblocking(true).unwrap();
        assert_eq!(live.listener().accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(live);
        assert!(!path.exists(), "the socket is removed at the end");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        SocketFile::bind(&path).unwrap();
        fs::write(&path, b"data").unwrap();
        assert!(matches!(SocketFile::bind(&path), Err(ListenError::NotSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_socket_that_took_the_place_of_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ours = SocketFile::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = SocketFile::bind(Path::new("/nonexistent/s")).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot listen on \"/nonexistent/s\": No such file"),
            "{error}"
        );
    }
}
