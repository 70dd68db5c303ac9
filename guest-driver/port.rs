// SPDX-License-Identifier: GPL-2.0

//! The virtio driver: registration, probe and remove, and the handle of the bound device.
//!
//! Rust's side of `virtio_glue.c`. Code that holds a [`Port`] may talk to the device; code that
//! holds a [`Quiesced`] knows that it was reset, and touches no memory any more.

use crate::{
    chardev::Chardev,
    device::Device,
    dma::{
        Config,
        CONFIG_SIZE,
        QUEUE_CONTROL,
        QUEUE_DMA, //
    },
    glue,
    mapping::DmaDevice,
    queue::VirtQueue, //
};
use core::ptr::NonNull;
use kernel::{
    device,
    error::to_result,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::ForeignOwnable, //
};
use zerocopy::FromZeros;

/// The registered virtio driver; dropping it unbinds every device.
pub(crate) struct Driver(());

impl Driver {
    pub(crate) fn register() -> Result<Self> {
        // SAFETY: Called once, when the module is loaded; undone by `drop()`.
        to_result(unsafe { glue::longpin_driver_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: A `Driver` exists only after a successful registration.
        unsafe { glue::longpin_driver_unregister() };
    }
}

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

    fn queue<C>(&self, index: u32) -> Result<impl PinInit<VirtQueue<C>>> {
        // SAFETY: The port is valid by the type invariant.
        let raw = NonNull::new(unsafe { glue::longpin_port_queue(self.0.as_ptr(), index) });
        // SAFETY: Probe makes each queue object once, before anything is added. The virtio core
        // deletes queues after `longpin_rust_remove()`, which closes them.
        Ok(unsafe { VirtQueue::new(raw.ok_or(ENODEV)?) })
    }

    /// Lets the device work: requests may be added, and completions reach `device`. Call it once.
    pub(crate) fn start(&self, device: Arc<Device>) {
        let device = Arc::into_raw(device).cast_mut().cast();
        // SAFETY: The port is valid by the type invariant. The C side gets a reference of its own,
        // which `longpin_rust_put()` gives up.
        unsafe { glue::longpin_port_ready(self.0.as_ptr(), device) };
    }

    /// Resets the device. May sleep. After this the device touches no memory and
    /// `longpin_rust_drain()` is neither running nor called again. The queues must be closed.
    pub(crate) fn reset(&self) -> Quiesced {
        // SAFETY: The port is valid by the type invariant.
        unsafe { glue::longpin_port_reset(self.0.as_ptr()) };
        Quiesced(())
    }
}

/// Proof that the device was reset, or had gone.
#[derive(Clone, Copy)]
pub(crate) struct Quiesced(());

/// What probe makes and remove takes away.
struct Bound {
    chardev: Pin<KBox<Chardev>>,
    device: Arc<Device>,
}

fn probe(port: Port) -> Result<KBox<Bound>> {
    let bound = KBox::<Bound>::new_uninit(GFP_KERNEL)?;
    let device = Device::new(port)?;
    device.start();
    match Chardev::register(&device) {
        Ok(chardev) => Ok(KBox::write(bound, Bound { chardev, device })),
        Err(error) => {
            device.shut_down();
            Err(error)
        }
    }
}

/// # Safety
///
/// Called by `virtio_glue.c` with a new port, once a port.
#[no_mangle]
unsafe extern "C" fn longpin_rust_probe(port: *mut glue::longpin_port) -> *mut c_void {
    let Some(port) = NonNull::new(port) else {
        return EINVAL.to_ptr();
    };
    // INVARIANT: By the safety requirements.
    probe(Port(port)).map_or_else(Error::to_ptr, KBox::into_foreign)
}

/// # Safety
///
/// Called by `virtio_glue.c` with what `longpin_rust_probe()` returned, once.
#[no_mangle]
unsafe extern "C" fn longpin_rust_remove(bound: *mut c_void) {
    // SAFETY: By the safety requirements.
    let bound = unsafe { KBox::<Bound>::from_foreign(bound) };
    let Bound { chardev, device } = KBox::into_inner(bound);
    let (reset, _) = device.shut_down();
    device.revoke_regions(&reset);
    // Last, so that its absence says that all pages are back. Who opens it before finds a device
    // that is down, and can pin nothing.
    drop(chardev);
}

/// Returns false if the device must be given up: `longpin_rust_fail()` is to be called.
///
/// # Safety
///
/// Called by `virtio_glue.c` in process context with the reference that [`Port::start`] gave it.
#[no_mangle]
unsafe extern "C" fn longpin_rust_drain(device: *mut c_void) -> bool {
    // SAFETY: By the safety requirements.
    let device = unsafe { &*device.cast::<Device>() };
    device.drain()
}

/// # Safety
///
/// As for [`longpin_rust_drain`], and not from there.
#[no_mangle]
unsafe extern "C" fn longpin_rust_fail(device: *mut c_void) {
    // SAFETY: By the safety requirements.
    let device = unsafe { &*device.cast::<Device>() };
    device.declare_broken(fmt!("it used a descriptor that it was not given"));
}

/// # Safety
///
/// Called by `virtio_glue.c` with the reference that [`Port::start`] gave it, once, in the end.
#[no_mangle]
unsafe extern "C" fn longpin_rust_put(device: *mut c_void) {
    // SAFETY: By the safety requirements; it came from `Arc::into_raw()`.
    drop(unsafe { Arc::from_raw(device.cast_const().cast::<Device>()) });
}

glue::called_by_c!(
    longpin_rust_probe,
    longpin_rust_remove,
    longpin_rust_drain,
    longpin_rust_fail,
    longpin_rust_put,
);
