// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the harness knows of the agent's operations, beside their names: how long they may take, which only look,
//! what they make durable, and what an errno of each means. The machine decides by that whether a case goes on, the verdict what it shows.

use longpin_proto::agent::Step;
use longpin_proto::facts::Errno;

/// It may wait for the disk or for a program of the file system's tools.
pub fn may_take_long(step: &Step) -> bool {
    matches!(
        step,
        Step::Mkfs { .. }
            | Step::Mount { .. }
            | Step::Umount { .. }
            | Step::Fsync { .. }
            | Step::Msync { .. }
            | Step::Sync
            | Step::Syncfs { .. }
            | Step::Dedupe { .. }
            | Step::CopyRange { .. }
            | Step::DropCaches
            | Step::Extents { .. }
            | Step::Join { .. }
            | Step::Cleanup
    )
}

/// What is on the disk, also after a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable<'a> {
    /// The file of a handle.
    File(&'a str),
    /// The file behind a range of a mapping.
    Mapping {
        /// Mapping.
        map: &'a str,
        /// First byte in it.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Every file.
    All,
}

/// What an operation promises to be durable when it succeeds.
pub fn makes_durable(step: &Step) -> Option<Durable<'_>> {
    match step {
        Step::Fsync { file, .. } => Some(Durable::File(file)),
        Step::Msync { map, offset, len } => Some(Durable::Mapping { map, offset: *offset, len: *len }),
        Step::Sync | Step::Syncfs { .. } => Some(Durable::All),
        _ => None,
    }
}

/// It changes nothing.
pub fn only_looks(step: &Step) -> bool {
    matches!(
        step,
        Step::QueryRegion { .. }
            | Step::PageState { .. }
            | Step::Read { .. }
            | Step::ReadMapping { .. }
            | Step::Extents { .. }
            | Step::Settle { .. }
            | Step::AwaitLeaseBreak { .. }
            | Step::PinCounters
            | Step::KernelLog
    )
}

/// Meaning of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel protects the pages: the observation `refused`.
    Denied,
    /// The kernel reports damage: the observation `detected`.
    Told,
    /// The kernel or the file system cannot do this: the case is skipped.
    Missing,
    /// Of no consequence.
    Harmless,
    /// It should have worked: our fault.
    Infra,
}

/// Names by which a file system reports damage or the lack of a place for data.
const TOLD: [&str; 7] = ["EIO", "EILSEQ", "EUCLEAN", "EBADMSG", "EROFS", "ENOSPC", "EDQUOT"];
/// Names by which an operation is denied because of somebody who uses the pages.
const BUSY: [&str; 4] = ["EBUSY", "ETXTBSY", "EAGAIN", "EPERM"];
/// Names by which an operation is unknown.
const MISSING: [&str; 3] = ["EOPNOTSUPP", "ENOTTY", "ENOSYS"];
/// Names by which the driver says that it, its device or a limit is at fault, not the kernel's rules on pins.
const DRIVER: [&str; 8] = ["ENODEV", "EIO", "ETIMEDOUT", "ENOMEM", "E2BIG", "ENOSPC", "EINTR", "EINVAL"];

/// How calls begin that a program of the user's says were refused.
const PINNER: &str = "pinner ";

/// Classify the refusal of a step.
pub fn refusal(step: &Step, errno: &Errno) -> Refusal {
    let is = |names: &[&str]| names.contains(&errno.name.as_str());
    match step {
        // A kernel without it, or one that keeps it from everybody.
        Step::Pin { mode, .. } if !mode.by_driver() && is(&["ENOSYS", "EPERM"]) => Refusal::Missing,
        // Something between its device and the pages kept the write off.
        Step::Dma { .. } if errno.call.starts_with(PINNER) && is(&["EFAULT", "EPERM", "EACCES"]) => {
            Refusal::Denied
        }
        // A device, or a kernel, that cannot do without pins.
        Step::Pin { mode, .. } if !mode.holds_pages() && is(&["EOPNOTSUPP"]) => Refusal::Missing,
        Step::Pin { .. } if is(&DRIVER) => Refusal::Infra,
        Step::Pin { .. } => Refusal::Denied,
        // mm/gup.c refuses the pages of the buffer; anything else is the disk's fault or ours.
        Step::ReadDirect { .. } if is(&["EFAULT", "EOPNOTSUPP", "EPERM", "EACCES", "EBUSY"]) => {
            Refusal::Denied
        }
        Step::ClearWarnOnce | Step::Madvise { .. } => Refusal::Harmless,
        Step::Mount { .. } if is(&["ENODEV"]) => Refusal::Missing,
        // simple_nosetlease(), or fs.leases-enable is 0.
        Step::Lease { .. } if is(&["EINVAL"]) => Refusal::Missing,
        Step::Reflink { .. } | Step::Dedupe { .. } if is(&["EXDEV", "EINVAL"]) => Refusal::Missing,
        Step::Reflink { .. } | Step::Dedupe { .. } | Step::CopyRange { .. } | Step::Fallocate { .. }
            if is(&MISSING) =>
        {
            Refusal::Missing
        }
        Step::Reflink { .. }
        | Step::Dedupe { .. }
        | Step::CopyRange { .. }
        | Step::Fallocate { .. }
        | Step::Truncate { .. }
        | Step::Write { .. }
            if is(&BUSY) =>
        {
            Refusal::Denied
        }
        Step::Mount { .. }
        | Step::Umount { .. }
        | Step::Fsync { .. }
        | Step::Msync { .. }
        | Step::Sync
        | Step::Syncfs { .. }
        | Step::Write { .. }
        | Step::Truncate { .. }
        | Step::Fallocate { .. }
        | Step::Reflink { .. }
        | Step::Dedupe { .. }
        | Step::CopyRange { .. }
        | Step::Extents { .. }
        | Step::Open { .. }
        | Step::Close { .. }
            if is(&TOLD) =>
        {
            Refusal::Told
        }
        Step::Touch { .. } | Step::Store { .. } if is(&["EIO", "EFAULT"]) => Refusal::Told,
        _ => Refusal::Infra,
    }
}
