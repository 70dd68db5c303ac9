// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0
//! Binary contract of longpin: everything that crosses a boundary as bytes is defined here, once.
//!
//! * [`dma`]: messages on the accelerator's virtqueues and its configuration space,
//! * [`uapi`]: ioctl structures and numbers of `/dev/longpin0`,
//! * [`stamp`]: the self-describing cells that DMA (and the CPU, for contrast) writes into memory,
//! * [`ledger`]: the record file that the device keeps.
//!
//! All integers are little-endian, all structures are `repr(C)` without implicit padding. `dma.rs` and `uapi.rs`
//! are also compiled into the kernel module with `#[path]`, so they use only `core`, zerocopy's derives and
//! Rust 1.85.
#![no_std]
#![deny(unsafe_code, missing_docs)]

pub mod dma;
pub mod ledger;
pub mod stamp;
pub mod uapi;
