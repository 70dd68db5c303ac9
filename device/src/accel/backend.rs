// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What vhost-user asks of a back-end, answered by the accelerator.

use super::{Accelerator, ConfigSpace, QUIESCE_DEADLINE};
use crate::front::{Front as _, exit_event};
use crate::mem::AtomicMap;
use crate::vring::{self, Vring};
use longpin_wire::dma;
use std::io;
use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

impl VhostUserBackend for Accelerator {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        dma::NUM_QUEUES
    }

    fn max_queue_size(&self) -> usize {
        vring::SIZE_LIMIT
    }

    /// Never VIRTIO_F_ACCESS_PLATFORM: there is no IOTLB here, addresses are guest-physical.
    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// The vrings keep the flag themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        ConfigSpace::default().read(offset, size)
    }

    /// The space is read-only. Not an error: that would end the connection, which a guest must not be able to do.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        log::debug!("write of {} bytes to the configuration space at {offset} is ignored", bytes.len());
        Ok(())
    }

    fn update_memory(&self, _map: AtomicMap) -> io::Result<()> {
        let settled = self.engine.ram().settle_within(QUIESCE_DEADLINE);
        settled.then_some(()).ok_or_else(|| io::Error::other("the old memory map is still in use"))
    }

    fn reset_device(&self) {
        if let Err(error) = self.quiesce() {
            // This request has no way to fail. Going on would break the promise that DMA has ended.
            log::error!("reset: {error}; giving up");
            std::process::abort();
        }
    }

    /// The driver takes a queue back (reset, rmmod, shutdown). An error ends the connection, and if DMA does not end
    /// then either, the process: the last way to keep the promise that nothing is written from now on.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        log::debug!("queue {queue} stops");
        self.quiesce().map_err(io::Error::other)
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], _thread: usize) -> io::Result<()> {
        log::trace!("queue {event}: kick");
        let ready = |vring: &Vring| vring.is_usable(&vring.get_ref(), dma::QUEUE_SIZE);
        // The others are for drivers that know `dma::FEATURE_REVOCABLE`.
        self.counters.set_driver_ready(vrings.iter().take(dma::NUM_PINNED_QUEUES).all(ready));
        // Never an error: it would end the vring thread, and the device with it.
        self.poll(vrings);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        exit_event()
    }
}
