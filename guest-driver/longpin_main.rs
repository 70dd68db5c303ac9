// SPDX-License-Identifier: GPL-2.0

//! `longpin.ko`: a virtio accelerator that writes into pinned user pages by DMA.
//!
//! The driver does what drivers of RDMA and accelerator hardware do, and nothing in secret: user
//! space names a range of its memory, the driver pins it (`FOLL_LONGTERM`, `FOLL_PIN` or
//! `FOLL_GET`), maps it for DMA and announces it to the device, which then writes there at any
//! time. What the file system makes of such pages is what longpin is about. Or it pins nothing and
//! mirrors the range: then the device faults, and gives back what the kernel takes.
//!
//! From the outside in:
//!
//! * [`probe`]: the virtio driver, probe and remove;
//! * [`chardev`]: `/dev/longpin0`, file operations, dispatch of ioctls; [`user_arg`]: their arguments;
//! * [`file`]: one open file, the owner of regions and programs;
//! * [`program`]: DMA programs of an open file, waiting for them and polling;
//! * [`region`]: a pinned or mirrored range that was announced, and the order in which it is given
//!   back;
//! * [`quiet`]: the proof that the device does not write to a region, or a page, any more;
//! * [`mirror`], [`page_faults`]: memory that the device uses without a pin; its page faults;
//! * [`pins`], [`mapping`], [`accounting`]: GUP; the DMA mapping; RLIMIT_MEMLOCK;
//! * [`device`]: the device: limits, regions, the one way down;
//! * [`control`], [`queue`]: requests with an answer, of control and MMU; virtqueues and messages;
//! * [`port`]: the handle of the bound device, what `virtio_glue.c` gives;
//! * [`glue`]: what C and Rust call of each other.
//!
//! # Lock order
//!
//! ```text
//! region slot  ->  control channel  ->  device link  ->  queue
//! mmap_lock, i_mmap, anon_vma, folio, reclaim  ->  mirror's pages  ->  MMU channel  ->  device link
//! ```
//!
//! [`region`] says why the slot comes first. The other locks (a file's tables, the device's table
//! of regions, a control answer's slot) are leaves: nobody takes a lock or sleeps while holding
//! one. `mmap_lock` is taken by GUP, by page faults of the device, and by copies to and from user
//! space, with none of these held.
//!
//! Invalidations of a mirror come with locks of the kernel held and from reclaim, and wait for the
//! device. So nothing that they may wait for allocates memory: neither what is done with one of the
//! channels, the link or a queue locked, nor the interrupt's work. A slot is never taken there: who
//! holds one may be waiting for memory.

use kernel::prelude::*;

mod accounting;
mod chardev;
mod compat;
mod control;
mod device;
mod file;
mod glue;
mod mapping;
mod mirror;
mod page_faults;
mod pins;
mod port;
mod probe;
mod program;
mod queue;
mod quiet;
mod region;
mod user_arg;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the whole contract, shared with user space"
)]
#[path = "../wire/src/dma.rs"]
mod dma;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the whole contract, shared with user space"
)]
#[path = "../wire/src/uapi.rs"]
mod uapi;

#[cfg(not(target_endian = "little"))]
compile_error!("longpin's wire structures are little-endian");

module! {
    type: Longpin,
    name: "longpin",
    authors: ["The longpin developers"],
    description: "Virtio accelerator with DMA into long-term pinned user pages",
    license: "GPL",
    params: {
        device_timeout_ms: u32 {
            default: 10_000,
            description: "Milliseconds (1 to 60000) that the device may take to answer the control \
                          requests of one operation before it is declared broken and reset",
        },
        invalidate_timeout_ms: u32 {
            default: 5_000,
            description: "Milliseconds (1 to 60000) that the device may take to give a page back \
                          that the kernel wants, before it is declared broken and reset",
        },
    },
}

struct Longpin {
    _driver: probe::Driver,
}

impl kernel::Module for Longpin {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _driver: probe::Driver::register()?,
        })
    }
}
