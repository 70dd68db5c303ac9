// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Soak: random plans over a few files of one file system, without a hold of the disk. [`Plan`] makes a seed into a scenario
//! like any other, [`known`] says what such a plan may show and why, [`Summary`] what a run of them came to.

mod generate;
pub mod known;
mod random;
mod state;
mod summary;

pub use generate::{FILE_SYSTEMS, Plan};
pub use summary::Summary;
