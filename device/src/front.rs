// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections of front-ends: what accelerator and disks have in common. Each listening socket has a thread, which
//! serves one connection after the other.

use crate::duties::Unanswered;
use crate::engine::NotQuiet;
use crate::listener::SocketFile;
use crate::mem::GuestRam;
use crate::stop::{Stop, Woken};
use crate::vring::Vring;
use std::io;
use std::sync::Arc;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringEpollHandler};
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// The event that ends a thread of a front-end's queues.
pub fn exit_event() -> Option<(EventConsumer, EventNotifier)> {
    new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)
        .inspect_err(|error| log::error!("no event to end a queue's thread: {error}"))
        .ok()
}

/// A device did not come to rest.
#[derive(Debug, thiserror::Error)]
pub enum QuiesceError {
    /// In the engine.
    #[error(transparent)]
    Engine(#[from] NotQuiet),
    /// In the rings of a device.
    #[error(transparent)]
    Requests(#[from] Unanswered),
}

/// Why serving ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// A thread, an event or a wait.
    #[error("host refused: {0}")]
    Host(#[from] io::Error),
    /// vhost-user.
    #[error("vhost-user: {0}")]
    VhostUser(DaemonError),
    /// Guest memory might still be written.
    #[error("the device did not come to rest: {0}")]
    Quiesce(#[from] QuiesceError),
}

/// One connection's device.
pub trait Front: VhostUserBackend<Bitmap = (), Vring = Vring> + Sized + 'static {
    /// The guest's memory by this connection.
    fn ram(&self) -> &GuestRam;

    /// Have the queues' threads look at more than kicks.
    fn watch_events(&self, _handlers: &[Arc<VringEpollHandler<Arc<Self>>>]) -> io::Result<()> {
        Ok(())
    }

    /// The connection is over: finish or drop what was taken. Afterwards neither guest memory nor a ring is touched.
    fn quiesce(&self) -> Result<(), QuiesceError>;
}

/// Serve front-ends at `socket` until `stop` is requested. Blocks. Without `persist`, the last one that leaves
/// requests the stop.
///
/// A connection that fails ends alone: it is logged, and returned as the reason when the daemon ends, unless
/// front-ends are expected to come and go. Only a device that does not come to rest ends this at once.
pub fn serve<F: Front>(
    name: &str,
    socket: &SocketFile,
    stop: &Stop,
    persist: bool,
    front: impl Fn() -> io::Result<F>,
) -> Result<(), FrontError> {
    let mut listener = Listener::from(socket.listener().try_clone()?);
    let mut failed = Ok(());
    loop {
        if stop.wait_readable(socket)? == Woken::Stopped {
            return failed;
        }
        match serve_connection(name, &mut listener, stop, persist, Arc::new(front()?)) {
            Err(FrontError::VhostUser(error)) => {
                log::error!("{name}: connection failed: {error}; the others go on");
                if !persist && failed.is_ok() {
                    failed = Err(FrontError::VhostUser(error));
                }
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
}

fn serve_connection<F: Front>(
    name: &str,
    listener: &mut Listener,
    stop: &Stop,
    persist: bool,
    front: Arc<F>,
) -> Result<(), FrontError> {
    let mut daemon = VhostUserDaemon::new(name.into(), front.clone(), front.ram().atomic_map())
        .map_err(FrontError::VhostUser)?;
    front.watch_events(&daemon.get_epoll_handlers())?;
    daemon.start(listener).map_err(FrontError::VhostUser)?;
    log::info!("{name}: front-end has connected");
    let attached = stop.attach(daemon.shutdown_handle());
    let ended = daemon.wait();
    // The guest may have gone without a word; what it had started ends here.
    let quiet = front.quiesce();
    let others = attached.leave();
    if let Err(error) = quiet {
        // Its end would wait for a queue's thread, which may be the one that does not come to rest.
        std::mem::forget(daemon);
        return Err(error.into());
    }
    drop(daemon);
    front.ram().clear();
    log::info!("{name}: front-end has gone");
    if others == 0 && !persist {
        stop.request();
    }
    match ended {
        // A front-end that closes its socket is the normal end.
        Err(DaemonError::HandleRequest(VhostUserError::Disconnected | VhostUserError::PartialMessage)) => {
            Ok(())
        }
        other => other.map_err(FrontError::VhostUser),
    }
}
