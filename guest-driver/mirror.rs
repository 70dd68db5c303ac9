// SPDX-License-Identifier: GPL-2.0

//! A mirrored range: memory of a process that the device writes to without anybody holding it.
//!
//! A [`Mirror`] takes no reference to a page. It listens to the kernel by an `mmu_interval_notifier`
//! instead: before the kernel unmaps a page, makes it read-only, moves or frees it, the device has
//! to give it back, and the kernel waits for that. When the device needs the page again it faults,
//! and the page is brought in like for a CPU ([`Mirror::fault`], `hmm_range_fault()`): by a write
//! fault if it is to be written, so the file system hears of it, and stable pages are waited for.
//!
//! # The lock
//!
//! `pages` is what the kernel calls the "user lock" of a mirror (`Documentation/mm/hmm.rst`). It is
//! taken by invalidations, which come with `mmap_lock`, `i_mmap`, `anon_vma` or a folio's lock held,
//! and from reclaim. So nothing that is done with it may allocate memory, copy to or from user
//! space, lock a folio or take a slot of a region. It is held while the device is asked: both
//! questions, [`OP_INVALIDATE`] and [`OP_POPULATE`], wait for nothing but the device, and a device
//! that does not answer soon is reset.
//!
//! [`OP_INVALIDATE`]: crate::dma::OP_INVALIDATE

use crate::{
    compat::{
        not_supported,
        shut_down, //
    },
    device::Device,
    dma::{
        FaultEvent,
        PopulateRequest,
        Segment,
        INVALIDATE_RETIRED,
        OP_POPULATE,
        STATUS_NOT_FOUND,
        STATUS_OK, //
    },
    glue,
    pins::{
        killed,
        Access,
        PageFacts, //
    },
    quiet::Quiet,
    uapi, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    new_mutex,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Most pages in one fault.
const FAULT_PAGES: usize = 16;
/// How often a page may be taken again while it is on its way to the device. Each time the one who
/// took it has made progress; still, a program that never moves should say so.
const MAX_RETRIES: u32 = 1000;

/// The kernel's side.
///
/// # Invariants
///
/// Points to a mirror of `mirror_glue.c`, which is freed when this is dropped.
struct Notifier(NonNull<glue::longpin_mirror>);

// SAFETY: The functions of `mirror_glue.c` may be called from any thread.
unsafe impl Send for Notifier {}
// SAFETY: As above; those that must not run side by side are called with `pages` locked.
unsafe impl Sync for Notifier {}

impl Notifier {
    fn new() -> Result<Self> {
        // SAFETY: It only allocates.
        let raw = from_err_ptr(unsafe { glue::longpin_mirror_alloc() })?;
        // INVARIANT: Allocated just now.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    fn as_ptr(&self) -> *mut glue::longpin_mirror {
        self.0.as_ptr()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: Ours by the type invariant, and nobody listens to it any more: [`Mirror::end`].
        unsafe { glue::longpin_mirror_free(self.0.as_ptr()) };
    }
}

/// A page that the device has been told of.
///
/// No reference is held. The page is the one of the process' page table as long as it stands here:
/// who takes it from there waits for the lock first.
#[derive(Clone, Copy)]
struct Known {
    page: NonNull<bindings::page>,
    dma_addr: u64,
}

struct Pages {
    known: KVVec<Option<Known>>,
    nr_known: u64,
    /// No page is told to the device any more.
    ended: bool,
}

// SAFETY: The pointers are only used under the mutex, by whichever thread.
unsafe impl Send for Pages {}

/// What `LONGPIN_IOC_MIRROR` tells.
pub(crate) struct Counts {
    invalidations: Atomic<u64>,
    longest_ns: Atomic<u64>,
    faults: Atomic<u64>,
    refused: Atomic<u64>,
    retries: Atomic<u64>,
}

/// See the module.
#[pin_data]
pub(crate) struct Mirror {
    notifier: Notifier,
    device: Arc<Device>,
    region: u32,
    start: usize,
    nr_pages: usize,
    counts: Counts,
    #[pin]
    pages: Mutex<Pages>,
}

impl Mirror {
    /// Listens to a range of the calling process. Nothing is known of its pages yet. Must be ended
    /// by [`Mirror::end`].
    ///
    /// Errors: EOPNOTSUPP if the kernel or the device cannot; [`ENOMEM`].
    pub(crate) fn new(
        device: &Arc<Device>,
        region: u32,
        start: usize,
        nr_pages: usize,
    ) -> Result<Arc<Self>> {
        if !device.is_revocable() {
            return Err(not_supported());
        }
        let notifier = Notifier::new()?;
        let mut known = KVVec::with_capacity(nr_pages, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        known.resize(nr_pages, None, GFP_KERNEL_ACCOUNT)?;
        let pages = Pages {
            known,
            nr_known: 0,
            ended: false,
        };
        let counts = Counts {
            invalidations: Atomic::new(0),
            longest_ns: Atomic::new(0),
            faults: Atomic::new(0),
            refused: Atomic::new(0),
            retries: Atomic::new(0),
        };
        let mirror = Arc::pin_init(
            pin_init!(Self {
                notifier,
                device: device.clone(),
                region,
                start,
                nr_pages,
                counts,
                pages <- new_mutex!(pages, "longpin_mirror"),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The notifier is valid by its type invariant. The owner is this mirror: it does
        // not move, and lives until `end()` has removed the notifier.
        to_result(unsafe {
            glue::longpin_mirror_insert(
                mirror.notifier.as_ptr(),
                Arc::as_ptr(&mirror).cast(),
                start,
                nr_pages << PAGE_SHIFT,
            )
        })?;
        Ok(mirror)
    }

    /// Brings the whole range in for reading and tells the device.
    ///
    /// Errors: [`EFAULT`] and others of `hmm_range_fault()`; [`EINTR`] after SIGKILL; [`EIO`];
    /// [`ENODEV`].
    pub(crate) fn populate_for_reading(&self) -> Result {
        let mut first = 0;
        while first < self.nr_pages {
            if killed() {
                return Err(EINTR);
            }
            let last = (first + FAULT_PAGES).min(self.nr_pages);
            let brought = self.bring_in(first..last, Access::Read, 0);
            // Ended by the removal of the device.
            brought.map_err(|error| if error == shut_down() { ENODEV } else { error })?;
            first = last;
        }
        Ok(())
    }

    /// Answers a fault of the device. Process context; waits for the pages as long as it takes.
    pub(crate) fn fault(&self, event: &FaultEvent) {
        let answered = self
            .range_of(event)
            .and_then(|(range, access)| self.bring_in(range, access, event.id));
        match answered {
            Ok(()) => {}
            // The region is about to be taken from the device, which ends the program.
            Err(error) if error == shut_down() => {}
            Err(error) => {
                self.counts.refused.add(1, Relaxed);
                self.device.refuse_fault(event.id, error);
            }
        }
    }

    /// The device is not believed. Errors: [`EINVAL`], [`ERANGE`].
    fn range_of(&self, event: &FaultEvent) -> Result<(Range<usize>, Access)> {
        let access = event.access.try_into()?;
        let page = PAGE_SIZE as u64;
        if (event.offset | event.length) % page != 0 || event.length == 0 {
            return Err(EINVAL);
        }
        let end = event.offset.checked_add(event.length).ok_or(ERANGE)? / page;
        let first = event.offset / page;
        if end > self.nr_pages as u64 || end - first > FAULT_PAGES as u64 {
            return Err(ERANGE);
        }
        Ok((first as usize..end as usize, access))
    }

    fn bring_in(&self, range: Range<usize>, access: Access, fault: u64) -> Result {
        let addr = self.start + (range.start << PAGE_SHIFT);
        let write = access == Access::Write;
        for _ in 0..MAX_RETRIES {
            let mut pfns = [0; FAULT_PAGES];
            let mut seq = 0;
            // SAFETY: The notifier is valid by its type invariant, `pfns` for writing as many
            // elements, since a range has at most `FAULT_PAGES`. No lock of ours is held.
            let faulted = to_result(unsafe {
                glue::longpin_mirror_fault(
                    self.notifier.as_ptr(),
                    addr,
                    range.len(),
                    write,
                    pfns.as_mut_ptr(),
                    &mut seq,
                )
            });
            match faulted {
                Ok(()) => {}
                Err(error) if error == EBUSY => {
                    self.counts.retries.add(1, Relaxed);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let mut pages = self.pages.lock();
            if pages.ended {
                return Err(shut_down());
            }
            // SAFETY: The notifier is valid by its type invariant, and the lock is held.
            if unsafe { glue::longpin_mirror_moved(self.notifier.as_ptr(), seq) } {
                drop(pages);
                self.counts.retries.add(1, Relaxed);
                continue;
            }
            for (index, pfn) in range.clone().zip(pfns) {
                // SAFETY: What is in `pfns` is true, since the range has not moved and the lock is
                // held.
                let page = unsafe { glue::longpin_mirror_page(pfn, write) };
                let page = NonNull::new(page).ok_or(EFAULT)?;
                self.know(&mut pages, index, page)?;
            }
            if fault != 0 {
                // Before the device can go on: who hears of the end of its program finds the fault
                // counted.
                self.counts.faults.add(1, Relaxed);
            }
            return self.announce(&pages, range, access, fault);
        }
        Err(EBUSY)
    }

    /// Maps a page for DMA, unless it is mapped already.
    fn know(&self, pages: &mut Pages, index: usize, page: NonNull<bindings::page>) -> Result {
        let slot = pages.known.get_mut(index).ok_or(ERANGE)?;
        if let Some(known) = slot {
            if known.page == page {
                return Ok(());
            }
            // A page was replaced without a word to us.
            return Err(EIO);
        }
        // SAFETY: The device is bound as long as the mirror is not ended, which its removal sees to;
        // the page is one of the process', which stays where it is until the lock is given up.
        let dma_addr = unsafe { self.device.dma_dev().map_page(page)? };
        *slot = Some(Known { page, dma_addr });
        pages.nr_known += 1;
        Ok(())
    }

    /// Tells the device of pages that are known.
    fn announce(&self, pages: &Pages, range: Range<usize>, access: Access, fault: u64) -> Result {
        let populate = PopulateRequest {
            region: self.region,
            access: access as u32,
            offset: (range.start << PAGE_SHIFT) as u64,
            fault,
            nr_segments: range.len() as u32,
            reserved: 0,
        };
        let answer = self.device.call_mmu(OP_POPULATE, |message| {
            message.push(&populate)?;
            pages.known[range].iter().flatten().try_for_each(|known| {
                message.push(&Segment {
                    dma_addr: known.dma_addr,
                    len: PAGE_SIZE as u64,
                })
            })
        })?;
        match answer.status {
            STATUS_OK => Ok(()),
            // The region is being taken from the device, and its programs with it.
            STATUS_NOT_FOUND => Ok(()),
            _ => Err(EIO),
        }
    }

    /// The kernel is about to change the range. When this returns, the device does not use its
    /// pages any more.
    fn invalidate(&self, start: usize, end: usize, reason: u32, seq: usize) {
        let started = Instant::<Monotonic>::now();
        let mut pages = self.pages.lock();
        // SAFETY: The notifier is valid by its type invariant, and the lock is held.
        unsafe { glue::longpin_mirror_set_seq(self.notifier.as_ptr(), seq) };
        let first = start.saturating_sub(self.start) >> PAGE_SHIFT;
        let last = (end.saturating_sub(self.start)).div_ceil(PAGE_SIZE);
        let range = first..last.min(self.nr_pages);
        let Some(range) = pages.known_in(range) else {
            return;
        };
        let quiet = Quiet::after_invalidate(&self.device, self.region, &range, reason);
        self.forget(&mut pages, range, &quiet);
        drop(pages);
        self.counts.invalidations.add(1, Relaxed);
        let took = started.elapsed().as_nanos().max(0) as u64;
        // Nobody but invalidations of this range writes here; that a longer one of two at once may
        // be lost for it is not worth a loop.
        if took > self.counts.longest_ns.load(Relaxed) {
            self.counts.longest_ns.store(took, Relaxed);
        }
    }

    /// Unmaps pages that the device does not use any more.
    fn forget(&self, pages: &mut Pages, range: Range<usize>, _quiet: &Quiet) {
        let Some(slots) = pages.known.get_mut(range) else {
            return;
        };
        let mut forgotten = 0;
        for known in slots.iter_mut().filter_map(Option::take) {
            // SAFETY: The address came from `map_page()` of the same device, which is bound: pages
            // are known only while it is.
            unsafe { self.device.dma_dev().unmap_page(known.dma_addr) };
            forgotten += 1;
        }
        pages.nr_known -= forgotten;
    }

    /// Ends the mirror: the device gives back what it has and is told of nothing any more, and the
    /// kernel is not listened to. When this returns, whoever called it first, no page is mapped.
    /// Comes before the device forgets the region.
    ///
    /// The caller may hold no lock that an invalidation is called with.
    pub(crate) fn end(&self) {
        let mut pages = self.pages.lock();
        if pages.ended {
            return;
        }
        pages.ended = true;
        if let Some(range) = pages.known_in(0..self.nr_pages) {
            let reason = INVALIDATE_RETIRED;
            let quiet = Quiet::after_invalidate(&self.device, self.region, &range, reason);
            self.forget(&mut pages, range, &quiet);
        }
        drop(pages);
        // SAFETY: Inserted by `new()`, and removed once, by whoever has set `ended`. The lock that
        // the callback takes is not held.
        unsafe { glue::longpin_mirror_remove(self.notifier.as_ptr()) };
    }

    /// What is known of a page: nothing if the device does not have it. Errors: [`ERANGE`].
    pub(crate) fn query(&self, index: usize) -> Result<(Option<(PageFacts, u64)>, u64)> {
        let pages = self.pages.lock();
        let known = pages.known.get(index).ok_or(ERANGE)?;
        let facts = known.map(|known| {
            let mut facts = PageFacts::default();
            // SAFETY: The page is the process' as long as it stands here and the lock is held;
            // `facts` is valid for writing.
            unsafe { glue::longpin_page_facts(known.page.as_ptr(), &mut facts) };
            (facts, known.dma_addr)
        });
        Ok((facts, pages.nr_known))
    }

    /// Fills what `LONGPIN_IOC_MIRROR` tells.
    pub(crate) fn fill(&self, mirror: &mut uapi::Mirror) {
        mirror.pages = self.pages.lock().nr_known;
        mirror.invalidations = self.counts.invalidations.load(Relaxed);
        mirror.longest_invalidation_ns = self.counts.longest_ns.load(Relaxed);
        mirror.faults = self.counts.faults.load(Relaxed);
        mirror.refused = self.counts.refused.load(Relaxed);
        mirror.retries = self.counts.retries.load(Relaxed);
    }
}

impl Pages {
    /// The smallest range within `range` that holds all its known pages; None if it has none.
    fn known_in(&self, range: Range<usize>) -> Option<Range<usize>> {
        let slots = self.known.get(range.clone())?;
        let first = slots.iter().position(Option::is_some)?;
        let last = slots.iter().rposition(Option::is_some)?;
        Some(range.start + first..range.start + last + 1)
    }
}

/// # Safety
///
/// Called by `mirror_glue.c` with the owner that [`Mirror::new`] gave it.
#[no_mangle]
unsafe extern "C" fn longpin_rust_invalidate(
    owner: *const c_void,
    start: c_ulong,
    end: c_ulong,
    reason: c_uint,
    seq: c_ulong,
) {
    // SAFETY: The owner is a mirror that lives until its notifier is removed, by the safety
    // requirements.
    let mirror = unsafe { &*owner.cast::<Mirror>() };
    mirror.invalidate(start, end, reason, seq);
}

glue::called_by_c!(longpin_rust_invalidate);
