// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions whose pages come and go, as a driver sees them: faults, translations, invalidations.

mod driver;

use driver::{
    DATA, Daemon, Driver, await_fault, endless, fault_done, invalidate, map_revocable, populate, read_ledger,
    stamps, wait_for,
};
use longpin_proto::control::{Answer, Fault, Request};
use longpin_wire::dma::{self, DmaRequest, FaultEvent, PAGE_BYTES};
use longpin_wire::ledger::{self, Entry};
use longpin_wire::stamp::{self, Cell};
use longpin_wire::uapi::{ACCESS_READ, ACCESS_WRITE};
use std::time::Instant;

const EIO: u32 = 5;

/// Leave a chain for a fault.
fn leave_chain(driver: &mut Driver) -> u16 {
    driver.submit(dma::QUEUE_FAULTS as usize, &await_fault())
}

fn next_fault(driver: &mut Driver, chain: u16) -> FaultEvent {
    let response = driver.wait(dma::QUEUE_FAULTS as usize, chain);
    zerocopy::transmute!(response)
}

fn mmu(driver: &mut Driver, request: &[u8]) -> u32 {
    driver.call(dma::QUEUE_MMU, request).status
}

fn generation(driver: &Driver, gpa: u64) -> Option<u64> {
    match stamp::decode(&driver.read(gpa, 512)) {
        Cell::Whole(stamp) => Some(stamp.generation),
        _ => None,
    }
}

#[test]
fn a_program_faults_page_by_page_and_goes_on_where_it_was() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    assert_eq!(driver.config().features, dma::FEATURE_REVOCABLE);
    assert_eq!(driver.call(dma::QUEUE_CONTROL, &map_revocable(1, 0x4000)).status, dma::STATUS_OK);
    let program = driver.start(42, &stamps(1, 0x4000));
    // The pages lie in the memory in another order than in the region.
    for (page, gpa) in [(0, DATA + 0x9000), (1, DATA), (2, DATA + 0x4000), (3, DATA + 0x2000)] {
        // The first fault is raised before there is a chain for it, most likely; the others after, at times.
        let chain = leave_chain(&mut driver);
        let fault = next_fault(&mut driver, chain);
        let expected = (dma::STATUS_OK, ACCESS_WRITE, 1, 42, page * PAGE_BYTES, PAGE_BYTES);
        assert_eq!(
            (fault.status, fault.access, fault.region, fault.program, fault.offset, fault.length),
            expected
        );
        let answer = populate(1, fault.offset, ACCESS_WRITE, fault.id, &[(gpa, PAGE_BYTES)]);
        assert_eq!(mmu(&mut driver, &answer), dma::STATUS_OK);
    }
    let end = driver.wait_dma(program);
    assert_eq!((end.status, end.cells_done, end.last_generation), (dma::STATUS_OK, 32, 1));
    for (page, gpa) in [(0, DATA + 0x9000), (1, DATA), (2, DATA + 0x4000), (3, DATA + 0x2000)] {
        let Cell::Whole(stamp) = stamp::decode(&driver.read(gpa, 512)) else { panic!("page {page}") };
        assert_eq!((stamp.file_offset, stamp.generation), (page * PAGE_BYTES, 1));
    }
    // What is known is used again without a fault.
    let end = driver.run(43, &DmaRequest { generation: 2, ..stamps(1, 0x4000) });
    assert_eq!((end.status, end.last_generation), (dma::STATUS_OK, 2));
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
}

#[test]
fn a_page_for_reading_is_read_and_faults_for_a_write() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, PAGE_BYTES));
    driver.write(DATA, &[7; PAGE_BYTES as usize]);
    let known = populate(1, 0, ACCESS_READ, 0, &[(DATA, PAGE_BYTES)]);
    assert_eq!(mmu(&mut driver, &known), dma::STATUS_OK);
    let read =
        DmaRequest { direction: dma::DIRECTION_READ, payload: dma::PAYLOAD_FILL, ..stamps(1, PAGE_BYTES) };
    let end = driver.run(1, &read);
    assert_eq!((end.status, end.crc32c), (dma::STATUS_OK, crc32c::crc32c(&[7; PAGE_BYTES as usize])));
    let chain = leave_chain(&mut driver);
    let program = driver.start(2, &stamps(1, PAGE_BYTES));
    let fault = next_fault(&mut driver, chain);
    assert_eq!(fault.access, ACCESS_WRITE);
    assert_eq!(driver.read(DATA, 512), [7; 512], "nothing is written through a page for reading");
    assert_eq!(mmu(&mut driver, &fault_done(fault.id, EIO)), dma::STATUS_OK);
    let end = driver.wait_dma(program);
    assert_eq!((end.status, end.crc32c, end.cells_done), (dma::STATUS_FAULT, EIO, 0));
}

#[test]
fn after_an_invalidation_the_page_does_not_change() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let bytes = 8 * PAGE_BYTES;
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, bytes));
    let program = driver.start(9, &endless(1, bytes));
    let mut chain = leave_chain(&mut driver);
    // Every page that the program asks for is given, written, and taken away again; then it is ours.
    for round in 0..400u64 {
        let fault = next_fault(&mut driver, chain);
        chain = leave_chain(&mut driver);
        let gpa = DATA + fault.offset;
        driver.write(gpa, &[0; PAGE_BYTES as usize]);
        let answer = populate(1, fault.offset, ACCESS_WRITE, fault.id, &[(gpa, PAGE_BYTES)]);
        assert_eq!(mmu(&mut driver, &answer), dma::STATUS_OK);
        wait_for("a write", || generation(&driver, gpa).is_some());
        assert_eq!(mmu(&mut driver, &invalidate(1, fault.offset, PAGE_BYTES)), dma::STATUS_OK);
        let pattern = [round as u8; PAGE_BYTES as usize];
        driver.write(gpa, &pattern);
        for _ in 0..4 {
            assert_eq!(driver.read(gpa, pattern.len()), pattern, "a late write in round {round}");
            std::thread::yield_now();
        }
    }
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    assert_eq!(driver.wait_dma(program).status, dma::STATUS_STOPPED);
    daemon.control().sync();
    let entries = read_ledger(&daemon.ledger_path());
    assert!(entries.iter().filter(|entry| entry.kind == ledger::KIND_INVALIDATE).count() >= 400);
    assert_eq!(late_writes(entries), 0);
}

/// Writes to a page between its invalidation and its next populate, by the ledger.
fn late_writes(mut entries: Vec<Entry>) -> usize {
    entries.sort_by_key(|entry| entry.time_ns);
    let mut known = std::collections::HashSet::new();
    let pages = |entry: &Entry| {
        let first = entry.file_offset / PAGE_BYTES;
        first..(entry.file_offset + entry.len).div_ceil(PAGE_BYTES)
    };
    let mut late = 0;
    for entry in &entries {
        match entry.kind {
            ledger::KIND_POPULATE => known.extend(pages(entry)),
            ledger::KIND_INVALIDATE => known.retain(|page| !pages(entry).contains(page)),
            ledger::KIND_DMA_WRITE => late += usize::from(!pages(entry).all(|page| known.contains(&page))),
            _ => {}
        }
    }
    late
}

#[test]
fn a_fault_that_nobody_answers_ends_with_its_program_however_that_ends() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, PAGE_BYTES));
    let begun = Instant::now();
    let end = driver.run(1, &DmaRequest { duration_us: 1000, ..stamps(1, PAGE_BYTES) });
    assert_eq!((end.status, end.cells_done), (dma::STATUS_OK, 0), "its time is up");
    assert!(begun.elapsed() < driver::DEADLINE);
    let stopped = driver.start(2, &stamps(1, PAGE_BYTES));
    wait_for("the program", || driver.stop_program(2).status == dma::STATUS_OK);
    assert_eq!(driver.wait_dma(stopped).status, dma::STATUS_STOPPED);
    let chain = leave_chain(&mut driver);
    let unmapped = driver.start(3, &stamps(1, PAGE_BYTES));
    let fault = next_fault(&mut driver, chain);
    assert_eq!(fault.program, 3, "those who wait no longer have taken their faults back");
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    assert_eq!(driver.wait_dma(unmapped).status, dma::STATUS_STOPPED);
    // Too late, and no error of the driver's.
    assert_eq!(mmu(&mut driver, &fault_done(fault.id, EIO)), dma::STATUS_OK);
    let late = populate(1, 0, ACCESS_WRITE, fault.id, &[(DATA, PAGE_BYTES)]);
    assert_eq!(mmu(&mut driver, &late), dma::STATUS_NOT_FOUND);
}

#[test]
fn chains_for_faults_go_back_unanswered_when_the_driver_takes_its_queues() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, PAGE_BYTES));
    // A kick may still be on its way when its queue is stopped: its chain is not among those that were taken then.
    wait_for("the device to take all chains", || {
        for _ in 0..8 {
            leave_chain(&mut driver);
        }
        let taken = driver.stop_queue(dma::QUEUE_FAULTS as usize);
        if taken < 8 {
            driver.start_queue(dma::QUEUE_FAULTS as usize);
        }
        taken == 8
    });
    let taken: Vec<_> = (0..dma::QUEUE_FAULTS as usize).rev().map(|queue| driver.stop_queue(queue)).collect();
    assert_eq!(taken, [0, 0, 1]);
    (0..dma::NUM_QUEUES).for_each(|queue| driver.start_queue(queue));
    assert_eq!(driver.call(dma::QUEUE_CONTROL, &map_revocable(1, PAGE_BYTES)).status, dma::STATUS_OK);
    let chain = leave_chain(&mut driver);
    let program = driver.start(1, &stamps(1, PAGE_BYTES));
    let fault = next_fault(&mut driver, chain);
    let answer = populate(1, 0, ACCESS_WRITE, fault.id, &[(DATA, PAGE_BYTES)]);
    assert_eq!(mmu(&mut driver, &answer), dma::STATUS_OK);
    assert_eq!(driver.wait_dma(program).status, dma::STATUS_OK);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, 2 * PAGE_BYTES));
    assert_eq!(driver.map(2, &[(DATA, 2 * PAGE_BYTES)]).status, dma::STATUS_OK);
    let one = |region, offset| populate(region, offset, ACCESS_WRITE, 0, &[(DATA, PAGE_BYTES)]);
    assert_eq!(mmu(&mut driver, &one(2, 0)), dma::STATUS_INVALID, "its pages are pinned");
    assert_eq!(mmu(&mut driver, &invalidate(2, 0, PAGE_BYTES)), dma::STATUS_INVALID);
    assert_eq!(mmu(&mut driver, &one(3, 0)), dma::STATUS_NOT_FOUND);
    assert_eq!(mmu(&mut driver, &one(1, 2 * PAGE_BYTES)), dma::STATUS_BAD_ADDRESS);
    assert_eq!(mmu(&mut driver, &invalidate(1, PAGE_BYTES, 2 * PAGE_BYTES)), dma::STATUS_BAD_ADDRESS);
    let outside = populate(1, 0, ACCESS_WRITE, 0, &[(driver::RAM_BYTES, PAGE_BYTES)]);
    assert_eq!(mmu(&mut driver, &outside), dma::STATUS_BAD_ADDRESS);
    assert_eq!(driver.call(dma::QUEUE_CONTROL, &one(1, 0)).status, dma::STATUS_INVALID, "the wrong queue");
    assert_eq!(mmu(&mut driver, &one(1, 0)), dma::STATUS_OK);
}

#[test]
fn a_driver_of_pinned_regions_needs_two_queues() {
    let daemon = Daemon::start();
    let mut driver = Driver::connect_queues(&daemon.socket_path(), driver::VERSION_1, dma::NUM_PINNED_QUEUES);
    assert_eq!(driver.map(1, &[(DATA, PAGE_BYTES)]).status, dma::STATUS_OK);
    assert_eq!(driver.run(1, &stamps(1, PAGE_BYTES)).status, dma::STATUS_OK);
    assert!(daemon.control().status().driver_ready);
}

#[test]
fn a_device_that_keeps_silent_answers_no_invalidation() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.call(dma::QUEUE_CONTROL, &map_revocable(1, PAGE_BYTES));
    let mut control = daemon.control();
    assert_eq!(control.ask(&Request::Fault { fault: Fault::SilentControl }), Answer::Ok);
    let slot = driver.submit(dma::QUEUE_MMU as usize, &invalidate(1, 0, PAGE_BYTES));
    wait_for("the request", || control.status().requests >= 2);
    let soon = Instant::now() + std::time::Duration::from_millis(200);
    assert_eq!(driver.wait_until(dma::QUEUE_MMU as usize, slot, soon), None);
}
