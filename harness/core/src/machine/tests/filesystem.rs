// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a row of the table of file systems changes in the steps of a case.

use super::{case_of, drive};
use crate::plan::Case;
use crate::scenario::Flavour;
use longpin_proto::agent::{Step, Via};
use longpin_proto::filesystem::{FileSystem, Source};

/// No block device of its own, and files that outlive an unmount.
static EXPORT: FileSystem = FileSystem {
    name: "nfs",
    modules: &["nfsv4"],
    packages: &["nfs-common"],
    options: "vers=4.2",
    source: Source::Named("10.0.2.2:/export"),
    keeps_content: true,
    reflink: true,
    direct: true,
    detector: None,
};

const STEPS: &str = r#""mkfs", "mount", "create", "snapshot", "remount", "compare""#;

/// What the machine asks of the guest, in short.
fn steps(case: &Case) -> (Vec<String>, bool) {
    let (_, guest) = drive(case, &|_| None);
    let steps = guest.steps.iter().filter_map(|step| match step {
        Step::Mkfs { device, args, .. } => Some(format!("mkfs {} {device}", args.join(" "))),
        Step::Mount { fs, device, options, .. } => Some(format!("mount {fs} {device} {options}")),
        Step::Umount { .. } => Some("unmount".to_owned()),
        Step::Extents { .. } => Some("extents".to_owned()),
        Step::Read { via: Via::Direct, .. } => Some("read direct".to_owned()),
        Step::Read { via: Via::Buffered, .. } => Some("read".to_owned()),
        _ => None,
    });
    (steps.collect(), guest.asked.iter().any(|what| what.starts_with("fsck")))
}

#[test]
fn one_on_a_device_is_made_mounted_from_it_and_read_by_the_host() {
    let (steps, checked) = steps(&case_of("ext4:data=journal", "none", "none", STEPS, "intact"));
    let mount = "mount ext4 /dev/vda data=journal";
    assert_eq!(steps, ["mkfs -F -q /dev/vda", mount, "read direct", "unmount", mount, "read", "extents"]);
    assert!(checked);
}

#[test]
fn one_in_memory_is_neither_made_nor_unmounted_in_mid_case() {
    let (steps, checked) = steps(&case_of("tmpfs:huge=always", "none", "none", STEPS, "intact"));
    assert_eq!(steps, ["mount tmpfs tmpfs huge=always", "read", "read"]);
    assert!(!checked);
}

#[test]
fn one_without_a_device_that_keeps_its_files_is_unmounted_and_mounted_from_its_name() {
    let mut case = case_of("ext4", "none", "none", STEPS, "intact");
    case.point.fs = Flavour { fs: &EXPORT, options: "sync".into() };
    let (steps, checked) = steps(&case);
    let mount = "mount nfs 10.0.2.2:/export vers=4.2,sync";
    assert_eq!(steps, [mount, "read direct", "unmount", mount, "read"]);
    assert!(!checked, "no image to look at");
}
