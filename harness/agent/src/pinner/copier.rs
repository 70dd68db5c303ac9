// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins through which the kernel copies on request. A program is over when it was submitted: what it wrote is known
//! exactly, since the bytes were handed over one page after the other and each was seen to arrive.

use super::{PinRequest, Pinner};
use crate::cells;
use crate::error::{StepError, failed};
use crate::sys::PAGE_BYTES;
use longpin_proto::agent::{Fact, Fill, Program};
use longpin_proto::facts::{DmaResult, PinCounters, Pinned, Source};
use longpin_wire::dma::STATUS_OK;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The next region, over all pinners.
static REGIONS: AtomicU32 = AtomicU32::new(Pinned::FIRST_REGION);

/// What became of bytes that were written without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// They are in the pages.
    There,
    /// None of them is: something between writer and pages kept them off.
    KeptOff,
}

/// Pages that are pinned, and a way for bytes into them that is no page table entry.
pub trait Hold: Debug + Send {
    /// What is wrong with this range as the next one to be written, if something is.
    fn can_write(&self, offset: u64, len: u64) -> Result<(), StepError>;
    /// Have the kernel copy whole pages through the pin. They are there when it returns, or were kept off.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError>;
    /// Unpin; with or without a dirty bit, if it can do both.
    fn release(self: Box<Self>, dirty: bool) -> Result<(), StepError>;
    /// Pages that it has pinned beside those that it was asked for.
    fn pages_of_its_own(&self) -> i64 {
        0
    }
    /// Who has pinned, and how, if it is a program of the user's.
    fn by(&self) -> String {
        String::new()
    }
}

/// How pages are pinned.
pub type Take = fn(&PinRequest) -> Result<Box<dyn Hold>, StepError>;

/// How pins are counted.
pub type Counters = fn() -> Result<PinCounters, StepError>;

#[derive(Debug)]
struct Region {
    hold: Box<dyn Hold>,
    len: u64,
    file_offset: u64,
    references: i64,
}

/// A pinner of this kind.
#[derive(Debug)]
pub struct Copier {
    take: Take,
    counters: Counters,
    regions: Mutex<BTreeMap<u32, Region>>,
    /// Programs that were not collected.
    programs: Mutex<BTreeMap<u64, DmaResult>>,
    next_program: AtomicU64,
}

impl Copier {
    /// One that pins in this way, in a guest whose pins are counted by `counters`.
    pub fn new(take: Take, counters: Counters) -> Self {
        let (regions, programs) = Default::default();
        Self { take, counters, regions, programs, next_program: AtomicU64::new(1) }
    }
}

impl Pinner for Copier {
    fn pin(&self, request: &PinRequest) -> Result<u32, StepError> {
        let before = (self.counters)()?;
        let hold = (self.take)(request)?;
        let references = held(&(self.counters)()?) - held(&before) - hold.pages_of_its_own();
        let number = REGIONS.fetch_add(1, Ordering::Relaxed);
        let PinRequest { len, file_offset, .. } = *request;
        locked(&self.regions).insert(number, Region { hold, len, file_offset, references });
        Ok(number)
    }

    fn describe(&self, region: u32) -> Result<Fact, StepError> {
        match locked(&self.regions).get(&region) {
            Some(Region { references, hold, .. }) => {
                Ok(Fact::Pinned(Pinned { region, references: *references, by: hold.by() }))
            }
            None => failed!("no region {region:#x}"),
        }
    }

    fn submit(&self, number: u32, program: &Program, run: u64) -> Result<u64, StepError> {
        let mut regions = locked(&self.regions);
        let Some(region) = regions.get_mut(&number) else { return failed!("no region {number:#x}") };
        check(program, region)?;
        let started_ns = now_ns();
        let (mut cells_done, mut kept_off) = (0, 0);
        for generation in program.generation..program.generation + program.passes {
            let Program { offset, len, cell_bytes, .. } = *program;
            let fill = Fill { run, generation, cell_bytes, source: Source::Dma };
            let mut bytes = vec![0; len as usize];
            cells::stamp_range(&mut bytes, region.file_offset + offset, number, &fill);
            let cells = len / u64::from(cell_bytes);
            match region.hold.write(offset, &bytes)? {
                Arrived::There => cells_done += cells,
                Arrived::KeptOff => kept_off += cells,
            }
        }
        if cells_done > 0 && kept_off > 0 {
            return failed!("{kept_off} cells of a program were kept off and {cells_done} were not");
        }
        let last_generation = if kept_off > 0 { 0 } else { program.generation + program.passes - 1 };
        let result = DmaResult {
            status: STATUS_OK,
            fault_errno: None,
            cells_done,
            kept_off,
            last_generation,
            started_ns,
            finished_ns: now_ns(),
        };
        let handle = self.next_program.fetch_add(1, Ordering::Relaxed);
        locked(&self.programs).insert(handle, result);
        Ok(handle)
    }

    fn wait(&self, program: u64, _timeout_ms: u32) -> Result<DmaResult, StepError> {
        match locked(&self.programs).remove(&program) {
            Some(result) => Ok(result),
            None => failed!("no program {program}"),
        }
    }

    /// It is over.
    fn stop(&self, _program: u64) -> Result<(), StepError> {
        Ok(())
    }

    fn release(&self, region: u32, dirty: bool) -> Result<(), StepError> {
        let region_of = locked(&self.regions).remove(&region);
        match region_of {
            Some(Region { hold, .. }) => hold.release(dirty),
            None => failed!("no region {region:#x}"),
        }
    }
}

fn check(program: &Program, region: &Region) -> Result<(), StepError> {
    let Program { offset, len, passes, cell_bytes, .. } = *program;
    cells::validate_cell_bytes(cell_bytes)?;
    let whole = offset.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES) && len > 0;
    if !whole {
        return failed!("{len} bytes from {offset} are not whole pages; use a range of pages");
    }
    if offset.checked_add(len).is_none_or(|end| end > region.len) {
        return failed!("{len} bytes from {offset} are not in the region of {} bytes", region.len);
    }
    if passes == 0 {
        return failed!("a program of this pinner is over when it was begun; use 1 pass or more");
    }
    region.hold.can_write(offset, len)
}

fn held(counters: &PinCounters) -> i64 {
    counters.acquired.wrapping_sub(counters.released) as i64
}

/// CLOCK_MONOTONIC of the guest.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A panic elsewhere leaves nothing half-done here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::agent::PinMode;
    use longpin_wire::stamp::{self, Cell, SOURCE_DMA};

    static WRITTEN: Mutex<Vec<(u64, Vec<u8>)>> = Mutex::new(Vec::new());

    /// Generations from here on do not arrive.
    const KEPT_OFF: u64 = 200;

    /// Takes everything but the last page of five.
    #[derive(Debug)]
    struct Notes;

    impl Hold for Notes {
        fn can_write(&self, offset: u64, len: u64) -> Result<(), StepError> {
            if offset + len > 4 * PAGE_BYTES { failed!("not the last") } else { Ok(()) }
        }
        fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
            let stamp::Cell::Whole(stamp) = stamp::decode(&bytes[..512]) else { return failed!("no stamp") };
            if stamp.generation >= KEPT_OFF {
                return Ok(Arrived::KeptOff);
            }
            locked(&WRITTEN).push((offset, bytes.to_vec()));
            Ok(Arrived::There)
        }
        fn release(self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
            Ok(())
        }
        fn by(&self) -> String {
            "notes".into()
        }
    }

    fn request() -> PinRequest {
        let (address, len, file_offset, run) = (0, 5 * PAGE_BYTES, 1 << 20, 9);
        PinRequest { address, len, mode: PinMode::IoUring, file_offset, run, file: None }
    }

    fn program(offset: u64, len: u64, passes: u64) -> Program {
        Program { offset, len, generation: 100, passes, cell_bytes: 512 }
    }

    fn counters() -> Result<PinCounters, StepError> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        Ok(PinCounters { acquired: 7 + 5 * CALLS.fetch_add(1, Ordering::Relaxed), released: 7 })
    }

    #[test]
    fn a_program_is_stamped_cells_of_each_pass_and_is_over_at_once() {
        let copier = Copier::new(|_| Ok(Box::new(Notes)), counters);
        let region = copier.pin(&request()).unwrap();
        assert_eq!(
            copier.describe(region),
            Ok(Fact::Pinned(Pinned { region, references: 5, by: "notes".into() }))
        );
        let handle = copier.submit(region, &program(PAGE_BYTES, PAGE_BYTES, 2), 9).unwrap();
        let end = copier.wait(handle, 0).unwrap();
        assert_eq!((end.status, end.cells_done, end.last_generation), (STATUS_OK, 16, 101));
        assert!(end.started_ns <= end.finished_ns);
        let written = locked(&WRITTEN).clone();
        assert_eq!(written.len(), 2);
        for ((offset, bytes), generation) in written.iter().zip([100, 101]) {
            assert_eq!(*offset, PAGE_BYTES);
            for (index, cell) in bytes.chunks(512).enumerate() {
                let Cell::Whole(stamp) = stamp::decode(cell) else { panic!("no stamp") };
                let place = (1 << 20) + PAGE_BYTES + index as u64 * 512;
                assert_eq!((stamp.region, stamp.source, stamp.run), (region, SOURCE_DMA, 9));
                assert_eq!((stamp.generation, stamp.file_offset), (generation, place));
            }
        }
        assert_eq!(copier.wait(handle, 0), failed!("no program {handle}"));
        copier.release(region, true).unwrap();
        assert_eq!(copier.release(region, true), failed!("no region {region:#x}"));
    }

    #[test]
    fn what_was_kept_off_is_no_pass_and_a_part_of_a_program_cannot_be() {
        let copier = Copier::new(|_| Ok(Box::new(Notes)), counters);
        let region = copier.pin(&request()).unwrap();
        let of = |generation| Program { generation, ..program(0, PAGE_BYTES, 2) };
        let handle = copier.submit(region, &of(KEPT_OFF), 9).unwrap();
        let end = copier.wait(handle, 0).unwrap();
        assert_eq!((end.status, end.cells_done, end.kept_off, end.last_generation), (STATUS_OK, 0, 16, 0));
        assert_eq!(
            copier.submit(region, &of(KEPT_OFF - 1), 9),
            failed!("8 cells of a program were kept off and 8 were not")
        );
    }

    #[test]
    fn what_cannot_be_written_is_told_before_a_byte_is() {
        let mut region = Region { hold: Box::new(Notes), len: 5 * PAGE_BYTES, file_offset: 0, references: 1 };
        let told = |program: Program, region: &Region| match check(&program, region) {
            Err(StepError::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            told(program(100, PAGE_BYTES, 1), &region),
            "4096 bytes from 100 are not whole pages; use a range of pages"
        );
        assert!(told(program(0, 0, 1), &region).contains("not whole pages"));
        assert!(told(program(PAGE_BYTES, 5 * PAGE_BYTES, 1), &region).contains("are not in the region"));
        assert!(told(program(u64::MAX - 4095, PAGE_BYTES, 1), &region).contains("are not in the region"));
        assert!(told(program(0, PAGE_BYTES, 0), &region).contains("use 1 pass or more"));
        assert_eq!(told(program(4 * PAGE_BYTES, PAGE_BYTES, 1), &region), "not the last");
        assert_eq!(check(&program(0, 4 * PAGE_BYTES, 3), &region), Ok(()));
        region.len = PAGE_BYTES;
        assert!(check(&program(0, 4 * PAGE_BYTES, 3), &region).is_err());
    }
}
