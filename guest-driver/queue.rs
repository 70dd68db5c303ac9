// SPDX-License-Identifier: GPL-2.0

//! Virtqueues and the messages on them.
//!
//! A [`Message`] is a request, room for the device's answer, and a cookie for whoever sent it. The
//! queue owns it from [`VirtQueue::submit`] on and hands it back exactly once: answered from
//! [`VirtQueue::next_answered`], or unanswered from [`ClosedQueue::next_abandoned`] after a reset.
//! Memory that the device may write to is never freed and never read in between.
//!
//! The lock of a queue is a leaf.

use crate::{
    dma::Response,
    glue, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    new_mutex,
    prelude::*,
    sync::Mutex,
    time::Jiffies,
    types::Opaque, //
};
use zerocopy::{
    FromZeros,
    Immutable, //
};

/// A request and its answer. `C` is for the sender.
pub(crate) struct Message<C> {
    request: KVec<u8>,
    // An allocation of its own: the device writes here while the rest belongs to the CPU.
    response: KBox<Response>,
    /// Comes back with the message.
    pub(crate) cookie: C,
}

impl<C> Message<C> {
    /// An empty request with room for `capacity` bytes.
    pub(crate) fn new(capacity: usize, cookie: C) -> Result<KBox<Self>> {
        let message = Self {
            request: KVec::with_capacity(capacity, GFP_KERNEL)?,
            response: KBox::new(Response::new_zeroed(), GFP_KERNEL)?,
            cookie,
        };
        Ok(KBox::new(message, GFP_KERNEL)?)
    }

    /// Makes the request empty again and keeps its room.
    pub(crate) fn clear(&mut self) {
        self.request.clear();
        *self.response = Response::new_zeroed();
    }

    /// Appends a wire structure. Errors: [`ENOSPC`] if the room is too small.
    pub(crate) fn push<T: IntoBytes + Immutable>(&mut self, part: &T) -> Result {
        let bytes = part.as_bytes();
        if self.request.capacity() - self.request.len() < bytes.len() {
            return Err(ENOSPC);
        }
        Ok(self.request.extend_from_slice(bytes, GFP_KERNEL)?)
    }

    /// The device's answer to the request with `tag`; `written` is the length that it claims to
    /// have written. Errors: [`EIO`] if the device answered short or to another request.
    pub(crate) fn answer(&self, written: usize, tag: u64) -> Result<Response> {
        if written < size_of::<Response>() || self.response.tag != tag {
            return Err(EIO);
        }
        Ok(*self.response)
    }
}

/// One of the device's virtqueues, for messages with cookies of type `C`.
///
/// # Invariants
///
/// While `raw` is `Some`, it points to a virtqueue of the bound device, and every token in it is
/// a `KBox<Message<C>>` that was given up by `KBox::into_raw`.
#[pin_data]
pub(crate) struct VirtQueue<C> {
    #[pin]
    raw: Mutex<Option<NonNull<glue::virtqueue>>>,
    _messages: PhantomData<KBox<Message<C>>>,
}

// SAFETY: The pointer is only used under the mutex, and the virtio core does not care which thread
// works on a queue.
unsafe impl<C: Send> Send for VirtQueue<C> {}
// SAFETY: As above: `&self` methods take the mutex before they touch the pointer.
unsafe impl<C: Send> Sync for VirtQueue<C> {}

impl<C> VirtQueue<C> {
    /// # Safety
    ///
    /// `raw` must be a virtqueue without buffers, on which nobody else works, and stay valid until
    /// [`VirtQueue::close`] was called and the [`ClosedQueue`] is gone.
    pub(crate) unsafe fn new(raw: NonNull<glue::virtqueue>) -> impl PinInit<Self> {
        // INVARIANT: By the safety requirements.
        pin_init!(Self {
            raw <- new_mutex!(Some(raw), "longpin_queue"),
            _messages: PhantomData,
        })
    }

    /// Gives `message` to the device. On error it comes back with the reason: [`ENODEV`] if the
    /// queue was closed, [`ENOSPC`] if it is full, or what the virtio core says.
    pub(crate) fn submit(
        &self,
        message: KBox<Message<C>>,
    ) -> Result<(), (Error, KBox<Message<C>>)> {
        let guard = self.raw.lock();
        let Some(raw) = *guard else {
            return Err((ENODEV, message));
        };
        let message = KBox::into_raw(message);
        // SAFETY: `message` came from `into_raw()` just now, so it is valid and ours alone.
        let (request, response) = unsafe { (&(*message).request, &raw mut *(*message).response) };
        // SAFETY: `raw` is valid by the type invariant and its users are serialized by the mutex.
        // Request and response are allocations of kmalloc() with the given lengths. They belong
        // to the message, which is given up until the virtio core gives the token back.
        // INVARIANT: The token is a message from `into_raw()`.
        let added = to_result(unsafe {
            glue::longpin_queue_add(
                raw.as_ptr(),
                request.as_ptr().cast(),
                request.len() as c_uint,
                response.cast(),
                size_of::<Response>() as c_uint,
                message.cast(),
            )
        });
        // SAFETY: On failure the virtio core keeps no reference to the token.
        added.map_err(|error| (error, unsafe { KBox::from_raw(message) }))
    }

    /// Takes a message back that the device has answered, and the number of bytes that it claims
    /// to have written.
    pub(crate) fn next_answered(&self) -> Option<(KBox<Message<C>>, usize)> {
        let guard = self.raw.lock();
        let mut written: c_uint = 0;
        // SAFETY: `raw` is valid by the type invariant and its users are serialized by the mutex.
        let token = unsafe { glue::virtqueue_get_buf((*guard)?.as_ptr(), &mut written) };
        let message = NonNull::new(token.cast::<Message<C>>())?;
        // SAFETY: By the type invariant the token is a message from `into_raw()`, and the virtio
        // core gives each token back once.
        let message = unsafe { KBox::from_raw(message.as_ptr()) };
        Some((message, written as usize))
    }

    /// Whether the virtio core has given the queue up, because the device has put nonsense into the
    /// used ring. Nothing will ever come back from it. False for a closed queue.
    pub(crate) fn is_broken(&self) -> bool {
        let guard = self.raw.lock();
        // SAFETY: `raw` is valid by the type invariant and its users are serialized by the mutex.
        guard.is_some_and(|raw| unsafe { glue::virtqueue_is_broken(raw.as_ptr()) })
    }

    /// Ends the use of the queue: every later [`VirtQueue::submit`] fails, none is under way.
    pub(crate) fn close(&self) -> ClosedQueue<C> {
        ClosedQueue {
            raw: self.raw.lock().take(),
            _messages: PhantomData,
        }
    }
}

/// Proof that the device was reset, or had gone.
#[derive(Clone, Copy)]
pub(crate) struct Quiesced(());

impl Quiesced {
    /// # Safety
    ///
    /// The device must have been reset or have gone: it touches no memory of ours any more.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// A queue that nobody can add to.
///
/// # Invariants
///
/// As for [`VirtQueue`]; and this is the only user of the queue.
pub(crate) struct ClosedQueue<C> {
    raw: Option<NonNull<glue::virtqueue>>,
    _messages: PhantomData<KBox<Message<C>>>,
}

impl<C> ClosedQueue<C> {
    /// Takes a message back that the device will not answer any more.
    pub(crate) fn next_abandoned(&mut self, _reset: &Quiesced) -> Option<KBox<Message<C>>> {
        // SAFETY: The queue is valid and only used here by the type invariants. The device was
        // reset, so it does not write to the message's memory.
        let token = unsafe { glue::virtqueue_detach_unused_buf(self.raw?.as_ptr()) };
        let message = NonNull::new(token.cast::<Message<C>>())?;
        // SAFETY: By the type invariant the token is a message from `into_raw()`, and the virtio
        // core gives each token back once.
        Some(unsafe { KBox::from_raw(message.as_ptr()) })
    }
}

/// A completion that can be waited for with a deadline, which `kernel::sync::Completion` of Linux
/// 7.3 cannot, and used again.
#[pin_data]
pub(crate) struct Signal {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A `struct completion` may be used from any thread.
unsafe impl Send for Signal {}
// SAFETY: As above; it has its own lock.
unsafe impl Sync for Signal {}

impl Signal {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writing.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Wakes one waiter, now or in the future.
    pub(crate) fn raise(&self) {
        // SAFETY: `inner` was initialized in `new()`.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// Waits, without regard to signals, until [`Signal::raise`] was called. Returns what is left
    /// of `timeout`, at least one; None if it was not called in that time.
    pub(crate) fn wait(&self, timeout: Jiffies) -> Option<Jiffies> {
        // SAFETY: `inner` was initialized in `new()`. The callers are in process context: they
        // hold a mutex.
        let left = unsafe { bindings::wait_for_completion_timeout(self.inner.get(), timeout) };
        (left != 0).then_some(left)
    }
}
