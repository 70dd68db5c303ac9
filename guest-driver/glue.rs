// SPDX-License-Identifier: GPL-2.0

//! What C and Rust call of each other: `glue.h`, as bindgen reads it when the module is built.
//!
//! So a declaration that differs between the two does not compile. What Rust defines for C is held
//! against the header by [`called_by_c`].

use crate::dma;
use kernel::prelude::*;

#[allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    reason = "generated; structures of the kernel are only passed by pointer"
)]
mod generated {
    use kernel::{
        bindings::{
            device,
            mm_struct,
            page,
            sg_table,
            workqueue_struct, //
        },
        ffi, //
    };

    include!("glue.bindings");
}

pub(crate) use generated::*;

static_assert!(LONGPIN_VIRTIO_ID as u32 == dma::VIRTIO_ID);
static_assert!(LONGPIN_NUM_QUEUES as usize == dma::NUM_QUEUES);
static_assert!(LONGPIN_MAX_SEGMENT as u64 == dma::MAX_REGION_BYTES);
static_assert!(LONGPIN_INVALIDATE_UNMAP == dma::INVALIDATE_UNMAP);
static_assert!(LONGPIN_INVALIDATE_CLEAR == dma::INVALIDATE_CLEAR);
static_assert!(LONGPIN_INVALIDATE_PROTECTION_VMA == dma::INVALIDATE_PROTECTION_VMA);
static_assert!(LONGPIN_INVALIDATE_PROTECTION_PAGE == dma::INVALIDATE_PROTECTION_PAGE);
static_assert!(LONGPIN_INVALIDATE_SOFT_DIRTY == dma::INVALIDATE_SOFT_DIRTY);
static_assert!(LONGPIN_INVALIDATE_RELEASE == dma::INVALIDATE_RELEASE);
static_assert!(LONGPIN_INVALIDATE_MIGRATE == dma::INVALIDATE_MIGRATE);
static_assert!(LONGPIN_INVALIDATE_EXCLUSIVE == dma::INVALIDATE_EXCLUSIVE);
static_assert!(LONGPIN_INVALIDATE_OTHER == dma::INVALIDATE_OTHER);

/// Does not compile if a function of this name here and in `glue.h` differ in type.
macro_rules! called_by_c {
    ($($name:ident),+ $(,)?) => {
        $(const _: () = {
            if true {
                $crate::glue::$name
            } else {
                $name
            };
        };)+
    };
}
pub(crate) use called_by_c;
