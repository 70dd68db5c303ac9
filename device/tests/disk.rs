// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A disk as its driver sees it: requests through real virtqueues, over a real vhost-user socket, against a model.

mod driver;

use driver::{
    Blk, DATA, Daemon, Done, EVENT_IDX, INDIRECT, RAM_BYTES, Random, VERSION_1, disk_config, wait_for,
};
use longpin_proto::control::Request;
use longpin_proto::disk::InFlight;
use std::time::{Duration, Instant};
use vhost::VhostBackend as _;
use vhost::vhost_user::VhostUserFrontend as _;
use vhost::vhost_user::message::VhostUserConfigFlags;

const OK: Done = Done { status: 0, written: 1 };
const MIB: u64 = 1 << 20;

fn config_bytes(blk: &mut Blk, offset: u32, len: u32) -> Vec<u8> {
    let flags = VhostUserConfigFlags::WRITABLE;
    blk.frontend.get_config(offset, len, flags, &vec![0; len as usize]).unwrap().1
}

#[test]
fn what_is_written_is_read_and_is_in_the_image() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    for features in [VERSION_1, VERSION_1 | EVENT_IDX | INDIRECT] {
        let mut blk = daemon.connect_disk("disk", features, 2);
        let bytes: Vec<u8> = (0..20_480u32).map(|i| (i ^ i >> 8) as u8).collect();
        assert_eq!(blk.write_disk(9, &bytes), 0);
        assert!(blk.read_disk(9, bytes.len()) == bytes);
        assert_eq!(blk.flush(), 0);
        assert!(daemon.image("disk")[9 * 512..][..bytes.len()] == bytes);
        let slot = blk.start_write_zeroes(1, 10, 2, features != VERSION_1);
        assert_eq!(blk.wait(1, slot), OK);
        assert_eq!(blk.read_disk(10, 1024), [0; 1024]);
        assert!(blk.read_disk(12, 512) == bytes[3 * 512..4 * 512]);
        let slot = blk.start_discard(1, 0, 8);
        assert_eq!(blk.wait(1, slot), OK);
    }
    let status = daemon.control().disk();
    assert_eq!((status.writes, status.reads, status.flushes, status.discards), (2, 6, 2, 4));
    assert_eq!((status.errors, status.in_flight, status.bytes), (0, 0, MIB));
    assert_eq!((status.pages_audited, status.hits_by_dma, status.hits_by_others), (10, 0, 0));
}

#[test]
fn a_driver_learns_what_the_disk_is() {
    let daemon = Daemon::with(|config| {
        config.persist = true;
        let first = disk_config(config, "first", MIB);
        let mut second = disk_config(config, "second", 2 * MIB);
        second.serial = Some("a-serial-of-20-chars".into());
        second.queues = 3;
        config.disks = vec![first, second];
    });
    let mut first = daemon.connect_disk("first", VERSION_1, 2);
    let mut second = daemon.connect_disk("second", VERSION_1, 3);
    assert_eq!(first.serial(), *b"longpin-0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(second.serial(), *b"a-serial-of-20-chars");
    assert_eq!(config_bytes(&mut first, 0, 8), 2048u64.to_le_bytes());
    assert_eq!(config_bytes(&mut second, 0, 8), 4096u64.to_le_bytes());
    assert_eq!(config_bytes(&mut second, 34, 2), [3, 0]);
    let (flush, wce, discard, zeroes) = (1 << 9, 1 << 11, 1 << 13, 1 << 14);
    let features = first.frontend.get_features().unwrap();
    assert_eq!(features & (flush | wce | discard | zeroes), flush | wce | discard | zeroes);
    assert_eq!(features & 1 << 5, 0, "not read-only");
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    let daemon = Daemon::with_disk(MIB, |disk| {
        std::os::unix::fs::FileExt::write_all_at(&disk.image.file, &[7; 512], 512).unwrap();
        let path = disk.image.path.clone();
        disk.image = longpin_device::disk::Image::open(&path, 4096, true)
            .or_else(|_| {
                // The first one is still open and has its lock.
                let copy = path.with_extension("copy");
                std::fs::copy(&path, &copy).unwrap();
                longpin_device::disk::Image::open(&copy, 4096, true)
            })
            .unwrap();
    });
    let mut blk = daemon.connect_disk("disk", VERSION_1 | 1 << 5, 2);
    assert_eq!(blk.read_disk(0, 4096)[512..1024], [7; 512]);
    assert_eq!(blk.write_disk(0, &[1; 4096]), 1);
    assert_eq!(blk.flush(), 0);
    let slot = blk.start_discard(0, 0, 8);
    assert_eq!(blk.wait(0, slot).status, 1);
    assert_eq!(blk.frontend.get_features().unwrap() & 1 << 9, 0, "no cache to flush");
    assert_eq!(blk.odd(0, 1, 4096, true).status, 1, "not whole blocks");
}

#[test]
fn a_driver_that_turns_the_cache_off_is_served() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    // Without FLUSH and CONFIG_WCE the disk writes through by itself.
    let mut blk = daemon.connect_disk("disk", VERSION_1, 2);
    assert_eq!(blk.write_disk(0, &[1; 4096]), 0);
    drop(blk);
    let mut blk = daemon.connect_disk("disk", VERSION_1 | 1 << 9 | 1 << 11, 2);
    assert_eq!(config_bytes(&mut blk, 32, 1), [1]);
    blk.frontend.set_config(32, VhostUserConfigFlags::WRITABLE, &[0]).unwrap();
    assert_eq!(config_bytes(&mut blk, 32, 1), [0]);
    assert_eq!(blk.write_disk(8, &[2; 4096]), 0);
    let slot = blk.start_write_zeroes(0, 8, 8, true);
    assert_eq!(blk.wait(0, slot), OK);
    assert_eq!(blk.read_disk(0, 8192), [[1; 4096], [0; 4096]].concat());
}

/// What a block must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Byte(u8),
    /// Discarded: anything.
    Any,
}

/// A request under way.
struct Pending {
    queue: usize,
    slot: u16,
    first: usize,
    blocks: usize,
    /// What a read must find; `None`: it changes the disk.
    expected: Option<Vec<Content>>,
}

fn overlaps(pending: &[Pending], first: usize, blocks: usize, changes: bool) -> bool {
    pending.iter().any(|other| {
        let apart = first + blocks <= other.first || other.first + other.blocks <= first;
        !apart && (changes || other.expected.is_none())
    })
}

fn check(blk: &mut Blk, request: Pending) {
    let done = blk.wait(request.queue, request.slot);
    assert_eq!(done.status, 0);
    let Some(expected) = request.expected else { return };
    assert_eq!(done.written as usize, request.blocks * 512 + 1);
    let bytes = blk.read(blk.data_at(request.queue, request.slot), request.blocks * 512);
    for (index, (block, expected)) in bytes.chunks(512).zip(expected).enumerate() {
        if let Content::Byte(byte) = expected {
            assert!(block.iter().all(|b| *b == byte), "block {} is not all {byte:#x}", request.first + index);
        }
    }
}

#[test]
fn random_requests_on_four_queues_do_what_a_model_does() {
    const BLOCKS: usize = 4096;
    for (seed, audited) in [(1, true), (2, false), (3, true)] {
        let daemon = Daemon::with_disk(BLOCKS as u64 * 512, |disk| {
            disk.queues = 4;
            disk.audited = audited;
        });
        let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT | 1 << 9, 4);
        let mut model = vec![Content::Byte(0); BLOCKS];
        let mut random = Random(seed);
        let mut pending: Vec<Pending> = Vec::new();
        for _ in 0..6000 {
            let queue = random.below(4) as usize;
            let most = if random.below(8) == 0 { 256 } else { 16 };
            let blocks = 1 + random.below(most) as usize;
            let first = random.below((BLOCKS - blocks) as u64 + 1) as usize;
            let kind = random.below(20);
            let changes = kind >= 8;
            if kind < 19 && overlaps(&pending, first, blocks, changes) || !blk.has_free_slot(queue) {
                let index = random.below(pending.len() as u64) as usize;
                check(&mut blk, pending.swap_remove(index));
                continue;
            }
            let (sector, sectors) = (first as u64, blocks as u32);
            let byte = random.next() as u8;
            let (slot, content) = match kind {
                0..8 => (blk.start_read(queue, sector, blocks * 512), None),
                8..16 => {
                    let slot = blk.start_write(queue, sector, &vec![byte; blocks * 512]);
                    (slot, Some(Content::Byte(byte)))
                }
                16 | 17 => {
                    let slot = blk.start_write_zeroes(queue, sector, sectors, kind == 16);
                    (slot, Some(Content::Byte(0)))
                }
                18 => (blk.start_discard(queue, sector, sectors), Some(Content::Any)),
                _ => {
                    let slot = blk.start_flush(queue);
                    pending.push(Pending { queue, slot, first: 0, blocks: 0, expected: None });
                    continue;
                }
            };
            let expected = content.is_none().then(|| model[first..first + blocks].to_vec());
            if let Some(content) = content {
                model[first..first + blocks].fill(content);
            }
            pending.push(Pending { queue, slot, first, blocks, expected });
        }
        pending.into_iter().for_each(|request| check(&mut blk, request));
        let image = daemon.image("disk");
        for (index, (block, content)) in image.chunks(512).zip(&model).enumerate() {
            let right = |byte: u8| block.iter().all(|b| *b == byte);
            assert!(
                matches!(*content, Content::Any) || matches!(*content, Content::Byte(byte) if right(byte)),
                "block {index}, seed {seed}"
            );
        }
        let status = daemon.control().disk();
        assert_eq!((status.errors, status.in_flight, status.hits_by_others), (0, 0, 0), "seed {seed}");
        assert_eq!(blk.calls_missed, 0, "the disk forgot to interrupt");
    }
}

#[test]
fn a_disk_serves_one_connection_after_another() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    for round in 0..5u8 {
        let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX, 2);
        if round > 0 {
            assert_eq!(blk.read_disk(0, 512), [round - 1; 512]);
        }
        assert_eq!(blk.write_disk(0, &[round; 512]), 0);
        // Gone in the middle of things.
        for queue in [0, 1] {
            for _ in 0..32 {
                blk.start_read(queue, 0, 65536);
            }
        }
    }
    wait_for("the last front-end to have gone", || {
        let status = daemon.control().disk();
        status.in_flight == 0 && !status.driver_ready
    });
    daemon.stop().unwrap();
}

#[test]
fn a_queue_that_was_taken_back_has_answered_everything() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    let mut most = 0;
    for round in 1..50u8 {
        let slots: Vec<_> = (0..60u64).map(|i| blk.start_write(0, i * 8, &[round; 4096])).collect();
        let taken = blk.stop_queue(0);
        let answers: Vec<_> = slots.iter().map(|slot| blk.poll(0, *slot)).collect();
        // It took them in order, all that it took is in the ring by now, and on the disk.
        for (index, answer) in answers.iter().enumerate() {
            let expected = ((index as u32) < taken).then_some(OK);
            assert_eq!(*answer, expected, "write {index} of {taken} in round {round}");
        }
        let image = daemon.image("disk");
        assert!(image[..taken as usize * 4096].iter().all(|byte| *byte == round));
        assert!(image[taken as usize * 4096..].iter().all(|byte| *byte < round));
        most = most.max(taken);
        blk.restart();
    }
    assert!(most > 0, "the disk never took a request before the stop");
    assert_eq!(daemon.control().disk().in_flight, 0);
}

#[test]
fn memory_may_change_under_load() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    for round in 0..50u8 {
        let slots: Vec<_> = (0..60u64).map(|i| blk.start_read(usize::from(i % 2 == 1), i, 65536)).collect();
        // The buffers stay, other memory goes and comes.
        blk.set_memory(if round % 2 == 0 { DATA } else { RAM_BYTES });
        for (index, slot) in slots.into_iter().enumerate() {
            assert_eq!(blk.wait(index % 2, slot).status, 0);
        }
    }
}

#[test]
fn a_power_cut_notes_what_was_completed_and_restore_brings_it_back() {
    let daemon = Daemon::with_disk(8 * MIB, |_| {});
    let mut control = daemon.control();
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX, 2);
    assert_eq!(blk.write_disk(0, &[1; 8192]), 0);
    assert_eq!(blk.write_disk(8192, &[2; 8192]), 0);
    control.order(&Request::PowerCut { disk: 0, in_flight: InFlight::Drop });
    assert_eq!(blk.write_disk(8, &[3; 8192]), 0, "the disk goes on");
    let slot = blk.start_write_zeroes(0, 8192, 16, true);
    assert_eq!(blk.wait(0, slot), OK);
    for _ in 0..2 {
        control.order(&Request::Restore { disk: 0 });
        assert_eq!(blk.read_disk(0, 16384), [[1; 8192], [0; 8192]].concat());
        assert_eq!(blk.read_disk(8192, 8192), [2; 8192]);
        assert_eq!(blk.write_disk(0, &[4; 16384]), 0);
    }
}

#[test]
fn a_power_cut_under_load_is_a_moment() {
    // Each write of the driver has a number, and is sent when the one before is answered: at any moment the disk has
    // a beginning of them.
    let daemon = Daemon::with_disk(8 * MIB, |_| {});
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX, 2);
    let mut control = daemon.control();
    let cutter = std::thread::spawn(move || {
        for _ in 0..5 {
            control.order(&Request::PowerCut { disk: 0, in_flight: InFlight::Drop });
        }
        control
    });
    let begin = Instant::now();
    let mut written = 0u64;
    while !cutter.is_finished() || written < 16 {
        assert!(begin.elapsed() < Duration::from_secs(60), "power cuts do not end");
        assert_eq!(blk.write_disk(written % 8192, &[1 + (written / 8192) as u8; 512]), 0);
        written += 1;
    }
    let mut control = cutter.join().unwrap();
    control.order(&Request::Restore { disk: 0 });
    let image = daemon.image("disk");
    let values: Vec<u8> = image.chunks(512).map(|block| block[0]).collect();
    assert!(image.chunks(512).all(|block| block.iter().all(|b| *b == block[0])), "no write is torn");
    let changes = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 1 && values.windows(2).all(|pair| pair[1] <= pair[0]), "{values:?}");
    assert_eq!(blk.write_disk(0, &[9; 512]), 0);
}

#[test]
fn the_control_socket_names_disks_that_are_not_there() {
    let daemon = Daemon::with_disk(MIB, |_| {});
    let mut control = daemon.control();
    let text = |answer| format!("{answer:?}");
    let cut = control.ask(&Request::PowerCut { disk: 1, in_flight: InFlight::Drop });
    assert!(text(cut).contains("there is no disk 1; the daemon has 1"));
    let restore = control.ask(&Request::Restore { disk: 0 });
    assert!(text(restore).contains("no power cut to restore from"));
}
