// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the audit of a write costs, and why it compares as it does.
//!
//! First: ways to say whether a page of guest memory has changed, each with the private copy that it needs. Then: a
//! write through the watch, from submission to completion, without a disk behind it. Rounds alternate; the best of
//! each counts.

use longpin_device::audit::{Request, Watch};
use longpin_device::counters::Counters;
use longpin_device::engine::Engine;
use longpin_device::ledger::Ledger;
use longpin_device::mem::{AtomicMap, Gpa, GuestRam, Map, View};
use longpin_proto::disk::Op;
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use vm_memory::GuestAddress;
use xxhash_rust::xxh3::xxh3_128;

/// More than any cache: pages come from memory, as a guest's do.
const RAM_BYTES: u64 = 256 << 20;
const ROUNDS: usize = 7;
/// Bytes for each measurement.
const BYTES: u64 = 512 << 20;

fn main() {
    looks();
    println!();
    writes();
}

fn ram() -> GuestRam {
    let map = Map::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).expect("memory");
    let ram = GuestRam::new(AtomicMap::new(map));
    (0..RAM_BYTES)
        .step_by(4096)
        .for_each(|at| ram.view().write(Gpa(at), &[at as u8; 4096]).expect("in memory"));
    ram
}

/// The optimizer must not leave out what made it.
fn keep<T>(value: T) {
    let _ = black_box(value);
}

/// Seconds of `work` over `count` offsets of `len` bytes.
fn time(len: u64, mut work: impl FnMut(u64)) -> f64 {
    let begin = Instant::now();
    (0..BYTES / len).for_each(|index| work(index * len % RAM_BYTES));
    begin.elapsed().as_secs_f64() / (BYTES / len) as f64
}

fn best(names: &[&str], mut round: impl FnMut() -> Vec<f64>) -> Vec<f64> {
    let mut best = vec![f64::MAX; names.len()];
    for _ in 0..ROUNDS {
        best.iter_mut().zip(round()).for_each(|(best, time)| *best = best.min(time));
    }
    best
}

fn looks() {
    let ram = ram();
    let view = ram.view();
    let names = ["copy alone", "copy, memcmp", "copy, xxh3-128", "copy, crc32c", "copy, blake3"];
    let mut page = [0u8; 4096];
    let kept: Vec<u8> = (0..RAM_BYTES / 4096).flat_map(|page| [(page * 4096) as u8; 4096]).collect();
    let mut look = |with: &dyn Fn(u64, &[u8])| {
        time(4096, |at| {
            view.read(Gpa(at), &mut page).expect("in memory");
            with(at, &page);
        })
    };
    let times = best(&names, || {
        vec![
            look(&|_, page| keep(page[0])),
            look(&|at, page| assert!(black_box(page == &kept[at as usize..at as usize + 4096]))),
            look(&|_, page| keep(xxh3_128(page))),
            look(&|_, page| keep(crc32c::crc32c(page))),
            look(&|_, page| keep(blake3::hash(page))),
        ]
    });
    println!("{:<40} {:>10} {:>10}", "one look at a page", "ns", "above copy");
    for (name, time) in names.iter().zip(&times) {
        println!("{name:<40} {:>10.0} {:>10.0}", time * 1e9, (time - times[0]) * 1e9);
    }
}

fn writes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ram = Arc::new(ram());
    let ledger = |name: &str| Ledger::create(&dir.path().join(name)).expect("a ledger");
    let plain = watch(&ram, Ledger::counting(), 0);
    let case = watch(&ram, ledger("case"), 1);
    let names = ["copy alone", "not audited", "audited", "audited, in a case (ledger in a file)"];
    println!("{:<40} {:>10} {:>10}", "one write, ns", "4 KiB", "128 KiB");
    let times = [4096u64, 128 << 10].map(|len| {
        best(&names, || {
            let mut copy = vec![0; len as usize];
            let view = ram.view();
            let copied = time(len, |at| view.read(Gpa(at), &mut copy).expect("in memory"));
            drop(view);
            vec![
                copied,
                time(len, |at| write(&plain, &ram, at, len, false)),
                time(len, |at| write(&plain, &ram, at, len, true)),
                time(len, |at| write(&case, &ram, at, len, true)),
            ]
        })
    });
    for (index, name) in names.iter().enumerate() {
        println!("{name:<40} {:>10.0} {:>10.0}", times[0][index] * 1e9, times[1][index] * 1e9);
    }
}

fn watch(ram: &Arc<GuestRam>, ledger: Ledger, run: u64) -> Arc<Watch> {
    let ledger = Arc::new(ledger);
    let engine = Engine::new(Arc::default(), ledger.clone(), Arc::<Counters>::default());
    let watch = Watch::new(ledger, &engine).expect("a thread");
    watch.add_disk(ram.clone());
    watch.case(run);
    watch
}

/// From submission to completion, in segments of a page, as a page cache gives them.
fn write(watch: &Arc<Watch>, ram: &Arc<GuestRam>, at: u64, len: u64, audited: bool) {
    watch.make_room(0);
    let view = ram.view();
    let segments = (at..at + len).step_by(4096).map(|gpa| (Gpa(gpa), 4096)).collect();
    let request = Request { disk: 0, op: Op::Write, byte: at, len, segments };
    let slot = Arc::new(Mutex::new(None));
    let resumed = slot.clone();
    watch.submit(request, &view, audited, Box::new(move |ticket, _| *resumed.lock() = Some(ticket)));
    let mut ticket = slot.lock().take().expect("no rule holds it");
    black_box(fetched(&mut ticket, &view));
    ticket.complete(&view, 0);
}

fn fetched(ticket: &mut longpin_device::audit::Ticket, view: &View<'_>) -> usize {
    ticket.fetch(view).expect("in memory").map_or(0, |bytes| bytes.len())
}
