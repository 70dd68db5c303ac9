// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The engine without a front: regions in plain memory, completions into channels.

use super::*;
use crate::mem::{AtomicMap, Gpa, Map};
use crate::program::{Op, Payload};
use crate::region::Label;
use longpin_wire::dma;
use longpin_wire::ledger::{Header, KIND_DMA_WRITE};
use longpin_wire::stamp::{self, Cell};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use vm_memory::GuestAddress;
use zerocopy::FromBytes as _;

const RAM_BYTES: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

struct Fixture {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
}

impl Fixture {
    fn new(ledger: Ledger) -> Self {
        let map = Map::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        let ram = Arc::new(GuestRam::new(AtomicMap::new(map)));
        let (ledger, counters) = (Arc::new(ledger), Arc::<Counters>::default());
        Self { engine: Engine::new(ram, ledger.clone(), counters.clone()), ledger, counters }
    }

    fn map(&self, region: u32, segments: &[(u64, u64)]) -> Result<(), Refusal> {
        let total_bytes = segments.iter().map(|(_, len)| len).sum();
        self.engine.map(&MapPart {
            label: Label { region, total_bytes, file_offset: 0, run: 1, pin_mode: 1 },
            first: true,
            last: true,
            segments: segments.iter().map(|(gpa, len)| (Gpa(*gpa), *len)).collect(),
        })
    }

    fn start(&self, program: Program) -> Receiver<Result<ProgramEnd, Refusal>> {
        let (done, end) = mpsc::channel();
        self.engine.start(program, Box::new(move |outcome| done.send(outcome).unwrap()));
        end
    }

    fn unmap(&self, region: u32) -> Receiver<Result<(), Refusal>> {
        let (done, end) = mpsc::channel();
        self.engine.unmap(region, 0, Box::new(move |outcome| done.send(outcome).unwrap()));
        end
    }

    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.engine.ram.view().read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.engine.ram.view().write(Gpa(gpa), bytes).unwrap();
    }

    fn bytes_written(&self) -> u64 {
        let mut status = longpin_proto::control::Status::default();
        self.counters.fill(&mut status);
        status.bytes
    }
}

/// Stamps over `length` bytes until stopped.
fn endless(tag: u64, region: u32, length: u64) -> Program {
    Program {
        tag,
        region,
        op: Op::WriteToMemory(Payload::Stamp),
        seed: None,
        offset: 0,
        length,
        cell_bytes: 512,
        generation: 1,
        run: 1,
        rate_cells_per_s: 0,
        passes: 0,
        duration_us: 0,
        start_delay_us: 0,
    }
}

fn once(tag: u64, region: u32, length: u64) -> Program {
    Program { passes: 1, ..endless(tag, region, length) }
}

fn wait<T>(end: &Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
    end.recv_timeout(DEADLINE).expect("a completion before the deadline")
}

fn entries(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap();
    let (_, rest) = Header::read_from_prefix(&bytes).unwrap();
    rest.chunks_exact(64).map(|entry| Entry::read_from_bytes(entry).unwrap()).collect()
}

#[test]
fn after_a_region_is_quiet_its_memory_does_not_change() {
    let fixture = Fixture::new(Ledger::counting());
    let bytes = 0x40000;
    for round in 1..=200u32 {
        fixture.map(round, &[(0, bytes)]).unwrap();
        let programs: Vec<_> = (0..3u64)
            .map(|n| {
                let seed = (n == 2).then_some(u64::from(round));
                fixture.start(Program { seed, ..endless(u64::from(round) * 10 + n, round, bytes) })
            })
            .collect();
        let before = fixture.bytes_written();
        let begun = Instant::now();
        while fixture.bytes_written() == before {
            assert!(begun.elapsed() < DEADLINE, "no write in round {round}");
            std::thread::yield_now();
        }
        wait(&fixture.unmap(round)).unwrap();
        let pattern = vec![round as u8; bytes as usize];
        fixture.write(0, &pattern);
        for program in &programs {
            // Already there: programs are told before the region is.
            let end = program.try_recv().expect("told before the unmap").unwrap();
            assert_eq!(end.status, dma::STATUS_STOPPED);
        }
        for _ in 0..4 {
            assert!(fixture.read(0, bytes as usize) == pattern, "a late write in round {round}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn every_write_is_in_the_ledger_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = Fixture::new(Ledger::create(&path).unwrap());
    fixture.map(1, &[(0x100000, 0x80000)]).unwrap();
    let programs: Vec<_> = (1..=3).map(|tag| fixture.start(endless(tag, 1, 0x80000))).collect();
    while fixture.ledger.entries() < 50_000 {
        std::thread::yield_now();
    }
    let unmapped = fixture.unmap(1);
    wait(&unmapped).unwrap();
    let cells: u64 = programs.iter().map(|end| wait(end).unwrap().cells_done).sum();
    assert_eq!(fixture.ledger.sync().unwrap(), fixture.ledger.entries());
    let entries = entries(&path);
    assert_eq!(entries.len() as u64, fixture.ledger.entries());
    let writes = entries.iter().filter(|entry| entry.kind == KIND_DMA_WRITE);
    assert_eq!(writes.clone().map(|entry| entry.len).sum::<u64>(), cells * 512);
    let quiet = entries.iter().find(|entry| entry.kind == KIND_UNMAP).unwrap().time_ns;
    assert!(writes.clone().all(|entry| entry.time_ns <= quiet));
    assert!(writes.clone().all(|e| e.dma_addr == 0x100000 + e.file_offset && e.len == 4096));
    // The last generation that the ledger has for a page is what the page holds, or a rival program's same.
    let newest = writes.filter(|e| e.file_offset == 0).map(|e| e.generation).max().unwrap();
    match stamp::decode(&fixture.read(0x100000, 512)) {
        Cell::Whole(stamp) => assert!(stamp.generation <= newest, "{stamp:?} is in no record"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cells_across_small_and_crooked_segments_are_whole() {
    let fixture = Fixture::new(Ledger::counting());
    let segments = [(0x1003, 700), (0x8ff0, 33), (0x3000, 1), (0x5ffe, 290)];
    fixture.map(1, &segments).unwrap();
    assert_eq!(wait(&fixture.start(once(1, 1, 1024))).unwrap().cells_done, 2);
    let bytes: Vec<u8> = segments.iter().flat_map(|(gpa, len)| fixture.read(*gpa, *len as usize)).collect();
    for (cell, offset) in bytes.chunks(512).zip([0, 512]) {
        assert!(matches!(stamp::decode(cell), Cell::Whole(s) if s.file_offset == offset));
    }
    assert_eq!(fixture.read(0x1002, 1), [0]);
    assert_eq!(fixture.read(0x3001, 1), [0]);
}

#[test]
fn the_number_of_programs_is_limited_and_names_are_unique() {
    let fixture = Fixture::new(Ledger::counting());
    fixture.map(1, &[(0, 0x1000)]).unwrap();
    let asleep = |tag| Program { start_delay_us: u64::MAX, ..once(tag, 1, 0x1000) };
    let programs: Vec<_> = (0..MAX_PROGRAMS as u64).map(|tag| fixture.start(asleep(tag))).collect();
    let refused = wait(&fixture.start(asleep(9999))).unwrap_err();
    assert_eq!(refused.status(), dma::STATUS_LIMIT);
    fixture.engine.stop(5).unwrap();
    assert_eq!(wait(&programs[5]).unwrap().status, dma::STATUS_STOPPED);
    let deadline = Instant::now() + DEADLINE;
    while fixture.engine.state.lock().live == MAX_PROGRAMS {
        assert!(Instant::now() < deadline, "the program never leaves");
        std::thread::yield_now();
    }
    assert_eq!(wait(&fixture.start(asleep(7))).unwrap_err().status(), dma::STATUS_BUSY);
    let again = fixture.start(asleep(5));
    wait(&fixture.unmap(1)).unwrap();
    assert_eq!(wait(&again).unwrap().status, dma::STATUS_STOPPED);
}

#[test]
fn requests_for_what_is_not_there_are_refused() {
    let fixture = Fixture::new(Ledger::counting());
    let status = |refusal: Refusal| refusal.status();
    assert_eq!(fixture.map(1, &[(RAM_BYTES as u64 - 1, 2)]).map_err(status), Err(dma::STATUS_BAD_ADDRESS));
    assert_eq!(wait(&fixture.unmap(1)).map_err(status), Err(dma::STATUS_NOT_FOUND));
    assert_eq!(fixture.engine.stop(1).map_err(status), Err(dma::STATUS_NOT_FOUND));
    fixture.map(1, &[(0, 0x1000)]).unwrap();
    assert_eq!(fixture.map(1, &[(0, 0x1000)]).map_err(status), Err(dma::STATUS_BUSY));
    assert_eq!(wait(&fixture.start(once(1, 2, 512))).map_err(status), Err(dma::STATUS_NOT_FOUND));
    assert_eq!(wait(&fixture.start(once(1, 1, 0x1200))).map_err(status), Err(dma::STATUS_BAD_ADDRESS));
    wait(&fixture.unmap(1)).expect("a refused program does not hold the region");
    assert_eq!((fixture.engine.regions(), fixture.engine.programs()), (0, 0));
}

#[test]
fn a_full_disk_ends_programs_and_pins_and_the_engine_lives_on() {
    let fixture = Fixture::new(Ledger::create(Path::new("/dev/full")).unwrap());
    // The header did not fit, so the ledger fails as soon as its writer has run.
    let deadline = Instant::now() + DEADLINE;
    while fixture.ledger.failure().is_none() {
        assert!(Instant::now() < deadline, "the failure is never noticed");
        std::thread::yield_now();
    }
    assert_eq!(fixture.map(1, &[(0, 0x1000)]).unwrap_err().status(), dma::STATUS_DEVICE_ERROR);
    assert_eq!(fixture.engine.regions(), 0);
    fixture.engine.begin_reset();
    fixture.engine.finish_reset(DEADLINE).unwrap();
}

#[test]
fn during_a_reset_nothing_begins() {
    let fixture = Fixture::new(Ledger::counting());
    fixture.map(1, &[(0, 0x1000)]).unwrap();
    let running = fixture.start(endless(1, 1, 0x1000));
    fixture.engine.begin_reset();
    assert_eq!(wait(&running).unwrap().status, dma::STATUS_STOPPED);
    assert_eq!(fixture.map(2, &[(0, 0x1000)]).unwrap_err().status(), dma::STATUS_STOPPED);
    assert_eq!(wait(&fixture.start(once(2, 1, 512))).unwrap_err().status(), dma::STATUS_STOPPED);
    fixture.engine.finish_reset(DEADLINE).unwrap();
    assert_eq!(fixture.engine.regions(), 0);
    fixture.map(1, &[(0, 0x1000)]).unwrap();
    assert_eq!(wait(&fixture.start(once(1, 1, 0x1000))).unwrap().status, dma::STATUS_OK);
}

/// A completion that does not return stands for a program that cannot be stopped.
#[test]
fn a_reset_that_cannot_finish_says_so() {
    let fixture = Fixture::new(Ledger::counting());
    fixture.map(1, &[(0, 0x1000)]).unwrap();
    let (release, held) = mpsc::channel::<()>();
    fixture.engine.start(once(1, 1, 512), Box::new(move |_| held.recv().unwrap()));
    fixture.engine.begin_reset();
    let error = fixture.engine.finish_reset(Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.programs, 1);
    release.send(()).unwrap();
    fixture.engine.finish_reset(DEADLINE).unwrap();
}

#[test]
fn pages_are_in_the_index_while_their_region_is_mapped() {
    let fixture = Fixture::new(Ledger::counting());
    let pinned = |gpa| fixture.engine.pins().read().is_some_and(|pins| pins.of(Gpa(gpa), 1).next().is_some());
    fixture.map(1, &[(0x1000, 0x1000)]).unwrap();
    fixture.map(2, &[(0x5000, 0x1000)]).unwrap();
    assert!(pinned(0x1fff) && pinned(0x5000) && !pinned(0x2000));
    let running = fixture.start(endless(1, 1, 0x1000));
    wait(&fixture.unmap(1)).unwrap();
    assert!(!pinned(0x1000), "not after the answer to the unmap");
    wait(&running).unwrap();
    fixture.engine.begin_reset();
    fixture.engine.finish_reset(DEADLINE).unwrap();
    assert!(!pinned(0x5000));
}

/// A program that leaves the guest's memory, or is stopped, in the middle of a batch has written what came before.
#[test]
fn writes_to_pages_in_flight_are_traced_to_the_last() {
    let fixture = Fixture::new(Ledger::counting());
    fixture.map(1, &[(0x1000, 0x1000), (0x3000, 0x1000)]).unwrap();
    let trace = fixture.engine.trace();
    trace.enter([1, 3].into_iter());
    let since = clock::monotonic_ns();
    let map = Map::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap();
    fixture.engine.ram.atomic_map().lock().unwrap().replace(map);
    let end = wait(&fixture.start(once(1, 1, 0x2000))).unwrap();
    assert_eq!((end.status, end.cells_done), (dma::STATUS_BAD_ADDRESS, 8));
    assert_eq!(trace.covered(1, since).bytes.count(), 4096);
    assert_eq!(trace.covered(3, since).bytes.count(), 0);
    trace.leave([1, 3].into_iter());
    assert_eq!(trace.covered(1, since).bytes.count(), 0);
}

/// A driver that gives every page, from a place of its own, and takes it back at random.
struct Pager {
    engine: std::sync::Weak<Engine>,
    faults: mpsc::Sender<PageFault>,
}

impl FaultSink for Pager {
    fn raise(&self, fault: PageFault) {
        self.faults.send(fault).unwrap();
    }

    fn withdraw(&self, _id: u64) {
        assert!(self.engine.strong_count() > 0);
    }
}

#[test]
fn programs_make_progress_while_pages_come_and_go_and_write_to_none_that_went() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let fixture = Fixture::new(Ledger::create(&path).unwrap());
    let (faults, raised) = mpsc::channel();
    fixture.engine.set_fault_sink(Arc::new(Pager { engine: Arc::downgrade(&fixture.engine), faults }));
    let (pages, page) = (32u64, dma::PAGE_BYTES);
    let label = Label { region: 1, total_bytes: pages * page, file_offset: 0, run: 1, pin_mode: 4 };
    fixture.engine.map(&MapPart { label, first: true, last: true, segments: Vec::new() }).unwrap();
    let programs: Vec<_> = (1..=4u64)
        .map(|tag| {
            let seed = Some(tag);
            fixture.start(Program { seed, passes: 20, ..endless(tag, 1, pages * page) })
        })
        .collect();
    let engine = fixture.engine.clone();
    let take =
        |offset, length| engine.invalidate(Invalidate { region: 1, offset, length, reason: 4 }).unwrap();
    let mut given = 0u64;
    let mut ended = 0;
    while ended < programs.len() {
        for end in programs.iter().filter_map(|end| end.try_recv().ok()) {
            let end = end.unwrap();
            assert_eq!((end.status, end.last_generation), (dma::STATUS_OK, 20));
            ended += 1;
        }
        let Ok(fault) = raised.recv_timeout(Duration::from_millis(10)) else { continue };
        assert!(fault.write && fault.length == page && fault.offset < pages * page);
        let segments = vec![(Gpa(fault.offset), page)];
        let part = Populate { region: 1, offset: fault.offset, segments, write: true, fault: fault.id };
        engine.populate(&part).unwrap();
        given += 1;
        if given.is_multiple_of(3) {
            let offset = given * 7 % pages * page;
            take(offset, page);
            // From here until the next populate this page is not the device's.
            let pattern = vec![given as u8; page as usize];
            fixture.write(offset, &pattern);
            assert!(fixture.read(offset, page as usize) == pattern, "a late write to {offset}");
        }
    }
    take(0, pages * page);
    fixture.ledger.sync().unwrap();
    let mut entries = entries(&path);
    entries.sort_by_key(|entry| entry.time_ns);
    let mut known = vec![false; pages as usize];
    for entry in &entries {
        let first = (entry.file_offset / page) as usize;
        match entry.kind {
            KIND_POPULATE => known[first] = true,
            KIND_INVALIDATE => known[first..first + (entry.len / page) as usize].fill(false),
            KIND_DMA_WRITE => assert!(known[first], "a write to page {first} that the device does not have"),
            _ => {}
        }
    }
    assert!(
        entries.iter().filter(|entry| entry.kind == longpin_wire::ledger::KIND_FAULT).count() as u64 >= given
    );
}

#[test]
fn a_small_cache_faults_again_for_what_it_forgot() {
    let fixture = Fixture::new(Ledger::counting());
    fixture.engine.set_cache(CacheOptions { bound: 2, ..CacheOptions::default() });
    let (faults, raised) = mpsc::channel();
    fixture.engine.set_fault_sink(Arc::new(Pager { engine: Arc::downgrade(&fixture.engine), faults }));
    let page = dma::PAGE_BYTES;
    let label = Label { region: 1, total_bytes: 8 * page, file_offset: 0, run: 1, pin_mode: 4 };
    fixture.engine.map(&MapPart { label, first: true, last: true, segments: Vec::new() }).unwrap();
    let end = fixture.start(Program { passes: 2, ..endless(1, 1, 8 * page) });
    for n in 0..16u64 {
        let fault = raised.recv_timeout(DEADLINE).unwrap();
        assert_eq!(fault.offset, n % 8 * page, "of eight pages and two places, each pass misses all");
        let segments = vec![(Gpa(fault.offset), page)];
        fixture
            .engine
            .populate(&Populate { region: 1, offset: fault.offset, segments, write: true, fault: fault.id })
            .unwrap();
    }
    let end = wait(&end).unwrap();
    assert_eq!((end.status, end.last_generation), (dma::STATUS_OK, 2));
}
