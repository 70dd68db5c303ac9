// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One case on paper: which names exist after each step, and what may be done with them.

use super::disk::StandingRule;
use super::pins::Region;
use crate::scenario::step::{Act, Against, Backed};
use crate::scenario::{Point, Step};
use std::collections::{BTreeMap, BTreeSet};

pub type Checked = Result<(), String>;

/// What exists at a point of a case.
#[derive(Clone)]
pub struct Walk<'p> {
    pub point: &'p Point,
    pub mounted: bool,
    /// Files and their pages.
    pub files: BTreeMap<String, u64>,
    /// Handles and their files.
    pub handles: BTreeMap<String, String>,
    /// Mappings and their pages.
    pub maps: BTreeMap<String, u64>,
    pub regions: BTreeMap<String, Region>,
    /// Programs that have not been waited for, with their region.
    pub running: BTreeMap<String, String>,
    /// Programs that have run, with the region.
    pub programs: BTreeMap<String, String>,
    snapshots: BTreeSet<String>,
    pub generations: BTreeSet<u64>,
    /// Rules that stand.
    pub rules: BTreeMap<String, StandingRule>,
    /// The content of a disk was noted.
    pub cut: bool,
    /// Jobs that have not been joined, with what they do and where they began.
    pub jobs: BTreeMap<String, (Act, usize)>,
    /// Names of all jobs so far.
    pub job_names: BTreeSet<String>,
}

pub fn known<'m, T>(noun: &str, names: &'m BTreeMap<String, T>, name: &str) -> Result<&'m T, String> {
    names.get(name).ok_or_else(|| match names.len() {
        0 => format!("{noun} `{name}` does not exist here; there is none"),
        _ => format!(
            "{noun} `{name}` does not exist here; there is {}",
            names.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    })
}

pub fn fresh<T>(noun: &str, names: &BTreeMap<String, T>, name: &str) -> Checked {
    match names.contains_key(name) {
        true => Err(format!("{noun} `{name}` exists already; give the second one another name")),
        false => Ok(()),
    }
}

impl<'p> Walk<'p> {
    pub fn new(point: &'p Point) -> Self {
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
            rules: BTreeMap::new(),
            cut: false,
            jobs: BTreeMap::new(),
            job_names: BTreeSet::new(),
        }
    }

    pub fn step(&mut self, step: &Step) -> Checked {
        match &step.job {
            Some(job) => self.spawn(job, step),
            None => self.act(&step.action),
        }
    }

    /// Check what an act needs, and note what it changes.
    pub fn act(&mut self, act: &Act) -> Checked {
        match act {
            Act::Mkfs { .. } => self.unmounted("mkfs"),
            Act::Mount => self.mount(),
            Act::Umount if !self.point.fs.fs.keeps_content => Err(format!(
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
            Act::Pin { region, map, pages, mode } => self.pin(region, map, *pages, *mode),
            Act::QueryRegion { region } => known("region", &self.regions, region).map(drop),
            Act::Dma { program, region, pages, generation, passes, wait } => {
                self.dma(program, region, *pages, *passes, *wait)?;
                self.generation(*generation, (*passes).max(1))
            }
            Act::DmaWait { program } => {
                known("running program", &self.running, program).map(drop).map(|()| {
                    self.running.remove(program);
                })
            }
            Act::DmaStop { program } => known("running program", &self.running, program).map(drop),
            Act::ProveDma { program } => self.visible(program),
            Act::Release { region, mode } => self.release(region, *mode),
            Act::Fsync { handle, .. }
            | Act::ProveClean { handle }
            | Act::PageState { handle }
            | Act::Punch { handle, .. }
            | Act::ZeroRange { handle, .. }
            | Act::Allocate { handle, .. } => known("handle", &self.handles, handle).map(drop),
            Act::Truncate { handle, pages } => self.truncate(handle, *pages),
            Act::Snapshot { file } => {
                self.nothing_held("snapshot")?;
                self.snapshots.insert(file.clone());
                self.existing(file)
            }
            Act::Compare { file, against } => {
                if *against == Against::Snapshot && !self.snapshots.contains(file) {
                    return Err(format!("file `{file}` has no snapshot; put a `snapshot` step before"));
                }
                self.nothing_held("compare")?;
                self.nothing_beside("compare")?;
                self.existing(file)
            }
            Act::Reflink { from, to } => {
                if !self.point.fs.fs.reflink {
                    return Err(format!("{} has no reflink; take it from matrix.fs", self.point.fs));
                }
                self.existing(from)?;
                fresh("file", &self.files, to)?;
                self.files.insert(to.clone(), self.files[from]);
                Ok(())
            }
            Act::PokeDevice { file, page, .. } => {
                if !self.point.fs.fs.host_reads() {
                    let fs = &self.point.fs;
                    return Err(format!(
                        "{fs} has no bytes of files at known places of a device; take it from matrix.fs"
                    ));
                }
                self.unmounted("poke-device")?;
                within("file", file, page + 1, *known("file", &self.files, file)?)
            }
            Act::Syncfs => self.is_mounted(),
            Act::UseDevice { .. } => self.use_device(),
            Act::Settle { job } => known("job", &self.jobs, job).map(drop),
            Act::Join { job } => self.join(job),
            Act::Rule { rule, disk, treatment, .. } => self.add_rule(rule, *disk, *treatment),
            Act::AwaitHeld { rule, .. } => self.holding(rule).map(drop),
            Act::ReleaseHeld { rule } => self.holding(rule).map(|rule| rule.released = true),
            Act::DropRule { rule } => self.drop_rule(rule),
            Act::PowerCut { .. } => self.power_cut(),
            Act::Restore => self.restore(),
            Act::Sync
            | Act::Affinity { .. }
            | Act::WriteSys { .. }
            | Act::LoadModule { .. }
            | Act::UnloadModule { .. }
            | Act::Exec { .. } => Ok(()),
        }
    }

    pub fn truncate(&mut self, handle: &str, pages: u64) -> Checked {
        let file = known("handle", &self.handles, handle)?.clone();
        self.files.insert(file, pages);
        Ok(())
    }

    pub fn unmounted(&self, verb: &str) -> Checked {
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

    /// Nothing is pinned, held or running; what is open and mapped is let go.
    pub fn quiet(&mut self, verb: &str) -> Checked {
        self.is_mounted()?;
        self.nothing_held(verb)?;
        self.nothing_beside(verb)?;
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

pub fn within(noun: &str, name: &str, end: u64, whole: u64) -> Checked {
    match end <= whole {
        true => Ok(()),
        false => Err(format!("{noun} `{name}` has {whole} pages; this step reaches page {end}")),
    }
}
