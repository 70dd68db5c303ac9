// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests that wait: by number (the order of their arrival) and by the time at which their wait is over.
//!
//! A request that was put in comes out exactly once: by release, by its time, or by its disk. `T` is whatever its
//! owner needs to go on with it.

use longpin_proto::disk::HoldEnd;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why and how long a request waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Disk.
    pub disk: u32,
    /// Rule.
    pub rule: Arc<str>,
    /// The wait ends by itself, ns.
    pub until_ns: u64,
    /// It is a hold, whose end is reported; else a delay, whose end is as planned.
    pub hold: bool,
}

/// What waits.
pub struct Holds<T> {
    waiting: BTreeMap<u64, (Place, T)>,
    due: BTreeSet<(u64, u64)>,
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), due: BTreeSet::new() }
    }
}

/// A request whose wait is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended<T> {
    /// Why it waited.
    pub place: Place,
    /// How that ended.
    pub end: HoldEnd,
    /// The owner's part.
    pub item: T,
}

impl<T> Holds<T> {
    /// Keep a request.
    pub fn put(&mut self, request: u64, place: Place, item: T) {
        self.due.insert((place.until_ns, request));
        self.waiting.insert(request, (place, item));
    }

    /// Those of a rule, in the order of their arrival.
    pub fn of_rule<'a>(&'a mut self, rule: &'a str) -> impl Iterator<Item = (u64, &'a Place, &'a mut T)> {
        self.waiting
            .iter_mut()
            .filter(move |(_, (place, _))| &*place.rule == rule)
            .map(|(request, (place, item))| (*request, &*place, item))
    }

    /// Those of a disk, in the order of their arrival.
    pub fn of_disk(&self, disk: u32) -> impl Iterator<Item = (u64, &Place, &T)> {
        let all = self.waiting.iter().map(|(request, (place, item))| (*request, place, item));
        all.filter(move |(_, place, _)| place.disk == disk)
    }

    /// Take out those that meet a condition, in the order of their arrival.
    pub fn take(&mut self, end: HoldEnd, mut condition: impl FnMut(&Place) -> bool) -> Vec<Ended<T>> {
        let taken: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, (place, _))| condition(place))
            .map(|(request, _)| *request)
            .collect();
        taken.into_iter().filter_map(|request| self.take_one(request, end)).collect()
    }

    /// Take out those whose time is over.
    pub fn take_due(&mut self, now_ns: u64) -> Vec<Ended<T>> {
        let over: Vec<_> =
            self.due.iter().take_while(|(until, _)| *until <= now_ns).map(|(_, r)| *r).collect();
        over.into_iter().filter_map(|request| self.take_one(request, HoldEnd::Cap)).collect()
    }

    fn take_one(&mut self, request: u64, end: HoldEnd) -> Option<Ended<T>> {
        let (place, item) = self.waiting.remove(&request)?;
        self.due.remove(&(place.until_ns, request));
        Some(Ended { place, end, item })
    }

    /// When the next wait is over by itself.
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(until, _)| *until)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(disk: u32, rule: &str, until_ns: u64) -> Place {
        Place { disk, rule: rule.into(), until_ns, hold: true }
    }

    fn items(ended: Vec<Ended<char>>) -> String {
        ended.iter().map(|ended| ended.item).collect()
    }

    fn holds() -> Holds<char> {
        let mut holds = Holds::default();
        holds.put(3, place(0, "w", 10), 'c');
        holds.put(1, place(0, "w", 30), 'a');
        holds.put(2, place(1, "v", 20), 'b');
        holds.put(4, place(1, "w", 20), 'd');
        holds
    }

    #[test]
    fn requests_come_out_once_in_the_order_of_their_arrival() {
        let mut holds = holds();
        assert_eq!(holds.of_rule("w").map(|(request, ..)| request).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(holds.of_disk(1).map(|(_, _, item)| *item).collect::<String>(), "bd");
        assert_eq!(items(holds.take(HoldEnd::Released, |place| &*place.rule == "w")), "acd");
        assert_eq!(items(holds.take(HoldEnd::Released, |place| &*place.rule == "w")), "");
        assert_eq!(holds.next_due(), Some(20));
        assert_eq!(items(holds.take(HoldEnd::Dropped, |place| place.disk == 1)), "b");
        assert!(holds.is_empty() && holds.next_due().is_none());
    }

    #[test]
    fn a_wait_ends_by_itself_at_its_time_and_not_before() {
        let mut holds = holds();
        assert_eq!(holds.next_due(), Some(10));
        assert_eq!(items(holds.take_due(9)), "");
        let first = holds.take_due(10);
        assert_eq!((first[0].item, first[0].end), ('c', HoldEnd::Cap));
        assert_eq!(items(holds.take_due(29)), "bd");
        assert_eq!(items(holds.take_due(u64::MAX)), "a");
    }
}
