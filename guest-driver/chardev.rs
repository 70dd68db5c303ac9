// SPDX-License-Identifier: GPL-2.0

//! `/dev/longpin0`: registration, file operations, dispatch of ioctls.
//!
//! The file operations are our own, since `kernel::miscdevice` has no `poll`. They
//! name the module as owner, so it cannot be unloaded while a file is open; the device can be
//! unbound all the same, and the files then see [`ENODEV`].

use crate::{
    compat::this_module,
    device::Device,
    file::OpenFile,
    uapi,
    user_arg::UserArg, //
};
use kernel::{
    bindings,
    container_of,
    error::to_result,
    fs::File,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full, //
        },
        poll::PollTable,
        Arc, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

const NAME: &CStr = c"longpin0";

/// Whether the name is in use: there is one accelerator.
static TAKEN: Atomic<bool> = Atomic::new(false);

/// The right to use [`NAME`].
struct Name(());

impl Name {
    fn take() -> Result<Self> {
        if TAKEN.xchg(true, Full) {
            return Err(EBUSY);
        }
        Ok(Self(()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        TAKEN.store(false, kernel::sync::atomic::Release);
    }
}

/// The registered character device.
///
/// # Invariants
///
/// `misc` is registered from `register()` to `drop()`, and never moved.
#[pin_data(PinnedDrop)]
pub(crate) struct Chardev {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    device: Arc<Device>,
    // Dropped after `drop()` has deregistered it.
    _name: Name,
}

// SAFETY: A misc device may be used and deregistered from any thread.
unsafe impl Send for Chardev {}
// SAFETY: As above.
unsafe impl Sync for Chardev {}

impl Chardev {
    /// Makes the device known to user space; it can be opened from now on.
    ///
    /// Errors: [`EBUSY`] for a second accelerator; those of `misc_register()`.
    pub(crate) fn register(device: &Arc<Device>) -> Result<Pin<KBox<Self>>> {
        let name = Name::take().inspect_err(|_| {
            dev_err!(
                device.dev(),
                "only one accelerator is supported: unbind the other first\n"
            )
        })?;
        KBox::try_pin_init(
            try_pin_init!(Self {
                device: device.clone(),
                _name: name,
                misc <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                    let misc = bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: NAME.as_char_ptr(),
                        fops: &FOPS.0,
                        mode: 0o600,
                        ..pin_init::zeroed()
                    };
                    // SAFETY: `slot` is valid for writing.
                    unsafe { slot.write(misc) };
                    // INVARIANT: Registered, unless this fails.
                    // SAFETY: `slot` is initialized and stays where it is until `drop()`. `device`
                    // is initialized before it, so it is there when the first file is opened.
                    to_result(unsafe { bindings::misc_register(slot) })
                }),
            }),
            GFP_KERNEL,
        )
    }
}

#[pinned_drop]
impl PinnedDrop for Chardev {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by the type invariant. Waits for an `open()` under way.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

fn ioctl(file: &OpenFile, cmd: u32, arg: UserArg) -> Result {
    match cmd {
        uapi::IOC_INFO => file.info(arg),
        uapi::IOC_PIN => file.pin(arg),
        uapi::IOC_RELEASE => file.release(arg),
        uapi::IOC_SUBMIT => file.submit(arg),
        uapi::IOC_WAIT => file.wait(arg),
        uapi::IOC_STOP => file.stop(arg),
        uapi::IOC_QUERY => file.query(arg),
        uapi::IOC_MIRROR => file.mirror(arg),
        _ => Err(ENOTTY),
    }
}

type FilePtr = Pin<KBox<OpenFile>>;

struct Fops(bindings::file_operations);

// SAFETY: The structure is only read.
unsafe impl Sync for Fops {}

static FOPS: Fops = Fops(bindings::file_operations {
    owner: this_module(),
    open: Some(fops_open),
    release: Some(fops_release),
    unlocked_ioctl: Some(fops_ioctl),
    // All structures have the same layout for 32-bit programs.
    compat_ioctl: bindings::compat_ptr_ioctl,
    poll: Some(fops_poll),
    ..pin_init::zeroed()
});

/// # Safety
///
/// Called by `misc_open()`, which keeps the misc device registered meanwhile.
unsafe extern "C" fn fops_open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // Who has the device has its DMA: it learns physical addresses, and may have pages written that
    // it may only read.
    // SAFETY: It only looks at the current task.
    if !unsafe { bindings::capable(bindings::CAP_SYS_RAWIO as c_int) } {
        return EPERM.to_errno();
    }
    // SAFETY: Both are valid by the safety requirements. It cannot fail.
    unsafe { bindings::nonseekable_open(inode, file) };
    // SAFETY: `misc_open()` has set the private data to our registered misc device.
    let misc = unsafe { (*file).private_data }.cast::<bindings::miscdevice>();
    // SAFETY: That is the field of a `Chardev`, which lives as long as it is registered.
    let chardev = unsafe { &*container_of!(Opaque::cast_from(misc), Chardev, misc) };
    match OpenFile::new(chardev.device.clone()) {
        Ok(open_file) => {
            // SAFETY: The file is ours to initialize.
            unsafe { (*file).private_data = open_file.into_foreign() };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the VFS for a file that `fops_open()` opened, once.
unsafe extern "C" fn fops_release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `fops_open()` has set the private data, and nobody uses it any more.
    drop(unsafe { FilePtr::from_foreign((*file).private_data) });
    0
}

/// # Safety
///
/// Called by the VFS for a file that `fops_open()` opened and that is not being released.
unsafe extern "C" fn fops_ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: `fops_open()` has set the private data, and the file is open.
    let open_file = unsafe { FilePtr::borrow((*file).private_data) };
    match ioctl(&open_file, cmd, UserArg::at(UserPtr::from_addr(arg))) {
        Ok(()) => 0,
        Err(error) => error.to_errno() as c_long,
    }
}

/// # Safety
///
/// Called by the VFS for a file that `fops_open()` opened and that is not being released.
unsafe extern "C" fn fops_poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: `fops_open()` has set the private data, and the file is open.
    let open_file = unsafe { FilePtr::borrow((*file).private_data) };
    // SAFETY: The file is valid, and the VFS does not use its position meanwhile.
    let file = unsafe { File::from_raw_file(file) };
    // SAFETY: The table is null or valid for this call.
    let ready = open_file.poll(file, &unsafe { PollTable::from_raw(table) });
    let mut mask = 0;
    if ready.ended {
        mask |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    if ready.down {
        mask |= bindings::POLLERR | bindings::POLLHUP;
    }
    mask
}
