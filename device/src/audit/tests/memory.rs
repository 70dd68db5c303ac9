// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a guest can make rules keep: the longest writes, of the same memory again and again.

use super::*;

const WRITES: usize = 12;

/// 64 MiB of 8.
fn longest() -> Request {
    write(0, &[(0, 8 << 20); 8])
}

/// Submit them; what has been resumed.
fn submit(fixture: &Fixture) -> Vec<(Ticket, Resume)> {
    let mut resumed = Vec::new();
    for _ in 0..WRITES {
        fixture.submit(longest());
        resumed.extend(fixture.try_next());
        let used = fixture.watch.shared.instruments.pool.used_bytes();
        assert!(used <= KEPT_BYTES, "{used} bytes");
    }
    resumed
}

fn last_error(fixture: &Fixture) -> Option<String> {
    let mut status = longpin_proto::disk::DiskStatus::default();
    fixture.watch.fill_status(0, &mut status);
    status.last_error
}

#[test]
fn writes_that_are_only_looked_at_are_kept_within_the_bound() {
    // Nobody pins: it is asked for, and nothing follows.
    for action in [Action::Observe, Action::Hold { fetch: Fetch::Early, cap_ms: 60_000 }] {
        let fixture = Fixture::new();
        let matching = Match { pinned: Some(RUN), ..Match::default() };
        fixture.rule("w", matching, action);
        let resumed = submit(&fixture);
        assert_eq!(resumed.len(), WRITES);
        assert_eq!(last_error(&fixture), None);
        drop(resumed);
        assert_eq!(fixture.watch.shared.disk(0).unwrap().kept.used_bytes(), 0);
    }
}

#[test]
fn writes_that_are_held_for_a_late_fetch_are_all_held() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    assert_eq!(submit(&fixture).len(), 0);
    assert_eq!(fixture.watch.held_writes(0).len(), WRITES);
    assert_eq!(last_error(&fixture), None);
    fixture.watch.drop_held(0);
    while fixture.try_next().is_some() {}
    assert_eq!(fixture.watch.shared.disk(0).unwrap().kept.used_bytes(), 0);
}

#[test]
fn what_waits_is_bounded_too() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    // Reads are not copied, but each of their pages is known.
    let reads = WAITING_BYTES / (64 << 20) + 2;
    for _ in 0..reads {
        fixture.submit(request(Op::Read, 0, &[(0, 8 << 20); 8]));
    }
    assert!((0..2).all(|_| matches!(fixture.try_next(), Some((_, Resume::Go)))));
    assert!(fixture.try_next().is_none());
    assert!(last_error(&fixture).unwrap().starts_with("2 requests that a rule was to keep went on"));
    fixture.watch.drop_held(0);
    while fixture.try_next().is_some() {}
    assert_eq!(fixture.watch.shared.disk(0).unwrap().waiting.used_bytes(), 0);
}

#[test]
fn writes_whose_bytes_cannot_be_kept_go_on_and_the_disk_says_so() {
    for fetch in [Fetch::Early, Fetch::Split] {
        let fixture = Fixture::new();
        fixture.hold("w", Match::default(), fetch);
        let resumed = submit(&fixture);
        assert_eq!(resumed.len(), WRITES - 1);
        assert!(resumed.iter().all(|(_, resume)| *resume == Resume::Go));
        assert_eq!(fixture.watch.held_writes(0).len(), 1);
        let error = last_error(&fixture).unwrap();
        assert!(error.starts_with("11 requests that a rule was to keep went on"), "{error}");
        // The other disk has room of its own.
        assert!(fixture.watch.shared.disk(1).unwrap().kept.charge(KEPT_BYTES as u64).is_some());
    }
}
