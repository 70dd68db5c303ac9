// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of guests that did not answer (`--dump`), as QEMU writes it: for `crash` and `drgn`. All dumps of a run
//! together are bounded.

use super::hang::shown;
use crate::deadline::Deadline;
use crate::vm::qmp::Qmp;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Name of the file in the boot's directory.
const FILE: &str = "memory.kdump";
/// QEMU compresses on one CPU of the host: some 50 MB a second.
const SECONDS_PER_GIB: u64 = 120;

/// What dumps of a run may still take.
#[derive(Debug)]
pub struct Dumps {
    left: AtomicU64,
    /// Of one guest.
    memory_mib: u32,
}

impl Dumps {
    /// So many MiB in all, of guests with so much memory.
    pub fn new(mib: u32, memory_mib: u32) -> Self {
        Self { left: AtomicU64::new(u64::from(mib) << 20), memory_mib }
    }

    /// Have the memory written into `dir`; the clause that says so, or why it was not.
    pub fn take(&self, qmp: &mut Qmp, dir: &Path) -> String {
        let (left, most) = (self.left.load(Ordering::Relaxed), u64::from(self.memory_mib) << 20);
        if left < most {
            return format!(
                "its memory is not kept: {} MiB are left of --dump, a guest has {}",
                left >> 20,
                self.memory_mib
            );
        }
        let path = dir.join(FILE);
        // Pages of zeros are left out, the others compressed.
        let arguments = json!({ "paging": false, "protocol": format!("file:{}", path.display()), "format": "kdump-zlib" });
        let time = Duration::from_secs(60 + SECONDS_PER_GIB * (u64::from(self.memory_mib) >> 10));
        let taken = qmp.execute_with("dump-guest-memory", arguments, Deadline::after(time));
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        self.left.store(left.saturating_sub(size), Ordering::Relaxed);
        match taken {
            Ok(_) => format!("its memory is in {}", shown(&path).display()),
            Err(error) => format!("its memory is not kept: {error:#}"),
        }
    }
}
