// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything at once, under threads.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Disks submit and complete, rules come and go, queues stop: each request is resumed once, nothing is left, and
/// nothing hangs.
#[test]
fn no_request_is_lost_or_resumed_twice() {
    let fixture = Fixture::new();
    let (submitted, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..2u32)
            .map(|disk| {
                let (watch, ram, submitted, over) =
                    (fixture.watch.clone(), fixture.ram.clone(), submitted.clone(), over.clone());
                scope.spawn(move || {
                    for index in 0..4000u64 {
                        let op = [Op::Write, Op::Write, Op::Read, Op::Flush][index as usize % 4];
                        let segments: &[(u64, u32)] =
                            if op == Op::Flush { &[] } else { &[(index % 50 * 4096 + 512, 4096)] };
                        let request = Request { disk, ..request(op, index * 4096, segments) };
                        submitted.fetch_add(1, Ordering::SeqCst);
                        let (over, of_disk) = (over.clone(), ram.clone());
                        let resumed = move |mut ticket: Ticket, resume| {
                            over.fetch_add(1, Ordering::SeqCst);
                            // As a disk does: in a thread of its own, since the submitter holds a view.
                            std::thread::spawn(move || {
                                let view = of_disk.view();
                                if resume == Resume::Go {
                                    ticket.fetch(&view).unwrap();
                                    ticket.complete(&view, 0);
                                }
                            });
                        };
                        watch.submit(request, &ram.view(), true, Box::new(resumed));
                    }
                })
            })
            .collect();
        let watch = &fixture.watch;
        let ruler = move |round: u64| {
            let action = if round.is_multiple_of(3) {
                Action::Delay { fetch: Fetch::Split, ms: 1 }
            } else {
                Action::Hold { fetch: Fetch::Late, cap_ms: 2 }
            };
            let rule = Rule {
                name: format!("r{}", round % 5),
                disk: (round % 2) as u32,
                matching: Match::default(),
                action,
                limit: round % 7,
            };
            // The name may be taken: then this round adds nothing.
            let _ = watch.add_rule(rule);
            let _ = watch.await_held(&format!("r{}", round % 5), 2, Duration::from_millis(1));
            let _ = watch.release_held(&format!("r{}", (round + 1) % 5));
        };
        let breaker = move |round: u64| {
            match round % 3 {
                0 => watch.case(round),
                1 => watch.drop_held((round % 2) as u32),
                _ => drop(watch.drop_rule(&format!("r{}", round % 5))),
            }
            std::thread::sleep(Duration::from_micros(300));
        };
        let done = &done;
        scope.spawn(move || (0..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(ruler));
        scope.spawn(move || (0..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(breaker));
        submitters.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    fixture.watch.case(0);
    until("all requests are over", || over.load(Ordering::SeqCst) == submitted.load(Ordering::SeqCst));
    until("all are completed", || fixture.watch.shared.desk.lock().resumed.is_empty());
    assert!(fixture.watch.shared.desk.lock().holds.is_empty());
    assert!(fixture.watch.shared.desk.lock().leaving.is_empty());
    assert_eq!(over.load(Ordering::SeqCst), 8000);
}

/// DMA at full speed into pages under writeback: every change is by DMA, none is taken for somebody else's.
#[test]
fn a_running_program_is_the_only_author() {
    use longpin_proto::disk::Author;
    let fixture = Fixture::new();
    let gpas: Vec<u64> = (0..16).map(|page| page * 0x3000).collect();
    fixture.pin(1, RUN, 0, &gpas);
    let (done, end) = mpsc::channel();
    let program = Program {
        passes: 0,
        cell_bytes: 64,
        seed: Some(3),
        ..dma_program(1, 0, 16 * 4096, Payload::Stamp, 1)
    };
    fixture.engine.start(program, Box::new(move |outcome| done.send(outcome).unwrap()));
    let deadline = Instant::now() + DEADLINE;
    let mut writes = 0u64;
    while writes < 300 || fixture.hits().len() < 100 {
        assert!(Instant::now() < deadline, "{writes} writes, {} hits", fixture.hits().len());
        let segments: Vec<_> = gpas.iter().map(|gpa| (*gpa, 4096)).collect();
        fixture.finish(fixture.pass(write(0, &segments)));
        writes += 1;
    }
    fixture.unpin(1);
    end.recv_timeout(DEADLINE).unwrap().unwrap();
    let mut status = Default::default();
    fixture.watch.fill_status(0, &mut status);
    assert_eq!(status.hits_by_others, 0);
    assert!(fixture.hits().iter().all(|hit| hit.author == Author::Dma && hit.region == Some(1)));
}

/// The last reference to the watch may go away in a request that the timer resumes.
#[test]
fn the_watch_can_end_in_its_own_timer() {
    let fixture = Fixture::new();
    fixture.rule("w", Match::default(), Action::Hold { fetch: Fetch::Late, cap_ms: 1 });
    let Fixture { watch, ram, engine: _engine, .. } = fixture;
    let (told, ended) = mpsc::channel();
    let inner = watch.clone();
    let resumed = move |ticket, _| {
        drop((ticket, inner));
        told.send(()).unwrap();
    };
    watch.submit(write(0, &[(0, 4096)]), &ram.view(), true, Box::new(resumed));
    drop(watch);
    ended.recv_timeout(DEADLINE).expect("the timer goes on");
}
