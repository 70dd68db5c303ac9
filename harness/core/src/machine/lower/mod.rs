// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a scenario's step to questions for agent and disks. Knows what is open, mapped, pinned and held, so that a
//! scenario need not spell out offsets, lengths, handles and the clean-up before an unmount.

mod dio;
mod files;
mod filesystem;
mod jobs;
mod memory;
mod pins;
mod rules;

use super::CaseEnv;
use super::objects::Objects;
use super::op::{Op, acts};
use crate::plan::Case;
use crate::record::Role;
use crate::scenario::{Act, Point, Step as ScenarioStep};
use jobs::Begun;
use longpin_proto::agent::{Advice, Fallocate, Fill, OpenFlags, Step};
use longpin_proto::facts::{Extent, Source};
use std::collections::BTreeMap;

/// State of the translation.
#[derive(Debug)]
pub struct Lowering {
    env: CaseEnv,
    point: Point,
    cell_bytes: u32,
    steps: std::vec::IntoIter<ScenarioStep>,
    objects: Objects,
    /// Jobs that have not been joined.
    jobs: BTreeMap<String, Begun>,
    /// Block device of the file systems.
    device: String,
    /// It is the disk whose image the host reads.
    on_own_disk: bool,
    mounted: bool,
    /// Dio pins so far.
    dio_pins: u32,
    /// First byte of the second disk that no dio pin reads.
    dio_next: u64,
}

impl Lowering {
    pub fn new(case: &Case, env: CaseEnv) -> Self {
        let steps: Vec<ScenarioStep> = case.scenario.steps_of(&case.point).cloned().collect();
        Self {
            device: env.device.clone(),
            env,
            point: case.point.clone(),
            cell_bytes: case.scenario.cell_bytes,
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
        let ScenarioStep { line, action, deadline_ms, job, .. } = self.steps.next()?;
        let mut ops = match job {
            Some(job) => self.begin(job, action),
            None => self.whole(action),
        };
        for op in &mut ops {
            op.line = line;
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

    /// Rules that stand: what they hold must be let go before anything else at the end.
    pub fn standing_rules(&self) -> Vec<String> {
        self.objects.rules.iter().cloned().collect()
    }

    /// The host can look at the file system in its image.
    pub fn host_sees_fs(&self) -> bool {
        self.point.fs.fs.device().is_some() && self.on_own_disk
    }

    /// An act and the questions to the driver that it calls for.
    fn whole(&mut self, act: Act) -> Vec<Op> {
        let takes = self.takes_pages_of(&act);
        let mut ops = self.lower(act);
        ops.extend(takes.map(|file| self.query_regions_of(&file)).unwrap_or_default());
        ops
    }

    /// The file of which an act can take pinned pages away.
    fn takes_pages_of(&self, act: &Act) -> Option<String> {
        match act {
            Act::Write { file, .. } => Some(file.clone()),
            Act::Truncate { handle, .. }
            | Act::Punch { handle, .. }
            | Act::ZeroRange { handle, .. }
            | Act::Allocate { handle, .. } => Some(self.objects.file_of(handle)),
            _ => None,
        }
    }

    fn lower(&mut self, act: Act) -> Vec<Op> {
        match act {
            Act::Mkfs { args } => self.mkfs(args),
            Act::Mount => vec![self.mount()],
            Act::UseDevice { path } => self.use_device(path),
            Act::Restore => self.restore(),
            Act::Umount => self.umount(),
            Act::Remount => self.remount(),
            Act::Create { file, pages, generation } => self.create(file, pages, generation),
            Act::CreateHole { file, pages } => self.create_hole(file, pages),
            Act::Open { handle, file, write, direct } => {
                self.objects.handles.insert(handle.clone(), file.clone());
                vec![self.open(handle, &file, OpenFlags { write, direct, ..Default::default() })]
            }
            Act::Close { handle } => {
                self.objects.handles.remove(&handle);
                acts([Step::Close { file: handle }])
            }
            Act::Map { map, backed, pages, shared, write } => self.map(map, backed, pages, shared, write),
            Act::Unmap { map } => {
                self.objects.maps.remove(&map);
                acts([Step::Unmap { map }])
            }
            Act::Touch { map, pages, access } => {
                let (offset, len) = pages.bytes(self.objects.map_len(&map));
                acts([Step::Touch { map, offset, len, access }])
            }
            Act::Store { map, pages, generation } => {
                let (offset, len) = pages.bytes(self.objects.map_len(&map));
                acts([Step::Store { map, offset, len, fill: self.fill(generation) }])
            }
            Act::Write { file, pages, generation, direct } => self.write(&file, pages, generation, direct),
            Act::Pin { region, map, pages, mode } => self.pin(region, map, pages, mode),
            Act::QueryRegion { region } => self.query_region(region),
            Act::Dma { program, region, pages, generation, passes, wait } => {
                self.dma(program, region, pages, generation, passes, wait)
            }
            Act::DmaWait { program } => self.dma_wait(program),
            Act::DmaStop { program } => self.dma_stop(program),
            Act::ProveDma { program } => self.prove_dma(&program),
            Act::Release { region, mode } => self.release(region, mode),
            Act::Fsync { handle, data_only } => acts([Step::Fsync { file: handle, data_only }]),
            Act::Sync => acts([Step::Sync]),
            Act::Syncfs => acts([Step::Syncfs { dir: self.env.dir.clone() }]),
            Act::ProveClean { handle } => self.prove_clean(handle),
            Act::PageState { handle } => acts([self.page_state(handle)]),
            Act::ReadMapping { map } => self.read_mapping(&map),
            Act::Snapshot { file } => self.snapshot(&file),
            Act::Compare { file, against } => self.compare(&file, against),
            Act::Truncate { handle, pages } => self.truncate(handle, pages),
            Act::Punch { handle, pages } => self.fallocate(handle, Fallocate::PunchHole, pages),
            Act::ZeroRange { handle, pages } => self.fallocate(handle, Fallocate::ZeroRange, pages),
            Act::Allocate { handle, pages } => self.fallocate(handle, Fallocate::Allocate, pages),
            Act::Pageout { map, pages } => {
                let (offset, len) = pages.bytes(self.objects.map_len(&map));
                acts([Step::Advise { map, offset, len, advice: Advice::Pageout }])
            }
            Act::Reflink { from, to } => self.reflink(&from, to),
            Act::Affinity { cpu } => acts([Step::Affinity { cpu }]),
            Act::LoadModule { module, params } => acts([Step::LoadModule { name: module, params }]),
            Act::UnloadModule { module } => acts([Step::UnloadModule { name: module }]),
            Act::WriteSys { path, value } => acts([Step::WriteSys { path, value }]),
            Act::PokeDevice { file, page, byte } => self.poke(&file, page, byte),
            Act::Exec { argv, timeout_ms, verifies } => {
                let role = if verifies { Role::Verify } else { Role::Act };
                vec![Op::new(role, Step::Exec { argv, timeout_ms })]
            }
            Act::Settle { job } => self.settle(job),
            Act::Join { job } => self.join(&job),
            Act::Rule { rule, disk, matching, treatment } => self.add_rule(rule, disk, matching, treatment),
            Act::AwaitHeld { rule, pages } => self.await_held(rule, pages),
            Act::ReleaseHeld { rule } => self.release_held(rule),
            Act::DropRule { rule } => self.drop_rule(rule),
            Act::PowerCut { in_flight } => self.power_cut(in_flight),
        }
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.env.dir)
    }

    fn fill(&self, generation: u64) -> Fill {
        Fill { run: self.env.run, generation, cell_bytes: self.cell_bytes, source: Source::Cpu }
    }

    fn open(&self, handle: String, file: &str, flags: OpenFlags) -> Op {
        Op::new(Role::Act, Step::Open { file: handle, path: self.path(file), flags })
    }
}
