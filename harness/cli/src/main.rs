// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin`: command line.
#![deny(unsafe_code)]

mod child;
mod deadline;
mod device;
mod disk;
mod interrupt;
mod ledger;
mod link;
mod vm;

fn main() {}
