// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that means harm to its disk: whatever it puts into rings and requests, the daemon answers or refuses, and
//! goes on.

mod driver;

use driver::{
    Blk, DATA, Daemon, Done, EVENT_IDX, INDIRECT, RAM_BYTES, Random, VERSION_1, raw_descriptor, wait_for,
};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

const MIB: u64 = 1 << 20;
const IOERR: Done = Done { status: 1, written: 1 };
const UNSUPP: Done = Done { status: 2, written: 1 };

fn start() -> (Daemon, Blk) {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let blk = daemon.connect_disk("disk", VERSION_1, 2);
    (daemon, blk)
}

/// The driver starts over and the disk serves it as if nothing had been.
fn assert_serves(blk: &mut Blk) {
    blk.restart();
    assert_eq!(blk.write_disk(3, &[0x77; 1024]), 0);
    assert_eq!(blk.read_disk(3, 1024), [0x77; 1024]);
    assert_eq!(blk.flush(), 0);
}

/// Publish a chain that is already in the table; what comes back for it.
fn publish(blk: &mut Blk, head: u16) -> (u16, u32) {
    blk.publish(0, head);
    let mut used = None;
    wait_for("the chain to come back", || {
        used = blk.next_used(0);
        used.is_some()
    });
    used.unwrap()
}

fn header(blk: &Blk, gpa: u64, op: u32, sector: u64) {
    let mut bytes = op.to_le_bytes().to_vec();
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(sector.to_le_bytes());
    blk.write(gpa, &bytes);
}

#[test]
fn random_rings_are_survived() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    let mut random = Random(20_181_204);
    for round in 0..150 {
        for _ in 0..40 {
            let queue = random.below(2) as usize;
            let ring = blk.ring_base(queue);
            // A descriptor that is likely to be half right, so that the parser gets somewhere.
            let gpa = match random.below(4) {
                0 => random.next(),
                1 => RAM_BYTES - random.below(1024),
                _ => DATA + random.below(1 << 20),
            };
            let len = match random.below(4) {
                0 => random.next(),
                1 => 512 * random.below(300),
                _ => random.below(40),
            } as u32;
            let (flags, next) = (random.below(8) as u32, random.below(300) as u16);
            blk.descriptor(queue, random.below(256) as u16, gpa, len, flags, next);
            match random.below(6) {
                // Tables and data of noise, with a known type and a sector now and then.
                0 => {
                    let noise: Vec<u8> = (0..256).map(|_| random.next() as u8).collect();
                    blk.write(DATA + random.below(1 << 20), &noise);
                }
                1 => header(&blk, gpa.min(RAM_BYTES - 16), random.below(16) as u32, random.below(2100)),
                // The available index jumps.
                2 => blk.write(ring + 0x1002, &(random.next() as u16).to_le_bytes()),
                _ => blk.publish(queue, random.below(260) as u16),
            }
        }
        if round % 10 == 9 {
            assert_serves(&mut blk);
        }
    }
    assert_serves(&mut blk);
    assert_eq!(daemon.control().disk().in_flight, 0);
    daemon.stop().unwrap();
}

#[test]
fn requests_that_are_random_in_every_field_do_not_leave_the_disk() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    let mut random = Random(3);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let op = [0, 1, 4, 8, 11, 13, 2, 99][random.below(8) as usize];
        let sector = if random.below(4) == 0 { random.next() } else { random.below(2100) };
        let len = if random.below(4) == 0 { random.below(5000) } else { 512 * random.below(9) } as u32;
        match blk.odd(op, sector, len, random.below(2) == 0).status {
            0 => good += 1,
            1 | 2 => bad += 1,
            other => panic!("status {other:#x}"),
        }
    }
    assert!(good > 100 && bad > 100, "{good} good, {bad} bad");
    assert_eq!(daemon.image("disk").len() as u64, MIB);
    assert_eq!(daemon.control().disk().errors, bad);
}

#[test]
fn each_wrong_field_has_its_status() {
    let (_daemon, mut blk) = start();
    let end = MIB / 512;
    let (read, write, flush, id, discard, zeroes) = (0, 1, 4, 8, 11, 13);
    // Past the end, and so far past it that byte offsets overflow.
    for sector in [end, end - 1, u64::MAX, u64::MAX / 512 + 1, 1 << 55] {
        assert_eq!(blk.odd(read, sector, 1024, true), IOERR, "{sector:#x}");
        assert_eq!(blk.odd(write, sector, 1024, false), IOERR, "{sector:#x}");
    }
    // Not whole sectors; data of the wrong direction; data where there is none.
    assert_eq!(blk.odd(read, 0, 513, true), IOERR);
    assert_eq!(blk.odd(read, 0, 512, false), IOERR);
    assert_eq!(blk.odd(write, 0, 512, true), IOERR);
    assert_eq!(blk.odd(flush, 0, 512, false), IOERR);
    assert_eq!(blk.odd(id, 0, 0, true), IOERR);
    assert_eq!(blk.odd(discard, 0, 512, false), IOERR);
    assert_eq!(blk.odd(zeroes, 0, 16, true), IOERR);
    for op in [2, 3, 10, 14, 15, 26, u32::MAX] {
        assert_eq!(blk.odd(op, 0, 0, false), UNSUPP, "{op}");
    }
    // Nothing to do is done.
    assert_eq!(blk.odd(read, end, 0, true), Done { status: 0, written: 1 });
    assert_eq!(blk.odd(write, 0, 0, false), Done { status: 0, written: 1 });
    // A long id buffer gets the id and no more.
    assert_eq!(blk.odd(id, 0, 512, true), Done { status: 0, written: 21 });
    assert_serves(&mut blk);
}

#[test]
fn ranges_that_wrap_or_leave_the_disk_are_refused() {
    let (daemon, mut blk) = start();
    for (sector, sectors) in
        [(2048, 1), (2047, 2), (u64::MAX, 1), (u64::MAX - 7, 16), (0, u32::MAX), (1 << 55, 8)]
    {
        let slot = blk.start_write_zeroes(0, sector, sectors, false);
        assert_eq!(blk.wait(0, slot), IOERR, "{sector:#x}+{sectors:#x}");
        let slot = blk.start_discard(0, sector, sectors);
        assert_eq!(blk.wait(0, slot), IOERR, "{sector:#x}+{sectors:#x}");
    }
    let slot = blk.start_discard(0, 0, 0);
    assert_eq!(blk.wait(0, slot).status, 0, "nothing is discarded");
    assert_eq!(daemon.image("disk").len() as u64, MIB);
    assert_serves(&mut blk);
}

#[test]
fn chains_without_a_place_for_the_status_are_returned_empty() {
    let (daemon, mut blk) = start();
    header(&blk, DATA, 0, 0);
    let (next, write) = (VRING_DESC_F_NEXT, VRING_DESC_F_WRITE);
    // No writable byte; a readable one after it; the status outside memory, and past the end of the address space.
    let chains: [&[(u64, u32, u32)]; 4] = [
        &[(DATA, 16, next), (DATA + 512, 512, 0)],
        &[(DATA, 16, next), (DATA + 512, 1, write | next), (DATA + 512, 512, 0)],
        &[(DATA, 16, next), (RAM_BYTES, 1, write)],
        &[(DATA, 16, next), (u64::MAX, 2, write)],
    ];
    for chain in chains {
        for (index, (gpa, len, flags)) in chain.iter().enumerate() {
            blk.descriptor(0, index as u16, *gpa, *len, *flags, index as u16 + 1);
        }
        assert_eq!(publish(&mut blk, 0), (0, 0), "{chain:x?}");
    }
    assert_eq!(daemon.control().disk().errors, 4);
    assert_serves(&mut blk);
}

#[test]
fn loops_end() {
    let (_daemon, mut blk) = start();
    let next = VRING_DESC_F_NEXT;
    blk.descriptor(0, 0, DATA, 16, next, 1);
    blk.descriptor(0, 1, DATA, 16, next, 0);
    assert_eq!(publish(&mut blk, 0), (0, 0));
    blk.descriptor(0, 2, DATA, 1, next | VRING_DESC_F_WRITE, 2);
    assert_eq!(publish(&mut blk, 2), (2, 0));
    // A table that points at itself, and one of 65535 descriptors in a ring.
    blk.descriptor(0, 3, DATA, 16, VRING_DESC_F_INDIRECT, 0);
    blk.write(DATA, &raw_descriptor(DATA, 16, VRING_DESC_F_INDIRECT, 0));
    assert_eq!(publish(&mut blk, 3), (3, 0));
    let table: Vec<u8> =
        (0..65535u32).flat_map(|i| raw_descriptor(DATA, 1, next, ((i + 1) % 65535) as u16)).collect();
    blk.write(DATA, &table);
    blk.descriptor(0, 4, DATA, 65535 * 16, VRING_DESC_F_INDIRECT, 0);
    assert_eq!(publish(&mut blk, 4), (4, 0));
    assert_serves(&mut blk);
}

#[test]
fn data_outside_the_guests_memory_is_an_error_and_stays_untouched() {
    let (daemon, mut blk) = start();
    assert_eq!(blk.write_disk(0, &[0x42; 4096]), 0);
    let (next, write) = (VRING_DESC_F_NEXT, VRING_DESC_F_WRITE);
    for (op, direction) in [(0, write), (1, 0)] {
        header(&blk, DATA, op, 0);
        for gpa in [RAM_BYTES - 2048, RAM_BYTES, u64::MAX - 4095, u64::MAX - 100] {
            blk.write(DATA + 64, &[0xee]);
            blk.descriptor(0, 0, DATA, 16, next, 1);
            blk.descriptor(0, 1, gpa, 4096, direction | next, 2);
            blk.descriptor(0, 2, DATA + 64, 1, write, 0);
            assert_eq!(publish(&mut blk, 0), (0, 1));
            assert_eq!(blk.read(DATA + 64, 1), [1], "{gpa:#x}");
        }
    }
    assert_eq!(blk.read(RAM_BYTES - 2048, 2048), [0; 2048]);
    assert_eq!(daemon.image("disk")[..4096], [0x42; 4096]);
    assert_serves(&mut blk);
}

#[test]
fn buffers_that_overlap_and_claim_gigabytes_are_refused() {
    let (_daemon, mut blk) = start();
    header(&blk, DATA, 1, 0);
    // 200 times the same 16 MiB.
    let mut table = raw_descriptor(DATA, 16, VRING_DESC_F_NEXT, 1).to_vec();
    for i in 0..200u16 {
        table.extend(raw_descriptor(0, 16 << 20, VRING_DESC_F_NEXT, i + 2));
    }
    table.extend(raw_descriptor(DATA + 64, 1, VRING_DESC_F_WRITE, 0));
    blk.write(DATA + 4096, &table);
    blk.descriptor(0, 0, DATA + 4096, table.len() as u32, VRING_DESC_F_INDIRECT, 0);
    assert_eq!(publish(&mut blk, 0), (0, 1));
    assert_eq!(blk.read(DATA + 64, 1), [1]);
    assert_serves(&mut blk);
}

#[test]
fn a_buffer_may_be_ring_data_and_status_at_once() {
    let (_daemon, mut blk) = start();
    // The device writes sector 0 over its own descriptor table, and the status after it.
    header(&blk, DATA, 0, 0);
    blk.descriptor(0, 0, DATA, 16, VRING_DESC_F_NEXT, 1);
    let ring = blk.ring_base(0);
    blk.descriptor(0, 1, ring, 4097, VRING_DESC_F_WRITE, 0);
    let (head, written) = publish(&mut blk, 0);
    assert_eq!((head, written), (0, 4097));
    assert_eq!(blk.read(ring, 4096), [0; 4096]);
    assert_serves(&mut blk);
}

#[test]
fn heads_out_of_range_or_with_the_device_already_are_dropped() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1, 2);
    for head in [256, 257, u16::MAX] {
        blk.publish(0, head);
    }
    // They are taken before it.
    assert_eq!(blk.write_disk(0, &[1; 512]), 0);
    assert_eq!(blk.next_used(0), None);
    assert_eq!(daemon.control().disk().in_flight, 0);
    assert_serves(&mut blk);
}

#[test]
fn an_available_index_out_of_range_stops_only_its_queue() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    blk.write(blk.ring_base(0) + 0x1002, &40_000u16.to_le_bytes());
    blk.publish(0, 0);
    for sector in 0..20 {
        let slot = blk.start_write(1, sector, &[1; 512]);
        assert_eq!(blk.wait(1, slot).status, 0, "request {sector}");
    }
    assert_serves(&mut blk);
}

#[test]
fn rings_that_leave_memory_are_survived() {
    let (_daemon, mut blk) = start();
    let slot = blk.start_write(1, 0, &[1; 512]);
    assert_eq!(blk.wait(1, slot).status, 0);
    // Both rings lie below.
    blk.set_memory_from(DATA);
    blk.publish(0, 0);
    blk.publish(1, 0);
    blk.set_memory(RAM_BYTES);
    assert_serves(&mut blk);
}
