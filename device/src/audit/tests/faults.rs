// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Seeded faults: each planted change is found, with its page and its bytes, and nothing else is.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A write of many segments, cut anywhere, which do not overlap: place of each in a row of slots of four pages.
fn segments() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let segment = (0u64..4096, 1u32..9000);
    (proptest::collection::vec(segment, 1..12), any::<u64>()).prop_map(|(segments, shuffle)| {
        let mut placed: Vec<_> = segments
            .into_iter()
            .enumerate()
            .map(|(slot, (offset, len))| (slot as u64 * 0x4000 + offset, len))
            .collect();
        let by = shuffle as usize % placed.len();
        placed.rotate_left(by);
        placed
    })
}

/// Changes: byte of the request (modulo its length) and length, 1 byte to a page.
fn changes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((any::<usize>(), prop_oneof![1usize..9, 1usize..4097]), 0..8)
}

/// Invert bytes of the request's memory; by page, the bytes that are others than before (offsets in the request).
fn plant(
    fixture: &Fixture,
    segments: &[(u64, u32)],
    changes: &[(usize, usize)],
) -> BTreeMap<u64, Vec<usize>> {
    let places: Vec<u64> = segments.iter().flat_map(|(gpa, len)| *gpa..*gpa + u64::from(*len)).collect();
    let mut changed = BTreeMap::<u64, Vec<usize>>::new();
    let mut bytes: Vec<usize> = changes
        .iter()
        .flat_map(|(at, len)| at % places.len()..(at % places.len() + len).min(places.len()))
        .collect();
    bytes.sort_unstable();
    bytes.dedup();
    for byte in bytes {
        let old = fixture.read(places[byte], 1)[0];
        fixture.write(places[byte], &[!old]);
        changed.entry(places[byte] / 4096).or_default().push(byte);
    }
    changed
}

fn check(fixture: &Fixture, byte: u64, expected: &BTreeMap<u64, Vec<usize>>) -> Result<(), TestCaseError> {
    let mut left = expected.clone();
    for hit in fixture.hits() {
        let planted = left.get_mut(&(hit.gpa / 4096)).expect("a page that was changed");
        // A page with several pieces has a hit for each; this one's bytes are those in its range.
        let first = (hit.byte - byte) as usize;
        let (of_hit, rest): (Vec<_>, Vec<_>) =
            planted.drain(..).partition(|at| (first..first + 4096 - (hit.gpa % 4096) as usize).contains(at));
        *planted = rest;
        prop_assert_eq!(hit.differing_bytes as usize, of_hit.len());
        let named = hit.spans.iter().flat_map(|span| span.offset..span.offset + span.len);
        let named: Vec<_> = named.map(|offset| first + offset as usize).collect();
        prop_assert_eq!(&named[..], &of_hit[..named.len()]);
        prop_assert!(named.len() == of_hit.len() || hit.spans.len() == 16);
        for span in &hit.spans {
            prop_assert!(span.before.len() == span.after.len() && span.before != span.after);
        }
    }
    prop_assert!(left.values().all(Vec::is_empty), "missed: {:?}", left);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn each_change_after_the_fetch_is_found(segments in segments(), changes in changes()) {
        let fixture = Fixture::new();
        let mut ticket = fixture.pass(write(1 << 20, &segments));
        let copy = fixture.fetch(&mut ticket);
        let memory = |fixture: &Fixture| -> Vec<u8> {
            segments.iter().flat_map(|(gpa, len)| fixture.read(*gpa, *len as usize)).collect()
        };
        prop_assert_eq!(&copy, &memory(&fixture));
        let planted = plant(&fixture, &segments, &changes);
        fixture.complete(ticket);
        check(&fixture, 1 << 20, &planted)?;
    }

    #[test]
    fn each_change_under_a_hold_is_found(segments in segments(), changes in changes()) {
        let fixture = Fixture::new();
        fixture.hold("w", Match::default(), Fetch::Late);
        fixture.submit(write(1 << 20, &segments));
        let planted = plant(&fixture, &segments, &changes);
        std::thread::scope(|scope| {
            scope.spawn(|| fixture.watch.release_held("w").unwrap());
            fixture.finish(fixture.next().0);
        });
        check(&fixture, 1 << 20, &planted)?;
    }
}

/// Many writes in flight at once, some of them with one change each, by DMA or by a CPU.
#[test]
fn among_many_writes_exactly_those_with_a_change_are_hits() {
    let fixture = Fixture::new();
    let gpas: Vec<u64> = (0..256).map(|page| page * 0x2000).collect();
    fixture.pin(1, RUN, 0, &gpas);
    let mut tickets = Vec::new();
    for (gpa, byte) in gpas.iter().zip((0..).step_by(4096)) {
        let mut ticket = fixture.pass(write(byte, &[(*gpa, 4096)]));
        fixture.fetch(&mut ticket);
        tickets.push(ticket);
    }
    let (mut by_dma, mut by_cpu) = (Vec::new(), Vec::new());
    for page in (0..256u64).filter(|page| page * 2_654_435_761 % 7 == 0) {
        let at = page * 97 % 4096;
        if page % 2 == 0 {
            fixture.dma(1, page * 4096 + at, 1, Payload::Fill(0x5a), page);
            by_dma.push(page * 4096);
        } else {
            fixture.write(page * 0x2000 + at, &[0x5a]);
            by_cpu.push(page * 4096);
        }
    }
    tickets.into_iter().for_each(|ticket| fixture.complete(ticket));
    let of = |author| -> Vec<u64> {
        fixture.hits().iter().filter(|hit| hit.author == author).map(|hit| hit.byte).collect()
    };
    use longpin_proto::disk::Author;
    assert_eq!((of(Author::Dma), of(Author::Other), of(Author::Mixed)), (by_dma, by_cpu, vec![]));
    assert!(fixture.hits().iter().all(|hit| {
        hit.spans.len() == 1
            && u64::from(hit.spans[0].offset) == hit.byte / 4096 * 97 % 4096
            && hit.spans[0].len == 1
    }));
}
