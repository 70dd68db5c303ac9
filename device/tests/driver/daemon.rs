// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon in a thread, and a client of its control socket.

use super::{Blk, DEADLINE, Driver, EVENT_IDX, INDIRECT, VERSION_1, wait_for};
use longpin_device::disk::{DiskConfig, Image};
use longpin_device::listener::SocketFile;
use longpin_device::stop::Stop;
use longpin_device::translations::CacheOptions;
use longpin_device::{Config, ServeError, serve};
use longpin_proto::control::{Answer, Fault, Request as ControlRequest, Status};
use longpin_proto::disk::DiskStatus;
use longpin_proto::line;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// A disk for [`Daemon::with`]: socket and image by its name, two queues, audited.
pub fn disk_config(config: &Config, name: &str, bytes: u64) -> DiskConfig {
    let dir = config.ledger.as_deref().and_then(Path::parent).expect("the daemon's directory");
    let path = dir.join(format!("{name}.img"));
    File::options().create(true).append(true).open(&path).unwrap().set_len(bytes).unwrap();
    DiskConfig {
        socket: SocketFile::bind(&dir.join(name)).unwrap(),
        image: Image::open(&path, 512, false).unwrap(),
        serial: None,
        queues: 2,
        queue_size: 256,
        audited: true,
    }
}

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
            ledger_limit: None,
            cache: CacheOptions::default(),
            fault: Fault::None,
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

    /// A daemon with one disk of `bytes`, called `disk`.
    pub fn with_disk(bytes: u64, change: impl FnOnce(&mut DiskConfig)) -> Self {
        Self::with(|config| {
            config.persist = true;
            let mut disk = disk_config(config, "disk", bytes);
            change(&mut disk);
            config.disks.push(disk);
        })
    }

    /// Connect to a disk's queues.
    pub fn connect_disk(&self, name: &str, features: u64, queues: usize) -> Blk {
        Blk::connect(&self.dir.path().join(name), features, queues)
    }

    /// The image of a disk.
    pub fn image(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(format!("{name}.img"))).unwrap()
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.dir.path().join("control"))
    }

    /// Where the accelerator's front-end connects.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("vhost")
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

    pub fn disk(&mut self) -> DiskStatus {
        match self.ask(&ControlRequest::Disks) {
            Answer::Disks { mut disks } => disks.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Ask what is answered with `ok`.
    pub fn order(&mut self, request: &ControlRequest) {
        assert_eq!(self.ask(request), Answer::Ok, "{request:?}");
    }

    pub fn sync(&mut self) -> u64 {
        match self.ask(&ControlRequest::LedgerSync) {
            Answer::LedgerSync { entries } => entries,
            other => panic!("{other:?}"),
        }
    }
}
