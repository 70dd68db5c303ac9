// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that means harm: whatever it puts into rings and requests, the daemon answers or refuses, and goes on.

mod driver;

use driver::{DATA, Daemon, Driver, RAM_BYTES, Random, endless, map_request, stamps, wait_for};
use longpin_wire::dma;
use std::time::Duration;
use vhost::vhost_user::VhostUserFrontend as _;
use vhost::vhost_user::message::VhostUserConfigFlags;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes as _, GuestAddress};

/// The driver starts over and the device serves it as if nothing had been.
fn assert_serves(driver: &mut Driver) {
    for queue in [0, 1] {
        driver.stop_queue(queue);
    }
    for queue in [0, 1] {
        driver.start_queue(queue);
    }
    assert_eq!(driver.map(1, &[(DATA, 0x4000)]).status, dma::STATUS_OK);
    let end = driver.run(1, &stamps(1, 0x4000));
    assert_eq!((end.status, end.cells_done), (dma::STATUS_OK, 32));
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
}

#[test]
fn random_rings_are_survived() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect_with_event_idx();
    let mut random = Random(20_181_204);
    for round in 0..150 {
        for _ in 0..40 {
            let queue = random.below(2) as usize;
            let ring = driver.ring_base(queue);
            // A descriptor that is likely to be half right, so that the parser gets somewhere.
            let gpa = match random.below(4) {
                0 => random.next(),
                1 => RAM_BYTES - random.below(128),
                _ => DATA + random.below(1 << 20),
            };
            let len = if random.below(4) == 0 { random.next() } else { random.below(200) } as u32;
            let (flags, next) = (random.below(8) as u32, random.below(300) as u16);
            driver.descriptor(queue, random.below(256) as u16, gpa, len, flags, next);
            match random.below(6) {
                // Tables and requests of noise, with a known operation now and then.
                0 => {
                    let noise: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
                    driver.write(DATA + random.below(1 << 20), &noise);
                }
                1 => driver.write(gpa.min(RAM_BYTES - 4), &(random.below(6) as u32).to_le_bytes()),
                // The available index jumps.
                2 => driver.write(ring + 0x1002, &(random.next() as u16).to_le_bytes()),
                _ => driver.publish(queue, random.below(260) as u16),
            }
        }
        if round % 10 == 9 {
            assert_serves(&mut driver);
        }
    }
    // The rings are clobbered by the noise as well (the device wrote where it was told to), so begin anew.
    assert_serves(&mut driver);
    daemon.stop().unwrap();
}

#[test]
fn a_chain_without_room_for_an_answer_is_returned_empty() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let request = map_request(1, 3, &[(DATA, 0x1000)]);
    driver.write(DATA, &request);
    driver.descriptor(0, 0, DATA, request.len() as u32, VRING_DESC_F_NEXT, 1);
    driver.descriptor(0, 1, DATA + 0x1000, 47, VRING_DESC_F_WRITE, 0);
    driver.publish(0, 0);
    let mut used = None;
    wait_for("the chain to come back", || {
        used = driver.next_used(0);
        used.is_some()
    });
    assert_eq!(used, Some((0, 0)));
    assert_eq!(daemon.control().status().regions, 0, "an answerless request is not executed");
    assert_serves(&mut driver);
}

#[test]
fn a_head_that_is_with_the_device_already_is_refused() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    driver.map(1, &[(DATA, 0x1000)]);
    let slot = driver.start(1, &endless(1, 0x1000));
    wait_for("the program", || control.status().programs == 1);
    let before = control.status().refused;
    for _ in 0..1000 {
        driver.publish(1, slot * 2);
        let published = control.status().requests;
        assert!(published >= 2);
    }
    wait_for("1000 refusals", || control.status().refused == before + 1000);
    assert_eq!(control.status().programs, 1);
    assert_eq!(driver.stop_program(1).status, dma::STATUS_OK);
    assert_eq!(driver.wait_dma(slot).status, dma::STATUS_STOPPED);
}

#[test]
fn heads_out_of_range_are_refused() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let mut control = daemon.control();
    for head in [256, 257, u16::MAX] {
        driver.publish(0, head);
    }
    wait_for("three refusals", || control.status().refused == 3);
    assert_eq!(driver.next_used(0), None);
    assert_serves(&mut driver);
}

#[test]
fn an_available_index_out_of_range_stops_only_its_queue() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect_with_event_idx();
    driver.map(1, &[(DATA, 0x1000)]);
    driver.write(driver.ring_base(0) + 0x1002, &40_000u16.to_le_bytes());
    for tag in 1..=20 {
        assert_eq!(driver.run(tag, &stamps(1, 0x1000)).status, dma::STATUS_OK, "request {tag}");
    }
    assert_serves(&mut driver);
}

#[test]
fn an_indirect_table_that_points_at_itself_is_survived() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect_with_event_idx();
    driver.write(DATA, &driver::raw_descriptor(DATA, 16, VRING_DESC_F_INDIRECT, 0));
    driver.descriptor(0, 0, DATA, 16, VRING_DESC_F_INDIRECT, 0);
    driver.publish(0, 0);
    let mut control = daemon.control();
    wait_for("the refusal", || control.status().refused == 1);
    // 4096 descriptors in a circle, each of one byte.
    for index in 0..4096u64 {
        let next = ((index + 1) % 4096) as u16;
        driver.write(DATA + index * 16, &driver::raw_descriptor(DATA, 1, VRING_DESC_F_NEXT, next));
    }
    driver.descriptor(0, 2, DATA, 4096 * 16, VRING_DESC_F_INDIRECT, 0);
    driver.publish(0, 2);
    wait_for("the second refusal", || control.status().refused == 2);
    assert_serves(&mut driver);
}

#[test]
fn a_region_over_the_rings_lets_the_guest_hurt_only_itself() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    // DMA over descriptor table, available and used ring of the control queue, while it is in use.
    let ring = driver.ring_base(0);
    driver.map(1, &[(ring, 0x10000)]);
    driver.run(1, &longpin_wire::dma::DmaRequest { passes: 50, ..stamps(1, 0x10000) });
    for head in 0..50 {
        driver.publish(0, head);
    }
    assert_serves(&mut driver);
}

#[test]
fn rings_in_memory_that_has_left_the_guest_are_survived() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    driver.map(1, &[(DATA, 0x1000)]);
    // No memory where the rings are; the answer to the running program cannot be delivered. It runs long enough to be
    // running still when a busy machine has taken the memory away.
    let slot = driver
        .start(1, &dma::DmaRequest { duration_us: 3_000_000, rate_cells_per_s: 1000, ..endless(1, 0x1000) });
    let mut control = daemon.control();
    wait_for("the program to run", || control.status().programs == 1);
    driver.set_memory_from(DATA);
    driver.publish(0, 0);
    wait_for("the program to end", || control.status().programs == 0);
    driver.set_memory(RAM_BYTES);
    assert!(driver.wait_until(1, slot, std::time::Instant::now() + Duration::from_millis(20)).is_none());
    assert_serves(&mut driver);
}

#[test]
fn a_write_to_the_configuration_space_changes_nothing() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect();
    let before = driver.config();
    driver.frontend.set_config(0, VhostUserConfigFlags::WRITABLE, &[0xff; 8]).unwrap();
    assert_eq!(driver.config(), before);
    assert_serves(&mut driver);
}

#[test]
fn a_flood_of_requests_is_answered_each() {
    let daemon = Daemon::start();
    let mut driver = daemon.connect_with_event_idx();
    driver.map(1, &[(DATA, 0x1000)]);
    let mut answered = 0;
    for round in 0..40u64 {
        let slots: Vec<_> = (0..100).map(|n| driver.start(round * 100 + n, &stamps(1, 512))).collect();
        for slot in slots {
            answered += u64::from(driver.wait_dma(slot).status == dma::STATUS_OK);
        }
    }
    assert_eq!(answered, 4000);
    let end = driver.mem.read_obj::<u16>(GuestAddress(driver.ring_base(1) + 0x2002)).unwrap();
    assert_eq!(end, 4000);
    assert_eq!(driver.calls_missed, 0);
}
