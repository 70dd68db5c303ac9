// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the ledger as a whole: what producers record is what the file holds.

use super::*;
use longpin_wire::ledger::{Header, KIND_DMA_WRITE, MAGIC};
use std::collections::HashMap;
use zerocopy::FromBytes as _;

fn read(path: &Path) -> (Header, Vec<Entry>) {
    let bytes = std::fs::read(path).unwrap();
    let (header, rest) = Header::read_from_prefix(&bytes).unwrap();
    assert_eq!(rest.len() % size_of::<Entry>(), 0, "a cut entry");
    let entries = rest.chunks(size_of::<Entry>()).map(|e| Entry::read_from_bytes(e).unwrap()).collect();
    (header, entries)
}

fn write_entry(program: u32, generation: u64) -> Entry {
    Entry { program, generation, ..entry(KIND_DMA_WRITE, generation) }
}

#[test]
fn every_entry_of_every_producer_is_in_the_file_in_its_order() {
    const PRODUCERS: u32 = 4;
    const EACH: u64 = 50_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::create(&path).unwrap();
    std::thread::scope(|scope| {
        for program in 0..PRODUCERS {
            let producer = ledger.producer();
            scope.spawn(move || {
                for generation in 0..EACH {
                    producer.make_room(None).unwrap();
                    producer.record(write_entry(program, generation));
                }
            });
        }
    });
    assert_eq!(ledger.close().unwrap(), u64::from(PRODUCERS) * EACH);
    let (header, entries) = read(&path);
    assert_eq!((header.magic, header.entry_bytes), (MAGIC, 64));
    let mut next = HashMap::new();
    for entry in &entries {
        let expected = next.entry(entry.program).or_insert(0);
        assert_eq!(entry.generation, *expected, "program {}", entry.program);
        *expected += 1;
    }
    assert_eq!(next.len(), PRODUCERS as usize);
    assert!(next.values().all(|n| *n == EACH));
}

#[test]
fn sync_brings_the_entries_of_a_live_producer_into_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::create(&path).unwrap();
    let producer = ledger.producer();
    for generation in 0..3 {
        producer.record(write_entry(1, generation));
        assert_eq!(ledger.sync().unwrap(), generation + 1);
        assert_eq!(read(&path).1.len() as u64, generation + 1);
    }
    assert_eq!(ledger.entries(), 3);
}

#[test]
fn without_a_file_entries_are_counted() {
    let ledger = Ledger::counting();
    let producer = ledger.producer();
    for generation in 0..5000 {
        producer.make_room(None).unwrap();
        producer.record(write_entry(1, generation));
    }
    assert_eq!(ledger.entries(), 5000);
    assert_eq!(ledger.sync().unwrap(), 0);
}

#[test]
fn a_full_disk_fails_the_ledger_and_says_why() {
    let ledger = Ledger::create(Path::new("/dev/full")).unwrap();
    let producer = ledger.producer();
    let mut made = 0u64;
    let error = loop {
        if let Err(error) = producer.make_room(None) {
            break error;
        }
        producer.record(write_entry(1, made));
        made += 1;
        assert!(made < 10_000_000, "the failure is never noticed");
    };
    assert!(matches!(&error, LedgerError::Failed(why) if why.contains("No space left")), "{error}");
    assert!(ledger.failure().is_some());
    assert!(matches!(ledger.sync(), Err(LedgerError::Failed(_))));
}

#[test]
fn a_file_at_its_bound_fails_the_ledger_and_grows_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let limit = size_of::<Header>() as u64 + 3 * 64;
    let ledger = Ledger::create_bounded(&path, limit).unwrap();
    let producer = ledger.producer();
    for generation in 0..3 {
        producer.record(write_entry(1, generation));
    }
    assert_eq!(ledger.sync().unwrap(), 3);
    producer.record(write_entry(1, 3));
    let error = ledger.sync().unwrap_err().to_string();
    assert!(error.contains("has reached its bound of 256 bytes"), "{error}");
    assert!(producer.make_room(None).is_err(), "no more DMA without a record");
    producer.record(write_entry(1, 4));
    assert!(ledger.close().is_err());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), limit);
}

#[test]
fn an_existing_record_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    std::fs::write(&path, b"evidence").unwrap();
    assert!(matches!(Ledger::create(&path), Err(LedgerError::Exists(p)) if p == path));
    assert_eq!(std::fs::read(&path).unwrap(), b"evidence");
}

/// A named pipe that nobody reads: the writer blocks, the queue fills, and only the stop flag frees the producer.
#[test]
fn a_producer_that_waits_for_a_slow_file_can_be_stopped() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // Both ends open, so that neither open blocks.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let ledger = Ledger::create(&path).unwrap();
    let producer = ledger.producer();
    let stop = AtomicBool::new(false);
    let most = (BUFFER_ENTRIES * (MAX_QUEUED_BUFFERS + 4)) as u64;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            for generation in 0..most {
                producer.make_room(Some(&stop))?;
                producer.record(write_entry(1, generation));
            }
            Ok(())
        });
        while ledger.shared.queue.handed_over() < (BUFFER_ENTRIES * MAX_QUEUED_BUFFERS) as u64 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Release);
        assert!(matches!(waiting.join().unwrap(), Err(LedgerError::Stopped)));
    });
    assert!(ledger.failure().is_none());
    drop(reader);
}
