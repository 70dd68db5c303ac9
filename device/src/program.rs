// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA programs: what to move, and in which order. Pure: no thread, no memory, no clock.
//!
//! A program is a range of a region cut into cells, walked in passes. [`Schedule`] yields [`Run`]s: neighbouring
//! cells of one generation within one 4 KiB page, the unit of both copying and the ledger.

use crate::permutation::Permutation;
use longpin_wire::dma::{self, DmaRequest};

/// Bytes of the unit in which runs are cut: a base page.
pub const PAGE_BYTES: u64 = 4096;

/// Why a DMA request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Unknown `ORDER_` constant.
    #[error("order {0} is unknown")]
    Order(u32),
    /// Unknown `DIRECTION_` constant.
    #[error("direction {0} is unknown")]
    Direction(u32),
    /// Unknown `PAYLOAD_` constant.
    #[error("payload {0} is unknown")]
    Payload(u32),
    /// Not a power of two, or out of bounds.
    #[error(
        "cell of {0} bytes; use a power of two from {min} to {max}",
        min = dma::MIN_CELL_BYTES,
        max = dma::MAX_CELL_BYTES
    )]
    CellBytes(u32),
    /// More than a byte, or given with a payload that does not fill.
    #[error("fill {0:#x} is not a byte, or the payload is not a fill")]
    Fill(u32),
    /// Nothing to move.
    #[error("length is zero")]
    Empty,
    /// `offset + length` overflows.
    #[error("range {offset}+{length} overflows")]
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Stamps need whole cells.
    #[error("range {offset}+{length} is not made of whole cells of {cell_bytes} bytes")]
    Alignment {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Bytes of a cell.
        cell_bytes: u32,
    },
}

/// What a DMA write carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Self-describing cells.
    Stamp,
    /// One byte value.
    Fill(u8),
}

/// Direction and content, as the device sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// DMA write.
    WriteToMemory(Payload),
    /// DMA read.
    ReadFromMemory,
}

/// A well-formed program. Whether its region and range exist is the engine's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Name, from the request's tag.
    pub tag: u64,
    /// Region.
    pub region: u32,
    /// What is moved.
    pub op: Op,
    /// Order of the cells: `None` is ascending, else the seed of the permutations.
    pub seed: Option<u64>,
    /// First byte in the region.
    pub offset: u64,
    /// Bytes, not zero.
    pub length: u64,
    /// Bytes of a cell.
    pub cell_bytes: u32,
    /// Generation of the first pass.
    pub generation: u64,
    /// Label in each stamp.
    pub run: u64,
    /// Cells a second; 0: no limit.
    pub rate_cells_per_s: u64,
    /// Passes; 0: no limit.
    pub passes: u64,
    /// Microseconds from the first cell; 0: no limit.
    pub duration_us: u64,
    /// Microseconds before the first cell.
    pub start_delay_us: u64,
}

impl Program {
    /// Check a request's constants, alignment and arithmetic.
    pub fn parse(request: &DmaRequest, tag: u64) -> Result<Self, ProgramError> {
        let DmaRequest { offset, length, cell_bytes, .. } = *request;
        let fill = match (request.payload, u8::try_from(request.fill)) {
            (dma::PAYLOAD_STAMP, Ok(0)) => Payload::Stamp,
            (dma::PAYLOAD_FILL, Ok(byte)) => Payload::Fill(byte),
            (dma::PAYLOAD_STAMP | dma::PAYLOAD_FILL, _) => return Err(ProgramError::Fill(request.fill)),
            _ => return Err(ProgramError::Payload(request.payload)),
        };
        let op = match request.direction {
            dma::DIRECTION_WRITE => Op::WriteToMemory(fill),
            dma::DIRECTION_READ => Op::ReadFromMemory,
            other => return Err(ProgramError::Direction(other)),
        };
        let seed = match request.order {
            dma::ORDER_SEQUENTIAL => None,
            dma::ORDER_RANDOM => Some(request.seed),
            other => return Err(ProgramError::Order(other)),
        };
        let sane = (dma::MIN_CELL_BYTES..=dma::MAX_CELL_BYTES).contains(&cell_bytes);
        if !sane || !cell_bytes.is_power_of_two() {
            return Err(ProgramError::CellBytes(cell_bytes));
        }
        if length == 0 {
            return Err(ProgramError::Empty);
        }
        offset.checked_add(length).ok_or(ProgramError::Range { offset, length })?;
        let whole = |bytes: u64| bytes.is_multiple_of(u64::from(cell_bytes));
        if fill == Payload::Stamp && !(whole(offset) && whole(length)) {
            return Err(ProgramError::Alignment { offset, length, cell_bytes });
        }
        Ok(Self {
            tag,
            region: request.region,
            op,
            seed,
            offset,
            length,
            cell_bytes,
            generation: request.generation,
            run: request.run,
            rate_cells_per_s: request.rate_cells_per_s,
            passes: request.passes,
            duration_us: request.duration_us,
            start_delay_us: request.start_delay_us,
        })
    }

    /// Cells in one pass; the last may be short.
    pub fn cells(&self) -> u64 {
        self.length.div_ceil(u64::from(self.cell_bytes))
    }

    /// The order of all cells of all passes.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            offset: self.offset,
            length: self.length,
            cell_bytes: u64::from(self.cell_bytes),
            cells: self.cells(),
            first_generation: self.generation,
            passes: self.passes,
            seed: self.seed,
            pass: 0,
            next: 0,
            permutation: self.seed.map(|seed| Permutation::new(self.cells(), seed, 0)),
        }
    }
}

/// Neighbouring cells of one generation, at most a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte in the region.
    pub offset: u64,
    /// Bytes, at most [`PAGE_BYTES`].
    pub len: u64,
    /// Cells.
    pub cells: u64,
    /// Generation.
    pub generation: u64,
    /// The pass is complete after this run.
    pub ends_pass: bool,
}

/// Iteration state of a program: a few words, whatever the size of the range.
#[derive(Debug, Clone)]
pub struct Schedule {
    offset: u64,
    length: u64,
    cell_bytes: u64,
    cells: u64,
    first_generation: u64,
    passes: u64,
    seed: Option<u64>,
    pass: u64,
    next: u64,
    permutation: Option<Permutation>,
}

impl Schedule {
    /// The next run of at most `max_cells` (not zero); `None` when all passes are done.
    pub fn next_run(&mut self, max_cells: u64) -> Option<Run> {
        if self.is_finished() {
            return None;
        }
        let (first, cells) = match &self.permutation {
            Some(permutation) => (permutation.at(self.next), 1),
            None => (self.next, self.cells_to_page_end().min(max_cells.max(1))),
        };
        let start = first * self.cell_bytes;
        let len = (cells * self.cell_bytes).min(self.length - start);
        let generation = self.first_generation.wrapping_add(self.pass);
        self.next += cells;
        let ends_pass = self.next == self.cells;
        if ends_pass {
            self.begin_pass();
        }
        Some(Run { offset: self.offset + start, len, cells, generation, ends_pass })
    }

    /// Whether all passes are done.
    pub fn is_finished(&self) -> bool {
        self.passes != 0 && self.pass == self.passes
    }

    /// Cells from `next` on that fit wholly into the page of the region where `next` begins; at least one.
    fn cells_to_page_end(&self) -> u64 {
        let at = self.offset + self.next * self.cell_bytes;
        let room = PAGE_BYTES - at % PAGE_BYTES;
        (room / self.cell_bytes).clamp(1, self.cells - self.next)
    }

    fn begin_pass(&mut self) {
        self.next = 0;
        self.pass = self.pass.wrapping_add(1);
        self.permutation = self.seed.map(|seed| Permutation::new(self.cells, seed, self.pass));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> DmaRequest {
        DmaRequest {
            region: 1,
            order: dma::ORDER_SEQUENTIAL,
            direction: dma::DIRECTION_WRITE,
            payload: dma::PAYLOAD_STAMP,
            offset: 0,
            length: 8192,
            seed: 5,
            generation: 10,
            run: 3,
            rate_cells_per_s: 0,
            passes: 2,
            duration_us: 0,
            cell_bytes: 512,
            fill: 0,
            start_delay_us: 0,
        }
    }

    fn refusal(change: impl FnOnce(&mut DmaRequest)) -> ProgramError {
        let mut request = request();
        change(&mut request);
        Program::parse(&request, 1).unwrap_err()
    }

    fn runs(request: &DmaRequest, max_cells: u64) -> Vec<Run> {
        let mut schedule = Program::parse(request, 1).unwrap().schedule();
        std::iter::from_fn(|| schedule.next_run(max_cells)).collect()
    }

    #[test]
    fn each_way_to_be_malformed_is_named() {
        assert_eq!(refusal(|r| r.order = 2), ProgramError::Order(2));
        assert_eq!(refusal(|r| r.direction = 9), ProgramError::Direction(9));
        assert_eq!(refusal(|r| r.payload = 7), ProgramError::Payload(7));
        for cell_bytes in [0, 1, 32, 63, 65, 768, 8192, u32::MAX] {
            assert_eq!(refusal(|r| r.cell_bytes = cell_bytes), ProgramError::CellBytes(cell_bytes));
        }
        assert_eq!(refusal(|r| r.fill = 1), ProgramError::Fill(1));
        let wide = |r: &mut DmaRequest| (r.payload, r.fill) = (dma::PAYLOAD_FILL, 256);
        assert_eq!(refusal(wide), ProgramError::Fill(256));
        assert_eq!(refusal(|r| r.length = 0), ProgramError::Empty);
        let (offset, length) = (u64::MAX - 511, 512);
        assert_eq!(
            refusal(|r| (r.offset, r.length) = (offset, length)),
            ProgramError::Range { offset, length }
        );
        for (offset, length) in [(1, 512), (0, 513), (256, 512)] {
            assert_eq!(
                refusal(|r| (r.offset, r.length) = (offset, length)),
                ProgramError::Alignment { offset, length, cell_bytes: 512 }
            );
        }
    }

    #[test]
    fn sequential_runs_are_whole_pages_pass_by_pass() {
        let runs = runs(&request(), u64::MAX);
        let short: Vec<_> =
            runs.iter().map(|r| (r.offset, r.len, r.cells, r.generation, r.ends_pass)).collect();
        assert_eq!(
            short,
            [
                (0, 4096, 8, 10, false),
                (4096, 4096, 8, 10, true),
                (0, 4096, 8, 11, false),
                (4096, 4096, 8, 11, true)
            ]
        );
    }

    #[test]
    fn a_run_is_no_longer_than_asked_for() {
        let runs = runs(&request(), 3);
        assert!(runs.iter().all(|r| r.cells <= 3));
        assert_eq!(runs.iter().map(|r| r.cells).sum::<u64>(), 32);
    }

    #[test]
    fn a_fill_needs_no_alignment_and_its_last_cell_is_short() {
        let mut request = request();
        (request.payload, request.fill) = (dma::PAYLOAD_FILL, 0xaa);
        (request.offset, request.length, request.passes) = (4000, 1000, 1);
        let runs = runs(&request, u64::MAX);
        assert_eq!(runs.iter().map(|r| (r.offset, r.len)).collect::<Vec<_>>(), [(4000, 512), (4512, 488)]);
        assert!(runs[1].ends_pass);
    }

    #[test]
    fn a_program_without_a_limit_goes_on() {
        let mut request = request();
        (request.passes, request.length, request.cell_bytes) = (0, 4096, 4096);
        let mut schedule = Program::parse(&request, 1).unwrap().schedule();
        for pass in 0..10_000 {
            assert_eq!(schedule.next_run(1).unwrap().generation, 10 + pass);
        }
    }

    proptest! {
        /// Whatever the order, offset and allowance: a pass covers each byte of the range once, in runs that stay
        /// within a page's length.
        #[test]
        fn a_pass_covers_the_range_exactly_once(
            offset in 0u64..10_000, length in 1u64..40_000, cell_log in 6u32..=12,
            seed in proptest::option::of(any::<u64>()), max_cells in 1u64..20, passes in 1u64..4,
        ) {
            let mut request = request();
            (request.payload, request.offset, request.length) = (dma::PAYLOAD_FILL, offset, length);
            (request.cell_bytes, request.passes) = (1 << cell_log, passes);
            request.order = if seed.is_some() { dma::ORDER_RANDOM } else { dma::ORDER_SEQUENTIAL };
            request.seed = seed.unwrap_or(0);
            let mut covered = vec![0u64; length as usize];
            let mut ended = 0;
            for run in runs(&request, max_cells) {
                prop_assert!(run.len <= PAGE_BYTES && run.cells <= max_cells);
                prop_assert_eq!(run.generation, 10 + ended);
                for byte in &mut covered[(run.offset - offset) as usize..][..run.len as usize] {
                    *byte += 1;
                }
                if run.ends_pass {
                    ended += 1;
                    prop_assert!(covered.iter().all(|n| *n == ended));
                }
            }
            prop_assert_eq!(ended, passes);
        }
    }
}
