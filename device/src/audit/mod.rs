// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch over the disks' requests: what makes a disk an auditing disk.

mod control;
mod error;
mod facts;
mod findings;
mod held_dma;
mod history;
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
pub use pool::{Buffer, KEPT_BYTES, SPARE_BYTES};
pub use ticket::Ticket;
pub use watch::{HeldWrite, Request, Resume, Resumed, Watch};

#[cfg(test)]
mod tests;
