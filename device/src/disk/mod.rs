// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The auditing disk: a virtio-blk device (virtio 1.3, 5.2) over a raw file or block device. It moves requests
//! between the rings, the watch ([`crate::audit`]) and the image; what a rule does with a request, and what became
//! of its bytes, is the watch's matter.
//!
//! What it promises:
//!
//! * Nothing that a guest puts into its rings ends the daemon, or makes it touch memory outside the guest's.
//! * When a queue has been taken back (the answer to GET_VRING_BASE, a reset, the end of the connection), each
//!   request of it has been answered, and guest memory is not touched any more. Held requests are let go for that.
//! * A flush covers every write that was answered before it was taken. It waits for no held request, and neither
//!   does any other request.
//!
//! Threads: one for each queue ([`queue`]), the vhost-user thread (setup and stop), those of the control socket
//! (power cut and restore), and the watch's. A [`Disk`] outlives its connections; a [`Front`] is one of them.

mod backend;
mod config_space;
mod execute;
mod gate;
mod image;
mod inbox;
mod job;
mod lock;
mod options;
mod power;
mod queue;
mod request;
mod sparse;
mod status;
mod uring;

pub use backend::Front;
pub use image::{Image, ImageError};
pub use options::{DiskOptions, OptionError};
pub use power::PowerError;
pub use uring::check_host;

use crate::audit::Watch;
use crate::ledger::{Ledger, Producer};
use crate::listener::SocketFile;
use crate::mem::GuestRam;
use config_space::ID_BYTES;
use gate::Gate;
use inbox::Inbox;
use longpin_proto::disk::DiskStatus;
use parking_lot::Mutex;
use request::Geometry;
use status::{Counters, Troubles};
use std::fs::File;
use std::sync::{Arc, Weak};

/// What a disk is made of.
#[derive(Debug)]
pub struct DiskConfig {
    /// Where its front-end connects.
    pub socket: SocketFile,
    /// What it stores.
    pub image: Image,
    /// Serial id, at most 20 characters.
    pub serial: Option<String>,
    /// Virtqueues.
    pub queues: usize,
    /// Descriptors of each; a power of two.
    pub queue_size: u16,
    /// Writes are watched byte by byte.
    pub audited: bool,
}

/// One disk, from the start of the daemon to its end.
pub struct Disk {
    index: u32,
    serial: String,
    /// The serial, as GET_ID gives it.
    id: [u8; ID_BYTES],
    image: Arc<Image>,
    geometry: Geometry,
    queues: usize,
    queue_size: u16,
    audited: bool,
    ram: Arc<GuestRam>,
    watch: Arc<Watch>,
    gate: Arc<Gate>,
    counters: Counters,
    troubles: Troubles,
    /// Queues of the connection, to be woken when the gate opens.
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    /// Content at the last power cut.
    noted: Mutex<Option<File>>,
    /// For power cuts. Requests are recorded by the watch.
    log: Producer,
}

impl Disk {
    /// A disk that `watch` watches, and the socket for its front-end.
    pub fn new(config: DiskConfig, watch: Arc<Watch>, ledger: &Ledger) -> (Arc<Self>, SocketFile) {
        let DiskConfig { socket, image, serial, queues, queue_size, audited } = config;
        let ram = Arc::new(GuestRam::default().named(format!("disk{}", socket.name())));
        let index = watch.add_disk(ram.clone());
        let serial = serial.unwrap_or_else(|| format!("longpin-{index}"));
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        let geometry = Geometry {
            bytes: image.bytes,
            block_bytes: image.block_bytes.into(),
            read_only: image.read_only,
        };
        let disk = Self {
            index,
            serial,
            id,
            image: Arc::new(image),
            geometry,
            queues,
            queue_size,
            audited,
            ram,
            watch,
            gate: Arc::default(),
            counters: Counters::default(),
            troubles: Troubles::default(),
            inboxes: Mutex::default(),
            noted: Mutex::default(),
            log: ledger.producer(),
        };
        (Arc::new(disk), socket)
    }

    /// State for the control socket.
    pub fn status(&self) -> DiskStatus {
        let mut status = DiskStatus {
            serial: self.serial.clone(),
            bytes: self.image.bytes,
            last_error: self.troubles.last(),
            ..DiskStatus::default()
        };
        self.counters.fill(&mut status);
        self.watch.fill_status(self.index, &mut status);
        status
    }

    /// Have the queues look again at what they could not do.
    fn wake_queues(&self) {
        self.inboxes.lock().iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.wake());
    }
}
