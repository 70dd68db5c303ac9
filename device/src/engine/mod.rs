// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The DMA engine: regions, programs and their life. It knows no queue and no socket: a front hands it checked
//! requests with a completion, and is called back from the engine's threads.
//!
//! Each program runs in a thread of its own, at most [`MAX_PROGRAMS`] at once. A scheduler over a few threads would
//! save memory, but programs sleep (delay, rate), wait (ledger) and must overlap in ways that only the kernel's
//! scheduler decides: like a device with many DMA channels, and unlike a queue that serves them in turn.
//!
//! Promises:
//!
//! * After the completion of [`Engine::unmap`], or the return of [`Engine::finish_reset`], the engine does not touch
//!   the memory in question again (see `region.rs`).
//! * The completion of each program of a region is called before that of the region's unmap.
//! * After the return of [`Engine::invalidate`] no program writes to the range before it was populated again.
//! * A write is in memory before its ledger entry is made, and room in the ledger is there before the write.
//!
//! Lock order: the engine's state, then the pin index; a view of guest memory, then the ledger's locks, then the
//! trace's. No completion is called under a lock.

mod pace;
mod page_bits;
mod page_faults;
mod pin_index;
mod refusal;
mod stop;
mod trace;
mod worker;

pub use page_bits::PageBits;
pub use page_faults::{FaultSink, PageFault};
pub use pin_index::{Owner, Pin, PinIndex, PinnedBy, Pins};
pub use refusal::Refusal;
pub use trace::{Covered, Trace, WrittenBy, page_of};

use crate::clock;
use crate::counters::Counters;
use crate::ledger::{self, Ledger, Producer};
use crate::mem::GuestRam;
use crate::program::Program;
use crate::region::{Closed, MapPart, Mapped, Region, RegionError, RegionTable};
use crate::translations::{CacheOptions, Invalidate, Populate};
use longpin_wire::ledger::{
    Entry, KIND_INVALIDATE, KIND_MAP, KIND_POPULATE, KIND_RESET, KIND_SEGMENT, KIND_UNMAP,
};
use page_faults::PageFaults;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stop::StopSignal;

/// Most programs running or waiting at once: as many as a queue of 256 entries can hold.
pub const MAX_PROGRAMS: usize = 256;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgramEnd {
    /// `dma::STATUS_` constant.
    pub status: u32,
    /// Of the last whole pass, for reads.
    pub crc32c: u32,
    /// Cells moved.
    pub cells_done: u64,
    /// Generation of the last whole pass, 0: none.
    pub last_generation: u64,
    /// First cell, 0: never.
    pub started_ns: u64,
    /// End.
    pub finished_ns: u64,
}

/// Called once: when a program has ended, from its thread, or when it was refused, from the caller's.
pub type ProgramDone = Box<dyn FnOnce(Result<ProgramEnd, Refusal>) + Send>;
/// Called once: when a region is quiet, from the caller's thread or that of its last program, or when the request
/// was refused.
pub type UnmapDone = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// Programs were still running at the deadline of a reset.
#[derive(Debug, thiserror::Error)]
#[error("{programs} DMA programs are still running after {} s", after.as_secs())]
pub struct NotQuiet {
    /// How many.
    pub programs: usize,
    /// The deadline.
    pub after: Duration,
}

/// The engine. Shared by fronts, programs' threads and the control socket.
pub struct Engine {
    ram: Arc<GuestRam>,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
    pins: Arc<PinIndex>,
    trace: Arc<Trace>,
    /// The engine's own entries: map, unmap, reset.
    events: Producer,
    faults: PageFaults,
    state: Mutex<State>,
    /// A program has gone.
    gone: Condvar,
}

#[derive(Default)]
struct State {
    regions: RegionTable<Unmap>,
    /// Programs that may be stopped.
    programs: HashMap<u64, Running>,
    /// Programs that hold a region: those above, and those whose completion is being called.
    live: usize,
    /// Nothing begins.
    resetting: bool,
    /// Something happened since the last reset.
    used: bool,
}

struct Running {
    region: u32,
    stop: Arc<StopSignal>,
}

struct Unmap {
    release: u32,
    done: UnmapDone,
}

impl Engine {
    /// An engine without regions.
    pub fn new(ram: Arc<GuestRam>, ledger: Arc<Ledger>, counters: Arc<Counters>) -> Arc<Self> {
        let (events, trace) = (ledger.producer(), Arc::new(Trace::new(ram.clone())));
        let (pins, state, gone) = (Arc::default(), Mutex::default(), Condvar::new());
        let faults = PageFaults::default();
        Arc::new(Self { ram, ledger, counters, pins, trace, events, faults, state, gone })
    }

    /// For revocable regions from now on.
    pub fn set_cache(&self, cache: CacheOptions) {
        self.state.lock().regions.set_cache(cache);
    }

    /// Who hears of page faults from now on.
    pub fn set_fault_sink(&self, sink: Arc<dyn FaultSink>) {
        self.faults.set_sink(sink);
    }

    /// Which guest pages are pinned now.
    pub fn pins(&self) -> &Arc<PinIndex> {
        &self.pins
    }

    /// Which pages DMA has written to.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Regions mapped now.
    pub fn regions(&self) -> usize {
        self.state.lock().regions.len()
    }

    /// Programs running or waiting.
    pub fn programs(&self) -> usize {
        self.state.lock().programs.len()
    }

    /// Take (a part of) a region. Blocks while the ledger has no room for its segments. A part that is refused takes
    /// the incomplete region with it.
    pub fn map(&self, part: &MapPart) -> Result<(), Refusal> {
        self.check_part(part).inspect_err(|_| self.state.lock().regions.discard(part.label.region))?;
        let mapped = {
            let mut state = self.state.lock();
            if state.resetting {
                return Err(Refusal::Resetting);
            }
            state.used = true;
            state.regions.map(part)?
        };
        match mapped {
            Mapped::Partly => Ok(()),
            Mapped::Complete(region) => {
                self.pins.insert(Pin::of_region(&region));
                self.record_map(&region).inspect_err(|_| {
                    // The driver hears that there is no such region, so there must be none.
                    self.unmap(region.label.region, 0, Box::new(|_| ()));
                })
            }
        }
    }

    /// Its memory is there, and the ledger takes entries: what cannot be recorded is not mapped either.
    fn check_part(&self, part: &MapPart) -> Result<(), Refusal> {
        let view = self.ram.view();
        part.segments.iter().try_for_each(|(gpa, len)| view.check(*gpa, *len))?;
        drop(view);
        Ok(self.events.make_room(None)?)
    }

    fn record_map(&self, region: &Region) -> Result<(), Refusal> {
        let label = &region.label;
        let of_region =
            |kind, time_ns| Entry { region: label.region, run: label.run, ..ledger::entry(kind, time_ns) };
        for segments in region.segments.chunks(ledger::BUFFER_ENTRIES) {
            self.events.make_room(None)?;
            let mut log = self.events.begin();
            let now = clock::monotonic_ns();
            segments.iter().for_each(|segment| {
                log.record(Entry {
                    dma_addr: segment.gpa.0,
                    len: segment.len,
                    file_offset: label.file_offset.wrapping_add(segment.offset),
                    ..of_region(KIND_SEGMENT, now)
                });
            });
        }
        self.record_event(|now| Entry {
            len: label.total_bytes,
            file_offset: label.file_offset,
            detail: label.pin_mode,
            ..of_region(KIND_MAP, now)
        });
        Ok(())
    }

    /// Record an event of the engine. The time is taken under the buffer's lock, so the engine's entries are in the
    /// order of their times, whichever thread they come from.
    fn record_event(&self, entry: impl FnOnce(u64) -> Entry) {
        let mut log = self.events.begin();
        log.record(entry(clock::monotonic_ns()));
    }

    /// Make pages of a revocable region usable, and answer the fault that asked for them. Blocks while the ledger has
    /// no room.
    pub fn populate(&self, part: &Populate) -> Result<(), Refusal> {
        let bytes = part.segments.iter().map(|(_, len)| len).sum();
        let region = self.revocable(part.region, part.offset, bytes)?;
        let view = self.ram.view();
        part.segments.iter().try_for_each(|(gpa, len)| view.check(*gpa, *len))?;
        drop(view);
        self.events.make_room(None)?;
        let label = &region.label;
        let publish = || {
            let mut log = self.events.begin();
            let (now, mut at) = (clock::monotonic_ns(), part.offset);
            for (gpa, len) in &part.segments {
                log.record(Entry {
                    region: label.region,
                    run: label.run,
                    dma_addr: gpa.0,
                    len: *len,
                    file_offset: label.file_offset.wrapping_add(at),
                    detail: u32::from(part.write),
                    ..ledger::entry(KIND_POPULATE, now)
                });
                at += len;
            }
        };
        if let Some(translations) = &region.translations {
            translations.populate(part.offset, &part.segments, part.write, publish);
        }
        if part.fault != 0 {
            self.answer_fault(part.fault, 0);
        }
        Ok(())
    }

    /// Take a range of a revocable region back. When this returns, no write to it is under way, and none begins. Waits
    /// for the batches of programs, and for nothing else.
    pub fn invalidate(&self, range: Invalidate) -> Result<(), Refusal> {
        let Invalidate { region, offset, length, reason } = range;
        let region = self.revocable(region, offset, length)?;
        let label = &region.label;
        if let Some(translations) = &region.translations {
            translations.invalidate(offset, length, || {
                self.record_event(|now| Entry {
                    region: label.region,
                    run: label.run,
                    len: length,
                    file_offset: label.file_offset.wrapping_add(offset),
                    detail: reason,
                    ..ledger::entry(KIND_INVALIDATE, now)
                });
            });
        }
        self.events.offer();
        Ok(())
    }

    fn revocable(&self, id: u32, offset: u64, length: u64) -> Result<Arc<Region>, Refusal> {
        let region = self.state.lock().regions.find(id)?;
        if region.translations.is_none() {
            return Err(RegionError::NotRevocable(id).into());
        }
        if !region.contains(offset, length) {
            return Err(Refusal::OutsideRegion { region: id, offset, length });
        }
        Ok(region)
    }

    /// The driver has an errno for a program that faulted, or 0: it is to try again. If none waits, it has ended.
    pub fn answer_fault(&self, id: u64, error: u32) {
        if !self.faults.answer(id, error) {
            log::debug!("nobody waits for fault {id}");
        }
    }

    /// Stop the programs of a region and forget it; `done` is called when it is quiet. Does not block.
    pub fn unmap(&self, region: u32, release: u32, done: UnmapDone) {
        let closed = {
            let mut state = self.state.lock();
            let closed = state.regions.close(region, Unmap { release, done });
            if closed.is_ok() {
                state.programs.values().filter(|p| p.region == region).for_each(|p| p.stop.set());
            }
            closed
        };
        match closed {
            Ok(Closed::Waiting) => {}
            Ok(Closed::Quiet(unmap, region)) => self.unmapped(unmap, region.as_deref()),
            Err((error, unmap)) => (unmap.done)(Err(error.into())),
        }
    }

    /// A region is quiet: say so, in the ledger and to the driver.
    fn unmapped(&self, unmap: Unmap, region: Option<&Region>) {
        // An incomplete region was never announced in the ledger.
        if let Some(Region { label, .. }) = region {
            self.pins.remove(Owner::Region(label.region));
            self.record_event(|now| Entry {
                region: label.region,
                len: label.total_bytes,
                file_offset: label.file_offset,
                run: label.run,
                detail: unmap.release,
                ..ledger::entry(KIND_UNMAP, now)
            });
        }
        (unmap.done)(Ok(()));
    }

    /// Ask a program to end.
    pub fn stop(&self, program: u64) -> Result<(), Refusal> {
        let state = self.state.lock();
        state.programs.get(&program).ok_or(Refusal::NoProgram(program))?.stop.set();
        Ok(())
    }

    /// Start a program; `done` is called when it has ended. Does not block.
    pub fn start(self: &Arc<Self>, program: Program, done: ProgramDone) {
        match self.admit(&program) {
            Ok((region, stop)) => worker::spawn(self.clone(), program, region, stop, done),
            Err(refusal) => done(Err(refusal)),
        }
    }

    fn admit(&self, program: &Program) -> Result<(Arc<Region>, Arc<StopSignal>), Refusal> {
        let Program { tag, region: id, offset, length, .. } = *program;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.resetting {
            return Err(Refusal::Resetting);
        }
        if state.live >= MAX_PROGRAMS {
            return Err(Refusal::TooManyPrograms);
        }
        let hash_map::Entry::Vacant(slot) = state.programs.entry(tag) else {
            return Err(Refusal::ProgramExists(tag));
        };
        let region = state.regions.enter(id)?;
        if !region.contains(offset, length) {
            // The region is not closing (it was entered just now), so this leave ends no close.
            state.regions.leave(id);
            return Err(Refusal::OutsideRegion { region: id, offset, length });
        }
        let stop = Arc::new(StopSignal::default());
        slot.insert(Running { region: id, stop: stop.clone() });
        state.live += 1;
        Ok((region, stop))
    }

    /// The program can be named no longer; it still holds its region.
    fn retire(&self, tag: u64) {
        self.state.lock().programs.remove(&tag);
    }

    /// The program has let go of its region.
    fn release(&self, region: u32) {
        let closed = self.state.lock().regions.leave(region);
        if let Some((unmap, region)) = closed {
            self.unmapped(unmap, Some(&region));
        }
        self.state.lock().live -= 1;
        self.gone.notify_all();
    }

    /// First half of a reset: programs are told to stop, and nothing begins until [`Self::finish_reset`]. Between
    /// the halves the front waits for the completions that it has handed out.
    pub fn begin_reset(&self) {
        let mut state = self.state.lock();
        state.resetting = true;
        state.programs.values().for_each(|program| program.stop.set());
    }

    /// Second half: wait until no program is left, then forget all regions. On error the engine stays in reset.
    pub fn finish_reset(&self, deadline: Duration) -> Result<(), NotQuiet> {
        let until = Instant::now() + deadline;
        let mut state = self.state.lock();
        while state.live > 0 {
            if self.gone.wait_until(&mut state, until).timed_out() && state.live > 0 {
                return Err(NotQuiet { programs: state.live, after: deadline });
            }
        }
        state.regions.clear();
        self.pins.clear_regions();
        state.resetting = false;
        let used = std::mem::take(&mut state.used);
        drop(state);
        if used {
            self.record_event(|now| ledger::entry(KIND_RESET, now));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
