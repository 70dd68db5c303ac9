// SPDX-License-Identifier: GPL-2.0

//! The handle of the bound device: what `virtio_glue.c` gives.
//!
//! Code that holds a [`Port`] may talk to the device; code that holds a [`Quiesced`] knows that it
//! was reset, and touches no memory any more.

use crate::{
    dma::{
        Config,
        CONFIG_SIZE,
        FEATURE_REVOCABLE,
        NUM_PINNED_QUEUES,
        NUM_QUEUES,
        QUEUE_CONTROL,
        QUEUE_DMA,
        QUEUE_FAULTS,
        QUEUE_MMU, //
    },
    glue,
    mapping::DmaDevice,
    queue::{
        Quiesced,
        VirtQueue, //
    },
};
use core::ptr::NonNull;
use kernel::{
    device,
    prelude::*,
    sync::aref::ARef, //
};
use zerocopy::FromZeros;

/// The bound virtio device.
///
/// # Invariants
///
/// The pointer is valid; nothing uses it after `longpin_rust_remove()`.
pub(crate) struct Port(NonNull<glue::longpin_port>);

// SAFETY: The functions of `virtio_glue.c` may be called from any thread.
unsafe impl Send for Port {}
// SAFETY: As above; those that take `&self` do not interfere with each other.
unsafe impl Sync for Port {}

impl Port {
    /// # Safety
    ///
    /// `raw` must be a port of `virtio_glue.c`, valid until `longpin_rust_remove()`.
    pub(crate) unsafe fn new(raw: NonNull<glue::longpin_port>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(raw)
    }

    /// For the functions of `virtio_glue.c`.
    pub(crate) fn as_ptr(&self) -> *mut glue::longpin_port {
        self.0.as_ptr()
    }

    /// The virtio device, to name it in messages.
    pub(crate) fn dev(&self) -> ARef<device::Device> {
        // SAFETY: The port is valid by the type invariant, and its device is alive with it.
        unsafe { device::Device::get_device(glue::longpin_port_dev(self.0.as_ptr())) }
    }

    /// The device to map DMA for.
    pub(crate) fn dma_dev(&self) -> Result<DmaDevice> {
        let mut translates = false;
        // SAFETY: The port is valid by the type invariant.
        let raw = unsafe { glue::longpin_port_dma_dev(self.0.as_ptr(), &mut translates) };
        // SAFETY: The device is alive with the port.
        Ok(unsafe { DmaDevice::new(NonNull::new(raw).ok_or(ENODEV)?, translates) })
    }

    /// Reads the configuration space.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new_zeroed();
        let bytes = config.as_mut_bytes();
        // SAFETY: The port is valid by the type invariant, `bytes` for writing its length.
        unsafe {
            glue::longpin_port_read_config(
                self.0.as_ptr(),
                bytes.as_mut_ptr().cast(),
                CONFIG_SIZE as c_uint,
            )
        };
        config
    }

    /// The queue for short requests.
    pub(crate) fn control_queue<C>(&self) -> Result<impl PinInit<VirtQueue<C>>> {
        self.queue(QUEUE_CONTROL)
    }

    /// The queue for DMA programs.
    pub(crate) fn dma_queue<C>(&self) -> Result<impl PinInit<VirtQueue<C>>> {
        self.queue(QUEUE_DMA)
    }

    /// The queue for populate and invalidate.
    pub(crate) fn mmu_queue<C>(&self) -> Result<impl PinInit<VirtQueue<C>>> {
        self.queue(QUEUE_MMU)
    }

    /// The queue for page faults of the device.
    pub(crate) fn fault_queue<C>(&self) -> Result<impl PinInit<VirtQueue<C>>> {
        self.queue(QUEUE_FAULTS)
    }

    /// How many queues the device has.
    pub(crate) fn nr_queues(&self) -> usize {
        match self.config().features & FEATURE_REVOCABLE {
            0 => NUM_PINNED_QUEUES,
            _ => NUM_QUEUES,
        }
    }

    fn queue<C>(&self, index: u32) -> Result<impl PinInit<VirtQueue<C>>> {
        // SAFETY: The port is valid by the type invariant.
        let raw = NonNull::new(unsafe { glue::longpin_port_queue(self.0.as_ptr(), index) });
        // SAFETY: Probe makes each queue object once, before anything is added. The virtio core
        // deletes queues after `longpin_rust_remove()`, which closes them.
        Ok(unsafe { VirtQueue::new(raw.ok_or(ENODEV)?) })
    }

    /// Resets the device. May sleep. After this the device touches no memory and
    /// `longpin_rust_drain()` is neither running nor called again. The queues must be closed.
    pub(crate) fn reset(&self) -> Quiesced {
        // SAFETY: The port is valid by the type invariant.
        unsafe { glue::longpin_port_reset(self.0.as_ptr()) };
        // SAFETY: It was reset just now.
        unsafe { Quiesced::new() }
    }
}
