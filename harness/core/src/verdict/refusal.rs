// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an errno of a step means. The machine decides by it whether a case goes on, the verdict what it shows: one
//! table for both.

use longpin_proto::agent::Step;
use longpin_proto::facts::Errno;

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

/// Classify the refusal of a step.
pub fn refusal(step: &Step, errno: &Errno) -> Refusal {
    let is = |names: &[&str]| names.contains(&errno.name.as_str());
    match step {
        Step::Pin { .. } if is(&DRIVER) => Refusal::Infra,
        Step::Pin { .. } => Refusal::Denied,
        // mm/gup.c refuses the pages of the buffer; anything else is the disk's fault or ours.
        Step::ReadDirect { .. } if is(&["EFAULT", "EOPNOTSUPP", "EPERM", "EACCES", "EBUSY"]) => {
            Refusal::Denied
        }
        Step::ClearWarnOnce | Step::Advise { .. } => Refusal::Harmless,
        Step::Mount { .. } if is(&["ENODEV"]) => Refusal::Missing,
        Step::Reflink { .. } if is(&["EXDEV", "EINVAL"]) => Refusal::Missing,
        Step::Reflink { .. } | Step::Fallocate { .. } if is(&MISSING) => Refusal::Missing,
        Step::Reflink { .. } | Step::Fallocate { .. } | Step::Truncate { .. } | Step::WriteCells { .. }
            if is(&BUSY) =>
        {
            Refusal::Denied
        }
        Step::Mount { .. }
        | Step::Unmount { .. }
        | Step::Fsync { .. }
        | Step::Sync
        | Step::Syncfs { .. }
        | Step::WriteCells { .. }
        | Step::Truncate { .. }
        | Step::Fallocate { .. }
        | Step::Reflink { .. }
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
