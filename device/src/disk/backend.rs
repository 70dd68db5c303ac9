// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One connection of a disk: what vhost-user asks of a back-end.

use super::Disk;
use super::config_space::ConfigSpace;
use super::queue::{Lane, Mode};
use crate::front::{self, QuiesceError, exit_event};
use crate::mem::{AtomicMap, GuestRam};
use crate::vring::{self, Vring};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringEpollHandler};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// Longest wait for requests when the driver stops a queue, or for operations when the guest's memory changes. More
/// than a hold of the default length and the ledger's stall limit, so that those are named as the cause first.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// One connection.
pub struct Front {
    disk: Arc<Disk>,
    mode: Arc<Mode>,
    lanes: Vec<Lane>,
    /// The driver's choice in the configuration space: completed writes may be in a cache.
    writeback: AtomicBool,
}

impl Front {
    /// A front for `disk`.
    pub fn new(disk: Arc<Disk>) -> io::Result<Self> {
        let mode = Arc::<Mode>::default();
        let lanes = (0..disk.queues).map(|index| Lane::new(index, disk.clone(), mode.clone()));
        let lanes = lanes.collect::<io::Result<Vec<_>>>()?;
        *disk.inboxes.lock() = lanes.iter().map(|lane| Arc::downgrade(lane.inbox())).collect();
        Ok(Self { disk, mode, lanes, writeback: AtomicBool::new(true) })
    }

    fn config_space(&self) -> ConfigSpace {
        let disk = &self.disk;
        ConfigSpace::new(&disk.image, disk.queues, disk.queue_size, self.writeback.load(Ordering::Relaxed))
    }

    /// Ids of the two events of a queue's thread besides the kick; those below are the library's.
    fn events(&self) -> (u16, u16) {
        let first = self.disk.queues as u16 + 1;
        (first, first + 1)
    }

    fn drain(&self) -> Result<(), QuiesceError> {
        self.lanes.iter().try_for_each(|lane| Ok(lane.drain(DRAIN_DEADLINE)?))
    }
}

impl front::Front for Front {
    fn ram(&self) -> &GuestRam {
        &self.disk.ram
    }

    fn watch_events(&self, handlers: &[Arc<VringEpollHandler<Arc<Self>>>]) -> io::Result<()> {
        let (inbox, ring) = self.events();
        for (lane, handler) in self.lanes.iter().zip(handlers) {
            handler.register_listener(lane.inbox().event(), EventSet::IN, inbox.into())?;
            handler.register_listener(lane.ring_event(), EventSet::IN, ring.into())?;
        }
        Ok(())
    }

    fn quiesce(&self) -> Result<(), QuiesceError> {
        self.mode.closing.store(true, Ordering::Relaxed);
        let quiet = self.drain();
        self.disk.counters.set_driver_ready(false);
        quiet
    }
}

impl VhostUserBackend for Front {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.disk.queues
    }

    fn max_queue_size(&self) -> usize {
        vring::SIZE_LIMIT
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.disk.queues).map(|queue| 1 << queue).collect()
    }

    /// Never VIRTIO_F_ACCESS_PLATFORM: there is no IOTLB here, addresses are guest-physical.
    fn features(&self) -> u64 {
        let changing = 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_CONFIG_WCE
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_MQ
            | if self.disk.image.read_only { 1 << VIRTIO_BLK_F_RO } else { changing }
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        let has = |bit: u32| features & 1 << bit != 0;
        // Virtio 1.3, 5.2.6.2: the field rules where it was negotiated, else a driver that cannot flush gets a cache
        // that never has to be.
        let cached = if has(VIRTIO_BLK_F_CONFIG_WCE) {
            self.writeback.load(Ordering::Relaxed)
        } else {
            has(VIRTIO_BLK_F_FLUSH)
        };
        self.mode.write_through.store(!cached, Ordering::Relaxed);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// The vrings keep the flag themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.config_space().read(offset, size)
    }

    /// Only the cache's mode can be written. The rest is not an error: that would end the connection, which a guest
    /// must not be able to do.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        if let Some(writeback) = ConfigSpace::writeback_in(offset, bytes) {
            log::debug!("disk {}: writeback cache {}", self.disk.index, if writeback { "on" } else { "off" });
            self.writeback.store(writeback, Ordering::Relaxed);
            self.mode.write_through.store(!writeback, Ordering::Relaxed);
        }
        Ok(())
    }

    fn update_memory(&self, _map: AtomicMap) -> io::Result<()> {
        self.disk.ram.settle_leases(DRAIN_DEADLINE).map_err(io::Error::other)
    }

    fn reset_device(&self) {
        // The vrings were disabled before.
        if let Err(error) = self.drain() {
            // This request has no way to fail. Going on would break the promise that the disk has come to rest.
            log::error!("disk {}: reset: {error}; giving up", self.disk.index);
            std::process::abort();
        }
        self.disk.counters.set_driver_ready(false);
    }

    /// The driver takes a queue back (reset, rmmod, shutdown). An error ends the connection, and if the disk does not
    /// come to rest then either, the process: the last way to keep the promise that nothing is written from now on.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        log::debug!("disk {}: queue {queue} stops", self.disk.index);
        let Some(lane) = self.lanes.get(queue as usize) else { return Ok(()) };
        lane.drain(DRAIN_DEADLINE).map_err(io::Error::other)?;
        self.disk.counters.set_driver_ready(false);
        Ok(())
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], thread: usize) -> io::Result<()> {
        // One thread and one vring for each queue.
        let (Some(lane), Some(vring)) = (self.lanes.get(thread), vrings.first()) else { return Ok(()) };
        if event == self.events().0 {
            lane.inbox().consume();
        }
        // Never an error: it would end the queue's thread.
        lane.run(vring);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        exit_event()
    }
}
