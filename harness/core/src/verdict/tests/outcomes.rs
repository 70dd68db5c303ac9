// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Observations against expectations.

use super::super::{Cause, Observation, Observed, Outcome, Problem, judge, observe, spoils_boot};
use super::tale::{Tale, by_dma};
use crate::record::{CaseRecord, Evidence, Role, Trouble};
use crate::scenario::{Condition, Expectation, RaceRow};
use longpin_proto::agent::{Outcome as StepOutcome, Step};
use std::collections::BTreeSet;

use Observation::{Bleed, Detected, Intact, Lost, Refused, Splat};

pub fn expected(words: &[Observation]) -> Expectation {
    Expectation {
        line: 1,
        when: Condition::default(),
        observe: words.iter().copied().collect(),
        errno: None,
        blocked: BTreeSet::new(),
        race: None,
        reason: "because of folio_mkclean()".into(),
    }
}

fn seen(words: &[Observation]) -> Observed {
    Observed { observations: words.iter().copied().collect(), reason: "seen".into(), ..Observed::default() }
}

#[test]
fn the_table_of_outcomes() {
    let table: [(&[Observation], &[Observation], Outcome); 9] = [
        (&[Intact], &[Intact], Outcome::Pass),
        (&[Refused], &[Refused], Outcome::Pass),
        (&[Lost], &[Lost], Outcome::Xfail),
        (&[Detected, Splat], &[Detected, Splat], Outcome::Xfail),
        (&[Intact], &[Lost], Outcome::Xpass),
        (&[Refused], &[Lost], Outcome::Xpass),
        (&[Lost], &[Intact], Outcome::Fail),
        (&[Bleed], &[Lost], Outcome::Fail),
        (&[Refused], &[Intact], Outcome::Fail),
    ];
    for (got, wanted, outcome) in table {
        let judgement = judge(&seen(got), &expected(wanted));
        assert_eq!(judgement.outcome, outcome, "{got:?} against {wanted:?}: {}", judgement.reason);
        assert_eq!(judgement.cause, None);
    }
}

#[test]
fn a_run_of_a_race_is_as_expected_if_it_shows_one_of_the_declared_sets() {
    let or = vec![[Intact].into(), [Lost, Detected].into()];
    let row = Expectation {
        race: Some(RaceRow { within: 20, or }),
        errno: Some("EIO".into()),
        ..expected(&[Lost, Splat])
    };
    for (got, errno, outcome) in [
        (&[Lost, Splat][..], Some("EIO"), Outcome::Xfail),
        (&[Lost, Splat], None, Outcome::Fail),
        (&[Intact], None, Outcome::Pass),
        (&[Lost, Detected], None, Outcome::Xfail),
        (&[Lost], None, Outcome::Fail),
        (&[Refused], None, Outcome::Xpass),
    ] {
        let judgement = judge(&Observed { errno: errno.map(Into::into), ..seen(got) }, &row);
        assert_eq!(judgement.outcome, outcome, "{got:?}: {}", judgement.reason);
    }
    let judgement = judge(&seen(&[Lost]), &row);
    assert_eq!(
        judgement.reason,
        "seen; expected lost + splat or intact or lost + detected: because of folio_mkclean()"
    );
}

#[test]
fn a_fail_says_what_was_seen_what_was_expected_and_why() {
    let judgement = judge(&seen(&[Bleed]), &expected(&[Lost, Detected]));
    assert_eq!(judgement.reason, "seen; expected lost + detected: because of folio_mkclean()");
}

#[test]
fn a_refusal_with_another_errno_is_a_fail() {
    let row = Expectation { errno: Some("EFAULT".into()), ..expected(&[Refused]) };
    let other = Observed { errno: Some("EOPNOTSUPP".into()), ..seen(&[Refused]) };
    let judgement = judge(&other, &row);
    assert_eq!(judgement.outcome, Outcome::Fail);
    assert_eq!(judgement.reason, "seen; expected errno EFAULT, got EOPNOTSUPP");
    let same = Observed { errno: Some("EFAULT".into()), ..seen(&[Refused]) };
    assert_eq!(judge(&same, &row).outcome, Outcome::Pass);
}

#[test]
fn an_error_and_a_skip_come_before_everything_seen() {
    for cause in [Cause::Infra, Cause::Unproven] {
        let problem = Some(Problem { cause, message: "it broke".into() });
        let judgement = judge(&Observed { problem, ..seen(&[Intact]) }, &expected(&[Intact]));
        assert_eq!((judgement.outcome, judgement.cause), (Outcome::Error, Some(cause)));
        assert_eq!(judgement.reason, format!("{cause}: it broke"));
    }
    let missing = Some("needs f2fs".to_owned());
    let judgement = judge(&Observed { skip: missing, ..seen(&[]) }, &expected(&[Intact]));
    assert_eq!((judgement.outcome, judgement.reason.as_str()), (Outcome::Skip, "needs f2fs"));
}

#[test]
fn an_expected_panic_is_an_xfail_and_spoils_the_boot() {
    let mut tale = Tale::of_a_pin();
    tale.trouble(Trouble::Panic { console: vec!["Kernel panic - not syncing: x".into()] });
    let got = observe(&tale.record);
    assert_eq!(judge(&got, &expected(&[Observation::Panic])).outcome, Outcome::Xfail);
    assert!(spoils_boot(&tale.record, &got));
}

#[test]
fn a_boot_is_kept_after_a_loss_and_thrown_away_after_a_failed_clean_up() {
    let mut tale = Tale::of_an_update();
    tale.compare("a", |_| by_dma(100));
    let record = tale.end();
    assert!(!spoils_boot(&record, &observe(&record)));

    let mut tale = Tale::of_an_update();
    let busy = StepOutcome::Failed { message: "umount /mnt: EBUSY".into() };
    tale.evidence(Role::Frame, Step::Cleanup, busy);
    assert!(spoils_boot(&tale.record, &observe(&tale.record)));
}

#[test]
fn a_case_that_was_not_tried_is_skipped_with_its_reason() {
    let mut record = CaseRecord::new("tale/ext4/dio/dirty", 1, 7, 512);
    let message = "line 9 of the scenario needs the auditing disk".to_owned();
    record.evidence.push(Evidence::Skip { message: message.clone() });
    let judged = judge(&observe(&record), &expected(&[Intact]));
    assert_eq!((judged.outcome, judged.reason), (Outcome::Skip, message));
}
