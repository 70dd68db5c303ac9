// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins taken, written through and given back: by programs of the accelerator, or by the disk into the pages of reads
//! that it holds.

use super::pin::{DirectRead, Pin, PinnedBy};
use super::{Content, KeptOff, PageWrite, Replay, content, describe};
use longpin_proto::agent::{Outcome, PinMode, Program};
use longpin_proto::disk::Held;
use longpin_proto::facts::{Cells, DmaResult, RegionState, Source};
use longpin_wire::{dma, ledger};
use std::collections::BTreeMap;

impl<'r> Replay<'r> {
    /// The driver has pinned pages, or a direct read is under way into them.
    pub(super) fn pin(&mut self, name: &str, map: &str, offset: u64, len: u64, by: PinnedBy<'r>, at: u64) {
        let place = self.place(map);
        let memory = (place.name, place.of_file, place.offset + offset);
        self.pins.push(Pin::new(name, memory, len, by, at));
    }

    /// The device knows the last pin by a number, from when its ledger has it.
    pub(super) fn announced(&mut self, label: u64, pages: u32) {
        let (Some(pin), region) = (self.pins.last_mut(), self.regions.next()) else { return };
        (pin.label, pin.pages) = (label, pages);
        if let Some((number, at)) = region {
            (pin.number, pin.from) = (Some(number), at);
        }
    }

    /// The last pin of this name.
    fn pin_named(&mut self, name: &str) -> Option<&mut Pin<'r>> {
        self.pins.iter_mut().rev().find(|pin| pin.name == name)
    }

    /// The direct read of this name, while it is under way.
    fn direct_read(&mut self, name: &str) -> Option<&mut DirectRead<'r>> {
        self.pin_named(name).filter(|pin| pin.is_held()).and_then(Pin::direct_read)
    }

    /// The pin whose pages an entry of the ledger speaks of.
    pub fn pin_of(&self, number: u32) -> Option<&Pin<'r>> {
        self.pins.iter().find(|pin| pin.number == Some(number))
    }

    pub(super) fn released(&mut self, name: &str, dirty: bool, at: u64) {
        if let Some(pin) = self.pin_named(name) {
            (pin.to, pin.dirty) = (Some(at), Some(dirty));
        }
    }

    /// Who owned the driver's pins is gone, in the middle of programs: what these wrote until then is written. The driver sets
    /// dirty what was pinned for writing.
    pub(super) fn owner_died(&mut self, at: u64) {
        let of_driver = |pin: &&Pin<'_>| pin.is_held() && matches!(pin.by, PinnedBy::Driver(_));
        let dead: BTreeMap<String, bool> = self
            .pins
            .iter()
            .filter(of_driver)
            .map(|pin| {
                let for_reading = matches!(pin.mode(), Some(PinMode::LongtermRo | PinMode::NotifierRo));
                (pin.name.clone(), !for_reading)
            })
            .collect();
        for (name, (region, program)) in std::mem::take(&mut self.programs) {
            if !dead.contains_key(&region) {
                self.programs.insert(name, (region, program));
                continue;
            }
            self.last_program = Some(program);
            if self.ledger.writes_of(&program).next().is_none() {
                self.gaps.push(format!(
                    "DMA program `{name}` was not shown to be under way when its owner was killed: the ledger has no write of it"
                ));
            }
            self.land(&region, &program);
        }
        for (name, dirty) in dead {
            self.released(&name, dirty, at);
        }
    }

    /// The disk holds requests of a rule: of a direct read, if it has one.
    pub(super) fn hold(&mut self, rule: &str, held: &'r [Held]) {
        if let Some(read) = self.direct_read(rule) {
            read.held = held;
        }
    }

    /// The disk has announced the pages of reads that it holds, or wrote into them.
    pub(super) fn held_region(&mut self, rule: &str, number: u32, label: u64) {
        if let Some(pin) = self.pin_named(rule) {
            (pin.number, pin.label) = (Some(number), label);
        }
    }

    /// The disk wrote into the pages of reads that it holds.
    pub(super) fn dma_into_held(&mut self, rule: &str, program: Program) {
        self.last_program = Some(program);
        if let Some(read) = self.direct_read(rule) {
            read.written.push((program.offset, program.len));
        }
        self.landed(&program, program.generation);
        self.land(rule, &program);
    }

    /// The disk answers the reads that it held: the kernel lets go of their pages.
    pub(super) fn read_completes(&mut self, rule: &str, at: u64) {
        if let Some(pin) = self.pin_named(rule).filter(|pin| pin.mode().is_none()) {
            pin.to = Some(at);
        }
    }

    /// A direct read is over. A request that nobody wrote to has brought the disk's bytes into the mapping.
    pub(super) fn read_is_over(&mut self, name: &str, outcome: &Outcome, at: u64) {
        let Some(pin) = self.pin_named(name) else { return };
        (pin.to, pin.dirty) = (pin.to.or(Some(at)), Some(true));
        let Some(read) = pin.direct_read().filter(|_| matches!(outcome, Outcome::Done { .. })) else {
            return;
        };
        let untouched = |held: &&Held| {
            let from = held.byte.saturating_sub(read.device_offset);
            !read.written.iter().any(|(offset, len)| *offset < from + held.len && from < offset + len)
        };
        if let Some(held) = read.held.iter().find(untouched) {
            self.gaps.push(format!(
                "no DMA was done into the {} bytes that the direct read took from byte {} of the second disk: they \
                 now hold what that disk holds",
                held.len, held.byte
            ));
        }
    }

    /// Pinned pages of this range may have left the file.
    pub(super) fn doubt(&mut self, path: &str, offset: u64, len: u64, at: u64) {
        let ours = self
            .pins
            .iter_mut()
            .filter(|pin| pin.is_held() && pin.holds_pages() && pin.of_file && pin.path == path);
        ours.for_each(|pin| pin.doubt(offset, len, at));
    }

    pub(super) fn resolve(&mut self, name: &str, state: &RegionState, at: u64) {
        let Some(pin) = self.pins.iter_mut().rev().find(|pin| pin.name == name && pin.is_held()) else {
            return;
        };
        self.gaps.extend(pin.resolve(state, at, &mut self.memory).err());
    }

    pub(super) fn dma(&mut self, name: &str, result: &DmaResult, at: u64) {
        let Some((region, program)) = self.programs.remove(name) else { return };
        self.last_program = Some(program);
        // One without an end owns the generations up to the pass in which it was stopped; later ones are another's.
        let program = match program.passes {
            0 => Program { passes: result.last_generation.saturating_sub(program.generation) + 2, ..program },
            _ => program,
        };
        if result.status == dma::STATUS_FAULT {
            self.page_faults.push((name.to_owned(), result.fault_errno.unwrap_or(0)));
            // What it wrote until then is written.
            return self.land(&region, &program);
        }
        if result.status != dma::STATUS_OK && result.status != dma::STATUS_STOPPED {
            self.faults.push(format!("DMA program `{name}` ended with device status {}", result.status));
            return;
        }
        if result.kept_off > 0 {
            return self.kept_off.push(KeptOff { region, program, at });
        }
        self.landed(&program, result.last_generation);
        self.land(&region, &program);
    }

    /// The ledger must have every cell of the last whole pass.
    fn landed(&mut self, program: &Program, last_generation: u64) {
        let wrote = self.ledger.cells(program, last_generation).len() as u64;
        let all = program.len / u64::from(program.cell_bytes.max(1));
        if last_generation < program.generation || wrote != all {
            self.gaps.push(format!(
                "DMA generation {} was not shown to land: the ledger has {wrote} of {all} cells",
                program.generation.max(last_generation)
            ));
        }
    }

    /// Let the program's writes change the file, or the orphaned pages.
    fn land(&mut self, name: &str, program: &Program) {
        let Some(pin) = self.pin_named(name).filter(|pin| pin.is_held()).cloned() else {
            return;
        };
        self.gaps.extend(pin.doubts());
        let ledger = self.ledger.clone();
        for entry in ledger.writes_of(program) {
            // Memory that is no file's has none to leave.
            if let Some(page) = pin.orphan(entry.file_offset).filter(|_| pin.of_file) {
                self.orphans.insert((pin.path.clone(), page));
                continue;
            }
            let content = Content::Stamp { source: Source::Dma, generation: entry.generation };
            self.wrote(&pin.path, pin.of_file, entry.file_offset, entry.len, content);
        }
    }

    /// What the device's ledger says of memory, waited for or not: writes, and when a region became quiet.
    pub(super) fn device_wrote(&mut self) {
        let ledger = self.ledger.clone();
        for entry in ledger.entries.iter() {
            let at = self.clock.since(entry.time_ns);
            let Some(pin) = self.pins.iter_mut().find(|pin| pin.number == Some(entry.region)) else {
                continue;
            };
            match entry.kind {
                ledger::KIND_UNMAP => pin.to = Some(at),
                ledger::KIND_DMA_WRITE => {
                    let (source, generation) = (Source::Dma, entry.generation);
                    let write = PageWrite { at, source, generation, whole: true };
                    self.memory.wrote(&pin.path, pin.offset_of(entry.file_offset), entry.len, write);
                }
                _ => {}
            }
        }
        self.memory.sort();
    }

    pub(super) fn prove_dma(&mut self, cells: &Cells) {
        let Some(program) = self.last_program else { return };
        let generations = program.generation..program.generation.saturating_add(program.passes.max(1));
        let is_its_own = |state| {
            content(state, self.run()).and_then(Content::generation).is_some_and(|g| generations.contains(&g))
        };
        if self.kept_off.iter().any(|kept| kept.program == program) {
            if let Some((offset, _)) = cells.iter().find(|(_, state)| is_its_own(state)) {
                self.faults.push(format!(
                    "DMA generation {} was kept off, as the device reads it, and is seen through the mapping at byte {offset}",
                    program.generation
                ));
            }
            return;
        }
        if let Some((offset, state)) = cells.iter().find(|(_, state)| !is_its_own(state)) {
            self.gaps.push(format!(
                "DMA generation {} is not seen through the mapping: byte {offset} holds {}",
                program.generation,
                describe(state, self.run())
            ));
        }
    }
}
