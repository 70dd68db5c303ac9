// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins and their release: by the driver, by other users of `pin_user_pages` that the agent has at hand, or by the second
//! disk where the region is a direct read. A dio pin is a read that the second disk holds: its DMA is over when the step
//! is, and a read that nobody wrote to would bring the disk's own bytes into the file.

use super::objects::Region;
use super::op::{Op, acts};
use super::paper::{self, Checked, Paper, fresh, known, within};
use super::parameters::{Pages, map, one, region};
use super::{Definition, Needs, Translation, Verb};
use crate::fields::{Fault, Fields};
use crate::matrix::{Pin as Mode, Point, Release as Given};
use longpin_proto::agent::Step;
use std::collections::BTreeSet;

pub const STEPS: &[Definition] = &[
    Definition::new::<Pin>(
        "pin",
        "`region`, `map`, range, `mode` (of the case)",
        "pins; a refusal with an errno ends the steps and is the observation `refused`",
    )
    .or_job(),
    Definition::new::<QueryRegion>(
        "query-region",
        "`region`",
        "records what the driver says of the pages; done by itself after each step that can take pinned pages out of \
         their file",
    ),
    Definition::new::<Release>(
        "release",
        "`region`, `mode` (of the case)",
        "gives the pages back, `clean` or `dirty`",
    ),
    Definition::new::<KillOwner>(
        "kill-owner",
        "",
        "the driver's open file is left to a child process, with all regions and programs, and the child is killed: the \
         driver has to stop its device and give the pages back by itself. It sets pages dirty that were pinned for writing",
    ),
];

/// A mode that pins.
fn mode(f: &mut Fields<'_, '_>) -> Result<Option<Mode>, Fault> {
    let modes = || Mode::ALL.iter().filter(|mode| **mode != Mode::None);
    let parse = |word: &str| modes().find(|mode| mode.as_str() == word).copied();
    one(f, "mode", "pin mode", parse, || modes().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", "))
}

parameters! {
    Pin(f, _) {
        region: String = region(f)?,
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
        /// None: that of the case.
        mode: Option<Mode> = mode(f)?,
    }
}

impl Pin {
    fn mode(&self, point: &Point) -> Mode {
        self.mode.unwrap_or(point.pin)
    }
}

impl Verb for Pin {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let Self { region, map, pages, .. } = self;
        let mode = self.mode(paper.point);
        if mode == Mode::None {
            return Err("step `pin` has no mode in this case; add `matrix.pin` or `mode = ...`".into());
        }
        let whole = *known("mapping", &paper.maps, map)?;
        fresh("region", &paper.regions, region)?;
        let count = pages.count.unwrap_or(whole.saturating_sub(pages.first));
        within("mapping", map, pages.first + count, whole)?;
        let map = map.clone();
        let pinned = paper::Region { pages: count, map, mode, written: false, front: 0 };
        paper.regions.insert(region.clone(), pinned);
        Ok(())
    }

    fn check_as_job(&self, paper: &Paper<'_>) -> Checked {
        match self.mode(paper.point) {
            Mode::Dio => Err("a dio pin runs concurrently by itself; do it without `job`".into()),
            _ => Ok(()),
        }
    }

    fn check_at_join(&self, paper: &mut Paper<'_>) -> Checked {
        self.check(paper)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (region, map, run) = (self.region.clone(), self.map.clone(), t.env.run);
        let mapping = t.objects.maps.get(&map);
        let (file, start, whole) = mapping.map_or((None, 0, 0), |m| (m.file.clone(), m.offset, m.len));
        let (offset, len) = self.pages.bytes(whole);
        let file_offset = start + offset;
        let mode = self.mode(&t.point);
        let (by_driver, holds_pages) = (mode.by_driver(), mode.holds_pages());
        let given_back = mode.given_back();
        let mut pinned =
            Region { map: map.clone(), file, offset, len, by_driver, holds_pages, given_back, dio: None };
        let ops = match mode.mode() {
            Some(mode) => {
                acts([Step::Pin { region: region.clone(), map, offset, len, mode, file_offset, run }])
            }
            None if mode == Mode::Dio => {
                let (dio, ops) = t.pin_by_dio(&region, map, offset, len, file_offset);
                pinned.dio = Some(dio);
                ops
            }
            None => return Vec::new(),
        };
        t.objects.regions.insert(region, pinned);
        ops
    }

    fn needs(&self, point: &Point) -> Needs<'_> {
        let mode = self.mode(point);
        Needs {
            audited_disk: mode == Mode::Dio,
            driver: mode.by_driver(),
            pinner: mode == Mode::Exec,
            module: None,
            of_pin: mode.modules(),
            iommu: mode.behind_iommu(),
        }
    }

    fn makes_region(&self) -> Option<&str> {
        Some(&self.region)
    }
}

parameters! {
    QueryRegion(f, _) { region: String = region(f)? }
}

impl Verb for QueryRegion {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("region", &paper.regions, &self.region).map(drop)
    }

    /// Only the driver knows something of its pages.
    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        match t.objects.regions.get(&self.region).is_some_and(|region| region.by_driver) {
            true => acts([Step::QueryRegion { region: self.region.clone() }]),
            false => Vec::new(),
        }
    }
}

parameters! {
    Release(f, _) {
        region: String = region(f)?,
        /// None: that of the case.
        mode: Option<Given> = one(f, "mode", "release mode", Given::parse, Given::list)?,
    }
}

impl Verb for Release {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let region = &self.region;
        let paper::Region { mode, written, .. } = *known("region", &paper.regions, region)?;
        match (mode.given_back(), self.mode) {
            (Some(given), Some(asked)) if asked != given => {
                return Err(format!("the kernel releases a {mode} pin {given}; take `mode` away"));
            }
            (Some(_), _) if mode == Mode::Dio && !written => {
                return Err(format!(
                    "no `dma` wrote into `{region}`: its read would bring the second disk's bytes into the file; \
                     put a dma before"
                ));
            }
            (None, None) if paper.point.release == Given::None => {
                let text = "step `release` has no mode in this case";
                return Err(format!("{text}; add `matrix.release` or `mode = ...`"));
            }
            _ => {}
        }
        if let Some((program, _)) = paper.running.iter().find(|(_, of)| *of == region) {
            return Err(format!("program `{program}` still writes into `{region}`; put a dma-wait before"));
        }
        paper.regions.remove(region);
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let pinned = t.objects.regions.remove(&self.region);
        let mirrored = pinned.as_ref().is_some_and(|pinned| pinned.by_driver && !pinned.holds_pages);
        let (dio, given) = pinned.map_or((None, None), |pinned| (pinned.dio, pinned.given_back));
        if let Some(dio) = dio {
            return t.release_dio(dio);
        }
        let region = self.region.clone();
        let dirty = given.or(self.mode).unwrap_or(t.point.release) == Given::Dirty;
        // What it has counted is gone with it.
        let counts = mirrored.then(|| Step::QueryRegion { region: region.clone() });
        acts(counts.into_iter().chain([Step::Release { region, dirty }]))
    }
}

parameters! {
    KillOwner(_f, _) {}
}

impl Verb for KillOwner {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let of_driver = |name: &String| paper.regions.get(name).is_some_and(|region| region.mode.by_driver());
        let (dead, others): (BTreeSet<_>, BTreeSet<_>) = paper.regions.keys().cloned().partition(of_driver);
        if dead.is_empty() {
            return Err(
                "no region is pinned by the driver here, so it has no owner; put a `pin` before".into()
            );
        }
        paper.regions.retain(|name, _| others.contains(name));
        paper.running.retain(|_, region| !dead.contains(region));
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        t.objects.regions.retain(|_, region| !region.by_driver);
        acts([Step::KillOwner])
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs { driver: true, ..Needs::default() }
    }
}
