// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtqueue whose size the guest has chosen. The front-end passes it on as it is, and to the vhost-user library a
//! size above the largest is an error of the front-end, which ends the connection, and one that is no power of two is
//! ignored, so that the queue is used with a size that is not its own. But it is the guest's error, and must cost the
//! guest no more than the queue. So the library is given a ring of our own, which takes whatever comes and then
//! holds nothing. A driver that sets the queue up anew, and right, has a queue that works.
//!
//! A misaligned address never comes here: the library takes the message for garbage and ends the connection.

use crate::mem::{AtomicMap, View};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error, QueueT as _};

/// Most descriptors of any queue (virtio 1.3, 2.7). The library is told this bound for every queue, since a size
/// above the one it knows ends the connection; what the queue really has is asked for where chains are taken.
pub const SIZE_LIMIT: usize = 32768;

/// A virtqueue as it is shared with the vhost-user library.
#[derive(Clone)]
pub struct Vring {
    inner: VringMutex<AtomicMap>,
    /// The size asked for is none.
    bad_size: Arc<AtomicBool>,
}

/// Locked.
pub type Locked<'a> = <Vring as VringStateMutGuard<'a, AtomicMap>>::G;

impl Vring {
    /// Whether the driver has set the queue up, and as a queue of at most `limit` descriptors can be. `state`: of
    /// this queue.
    pub fn is_usable(&self, state: &VringState<AtomicMap>, limit: u16) -> bool {
        state.is_enabled()
            && state.get_queue().ready()
            && !self.bad_size.load(Ordering::Relaxed)
            && state.get_queue().size() <= limit
    }

    /// Ask for kicks again; whether more has come in the meantime.
    pub fn listen(&self, limit: u16, view: &View<'_>) -> bool {
        let mut state = self.get_mut();
        self.is_usable(&state, limit)
            && state.get_queue_mut().enable_notification(view.map()).unwrap_or(false)
    }
}

impl<'a> VringStateGuard<'a, AtomicMap> for Vring {
    type G = <VringMutex<AtomicMap> as VringStateGuard<'a, AtomicMap>>::G;
}

impl<'a> VringStateMutGuard<'a, AtomicMap> for Vring {
    type G = <VringMutex<AtomicMap> as VringStateMutGuard<'a, AtomicMap>>::G;
}

impl VringT<AtomicMap> for Vring {
    fn new(mem: AtomicMap, max_queue_size: u16) -> Result<Self, Error> {
        Ok(Self { inner: VringMutex::new(mem, max_queue_size)?, bad_size: Arc::default() })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, AtomicMap>>::G {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> Locked<'_> {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), Error> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), Error> {
        self.inner.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.inner.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.inner.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        let set = self.get_mut().get_queue_mut().try_set_size(num);
        self.bad_size.store(set.is_err(), Ordering::Relaxed);
        if set.is_err() {
            log::warn!(
                "queue of {num} descriptors, which is no power of two: it is dead until it is set up anew"
            );
        }
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.inner.set_kick(file);
    }

    /// Never an error, which would end the queue's thread: a kick that was not there to be read costs a look.
    fn read_kick(&self) -> io::Result<bool> {
        Ok(self.inner.read_kick().unwrap_or(true))
    }

    fn set_call(&self, file: Option<File>) {
        self.inner.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}
