// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a scenario's steps to questions for agent and disks. Knows what is open, mapped, pinned and held, so that a
//! scenario need not spell out offsets, lengths, handles and the clean-up before an unmount.

use super::jobs::Begun;
use super::objects::{Objects, Region};
use super::op::{Op, acts};
use super::{Step, Taken, Verb};
use crate::matrix::Point;
use longpin_proto::agent::{self, Fill};
use longpin_proto::facts::{Extent, Source};
use std::collections::{BTreeMap, BTreeSet};

/// Where and under which label a case runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseEnv {
    /// Label for stamps and ledger, unique among all attempts that share a device daemon; not 0.
    pub run: u64,
    /// Block device of the file systems in the guest, `/dev/vda`.
    pub device: String,
    /// Second disk in the guest, from which dio pins read, `/dev/vdb`.
    pub second_device: String,
    /// The disks are ours: they audit and can be ruled. Else cases that need that are skipped.
    pub audited: bool,
    /// What this guest has not, and another one has.
    pub lacks: Lacks,
    /// Mount directory in the guest, `/mnt`.
    pub dir: String,
    /// Factor on every deadline, in percent: slow machines and TCG want more than 100.
    pub patience_percent: u64,
}

/// What the guest's kernel has not. Cases that need it are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Why there is no driver; none: there is one.
    pub driver: Option<String>,
    /// No program of the user's that pins.
    pub pinner: bool,
    /// Modules that it has neither as files nor built in; those that are given parameters, as no files.
    pub modules: BTreeSet<String>,
}

/// State of the translation.
#[derive(Debug)]
pub struct Translation {
    pub(super) env: CaseEnv,
    pub(super) point: Point,
    pub(super) cell_bytes: u32,
    pub(super) steps: std::vec::IntoIter<Step>,
    pub(super) objects: Objects,
    /// Jobs that have not been joined.
    pub(super) jobs: BTreeMap<String, Begun>,
    /// Block device of the file systems.
    pub(super) device: String,
    /// It is the disk whose image the host reads.
    pub(super) on_own_disk: bool,
    pub(super) mounted: bool,
    /// Dio pins so far.
    pub(super) dio_pins: u32,
    /// First byte of the second disk that no dio pin reads.
    pub(super) dio_next: u64,
}

impl Translation {
    /// At the start of a case of `point`, with the steps that it has.
    pub fn new(steps: Vec<Step>, point: &Point, cell_bytes: u32, env: CaseEnv) -> Self {
        Self {
            device: env.device.clone(),
            env,
            point: point.clone(),
            cell_bytes,
            steps: steps.into_iter(),
            objects: Objects::default(),
            jobs: BTreeMap::new(),
            on_own_disk: true,
            mounted: false,
            dio_pins: 0,
            dio_next: 0,
        }
    }

    /// The questions of the next act, deadlines stretched; none: the scenario is over.
    pub fn next_step(&mut self) -> Option<Vec<Op>> {
        let step = self.steps.next()?;
        let label = step.label();
        let Step { line, deadline_ms, job, verb, .. } = step;
        let mut ops = match job {
            Some(job) => self.begin(job, verb),
            None => {
                let mut ops = verb.ask(self);
                ops.extend(self.queries_after(&*verb));
                ops
            }
        };
        for op in &mut ops {
            op.line = line;
            op.label.clone_from(&label);
            op.timeout_ms = deadline_ms.unwrap_or(op.timeout_ms);
            op.stretch(self.env.patience_percent);
        }
        Some(ops)
    }

    /// Length in bytes that the file at `path` should have.
    pub fn len_of(&self, path: &str) -> u64 {
        self.objects.files.iter().find(|(file, _)| self.path(file) == path).map_or(0, |(_, len)| *len)
    }

    /// Remember where a file is on the device.
    pub fn note_extents(&mut self, path: &str, extents: &[Extent]) {
        self.objects.extents.insert(path.to_owned(), extents.to_vec());
    }

    /// Rules that stand: what they hold must be released before anything else at the end.
    pub fn standing_rules(&self) -> Vec<String> {
        self.objects.rules.iter().cloned().collect()
    }

    /// The host can look at the file system in its image.
    pub fn host_sees_fs(&self) -> bool {
        self.point.fs.fs.device().is_some() && self.on_own_disk
    }

    /// Questions to the driver that a step calls for: whether pinned pages left the file is a fact to be had from it, not
    /// a guess.
    pub(super) fn queries_after(&self, verb: &dyn Verb) -> Vec<Op> {
        let file = match verb.takes_pages_of() {
            Some(Taken::File(file)) => file.to_owned(),
            Some(Taken::Handle(handle)) => self.objects.file_of(handle),
            None => return Vec::new(),
        };
        let of_file =
            |region: &Region| region.file.as_ref() == Some(&file) && region.by_driver && region.holds_pages;
        let regions = self.objects.regions.iter().filter(|(_, region)| of_file(region));
        acts(regions.map(|(name, _)| agent::Step::QueryRegion { region: name.clone() }).collect::<Vec<_>>())
    }

    pub(super) fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.env.dir)
    }

    pub(super) fn fill(&self, generation: u64) -> Fill {
        Fill { run: self.env.run, generation, cell_bytes: self.cell_bytes, source: Source::Cpu }
    }
}
