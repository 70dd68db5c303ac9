// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the region table as a state machine.

use super::*;
use proptest::prelude::*;

fn part(region: u32, flags: (bool, bool), total_bytes: u64, segments: &[(u64, u64)]) -> MapPart {
    MapPart {
        label: Label { region, total_bytes, file_offset: 0, run: 1, pin_mode: 1 },
        first: flags.0,
        last: flags.1,
        segments: segments.iter().map(|(gpa, len)| (Gpa(*gpa), *len)).collect(),
    }
}

fn whole(region: u32, segments: &[(u64, u64)]) -> MapPart {
    part(region, (true, true), segments.iter().map(|(_, len)| len).sum(), segments)
}

fn table(region: u32) -> RegionTable<&'static str> {
    let mut table = RegionTable::default();
    assert!(matches!(table.map(&whole(region, &[(0x1000, 0x1000)])), Ok(Mapped::Complete(_))));
    table
}

#[test]
fn parts_add_up_to_a_region() {
    let mut table = RegionTable::<()>::default();
    assert_eq!(table.map(&part(1, (true, false), 0x3000, &[(0x9000, 0x1000)])), Ok(Mapped::Partly));
    assert_eq!(table.enter(1), Err(RegionError::Incomplete(1)));
    let Ok(Mapped::Complete(region)) = table.map(&part(1, (false, true), 0x3000, &[(0x1000, 0x2000)])) else {
        panic!("the region is complete");
    };
    let expected = [
        Segment { offset: 0, gpa: Gpa(0x9000), len: 0x1000 },
        Segment { offset: 0x1000, gpa: Gpa(0x1000), len: 0x2000 },
    ];
    assert_eq!(region.segments, expected);
    assert_eq!(table.enter(1), Ok(region));
}

#[test]
fn parts_that_do_not_fit_together_are_refused_and_forgotten() {
    let first = part(1, (true, false), 0x2000, &[(0, 0x1000)]);
    let length = |have| Err(RegionError::Length { region: 1, have, want: 0x2000 });
    for (second, expected) in [
        (part(1, (true, true), 0x2000, &[(0, 0x1000)]), Err(RegionError::Exists(1))),
        (part(1, (false, true), 0x2000, &[(0, 0x1001)]), length(0x2001)),
        (part(1, (false, true), 0x2000, &[(0, 0xfff)]), length(0x1fff)),
        (part(1, (false, true), 0x3000, &[(0, 0x2000)]), Err(RegionError::Contradiction(1))),
        (part(1, (false, false), 0x2000, &[(0, u64::MAX)]), length(u64::MAX)),
    ] {
        let mut table = RegionTable::<()>::default();
        assert_eq!(table.map(&first), Ok(Mapped::Partly));
        let kept = expected == Err(RegionError::Exists(1));
        assert_eq!(table.map(&second), expected);
        assert_eq!((table.len(), table.segments), if kept { (1, 1) } else { (0, 0) });
    }
    assert_eq!(table(1).map(&part(2, (false, true), 1, &[(0, 1)])), Err(RegionError::NotFound(2)));
    assert_eq!(table(1).map(&whole(1, &[(0, 1)])), Err(RegionError::Exists(1)));
}

#[test]
fn there_is_a_limit_to_regions_and_segments() {
    let mut table = RegionTable::<()>::default();
    for region in 1..=dma::MAX_REGIONS {
        table.map(&whole(region, &[(0, 1)])).unwrap();
    }
    assert_eq!(table.map(&whole(9999, &[(0, 1)])), Err(RegionError::Limit));
    table.clear();
    let many = vec![(0, 1); MAX_SEGMENTS / 2 + 1];
    table.map(&whole(1, &many)).unwrap();
    assert_eq!(table.map(&whole(2, &many)), Err(RegionError::Limit));
    assert!(matches!(table.close(1, ()), Ok(Closed::Quiet((), Some(_)))));
    assert!(table.map(&whole(2, &many)).is_ok(), "segments are given back");
}

#[test]
fn a_close_waits_for_the_last_user() {
    let mut table = table(1);
    table.enter(1).unwrap();
    table.enter(1).unwrap();
    assert_eq!(table.close(1, "done"), Ok(Closed::Waiting));
    assert_eq!(table.enter(1), Err(RegionError::NotFound(1)), "nobody enters a closing region");
    assert_eq!(table.close(1, "again"), Err((RegionError::Closing(1), "again")));
    assert_eq!(table.leave(1), None);
    assert!(matches!(table.leave(1), Some(("done", _))));
    assert!(table.is_empty());
}

#[test]
fn an_incomplete_region_is_closed_without_ever_having_been() {
    let mut table = RegionTable::default();
    table.map(&part(1, (true, false), 0x2000, &[(0, 0x1000)])).unwrap();
    assert_eq!(table.close(1, "done"), Ok(Closed::Quiet("done", None)));
    assert_eq!((table.len(), table.segments), (0, 0));
}

fn revocable(region: u32, total_bytes: u64) -> MapPart {
    part(region, (true, true), total_bytes, &[])
}

#[test]
fn revocable_regions_count_for_what_they_may_hold() {
    let mut table = RegionTable::<()>::default();
    let page = dma::PAGE_BYTES;
    assert!(matches!(table.map(&revocable(1, 3 * page)), Ok(Mapped::Complete(_))));
    assert_eq!(table.segments, 3, "a region has no more translations than pages");
    table.set_cache(CacheOptions { bound: MAX_SEGMENTS - 4, ..CacheOptions::default() });
    assert!(matches!(table.map(&revocable(2, page)), Ok(Mapped::Complete(_))));
    let many = dma::MAX_REGION_BYTES;
    let pages = (many / page) as usize;
    let fit = (MAX_SEGMENTS - 4) / pages;
    for region in 0..fit as u32 {
        assert!(matches!(table.map(&revocable(10 + region, many)), Ok(Mapped::Complete(_))));
    }
    assert_eq!(table.map(&revocable(3, many)), Err(RegionError::Limit));
    assert!(matches!(table.close(10, ()), Ok(Closed::Quiet((), Some(_)))));
    assert!(
        matches!(table.map(&revocable(3, many)), Ok(Mapped::Complete(_))),
        "what is closed is given back"
    );
}

#[test]
fn a_revocable_region_is_whole_at_once() {
    let mut table = RegionTable::<()>::default();
    let page = dma::PAGE_BYTES;
    assert_eq!(table.map(&part(1, (true, false), page, &[])), Err(RegionError::Contradiction(1)));
    assert_eq!(table.map(&part(1, (true, false), 2 * page, &[(0, page)])), Ok(Mapped::Partly));
    assert_eq!(table.map(&part(1, (false, true), 2 * page, &[])), Err(RegionError::Contradiction(1)));
    assert_eq!((table.len(), table.segments), (0, 0));
}

proptest! {
    /// Pieces cover the range in order, each within one segment and one page of guest memory.
    #[test]
    fn pieces_cover_a_range(
        segments in proptest::collection::vec((0u64..1 << 20, 1u64..9000), 1..20), a in any::<u64>(), b in any::<u64>(),
    ) {
        let mut table = RegionTable::<()>::default();
        let Ok(Mapped::Complete(region)) = table.map(&whole(1, &segments)) else { panic!("complete") };
        let total = region.label.total_bytes;
        let (offset, len) = (a % total, b % (total - a % total) + 1);
        let byte_at = |offset: u64| {
            let segment = region.segments.iter().rev().find(|s| s.offset <= offset).unwrap();
            segment.gpa.0 + offset - segment.offset
        };
        let mut at = offset;
        for piece in region.pieces(offset, len) {
            prop_assert_eq!(piece.offset, at);
            prop_assert!(piece.len > 0);
            prop_assert_eq!(piece.gpa.0 / 4096, (piece.gpa.0 + piece.len - 1) / 4096);
            for byte in [0, piece.len - 1] {
                prop_assert_eq!(byte_at(at + byte), piece.gpa.0 + byte);
            }
            at += piece.len;
        }
        prop_assert_eq!(at, offset + len);
    }

    /// Whatever happens in which order: a close ends exactly when entered and left are even.
    #[test]
    fn users_are_never_lost(steps in proptest::collection::vec(0u8..4, 1..60)) {
        let mut table = table(1);
        let (mut users, mut closing) = (0, false);
        for step in steps {
            match step {
                0 | 1 => {
                    let entered = table.enter(1).is_ok();
                    prop_assert_eq!(entered, !closing && !table.is_empty());
                    users += u32::from(entered);
                }
                2 if users > 0 => {
                    users -= 1;
                    prop_assert_eq!(table.leave(1).is_some(), closing && users == 0);
                }
                3 if !closing && !table.is_empty() => {
                    let quiet = matches!(table.close(1, "done"), Ok(Closed::Quiet(..)));
                    prop_assert_eq!(quiet, users == 0);
                    closing = !quiet;
                }
                _ => {}
            }
            prop_assert_eq!(table.is_empty(), closing && users == 0 || !closing && table.regions.is_empty());
        }
    }
}
