// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned memory, by the rule of InfiniBand (`drivers/infiniband/core/umem.c`): the
//! pinning process' `pinned_vm` grows by the pages held, and may not exceed `RLIMIT_MEMLOCK` but
//! for holders of `CAP_IPC_LOCK`.
//!
//! All modes are charged, not only the long-term one: whatever kind of reference it is, the page
//! can be neither freed nor moved as long as the region lives, and the owner decides how long.

use crate::glue;
use kernel::{
    current,
    error::to_result,
    mm::Mm,
    prelude::*,
    sync::aref::ARef, //
};

/// Pages charged to a process. Dropping it takes the charge back, from whichever process.
///
/// # Invariants
///
/// `nr_pages` of `mm`'s `pinned_vm` are ours.
pub(crate) struct Charge {
    mm: ARef<Mm>,
    nr_pages: usize,
}

impl Charge {
    /// Charges the calling process.
    ///
    /// Errors: [`EPERM`] if it may lock no memory at all, [`ENOMEM`] at its limit.
    pub(crate) fn current(nr_pages: usize) -> Result<Self> {
        let task = current!();
        let mm: &Mm = task.mm().ok_or(EINVAL)?;
        // SAFETY: `mm` is a valid reference.
        to_result(unsafe { glue::longpin_charge_pinned(mm.as_raw(), nr_pages) })?;
        // INVARIANT: Charged just now.
        Ok(Self {
            mm: mm.into(),
            nr_pages,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: `mm` is a valid reference, and the charge is ours by the type invariant.
        unsafe { glue::longpin_uncharge_pinned(self.mm.as_raw(), self.nr_pages) };
    }
}
