// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins, DMA into them, their release: by the driver, or by the second disk where the region is a direct read.

use super::Lowering;
use crate::machine::objects::{Placed, Region};
use crate::machine::op::{DMA_MS, Op, acts};
use crate::record::Role;
use crate::scenario::{Pages, Pin, Release};
use longpin_proto::agent::{Program, Step};

impl Lowering {
    pub(super) fn pin(&mut self, region: String, map: String, pages: Pages, mode: Option<Pin>) -> Vec<Op> {
        let pin = mode.unwrap_or(self.point.pin);
        let (file, start, whole) =
            self.objects.maps.get(&map).map_or((None, 0, 0), |m| (m.file.clone(), m.offset, m.len));
        let (offset, len) = pages.bytes(whole);
        let file_offset = start + offset;
        let mut pinned = Region { map: map.clone(), file, offset, len, dio: None };
        if pin == Pin::Dio {
            let (dio, ops) = self.pin_by_dio(&region, map, offset, len, file_offset);
            pinned.dio = Some(dio);
            self.objects.regions.insert(region, pinned);
            return ops;
        }
        let Some(mode) = pin.mode() else { return Vec::new() };
        self.objects.regions.insert(region.clone(), pinned);
        acts([Step::Pin { region, map, offset, len, mode, file_offset, run: self.env.run }])
    }

    /// The driver knows nothing of a direct read.
    pub(super) fn query_region(&self, region: String) -> Vec<Op> {
        match self.objects.dio(&region) {
            Some(_) => Vec::new(),
            None => acts([Step::QueryRegion { region }]),
        }
    }

    /// Whether pinned pages left the file is a fact to be had from the driver, not a guess.
    pub(super) fn query_regions_of(&self, file: &str) -> Vec<Op> {
        let of_file = |region: &Region| region.file.as_deref() == Some(file) && region.dio.is_none();
        let regions = self.objects.regions.iter().filter(|(_, region)| of_file(region));
        acts(regions.map(|(name, _)| Step::QueryRegion { region: name.clone() }).collect::<Vec<_>>())
    }

    pub(super) fn dma(
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
        if let Some(dio) = self.objects.dio(&region) {
            return (generation..generation + passes)
                .map(|generation| self.dma_into_held(dio, offset, len, generation))
                .collect();
        }
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
            ops.extend(self.dma_wait(program));
        }
        ops
    }

    pub(super) fn dma_wait(&self, program: String) -> Vec<Op> {
        if self.is_over(&program) {
            return Vec::new();
        }
        let timeout_ms = u64::from(DMA_MS) * self.env.patience_percent / 100;
        let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
        acts([Step::DmaWait { program, timeout_ms }])
    }

    pub(super) fn dma_stop(&self, program: String) -> Vec<Op> {
        if self.is_over(&program) {
            return Vec::new();
        }
        acts([Step::DmaStop { program }])
    }

    /// The disk writes while it answers: such a program is over when it was begun.
    fn is_over(&self, program: &str) -> bool {
        let placed = self.objects.programs.get(program);
        placed.is_some_and(|placed| self.objects.dio(&placed.region).is_some())
    }

    pub(super) fn prove_dma(&self, program: &str) -> Vec<Op> {
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

    pub(super) fn release(&mut self, region: String, mode: Option<Release>) -> Vec<Op> {
        if let Some(dio) = self.objects.regions.remove(&region).and_then(|region| region.dio) {
            return self.release_dio(dio);
        }
        let dirty = mode.unwrap_or(self.point.release) == Release::Dirty;
        acts([Step::Release { region, dirty }])
    }
}
