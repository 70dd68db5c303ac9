// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of the agent's steps in sentences.

use longpin_proto::agent::Step;

/// Name of a step as a scenario's author knows it.
pub fn step_name(step: &Step) -> &'static str {
    match step {
        Step::LoadModule { .. } => "load-module",
        Step::UnloadModule { .. } => "unload-module",
        Step::Mkfs { .. } => "mkfs",
        Step::Mount { .. } => "mount",
        Step::Unmount { .. } => "umount",
        Step::WriteCells { .. } => "write",
        Step::Open { .. } => "open",
        Step::Close { .. } => "close",
        Step::Map { .. } => "map",
        Step::Unmap { .. } => "unmap",
        Step::Touch { .. } => "touch",
        Step::Store { .. } => "store",
        Step::Advise { .. } => "madvise",
        Step::Pin { .. } => "pin",
        Step::QueryRegion { .. } => "query-region",
        Step::Dma { .. } => "dma",
        Step::DmaWait { .. } => "dma-wait",
        Step::DmaStop { .. } => "dma-stop",
        Step::Release { .. } => "release",
        Step::Fsync { .. } => "fsync",
        Step::Sync => "sync",
        Step::Syncfs { .. } => "syncfs",
        Step::PageState { .. } => "page-state",
        Step::ReadCells { .. } => "read",
        Step::ReadMapping { .. } => "read-mapping",
        Step::Extents { .. } => "extents",
        Step::Stat { .. } => "stat",
        Step::DropCaches => "drop-caches",
        Step::Truncate { .. } => "truncate",
        Step::Fallocate { .. } => "fallocate",
        Step::Reflink { .. } => "reflink",
        Step::PokeDevice { .. } => "poke-device",
        Step::PinCounters => "pin-counters",
        Step::KernelLog => "kernel-log",
        Step::ClearWarnOnce => "clear-warn-once",
        Step::WriteSys { .. } => "write-sys",
        Step::ReadSys { .. } => "read-sys",
        Step::Affinity { .. } => "affinity",
        Step::Exec { .. } => "exec",
        Step::Cleanup => "cleanup",
        Step::Shell => "shell",
        Step::PowerOff => "power-off",
    }
}
