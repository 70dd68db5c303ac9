// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The controls are themselves checked: each must be able to fail.

use longpin_core::controls::{cases, passed, spoiled};
use longpin_core::plan::Case;
use longpin_core::verdict::{Cause, Finding, Observation, Observed, Outcome, Reader, judge};

fn control(name: &str) -> Case {
    let cases = cases(true).expect("the built-in files are valid");
    assert!(cases.iter().all(|case| case.control));
    cases.into_iter().find(|case| case.scenario.name == name).expect("a control of that name")
}

fn seen(word: Observation, readers: &[Reader]) -> Observed {
    let findings = readers.iter().map(|reader| Finding {
        word,
        path: "/mnt/a".into(),
        reader: *reader,
        cells: 8,
        first_byte: 12288,
        wanted: "CPU generation 1".into(),
        found: "foreign bytes".into(),
        ranges: vec![(0, 512)],
        reading: 0,
    });
    Observed { observations: [word].into(), findings: findings.collect(), ..Observed::default() }
}

fn verdict(name: &str, seen: &Observed) -> bool {
    let case = control(name);
    let judgement = judge(seen, case.expectation().expect("an expectation"));
    passed(&case, seen, &judgement)
}

#[test]
fn a_quiet_pin_must_be_intact() {
    assert!(verdict("control-intact", &seen(Observation::Intact, &[])));
    assert!(!verdict("control-intact", &seen(Observation::Lost, &[Reader::Guest])));
    assert!(!verdict("control-intact", &seen(Observation::Splat, &[])));
}

#[test]
fn a_guest_without_driver_has_the_same_controls_without_the_pin() {
    let ids = |driver| cases(driver).unwrap().into_iter().map(|case| case.id).collect::<Vec<_>>();
    assert_eq!(ids(true), ["control-intact/ext4/pin/dirty", "control-corrupt/ext4/none/none"]);
    assert_eq!(ids(false), ["control-intact/ext4/none/none", "control-corrupt/ext4/none/none"]);
    assert!(cases(false).unwrap().iter().all(|case| !case.needs_driver()));
}

#[test]
fn a_planted_corruption_must_be_found_by_guest_and_host() {
    let both = [Reader::Guest, Reader::Host];
    assert!(verdict("control-corrupt", &seen(Observation::Torn, &both)));
    assert!(!verdict("control-corrupt", &seen(Observation::Torn, &[Reader::Guest])));
    assert!(!verdict("control-corrupt", &seen(Observation::Torn, &[Reader::Host])));
    assert!(!verdict("control-corrupt", &seen(Observation::Intact, &[])));
}

#[test]
fn cases_of_a_boot_with_a_failed_control_are_errors() {
    let judgement = spoiled("control-corrupt/ext4/none/none");
    assert_eq!((judgement.outcome, judgement.cause), (Outcome::Error, Some(Cause::Infra)));
    assert!(judgement.reason.contains("control-corrupt"), "{}", judgement.reason);
}
