// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules at work: hold, release, cap, delay, fail, and what each way of fetching gives.

use super::*;
use longpin_proto::disk::{HoldEnd, HoldReport};

const PAGE: u64 = 0x10000;

/// Run a control request that releases, and meanwhile finish what it resumes; both come out in order.
fn release(fixture: &Fixture, rule: &str, count: usize) -> (Vec<HoldReport>, Vec<Vec<u8>>) {
    std::thread::scope(|scope| {
        let released = scope.spawn(|| fixture.watch.release_held(rule).unwrap());
        let bytes = (0..count).map(|_| fixture.finish(fixture.next().0)).collect();
        (released.join().unwrap(), bytes)
    })
}

#[test]
fn early_late_and_split_give_old_new_and_mixed_bytes() {
    for fetch in [Fetch::Early, Fetch::Late, Fetch::Split] {
        for audited in [true, false] {
            let fixture = Fixture::new();
            fixture.hold("w", Match::default(), fetch);
            fixture.write(PAGE, &[1; 8192]);
            let sender = fixture.sender.clone();
            let resumed = move |ticket, resume| sender.send((ticket, resume)).unwrap();
            // The second page only in part: its half is that of the page.
            let request = write(0, &[(PAGE, 4096 + 3000)]);
            fixture.watch.submit(request, &fixture.ram.view(), audited, Box::new(resumed));
            fixture.write(PAGE, &[2; 8192]);
            let held = fixture.watch.held_writes(0).remove(0);
            let cut = fixture.watch.held_write(0, held).unwrap().bytes.to_vec();
            std::thread::scope(|scope| {
                scope.spawn(|| fixture.watch.release_held("w").unwrap());
                let (mut ticket, _) = fixture.next();
                let bytes = ticket.fetch(&fixture.ram.view()).unwrap();
                let bytes = match (&bytes, fetch, audited) {
                    (None, Fetch::Late, false) => fixture.read(PAGE, 7096),
                    (Some(bytes), ..) => bytes.to_vec(),
                    (None, ..) => panic!("{fetch:?} needs its own bytes"),
                };
                let count =
                    |of: u8, range: std::ops::Range<usize>| bytes[range].iter().filter(|b| **b == of).count();
                match fetch {
                    Fetch::Early => assert_eq!(count(1, 0..7096), 7096),
                    Fetch::Late => assert_eq!(count(2, 0..7096), 7096),
                    Fetch::Split => {
                        assert_eq!((count(1, 0..2048), count(2, 2048..4096)), (2048, 2048));
                        assert_eq!((count(1, 4096..6144), count(2, 6144..7096)), (2048, 952));
                    }
                }
                assert_eq!(bytes, cut, "a power cut would have found the same");
                fixture.complete(ticket);
            });
        }
    }
}

#[test]
fn a_split_fetch_of_a_page_that_changed_is_torn() {
    use longpin_proto::disk::Change;
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Split);
    fixture.submit(write(0, &[(PAGE, 4096)]));
    fixture.write(PAGE, &[2; 4096]);
    release(&fixture, "w", 1);
    assert_eq!(fixture.one_hit().change, Change::Torn);
    assert_eq!(fixture.one_hit().differing_bytes, 4096);
}

#[test]
fn held_requests_are_released_in_their_order_and_later_ones_are_held_again() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    for byte in [8192, 0, 4096] {
        fixture.write(PAGE + byte, &[byte as u8 >> 4 | 1; 4096]);
        fixture.submit(write(byte, &[(PAGE + byte, 4096)]));
    }
    assert!(fixture.try_next().is_none());
    let (reports, bytes) = release(&fixture, "w", 3);
    assert_eq!(reports.iter().map(|report| report.byte).collect::<Vec<_>>(), [8192, 0, 4096]);
    assert_eq!(bytes.len(), 3);
    assert!(
        reports.iter().all(|r| r.end == HoldEnd::Released && r.rule == "w" && r.ended_ns > r.submitted_ns)
    );
    fixture.submit(write(0, &[(PAGE, 4096)]));
    assert!(fixture.try_next().is_none(), "the rule stands");
    assert_eq!(fixture.watch.await_held("w", 1, Duration::ZERO).unwrap().0.len(), 1);
    release(&fixture, "w", 1);
    assert_eq!(fixture.watch.audit().holds.len(), 4);
}

#[test]
fn a_release_is_answered_when_the_requests_are_completed() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.submit(write(0, &[(PAGE, 4096)]));
    std::thread::scope(|scope| {
        let released = scope.spawn(|| fixture.watch.release_held("w").unwrap());
        let (mut ticket, _) = fixture.next();
        fixture.fetch(&mut ticket);
        assert!(!released.is_finished(), "answered before the completion");
        assert_eq!(fixture.watch.shared.desk.lock().resumed.len(), 1);
        fixture.complete(ticket);
        assert_eq!(released.join().unwrap().len(), 1);
    });
    assert!(fixture.watch.release_held("w").unwrap().is_empty());
}

#[test]
fn a_hold_stops_nothing_else() {
    let fixture = Fixture::new();
    let matching = Match { op: Some(Op::Write), range: Some((4096, 4096)), ..Match::default() };
    fixture.hold("w", matching, Fetch::Late);
    fixture.submit(write(4096, &[(PAGE, 4096)]));
    fixture.finish(fixture.pass(write(0, &[(PAGE, 4096)])));
    fixture.finish(fixture.pass(write(8192, &[(PAGE, 4096)])));
    drop(fixture.pass(request(Op::Read, 4096, &[(PAGE, 4096)])));
    drop(fixture.pass(request(Op::Flush, 0, &[])));
    fixture.finish(fixture.pass(Request { disk: 1, ..write(4096, &[(PAGE, 4096)]) }));
    assert_eq!(release(&fixture, "w", 1).0.len(), 1);
}

#[test]
fn a_hold_ends_at_its_cap_and_says_so() {
    let fixture = Fixture::new();
    fixture.rule("w", Match::default(), Action::Hold { fetch: Fetch::Late, cap_ms: 30 });
    let begun = Instant::now();
    fixture.submit(write(0, &[(PAGE, 4096)]));
    let (ticket, resume) = fixture.next();
    assert!(resume == Resume::Go && begun.elapsed() >= Duration::from_millis(30));
    fixture.finish(ticket);
    let holds = fixture.watch.audit().holds;
    assert_eq!(holds.iter().map(|hold| hold.end).collect::<Vec<_>>(), [HoldEnd::Cap]);
    assert!(holds[0].ended_ns - holds[0].submitted_ns >= 30_000_000);
}

#[test]
fn the_shortest_time_ends_first_whatever_came_first() {
    let fixture = Fixture::new();
    let at = |byte| Match { range: Some((byte, 1)), ..Match::default() };
    fixture.rule("long", at(0), Action::Hold { fetch: Fetch::Late, cap_ms: 60_000 });
    fixture.rule("delay", at(4096), Action::Delay { fetch: Fetch::Late, ms: 60 });
    fixture.rule("short", at(8192), Action::Delay { fetch: Fetch::Late, ms: 10 });
    let begun = Instant::now();
    for byte in [0, 4096, 8192] {
        fixture.submit(write(byte, &[(PAGE, 4096)]));
    }
    let bytes: Vec<_> =
        [fixture.next(), fixture.next()].into_iter().map(|(ticket, _)| ticket.about.byte).collect();
    assert!(bytes == [8192, 4096] && begun.elapsed() >= Duration::from_millis(60));
    assert!(fixture.watch.audit().holds.is_empty(), "a delay is no hold");
    assert_eq!(release(&fixture, "long", 1).0.len(), 1);
}

#[test]
fn a_rule_that_fails_requests_ends_at_its_limit() {
    let fixture = Fixture::new();
    let rule = Rule { name: "f".into(), disk: 0, matching: Match::default(), action: Action::Fail, limit: 2 };
    fixture.watch.add_rule(rule).unwrap();
    let resumes: Vec<_> = (0..3)
        .map(|_| {
            fixture.submit(write(0, &[(PAGE, 4096)]));
            let (ticket, resume) = fixture.next();
            ticket.complete(&fixture.ram.view(), 1);
            resume
        })
        .collect();
    assert_eq!(resumes, [Resume::Fail, Resume::Fail, Resume::Go]);
}

#[test]
fn rules_by_stamp_and_by_pin_see_only_what_they_ask_for() {
    let fixture = Fixture::new();
    fixture.hold("stamp", Match { stamped: Some(RUN), ..Match::default() }, Fetch::Late);
    fixture.hold("pin", Match { pinned: Some(0), ..Match::default() }, Fetch::Late);
    let other = 0x40000;
    fixture.write(PAGE, &page(RUN, 0x3000, 4, SOURCE_CPU));
    fixture.write(other, &page(RUN + 1, 0, 4, SOURCE_CPU));
    fixture.pin(9, 55, 0x6000, &[0x80000]);
    fixture.finish(fixture.pass(write(0, &[(other, 4096)])));
    fixture.submit(write(0, &[(other, 4096), (PAGE, 4096)]));
    fixture.submit(write(8192, &[(other, 2048), (0x80000, 4096)]));
    fixture.submit(request(Op::Read, 20480, &[(0x80000, 512)]));
    let (held, complete) = fixture.watch.await_held("stamp", 1, Duration::ZERO).unwrap();
    assert!(complete && held.len() == 1);
    let page_of =
        |at: usize| (held[0].pages[at].byte, held[0].pages[at].region, held[0].pages[at].file_offset);
    assert_eq!((page_of(0), page_of(1)), ((0, None, Some(0)), (4096, None, Some(0x3000))));
    assert!(!fixture.watch.await_held("stamp", 2, Duration::ZERO).unwrap().1, "one page carries the stamp");
    let (held, complete) = fixture.watch.await_held("pin", 1, Duration::ZERO).unwrap();
    assert!(complete && held.len() == 2);
    assert_eq!((held[0].pages[1].region, held[0].pages[1].file_offset), (Some(9), Some(0x6000)));
    assert!(!fixture.watch.await_held("pin", 2, Duration::ZERO).unwrap().1, "both are the same page");
    fixture.unpin(9);
    fixture.watch.case(0);
}

/// A sector that begins in one guest page and ends in another is a sector all the same.
#[test]
fn a_stamp_is_found_across_crooked_segments() {
    let fixture = Fixture::new();
    fixture.hold("stamp", Match { stamped: Some(RUN), ..Match::default() }, Fetch::Late);
    let bytes = page(RUN, 0, 4, SOURCE_CPU);
    fixture.write(PAGE + 4096 - 20, &bytes[..20]);
    fixture.write(0x40003, &bytes[20..512]);
    fixture.submit(write(0, &[(PAGE + 4096 - 20, 20), (0x40003, 492)]));
    assert!(fixture.try_next().is_none());
    fixture.watch.case(0);
}

#[test]
fn awaiting_ends_when_enough_pages_are_held_or_the_time_is_over() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    let begun = Instant::now();
    let (held, complete) = fixture.watch.await_held("w", 0, Duration::from_millis(20)).unwrap();
    assert!(held.is_empty() && !complete && begun.elapsed() >= Duration::from_millis(20));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fixture.watch.await_held("w", 3, DEADLINE).unwrap());
        fixture.submit(write(0, &[(PAGE, 8192)]));
        fixture.submit(write(8192, &[(PAGE, 4096)]));
        fixture.submit(write(12288, &[(PAGE + 8192, 512)]));
        let (held, complete) = waiting.join().unwrap();
        assert!(complete && held.len() == 3);
    });
    assert!(fixture.watch.await_held("w", 3, Duration::ZERO).unwrap().1, "they are there already");
    fixture.submit(request(Op::Flush, 0, &[]));
    assert!(fixture.watch.await_held("w", 4, Duration::ZERO).unwrap().1, "a flush is one of its own");
    fixture.watch.case(0);
}

#[test]
fn whoever_waits_hears_that_the_rule_or_the_daemon_has_gone() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.rule("o", Match { op: Some(Op::Read), ..Match::default() }, Action::Observe);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fixture.watch.await_held("w", 1, DEADLINE).unwrap_err().to_string());
        fixture.watch.drop_rule("w").unwrap();
        assert_eq!(waiting.join().unwrap(), "there is no rule `w`; use one of o");
    });
    let text = fixture.watch.release_held("o").unwrap_err().to_string();
    assert_eq!(text, "rule `o` does not keep requests; use action `hold` or `delay`");
    fixture.hold("w", Match::default(), Fetch::Late);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fixture.watch.await_held("w", 1, DEADLINE).unwrap_err().to_string());
        fixture.watch.close();
        assert_eq!(waiting.join().unwrap(), "the daemon is ending");
    });
    fixture.submit(write(0, &[(PAGE, 4096)]));
    assert_eq!(fixture.next().1, Resume::Dropped);
}

#[test]
fn a_case_drops_rules_and_lets_go_what_they_keep() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.submit(write(0, &[(PAGE, 4096)]));
    fixture.watch.case(RUN + 1);
    let (ticket, resume) = fixture.next();
    assert_eq!(resume, Resume::Go);
    fixture.finish(ticket);
    assert_eq!(fixture.watch.audit(), AuditReport { run: RUN + 1, ..AuditReport::default() });
    fixture.finish(fixture.pass(write(0, &[(PAGE, 4096)])));
    assert_eq!(fixture.watch.audit().writes, 1);
}

#[test]
fn dropping_a_rule_lets_go_its_requests_only() {
    let fixture = Fixture::new();
    let at = |byte| Match { range: Some((byte, 1)), ..Match::default() };
    fixture.hold("a", at(0), Fetch::Late);
    fixture.hold("b", at(4096), Fetch::Late);
    fixture.submit(write(0, &[(PAGE, 4096)]));
    fixture.submit(write(4096, &[(PAGE, 4096)]));
    std::thread::scope(|scope| {
        let dropped = scope.spawn(|| fixture.watch.drop_rule("a").unwrap());
        fixture.finish(fixture.next().0);
        assert_eq!(dropped.join().unwrap().len(), 1);
    });
    assert!(fixture.try_next().is_none());
    fixture.finish(fixture.pass(write(0, &[(PAGE, 4096)])));
    release(&fixture, "b", 1);
}

#[test]
fn a_queue_that_stops_drops_what_is_held_for_its_disk_only() {
    let fixture = Fixture::new();
    fixture.hold("a", Match::default(), Fetch::Late);
    let rule = Action::Hold { fetch: Fetch::Late, cap_ms: 60_000 };
    fixture
        .watch
        .add_rule(Rule { name: "b".into(), disk: 1, matching: Match::default(), action: rule, limit: 0 })
        .unwrap();
    fixture.submit(write(0, &[(PAGE, 4096)]));
    fixture.submit(Request { disk: 1, ..write(0, &[(PAGE, 4096)]) });
    let mut status = Default::default();
    fixture.watch.fill_status(0, &mut status);
    assert_eq!(status.held, 1);
    fixture.watch.drop_held(0);
    let (ticket, resume) = fixture.try_next().expect("resumed before the return");
    assert_eq!((resume, ticket.disk.index), (Resume::Dropped, 0));
    drop(ticket);
    let holds = fixture.watch.audit().holds;
    assert_eq!(holds.iter().map(|hold| (hold.disk, hold.end)).collect::<Vec<_>>(), [(0, HoldEnd::Dropped)]);
    assert!(fixture.watch.shared.desk.lock().resumed.is_empty());
    release(&fixture, "b", 1);
}

#[test]
fn thousands_of_requests_can_be_held() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    for index in 0..4000 {
        fixture.submit(write(index * 4096, &[(index * 4096, 4096)]));
    }
    assert!(fixture.watch.await_held("w", 4000, Duration::ZERO).unwrap().1);
    let (reports, bytes) = release(&fixture, "w", 4000);
    assert_eq!((reports.len(), bytes.len()), (4000, 4000));
    let AuditReport { writes, hits, holds, .. } = fixture.watch.audit();
    assert_eq!((writes, hits.len(), holds.len()), (4000, 0, 4000));
    assert_eq!(fixture.watch.shared.instruments.pool.used_bytes(), 0);
}

#[test]
fn addresses_outside_the_guest_are_left_to_the_disk() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Early);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 512), (RAM_BYTES as u64 - 1, 2)]));
    assert!(ticket.fetch(&fixture.ram.view()).is_err());
    ticket.complete(&fixture.ram.view(), 1);
    assert!(fixture.hits().is_empty());
}
