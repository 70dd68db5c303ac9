// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue that is taken back while something keeps its requests.

use super::*;
use crate::disk::{DiskConfig, Image};
use crate::ledger::Ledger;
use crate::listener::SocketFile;
use crate::{audit::Watch, counters::Counters, engine::Engine, mem::GuestRam};
use std::sync::mpsc;
use std::thread;

const LONG: Duration = Duration::from_secs(60);

fn lane() -> (tempfile::TempDir, Lane) {
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
    (dir, Lane::new(0, disk, Arc::default()).unwrap())
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
