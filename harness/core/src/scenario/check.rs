// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Meaning of a scenario: every case of the matrix is walked through on paper, so that a name that does not exist or
//! a pin that is still held at an unmount is found here and not in a guest.

use super::fields::Fault;
use super::step::{Act, Against, Backed};
use super::{Fs, Pin, Point, Release, Scenario, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Every fault of the scenario, each once.
pub fn faults(file: &str, scenario: &Scenario) -> Vec<Fault> {
    let mut found = BTreeSet::new();
    let points = scenario.matrix.points();
    if points.is_empty() {
        found.insert((1, "matrix is empty; take an exclusion away".to_owned()));
    }
    expectations(scenario, &points, &mut found);
    conditions(scenario, &mut found);
    for point in &points {
        let mut walk = Walk::new(point);
        for step in scenario.steps_of(point) {
            if let Err(message) = walk.step(step) {
                found.insert((step.line, message));
                break;
            }
        }
    }
    found.into_iter().map(|(line, message)| Fault { file: file.to_owned(), line, message }).collect()
}

fn expectations(scenario: &Scenario, points: &[Point], found: &mut BTreeSet<(usize, String)>) {
    for point in points {
        if scenario.expectation(point).is_none() {
            found.insert((1, format!("case {point} has no expectation; add an [[expect]] that accepts it")));
        }
    }
    for row in &scenario.expect {
        let reached =
            |point: &&Point| scenario.expectation(point).is_some_and(|first| first.line == row.line);
        if points.iter().find(reached).is_none() {
            let text =
                "expectation is never reached: an earlier one accepts its cases, or the matrix has none";
            found.insert((row.line, format!("{text}; move it up or take it out")));
        }
    }
}

/// Conditions must speak of the matrix: a misspelt variant would silently drop a step.
fn conditions(scenario: &Scenario, found: &mut BTreeSet<(usize, String)>) {
    let matrix = &scenario.matrix;
    let steps = scenario.steps.iter().map(|step| (step.line, &step.when));
    let rows = scenario.expect.iter().map(|row| (row.line, &row.when));
    for (line, when) in steps.chain(rows) {
        for name in &when.variant {
            if !matrix.variant.contains(name) {
                let known = matrix.variant.join(", ");
                found.insert((line, format!("variant `{name}` is not in the matrix; use one of {known}")));
            }
        }
        for name in &when.fs {
            if !matrix.fs.iter().any(|flavour| flavour.is_named(name)) {
                found.insert((
                    line,
                    format!("file system `{name}` is not in the matrix; add it to matrix.fs"),
                ));
            }
        }
    }
}

type Checked = Result<(), String>;

/// What exists at a point of a case.
struct Walk<'p> {
    point: &'p Point,
    mounted: bool,
    /// Files and their pages.
    files: BTreeMap<String, u64>,
    /// Handles and their files.
    handles: BTreeMap<String, String>,
    /// Mappings and their pages.
    maps: BTreeMap<String, u64>,
    /// Regions, their pages and their mappings.
    regions: BTreeMap<String, (u64, String)>,
    /// Programs that have not been waited for, with their region.
    running: BTreeMap<String, String>,
    /// Programs that have run, with the region.
    programs: BTreeMap<String, String>,
    snapshots: BTreeSet<String>,
    generations: BTreeSet<u64>,
}

fn known<'m, T>(noun: &str, names: &'m BTreeMap<String, T>, name: &str) -> Result<&'m T, String> {
    names.get(name).ok_or_else(|| match names.len() {
        0 => format!("{noun} `{name}` does not exist here; there is none"),
        _ => format!(
            "{noun} `{name}` does not exist here; there is {}",
            names.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    })
}

fn fresh<T>(noun: &str, names: &BTreeMap<String, T>, name: &str) -> Checked {
    match names.contains_key(name) {
        true => Err(format!("{noun} `{name}` exists already; give the second one another name")),
        false => Ok(()),
    }
}

impl<'p> Walk<'p> {
    fn new(point: &'p Point) -> Self {
        Self {
            point,
            mounted: false,
            files: BTreeMap::new(),
            handles: BTreeMap::new(),
            maps: BTreeMap::new(),
            regions: BTreeMap::new(),
            running: BTreeMap::new(),
            programs: BTreeMap::new(),
            snapshots: BTreeSet::new(),
            generations: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) -> Checked {
        match &step.action {
            Act::Mkfs { .. } => self.unmounted("mkfs"),
            Act::Mount => self.unmounted("mount").map(|()| self.mounted = true),
            Act::Umount if !self.point.fs.fs.on_device() => Err(format!(
                "{} loses its files at an umount; use `remount`, or take it from matrix.fs",
                self.point.fs
            )),
            Act::Umount => self.quiet("umount").map(|()| self.mounted = false),
            Act::Remount => self.quiet("remount"),
            Act::Create { file, pages, generation } => {
                self.new_file(file, *pages)?;
                self.generation(*generation, 1)
            }
            Act::CreateHole { file, pages } => self.new_file(file, *pages),
            Act::Open { handle, file, .. } => {
                self.existing(file)?;
                fresh("handle", &self.handles, handle)?;
                self.handles.insert(handle.clone(), file.clone());
                Ok(())
            }
            Act::Close { handle } => known("handle", &self.handles, handle).map(drop).map(|()| {
                self.handles.remove(handle);
            }),
            Act::Map { map, backed, pages, .. } => {
                fresh("mapping", &self.maps, map)?;
                let whole = match backed {
                    Backed::File(handle) => self.pages_of(handle)?,
                    _ => pages
                        .count
                        .ok_or("step `map` of anonymous memory has no `pages`; add `pages = 16`")?,
                };
                self.maps.insert(map.clone(), pages.count.unwrap_or(whole.saturating_sub(pages.first)));
                Ok(())
            }
            Act::Unmap { map } => known("mapping", &self.maps, map).map(drop).map(|()| {
                self.maps.remove(map);
            }),
            Act::Touch { map, .. } | Act::Pageout { map, .. } | Act::ReadMapping { map } => {
                known("mapping", &self.maps, map).map(drop)
            }
            Act::Store { map, generation, .. } => {
                known("mapping", &self.maps, map)?;
                self.generation(*generation, 1)
            }
            Act::Write { file, generation, .. } => {
                self.existing(file)?;
                self.generation(*generation, 1)
            }
            Act::Pin { region, map, pages, mode } => {
                if mode.is_none() && self.point.pin == Pin::None {
                    return Err(
                        "step `pin` has no mode in this case; add `matrix.pin` or `mode = ...`".into()
                    );
                }
                let whole = *known("mapping", &self.maps, map)?;
                fresh("region", &self.regions, region)?;
                let count = pages.count.unwrap_or(whole.saturating_sub(pages.first));
                within("mapping", map, pages.first + count, whole)?;
                self.regions.insert(region.clone(), (count, map.clone()));
                Ok(())
            }
            Act::QueryRegion { region } => known("region", &self.regions, region).map(drop),
            Act::Dma { program, region, pages, generation, passes, wait } => {
                let whole = known("region", &self.regions, region)?.0;
                within("region", region, pages.first + pages.count.unwrap_or(1), whole)?;
                self.programs.insert(program.clone(), region.clone());
                if self.running.contains_key(program) {
                    return Err(format!(
                        "program `{program}` is still running; wait for it or name this one"
                    ));
                }
                if *wait && *passes == 0 {
                    return Err(
                        "`passes` = 0 has no end to wait for; add `wait = false` and a dma-stop".into()
                    );
                }
                if !wait {
                    self.running.insert(program.clone(), region.clone());
                }
                self.generation(*generation, (*passes).max(1))
            }
            Act::DmaWait { program } => {
                known("running program", &self.running, program).map(drop).map(|()| {
                    self.running.remove(program);
                })
            }
            Act::DmaStop { program } => known("running program", &self.running, program).map(drop),
            Act::ProveDma { program } => self.visible(program),
            Act::Release { region, mode } => {
                if mode.is_none() && self.point.release == Release::None {
                    return Err(
                        "step `release` has no mode in this case; add `matrix.release` or `mode = ...`"
                            .into(),
                    );
                }
                known("region", &self.regions, region)?;
                if let Some((program, _)) = self.running.iter().find(|(_, of)| *of == region) {
                    return Err(format!(
                        "program `{program}` still writes into `{region}`; put a dma-wait before"
                    ));
                }
                self.regions.remove(region);
                Ok(())
            }
            Act::Fsync { handle, .. }
            | Act::ProveClean { handle }
            | Act::PageState { handle }
            | Act::Punch { handle, .. }
            | Act::ZeroRange { handle, .. }
            | Act::Allocate { handle, .. } => known("handle", &self.handles, handle).map(drop),
            Act::Truncate { handle, pages } => {
                let file = known("handle", &self.handles, handle)?.clone();
                self.files.insert(file, *pages);
                Ok(())
            }
            Act::Snapshot { file } => {
                self.snapshots.insert(file.clone());
                self.existing(file)
            }
            Act::Compare { file, against } => {
                if *against == Against::Snapshot && !self.snapshots.contains(file) {
                    return Err(format!("file `{file}` has no snapshot; put a `snapshot` step before"));
                }
                self.existing(file)
            }
            Act::Reflink { from, to } => {
                if !matches!(self.point.fs.fs, Fs::Xfs | Fs::Btrfs) {
                    return Err(format!("{} has no reflink; take it from matrix.fs", self.point.fs));
                }
                self.existing(from)?;
                fresh("file", &self.files, to)?;
                self.files.insert(to.clone(), self.files[from]);
                Ok(())
            }
            Act::PokeDevice { file, page, .. } => {
                if !self.point.fs.fs.on_device() {
                    return Err(format!("{} has no device to poke; take it from matrix.fs", self.point.fs));
                }
                self.unmounted("poke-device")?;
                within("file", file, page + 1, *known("file", &self.files, file)?)
            }
            Act::Syncfs => self.is_mounted(),
            Act::Sync | Act::Affinity { .. } | Act::WriteSys { .. } | Act::Exec { .. } => Ok(()),
        }
    }

    /// The program has ended, and its region is still pinned and mapped.
    fn visible(&self, program: &str) -> Checked {
        let region = self
            .programs
            .get(program)
            .ok_or_else(|| format!("program `{program}` has not run; put a dma before"))?;
        if self.running.contains_key(program) {
            return Err(format!("program `{program}` is still running; put a dma-wait before"));
        }
        let (_, map) = known("region", &self.regions, region)?;
        known("mapping", &self.maps, map).map(drop)
    }

    fn unmounted(&self, verb: &str) -> Checked {
        match self.mounted {
            true => Err(format!("step `{verb}` needs the file system unmounted; put an `umount` before")),
            false => Ok(()),
        }
    }

    fn is_mounted(&self) -> Checked {
        match self.mounted {
            true => Ok(()),
            false => Err("the file system is not mounted here; put a `mount` before".into()),
        }
    }

    /// Nothing is pinned or running; what is open and mapped is let go.
    fn quiet(&mut self, verb: &str) -> Checked {
        self.is_mounted()?;
        if let Some(region) = self.regions.keys().next() {
            return Err(format!("region `{region}` is still pinned at `{verb}`; put a `release` before"));
        }
        self.handles.clear();
        self.maps.clear();
        Ok(())
    }

    fn new_file(&mut self, file: &str, pages: u64) -> Checked {
        self.is_mounted()?;
        fresh("file", &self.files, file)?;
        fresh("handle", &self.handles, file)?;
        self.files.insert(file.to_owned(), pages);
        self.handles.insert(file.to_owned(), file.to_owned());
        Ok(())
    }

    fn existing(&self, file: &str) -> Checked {
        self.is_mounted()?;
        known("file", &self.files, file).map(drop)
    }

    fn pages_of(&self, handle: &str) -> Result<u64, String> {
        let file = known("handle", &self.handles, handle)?;
        Ok(self.files.get(file).copied().unwrap_or_default())
    }

    /// Each generation belongs to one step, so that bytes found later name who wrote them.
    fn generation(&mut self, first: u64, count: u64) -> Checked {
        for generation in first..first.saturating_add(count) {
            if !self.generations.insert(generation) {
                return Err(format!("generation {generation} is written twice; give this step another"));
            }
        }
        Ok(())
    }
}

fn within(noun: &str, name: &str, end: u64, whole: u64) -> Checked {
    match end <= whole {
        true => Ok(()),
        false => Err(format!("{noun} `{name}` has {whole} pages; this step reaches page {end}")),
    }
}
