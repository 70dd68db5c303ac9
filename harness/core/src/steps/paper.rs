// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One case on paper: which names exist after each step, and what may be done with them.

use super::disk::StandingRule;
use super::{Step, Verb};
use crate::matrix::{Pin, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is wrong, if something is.
pub type Checked = Result<(), String>;

/// What exists at a point of a case.
#[derive(Debug, Clone)]
pub struct Paper<'p> {
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
    /// Files that have a snapshot.
    pub snapshots: BTreeSet<String>,
    pub generations: BTreeSet<u64>,
    /// Rules that stand.
    pub rules: BTreeMap<String, StandingRule>,
    /// The content of a disk was noted.
    pub cut: bool,
    /// Jobs that have not been joined, with what they do and where they began.
    pub jobs: BTreeMap<String, (Arc<dyn Verb>, usize)>,
    /// Names of all jobs so far.
    pub job_names: BTreeSet<String>,
}

/// A pinned region.
#[derive(Debug, Clone)]
pub struct Region {
    pub pages: u64,
    pub map: String,
    /// How it is pinned.
    pub mode: Pin,
    /// A program wrote into it.
    pub written: bool,
    /// Pages that programs wrote from the first one on, where they can only go forward.
    pub front: u64,
}

/// The object of this name.
pub fn known<'m, T>(noun: &str, names: &'m BTreeMap<String, T>, name: &str) -> Result<&'m T, String> {
    names.get(name).ok_or_else(|| match names.len() {
        0 => format!("{noun} `{name}` does not exist here; there is none"),
        _ => format!(
            "{noun} `{name}` does not exist here; there is {}",
            names.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    })
}

/// The name is not taken yet.
pub fn fresh<T>(noun: &str, names: &BTreeMap<String, T>, name: &str) -> Checked {
    match names.contains_key(name) {
        true => Err(format!("{noun} `{name}` exists already; give the second one another name")),
        false => Ok(()),
    }
}

impl<'p> Paper<'p> {
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
            Some(job) => self.spawn(job, step.line, &step.verb),
            None => step.verb.check(self),
        }
    }

    pub(super) fn handle(&self, handle: &str) -> Checked {
        known("handle", &self.handles, handle).map(drop)
    }

    pub(super) fn mapping(&self, map: &str) -> Checked {
        known("mapping", &self.maps, map).map(drop)
    }

    pub fn unmounted(&self, verb: &str) -> Checked {
        match self.mounted {
            true => Err(format!("step `{verb}` needs the file system unmounted; put an `umount` before")),
            false => Ok(()),
        }
    }

    pub(super) fn is_mounted(&self) -> Checked {
        match self.mounted {
            true => Ok(()),
            false => Err("the file system is not mounted here; put a `mount` before".into()),
        }
    }

    /// Nothing is pinned, held or running; what is open and mapped is closed.
    pub fn quiet(&mut self, verb: &str) -> Checked {
        self.is_mounted()?;
        self.nothing_held(verb)?;
        self.no_jobs(verb)?;
        if let Some(region) = self.regions.keys().next() {
            return Err(format!("region `{region}` is still pinned at `{verb}`; put a `release` before"));
        }
        self.handles.clear();
        self.maps.clear();
        Ok(())
    }

    /// Each generation belongs to one step, so that bytes found later name who wrote them.
    pub(super) fn generation(&mut self, first: u64, count: u64) -> Checked {
        for generation in first..first.saturating_add(count) {
            if !self.generations.insert(generation) {
                return Err(format!("generation {generation} is written twice; give this step another"));
            }
        }
        Ok(())
    }
}

/// A range ends within its object.
pub fn within(noun: &str, name: &str, end: u64, whole: u64) -> Checked {
    match end <= whole {
        true => Ok(()),
        false => Err(format!("{noun} `{name}` has {whole} pages; this step reaches page {end}")),
    }
}
