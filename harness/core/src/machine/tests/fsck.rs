// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the file system's own checker is asked, and what becomes of its word.

use super::{UPDATE, case, case_of, drive, refuse};
use crate::machine::{Action, CaseMachine, Input};
use crate::record::Evidence;
use longpin_proto::agent::{Outcome, Step};

fn asks(case: &crate::plan::Case, script: &dyn Fn(&Step) -> Option<Outcome>) -> bool {
    drive(case, script).1.asked.iter().any(|name| name.starts_with("fsck"))
}

#[test]
fn a_case_that_ran_to_its_end_on_the_own_disk_is_checked() {
    assert!(asks(&case(UPDATE), &|_| None));
    assert!(asks(&case_of("xfs", "pin", "clean", UPDATE, "lost"), &|_| None));
}

#[test]
fn a_case_that_was_broken_off_or_left_something_mounted_is_not() {
    let denied = |step: &Step| match step {
        Step::Pin { .. } => refuse("EFAULT"),
        _ => None,
    };
    assert!(!asks(&case(UPDATE), &denied));
    let busy = |step: &Step| match step {
        Step::Cleanup => Some(Outcome::Failed { message: "umount /mnt: EBUSY".into() }),
        _ => None,
    };
    assert!(!asks(&case(UPDATE), &busy));
}

#[test]
fn a_case_without_a_file_system_of_its_own_or_with_a_dead_kernel_is_not() {
    assert!(!asks(&case_of("tmpfs", "pin", "clean", UPDATE, "intact"), &|_| None));
    assert!(!asks(&case("\"sync\""), &|_| None));
    for word in ["hang", "panic"] {
        assert!(!asks(&case_of("ext4", "pin", "clean", UPDATE, word), &|_| None), "{word}");
    }
}

#[test]
fn a_checker_that_cannot_be_run_is_recorded_and_the_evidence_goes_on() {
    let case = case("\"mkfs\", \"mount\"");
    let mut machine = CaseMachine::new(&case, super::env());
    loop {
        match machine.next() {
            Action::Agent { step, .. } => machine.feed(Input::Reply {
                outcome: Outcome::Done { fact: super::healthy(&step) },
                elapsed_us: 1,
                began_ns: 0,
                ended_ns: 0,
            }),
            Action::Disk { request, .. } => {
                machine.feed(Input::Disk { answer: Ok(super::willing(&request)), began_ns: 0, ended_ns: 0 });
            }
            Action::Fsck { fs } => machine.feed(Input::Fsck(Err(format!("no checker of {fs}")))),
            Action::SyncLedger => break,
            other => panic!("{other:?}"),
        }
    }
    let wanted = Evidence::FsckFailed { fs: "ext4".into(), message: "no checker of ext4".into() };
    assert_eq!(machine.into_record().evidence.last(), Some(&wanted));
}
