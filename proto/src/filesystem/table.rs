// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table: a row for each file system. Codes and messages of the checkers are those of e2fsprogs 1.47, xfsprogs 6.13,
//! btrfs-progs 6.14, f2fs-tools 1.16 and exfatprogs 1.2.9; `proto/tests/checkers` holds outputs of each.

use super::Structure::{Clean, Damaged, DataDamaged, Unusable};
use super::{
    By, Checker, Complaints, Detector, FileSystem, Lines, Mkfs, OnDevice, Over, Reading, Says, Source,
};
use std::ops::RangeInclusive;

/// Whatever the exit code is.
const ANY: RangeInclusive<i32> = i32::MIN..=i32::MAX;
const F2FS_COMPLAINTS: &[&str] = &["[ASSERT]", "[Fail]"];

/// Every file system, in the order in which lists show them.
pub static ALL: &[FileSystem] = &[
    FileSystem {
        name: "ext4",
        modules: &["ext4"],
        packages: &["e2fsprogs"],
        options: "",
        source: Source::Device(OnDevice {
            mkfs: Mkfs { program: "/usr/sbin/mkfs.ext4", args: &["-F", "-q"] },
            checker: Some(Checker {
                // Check even what is marked clean, open read-only, answer every question with no.
                argv: &["e2fsck", "-fn"],
                readings: &[
                    // A journal that was not replayed makes spurious complaints.
                    Reading {
                        codes: ANY,
                        says: Says::OneOf(&["skipping journal recovery"]),
                        means: Unusable,
                    },
                    Reading { codes: 0..=0, says: Says::Anything, means: Clean },
                    // 4: errors left uncorrected; 8 and more: it could not work.
                    Reading { codes: 1..=7, says: Says::Anything, means: Damaged },
                ],
                complaints: Complaints::AllBut(Lines {
                    begin: &["e2fsck ", "Pass ", "IGNORED"],
                    contain: &[],
                }),
            }),
            host_reads: true,
        }),
        keeps_content: true,
        reflink: false,
        direct: true,
        detector: None,
    },
    FileSystem {
        name: "xfs",
        modules: &["xfs"],
        packages: &["xfsprogs"],
        options: "",
        source: Source::Device(OnDevice {
            mkfs: Mkfs { program: "/usr/sbin/mkfs.xfs", args: &["-f", "-q"] },
            checker: Some(Checker {
                // No modify mode.
                argv: &["xfs_repair", "-n"],
                readings: &[
                    Reading {
                        codes: ANY,
                        says: Says::OneOf(&["valuable metadata changes in a log", "fatal error"]),
                        means: Unusable,
                    },
                    Reading { codes: 0..=0, says: Says::Anything, means: Clean },
                    // 2: the log is dirty.
                    Reading { codes: 1..=1, says: Says::Anything, means: Damaged },
                ],
                complaints: Complaints::AllBut(Lines {
                    begin: &[
                        "Phase ",
                        "- ",
                        "Cannot get host",
                        "Repair may fail",
                        "the image and",
                        "No modify flag",
                    ],
                    contain: &[],
                }),
            }),
            host_reads: true,
        }),
        keeps_content: true,
        reflink: true,
        direct: true,
        detector: None,
    },
    FileSystem {
        name: "btrfs",
        modules: &["btrfs"],
        packages: &["btrfs-progs"],
        options: "",
        source: Source::Device(OnDevice {
            mkfs: Mkfs { program: "/usr/sbin/mkfs.btrfs", args: &["-f", "-q"] },
            checker: Some(Checker {
                // It reads only by default; so it also reads all data and compares it with its checksums.
                argv: &["btrfs", "check", "--readonly", "--check-data-csum"],
                // One code for every complaint. With damaged data alone it says "errors found in csum tree" after a
                // line for each block, and nothing else.
                readings: &[
                    Reading { codes: 0..=0, says: Says::Anything, means: Clean },
                    Reading {
                        codes: ANY,
                        says: Says::OneOf(&[
                            "is missing",
                            "is currently mounted",
                            "cannot open device",
                            "No such file",
                            "Permission denied",
                        ]),
                        means: Unusable,
                    },
                    Reading {
                        codes: ANY,
                        says: Says::OnlyComplaints(Lines {
                            begin: &["mirror "],
                            contain: &["errors found in csum tree"],
                        }),
                        means: DataDamaged,
                    },
                    Reading { codes: ANY, says: Says::Anything, means: Damaged },
                ],
                complaints: Complaints::Are(Lines {
                    begin: &[
                        "ERROR",
                        "mirror ",
                        "checksum verify failed",
                        "bad ",
                        "ref mismatch",
                        "root ",
                        "unresolved ref",
                    ],
                    contain: &["errors "],
                }),
            }),
            host_reads: true,
        }),
        keeps_content: true,
        reflink: true,
        direct: true,
        // fs/btrfs/inode.c: print_data_csum_error(): the offset is the block's in its file.
        detector: Some(Detector { says: "csum failed root", offset_after: " off " }),
    },
    FileSystem {
        name: "f2fs",
        modules: &["f2fs"],
        packages: &["f2fs-tools"],
        options: "",
        source: Source::Device(OnDevice {
            mkfs: Mkfs { program: "/usr/sbin/mkfs.f2fs", args: &["-f", "-q"] },
            checker: Some(Checker {
                // It checks everything and fixes nothing; with `-f` it insists on opening for writing.
                argv: &["fsck.f2fs", "--dry-run"],
                readings: &[
                    Reading { codes: 0..=0, says: Says::NoneOf(F2FS_COMPLAINTS), means: Clean },
                    // After a complaint it may also stop for an answer that nobody gives, with a code of failure.
                    Reading { codes: ANY, says: Says::OneOf(F2FS_COMPLAINTS), means: Damaged },
                    Reading { codes: 1..=1, says: Says::Anything, means: Damaged },
                    Reading { codes: 4..=4, says: Says::Anything, means: Damaged },
                ],
                complaints: Complaints::Are(Lines { begin: &[], contain: F2FS_COMPLAINTS }),
            }),
            host_reads: true,
        }),
        keeps_content: true,
        reflink: false,
        direct: true,
        detector: None,
    },
    FileSystem {
        name: "exfat",
        modules: &["exfat"],
        packages: &["exfatprogs"],
        options: "",
        source: Source::Device(OnDevice {
            // It overwrites without being told to.
            mkfs: Mkfs { program: "/usr/sbin/mkfs.exfat", args: &["-q"] },
            checker: Some(Checker {
                argv: &["fsck.exfat", "-n"],
                readings: &[
                    Reading { codes: 0..=0, says: Says::Anything, means: Clean },
                    // 4: errors left uncorrected; 8: it could not work; 16: usage.
                    Reading { codes: 1..=7, says: Says::Anything, means: Damaged },
                ],
                complaints: Complaints::AllBut(Lines { begin: &["exfatprogs version"], contain: &[] }),
            }),
            // No FIEMAP; exfat_aop_bmap() answers FIBMAP.
            host_reads: true,
        }),
        keeps_content: true,
        reflink: false,
        direct: true,
        detector: None,
    },
    // A log of copies, with a checksum over all blocks of each piece of it. Nothing of Debian's checks one.
    FileSystem {
        name: "nilfs2",
        modules: &["nilfs2"],
        packages: &["nilfs-tools"],
        options: "",
        source: Source::Device(OnDevice {
            mkfs: Mkfs { program: "/usr/sbin/mkfs.nilfs2", args: &["-f", "-q"] },
            checker: None,
            host_reads: true,
        }),
        keeps_content: true,
        reflink: false,
        // Reads only: nilfs_direct_IO() leaves a write to the page cache.
        direct: true,
        detector: None,
    },
    FileSystem {
        name: "overlay",
        modules: &["overlay", "ext4"],
        packages: &[],
        options: "",
        source: Source::Over(Over { below: "ext4", mounts: "overlay", by: By::Layers, host_reads: true }),
        keeps_content: true,
        reflink: false,
        direct: true,
        detector: None,
    },
    FileSystem {
        name: "overlay-xfs",
        modules: &["overlay", "xfs"],
        packages: &[],
        options: "",
        source: Source::Over(Over { below: "xfs", mounts: "overlay", by: By::Layers, host_reads: true }),
        keeps_content: true,
        reflink: true,
        direct: true,
        detector: None,
    },
    // The page cache of a file that a program keeps: with writeback_cache, which the program asks for by itself.
    FileSystem {
        name: "fuse",
        modules: &["fuse", "ext4"],
        packages: &["fuse-overlayfs"],
        options: "",
        source: Source::Over(Over {
            below: "ext4",
            mounts: "fuse",
            by: By::Program("/usr/bin/fuse-overlayfs"),
            // It has no FIEMAP.
            host_reads: false,
        }),
        keeps_content: true,
        reflink: false,
        direct: true,
        detector: None,
    },
    // In memory: no remount, no bytes for the host to read.
    FileSystem {
        name: "tmpfs",
        modules: &[],
        packages: &[],
        options: "",
        source: Source::Named("tmpfs"),
        keeps_content: false,
        reflink: false,
        // It accepts O_DIRECT and goes through the page cache all the same.
        direct: false,
        detector: None,
    },
];
