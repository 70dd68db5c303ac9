// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Speed of one stamping program, against `memcpy` of the same pages in one thread, in one run: ratios, so that the
//! machine matters little. Rounds alternate; the best of each counts.
//!
//! `copy` reads a source as large as the target (what a program that moves data would do), `hot` reads one page
//! again and again (the least that any write to memory costs).

use longpin_device::counters::Counters;
use longpin_device::engine::Engine;
use longpin_device::ledger::Ledger;
use longpin_device::mem::{AtomicMap, Gpa, GuestRam, Map};
use longpin_device::program::{Op, Payload, Program};
use longpin_device::region::{Label, MapPart};
use longpin_wire::dma::STATUS_OK;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;
use vm_memory::GuestAddress;

const BYTES: u64 = 256 << 20;
const PASSES: u64 = 4;
const ROUNDS: usize = 7;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = vec![0x5au8; BYTES as usize];
    let ledger = Arc::new(Ledger::create(&dir.path().join("ledger")).expect("a ledger"));
    let (counting, recording) = (engine(Arc::new(Ledger::counting())), engine(ledger.clone()));
    let mut best = [0f64; 6];
    for round in 0..ROUNDS as u64 {
        let ram = counting.ram();
        let rates = [
            rate(|| copy_pages(ram, |at| &source[at..at + 4096])),
            rate(|| copy_pages(ram, |_| &source[..4096])),
            rate(|| run(&counting, program(round, 512, None))),
            rate(|| run(&counting, program(round, 4096, None))),
            rate(|| run(&recording, program(round, 512, None))),
            rate(|| run(&counting, program(round, 4096, Some(7)))),
        ];
        best.iter_mut().zip(rates).for_each(|(best, rate)| *best = best.max(rate));
    }
    let names = [
        "memcpy, copy",
        "memcpy, hot",
        "stamps of 512 bytes",
        "stamps of 4096 bytes",
        "stamps of 512 bytes, ledger in a file",
        "stamps of 4096 bytes, random order",
    ];
    println!("{:<40} {:>8} {:>8} {:>8}", "", "GB/s", "of copy", "of hot");
    for (name, rate) in names.iter().zip(best) {
        println!("{name:<40} {:>8.2} {:>8.2} {:>8.2}", rate / 1e9, rate / best[0], rate / best[1]);
    }
    let writes = ROUNDS as u64 * PASSES * BYTES / 4096;
    println!("ledger: {writes} writes, {} entries in the file", ledger.sync().expect("a whole ledger"));
}

fn engine(ledger: Arc<Ledger>) -> Arc<Engine> {
    let map = Map::from_ranges(&[(GuestAddress(0), BYTES as usize)]).expect("memory");
    let ram = Arc::new(GuestRam::new(AtomicMap::new(map)));
    let engine = Engine::new(ram, ledger, Arc::<Counters>::default());
    let label = Label { region: 1, total_bytes: BYTES, file_offset: 0, run: 1, pin_mode: 1 };
    // Base pages, as a file's page cache would be.
    let segments = (0..BYTES).step_by(4096).map(|at| (Gpa(at), 4096)).collect();
    engine.map(&MapPart { label, first: true, last: true, segments }).expect("a region");
    engine
}

fn program(round: u64, cell_bytes: u32, seed: Option<u64>) -> Program {
    Program {
        tag: 1,
        region: 1,
        op: Op::WriteToMemory(Payload::Stamp),
        seed,
        offset: 0,
        length: BYTES,
        cell_bytes,
        generation: round * PASSES,
        run: 1,
        rate_cells_per_s: 0,
        passes: PASSES,
        duration_us: 0,
        start_delay_us: 0,
    }
}

/// One run of a program, passes and all.
fn run(engine: &Arc<Engine>, program: Program) {
    let (done, end) = mpsc::channel();
    engine.start(program, Box::new(move |outcome| done.send(outcome).expect("the caller waits")));
    let end = end.recv().expect("a completion").expect("a program");
    assert_eq!(end.status, STATUS_OK);
}

/// `PASSES` passes of plain copies, page by page.
fn copy_pages<'a>(ram: &GuestRam, source: impl Fn(usize) -> &'a [u8]) {
    let view = ram.view();
    for at in (0..PASSES).flat_map(|_| (0..BYTES).step_by(4096)) {
        view.write(Gpa(at), source(at as usize)).expect("in memory");
    }
}

/// Bytes a second of `PASSES` passes.
fn rate(work: impl Fn()) -> f64 {
    let begin = Instant::now();
    work();
    (BYTES * PASSES) as f64 / begin.elapsed().as_secs_f64()
}
