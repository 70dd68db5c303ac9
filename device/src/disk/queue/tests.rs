// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue that is taken back while something keeps its requests, and one that answers some of them late.

use super::*;
use crate::disk::{DiskConfig, Image};
use crate::ledger::Ledger;
use crate::listener::SocketFile;
use crate::{audit::Watch, counters::Counters, engine::Engine, mem::GuestRam};
use std::sync::mpsc;
use std::thread;
use vm_memory::GuestAddress;

const LONG: Duration = Duration::from_secs(60);

fn lane() -> (tempfile::TempDir, Lane) {
    let (dir, lane, _) = lane_and_engine();
    (dir, lane)
}

fn lane_and_engine() -> (tempfile::TempDir, Lane, Arc<Engine>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let ledger = Arc::new(Ledger::counting());
    let engine = Engine::new(Arc::<GuestRam>::default(), ledger.clone(), Arc::<Counters>::default());
    let config = DiskConfig {
        socket: SocketFile::bind(&dir.path().join("socket")).unwrap(),
        image: Image::open(&path, 512, false).unwrap(),
        serial: None,
        queues: 1,
        queue_size: 256,
        audited: true,
    };
    let (disk, _socket) = Disk::new(config, Watch::new(ledger.clone(), &engine).unwrap(), &ledger);
    (dir, Lane::new(0, disk, Arc::default()).unwrap(), engine)
}

/// As if it had been taken from the ring.
fn take(lane: &Lane, kind: Kind) {
    lane.duties.add(1);
    lane.disk.counters.begun(1);
    let request = Request { kind, byte: 0, len: 512, data: Vec::new() };
    let job = Job { head: 0, status_at: Gpa(0), request, ticket: None, pass: None };
    lane.hand_over(&mut lane.state.lock(), job, &lane.disk.ram.view());
}

#[test]
fn a_closed_gate_does_not_keep_a_queue_that_is_taken_back() {
    let (_dir, lane) = lane();
    let vring = Vring::new(lane.disk.ram.atomic_map(), 256).unwrap();
    // A power cut copies the image meanwhile.
    let closed = lane.disk.gate.close(Duration::ZERO).unwrap();
    take(&lane, Kind::WriteZeroes { unmap: false });
    lane.run(&vring);
    assert_eq!((lane.duties.count(), lane.state.lock().ready.len()), (1, 1), "it waits");
    thread::scope(|scope| {
        // The queue's thread: the drain wakes it.
        let drained = scope.spawn(|| lane.drain(LONG));
        while !drained.is_finished() {
            lane.run(&vring);
            thread::yield_now();
        }
        drained.join().unwrap().expect("the requests at the gate are given up");
    });
    assert_eq!(lane.duties.count(), 0);
    drop(closed);
    // The next driver's requests wait as ever.
    take(&lane, Kind::WriteZeroes { unmap: false });
    while lane.duties.count() > 0 {
        lane.run(&vring);
    }
}

#[test]
fn a_write_that_does_not_return_ends_the_drain_at_its_deadline() {
    let (_dir, lane) = lane();
    thread::scope(|scope| {
        let (locked, wait) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let lane = &lane;
        // The queue's thread, in a write to a frozen file system.
        scope.spawn(move || {
            let _state = lane.state.lock();
            locked.send(()).unwrap();
            let _ = ended.recv_timeout(LONG);
        });
        wait.recv().unwrap();
        let error = lane.drain(Duration::from_millis(20)).unwrap_err();
        assert!(error.requests > 0, "{error}");
        end.send(()).unwrap();
    });
    lane.drain(LONG).unwrap();
}

#[test]
fn a_range_that_the_device_refuses_is_zeroed_by_writing() {
    use crate::disk::execute::Conclusion;
    use nix::libc::{EINVAL, FALLOC_FL_ZERO_RANGE};
    let (_dir, lane) = lane();
    let refused = |kind| {
        let request = Request { kind, byte: 512, len: 512, data: Vec::new() };
        let job = Job { head: 0, status_at: Gpa(0), request, ticket: None, pass: None };
        let io = Io::Allocate(FALLOC_FL_ZERO_RANGE);
        let operation = Operation { job, io, offset: 512, len: 512, durable: false };
        lane.disk.conclude(operation, Err(io::Error::from_raw_os_error(EINVAL)))
    };
    // Half a block of a device with blocks of 4 KiB, under a disk with blocks of 512 bytes.
    let zeroes = refused(Kind::WriteZeroes { unmap: false });
    assert!(matches!(zeroes, Conclusion::Continue(Operation { io: Io::WriteZeroes, .. })));
    assert!(matches!(refused(Kind::Discard), Conclusion::Answer(_, OK)));
    assert!(lane.disk.image.abilities.zero(), "whole blocks still can");
    assert_eq!(lane.disk.status().last_error, None);
}

/// Rings of 16 descriptors in the disk's memory of 1 MiB, and where the used ring is.
fn rings(lane: &Lane) -> (Vring, Gpa) {
    let map = Map::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    lane.disk.ram.atomic_map().lock().unwrap().replace(map);
    let vring = Vring::new(lane.disk.ram.atomic_map(), 256).unwrap();
    vring.set_queue_size(16);
    vring.set_queue_info(0x1000, 0x2000, 0x3000).unwrap();
    vring.set_queue_ready(true);
    vring.set_enabled(true);
    (vring, Gpa(0x3000))
}

/// A write of 512 bytes that is done, and its answer.
fn written(lane: &Lane, head: u16, gpa: u64) {
    lane.duties.add(1);
    lane.disk.counters.begun(1);
    let state = &mut *lane.state.lock();
    let view = lane.disk.ram.view();
    let request = Request { kind: Kind::Write, byte: 0, len: 512, data: vec![(Gpa(gpa), 512)] };
    let job = Job { head, status_at: Gpa(0x8000), request, ticket: None, pass: None };
    lane.hand_over(state, job, &view);
    lane.collect(state);
    let (mut job, resume) = state.ready.pop().expect("a request that nobody holds");
    assert_eq!(resume, Resume::Go);
    job.ticket.as_mut().unwrap().fetch(&view).unwrap().expect("the bytes of an audited write");
    state.answers.push(Answer::to(job, OK));
}

#[test]
fn an_answer_does_not_wait_for_the_last_look_at_the_next_request() {
    let (_dir, lane, engine) = lane_and_engine();
    let (vring, used_ring) = rings(&lane);
    written(&lane, 3, 0x10000);
    written(&lane, 5, 0x20000);
    lane.disk.ram.view().write(Gpa(0x20000), &[1]).unwrap();
    let used = || {
        let mut ring = [0; 4 + 2 * 8];
        lane.disk.ram.view().read(used_ring, &mut ring).unwrap();
        let count = u16::from_le_bytes([ring[2], ring[3]]);
        let heads: Vec<_> = ring[4..].chunks(8).take(count.into()).map(|used| used[0]).collect();
        heads
    };
    // DMA may be writing: who changed the second page is not known before this view has gone.
    let writing = engine.ram().view();
    thread::scope(|scope| {
        let answering = scope.spawn(|| lane.answer(&mut lane.state.lock(), &vring));
        let until = Instant::now() + LONG;
        while !engine.ram().is_settling() {
            assert!(Instant::now() < until, "the second look waits for nothing");
            thread::yield_now();
        }
        assert_eq!(used(), [3]);
        assert_eq!(vring.queue_used_idx().unwrap(), 1, "the look keeps no lock of the ring");
        assert!(!answering.is_finished());
        drop(writing);
        assert_eq!(answering.join().unwrap(), 2);
    });
    assert_eq!(used(), [3, 5]);
    assert_eq!(lane.duties.count(), 0);
}
