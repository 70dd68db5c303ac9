// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual accelerator: a vhost-user device that writes into pages which a guest's driver has pinned, asynchronously
//! and by program, and keeps a ledger of every write.
//!
//! Layers, each knowing only those below: `accel` (vhost-user front: queues) and `control` (socket for the harness);
//! `chain` (guest-made bytes to requests); `engine` with `region` and `program` (what is written, when, and when no
//! more); `ledger` (the record); `mem` (guest memory) and `clock`.
#![deny(unsafe_code, missing_docs)]

pub mod accel;
pub mod audit;
pub mod chain;
pub mod clock;
pub mod control;
pub mod counters;
pub mod engine;
pub mod ledger;
pub mod listener;
mod log_limit;
pub mod mem;
mod permutation;
pub mod program;
pub mod region;
pub mod stop;
pub mod sys;

use accel::{Accelerator, Faults, QuiesceError};
use control::ControlServer;
use counters::Counters;
use engine::Engine;
use ledger::{Ledger, LedgerError};
use listener::SocketFile;
use mem::GuestRam;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use stop::{Stop, Woken};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};

/// What a daemon is made of.
#[derive(Debug)]
pub struct Config {
    /// Where the front-end (QEMU) connects.
    pub socket: SocketFile,
    /// Where the harness connects.
    pub control: Option<SocketFile>,
    /// File of the ledger; without it, entries are counted only.
    pub ledger: Option<PathBuf>,
    /// Written to and closed when both sockets are served.
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
    /// vhost-user.
    #[error("vhost-user: {0}")]
    VhostUser(DaemonError),
    /// DMA did not end.
    #[error("the device did not come to rest: {0}")]
    Quiesce(#[from] QuiesceError),
}

/// The parts that outlive a connection.
pub struct Device {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
    faults: Arc<Faults>,
}

impl Device {
    fn new(ledger: Ledger) -> Self {
        let (ledger, counters) = (Arc::new(ledger), Arc::<Counters>::default());
        let engine = Engine::new(Arc::new(GuestRam::default()), ledger.clone(), counters.clone());
        Self { engine, ledger, counters, faults: Arc::default() }
    }
}

/// Serve until the front-end has gone (or, with `persist`, for ever) or `stop` is requested. Blocks.
pub fn serve(config: Config, stop: &Arc<Stop>) -> Result<(), ServeError> {
    let ledger = match &config.ledger {
        Some(path) => Ledger::create(path)?,
        None => Ledger::counting(),
    };
    let device = Arc::new(Device::new(ledger));
    let control = config.control.map(|socket| ControlServer::start(socket, device.clone(), stop.clone()));
    let control = control.transpose()?;
    if let Some(mut ready) = config.ready {
        ready.write_all(b"ready\n")?;
    }
    log::info!("ready: listening for a front-end");
    let served = serve_connections(&config.socket, &device, stop, config.persist);
    // Clients first: a sync that they ask for now would race with the last one.
    drop(control);
    let entries = device.ledger.close();
    served?;
    log::info!("end: {} ledger entries", entries?);
    Ok(())
}

fn serve_connections(
    socket: &SocketFile,
    device: &Device,
    stop: &Stop,
    persist: bool,
) -> Result<(), ServeError> {
    let mut listener = Listener::from(socket.listener().try_clone()?);
    loop {
        if stop.wait_readable(socket)? == Woken::Stopped {
            return Ok(());
        }
        let result = serve_connection(&mut listener, device, stop);
        match result {
            Err(ServeError::VhostUser(error)) if persist => log::warn!("connection failed: {error}"),
            Err(error) => return Err(error),
            Ok(()) => log::info!("front-end has gone"),
        }
        if !persist {
            return Ok(());
        }
    }
}

fn serve_connection(listener: &mut Listener, device: &Device, stop: &Stop) -> Result<(), ServeError> {
    let Device { engine, counters, faults, .. } = device;
    let front = Arc::new(Accelerator::new(engine.clone(), counters.clone(), faults.clone())?);
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), front.clone(), engine.ram().atomic_map())
        .map_err(ServeError::VhostUser)?;
    daemon.start(listener).map_err(ServeError::VhostUser)?;
    log::info!("front-end has connected");
    stop.attach(daemon.shutdown_handle());
    let ended = daemon.wait();
    stop.attach(None);
    // The guest may have gone without a word; what it had started ends here.
    let quiet = front.quiesce();
    drop(daemon);
    engine.ram().clear();
    quiet?;
    match ended {
        // A front-end that closes its socket is the normal end.
        Err(DaemonError::HandleRequest(VhostUserError::Disconnected | VhostUserError::PartialMessage)) => {
            Ok(())
        }
        other => other.map_err(ServeError::VhostUser),
    }
}
