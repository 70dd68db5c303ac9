// SPDX-License-Identifier: GPL-2.0

//! The virtio driver: registration, probe and remove. What `virtio_glue.c` calls.

use crate::{
    chardev::Chardev,
    device::Device,
    glue,
    port::Port, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc,
    types::ForeignOwnable, //
};

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

/// What probe makes and remove takes away.
struct Bound {
    chardev: Pin<KBox<Chardev>>,
    device: Arc<Device>,
}

/// Lets the device work: requests may be added, and completions reach `device`. Call it once.
fn start(port: &Port, device: Arc<Device>) {
    let device = Arc::into_raw(device).cast_mut().cast();
    // SAFETY: The port is valid by its type invariant. The C side gets a reference of its own,
    // which `longpin_rust_put()` gives up.
    unsafe { glue::longpin_port_ready(port.as_ptr(), device) };
}

fn probe(port: Port) -> Result<KBox<Bound>> {
    let bound = KBox::<Bound>::new_uninit(GFP_KERNEL)?;
    let device = Device::new(port)?;
    device.when_up(|port| start(port, device.clone()));
    let registered = device
        .await_faults()
        .and_then(|()| Chardev::register(&device));
    match registered {
        Ok(chardev) => Ok(KBox::write(bound, Bound { chardev, device })),
        Err(error) => {
            device.shut_down();
            Err(error)
        }
    }
}

/// How many virtqueues to look for.
///
/// # Safety
///
/// Called by `virtio_glue.c` with a new port, before anything else.
#[no_mangle]
unsafe extern "C" fn longpin_rust_nr_queues(port: *mut glue::longpin_port) -> c_uint {
    let Some(port) = NonNull::new(port) else {
        return 0;
    };
    // SAFETY: By the safety requirements.
    unsafe { Port::new(port) }.nr_queues() as c_uint
}

/// # Safety
///
/// Called by `virtio_glue.c` with a new port, once a port.
#[no_mangle]
unsafe extern "C" fn longpin_rust_probe(port: *mut glue::longpin_port) -> *mut c_void {
    let Some(port) = NonNull::new(port) else {
        return EINVAL.to_ptr();
    };
    // SAFETY: By the safety requirements.
    let port = unsafe { Port::new(port) };
    probe(port).map_or_else(Error::to_ptr, KBox::into_foreign)
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
/// Called by `virtio_glue.c` in process context with the reference that [`start`] gave it.
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
/// Called by `virtio_glue.c` with the reference that [`start`] gave it, once, in the end.
#[no_mangle]
unsafe extern "C" fn longpin_rust_put(device: *mut c_void) {
    // SAFETY: By the safety requirements; it came from `Arc::into_raw()`.
    drop(unsafe { Arc::from_raw(device.cast_const().cast::<Device>()) });
}

glue::called_by_c!(
    longpin_rust_nr_queues,
    longpin_rust_probe,
    longpin_rust_remove,
    longpin_rust_drain,
    longpin_rust_fail,
    longpin_rust_put,
);
