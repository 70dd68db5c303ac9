// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the sentences about a case lean on: the last write of the device, what the file system had been told before,
//! what changed in flight. Each is read off the replay; none is guessed.

use super::words;
use crate::operations::makes_durable;
use crate::record::Role;
use crate::replay::{Asked, DiskRequest, PageKey, PageWrite, Pin, Replay};
use longpin_proto::agent::{Fact, Outcome, Step};
use longpin_proto::disk::Hit;
use longpin_proto::facts::{PageState, Source};
use std::collections::BTreeMap;

/// Device writes of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Burst {
    pub generation: u64,
    pub path: String,
    pub pages: Vec<u64>,
    pub from: u64,
    pub to: u64,
}

impl Burst {
    /// `generation 101 into pages 0–15 of /mnt/a`.
    pub fn words(&self) -> String {
        format!("generation {} into {} of {}", self.generation, words::pages(&self.pages), self.path)
    }
}

/// Change in flight by our device.
pub struct InFlight<'w, 'r> {
    pub hits: Vec<&'r Hit>,
    pub pages: Vec<u64>,
    pub path: String,
    /// The request of the first.
    pub request: Option<&'w DiskRequest>,
}

/// See the module.
pub struct Claims<'w, 'r> {
    pub pin: Option<&'w Pin<'r>>,
    /// In the order of time.
    pub bursts: Vec<Burst>,
    /// The last call that made the file durable and ended well before the last write of the device began: when it ended.
    pub synced: Option<(u64, String)>,
    /// cachestat(2) showed the file without a dirty page between that and the last write.
    pub proven_clean: bool,
    pub in_flight: Option<InFlight<'w, 'r>>,
}

impl<'w, 'r> Claims<'w, 'r> {
    pub fn of(replay: &'w Replay<'r>) -> Self {
        let bursts = bursts(replay);
        let last = bursts.last().map(|burst| burst.from);
        let synced = last.and_then(|last| synced(replay, last, &bursts[bursts.len() - 1].path));
        let proven_clean = match (&synced, last) {
            (Some((from, _)), Some(to)) => clean(replay, *from, to),
            _ => false,
        };
        Self { pin: replay.pins.first(), synced, proven_clean, in_flight: in_flight(replay), bursts }
    }

    pub fn last(&self) -> Option<&Burst> {
        self.bursts.last()
    }
}

fn bursts(replay: &Replay<'_>) -> Vec<Burst> {
    let mut bursts: BTreeMap<(String, u64), Burst> = BTreeMap::new();
    let by_device = |(key, writes): (&PageKey, &Vec<PageWrite>)| {
        let of_device = writes.iter().filter(|write| write.source == Source::Dma).copied();
        of_device.map(|write| (key.clone(), write)).collect::<Vec<_>>()
    };
    for ((path, page), write) in replay.memory.writes.iter().flat_map(by_device) {
        let burst = bursts.entry((path.clone(), write.generation)).or_insert_with(|| Burst {
            generation: write.generation,
            path,
            pages: Vec::new(),
            from: write.at,
            to: write.at,
        });
        (burst.from, burst.to) = (burst.from.min(write.at), burst.to.max(write.at));
        if burst.pages.last() != Some(&page) {
            burst.pages.push(page);
        }
    }
    let mut bursts: Vec<Burst> = bursts.into_values().collect();
    bursts.sort_by_key(|burst| (burst.from, burst.generation));
    bursts
}

fn synced(replay: &Replay<'_>, before: u64, path: &str) -> Option<(u64, String)> {
    let name = |step: &Step| {
        let durable = makes_durable(step)?;
        replay.covers(durable, path).then(|| step.name())
    };
    let done =
        replay.exchanges.iter().filter(|it| replay.clock.timed && it.role == Role::Act && it.to <= before);
    let synced = done.filter_map(|exchange| match exchange.asked {
        Asked::Agent { step, outcome: Outcome::Done { .. } } => Some((exchange.to, name(step)?)),
        _ => None,
    });
    let in_jobs = replay.jobs.iter().filter_map(|job| match (job.outcome, job.to) {
        (Some(Outcome::Done { .. }), Some(to)) if to <= before => Some((to, name(job.step)?)),
        _ => None,
    });
    synced.chain(in_jobs).max_by_key(|(at, _)| *at)
}

fn clean(replay: &Replay<'_>, from: u64, to: u64) -> bool {
    let within = replay.exchanges.iter().filter(|exchange| exchange.from >= from && exchange.to <= to);
    let mut states = within.filter_map(|exchange| match exchange.asked {
        Asked::Agent { outcome: Outcome::Done { fact: Fact::PageState(state) }, .. } => Some(state),
        _ => None,
    });
    states.next_back().is_some_and(|PageState { dirty, writeback, .. }| dirty + writeback == 0)
}

fn in_flight<'w, 'r>(replay: &'w Replay<'r>) -> Option<InFlight<'w, 'r>> {
    let hits: Vec<&Hit> = replay.hits().iter().filter(|hit| hit.author.by_dma()).collect();
    let first = hits.first()?;
    let mut pages: Vec<u64> = hits.iter().filter_map(|hit| Some(hit.file_offset? / words::PAGE)).collect();
    pages.sort_unstable();
    pages.dedup();
    let path = replay.place_of(first).0?;
    let request = replay.requests.iter().find(|r| (r.disk, r.number) == (first.disk, first.request));
    Some(InFlight { pages, path, request, hits })
}
