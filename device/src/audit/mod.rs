// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The audit: what makes a disk an auditing disk. [`Watch`] stands between the rings and the image of every disk. It
//! asks the rules ([`crate::policy`]) what shall be done with a request, keeps what is to be kept, and looks at the
//! pages of each write on their way.
//!
//! # What it sees
//!
//! Three looks at each page of a write: when it is taken from the ring (h1), the copy that goes to the image (h2),
//! and just before the answer (h3).
//!
//! | h1, h2, h3 | meaning |
//! |---|---|
//! | all the same | nothing to report |
//! | h1 != h2 = h3 | changed before the fetch: the disk has what nobody submitted |
//! | h1 = h2 != h3 | changed after the fetch: the page has moved on |
//! | all different | torn: the disk has what the page perhaps never was |
//! | h1 = h3 != h2 | there and back |
//!
//! A write that no rule keeps is copied once, so h1 = h2 by construction: the copy is taken for what was submitted, and
//! only h3 can differ, unless stamps in the copy show that DMA went on meanwhile. Held and delayed writes with late fetch are looked at three times.
//!
//! # What it cannot see
//!
//! * A change there and back between two looks.
//! * A change after the last look, in the microseconds until the answer is in the ring.
//! * Who changed bytes to which DMA wrote in the same time without a stamp left whole: these count as DMA's. A CPU is
//!   recognised by bytes that no DMA wrote, or by a stamp of its own ([`longpin_wire::stamp::SOURCE_CPU`]).
//! * A look at a page is a copy that takes some 100 ns: it may itself be of two moments.
//! * More, and what a verdict says then: `docs/limits.md`.
//!
//! # What it costs
//!
//! A look is a private copy, compared with the bytes that went to the image: those exist anyway until the write is
//! over. Measured on a busy AMD EPYC of 2 cores (`cargo bench -p longpin-device --bench audit`, best of 7 in each of
//! several runs, nanoseconds for a page of 4 KiB beside the copy, which takes 160 to 300): memcmp 80 to 190, XXH3-128
//! 130 to 250, CRC-32C 170 to 340, BLAKE3 1500 to 2300. So bytes are compared, which cannot collide either; XXH3-128
//! names contents in reports, and stands in where a held write's bytes were not kept. A watched write of 4 KiB costs
//! 0.5 to 0.8 µs more than one that is not audited, one of 128 KiB 10 to 17 µs: two copies and a comparison.
//!
//! Memory: the copies of writes in flight; for each disk [`KEPT_BYTES`] of writes that a rule concerns, charged before
//! they are copied, beyond which hashes alone are kept (then a hit says when a page changed, not which bytes), a write
//! that is to be fetched early passes, which the disk's state says, and copies are made one at a time; [`WAITING_BYTES`] of data of requests that wait; [`SPARE_BYTES`] of buffers for use
//! again; [`MAX_HITS`] hits and [`MAX_HOLDS`] ends of holds a case, the rest of the hits is counted.

mod control;
mod desk;
mod error;
mod facts;
mod findings;
mod held_dma;
mod held_regions;
mod history;
mod instruments;
mod look;
mod pages;
mod pool;
mod record;
mod stamps;
mod ticket;
mod timer;
mod watch;

pub use control::MAX_PAGES_TOLD;
pub use error::WatchError;
pub use findings::{MAX_HITS, MAX_HOLDS};
pub use held_dma::HeldDma;
pub use pool::{Buffer, KEPT_BYTES, SPARE_BYTES, WAITING_BYTES};
pub use ticket::{Completed, Resume, Resumed, Ticket};
pub use watch::{HeldWrite, Request, Watch};

#[cfg(test)]
mod tests;
