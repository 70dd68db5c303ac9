// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon as a driver sees it: requests through real virtqueues, over a real vhost-user socket.

mod driver;

use driver::{DATA, Daemon, RAM_BYTES, endless, map_part, read_ledger, stamps, wait_for};
use longpin_proto::control::{Answer, Fault, Request};
use longpin_wire::dma::{self, DmaRequest};
use longpin_wire::ledger;
use longpin_wire::stamp::{self, Cell, SOURCE_DMA, Stamp};
use std::time::{Duration, Instant};

/// Decode every 512-byte cell of a range.
fn cells(driver: &driver::Driver, gpa: u64, len: usize) -> Vec<Cell> {
    driver.read(gpa, len).chunks(512).map(stamp::decode).collect()
}

fn whole(file_offset: u64, generation: u64, region: u32) -> Cell {
    Cell::Whole(Stamp { run: 77, file_offset, generation, region, source: SOURCE_DMA })
}

#[test]
fn a_program_stamps_each_cell_of_a_scattered_region() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    assert_eq!(driver.config().magic, dma::CONFIG_MAGIC);
    // Three segments, in descending order of address.
    let segments = [(DATA + 0x9000, 0x1000), (DATA + 0x4000, 0x2000), (DATA, 0x1000)];
    let map = driver.map(1, &segments);
    assert_eq!((map.status, map.tag), (dma::STATUS_OK, 1001));
    let end = driver.run(42, &DmaRequest { passes: 3, ..stamps(1, 0x4000) });
    assert_eq!((end.status, end.tag), (dma::STATUS_OK, 42));
    assert_eq!((end.cells_done, end.last_generation), (96, 3));
    assert!(0 < end.started_ns && end.started_ns <= end.finished_ns);
    let mut offset = 0;
    for (gpa, len) in segments {
        for cell in cells(&driver, gpa, len as usize) {
            assert_eq!(cell, whole(offset, 3, 1));
            offset += 512;
        }
    }
    // The gaps between the segments are untouched.
    assert!(driver.read(DATA + 0x1000, 0x3000).iter().all(|byte| *byte == 0));
    assert!(driver.read(DATA + 0x6000, 0x3000).iter().all(|byte| *byte == 0));
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    drop(driver);
    daemon.stop().unwrap();
}

#[test]
fn the_same_works_with_event_idx_and_indirect_descriptors() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect_with_event_idx();
    assert_eq!(driver.map(1, &[(DATA, 0x10000)]).status, dma::STATUS_OK);
    for tag in 1..200 {
        let end = driver.run(tag, &DmaRequest { generation: tag, ..stamps(1, 0x10000) });
        assert_eq!((end.status, end.tag, end.last_generation), (dma::STATUS_OK, tag, tag));
    }
    assert_eq!(driver.calls_missed, 0, "the device forgot to interrupt");
    assert!(
        cells(&driver, DATA, 0x10000).iter().enumerate().all(|(i, c)| *c == whole(i as u64 * 512, 199, 1))
    );
}

#[test]
fn a_region_comes_in_parts() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let pages: Vec<_> = (0..9000u64).map(|page| (DATA + page * 4096, 4096)).collect();
    let total = pages.len() as u64 * 4096;
    for (index, part) in pages.chunks(4000).enumerate() {
        let flags = [dma::MAP_FIRST, 0, dma::MAP_LAST][index];
        let early = driver.run(1, &stamps(1, 512));
        assert_eq!(early.status, [dma::STATUS_NOT_FOUND, dma::STATUS_BUSY, dma::STATUS_BUSY][index]);
        let request = map_part(1, flags, total, part);
        assert_eq!(driver.call(dma::QUEUE_CONTROL, &request).status, dma::STATUS_OK);
    }
    assert_eq!(driver.run(2, &stamps(1, total)).cells_done, total / 512);
    assert_eq!(cells(&driver, DATA + total - 4096, 4096)[7], whole(total - 512, 1, 1));
    assert_eq!(driver.run(3, &stamps(1, total + 512)).status, dma::STATUS_BAD_ADDRESS);
}

#[test]
fn a_random_program_reaches_every_cell_and_a_read_sums_them() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x20000)]);
    let random = DmaRequest { order: dma::ORDER_RANDOM, seed: 9, passes: 2, ..stamps(1, 0x20000) };
    assert_eq!(driver.run(1, &random).cells_done, 512);
    assert!(cells(&driver, DATA, 0x20000).iter().enumerate().all(|(i, c)| *c == whole(i as u64 * 512, 2, 1)));
    let read = driver.run(2, &DmaRequest { direction: dma::DIRECTION_READ, ..stamps(1, 0x20000) });
    assert_eq!(read.crc32c, crc32c::crc32c(&driver.read(DATA, 0x20000)));
}

#[test]
fn a_fill_ends_where_it_was_told_to() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x4000)]);
    let fill =
        DmaRequest { payload: dma::PAYLOAD_FILL, fill: 0x5a, offset: 100, length: 8001, ..stamps(1, 0) };
    assert_eq!(driver.run(1, &fill).cells_done, 16);
    let bytes = driver.read(DATA, 0x4000);
    let filled = |i: usize| (100..8101).contains(&i);
    assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == if filled(i) { 0x5a } else { 0 }));
}

#[test]
fn programs_run_side_by_side_and_end_when_told() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut slots = Vec::new();
    for region in 1..=50 {
        driver.map(region, &[(DATA + u64::from(region) * 0x10000, 0x10000)]);
        let program = DmaRequest { rate_cells_per_s: 10_000, ..endless(region, 0x10000) };
        slots.push(driver.start(u64::from(region), &program));
    }
    let mut control = daemon.control();
    wait_for("50 programs", || control.status().programs == 50);
    assert_eq!(driver.stop_program(999).status, dma::STATUS_NOT_FOUND);
    for (slot, region) in slots.into_iter().zip(1..) {
        assert_eq!(driver.stop_program(region).status, dma::STATUS_OK);
        let end = driver.wait_dma(slot);
        assert_eq!((end.status, end.tag), (dma::STATUS_STOPPED, region));
        assert_eq!(driver.stop_program(region).status, dma::STATUS_NOT_FOUND);
    }
    assert_eq!(control.status().programs, 0);
}

#[test]
fn a_stop_that_is_published_after_its_program_finds_it() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x1000)]);
    for tag in 1..=300 {
        // Both are on their rings before the device may look.
        let program = driver.start(tag, &endless(1, 0x1000));
        let stop = driver.submit(0, &driver::stop_request(tag));
        assert_eq!(driver.wait(0, stop).status, dma::STATUS_OK, "tag {tag}");
        assert_eq!(driver.wait_dma(program).status, dma::STATUS_STOPPED);
    }
}

#[test]
fn delay_rate_and_duration_are_kept() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x10000)]);
    let begin = Instant::now();
    let slow = DmaRequest { rate_cells_per_s: 1000, start_delay_us: 50_000, length: 0x5000, ..stamps(1, 0) };
    let end = driver.run(1, &slow);
    assert_eq!(end.cells_done, 40);
    // The 40th cell is due 39 ms after the first.
    assert!(end.finished_ns - end.started_ns >= 39_000_000, "{end:?}");
    assert!(begin.elapsed() >= Duration::from_millis(89));
    // The end of the last cell is the end: nobody waits for a cell that will not come.
    let end = driver.run(3, &DmaRequest { rate_cells_per_s: 1, ..stamps(1, 512) });
    assert!(end.finished_ns - end.started_ns < 900_000_000, "{end:?}");
    let timed = DmaRequest { duration_us: 30_000, ..endless(1, 0x10000) };
    let end = driver.run(2, &timed);
    assert_eq!(end.status, dma::STATUS_OK);
    assert!(end.finished_ns - end.started_ns >= 30_000_000 && end.last_generation > 0, "{end:?}");
}

#[test]
fn a_program_that_never_began_says_so() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x1000)]);
    let slot = driver.start(1, &DmaRequest { start_delay_us: u64::MAX, ..stamps(1, 0x1000) });
    let mut control = daemon.control();
    wait_for("the program", || control.status().programs == 1);
    driver.stop_program(1);
    let end = driver.wait_dma(slot);
    assert_eq!((end.status, end.started_ns, end.cells_done), (dma::STATUS_STOPPED, 0, 0));
    assert!(end.finished_ns > 0);
}

#[test]
fn after_the_answer_to_unmap_nothing_is_written() {
    const REGION_BYTES: u64 = 1 << 18;
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    for round in 1..=60u32 {
        driver.map(round, &[(DATA, REGION_BYTES)]);
        let slots: Vec<_> = (0..4)
            .map(|n| {
                let order = if n % 2 == 0 { dma::ORDER_RANDOM } else { dma::ORDER_SEQUENTIAL };
                let tag = u64::from(round) * 10 + n;
                driver.start(tag, &DmaRequest { order, ..endless(round, REGION_BYTES) })
            })
            .collect();
        // Unmap in full swing: when a cell of this round is there.
        let begun =
            |d: &driver::Driver| matches!(cells(d, DATA, 512)[0], Cell::Whole(s) if s.region == round);
        wait_for("a cell of this round", || begun(&driver));
        assert_eq!(driver.unmap(round).status, dma::STATUS_OK);
        let pattern = vec![round as u8; REGION_BYTES as usize];
        driver.write(DATA, &pattern);
        // The answers of the programs came before that of the unmap.
        for slot in slots {
            let end = driver.wait_until(1, slot, Instant::now()).expect("answered before the unmap");
            assert_eq!(end.status, dma::STATUS_STOPPED);
        }
        for _ in 0..20 {
            assert!(driver.read(DATA, REGION_BYTES as usize) == pattern, "a late write in round {round}");
        }
    }
}

#[test]
fn after_a_queue_was_taken_back_nothing_is_written_and_the_driver_can_return() {
    const BYTES: u64 = 1 << 18;
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    for round in 1..=20u8 {
        assert_eq!(driver.map(1, &[(DATA, BYTES)]).status, dma::STATUS_OK, "the region is free again");
        for tag in 1..=4 {
            driver.start(tag, &DmaRequest { generation: u64::from(round) << 32, ..endless(1, BYTES) });
        }
        let begun = |d: &driver::Driver| matches!(cells(d, DATA, 512)[0], Cell::Whole(s) if s.generation >> 32 == u64::from(round));
        wait_for("a cell of this round", || begun(&driver));
        driver.stop_queue(usize::from(round % 2));
        let pattern = vec![round; BYTES as usize];
        driver.write(DATA, &pattern);
        driver.stop_queue(usize::from((round + 1) % 2));
        for _ in 0..20 {
            assert!(driver.read(DATA, BYTES as usize) == pattern, "a late write in round {round}");
        }
        let status = control.status();
        assert_eq!((status.regions, status.programs, status.driver_ready), (0, 0, false));
        driver.start_queue(0);
        driver.start_queue(1);
    }
    wait_for("the driver", || control.status().driver_ready);
}

#[test]
fn memory_that_leaves_the_guest_fails_the_program_and_is_not_touched() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let edge = RAM_BYTES - 0x10000;
    assert_eq!(driver.map(1, &[(RAM_BYTES - 0x1000, 0x2000)]).status, dma::STATUS_BAD_ADDRESS);
    assert_eq!(driver.map(1, &[(edge, 0x10000)]).status, dma::STATUS_OK);
    let slot = driver.start(1, &endless(1, 0x10000));
    wait_for("the first stamp", || cells(&driver, edge, 512)[0] != Cell::Zero);
    driver.set_memory(edge);
    // The map change was acknowledged: from here on the device must not touch what is gone.
    driver.write(edge, &[0x77; 0x10000]);
    assert_eq!(driver.wait_dma(slot).status, dma::STATUS_BAD_ADDRESS);
    assert!(driver.read(edge, 0x10000).iter().all(|byte| *byte == 0x77));
    assert_eq!(driver.run(2, &stamps(1, 0x1000)).status, dma::STATUS_BAD_ADDRESS);
    // And back again.
    driver.set_memory(RAM_BYTES);
    assert_eq!(driver.run(3, &stamps(1, 0x10000)).status, dma::STATUS_OK);
}

#[test]
fn the_ledger_tells_the_story_in_order() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    driver.map(5, &[(DATA, 0x1000), (DATA + 0x8000, 0x1000)]);
    driver.run(9, &DmaRequest { passes: 2, ..stamps(5, 0x2000) });
    driver.unmap(5);
    let entries = control.sync();
    let mut ledger = read_ledger(&daemon.ledger_path());
    assert_eq!(ledger.len() as u64, entries);
    // Two producers: the engine (map, unmap) and the program; each is in the order of its times.
    for own in [true, false] {
        let times = ledger.iter().filter(|e| (e.program == 0) == own).map(|e| e.time_ns);
        assert!(times.is_sorted());
    }
    ledger.sort_by_key(|entry| entry.time_ns);
    let kinds: Vec<_> = ledger.iter().map(|e| (e.kind, e.dma_addr, e.len, e.generation)).collect();
    let (a, b) = (DATA, DATA + 0x8000);
    assert_eq!(
        kinds,
        [
            (ledger::KIND_SEGMENT, a, 0x1000, 0),
            (ledger::KIND_SEGMENT, b, 0x1000, 0),
            (ledger::KIND_MAP, 0, 0x2000, 0),
            (ledger::KIND_PROGRAM_START, 0, 0, 0),
            (ledger::KIND_DMA_WRITE, a, 0x1000, 1),
            (ledger::KIND_DMA_WRITE, b, 0x1000, 1),
            (ledger::KIND_DMA_WRITE, a, 0x1000, 2),
            (ledger::KIND_DMA_WRITE, b, 0x1000, 2),
            (ledger::KIND_PROGRAM_END, 0, 0, 2),
            (ledger::KIND_UNMAP, 0, 0x2000, 0),
        ]
    );
    assert!(ledger.iter().all(|entry| entry.region == 5 && entry.run == 77));
    let status = control.status();
    assert_eq!((status.cells, status.bytes, status.ledger_entries), (32, 0x4000, entries));
}

#[test]
fn a_silent_device_falls_silent_and_recovers_by_reset() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    driver.map(1, &[(DATA, 0x1000)]);
    assert_eq!(control.ask(&Request::Fault { fault: Fault::SilentDma }), Answer::Ok);
    let program = driver.start(1, &stamps(1, 0x1000));
    // To its end: another fault would let it be told.
    wait_for("the silent program to end", || {
        let status = control.status();
        status.cells == 8 && status.programs == 0
    });
    assert_ne!(cells(&driver, DATA, 0x1000)[7], Cell::Zero);
    assert_eq!(control.ask(&Request::Fault { fault: Fault::SilentControl }), Answer::Ok);
    let unmap = driver.submit(0, &driver::unmap_request(1));
    wait_for("the request to be taken", || control.status().requests == 3);
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(driver.wait_until(0, unmap, soon).is_none(), "answered in spite of the fault");
    assert!(driver.wait_until(1, program, Instant::now()).is_none());
    assert_eq!(control.ask(&Request::Fault { fault: Fault::None }), Answer::Ok);
    for queue in [0, 1] {
        driver.stop_queue(queue);
    }
    for queue in [0, 1] {
        driver.start_queue(queue);
    }
    assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
}

/// The next used entry of the queue for programs: head, and bytes written.
fn next_used(driver: &mut driver::Driver) -> (u16, u32) {
    let mut used = None;
    wait_for("a used entry", || {
        used = driver.next_used(1);
        used.is_some()
    });
    used.expect("it was waited for")
}

#[test]
fn answers_are_wrong_in_the_way_that_was_asked_for() {
    const WHOLE: u32 = size_of::<dma::Response>() as u32;
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    let mut fault = |fault| assert_eq!(control.ask(&Request::Fault { fault }), Answer::Ok);
    driver.map(1, &[(DATA, 0x1000)]);
    fault(Fault::WrongTag);
    let end = driver.run(1, &stamps(1, 0x1000));
    assert_eq!((end.status, end.tag, end.cells_done), (dma::STATUS_OK, !1, 8));
    fault(Fault::ShortAnswer);
    let slot = driver.start(2, &stamps(1, 0x1000));
    let (head, written) = next_used(&mut driver);
    assert_eq!(head, slot * 2);
    assert!(written < WHOLE, "{written}");
    fault(Fault::AnswerTwice);
    let slot = driver.start(3, &stamps(1, 0x1000));
    assert_eq!([(); 2].map(|()| next_used(&mut driver)), [(slot * 2, WHOLE); 2]);
    fault(Fault::BadUsedId);
    let slot = driver.start(4, &stamps(1, 0x1000));
    let (head, _) = next_used(&mut driver);
    assert!(head != slot * 2 && head < dma::QUEUE_SIZE, "{head}, where {} was given", slot * 2);
    // The control queue has right ones.
    assert_eq!(driver.unmap(9).status, dma::STATUS_NOT_FOUND);
    fault(Fault::StrayInterrupt);
    driver.interrupts(1);
    driver.start(5, &stamps(1, 0x1000));
    let mut interrupts = 0;
    wait_for("two interrupts", || {
        interrupts += driver.interrupts(1);
        interrupts == 2
    });
    next_used(&mut driver);
    assert!(driver.next_used(1).is_none(), "one answer");
    fault(Fault::None);
    assert_eq!(driver.run(6, &stamps(1, 0x1000)).tag, 6);
}

#[test]
fn a_region_that_is_denied_is_written_to_all_the_same() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    driver.map(1, &[(DATA, 0x1000)]);
    let program = driver.start(1, &endless(1, 0x1000));
    assert_eq!(control.ask(&Request::Fault { fault: Fault::DeniedRegion }), Answer::Ok);
    assert_eq!(driver.unmap(1).status, dma::STATUS_NOT_FOUND);
    driver.write(DATA, &[0; 0x1000]);
    wait_for("another stamp", || cells(&driver, DATA, 512)[0] != Cell::Zero);
    assert_eq!(control.ask(&Request::Fault { fault: Fault::None }), Answer::Ok);
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    assert_eq!(driver.wait_dma(program).status, dma::STATUS_STOPPED);
}

#[test]
fn a_slow_device_answers_late_and_rightly() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    assert_eq!(control.ask(&Request::Fault { fault: Fault::SlowControl }), Answer::Ok);
    let begin = Instant::now();
    assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
    assert!(begin.elapsed() >= Duration::from_millis(1200));
    assert_eq!(driver.run(1, &stamps(1, 0x1000)).status, dma::STATUS_OK);
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    assert!(begin.elapsed() >= Duration::from_millis(2400));
}

#[test]
fn the_daemon_ends_when_the_front_end_goes() {
    let mut daemon = Daemon::with(|_| {});
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x1000)]);
    driver.start(1, &endless(1, 0x1000));
    drop(driver);
    daemon.join().unwrap();
    assert!(!daemon.dir.path().join("vhost").exists(), "its socket is removed");
    let ledger = read_ledger(&daemon.ledger_path());
    assert_eq!(ledger.iter().filter(|e| e.kind == ledger::KIND_RESET).count(), 1);
}

#[test]
fn one_guest_follows_another_with_persist() {
    let daemon = Daemon::start();
    for generation in 1..=5 {
        let mut driver = daemon.connect();
        assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
        let end = driver.run(1, &DmaRequest { generation, ..stamps(1, 0x1000) });
        assert_eq!(end.last_generation, generation);
    }
    daemon.stop().unwrap();
}
