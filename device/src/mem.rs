// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest memory: the only place that reads or writes it (virtqueues excepted, which `virtio-queue` walks itself).
//!
//! The memory map may be replaced at any time. A [`View`] is a short-lived permission to use the map of this
//! moment; [`GuestRam::settle`] waits until every view of an older map is gone, so after a map change has been
//! acknowledged nothing touches memory that left the guest. Views are therefore kept for a batch of work, never
//! across a wait. Where the host's kernel reads or writes guest memory for us (the disk's io_uring), a [`Lease`] that
//! was made under a view stands for the operation until it is over; [`GuestRam::settle_leases`] waits for these.
//!
//! Lock order: a view is taken before a vring's lock, and never while another view is held by the same thread: a
//! `settle` that waits in between would be waited for by the second, and itself waits for the first.

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryLoadGuard,
    GuestMemoryMmap,
};

/// Memory map of a guest. No dirty bitmap: the device cannot be migrated.
pub type Map = GuestMemoryMmap<()>;
/// Handle through which the vhost-user handler replaces the map.
pub type AtomicMap = GuestMemoryAtomic<Map>;

/// Address in the guest's physical memory. Without an IOMMU it is also what the driver calls a DMA address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `bytes` further on; `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range that is not (wholly) in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {gpa:?} are not in the guest's memory")]
pub struct BadAddress {
    /// Start of the range.
    pub gpa: Gpa,
    /// Its length.
    pub len: u64,
}

/// The guest's memory, shared by the queues and the DMA engine.
pub struct GuestRam {
    /// The connection that it came by, for messages.
    name: String,
    map: AtomicMap,
    /// Read-locked by every view; the write lock is the proof that none is left.
    views: RwLock<()>,
    leases: Mutex<Leases>,
    /// A count of `leases` became zero.
    returned: Condvar,
}

/// Live leases, those of the present epoch and those of the one before. Every settle begins an epoch.
#[derive(Default)]
struct Leases {
    epoch: usize,
    live: [usize; 2],
}

/// The old map was still in use at the deadline.
#[derive(Debug, thiserror::Error)]
#[error("a thread, and {operations} batches of disk operations, still use the guest's memory after {} s", after.as_secs())]
pub struct StillLent {
    /// Leases; none if it was a view that kept the wait from beginning.
    pub operations: usize,
    /// The deadline.
    pub after: Duration,
}

impl Default for GuestRam {
    fn default() -> Self {
        Self::new(AtomicMap::new(Map::new()))
    }
}

impl GuestRam {
    /// Memory behind `map`.
    pub fn new(map: AtomicMap) -> Self {
        Self {
            name: "a connection".into(),
            map,
            views: RwLock::new(()),
            leases: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// The same with a name for messages: the connection that it comes by.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Handle for the vhost-user handler.
    pub fn atomic_map(&self) -> AtomicMap {
        self.map.clone()
    }

    /// The map of this moment. Blocks only while [`Self::settle`] waits.
    pub fn view(&self) -> View<'_> {
        // The lock first: a map loaded before it could be replaced and settled in between.
        let lock = self.views.read();
        View { map: self.map.memory(), _lock: lock }
    }

    /// The map of this moment, to be asked what memory it shows. Not for a use of that memory, which takes a view.
    pub(crate) fn snapshot(&self) -> Arc<Map> {
        self.map.memory().into_inner()
    }

    /// Wait until no view is left that was taken before this call. Called after the map was replaced.
    pub fn settle(&self) {
        drop(self.views.write());
    }

    /// The same with a bound; whether all of them have gone.
    pub fn settle_within(&self, limit: Duration) -> bool {
        self.views.try_write_for(limit).is_some()
    }

    /// Whether a settle waits for a view now. Asked under a view of the caller's, a yes means that somebody waits.
    #[cfg(test)]
    pub fn is_settling(&self) -> bool {
        self.views.try_read().is_none()
    }

    /// Allow operations that outlast `view`. They use addresses that were looked up under it.
    pub fn lend(self: &Arc<Self>, view: &View<'_>) -> Lease {
        let mut leases = self.leases.lock();
        let epoch = leases.epoch;
        leases.live[epoch % 2] += 1;
        Lease { ram: self.clone(), _map: view.map.clone().into_inner(), epoch }
    }

    /// Wait until every lease is back that was made before this call. Called after the map was replaced, by one
    /// thread at a time.
    pub fn settle_leases(&self, deadline: Duration) -> Result<(), StillLent> {
        let until = Instant::now() + deadline;
        // With the write lock no view is left, and so nobody who could still lend the old map in the new epoch.
        let views = self.views.try_write_until(until).ok_or(StillLent { operations: 0, after: deadline })?;
        let mut leases = self.leases.lock();
        let old = leases.epoch % 2;
        leases.epoch += 1;
        drop(views);
        while leases.live[old] > 0 {
            if self.returned.wait_until(&mut leases, until).timed_out() && leases.live[old] > 0 {
                return Err(StillLent { operations: leases.live[old], after: deadline });
            }
        }
        Ok(())
    }

    /// Forget the guest's memory, when the guest has gone.
    pub fn clear(&self) {
        match self.map.lock() {
            Ok(guard) => guard.replace(Map::new()),
            Err(poisoned) => poisoned.into_inner().replace(Map::new()),
        }
        self.settle();
    }
}

/// Keeps a memory map in place while the host's kernel works on it.
pub struct Lease {
    ram: Arc<GuestRam>,
    /// The mapping stays even where a settle gives up waiting.
    _map: Arc<Map>,
    epoch: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.ram.leases.lock();
        let live = &mut leases.live[self.epoch % 2];
        *live -= 1;
        if *live == 0 {
            self.ram.returned.notify_all();
        }
    }
}

/// Permission to use one memory map. Hold it for a batch, not across a wait.
pub struct View<'a> {
    map: GuestMemoryLoadGuard<Map>,
    _lock: RwLockReadGuard<'a, ()>,
}

impl View<'_> {
    /// The map, for walking a virtqueue.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Whether each byte of the range is in the guest's memory.
    pub fn check(&self, gpa: Gpa, len: u64) -> Result<(), BadAddress> {
        let bad = BadAddress { gpa, len };
        gpa.checked_add(len).ok_or(bad)?;
        let bytes = usize::try_from(len).map_err(|_| bad)?;
        // A range of nothing is nowhere; callers never ask, a guest might make them.
        let inside = len > 0 && GuestMemoryBackend::check_range(self.map(), GuestAddress(gpa.0), bytes);
        inside.then_some(()).ok_or(bad)
    }

    /// Where a range lies in this process: nearly always one piece. The addresses are good while a [`Lease`] lives
    /// that was made under this view; only the host's kernel may use them, since the guest writes there as it likes.
    pub(crate) fn locate(
        &self,
        gpa: Gpa,
        len: u32,
        mut piece: impl FnMut(*mut u8, usize),
    ) -> Result<(), BadAddress> {
        let bad = BadAddress { gpa, len: len.into() };
        self.check(gpa, bad.len)?;
        for slice in GuestMemoryBackend::get_slices(self.map(), GuestAddress(gpa.0), len as usize) {
            let slice = slice.map_err(|_| bad)?;
            piece(slice.ptr_guard_mut().as_ptr(), slice.len());
        }
        Ok(())
    }

    /// Copy `bytes` into the guest's memory, all or nothing.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), BadAddress> {
        // Nearly always one range of memory, found once; the rest is for buffers that lie across two.
        if let Ok(slice) = GuestMemoryBackend::get_slice(self.map(), GuestAddress(gpa.0), bytes.len()) {
            slice.copy_from(bytes);
            return Ok(());
        }
        let bad = BadAddress { gpa, len: bytes.len() as u64 };
        self.check(gpa, bad.len)?;
        self.map().write_slice(bytes, GuestAddress(gpa.0)).map_err(|_| bad)
    }

    /// Copy from the guest's memory.
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), BadAddress> {
        // As in `write`.
        if let Ok(slice) = GuestMemoryBackend::get_slice(self.map(), GuestAddress(gpa.0), bytes.len()) {
            slice.copy_to(bytes);
            return Ok(());
        }
        let bad = BadAddress { gpa, len: bytes.len() as u64 };
        self.check(gpa, bad.len)?;
        self.map().read_slice(bytes, GuestAddress(gpa.0)).map_err(|_| bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn ram(ranges: &[(u64, usize)]) -> GuestRam {
        let ranges: Vec<_> = ranges.iter().map(|(base, len)| (GuestAddress(*base), *len)).collect();
        GuestRam::new(AtomicMap::new(Map::from_ranges(&ranges).unwrap()))
    }

    #[test]
    fn only_ranges_inside_the_map_are_accepted() {
        let ram = ram(&[(0x1000, 0x1000), (0x2000, 0x1000), (0x10000, 0x1000)]);
        let view = ram.view();
        for (gpa, len) in [(0x1000, 1), (0x1000, 0x2000), (0x2fff, 1), (0x10000, 0x1000)] {
            assert_eq!(view.check(Gpa(gpa), len), Ok(()), "{gpa:#x}+{len:#x}");
        }
        for (gpa, len) in
            [(0xfff, 1), (0x1000, 0), (0x2fff, 2), (0x1000, 0x10000), (u64::MAX, 1), (0x1000, u64::MAX)]
        {
            assert_eq!(view.check(Gpa(gpa), len), Err(BadAddress { gpa: Gpa(gpa), len }));
        }
    }

    #[test]
    fn a_write_that_does_not_fit_changes_nothing() {
        let ram = ram(&[(0, 0x1000)]);
        let view = ram.view();
        assert!(view.write(Gpa(0xff8), &[7; 16]).is_err());
        let mut tail = [1u8; 8];
        view.read(Gpa(0xff8), &mut tail).unwrap();
        assert_eq!(tail, [0; 8]);
        view.write(Gpa(0xff8), &[7; 8]).unwrap();
        view.read(Gpa(0xff8), &mut tail).unwrap();
        assert_eq!(tail, [7; 8]);
    }

    #[test]
    fn settle_waits_for_the_views_of_the_old_map() {
        let ram = ram(&[(0, 0x1000)]);
        let (settled, wait) = mpsc::channel();
        std::thread::scope(|scope| {
            let view = ram.view();
            let ram = &ram;
            scope.spawn(move || {
                ram.clear();
                settled.send(()).unwrap();
            });
            // The old map stays usable for the holder of the view ...
            assert!(wait.recv_timeout(Duration::from_millis(20)).is_err(), "settled under a live view");
            assert_eq!(view.check(Gpa(0), 1), Ok(()));
            drop(view);
            // ... and is gone for everybody else afterwards.
            wait.recv_timeout(Duration::from_secs(10)).expect("settle returns when the view is gone");
            assert!(ram.view().check(Gpa(0), 1).is_err());
        });
    }
    #[test]
    fn settle_waits_for_leases_of_the_old_map_and_not_for_new_ones() {
        let ram = Arc::new(ram(&[(0, 0x1000)]));
        let old = ram.lend(&ram.view());
        assert_eq!(ram.settle_leases(Duration::from_millis(1)).unwrap_err().operations, 1);
        let new = ram.lend(&ram.view());
        drop(old);
        let settled = {
            let ram = ram.clone();
            std::thread::spawn(move || ram.settle_leases(Duration::from_secs(10)))
        };
        drop(new);
        settled.join().unwrap().unwrap();
        let newer = ram.lend(&ram.view());
        assert!(ram.settle_leases(Duration::ZERO).is_err());
        drop(newer);
        ram.settle_leases(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_view_that_is_kept_ends_every_wait_at_its_deadline() {
        let ram = Arc::new(ram(&[(0, 0x1000)]));
        let view = ram.view();
        let waits = {
            let ram = ram.clone();
            let short = Duration::from_millis(1);
            std::thread::spawn(move || (ram.settle_within(short), ram.settle_leases(short).is_err()))
        };
        assert_eq!(waits.join().unwrap(), (false, true));
        drop(view);
        ram.settle_leases(Duration::from_secs(10)).unwrap();
    }
}
