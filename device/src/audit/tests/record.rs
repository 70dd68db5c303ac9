// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The disks' entries in the ledger.

use super::*;
use longpin_wire::ledger::*;
use std::path::Path;
use zerocopy::FromBytes as _;

fn fixture(path: &Path) -> Fixture {
    Fixture::with(Ledger::create(path).unwrap())
}

fn raw(fixture: &Fixture, path: &Path) -> Vec<Vec<u8>> {
    fixture.watch.ledger.sync().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let entries = bytes[size_of::<Header>()..].chunks(64);
    entries.map(<[u8]>::to_vec).collect()
}

fn of_disks(fixture: &Fixture, path: &Path) -> Vec<DiskEntry> {
    let entries = raw(fixture, path).into_iter().map(|bytes| DiskEntry::read_from_bytes(&bytes).unwrap());
    entries.filter(|entry| entry.kind >= FIRST_DISK_KIND).collect()
}

fn of_engine(fixture: &Fixture, path: &Path) -> Vec<Entry> {
    let entries = raw(fixture, path).into_iter().map(|bytes| Entry::read_from_bytes(&bytes).unwrap());
    entries.filter(|entry| entry.kind < FIRST_DISK_KIND).collect()
}

#[test]
fn a_request_is_told_from_submission_to_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = fixture(&path);
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.pin(1, RUN, 0, &[0x11000]);
    fixture.submit(write(8192, &[(0x10000, 8192)]));
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.watch.release_held("w").unwrap());
        let (ticket, _) = fixture.next();
        fixture.dma(1, 0, 4096, Payload::Stamp, 100);
        fixture.finish(ticket);
    });
    let entries = of_disks(&fixture, &path);
    let kinds: Vec<_> = entries.iter().map(|entry| (entry.kind, entry.detail)).collect();
    let expected = [
        (KIND_DISK_SUBMIT, 0),
        (KIND_DISK_HOLD, 0),
        (KIND_DISK_RELEASE, 0),
        (KIND_DISK_FETCH, 0),
        (KIND_DISK_HIT, 0),
        (KIND_DISK_COMPLETE, 0),
    ];
    assert_eq!(kinds, expected);
    assert!(entries.iter().all(|entry| entry.run == RUN && entry.disk == 0 && entry.op == 1));
    assert!(entries.iter().all(|entry| entry.request == entries[0].request));
    assert!(entries.is_sorted_by_key(|entry| entry.time_ns));
    assert_eq!((entries[0].byte, entries[0].len, entries[0].gpa), (8192, 8192, 0x10000));
    assert_eq!((entries[4].byte, entries[4].len, entries[4].gpa), (12288, 4096, 0x11000));
    let hit = fixture.one_hit();
    assert_eq!((hit.submitted_ns, hit.fetched_ns), (entries[0].time_ns, entries[3].time_ns));
}

#[test]
fn outside_of_cases_only_holds_and_hits_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = fixture(&path);
    fixture.watch.case(0);
    let mut ticket = fixture.pass(write(0, &[(0x10000, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.write(0x10000, &[1]);
    fixture.complete(ticket);
    fixture.rule("w", Match::default(), Action::Hold { fetch: Fetch::Late, cap_ms: 1 });
    fixture.submit(request(Op::Flush, 0, &[]));
    fixture.complete(fixture.next().0);
    fixture.submit(request(Op::Flush, 0, &[]));
    fixture.watch.drop_held(0);
    let kinds: Vec<_> =
        of_disks(&fixture, &path).iter().map(|entry| (entry.kind, entry.detail, entry.op)).collect();
    let (hold, cap, dropped) = ((KIND_DISK_HOLD, 0, 4), (KIND_DISK_RELEASE, 1, 4), (KIND_DISK_RELEASE, 2, 4));
    // The second may have reached its cap as well before it was dropped.
    assert_eq!(kinds[..4], [(KIND_DISK_HIT, 1, 1), hold, cap, hold]);
    assert!(kinds[4] == dropped || kinds[4] == cap);
}

#[test]
fn a_held_read_tells_the_story_of_a_region() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = fixture(&path);
    fixture.hold("r", Match::default(), Fetch::Late);
    fixture.submit(request(Op::Read, 0, &[(0x10000, 4096)]));
    fixture.submit(request(Op::Read, 4096, &[(0x20000, 4096)]));
    let order = HeldDma {
        rule: "r".into(),
        region: 9,
        file_offset: 0x4000,
        offset: 2048,
        len: 4096,
        generation: 5,
        run: RUN,
        cell_bytes: 512,
    };
    fixture.watch.held_dma(&order).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.watch.release_held("r").unwrap());
        fixture.complete(fixture.next().0);
        assert!(of_engine(&fixture, &path).iter().all(|entry| entry.kind != KIND_UNMAP), "one read is left");
        fixture.complete(fixture.next().0);
    });
    let entries = of_engine(&fixture, &path);
    let told: Vec<_> = entries.iter().map(|e| (e.kind, e.dma_addr, e.len, e.file_offset)).collect();
    assert_eq!(
        told,
        [
            (KIND_SEGMENT, 0x10000, 4096, 0x4000),
            (KIND_SEGMENT, 0x20000, 4096, 0x5000),
            (KIND_MAP, 0, 8192, 0x4000),
            (KIND_DMA_WRITE, 0x10800, 2048, 0x4800),
            (KIND_DMA_WRITE, 0x20000, 2048, 0x5000),
            (KIND_UNMAP, 0, 8192, 0x4000),
        ]
    );
    assert!(entries.iter().all(|entry| (entry.region, entry.run) == (9, RUN)));
    assert_eq!(entries[2].time_ns, of_disks(&fixture, &path)[0].time_ns, "pinned since the submission");
}

#[test]
fn at_full_rate_no_entry_is_lost() {
    const EACH: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = fixture(&path);
    std::thread::scope(|scope| {
        for disk in 0..2 {
            let fixture = &fixture;
            scope.spawn({
                let (watch, ram) = (&fixture.watch, &fixture.ram);
                move || {
                    for index in 0..EACH {
                        watch.make_room(disk);
                        let view = ram.view();
                        let request = Request { disk, ..write(index * 512, &[(index % 64 * 512, 512)]) };
                        let (sender, resumed) = mpsc::channel();
                        watch.submit(request, &view, true, Box::new(move |t, _| sender.send(t).unwrap()));
                        let mut ticket = resumed.recv().unwrap();
                        ticket.fetch(&view).unwrap();
                        ticket.complete(&view, 0);
                    }
                }
            });
        }
    });
    let entries = of_disks(&fixture, &path);
    for disk in 0..2 {
        let of =
            |kind| entries.iter().filter(move |e| (e.disk, e.kind) == (disk, kind)).map(|e| e.byte / 512);
        for kind in [KIND_DISK_SUBMIT, KIND_DISK_FETCH, KIND_DISK_COMPLETE] {
            assert!(of(kind).eq(0..EACH));
        }
        assert!(entries.iter().filter(|e| e.disk == disk).is_sorted_by_key(|e| e.time_ns));
    }
}
