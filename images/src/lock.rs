// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One lock file per artifact. Exclusive: it is being built or removed. Shared: it is in use, so `gc` leaves it alone.
//! The kernel drops the lock with its process, so a killed builder blocks nobody.

use crate::error::{Error, Result};
use crate::report::Reporter;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Between two tries; the wait is for builds that take minutes.
const POLL: Duration = Duration::from_millis(100);

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The artifact is in use.
    Shared,
    /// The artifact is being built or removed.
    Exclusive,
}

/// A held lock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock if nobody holds it against us.
    pub(crate) fn try_take(path: &Path, mode: Mode) -> Result<Option<Self>> {
        let file = match mode {
            Mode::Shared => open_to_share(path),
            Mode::Exclusive => open_to_write(path),
        };
        let file = file.map_err(|source| not_ours(path, source))?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
        // `gc` unlinks lock files that it holds: a lock on an unlinked file excludes nobody.
        if !is_linked(&file, path) {
            return Ok(None);
        }
        let mut lock = Self { file, path: path.to_owned() };
        if mode == Mode::Exclusive {
            lock.write_holder()?;
        }
        Ok(Some(lock))
    }

    /// Takes the lock, telling the reporter once whom it waits for. Blocks for `limit` at most.
    /// Errors: `Locked` with the holder.
    pub(crate) fn take(
        path: &Path,
        mode: Mode,
        artifact: &str,
        limit: Duration,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path, mode)? {
                return Ok(lock);
            }
            let waited = began.elapsed();
            if waited >= limit {
                return Err(Error::Locked { artifact: artifact.to_owned(), holder: holder(path), waited });
            }
            if !told && waited >= POLL {
                reporter.note(&format!(
                    "another longpin is working on {artifact} ({}); waiting for it",
                    holder(path)
                ));
                told = true;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Remembers that the artifact was used now; in somebody else's store, or a read-only one, nobody needs to know.
    pub(crate) fn touch(&self) -> Result<()> {
        match self.file.set_modified(SystemTime::now()) {
            Err(error) if is_denied(&error) => Ok(()),
            touched => touched.map_err(Error::io("touch lock", &self.path)),
        }
    }

    fn write_holder(&mut self) -> Result<()> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "pid {}", std::process::id())
        };
        write(&mut self.file).map_err(Error::io("write lock", &self.path))
    }

    /// Removes the lock file with the lock held exclusively, after its artifact went.
    pub(crate) fn unlink(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::io("remove lock", &self.path))
    }
}

/// A user needs no right to write: the store may be another user's, or on a read-only file system.
fn open_to_share(path: &Path) -> std::io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => open_to_write(path),
        opened => opened,
    }
}

fn open_to_write(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn is_denied(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

fn not_ours(path: &Path, source: std::io::Error) -> Error {
    match is_denied(&source) {
        true => Error::NotOurs { path: path.to_owned(), source },
        false => Error::io("open lock", path)(source),
    }
}

fn is_linked(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    held.dev() == named.dev() && held.ino() == named.ino()
}

fn holder(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => text,
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Notes, Silent};
    use std::sync::Mutex;
    use std::sync::mpsc;

    #[test]
    fn users_share_and_a_builder_excludes_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let user = Lock::try_take(&path, Mode::Shared).unwrap().expect("free");
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_some());
        assert!(Lock::try_take(&path, Mode::Exclusive).unwrap().is_none());
        drop(user);
        let builder = Lock::try_take(&path, Mode::Exclusive).unwrap().expect("free");
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_none());
        drop(builder);
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_some());
    }

    #[test]
    fn to_use_something_needs_no_right_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        drop(Lock::try_take(&path, Mode::Exclusive).unwrap().expect("free"));
        let user = Lock::try_take(&path, Mode::Shared).unwrap().expect("free");
        let status = rustix::fs::fcntl_getfl(&user.file).unwrap();
        assert!(!status.intersects(rustix::fs::OFlags::RDWR | rustix::fs::OFlags::WRONLY), "{status:?}");
        user.touch().unwrap();
    }

    #[test]
    fn a_store_that_cannot_be_written_to_says_what_to_do() {
        let denied = std::io::Error::from(ErrorKind::ReadOnlyFilesystem);
        let text = not_ours(Path::new("/store/locks/a.lock"), denied).to_string();
        assert!(text.contains("/store/locks/a.lock") && text.contains("LONGPIN_CACHE"), "{text}");
    }

    #[test]
    fn a_second_builder_says_whom_it_waits_for_and_goes_on_when_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = Lock::try_take(&path, Mode::Exclusive).unwrap().expect("free");
        let (told, wait) = mpsc::channel();
        struct Tell(Mutex<mpsc::Sender<String>>);
        impl Reporter for Tell {
            fn step(&self, _text: &str) {}
            fn bytes(&self, _done: u64, _total: Option<u64>) {}
            fn note(&self, text: &str) {
                self.0.lock().unwrap().send(text.to_owned()).unwrap();
            }
            fn finished(&self, _text: &str) {}
        }
        let limit = Duration::from_secs(60);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                Lock::take(&path, Mode::Exclusive, "tool root", limit, &Tell(Mutex::new(told))).map(drop)
            });
            let note = wait.recv_timeout(limit).expect("the second builder never said that it waits");
            let pid = std::process::id();
            assert_eq!(note, format!("another longpin is working on tool root (pid {pid}); waiting for it"));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_wait_has_a_deadline_and_its_error_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let _held = Lock::try_take(&path, Mode::Exclusive).unwrap().expect("free");
        let notes = Notes::default();
        let error = Lock::take(&path, Mode::Shared, "kernel", Duration::ZERO, &notes).unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            error.to_string(),
            format!("kernel is still locked by pid {pid} after 0 s; wait for it to end, or end it")
        );
    }

    #[test]
    fn a_lock_on_an_unlinked_file_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let remover = Lock::try_take(&path, Mode::Exclusive).unwrap().expect("free");
        let stale = File::open(&path).unwrap();
        remover.unlink().unwrap();
        assert!(!is_linked(&stale, &path));
        Lock::take(&path, Mode::Exclusive, "a", Duration::from_secs(5), &Silent).unwrap();
        assert!(path.exists());
    }
}
