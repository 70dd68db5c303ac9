// SPDX-License-Identifier: GPL-2.0

//! References to user pages: taken by GUP, given back when [`PinnedPages`] is dropped.
//!
//! GUP is called in its `_fast` form: without the mmap lock it takes what is mapped already, and
//! falls back to faulting under the lock for the rest. It also knows what `FOLL_LONGTERM` asks for
//! (`gup_fast_folio_allowed()`, `__gup_longterm_locked()`): pages of file systems that write back
//! are refused, movable ones are migrated first. In batches of a page full of pointers, as
//! `ib_umem` does, so that a gigabyte neither hogs the CPU nor outlives a SIGKILL for long.

use crate::{
    accounting::Charge,
    glue,
    uapi, //
};
use kernel::{
    bindings,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Pages in one call of GUP, and in one of its counterparts.
const BATCH: usize = PAGE_SIZE / size_of::<*mut bindings::page>();

/// Which kind of reference GUP takes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Mode {
    Longterm = uapi::MODE_LONGTERM,
    Pin = uapi::MODE_PIN,
    Get = uapi::MODE_GET,
}

impl TryFrom<u32> for Mode {
    type Error = Error;

    fn try_from(mode: u32) -> Result<Self> {
        match mode {
            uapi::MODE_LONGTERM => Ok(Self::Longterm),
            uapi::MODE_PIN => Ok(Self::Pin),
            uapi::MODE_GET => Ok(Self::Get),
            _ => Err(EINVAL),
        }
    }
}

/// Whether GUP is told that the pages will be written to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Access {
    Read = uapi::ACCESS_READ,
    Write = uapi::ACCESS_WRITE,
}

impl TryFrom<u32> for Access {
    type Error = Error;

    fn try_from(access: u32) -> Result<Self> {
        match access {
            uapi::ACCESS_READ => Ok(Self::Read),
            uapi::ACCESS_WRITE => Ok(Self::Write),
            _ => Err(EINVAL),
        }
    }
}

/// Whether the owner was sent a SIGKILL and a long operation should stop.
pub(crate) fn killed() -> bool {
    // SAFETY: It only looks at the current task.
    unsafe { glue::longpin_killed() }
}

/// What the kernel thinks of a page now. Evidence: it may have changed by the time it is read.
pub(crate) type PageFacts = glue::longpin_page_facts;

/// User pages that we hold a reference to.
///
/// # Invariants
///
/// Each element of `pages` is a valid page with one reference of ours, of `FOLL_GET` if `mode` is
/// [`Mode::Get`], of `FOLL_PIN` otherwise.
pub(crate) struct PinnedPages {
    pages: KVVec<*mut bindings::page>,
    mode: Mode,
    dirty: bool,
    // Dropped after the references.
    _charge: Charge,
}

// SAFETY: References to pages may be given back by any thread.
unsafe impl Send for PinnedPages {}
// SAFETY: `&self` methods only read.
unsafe impl Sync for PinnedPages {}

impl PinnedPages {
    /// Takes references to the `nr_pages` pages of the calling process from `addr`, which must be
    /// a multiple of the page size; at least one page. All or nothing.
    ///
    /// Errors: what GUP says, [`EFAULT`] in particular; [`EINTR`] after SIGKILL; [`ENOMEM`]; those
    /// of [`Charge::current`].
    pub(crate) fn pin(addr: usize, nr_pages: usize, mode: Mode, access: Access) -> Result<Self> {
        let charge = Charge::current(nr_pages)?;
        let pages = KVVec::with_capacity(nr_pages, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        // INVARIANT: No pages yet.
        let mut pinned = Self {
            pages,
            mode,
            dirty: false,
            _charge: charge,
        };
        while pinned.pages.len() < nr_pages {
            if killed() {
                return Err(EINTR);
            }
            let batch = BATCH.min(nr_pages - pinned.pages.len());
            pinned.pin_batch(addr + (pinned.pages.len() << PAGE_SHIFT), batch, access)?;
            // SAFETY: We are in process context and hold no spinlock.
            unsafe { glue::longpin_resched() };
        }
        Ok(pinned)
    }

    /// Adds up to `nr_pages` pages, at least one. There must be capacity for them.
    fn pin_batch(&mut self, addr: usize, nr_pages: usize, access: Access) -> Result {
        let mut flags = 0;
        if access == Access::Write {
            flags |= bindings::FOLL_WRITE;
        }
        if self.mode == Mode::Longterm {
            flags |= bindings::FOLL_LONGTERM;
        }
        let gup = match self.mode {
            Mode::Get => bindings::get_user_pages_fast,
            Mode::Pin | Mode::Longterm => bindings::pin_user_pages_fast,
        };
        let room = self.pages.spare_capacity_mut();
        let nr_pages = nr_pages.min(room.len());
        // SAFETY: `room` is valid for writing `nr_pages` pointers. GUP checks the address itself.
        let ret = unsafe { gup(addr, nr_pages as c_int, flags, room.as_mut_ptr().cast()) };
        to_result(ret)?;
        if ret == 0 {
            return Err(EFAULT);
        }
        // INVARIANT: GUP took a reference of the kind that `mode` says to each of these.
        // SAFETY: GUP has written `ret` elements, and not more than `nr_pages`.
        unsafe { self.pages.inc_len(ret as usize) };
        self.check_batch(ret as usize, access)
    }

    /// Refuses the zero page, which a pin for reading gets for private memory that was never
    /// touched: the device writes whatever the access, and these zeroes are everybody's.
    fn check_batch(&self, nr_pages: usize, access: Access) -> Result {
        if access == Access::Write {
            return Ok(());
        }
        let batch = &self.pages[self.pages.len() - nr_pages..];
        // SAFETY: The pages are valid by the type invariant.
        let zero = |page: &*mut bindings::page| unsafe { glue::longpin_is_zero_page(*page) };
        if batch.iter().any(zero) {
            return Err(EFAULT);
        }
        Ok(())
    }

    /// The pages, in order; at least one.
    pub(crate) fn pages(&self) -> &[*mut bindings::page] {
        &self.pages
    }

    /// Decides whether the dirty bits are set when the references are given back; if nobody does,
    /// they are not.
    pub(crate) fn set_dirty(&mut self, dirty: bool) {
        self.dirty = dirty;
    }

    /// What the kernel thinks of page `index`; None if there is no such page.
    pub(crate) fn facts(&self, index: usize) -> Option<PageFacts> {
        let page = *self.pages.get(index)?;
        let mut facts = PageFacts::default();
        // SAFETY: The page is valid by the type invariant, `facts` for writing.
        unsafe { glue::longpin_page_facts(page, &mut facts) };
        Some(facts)
    }

    fn give_back(mode: Mode, dirty: bool, pages: &mut [*mut bindings::page]) {
        match mode {
            // SAFETY: By the type invariant the pages hold a reference of `FOLL_PIN`, which the
            // caller gives up. Process context: the function may sleep.
            Mode::Pin | Mode::Longterm => unsafe {
                bindings::unpin_user_pages_dirty_lock(pages.as_mut_ptr(), pages.len(), dirty)
            },
            Mode::Get => {
                for page in pages {
                    if dirty {
                        // SAFETY: The page is valid by the type invariant; as above.
                        unsafe { bindings::set_page_dirty_lock(*page) };
                    }
                    // SAFETY: By the type invariant the page holds a reference of `FOLL_GET`,
                    // which the caller gives up.
                    unsafe { glue::longpin_put_page(*page) };
                }
            }
        }
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for batch in self.pages.chunks_mut(BATCH) {
            Self::give_back(self.mode, self.dirty, batch);
            // SAFETY: We are in process context and hold no spinlock.
            unsafe { glue::longpin_resched() };
        }
    }
}
