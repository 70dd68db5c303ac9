// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Held reads as pins: DMA of the disk into their pages.

use super::*;
use longpin_proto::disk::Author;
use longpin_wire::stamp::Cell;

const PAGE: u64 = 0x10000;

fn order() -> HeldDma {
    HeldDma {
        rule: "r".into(),
        region: 4,
        file_offset: 0x2000,
        offset: 0,
        len: 8192,
        generation: 100,
        run: RUN,
        cell_bytes: 512,
    }
}

/// Two reads of a page each, submitted against the order of their place on the disk.
fn two_reads(fixture: &Fixture) {
    fixture.hold("r", Match { op: Some(Op::Read), ..Match::default() }, Fetch::Late);
    fixture.submit(request(Op::Read, 4096, &[(PAGE, 4096)]));
    fixture.submit(request(Op::Read, 0, &[(0x40000, 2048), (0x50000, 2048)]));
}

fn refusal(fixture: &Fixture, change: impl FnOnce(&mut HeldDma)) -> String {
    let mut order = order();
    change(&mut order);
    fixture.watch.held_dma(&order).unwrap_err().to_string()
}

#[test]
fn cells_go_into_the_pages_in_the_order_of_the_disk() {
    let fixture = Fixture::new();
    two_reads(&fixture);
    fixture.watch.held_dma(&order()).unwrap();
    for (gpa, file_offset) in [(0x40000, 0x2000), (0x50000, 0x2800), (PAGE, 0x3000), (PAGE + 3584, 0x3e00)] {
        let expected = Stamp { run: RUN, file_offset, generation: 100, region: 4, source: SOURCE_DMA };
        assert_eq!(stamp::decode(&fixture.read(gpa, 512)), Cell::Whole(expected));
    }
    assert_eq!(fixture.read(0x40800, 1), [0]);
    fixture.watch.case(0);
    assert!(fixture.next().0.filled() && fixture.next().0.filled());
}

#[test]
fn a_read_that_was_not_written_to_is_read_from_the_image() {
    let fixture = Fixture::new();
    two_reads(&fixture);
    fixture.watch.held_dma(&HeldDma { offset: 4096, len: 4096, ..order() }).unwrap();
    fixture.watch.case(0);
    let filled: Vec<_> =
        [fixture.next(), fixture.next()].iter().map(|(t, _)| (t.about.byte, t.filled())).collect();
    assert_eq!(filled, [(4096, true), (0, false)]);
    assert_eq!(fixture.read(0x40000, 1), [0]);
}

#[test]
fn cells_may_lie_across_segments() {
    let fixture = Fixture::new();
    fixture.hold("r", Match::default(), Fetch::Late);
    let segments = [(0x1003, 700), (0x8ff0, 33), (0x3000, 291)];
    fixture.submit(request(Op::Read, 0, &segments));
    fixture.watch.held_dma(&HeldDma { len: 1024, ..order() }).unwrap();
    let bytes: Vec<u8> = segments.iter().flat_map(|(gpa, len)| fixture.read(*gpa, *len as usize)).collect();
    for (cell, file_offset) in bytes.chunks(512).zip([0x2000, 0x2200]) {
        assert!(matches!(stamp::decode(cell), Cell::Whole(stamp) if stamp.file_offset == file_offset));
    }
    fixture.watch.case(0);
}

#[test]
fn a_write_of_a_page_that_a_read_keeps_is_pinned_and_its_change_is_by_dma() {
    let fixture = Fixture::new();
    two_reads(&fixture);
    let held =
        |fixture: &Fixture| fixture.engine.pins().read().map(|pins| pins.of(Gpa(PAGE), 1).next().unwrap());
    let pin = held(&fixture).unwrap();
    assert_eq!((pin.region, pin.run, pin.file_offset), (None, RUN, None), "from the hold on");
    fixture.watch.held_dma(&HeldDma { len: 0, ..order() }).unwrap();
    let pin = held(&fixture).unwrap();
    assert_eq!((pin.region, pin.file_offset), (Some(4), Some(0x3000)), "announced without a write");
    let mut ticket = fixture.pass(write(0, &[(PAGE, 4096)]));
    fixture.fetch(&mut ticket);
    fixture.watch.held_dma(&HeldDma { offset: 4096 + 512, len: 512, ..order() }).unwrap();
    fixture.complete(ticket);
    let hit = fixture.one_hit();
    assert_eq!((hit.author, hit.region, hit.file_offset), (Author::Dma, Some(4), Some(0x3000)));
    assert_eq!((hit.generation_before, hit.generation_after), (None, Some(100)));
    fixture.watch.case(0);
    fixture.complete(fixture.next().0);
    fixture.complete(fixture.next().0);
    assert!(held(&fixture).is_none(), "until the read is completed");
}

#[test]
fn what_cannot_be_written_is_refused_with_its_reason() {
    let fixture = Fixture::new();
    assert_eq!(refusal(&fixture, |_| ()), "there is no rule `r`; there are none");
    two_reads(&fixture);
    fixture.hold("w", Match { op: Some(Op::Write), ..Match::default() }, Fetch::Late);
    fixture.submit(write(0, &[(PAGE, 4096)]));
    assert_eq!(refusal(&fixture, |o| o.rule = "w".into()), "rule `w` holds no reads; await them first");
    let outside = "range 8192+512 is not in the 8192 bytes of the reads that rule `r` holds";
    assert_eq!(refusal(&fixture, |o| (o.offset, o.len) = (8192, 512)), outside);
    for (offset, len, cell_bytes) in
        [(0, 512, 0), (0, 512, 768), (256, 512, 512), (0, 100, 512), (0, 8192, 8192)]
    {
        let text = refusal(&fixture, |o| (o.offset, o.len, o.cell_bytes) = (offset, len, cell_bytes));
        assert!(text.contains("is not made of whole cells"), "{text}");
    }
    fixture.pin(4, RUN, 0, &[0x90000]);
    assert_eq!(refusal(&fixture, |_| ()), "region 4 is another one already; take another number");
    fixture.unpin(4);
    fixture.watch.held_dma(&order()).unwrap();
    assert!(refusal(&fixture, |o| o.file_offset = 0).starts_with("region 4 is another one"));
    fixture.watch.case(0);
}
