// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cells in bulk: stamping a buffer, and reading a range of cells from any source that can fail page by page.
//!
//! A read never fails as a whole: what cannot be read is [`CellState::Unreadable`], what lies past the end is
//! [`CellState::Absent`], and the hash covers the rest.

use crate::error::{StepError, failed};
use crate::sys::{PAGE_BYTES, Result as SysResult};
use longpin_proto::agent::Fill;
use longpin_proto::facts::{CellState, Cells};
use longpin_wire::dma::{MAX_CELL_BYTES, MIN_CELL_BYTES};
use longpin_wire::stamp::{self, Stamp};

/// Bytes of one read: large enough to be fast, small enough for a guest of 512 MiB.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// A cell is a power of two between the limits of the wire.
pub fn validate_cell_bytes(cell_bytes: u32) -> Result<(), StepError> {
    if cell_bytes.is_power_of_two() && (MIN_CELL_BYTES..=MAX_CELL_BYTES).contains(&cell_bytes) {
        return Ok(());
    }
    failed!("cell of {cell_bytes} bytes; use a power of two from {MIN_CELL_BYTES} to {MAX_CELL_BYTES}")
}

/// A range must end below 2^63, as every file does.
pub fn validate_range(offset: u64, len: u64) -> Result<(), StepError> {
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => failed!("{len} bytes from {offset} end beyond any file"),
    }
}

/// Check that a fill is made of whole cells.
pub fn validate_fill(offset: u64, len: u64, fill: &Fill) -> Result<(), StepError> {
    validate_cell_bytes(fill.cell_bytes)?;
    validate_range(offset, len)?;
    if len > 0 && len.is_multiple_of(fill.cell_bytes.into()) {
        return Ok(());
    }
    failed!("{len} bytes are not whole cells of {}; use a multiple that is not zero", fill.cell_bytes)
}

/// Fill `bytes`, which will stand at `file_offset`, with stamped cells of a region; 0: of a CPU.
pub fn stamp_range(bytes: &mut [u8], file_offset: u64, region: u32, fill: &Fill) {
    for (index, cell) in bytes.chunks_exact_mut(fill.cell_bytes as usize).enumerate() {
        let stamp = Stamp {
            run: fill.run,
            file_offset: file_offset + index as u64 * u64::from(fill.cell_bytes),
            generation: fill.generation,
            region,
            source: fill.source.to_wire(),
        };
        stamp::encode(cell, &stamp);
    }
}

/// A part of a window, in ascending order without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Bytes(u64),
    Unreadable(u64, i32),
}

/// Reads cells from a source.
///
/// `read_at(offset, buf)` behaves as pread(2): it may be short, 0 is the end, and an error concerns at least the page
/// of `offset`.
pub struct CellReader<R> {
    read_at: R,
    cell_bytes: u32,
    hash: blake3::Hasher,
    cells: Cells,
}

impl<R: FnMut(u64, &mut [u8]) -> SysResult<usize>> CellReader<R> {
    /// A reader of cells of `cell_bytes`, which must be valid.
    pub fn new(cell_bytes: u32, read_at: R) -> Self {
        let cells = Cells { cell_bytes, runs: Vec::new(), hash: String::new() };
        Self { read_at, cell_bytes, hash: blake3::Hasher::new(), cells }
    }

    /// Read `[offset, offset + len)` of the source; the cells are labelled from `label`.
    pub fn read(mut self, offset: u64, len: u64, label: u64) -> Cells {
        let mut done = 0;
        while done < len {
            let want = WINDOW_BYTES.min(len - done);
            let mut window = vec![0; want as usize];
            let parts = self.fetch(offset + done, &mut window);
            if parts.is_empty() {
                let rest = (len - done).div_ceil(self.cell_bytes.into());
                self.cells.push(label + done, rest, CellState::Absent);
                break;
            }
            self.decode(&window, &parts, label + done);
            done += want;
        }
        self.cells.hash = self.hash.finalize().to_hex().to_string();
        self.cells
    }

    /// Fill the window as far as possible. Bytes of the window behind the last part are past the end.
    fn fetch(&mut self, offset: u64, window: &mut [u8]) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut at, end) = (0u64, window.len() as u64);
        let mut page_by_page = false;
        while at < end {
            let to_page_end = (PAGE_BYTES - (offset + at) % PAGE_BYTES).min(end - at);
            let ask = if page_by_page { to_page_end } else { end - at };
            match (self.read_at)(offset + at, &mut window[at as usize..(at + ask) as usize]) {
                Ok(0) => break,
                Ok(n) => {
                    parts.push(Part::Bytes(n as u64));
                    at += n as u64;
                }
                // The error may belong to a later page of a long read: ask again for the first page alone.
                Err(_) if ask > to_page_end => page_by_page = true,
                Err(errno) => {
                    parts.push(Part::Unreadable(to_page_end, errno.raw_os_error()));
                    at += to_page_end;
                }
            }
        }
        parts
    }

    fn decode(&mut self, window: &[u8], parts: &[Part], label: u64) {
        let mut at = 0;
        let mut broken = Vec::new();
        for part in parts {
            match *part {
                Part::Bytes(n) => {
                    self.hash.update(&window[at as usize..(at + n) as usize]);
                    at += n;
                }
                Part::Unreadable(n, errno) => {
                    broken.push((at..at + n, errno));
                    at += n;
                }
            }
        }
        let readable_end = at;
        let cell_bytes = u64::from(self.cell_bytes);
        for start in (0..window.len() as u64).step_by(self.cell_bytes as usize) {
            let end = (start + cell_bytes).min(readable_end);
            let errno = broken.iter().find(|(range, _)| range.start < end && start < range.end).map(|b| b.1);
            let state = match errno {
                _ if start >= readable_end => CellState::Absent,
                Some(errno) => CellState::Unreadable { errno },
                None => CellState::of(&window[start as usize..end as usize], label + start),
            };
            self.cells.push(label + start, 1, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::facts::{CellRun, Source, Writer};
    use rustix::io::Errno;

    const FILL: Fill = Fill { run: 9, generation: 4, cell_bytes: 512, source: Source::Cpu };
    const WRITER: Writer = Writer { run: 9, region: 0, generation: 4, source: Source::Cpu };

    fn image(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        stamp_range(&mut bytes, 0, 0, &FILL);
        bytes
    }

    fn source(bytes: &[u8], bad_pages: &[u64]) -> impl FnMut(u64, &mut [u8]) -> SysResult<usize> {
        move |offset, out| {
            let pages = offset / PAGE_BYTES..=(offset + out.len() as u64 - 1) / PAGE_BYTES;
            if bad_pages.iter().any(|bad| pages.contains(bad)) {
                return Err(Errno::IO);
            }
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = out.len().min(rest.len());
            out[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }

    #[test]
    fn stamped_cells_are_read_back_as_one_run_with_the_hash_of_their_bytes() {
        let bytes = image(3 << 20);
        let cells = CellReader::new(512, source(&bytes, &[])).read(0, 3 << 20, 0);
        assert_eq!(cells.runs, [CellRun { offset: 0, count: 6144, state: CellState::Whole(WRITER) }]);
        assert_eq!(cells.hash, blake3::hash(&bytes).to_hex().to_string());
    }

    #[test]
    fn only_the_bad_page_is_unreadable() {
        let bytes = image(8 * 4096);
        let cells = CellReader::new(512, source(&bytes, &[2, 3])).read(0, 8 * 4096, 0);
        let unreadable = CellState::Unreadable { errno: Errno::IO.raw_os_error() };
        assert_eq!(
            cells.runs,
            [
                CellRun { offset: 0, count: 16, state: CellState::Whole(WRITER) },
                CellRun { offset: 2 * 4096, count: 16, state: unreadable },
                CellRun { offset: 4 * 4096, count: 32, state: CellState::Whole(WRITER) },
            ]
        );
        let readable = [&bytes[..2 * 4096], &bytes[4 * 4096..]].concat();
        assert_eq!(cells.hash, blake3::hash(&readable).to_hex().to_string());
    }

    #[test]
    fn a_short_file_ends_in_absent_cells_and_a_cut_cell_is_foreign() {
        let bytes = &image(8192)[..4096 + 700];
        let cells = CellReader::new(512, source(bytes, &[])).read(0, 8192, 0);
        let states: Vec<_> = cells.runs.iter().map(|run| (run.offset, run.count)).collect();
        assert_eq!(states, [(0, 9), (4096 + 512, 1), (4096 + 1024, 6)]);
        assert!(matches!(cells.runs[1].state, CellState::Foreign { .. }));
        assert_eq!(cells.runs[2].state, CellState::Absent);
    }

    #[test]
    fn a_range_far_beyond_the_end_is_absent_at_once() {
        let cells = CellReader::new(512, source(&image(4096), &[])).read(0, 1 << 62, 0);
        assert_eq!(cells.runs[1], CellRun { offset: 4096, count: (1 << 53) - 8, state: CellState::Absent });
        assert_eq!(cells.runs.len(), 2);
    }

    #[test]
    fn cells_are_labelled_by_the_caller() {
        let bytes = image(8192);
        let cells = CellReader::new(512, source(&bytes, &[])).read(4096, 4096, 4096);
        assert_eq!(cells.runs, [CellRun { offset: 4096, count: 8, state: CellState::Whole(WRITER) }]);
        let displaced = CellReader::new(512, source(&bytes, &[])).read(4096, 512, 0);
        assert!(matches!(displaced.runs[0].state, CellState::Displaced { stamped_offset: 4096, .. }));
    }

    #[test]
    fn cell_sizes_and_fills_are_checked() {
        assert!(validate_cell_bytes(512).is_ok());
        for wrong in [0, 32, 96, 8192] {
            assert!(validate_cell_bytes(wrong).is_err(), "{wrong}");
        }
        assert!(validate_fill(512, 4096, &FILL).is_ok());
        for (offset, len) in [(0, 0), (0, 4096 + 100), (u64::MAX - 511, 512), (1 << 63, 512)] {
            assert!(validate_fill(offset, len, &FILL).is_err(), "{offset} {len}");
        }
    }
}
