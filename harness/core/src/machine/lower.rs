// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a scenario's step to the agent's steps. Knows what is open, mapped and pinned, so that a scenario need not
//! spell out offsets, lengths, handles and the clean-up before an unmount.

use super::CaseEnv;
use super::objects::{Mapping, Objects, Placed, Region};
use super::op::{DMA_MS, Op, acts};
use crate::plan::Case;
use crate::record::Role;
use crate::scenario::{Act, Against, Backed, PAGE_BYTES, Pages, Point, Release, Step as ScenarioStep};
use longpin_proto::agent::{Advice, Backing, Fallocate, Fill, OpenFlags, Program, Step, Via};
use longpin_proto::facts::{Extent, Source};

/// State of the translation.
#[derive(Debug)]
pub struct Lowering {
    env: CaseEnv,
    point: Point,
    cell_bytes: u32,
    steps: std::vec::IntoIter<ScenarioStep>,
    objects: Objects,
}

impl Lowering {
    pub fn new(case: &Case, env: CaseEnv) -> Self {
        let steps: Vec<ScenarioStep> = case.scenario.steps_of(&case.point).cloned().collect();
        Self {
            env,
            point: case.point.clone(),
            cell_bytes: case.scenario.cell_bytes,
            steps: steps.into_iter(),
            objects: Objects::default(),
        }
    }

    /// The agent's steps of the next act; none: the scenario is over.
    pub fn next_step(&mut self) -> Option<Vec<Op>> {
        let ScenarioStep { line, action, deadline_ms, .. } = self.steps.next()?;
        let mut ops = self.lower(action);
        for op in &mut ops {
            op.line = line;
            op.timeout_ms = deadline_ms.unwrap_or(op.timeout_ms);
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

    fn lower(&mut self, act: Act) -> Vec<Op> {
        match act {
            Act::Mkfs { args } => self.mkfs(args),
            Act::Mount => vec![self.mount()],
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
            Act::QueryRegion { region } => acts([Step::QueryRegion { region }]),
            Act::Dma { program, region, pages, generation, passes, wait } => {
                self.dma(program, region, pages, generation, passes, wait)
            }
            Act::DmaWait { program } => acts([self.dma_wait(program)]),
            Act::DmaStop { program } => acts([Step::DmaStop { program }]),
            Act::ProveDma { program } => self.prove_dma(&program),
            Act::Release { region, mode } => {
                self.objects.regions.remove(&region);
                let dirty = mode.unwrap_or(self.point.release) == Release::Dirty;
                acts([Step::Release { region, dirty }])
            }
            Act::Fsync { handle, data_only } => acts([Step::Fsync { file: handle, data_only }]),
            Act::Sync => acts([Step::Sync]),
            Act::Syncfs => acts([Step::Syncfs { dir: self.env.dir.clone() }]),
            Act::ProveClean { handle } => {
                let step = self.page_state(handle);
                vec![Op { poll: true, ..Op::new(Role::ProveClean, step) }]
            }
            Act::PageState { handle } => acts([self.page_state(handle)]),
            Act::ReadMapping { map } => self.read_mapping(&map),
            Act::Snapshot { file } => {
                let via = if self.point.fs.fs.on_device() { Via::Direct } else { Via::Buffered };
                vec![Op::new(Role::Snapshot, self.read_cells(&file, via))]
            }
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
            Act::WriteSys { path, value } => acts([Step::WriteSys { path, value }]),
            Act::PokeDevice { file, page, byte } => self.poke(&file, page, byte),
            Act::Exec { argv, timeout_ms } => acts([Step::Exec { argv, timeout_ms }]),
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

    fn mkfs(&self, args: Vec<String>) -> Vec<Op> {
        let fs = self.point.fs.fs;
        if !fs.on_device() {
            return Vec::new();
        }
        let args = fs.mkfs_args().iter().map(|arg| (*arg).to_owned()).chain(args).collect();
        acts([Step::Mkfs { fs: fs.to_string(), device: self.env.device.clone(), args }])
    }

    fn mount(&self) -> Op {
        let fs = self.point.fs.fs;
        let device = if fs.on_device() { self.env.device.clone() } else { fs.to_string() };
        let options = self.point.fs.options.clone();
        Op::new(Role::Act, Step::Mount { fs: fs.to_string(), device, dir: self.env.dir.clone(), options })
    }

    /// Let go of mappings and handles.
    fn let_go(&mut self) -> Vec<Op> {
        let maps = std::mem::take(&mut self.objects.maps).into_keys().map(|map| Step::Unmap { map });
        let handles = std::mem::take(&mut self.objects.handles).into_keys().map(|file| Step::Close { file });
        acts(maps.chain(handles).collect::<Vec<_>>())
    }

    fn umount(&mut self) -> Vec<Op> {
        let mut ops = self.let_go();
        let poked: Vec<Step> = self
            .steps
            .as_slice()
            .iter()
            .filter_map(|step| match &step.action {
                Act::PokeDevice { file, .. } => Some(Step::Extents { path: self.path(file) }),
                _ => None,
            })
            .collect();
        ops.extend(acts(poked));
        ops.extend(acts([Step::Unmount { dir: self.env.dir.clone() }, Step::DropCaches]));
        ops
    }

    fn remount(&mut self) -> Vec<Op> {
        if !self.point.fs.fs.on_device() {
            return self.let_go();
        }
        let mut ops = self.umount();
        ops.push(self.mount());
        ops
    }

    fn create(&mut self, file: String, pages: u64, generation: u64) -> Vec<Op> {
        let len = pages * PAGE_BYTES;
        let mut ops = self.new_file(&file, len);
        ops.extend(acts([
            Step::WriteCells { file: file.clone(), offset: 0, len, fill: self.fill(generation) },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }

    fn create_hole(&mut self, file: String, pages: u64) -> Vec<Op> {
        let len = pages * PAGE_BYTES;
        let mut ops = self.new_file(&file, len);
        ops.extend(acts([
            Step::Truncate { file: file.clone(), len },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }

    fn new_file(&mut self, file: &str, len: u64) -> Vec<Op> {
        self.objects.files.insert(file.to_owned(), len);
        self.objects.handles.insert(file.to_owned(), file.to_owned());
        let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
        vec![self.open(file.to_owned(), file, flags)]
    }

    fn map(&mut self, map: String, backed: Backed, pages: Pages, shared: bool, write: bool) -> Vec<Op> {
        let (file, backing, offset, len) = match backed {
            Backed::File(handle) => {
                let file = self.objects.file_of(&handle);
                let (offset, len) = pages.bytes(self.objects.file_len(&file));
                (Some(file), Backing::File { file: handle, offset }, offset, len)
            }
            Backed::Anonymous => (None, Backing::Anonymous, 0, pages.bytes(0).1),
            Backed::Hugetlb => (None, Backing::Hugetlb, 0, pages.bytes(0).1),
        };
        self.objects.maps.insert(map.clone(), Mapping { file, offset, len });
        acts([Step::Map { map, backing, len, shared, write }])
    }

    /// Write through a handle of the step's own: whoever uses O_DIRECT for one write does not want it for the rest.
    fn write(&mut self, file: &str, pages: Pages, generation: u64, direct: bool) -> Vec<Op> {
        let (offset, len) = pages.bytes(self.objects.file_len(file));
        let handle = format!("{file}.write");
        let mut ops =
            vec![self.open(handle.clone(), file, OpenFlags { write: true, direct, ..Default::default() })];
        ops.extend(acts([
            Step::WriteCells { file: handle.clone(), offset, len, fill: self.fill(generation) },
            Step::Close { file: handle },
        ]));
        ops.extend(self.query_regions_of(file));
        ops
    }

    fn pin(
        &mut self,
        region: String,
        map: String,
        pages: Pages,
        mode: Option<longpin_proto::agent::PinMode>,
    ) -> Vec<Op> {
        let Some(mode) = mode.or(self.point.pin.mode()) else { return Vec::new() };
        let (file, start, whole) =
            self.objects.maps.get(&map).map_or((None, 0, 0), |m| (m.file.clone(), m.offset, m.len));
        let (offset, len) = pages.bytes(whole);
        self.objects.regions.insert(region.clone(), Region { map: map.clone(), file, offset, len });
        let file_offset = start + offset;
        acts([Step::Pin { region, map, offset, len, mode, file_offset, run: self.env.run }])
    }

    fn dma(
        &mut self,
        program: String,
        region: String,
        pages: Pages,
        generation: u64,
        passes: u64,
        wait: bool,
    ) -> Vec<Op> {
        let (offset, len) = pages.bytes(self.objects.regions.get(&region).map_or(0, |r| r.len));
        self.objects.programs.insert(program.clone(), Placed { region: region.clone(), offset, len });
        let dma = Program {
            offset,
            len,
            generation,
            passes,
            random_seed: None,
            cell_bytes: self.cell_bytes,
            rate_cells_per_s: 0,
            duration_us: 0,
            start_delay_us: 0,
            fill_byte: None,
        };
        let mut ops = acts([Step::Dma { program: program.clone(), region, dma, run: self.env.run }]);
        if wait {
            ops.extend(acts([self.dma_wait(program)]));
        }
        ops
    }

    fn dma_wait(&self, program: String) -> Step {
        let timeout_ms = u64::from(DMA_MS) * self.env.patience_percent / 100;
        Step::DmaWait { program, timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX) }
    }

    fn prove_dma(&self, program: &str) -> Vec<Op> {
        let Some(Placed { region, offset, len }) = self.objects.programs.get(program) else {
            return Vec::new();
        };
        let Some(region) = self.objects.regions.get(region) else { return Vec::new() };
        let Some(mapping) = self.objects.maps.get(&region.map) else { return Vec::new() };
        let offset = region.offset + offset;
        let step = Step::ReadMapping {
            map: region.map.clone(),
            offset,
            len: *len,
            cell_bytes: self.cell_bytes,
            file_offset: mapping.offset + offset,
        };
        vec![Op::new(Role::ProveDma, step)]
    }

    fn read_mapping(&self, map: &str) -> Vec<Op> {
        let Some(mapping) = self.objects.maps.get(map) else { return Vec::new() };
        acts([Step::ReadMapping {
            map: map.to_owned(),
            offset: 0,
            len: mapping.len,
            cell_bytes: self.cell_bytes,
            file_offset: mapping.offset,
        }])
    }

    fn page_state(&self, handle: String) -> Step {
        let len = self.objects.file_len(&self.objects.file_of(&handle));
        Step::PageState { file: handle, offset: 0, len }
    }

    fn read_cells(&self, file: &str, via: Via) -> Step {
        let (path, len) = (self.path(file), self.objects.file_len(file));
        Step::ReadCells { path, offset: 0, len, cell_bytes: self.cell_bytes, via }
    }

    fn compare(&self, file: &str, against: Against) -> Vec<Op> {
        let role = match against {
            Against::Writes => Role::CompareWrites,
            Against::Snapshot => Role::CompareSnapshot,
        };
        let mut ops = vec![Op::new(role, self.read_cells(file, Via::Buffered))];
        if self.point.fs.fs.on_device() {
            ops.push(Op::new(role, Step::Extents { path: self.path(file) }));
        }
        ops
    }

    fn truncate(&mut self, handle: String, pages: u64) -> Vec<Op> {
        let (file, len) = (self.objects.file_of(&handle), pages * PAGE_BYTES);
        self.objects.files.insert(file.clone(), len);
        let mut ops = acts([Step::Truncate { file: handle, len }]);
        ops.extend(self.query_regions_of(&file));
        ops
    }

    fn fallocate(&mut self, handle: String, mode: Fallocate, pages: Pages) -> Vec<Op> {
        let file = self.objects.file_of(&handle);
        let (offset, len) = pages.bytes(self.objects.file_len(&file));
        if mode == Fallocate::Allocate {
            let end = self.objects.file_len(&file).max(offset + len);
            self.objects.files.insert(file.clone(), end);
        }
        let mut ops = acts([Step::Fallocate { file: handle, mode, offset, len }]);
        ops.extend(self.query_regions_of(&file));
        ops
    }

    /// Whether pinned pages left the file is a fact to be had from the driver, not a guess.
    fn query_regions_of(&self, file: &str) -> Vec<Op> {
        let of_file = self.objects.regions.iter().filter(|(_, region)| region.file.as_deref() == Some(file));
        acts(of_file.map(|(name, _)| Step::QueryRegion { region: name.clone() }).collect::<Vec<_>>())
    }

    fn reflink(&mut self, from: &str, to: String) -> Vec<Op> {
        let mut ops = Vec::new();
        let source = match self.objects.handles.iter().find(|(_, file)| *file == from) {
            Some((handle, _)) => handle.clone(),
            None => {
                self.objects.handles.insert(from.to_owned(), from.to_owned());
                ops.push(self.open(from.to_owned(), from, OpenFlags::default()));
                from.to_owned()
            }
        };
        ops.extend(self.new_file(&to, self.objects.file_len(from)));
        ops.extend(acts([Step::Reflink { from: source, to }]));
        ops
    }

    /// The page's place by the extents taken before the unmount. A page without a place cannot be poked: the step
    /// then goes to offset 0 with length 0, which the agent refuses.
    fn poke(&self, file: &str, page: u64, byte: u8) -> Vec<Op> {
        let (offset, len) =
            self.objects.place(&self.path(file), page * PAGE_BYTES, PAGE_BYTES).unwrap_or_default();
        acts([Step::PokeDevice { device: self.env.device.clone(), offset, len, byte }])
    }
}
