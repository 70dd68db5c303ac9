// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control socket (`longpin_proto::control`): JSON lines, several clients, each in a thread of its own.

use crate::Device;
use crate::disk::{Disk, PowerError};
use crate::listener::SocketFile;
use crate::stop::Stop;
use longpin_proto::control::{Answer, Request, Status, VERSION};
use longpin_proto::line::{self, LineError};
use parking_lot::Mutex;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Most clients at once. Each may make the daemon hold one line (8 MiB).
pub const MAX_CLIENTS: usize = 16;
/// A client that does not read its answers for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The running server. Dropping it ends all clients.
pub struct ControlServer {
    socket: Arc<SocketFile>,
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serve clients of `socket`.
    pub fn start(socket: SocketFile, device: Arc<Device>, stop: Arc<Stop>) -> io::Result<Self> {
        let (socket, clients) = (Arc::new(socket), Arc::new(Clients::default()));
        let (accepting, known) = (socket.clone(), clients.clone());
        let body = move || {
            for stream in accepting.listener().incoming() {
                match stream {
                    Ok(stream) => known.admit(stream, &device, &stop),
                    // The listener was shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    Err(error) => log::warn!("control socket: {error}"),
                }
                if known.closed() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("control".into()).spawn(body)?;
        Ok(Self { socket, clients, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.clients.close();
        self.socket.shutdown();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the control server panicked");
        }
    }
}

/// Connections, so that they can be ended. `None` when no more are taken.
struct Clients(Mutex<Option<Vec<(u64, UnixStream)>>>);

impl Default for Clients {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Clients {
    fn closed(&self) -> bool {
        self.0.lock().is_none()
    }

    fn close(&self) {
        for (_, stream) in self.0.lock().take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn admit(self: &Arc<Self>, mut stream: UnixStream, device: &Arc<Device>, stop: &Arc<Stop>) {
        let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let id = match self.register(&stream) {
            Ok(id) => id,
            Err(message) => {
                let _ = line::send(&mut stream, &Answer::Error { message });
                return;
            }
        };
        let (known, device, stop) = (self.clone(), device.clone(), stop.clone());
        let body = move || {
            if let Err(error) = converse(&mut stream, &device, &stop) {
                log::debug!("control client {id}: {error}");
            }
            known.forget(id);
        };
        if let Err(error) = thread::Builder::new().name("control-client".into()).spawn(body) {
            log::warn!("control client {id}: no thread: {error}");
            self.forget(id);
        }
    }

    fn register(&self, stream: &UnixStream) -> Result<u64, String> {
        let mut clients = self.0.lock();
        let clients = clients.as_mut().ok_or("the daemon is ending")?;
        if clients.len() >= MAX_CLIENTS {
            return Err(format!("{MAX_CLIENTS} clients are connected already; close one first"));
        }
        let id = clients.last().map_or(1, |(id, _)| id + 1);
        clients.push((id, stream.try_clone().map_err(|error| error.to_string())?));
        Ok(id)
    }

    fn forget(&self, id: u64) {
        if let Some(clients) = self.0.lock().as_mut() {
            clients.retain(|(other, _)| *other != id);
        }
    }
}

/// Answer line after line until the client goes.
fn converse(stream: &mut UnixStream, device: &Device, stop: &Stop) -> Result<(), LineError> {
    let mut input = BufReader::new(stream.try_clone()?);
    loop {
        let mut last = false;
        let answer = match line::receive::<Request>(&mut input) {
            Ok(request) => {
                last = request == Request::Shutdown;
                answer(&request, device)
            }
            Err(LineError::Closed) => return Ok(()),
            Err(error @ LineError::Syntax { .. }) => Answer::Error { message: error.to_string() },
            Err(error @ LineError::TooLong) => {
                // The rest of the line cannot be told from a new one.
                line::send(stream, &Answer::Error { message: error.to_string() })?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        line::send(stream, &answer)?;
        if last {
            stop.request();
        }
    }
}

fn answer(request: &Request, device: &Device) -> Answer {
    match request {
        Request::Hello => Answer::Hello {
            version: VERSION,
            program: concat!("longpin-device ", env!("CARGO_PKG_VERSION")).into(),
        },
        Request::Status => Answer::Status(status(device)),
        Request::LedgerSync => match device.ledger.sync() {
            Ok(entries) => Answer::LedgerSync { entries },
            Err(error) => Answer::Error { message: error.to_string() },
        },
        Request::Fault { fault } => {
            device.faults.set(*fault);
            Answer::Ok
        }
        Request::PowerCut { disk, in_flight } => {
            with_disk(device, *disk, |disk| disk.cut_power(*in_flight, device.run()))
        }
        Request::Restore { disk } => with_disk(device, *disk, |disk| disk.restore(device.run())),
        Request::Disks => Answer::Disks { disks: device.disks.iter().map(|disk| disk.status()).collect() },
        // Carried out once the answer is on its way.
        Request::Shutdown => Answer::Ok,
        Request::Case { run } => {
            device.run.store(*run, Ordering::Relaxed);
            of_watch(request, device)
        }
        Request::AddRule(_)
        | Request::DropRule { .. }
        | Request::AwaitHeld { .. }
        | Request::ReleaseHeld { .. }
        | Request::HeldDma { .. }
        | Request::Audit => of_watch(request, device),
    }
}

fn of_watch(request: &Request, device: &Device) -> Answer {
    let unknown = || Answer::Error { message: "not a request of the watch".into() };
    device.watch.answer(request).unwrap_or_else(unknown)
}

fn with_disk(device: &Device, index: u32, act: impl FnOnce(&Disk) -> Result<(), PowerError>) -> Answer {
    let Some(disk) = device.disks.get(index as usize) else {
        let message = format!("there is no disk {index}; the daemon has {}", device.disks.len());
        return Answer::Error { message };
    };
    match act(disk) {
        Ok(()) => Answer::Ok,
        Err(error) => Answer::Error { message: error.to_string() },
    }
}

fn status(device: &Device) -> Status {
    let mut status = Status {
        regions: device.engine.regions() as u32,
        programs: device.engine.programs() as u32,
        ledger_entries: device.ledger.entries(),
        ledger_failure: device.ledger.failure(),
        ..Status::default()
    };
    device.counters.fill(&mut status);
    status
}
