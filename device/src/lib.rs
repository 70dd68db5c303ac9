// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual hardware for a guest, by vhost-user: an accelerator that writes into pages which a driver has pinned,
//! asynchronously and by program, and disks that watch every write on its way. Both keep one ledger.
//!
//! Layers, each knowing only those below: `control` (socket for the harness) and `front` (connections); `accel` and
//! `disk` (queues, requests); `audit` with `policy` (what becomes of a disk's requests and their bytes); `engine` with
//! `region` and `program` (what is written by DMA, when, and when no more); `ledger` (the record); `guests` (whether
//! all connections have one guest's memory); `mem` (guest memory) and `clock`.
#![deny(unsafe_code, missing_docs)]

pub mod accel;
pub mod audit;
pub mod chain;
pub mod clock;
pub mod control;
pub mod counters;
pub mod descriptors;
pub mod disk;
mod duties;
pub mod engine;
pub mod front;
pub mod guests;
pub mod ledger;
pub mod listener;
mod log_limit;
pub mod mem;
pub mod panics;
mod permutation;
pub mod policy;
pub mod program;
pub mod region;
pub mod stop;
pub mod sys;
pub mod translations;
pub mod vring;

use accel::{Accelerator, Faults};
use audit::Watch;
use control::ControlServer;
use counters::Counters;
use disk::{Disk, DiskConfig};
use engine::Engine;
use front::FrontError;
use ledger::{Ledger, LedgerError};
use listener::SocketFile;
use longpin_proto::control::Fault;
use mem::GuestRam;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use stop::Stop;
use translations::CacheOptions;

/// What a daemon is made of.
#[derive(Debug, Default)]
pub struct Config {
    /// Where the accelerator's front-end (QEMU) connects.
    pub accelerator: Option<SocketFile>,
    /// Disks, each with a socket of its own.
    pub disks: Vec<DiskConfig>,
    /// Where the harness connects.
    pub control: Option<SocketFile>,
    /// File of the ledger; without it, entries are counted only.
    pub ledger: Option<PathBuf>,
    /// Most bytes of it; [`ledger::MAX_FILE_BYTES`] where nothing is said.
    pub ledger_limit: Option<u64>,
    /// Cache of revocable regions.
    pub cache: CacheOptions,
    /// How the accelerator misbehaves from the beginning.
    pub fault: Fault,
    /// Written to and closed when all sockets are served.
    pub ready: Option<File>,
    /// Serve one front-end after another.
    pub persist: bool,
}

/// Why the daemon ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Ledger, at start or at the end.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A thread, an event or a wait.
    #[error("host refused: {0}")]
    Host(#[from] io::Error),
    /// Disks cannot be served.
    #[error(
        "host refused io_uring: {0}; disks need it: allow it by sysctl kernel.io_uring_disabled=0, or in the container's seccomp profile"
    )]
    IoUring(io::Error),
    /// A connection.
    #[error(transparent)]
    Front(#[from] FrontError),
}

/// The parts that outlive a connection.
pub struct Device {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
    faults: Arc<Faults>,
    watch: Arc<Watch>,
    disks: Vec<Arc<Disk>>,
    /// Label of the case, for entries that are not the watch's.
    run: AtomicU64,
}

impl Device {
    fn new(ledger: Ledger, accelerator: Option<&SocketFile>, fault: Fault) -> io::Result<Self> {
        let (ledger, counters) = (Arc::new(ledger), Arc::<Counters>::default());
        let name = accelerator.map_or_else(String::new, SocketFile::name);
        let ram = Arc::new(GuestRam::default().named(format!("accelerator{name}")));
        let engine = Engine::new(ram, ledger.clone(), counters.clone());
        let watch = Watch::new(ledger.clone(), &engine)?;
        Ok(Self {
            engine,
            ledger,
            counters,
            faults: Arc::new(Faults::with(fault)),
            watch,
            disks: Vec::new(),
            run: AtomicU64::new(0),
        })
    }

    fn run(&self) -> u64 {
        self.run.load(Ordering::Relaxed)
    }

    /// Add a disk; its socket comes back.
    fn add_disk(&mut self, config: DiskConfig) -> SocketFile {
        let (disk, socket) = Disk::new(config, self.watch.clone(), &self.ledger);
        self.disks.push(disk);
        socket
    }
}

/// Serve until all front-ends have gone (or, with `persist`, for ever) or `stop` is requested. Blocks.
pub fn serve(config: Config, stop: &Arc<Stop>) -> Result<(), ServeError> {
    let ledger = match &config.ledger {
        Some(path) => Ledger::create_bounded(path, config.ledger_limit.unwrap_or(ledger::MAX_FILE_BYTES))?,
        None => Ledger::counting(),
    };
    if !config.disks.is_empty() {
        disk::check_host().map_err(ServeError::IoUring)?;
    }
    let mut device = Device::new(ledger, config.accelerator.as_ref(), config.fault)?;
    device.engine.set_cache(config.cache);
    let sockets: Vec<_> = config.disks.into_iter().map(|disk| device.add_disk(disk)).collect();
    let device = Arc::new(device);
    let control = config.control.map(|socket| ControlServer::start(socket, device.clone(), stop.clone()));
    let control = control.transpose()?;
    if let Some(mut ready) = config.ready {
        ready.write_all(b"ready\n")?;
    }
    log::info!("ready: listening for front-ends");
    let served = serve_sockets(config.accelerator.as_ref(), &sockets, &device, stop, config.persist);
    // What waits by order of a client would keep it waiting.
    device.watch.close();
    // Clients first: a sync that they ask for now would race with the last one.
    drop(control);
    let entries = device.ledger.close();
    served?;
    log::info!("end: {} ledger entries", entries?);
    Ok(())
}

/// Serve each socket in a thread. One that cannot go on ends all of them; a failed connection does not.
fn serve_sockets(
    accelerator: Option<&SocketFile>,
    disks: &[SocketFile],
    device: &Device,
    stop: &Stop,
    persist: bool,
) -> Result<(), FrontError> {
    let ended = |served: Result<(), FrontError>| served.inspect_err(|_| stop.request());
    thread::scope(|scope| {
        let mut threads: Vec<ScopedJoinHandle<'_, Result<(), FrontError>>> = Vec::new();
        if let Some(socket) = accelerator {
            let Device { engine, counters, faults, .. } = device;
            let front = || Accelerator::new(engine.clone(), counters.clone(), faults.clone());
            threads
                .push(scope.spawn(move || ended(front::serve("accelerator", socket, stop, persist, front))));
        }
        for (index, (socket, disk)) in disks.iter().zip(&device.disks).enumerate() {
            let front = || disk::Front::new(disk.clone());
            let name = format!("disk {index}");
            threads.push(scope.spawn(move || ended(front::serve(&name, socket, stop, persist, front))));
        }
        // All are waited for; the first error counts.
        let ends: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
        let panicked = || Err(io::Error::other("a connection's thread panicked").into());
        ends.into_iter().try_for_each(|end| end.unwrap_or_else(|_| panicked()))
    })
}
