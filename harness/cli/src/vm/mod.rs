// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual machines: what one consists of, how QEMU is found and told, what its monitor and console say. Knows no
//! scenario.

pub mod accel;
pub mod additions;
pub mod command_line;
pub mod console;
pub mod probe;
pub mod qemu;
pub mod qmp;
pub mod sockets;
pub mod spec;
