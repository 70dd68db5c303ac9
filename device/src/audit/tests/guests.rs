// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A daemon whose accelerator serves one guest and whose disks another: equal addresses, other memory.

use super::*;
use longpin_proto::control::{self, Answer};
use longpin_proto::disk::Author;
use vm_memory::FileOffset;

const PAGE: u64 = 0x10000;

/// A guest's memory in a file of its own.
fn guest() -> (std::fs::File, Map) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(RAM_BYTES as u64).unwrap();
    let map = map_of(&file);
    (file, map)
}

/// One connection's mapping of it.
fn map_of(file: &std::fs::File) -> Map {
    let place = FileOffset::new(file.try_clone().unwrap(), 0);
    Map::from_ranges_with_files([(GuestAddress(0), RAM_BYTES, Some(place))]).unwrap()
}

/// A write of a page that the accelerator has pinned and writes to; meanwhile the CPU of the disk's guest changes its
/// own page.
fn change(fixture: &Fixture) {
    fixture.pin(3, RUN, 0x7000, &[PAGE]);
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.dma(3, 0, 4096, Payload::Fill(7), 1);
    fixture.write(PAGE, &[8; 4096]);
    fixture.complete(ticket);
}

#[test]
fn a_change_in_one_guest_is_not_put_down_to_dma_in_another() {
    let (of_engine, of_disk) = (guest().1, guest().1);
    let fixture = Fixture::of(Ledger::counting(), of_engine, of_disk);
    change(&fixture);
    let hit = fixture.one_hit();
    assert_eq!((hit.author, hit.region, hit.file_offset), (Author::Unknown, None, None));
    let answer = fixture.watch.answer(&control::Request::Audit).unwrap();
    let Answer::Error { message } = answer else { panic!("{answer:?}") };
    assert!(
        message.contains("the disk's and the accelerator's have different memory at 0x10000"),
        "{message}"
    );
    // Also in a case without hits, and where the memory has gone that the hit was judged by.
    fixture.watch.case(8);
    assert!(matches!(fixture.watch.answer(&control::Request::Audit), Some(Answer::Error { .. })));
    change_again(&fixture);
    fixture.engine.ram().clear();
    assert!(matches!(fixture.watch.answer(&control::Request::Audit), Some(Answer::Error { .. })));
    fixture.watch.case(9);
    assert!(matches!(fixture.watch.answer(&control::Request::Audit), Some(Answer::Audit(_))));
}

fn change_again(fixture: &Fixture) {
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.write(PAGE, &[9; 4096]);
    fixture.complete(ticket);
}

#[test]
fn two_mappings_of_one_guest_are_one_guest() {
    let (file, of_engine) = guest();
    let fixture = Fixture::of(Ledger::counting(), of_engine, map_of(&file));
    change(&fixture);
    let hit = fixture.one_hit();
    assert_eq!((hit.author, hit.region, hit.file_offset), (Author::Dma, Some(3), Some(0x7000)));
    assert!(matches!(fixture.watch.answer(&control::Request::Audit), Some(Answer::Audit(_))));
}
