// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every way in which a page can change, and everybody who can change it.

use super::*;
use longpin_proto::disk::{Author, Change, Span};

const PAGE: u64 = 0x10000;

/// A write of one page that is held with late fetch; `before` changes memory before the fetch, `after` after it.
fn held(fixture: &Fixture, before: impl FnOnce(), after: impl FnOnce()) -> Vec<u8> {
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.submit(write(8192, &[(PAGE, 4096)]));
    std::thread::scope(|scope| {
        let release = scope.spawn(|| fixture.watch.release_held("w").unwrap());
        before();
        let (mut ticket, resume) = fixture.next();
        assert_eq!(resume, Resume::Go);
        let bytes = fixture.fetch(&mut ticket);
        after();
        fixture.complete(ticket);
        assert_eq!(release.join().unwrap().len(), 1);
        bytes
    })
}

#[test]
fn a_page_that_stays_is_no_hit() {
    let fixture = Fixture::new();
    fixture.write(PAGE, &page(RUN, 0, 1, SOURCE_CPU));
    let bytes = fixture.finish(fixture.pass(write(0, &[(PAGE, 8192)])));
    assert_eq!(bytes, fixture.read(PAGE, 8192));
    held(&fixture, || {}, || {});
    let AuditReport { run, writes, pages, hits, hits_left_out, .. } = fixture.watch.audit();
    assert_eq!((run, writes, pages, hits.len(), hits_left_out), (RUN, 2, 3, 0, 0));
}

#[test]
fn a_change_after_the_fetch_is_on_no_disk() {
    let fixture = Fixture::new();
    fixture.write(PAGE, &page(RUN, 0x5000, 1, SOURCE_CPU));
    let mut ticket = fixture.pass(write(8192, &[(PAGE, 4096)]));
    let bytes = fixture.fetch(&mut ticket);
    fixture.write(PAGE + 2048, &page(RUN, 0x5000, 2, SOURCE_CPU)[2048..2560]);
    fixture.complete(ticket);
    let hit = fixture.one_hit();
    assert_eq!(bytes, page(RUN, 0x5000, 1, SOURCE_CPU));
    assert_eq!((hit.change, hit.author, hit.region), (Change::AfterFetch, Author::Other, None));
    assert_eq!((hit.byte, hit.gpa, hit.file_offset), (8192, PAGE, Some(0x5000)));
    assert_eq!((hit.generation_before, hit.generation_after), (Some(1), Some(2)));
    assert!(hit.hashes[0] == hit.hashes[1] && hit.hashes[1] != hit.hashes[2]);
    assert!(hit.submitted_ns <= hit.fetched_ns && hit.fetched_ns <= hit.completed_ns);
    assert!(hit.spans.iter().all(|span| (2048..2560).contains(&span.offset)));
}

#[test]
fn a_change_before_the_fetch_goes_to_the_disk() {
    let fixture = Fixture::new();
    let new = page(RUN, 0, 2, SOURCE_CPU);
    let bytes = held(&fixture, || fixture.write(PAGE, &new), || {});
    assert_eq!(bytes, new);
    let hit = fixture.one_hit();
    assert_eq!((hit.change, hit.author), (Change::BeforeFetch, Author::Other));
    assert!(hit.hashes[0] != hit.hashes[1] && hit.hashes[1] == hit.hashes[2]);
    assert!(hit.submitted_ns < hit.fetched_ns);
    assert_eq!((hit.generation_before, hit.generation_after), (None, Some(2)));
    assert_eq!(hit.file_offset, None, "it carried no stamp when it was taken");
}

#[test]
fn two_changes_leave_a_content_between_them_on_the_disk() {
    let fixture = Fixture::new();
    let bytes = held(&fixture, || fixture.write(PAGE, &[1]), || fixture.write(PAGE + 1, &[2]));
    assert_eq!(bytes[..3], [1, 0, 0]);
    let hit = fixture.one_hit();
    assert_eq!((hit.change, hit.differing_bytes), (Change::Torn, 2));
    assert_eq!(hit.spans, [Span { offset: 0, len: 2, before: "0000".into(), after: "0102".into() }]);
}

#[test]
fn there_and_back_is_seen_if_a_look_falls_between() {
    let fixture = Fixture::new();
    held(&fixture, || fixture.write(PAGE, &[1]), || fixture.write(PAGE, &[0]));
    let hit = fixture.one_hit();
    assert_eq!((hit.change, hit.author, hit.differing_bytes), (Change::Back, Author::Other, 0));
    assert_eq!(hit.hashes[0], hit.hashes[2]);
}

/// The limit that the module's doc speaks of.
#[test]
fn there_and_back_between_two_looks_is_not_seen() {
    let fixture = Fixture::new();
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.write(PAGE, &[1]);
    fixture.write(PAGE, &[0]);
    fixture.complete(ticket);
    assert!(fixture.hits().is_empty());
}

#[test]
fn a_hit_by_dma_names_region_and_generations() {
    let fixture = Fixture::new();
    fixture.pin(3, RUN, 0x7000, &[PAGE, 0x90000]);
    fixture.dma(3, 0, 8192, Payload::Stamp, 100);
    fixture.submit(write(0, &[(0x90000, 4096), (PAGE, 4096)]));
    let (mut ticket, _) = fixture.next();
    fixture.fetch(&mut ticket);
    fixture.dma(3, 512, 1024, Payload::Stamp, 101);
    fixture.complete(ticket);
    let hit = fixture.one_hit();
    assert_eq!((hit.change, hit.author), (Change::AfterFetch, Author::Dma));
    assert_eq!((hit.region, hit.file_offset), (Some(3), Some(0x7000)));
    assert_eq!((hit.gpa, hit.byte), (PAGE, 4096));
    assert_eq!((hit.generation_before, hit.generation_after), (Some(100), Some(101)));
}

#[test]
fn dma_without_stamps_is_known_too() {
    let fixture = Fixture::new();
    fixture.pin(3, RUN, 0, &[PAGE]);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.dma(3, 1001, 3, Payload::Fill(0xee), 1);
    fixture.complete(ticket);
    let hit = fixture.one_hit();
    assert_eq!((hit.author, hit.differing_bytes), (Author::Dma, 3));
    assert_eq!(hit.spans, [Span { offset: 1001, len: 3, before: "000000".into(), after: "eeeeee".into() }]);
}

/// `gup-under-writeback`: the pin comes while the write is in flight.
#[test]
fn a_page_that_is_pinned_in_flight_has_dma_for_its_author() {
    let fixture = Fixture::new();
    held(
        &fixture,
        || {
            fixture.pin(3, RUN, 0x6000, &[PAGE]);
            fixture.dma(3, 0, 4096, Payload::Stamp, 100);
        },
        || fixture.unpin(3),
    );
    let hit = fixture.one_hit();
    assert_eq!((hit.change, hit.author), (Change::BeforeFetch, Author::Dma));
    assert_eq!((hit.region, hit.file_offset), (Some(3), Some(0x6000)), "known by what was written");
}

#[test]
fn a_cpu_beside_dma_makes_two_authors() {
    let fixture = Fixture::new();
    fixture.pin(3, RUN, 0, &[PAGE]);
    for (generation, bytes) in [(100, vec![9]), (101, page(RUN, 0, 5, SOURCE_CPU))] {
        let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
        fixture.fetch(&mut ticket);
        fixture.dma(3, 0, 1024, Payload::Stamp, generation);
        fixture.write(PAGE + 2048, &bytes[..bytes.len().min(512)]);
        fixture.complete(ticket);
    }
    let authors: Vec<_> = fixture.hits().iter().map(|hit| hit.author).collect();
    assert_eq!(authors, [Author::Mixed, Author::Mixed]);
}

/// Bytes that a CPU has stamped are the CPU's, even where DMA has been before.
#[test]
fn a_cpu_that_writes_over_dma_is_the_author() {
    let fixture = Fixture::new();
    fixture.pin(3, RUN, 0, &[PAGE]);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.dma(3, 0, 512, Payload::Stamp, 100);
    fixture.write(PAGE, &page(RUN, 0, 5, SOURCE_CPU)[..512]);
    fixture.complete(ticket);
    assert_eq!(fixture.one_hit().author, Author::Other);
}

#[test]
fn dma_before_the_submission_does_not_excuse_a_cpu() {
    let fixture = Fixture::new();
    fixture.pin(3, RUN, 0, &[PAGE]);
    let first = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.dma(3, 0, 4096, Payload::Stamp, 100);
    let mut second = fixture.pass(write(4096, &[(PAGE, 4096)]));
    fixture.fetch(&mut second);
    fixture.write(PAGE + 100, &[1]);
    fixture.complete(second);
    fixture.finish(first);
    assert_eq!(fixture.one_hit().author, Author::Other);
}

#[test]
fn counters_and_report_agree_and_an_earlier_case_is_forgotten() {
    let fixture = Fixture::new();
    let hit = |case_between: bool| {
        let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
        fixture.fetch(&mut ticket);
        let old = fixture.read(PAGE, 1)[0];
        fixture.write(PAGE, &[old ^ 1]);
        if case_between {
            fixture.watch.case(RUN);
        }
        fixture.complete(ticket);
    };
    hit(false);
    assert_eq!(fixture.hits().len(), 1);
    hit(true);
    assert_eq!(fixture.watch.audit(), AuditReport { run: RUN, ..AuditReport::default() });
    let mut status = Default::default();
    fixture.watch.fill_status(0, &mut status);
    assert_eq!((status.pages_audited, status.hits_by_dma, status.hits_by_others), (2, 0, 2));
}

#[test]
fn hits_beyond_the_limit_are_counted() {
    let fixture = Fixture::new();
    let (len, extra) = (RAM_BYTES as u32 / 8, RAM_BYTES / 8 / 4096 - 24);
    for _ in 0..2 {
        let mut ticket = fixture.pass(write(0, &[(0, len)]));
        fixture.fetch(&mut ticket);
        let old = fixture.read(0, 1)[0];
        (0..u64::from(len)).step_by(4096).for_each(|gpa| fixture.write(gpa, &[old ^ 1]));
        fixture.complete(ticket);
    }
    let report = fixture.watch.audit();
    assert_eq!(report.hits.len(), MAX_HITS);
    assert_eq!(report.hits_left_out as usize, 2 * (extra + 24) - MAX_HITS);
    assert_eq!(report.pages as usize, 2 * (extra + 24));
    let text = serde_json::to_vec(&report).unwrap();
    assert!(text.len() < longpin_proto::line::MAX_LINE_BYTES as usize);
}

/// Beyond the memory for submissions only hashes are kept: the change is found, its bytes are not named.
#[test]
fn a_change_is_found_by_hash_where_bytes_were_not_kept() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    let memory = fixture.watch.shared.disk(0).unwrap().kept.charge(KEPT_BYTES as u64);
    fixture.pin(3, RUN, 0, &[PAGE, PAGE + 4096]);
    fixture.submit(write(0, &[(PAGE, 8192), (0x90000, 4096)]));
    drop(memory);
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.watch.release_held("w").unwrap());
        let (ticket, _) = fixture.next();
        fixture.dma(3, 0, 4096, Payload::Stamp, 100);
        fixture.dma(3, 4096, 512, Payload::Stamp, 100);
        fixture.write(0x90000, &[1]);
        fixture.finish(ticket);
    });
    let hits = fixture.hits();
    let found: Vec<_> =
        hits.iter().map(|hit| (hit.byte, hit.change, hit.author, hit.differing_bytes)).collect();
    assert_eq!(
        found,
        [
            (0, Change::BeforeFetch, Author::Dma, 0),
            (4096, Change::BeforeFetch, Author::Unknown, 0),
            (8192, Change::BeforeFetch, Author::Other, 0)
        ]
    );
    assert!(hits.iter().all(|hit| hit.hashes[0] != hit.hashes[1] && hit.spans.is_empty()));
}

/// A CPU that stamps a page to the half of which DMA has written: without the bytes of the submission nothing shows
/// that DMA changed anything.
#[test]
fn a_cpu_s_change_is_not_put_down_to_dma_where_only_hashes_are_kept() {
    let fixture = Fixture::new();
    fixture.hold("w", Match::default(), Fetch::Late);
    fixture.pin(3, RUN, 0, &[PAGE, PAGE + 4096]);
    fixture.dma(3, 0, 8192, Payload::Stamp, 100);
    let memory = fixture.watch.shared.disk(0).unwrap().kept.charge(KEPT_BYTES as u64);
    fixture.submit(write(0, &[(PAGE, 8192)]));
    drop(memory);
    std::thread::scope(|scope| {
        scope.spawn(|| fixture.watch.release_held("w").unwrap());
        let (ticket, _) = fixture.next();
        // What is there already: DMA changes nothing of the first page, and a CPU does.
        fixture.dma(3, 0, 512, Payload::Stamp, 100);
        fixture.write(PAGE + 2048, &page(RUN, 0x800, 101, SOURCE_CPU)[..512]);
        // All of the second page, and then a CPU.
        fixture.dma(3, 4096, 4096, Payload::Stamp, 101);
        fixture.write(PAGE + 4096, &page(RUN, 4096, 102, SOURCE_CPU)[..512]);
        fixture.finish(ticket);
    });
    let authors: Vec<_> = fixture.hits().iter().map(|hit| hit.author).collect();
    assert_eq!(authors, [Author::Unknown, Author::Unknown]);
    let mut status = Default::default();
    fixture.watch.fill_status(0, &mut status);
    assert_eq!((status.hits_by_dma, status.hits_by_others), (0, 2));
}

/// A batch of DMA that has written and not recorded yet: the last look sees its bytes, and waits to hear whose they
/// are.
#[test]
fn a_writer_that_is_just_being_recorded_is_waited_for() {
    use crate::ledger::entry;
    use longpin_wire::ledger::{Entry, KIND_DMA_WRITE};
    let fixture = Fixture::new();
    let mut ticket = fixture.pass(write(0, &[(PAGE, 8192)]));
    fixture.fetch(&mut ticket);
    let batch = fixture.engine.ram().view();
    batch.write(Gpa(PAGE + 4096), &[1; 64]).unwrap();
    std::thread::scope(|scope| {
        let completing = scope.spawn(|| fixture.complete(ticket));
        until("the last look waits", || fixture.engine.ram().is_settling() || completing.is_finished());
        assert!(!completing.is_finished(), "it did not wait for the batch");
        let time_ns = crate::clock::monotonic_ns();
        let written = Entry { dma_addr: PAGE + 4096, len: 64, ..entry(KIND_DMA_WRITE, time_ns) };
        fixture.engine.trace().record(&[written]);
        drop(batch);
    });
    assert_eq!(fixture.one_hit().author, Author::Dma);
}

#[test]
fn a_read_of_the_disk_into_a_page_in_flight_is_dma() {
    let fixture = Fixture::new();
    fixture.write(PAGE, &page(RUN, 0x5000, 1, SOURCE_CPU));
    let read_into = |status| {
        let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
        fixture.fetch(&mut ticket);
        // Direct I/O of another process, by the disk's second queue: its 700 bytes begin in the middle of the page.
        let read = fixture.pass(request(Op::Read, 8192, &[(PAGE + 3896, 700)]));
        fixture.write(PAGE + 3896, &[status + 1; 700]);
        read.complete(&fixture.ram.view(), status);
        fixture.complete(ticket);
        let hits = fixture.hits();
        hits.last().map(|hit| (hit.author, hit.file_offset)).unwrap()
    };
    assert_eq!(read_into(0), (Author::Dma, Some(0x5000)));
    assert_eq!(
        read_into(1),
        (Author::Other, Some(0x5000)),
        "a read that failed is not known to have written"
    );
    assert_eq!(fixture.hits().len(), 2);
    // A CPU's change beside what was read is its own.
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    let read = fixture.pass(request(Op::Read, 8192, &[(PAGE, 512)]));
    fixture.write(PAGE, &[7; 513]);
    fixture.complete(read);
    fixture.complete(ticket);
    assert_eq!(fixture.hits()[2].author, Author::Mixed);
}

/// A write that no rule holds, of a page of whose first cell the copy got the header and 200 bytes before DMA was there,
/// and the rest after it; then the last look.
fn torn_copy(finish: impl FnOnce(&Fixture)) -> Hit {
    let fixture = Fixture::new();
    fixture.pin(1, RUN, 0, &[PAGE]);
    let (old, new) = (page(RUN, 0, 100, SOURCE_DMA), page(RUN, 0, 101, SOURCE_DMA));
    fixture.write(PAGE, &old);
    fixture.write(PAGE + 200, &new[200..512]);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    finish(&fixture);
    fixture.complete(ticket);
    fixture.one_hit()
}

#[test]
fn a_copy_that_dma_tore_is_torn() {
    let hit = torn_copy(|fixture| fixture.dma(1, 0, 512, Payload::Stamp, 101));
    assert_eq!((hit.change, hit.author, hit.region), (Change::Torn, Author::Dma, Some(1)));
}

#[test]
fn a_copy_is_called_torn_only_where_dma_explains_every_byte_of_a_cell() {
    let change = |finish: &dyn Fn(&Fixture)| torn_copy(finish).change;
    // The cell's other half is of another write than the one that came in flight.
    assert_eq!(change(&|fixture| fixture.dma(1, 0, 512, Payload::Stamp, 102)), Change::AfterFetch);
    // It is not whole at the end either.
    assert_eq!(change(&|fixture| fixture.dma(1, 0, 512, Payload::Fill(7), 1)), Change::AfterFetch);
    // A CPU has stored what DMA could have; or DMA has been near, and not in all of the cell.
    let whole = page(RUN, 0, 101, SOURCE_DMA);
    assert_eq!(change(&|fixture| fixture.write(PAGE, &whole[..512])), Change::AfterFetch);
    let beside = |fixture: &Fixture| {
        fixture.write(PAGE, &whole[..512]);
        fixture.dma(1, 512, 512, Payload::Stamp, 101);
    };
    assert_eq!(change(&beside), Change::AfterFetch);
}

#[test]
fn a_held_write_that_was_torn_when_it_came_is_not_torn_by_its_copy() {
    let fixture = Fixture::new();
    fixture.pin(1, RUN, 0, &[PAGE]);
    let (old, new) = (page(RUN, 0, 100, SOURCE_DMA), page(RUN, 0, 101, SOURCE_DMA));
    fixture.write(PAGE, &[&old[..200], &new[200..]].concat());
    held(&fixture, || {}, || fixture.dma(1, 0, 512, Payload::Stamp, 101));
    assert_eq!(fixture.one_hit().change, Change::AfterFetch, "two looks have seen it so");
}

#[test]
fn bytes_that_dma_writes_once_more_are_no_hit_and_counted() {
    let fixture = Fixture::new();
    fixture.pin(1, RUN, 0, &[PAGE, PAGE + 4096]);
    fixture.dma(1, 0, 8192, Payload::Stamp, 100);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 3 * 4096)]));
    fixture.fetch(&mut ticket);
    fixture.dma(1, 0, 512, Payload::Stamp, 100);
    fixture.dma(1, 4096, 512, Payload::Stamp, 101);
    fixture.complete(ticket);
    assert_eq!(fixture.one_hit().gpa, PAGE + 4096);
    let report = fixture.watch.audit();
    assert_eq!((report.pages, report.pages_touched, report.pages_unread), (3, 2, 0));
    // In flight, and not before.
    fixture.finish(fixture.pass(write(0, &[(PAGE, 8192)])));
    assert_eq!(fixture.watch.audit().pages_touched, 2);
}

#[test]
fn pages_that_have_left_the_guest_are_not_audited() {
    let fixture = Fixture::new();
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096), (RAM_BYTES as u64 - 8192, 8192)]));
    fixture.fetch(&mut ticket);
    let less = Map::from_ranges(&[(GuestAddress(0), RAM_BYTES - 4096)]).unwrap();
    fixture.ram.atomic_map().lock().unwrap().replace(less);
    fixture.complete(ticket);
    let report = fixture.watch.audit();
    assert_eq!((report.pages, report.pages_unread), (2, 1));
}
