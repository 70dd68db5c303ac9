// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mappings of the scenario: made from files or anonymous memory, touched, stored into, read as the process sees them.
//!
//! An access that the kernel answers with SIGBUS or SIGSEGV is a fact here: EFAULT (see `sys`).

use crate::cells::{self, CellReader};
use crate::error::{OrRefused, StepError, failed};
use crate::fsops;
use crate::sys::{MapSource, PAGE_BYTES, UserMemory};
use longpin_proto::agent::{Access, Advice, Fill, OpenFlags};
use longpin_proto::facts::Cells;
use rustix::fd::OwnedFd;
use rustix::mm::Advice as MmAdvice;
use std::sync::Arc;

/// A named mapping.
#[derive(Debug)]
pub struct Mapping {
    memory: UserMemory,
    /// File offset of its first byte; 0 for anonymous memory.
    file_offset: u64,
    /// The file whose pages it has, if they are its own.
    file: Option<Arc<OwnedFd>>,
}

impl Mapping {
    /// mmap(2).
    pub fn new(source: MapSource<'_>, len: u64, shared: bool, write: bool) -> Result<Self, StepError> {
        let file_offset = if let MapSource::File(_, offset) = source { offset } else { 0 };
        let memory = UserMemory::map(source, len, shared, write).or_refused("mmap")?;
        Ok(Self { memory, file_offset, file: None })
    }

    /// It has the pages of this file.
    pub fn sharing(self, file: Arc<OwnedFd>) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The file whose pages it has.
    pub fn file(&self) -> Option<Arc<OwnedFd>> {
        self.file.clone()
    }

    /// The same mapping for another thread.
    pub fn share(&self) -> Result<Self, StepError> {
        let memory = self.memory.share().or_failed("pipe")?;
        Ok(Self { memory, file_offset: self.file_offset, file: self.file.clone() })
    }

    /// Address of a range that must lie in the mapping, for a pin.
    pub fn address(&self, offset: u64, len: u64) -> Result<u64, StepError> {
        self.validate(offset, len)?;
        Ok(self.memory.address(offset))
    }

    /// Fault the pages of a range in. For writing: an atomic OR with 0, which no device write can be lost by.
    pub fn touch(&mut self, offset: u64, len: u64, access: Access) -> Result<(), StepError> {
        self.validate(offset, len)?;
        for (at, _) in pages(offset, len) {
            match access {
                Access::Read => self.memory.load(at, &mut [0]).or_refused("load")?,
                Access::Write => self.memory.touch_write(at).or_refused("store")?,
            }
        }
        Ok(())
    }

    /// Store stamped cells, labelled with their file offset.
    pub fn store(&mut self, offset: u64, len: u64, fill: &Fill) -> Result<(), StepError> {
        self.validate(offset, len)?;
        cells::validate_fill(offset, len, fill)?;
        let mut bytes = vec![0; cells::WINDOW_BYTES as usize];
        for window in (0..len).step_by(cells::WINDOW_BYTES as usize) {
            let bytes = &mut bytes[..cells::WINDOW_BYTES.min(len - window) as usize];
            cells::stamp_range(bytes, self.file_offset + offset + window, 0, fill);
            self.store_bytes(offset + window, bytes)?;
        }
        Ok(())
    }

    /// One pread(2) with O_DIRECT from a device or file into the mapping. Failed if it gives fewer bytes.
    pub fn read_direct(
        &mut self,
        offset: u64,
        len: u64,
        device: &str,
        device_offset: u64,
    ) -> Result<(), StepError> {
        self.validate(offset, len)?;
        let device_file = fsops::open(device, OpenFlags { direct: true, ..OpenFlags::default() })?;
        let got =
            self.memory.read_from(device_file, device_offset, offset, len).or_refused("pread(O_DIRECT)")?;
        if got == len {
            return Ok(());
        }
        failed!("{device} gave {got} bytes from {device_offset} on, of {len}; ask for a range that it has")
    }

    fn store_bytes(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), StepError> {
        for (at, len) in pages(offset, bytes.len() as u64) {
            let (page, rest) = bytes.split_at(len as usize);
            self.memory.store(at, page).or_refused("store")?;
            bytes = rest;
        }
        Ok(())
    }

    /// Read cells as the process sees them; a page that faults is unreadable cells.
    pub fn read(&mut self, offset: u64, len: u64, cell_bytes: u32, label: u64) -> Result<Cells, StepError> {
        self.validate(offset, len)?;
        cells::validate_cell_bytes(cell_bytes)?;
        let memory = &mut self.memory;
        let reader = CellReader::new(cell_bytes, |at, out: &mut [u8]| {
            // A page a call: the reader goes on behind a short read.
            let n = out.len().min((PAGE_BYTES - at % PAGE_BYTES) as usize);
            memory.load(at, &mut out[..n]).map(|()| n)
        });
        Ok(reader.read(offset, len, label))
    }

    /// Load bytes of one page.
    #[cfg(test)]
    pub fn load(&mut self, offset: u64, out: &mut [u8]) -> crate::sys::Result<()> {
        self.memory.load(offset, out)
    }

    /// madvise(2).
    pub fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<(), StepError> {
        self.validate(offset, len)?;
        let (advice, call) = match advice {
            Advice::Pageout => (MmAdvice::LinuxPageOut, "madvise(MADV_PAGEOUT)"),
            Advice::Dontneed => (MmAdvice::LinuxDontNeed, "madvise(MADV_DONTNEED)"),
            Advice::Hugepage => (MmAdvice::LinuxHugepage, "madvise(MADV_HUGEPAGE)"),
            Advice::PopulateRead => (MmAdvice::LinuxPopulateRead, "madvise(MADV_POPULATE_READ)"),
            Advice::PopulateWrite => (MmAdvice::LinuxPopulateWrite, "madvise(MADV_POPULATE_WRITE)"),
        };
        self.memory.advise(offset, len, advice).or_refused(call)
    }

    fn validate(&self, offset: u64, len: u64) -> Result<(), StepError> {
        let total = self.memory.len();
        if len > 0 && offset.checked_add(len).is_some_and(|end| end <= total) {
            return Ok(());
        }
        failed!("{len} bytes from {offset} are not in the mapping of {total} bytes")
    }
}

/// The parts of a range, page by page: offset and length.
fn pages(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let part = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
        let this = (at, part);
        at += part;
        (part > 0).then_some(this)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_page_borders() {
        assert_eq!(pages(0, 8192).collect::<Vec<_>>(), [(0, 4096), (4096, 4096)]);
        assert_eq!(pages(4000, 4500).collect::<Vec<_>>(), [(4000, 96), (4096, 4096), (8192, 308)]);
        assert_eq!(pages(100, 1).collect::<Vec<_>>(), [(100, 1)]);
    }

    #[test]
    fn ranges_outside_are_told_before_anything_happens() {
        let mut mapping = Mapping::new(MapSource::Anonymous, 8192, false, true).unwrap();
        for (offset, len) in [(0, 0), (8192, 1), (4096, 8192), (u64::MAX, 2)] {
            assert!(mapping.touch(offset, len, Access::Read).is_err(), "{offset} {len}");
        }
        mapping.touch(0, 8192, Access::Write).unwrap();
    }
}
