// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon in a thread, and a client of its control socket.

use super::{DEADLINE, Driver, EVENT_IDX, INDIRECT, VERSION_1, wait_for};
use longpin_device::listener::SocketFile;
use longpin_device::stop::Stop;
use longpin_device::{Config, ServeError, serve};
use longpin_proto::control::{Answer, Request as ControlRequest, Status};
use longpin_proto::line;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The daemon, in a thread.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(|config| config.persist = true)
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            accelerator: Some(SocketFile::bind(&dir.path().join("vhost")).unwrap()),
            disks: Vec::new(),
            control: Some(SocketFile::bind(&dir.path().join("control")).unwrap()),
            ledger: Some(dir.path().join("ledger")),
            ready: None,
            persist: false,
        };
        change(&mut config);
        let stop = Arc::new(Stop::new().unwrap());
        let theirs = stop.clone();
        let thread = thread::spawn(move || serve(config, &theirs));
        Self { dir, stop, thread: Some(thread) }
    }

    pub fn connect(&self) -> Driver {
        Driver::connect(&self.dir.path().join("vhost"), VERSION_1)
    }

    pub fn connect_with_event_idx(&self) -> Driver {
        Driver::connect(&self.dir.path().join("vhost"), VERSION_1 | EVENT_IDX | INDIRECT)
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.dir.path().join("control"))
    }

    pub fn ledger_path(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// End the daemon as a signal would.
    pub fn stop(mut self) -> Result<(), ServeError> {
        self.stop.request();
        self.join()
    }

    /// Wait until it has ended by itself.
    pub fn join(&mut self) -> Result<(), ServeError> {
        let thread = self.thread.take().expect("joined once");
        wait_for("the daemon to end", || thread.is_finished());
        thread.join().expect("the daemon does not panic")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client of the control socket.
pub struct Control {
    pub stream: UnixStream,
    pub input: BufReader<UnixStream>,
}

impl Control {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let input = BufReader::new(stream.try_clone().unwrap());
        Self { stream, input }
    }

    pub fn ask(&mut self, request: &ControlRequest) -> Answer {
        line::send(&mut self.stream, request).unwrap();
        line::receive(&mut self.input).unwrap()
    }

    pub fn status(&mut self) -> Status {
        match self.ask(&ControlRequest::Status) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn sync(&mut self) -> u64 {
        match self.ask(&ControlRequest::LedgerSync) {
            Answer::LedgerSync { entries } => entries,
            other => panic!("{other:?}"),
        }
    }
}
