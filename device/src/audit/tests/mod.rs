// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch without a disk: requests in plain memory, resumed into channels.

mod faults;
mod guests;
mod holds;
mod looks;
mod memory;
mod reads;
mod record;
mod soak;

use super::*;
use crate::counters::Counters;
use crate::engine::Engine;
use crate::ledger::Ledger;
use crate::mem::{AtomicMap, Gpa, GuestRam, Map};
use crate::program::{Op as DmaOp, Payload, Program};
use crate::region::{Label, MapPart};
use longpin_proto::disk::{Action, AuditReport, Fetch, Hit, MAX_HOLD_MS, Match, Op, Rule};
use longpin_wire::stamp::{self, SOURCE_CPU, SOURCE_DMA, Stamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use vm_memory::GuestAddress;

const RAM_BYTES: usize = 32 << 20;
const DEADLINE: Duration = Duration::from_secs(60);
/// Label of the case in all tests.
const RUN: u64 = 7;

struct Fixture {
    watch: Arc<Watch>,
    engine: Arc<Engine>,
    /// The disks' memory, which is the engine's by another connection.
    ram: Arc<GuestRam>,
    sender: Sender<(Ticket, Resume)>,
    resumed: Mutex<Receiver<(Ticket, Resume)>>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Ledger::counting())
    }

    fn with(ledger: Ledger) -> Self {
        let map = Map::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).unwrap();
        Self::of(ledger, map.clone(), map)
    }

    /// Two disks, in a case.
    fn of(ledger: Ledger, of_engine: Map, of_disk: Map) -> Self {
        let ram = |map, name: &str| Arc::new(GuestRam::new(AtomicMap::new(map)).named(name));
        let (of_engine, of_disk) = (ram(of_engine, "the accelerator's"), ram(of_disk, "the disk's"));
        let ledger = Arc::new(ledger);
        let engine = Engine::new(of_engine, ledger.clone(), Arc::<Counters>::default());
        let watch = Watch::new(ledger, &engine).unwrap();
        assert_eq!([watch.add_disk(of_disk.clone()), watch.add_disk(of_disk.clone())], [0, 1]);
        watch.case(RUN);
        let (sender, resumed) = mpsc::channel();
        Self { watch, engine, ram: of_disk, sender, resumed: Mutex::new(resumed) }
    }

    fn submit(&self, request: Request) {
        let sender = self.sender.clone();
        let resumed = move |ticket, resume| sender.send((ticket, resume)).unwrap();
        self.watch.submit(request, &self.ram.view(), true, Box::new(resumed));
    }

    /// Submit what no rule keeps.
    fn pass(&self, request: Request) -> Ticket {
        self.submit(request);
        match self.try_next() {
            Some((ticket, Resume::Go)) => ticket,
            Some((_, resume)) => panic!("{resume:?}"),
            None => panic!("held"),
        }
    }

    /// What has been resumed already.
    fn try_next(&self) -> Option<(Ticket, Resume)> {
        self.resumed.lock().try_recv().ok()
    }

    /// The next request that is resumed.
    fn next(&self) -> (Ticket, Resume) {
        self.resumed.lock().recv_timeout(DEADLINE).expect("a resumed request before the deadline")
    }

    fn fetch(&self, ticket: &mut Ticket) -> Vec<u8> {
        ticket.fetch(&self.ram.view()).unwrap().expect("bytes of an audited write").to_vec()
    }

    fn complete(&self, ticket: Ticket) {
        ticket.complete(&self.ram.view(), 0);
    }

    /// Fetch and complete; what went to the image.
    fn finish(&self, mut ticket: Ticket) -> Vec<u8> {
        let bytes = self.fetch(&mut ticket);
        self.complete(ticket);
        bytes
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.view().write(Gpa(gpa), bytes).unwrap();
    }

    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.view().read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    fn rule(&self, name: &str, matching: Match, action: Action) {
        self.watch.add_rule(Rule { name: name.into(), disk: 0, matching, action, limit: 0 }).unwrap();
    }

    fn hold(&self, name: &str, matching: Match, fetch: Fetch) {
        self.rule(name, matching, Action::Hold { fetch, cap_ms: MAX_HOLD_MS });
    }

    /// Announce whole pages as pinned.
    fn pin(&self, region: u32, run: u64, file_offset: u64, gpas: &[u64]) {
        let label = Label { region, total_bytes: gpas.len() as u64 * 4096, file_offset, run, pin_mode: 1 };
        let segments = gpas.iter().map(|gpa| (Gpa(*gpa), 4096)).collect();
        self.engine.map(&MapPart { label, first: true, last: true, segments }).unwrap();
    }

    fn unpin(&self, region: u32) {
        let (done, end) = mpsc::channel();
        self.engine.unmap(region, 0, Box::new(move |outcome| done.send(outcome).unwrap()));
        end.recv_timeout(DEADLINE).expect("quiet before the deadline").unwrap();
    }

    /// One pass of DMA over a range of a region.
    fn dma(&self, region: u32, offset: u64, length: u64, op: Payload, generation: u64) {
        let (done, end) = mpsc::channel();
        let program = dma_program(region, offset, length, op, generation);
        self.engine.start(program, Box::new(move |outcome| done.send(outcome).unwrap()));
        let end = end.recv_timeout(DEADLINE).expect("an end before the deadline").unwrap();
        assert_eq!(end.status, longpin_wire::dma::STATUS_OK);
    }

    fn hits(&self) -> Vec<Hit> {
        self.watch.audit().hits
    }

    fn one_hit(&self) -> Hit {
        let mut hits = self.hits();
        assert_eq!(hits.len(), 1, "{hits:?}");
        hits.remove(0)
    }
}

fn dma_program(region: u32, offset: u64, length: u64, payload: Payload, generation: u64) -> Program {
    Program {
        tag: u64::from(region) << 32 | generation,
        region,
        op: DmaOp::WriteToMemory(payload),
        seed: None,
        offset,
        length,
        cell_bytes: 512,
        generation,
        run: RUN,
        rate_cells_per_s: 0,
        passes: 1,
        duration_us: 0,
        start_delay_us: 0,
    }
}

fn request(op: Op, byte: u64, segments: &[(u64, u32)]) -> Request {
    let segments: Vec<_> = segments.iter().map(|(gpa, len)| (Gpa(*gpa), *len)).collect();
    let len = segments.iter().map(|(_, len)| u64::from(*len)).sum();
    Request { disk: 0, op, byte, len, segments }
}

fn write(byte: u64, segments: &[(u64, u32)]) -> Request {
    request(Op::Write, byte, segments)
}

/// A page of cells of 512 bytes.
fn page(run: u64, file_offset: u64, generation: u64, source: u32) -> Vec<u8> {
    let mut page = vec![0; 4096];
    for (cell, at) in page.chunks_mut(512).zip((0..).step_by(512)) {
        let region = if source == SOURCE_DMA { 1 } else { 0 };
        stamp::encode(cell, &Stamp { run, file_offset: file_offset + at, generation, region, source });
    }
    page
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not before the deadline");
        std::thread::yield_now();
    }
}
