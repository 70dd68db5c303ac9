// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch over the disks' requests: what makes a disk an auditing disk.

mod pool;
mod ticket;
mod watch;

pub use pool::{Buffer, KEPT_BYTES, SPARE_BYTES};
pub use ticket::Ticket;
pub use watch::{Request, Resume, Resumed, Watch};
