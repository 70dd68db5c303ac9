// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pinned regions and what the device wrote into them: by programs of the accelerator, or by the disk into the pages of
//! reads that it held.

use super::Story;
use crate::scenario::PAGE_BYTES;
use crate::verdict::content::{Content, content, describe};
use crate::verdict::pinned::Pinned;
use longpin_proto::agent::{Program, Step};
use longpin_proto::disk::Held;
use longpin_proto::facts::{Cells, DmaResult, RegionState, Source};
use longpin_wire::dma;

/// Offset and length in a region.
type Range = (u64, u64);

/// A direct read into a mapping that the second disk holds.
#[derive(Debug, Default)]
pub struct DioRead<'r> {
    /// First byte that it reads on the disk.
    device_offset: u64,
    /// Its requests, as the disk named them.
    held: &'r [Held],
    /// What was written into its pages, by offset in the region.
    written: Vec<Range>,
}

impl<'r> Story<'r> {
    /// The driver has pinned pages, or a direct read is under way into them.
    pub(super) fn pin(&mut self, region: &str, map: &str, offset: u64, len: u64, pages: u32) {
        let (file, start) = self.place(map).map_or((None, 0), |(path, start)| (Some(path), start));
        self.pinned_files.extend(file.clone());
        self.regions.insert(region.to_owned(), Pinned::new(file, start + offset, len, pages));
    }

    /// A direct read begins; its job and its rule have one name.
    pub(super) fn pin_by_dio(&mut self, name: &str, read: &Step) {
        let Step::ReadDirect { map, offset, len, device_offset, .. } = read else { return };
        self.pin(name, map, *offset, *len, u32::try_from(len / PAGE_BYTES).unwrap_or(u32::MAX));
        self.dio.insert(name.to_owned(), DioRead { device_offset: *device_offset, ..DioRead::default() });
    }

    /// The disk holds requests of a rule: of a direct read, if it has one.
    pub(super) fn hold(&mut self, rule: &str, held: &'r [Held]) {
        if let Some(read) = self.dio.get_mut(rule) {
            read.held = held;
        }
    }

    /// The disk wrote into the pages of reads that it holds.
    pub(super) fn dma_into_held(&mut self, rule: &str, program: Program) {
        self.last_program = Some(program);
        if let Some(read) = self.dio.get_mut(rule) {
            read.written.push((program.offset, program.len));
        }
        self.landed(&program, program.generation);
        self.land(rule, &program);
    }

    /// A direct read is over. A request that nobody wrote to has brought the disk's bytes into the mapping.
    pub(super) fn read_is_over(&mut self, read: &Step) {
        let Step::ReadDirect { device_offset, .. } = read else { return };
        let of_read = |(_, dio): &(&String, &DioRead<'_>)| dio.device_offset == *device_offset;
        let Some(name) = self.dio.iter().find(of_read).map(|(name, _)| name.clone()) else { return };
        self.regions.remove(&name);
        let Some(dio) = self.dio.remove(&name) else { return };
        let untouched = |held: &&Held| {
            let from = held.byte.saturating_sub(dio.device_offset);
            !dio.written.iter().any(|(offset, len)| *offset < from + held.len && from < offset + len)
        };
        if let Some(held) = dio.held.iter().find(untouched) {
            self.unproven.push(format!(
                "no DMA was done into the {} bytes that the direct read took from byte {} of the second disk: they \
                 now hold what that disk holds",
                held.len, held.byte
            ));
        }
    }

    /// Pinned pages of this range may have left the file.
    pub(super) fn doubt(&mut self, handle: &str, offset: u64, len: u64) {
        let Some(path) = self.handles.get(handle) else { return };
        for region in self.regions.values_mut().filter(|region| region.file.as_ref() == Some(path)) {
            region.doubt(offset, len);
        }
    }

    pub(super) fn resolve(&mut self, name: &str, state: &RegionState) {
        let Some(region) = self.regions.get_mut(name) else { return };
        self.unproven.extend(region.resolve(state).err());
    }

    pub(super) fn dma(&mut self, name: &str, result: &DmaResult) {
        let Some((region, program)) = self.programs.remove(name) else { return };
        self.last_program = Some(program);
        if result.status != dma::STATUS_OK && result.status != dma::STATUS_STOPPED {
            self.infra.push(format!("DMA program `{name}` ended with device status {}", result.status));
            return;
        }
        self.landed(&program, result.last_generation);
        self.land(&region, &program);
    }

    /// The ledger must have every cell of the last whole pass.
    fn landed(&mut self, program: &Program, last_generation: u64) {
        let wrote = self.ledger.cells(program, last_generation).len() as u64;
        let all = program.len / u64::from(program.cell_bytes.max(1));
        if last_generation < program.generation || wrote != all {
            self.unproven.push(format!(
                "DMA generation {} was not shown to land: the ledger has {wrote} of {all} cells",
                program.generation.max(last_generation)
            ));
        }
    }

    /// Let the program's writes change the file, or the orphaned pages.
    fn land(&mut self, region: &str, program: &Program) {
        let Some(region) = self.regions.get(region) else { return };
        let Some(path) = region.file.clone() else { return };
        self.unproven.extend(region.doubts());
        let (region, ledger) = (region.clone(), self.ledger);
        for entry in ledger.writes_of(program) {
            if let Some(page) = region.orphan(entry.file_offset) {
                self.orphans.insert((path.clone(), page));
                continue;
            }
            let content = Content::Stamp { source: Source::Dma, generation: entry.generation };
            self.write(&path, entry.file_offset, entry.len, content);
        }
    }

    pub(super) fn prove_dma(&mut self, cells: &Cells) {
        let Some(program) = self.last_program else { return };
        let generations = program.generation..program.generation.saturating_add(program.passes.max(1));
        let strange = cells.iter().find(|(_, state)| {
            !content(state, self.run).and_then(Content::generation).is_some_and(|g| generations.contains(&g))
        });
        if let Some((offset, state)) = strange {
            self.unproven.push(format!(
                "DMA generation {} is not seen through the mapping: byte {offset} holds {}",
                program.generation,
                describe(state, self.run)
            ));
        }
    }
}
