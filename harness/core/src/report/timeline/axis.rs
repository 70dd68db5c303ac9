// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The piecewise axis. A case spends seconds in mkfs and microseconds in the race that matters; on a linear axis the
//! race is one pixel. Here each stretch between two neighbouring events has a width that grows with the logarithm of
//! its duration, and bars that carry a name are made wide enough for it. Order and overlap are exact, widths are not:
//! durations are written beside them.

use super::{Bar, Lane, RowKind};
use serde::Serialize;

/// A piece of the axis ends here.
pub type Knot = (u64, f64);

/// Maps nanoseconds since the first event to units of width, about a pixel each.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Axis {
    /// Nanoseconds and place, ascending in both; linear between neighbours.
    pub knots: Vec<Knot>,
    /// Stretches in which nothing happens, worth a mark: first and last nanosecond.
    pub gaps: Vec<(u64, u64)>,
}

/// Width of a stretch of 1 µs, and how much each factor of ten adds.
const MICROSECOND_WIDTH: f64 = 4.0;
const DECADE_WIDTH: f64 = 1.8;
/// A bar's name: about 6.3 units a letter, and the padding.
const LETTER_WIDTH: f64 = 6.3;
const PADDING: f64 = 8.0;
/// A longer name than this is cut by the drawing.
const MAX_NAME_WIDTH: f64 = 120.0;
/// An idle stretch of at least this share of the whole is marked as a gap.
const GAP_SHARE: f64 = 0.02;

impl Axis {
    /// An axis on which every event of the lanes has its place.
    pub(super) fn of(lanes: &[Lane], moments: impl IntoIterator<Item = u64>) -> Self {
        // Requests that are not the case's find their place between its events.
        let rows = || lanes.iter().flat_map(|lane| &lane.rows).filter(|row| row.kind != RowKind::Others);
        let bars = || rows().flat_map(|row| &row.bars);
        let ticks = rows().flat_map(|row| &row.ticks);
        let mut times: Vec<u64> = bars().flat_map(|bar| [bar.from, bar.to]).collect();
        times.extend(ticks.map(|tick| tick.at));
        times.extend(moments);
        times.sort_unstable();
        times.dedup();
        let mut widths: Vec<f64> = times.windows(2).map(|pair| width(pair[1] - pair[0])).collect();
        for bar in rows().filter(|row| row.kind != RowKind::Pin).flat_map(|row| &row.bars) {
            widen(&times, &mut widths, bar);
        }
        let mut at = 0.0;
        let mut knots: Vec<Knot> = times.first().map(|first| (*first, 0.0)).into_iter().collect();
        for (time, width) in times.iter().skip(1).zip(&widths) {
            at += width;
            knots.push((*time, (at * 10.0).round() / 10.0));
        }
        Self { gaps: gaps(&times, bars()), knots }
    }

    /// Units from the first event to the last.
    pub fn width(&self) -> f64 {
        self.knots.last().map_or(0.0, |(_, at)| *at)
    }

    /// Place of an instant; those outside are at the ends.
    pub fn place(&self, ns: u64) -> f64 {
        let after = self.knots.partition_point(|(time, _)| *time <= ns);
        match (after.checked_sub(1).and_then(|i| self.knots.get(i)), self.knots.get(after)) {
            (Some((t0, x0)), Some((t1, x1))) => x0 + (x1 - x0) * (ns - t0) as f64 / (t1 - t0) as f64,
            (Some((_, last)), None) => *last,
            (None, _) => 0.0,
        }
    }
}

fn width(ns: u64) -> f64 {
    let decades = (ns.max(1) as f64 / 1_000.0).log10();
    (MICROSECOND_WIDTH + DECADE_WIDTH * decades).max(1.0)
}

/// Stretch the pieces under a bar until its name fits, each by the same factor.
fn widen(times: &[u64], widths: &mut [f64], bar: &Bar) {
    if bar.text.is_empty() {
        return;
    }
    let from = times.partition_point(|time| *time < bar.from);
    let to = times.partition_point(|time| *time < bar.to);
    let pieces = &mut widths[from..to.max(from)];
    let has: f64 = pieces.iter().sum();
    let wants = (bar.text.chars().count() as f64 * LETTER_WIDTH + PADDING).min(MAX_NAME_WIDTH);
    if has > 0.0 && has < wants {
        pieces.iter_mut().for_each(|width| *width *= wants / has);
    }
}

/// Stretches without a bar of a step: time in which the harness thought, or the guest was slow.
fn gaps<'b>(times: &[u64], bars: impl Iterator<Item = &'b Bar>) -> Vec<(u64, u64)> {
    let mut covered: Vec<(u64, u64)> =
        bars.filter(|bar| bar.kind.is_work()).map(|bar| (bar.from, bar.to)).collect();
    covered.sort_unstable();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    let least = ((last - first) as f64 * GAP_SHARE) as u64;
    let mut gaps = Vec::new();
    let mut busy_until = *first;
    for (from, to) in covered {
        if from > busy_until && from - busy_until > least {
            gaps.push((busy_until, from));
        }
        busy_until = busy_until.max(to);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::super::{BarKind, Row};
    use super::*;

    fn lane(bars: &[(u64, u64, &str)]) -> Lane {
        let bar = |(from, to, text): &(u64, u64, &str)| Bar {
            kind: BarKind::Step,
            from: *from,
            to: *to,
            text: (*text).into(),
            detail: String::new(),
        };
        let row = Row { bars: bars.iter().map(bar).collect(), ..Row::new(RowKind::Steps) };
        Lane { name: "steps".into(), note: String::new(), rows: vec![row] }
    }

    #[test]
    fn a_race_of_microseconds_has_room_beside_seconds_of_mkfs() {
        let lanes = [lane(&[
            (0, 3_000_000_000, "mkfs"),
            (3_000_001_000, 3_000_002_000, "dma"),
            (3_000_002_500, 3_000_003_000, "fsync"),
        ])];
        let axis = Axis::of(&lanes, []);
        let dma = axis.place(3_000_002_000) - axis.place(3_000_001_000);
        let mkfs = axis.place(3_000_000_000);
        assert!(dma >= 3.0 * LETTER_WIDTH && mkfs < 4.0 * dma, "{axis:?}");
    }

    #[test]
    fn places_keep_the_order_of_time() {
        let axis = Axis::of(&[lane(&[(10, 1_000, "a"), (1_001, 9_000_000, "b")])], [500]);
        let places: Vec<f64> = axis.knots.iter().map(|(_, at)| *at).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
        assert_eq!((axis.place(0), axis.place(u64::MAX)), (0.0, axis.width()));
        assert!(axis.place(500) > axis.place(10) && axis.place(500) < axis.place(1_000));
    }

    #[test]
    fn an_idle_stretch_is_marked() {
        let axis = Axis::of(&[lane(&[(0, 1_000, "a"), (901_000, 902_000, "b")])], []);
        assert_eq!(axis.gaps, [(1_000, 901_000)]);
    }

    #[test]
    fn an_empty_story_has_an_empty_axis() {
        let axis = Axis::of(&[], []);
        assert_eq!((axis.width(), axis.place(7)), (0.0, 0.0));
    }
}
