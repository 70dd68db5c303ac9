// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queues that a guest sets up as no queue can be, and connections that fail: each costs its owner what it broke,
//! and nobody else anything.

mod driver;

use driver::{Blk, DATA, Daemon, Driver, EVENT_IDX, INDIRECT, VERSION_1, disk_config, stamps};
use longpin_wire::dma;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

const MIB: u64 = 1 << 20;
const FEATURES: u64 = VERSION_1 | EVENT_IDX | INDIRECT;
const PLACES: [u64; 3] = [0, 0x1000, 0x2000];

/// Sizes that a guest may write into its registers, and that no queue of ours can have.
const SIZES: [u16; 5] = [3, 255, 512, 1024, 32768];
/// Descriptors, available and used ring, one of them misaligned.
const MISALIGNED: [[u64; 3]; 3] = [[8, 0x1000, 0x2000], [0, 0x1001, 0x2000], [0, 0x1000, 0x2002]];

/// Two disks, until all front-ends have left.
fn two_disks() -> (Daemon, Blk, Blk) {
    let daemon = Daemon::with(|config| {
        config.accelerator = None;
        for name in ["bad", "good"] {
            let disk = disk_config(config, name, MIB);
            config.disks.push(disk);
        }
    });
    let bad = daemon.connect_disk("bad", FEATURES, 2);
    let good = daemon.connect_disk("good", FEATURES, 2);
    (daemon, bad, good)
}

fn assert_works(blk: &mut Blk) {
    assert_eq!(blk.write_disk(1, &[7; 512]), 0);
    assert_eq!(blk.read_disk(1, 512), [7; 512]);
}

#[test]
fn a_disk_queue_of_an_impossible_size_is_dead_and_alone() {
    let (mut daemon, mut bad, mut good) = two_disks();
    for size in SIZES {
        bad.stop_queue(0);
        bad.start_odd_queue(0, size, PLACES);
        // A request as if nothing were wrong, and one on the other queue after it.
        bad.publish(0, 0);
        let slot = bad.start_write(1, 0, &[1; 512]);
        assert_eq!(bad.wait(1, slot).status, 0, "{size}: the other queue");
        assert_works(&mut good);
        assert_eq!(bad.next_used(0), None, "{size}");
        // The driver may try again, and better.
        bad.restart();
        assert_works(&mut bad);
    }
    drop(bad);
    drop(good);
    daemon.join().unwrap();
}

#[test]
fn an_accelerator_queue_of_an_impossible_size_is_dead_and_alone() {
    let daemon = Daemon::with(|config| {
        config.persist = true;
        let disk = disk_config(config, "disk", MIB);
        config.disks.push(disk);
    });
    let mut disk = daemon.connect_disk("disk", FEATURES, 2);
    let mut driver = Driver::connect(&daemon.dir.path().join("vhost"), FEATURES);
    for size in SIZES {
        driver.stop_queue(1);
        driver.start_odd_queue(1, size, PLACES);
        driver.publish(1, 0);
        // The control queue is served.
        assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK, "{size}");
        assert_eq!(driver.next_used(1), None, "{size}");
        assert_works(&mut disk);
        for queue in [0, 1] {
            driver.stop_queue(queue);
            driver.start_queue(queue);
        }
        assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
        assert_eq!(driver.run(1, &stamps(1, 0x1000)).status, dma::STATUS_OK);
    }
    daemon.stop().unwrap();
}

#[test]
fn a_smaller_ring_takes_heads_of_its_own_size() {
    let (_daemon, mut blk, _other) = two_disks();
    blk.stop_queue(0);
    blk.start_odd_queue(0, 8, PLACES);
    // Within the largest ring, but not within this one.
    blk.publish(0, 9);
    let slot = blk.start_write(1, 0, &[1; 512]);
    assert_eq!(blk.wait(1, slot).status, 0);
    assert_eq!(blk.next_used(0), None);
    blk.restart();
    assert_works(&mut blk);
}

#[test]
fn a_connection_that_fails_leaves_the_others_and_is_reported_at_the_end() {
    let (mut daemon, bad, mut good) = two_disks();
    drop(bad);
    // A header that no front-end would send.
    let mut noise = UnixStream::connect(daemon.dir.path().join("bad")).unwrap();
    noise.write_all(&[0xff; 64]).unwrap();
    drop(noise);
    for _ in 0..20 {
        assert_works(&mut good);
    }
    assert_works(&mut daemon.connect_disk("bad", FEATURES, 2));
    drop(good);
    let error = daemon.join().unwrap_err().to_string();
    assert!(error.starts_with("vhost-user: "), "{error}");
}

#[test]
fn misaligned_rings_cost_their_connection_and_no_other() {
    let daemon = Daemon::with(|config| {
        config.persist = true;
        for name in ["bad", "good"] {
            let disk = disk_config(config, name, MIB);
            config.disks.push(disk);
        }
    });
    let mut good = daemon.connect_disk("good", FEATURES, 2);
    let mut driver = daemon.connect();
    for places in MISALIGNED {
        let mut bad = daemon.connect_disk("bad", FEATURES, 2);
        assert_works(&mut bad);
        bad.stop_queue(0);
        assert!(bad.try_addresses(0, 256, places).is_err(), "{places:x?}: the connection ends");
        drop(bad);
        assert_works(&mut good);
        assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
        assert_eq!(driver.unmap(1).status, dma::STATUS_OK);
    }
    let mut accelerator = driver;
    accelerator.stop_queue(1);
    assert!(accelerator.try_addresses(1, 256, MISALIGNED[0]).is_err());
    drop(accelerator);
    assert_works(&mut good);
    assert_works(&mut daemon.connect_disk("bad", FEATURES, 2));
    assert_eq!(daemon.connect().map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
    daemon.stop().unwrap();
}
