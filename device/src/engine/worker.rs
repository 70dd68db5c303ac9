// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One program from its first wait to its completion, in its own thread.

use super::pace::{Due, Pace};
use super::page_faults::Faulted;
use super::stop::StopSignal;
use super::{Engine, PageFault, ProgramDone, ProgramEnd, Refusal};
use crate::clock;
use crate::ledger::{self, Batch, Producer};
use crate::mem::{BadAddress, View};
use crate::program::{Op, PAGE_BYTES, Payload, Program, Run, Schedule};
use crate::region::{Region, Segment};
use crate::translations::Entered;
use longpin_wire::dma::{STATUS_DEVICE_ERROR, STATUS_OK, STATUS_STOPPED};
use longpin_wire::ledger::{
    Entry, KIND_DMA_READ, KIND_DMA_WRITE, KIND_FAULT, KIND_FAULT_REFUSED, KIND_PROGRAM_END,
    KIND_PROGRAM_START,
};
use longpin_wire::stamp::{self, SOURCE_DMA, Stamp};
use std::sync::Arc;
use std::thread;

/// Runs between two looks at the clock and the memory map: 256 KiB of whole pages, some 50 µs.
const BATCH_RUNS: usize = 64;
/// A program's thread holds a page and a few words: much less than the default 2 MiB, times 256.
const STACK_BYTES: usize = 256 << 10;

/// Start the thread. The program has been admitted; it is released whatever happens.
pub(super) fn spawn(
    engine: Arc<Engine>,
    program: Program,
    region: Arc<Region>,
    stop: Arc<StopSignal>,
    done: ProgramDone,
) {
    let admitted = Admitted { engine: engine.clone(), tag: program.tag, region: program.region };
    // The completion travels in a slot, so that it can be called from here if there is no thread.
    let slot = Arc::new(parking_lot::Mutex::new(Some(done)));
    let completion = slot.clone();
    let body = move || {
        let admitted = admitted;
        let producer = engine.ledger.producer();
        let end = Transfer::new(&engine, &program, &region, &stop).execute(&producer);
        // The last entries leave before anybody hears that the program has ended.
        drop(producer);
        engine.retire(program.tag);
        if let Some(done) = completion.lock().take() {
            done(Ok(end));
        }
        drop(admitted);
    };
    let spawned = thread::Builder::new().name("dma".into()).stack_size(STACK_BYTES).spawn(body);
    if let Err(error) = spawned {
        // The closure is gone, and the program's hold on the region with it.
        if let Some(done) = slot.lock().take() {
            done(Err(Refusal::Thread(Arc::new(error))));
        }
    }
}

/// A program's hold on its region, from admission to the end of its thread, even by a panic.
struct Admitted {
    engine: Arc<Engine>,
    tag: u64,
    region: u32,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.engine.retire(self.tag);
        self.engine.release(self.region);
    }
}

/// Why the loop ended before the last pass.
enum Break {
    Stopped,
    TimeIsUp,
    Failed(Refusal),
}

impl From<Refusal> for Break {
    fn from(refusal: Refusal) -> Self {
        if refusal.status() == STATUS_STOPPED { Self::Stopped } else { Self::Failed(refusal) }
    }
}

impl From<BadAddress> for Break {
    fn from(error: BadAddress) -> Self {
        Self::Failed(error.into())
    }
}

struct Transfer<'a> {
    engine: &'a Engine,
    program: &'a Program,
    region: &'a Region,
    stop: &'a Arc<StopSignal>,
    /// A run that waits for its page.
    waiting: Option<Run>,
    page: Box<[u8; PAGE_BYTES as usize]>,
    /// Of the pass that is being read.
    crc32c: u32,
    bytes: u64,
    /// Cells and bytes that the device's counters know.
    counted: (u64, u64),
    end: ProgramEnd,
}

impl<'a> Transfer<'a> {
    fn new(engine: &'a Engine, program: &'a Program, region: &'a Region, stop: &'a Arc<StopSignal>) -> Self {
        let mut page = Box::new([0; PAGE_BYTES as usize]);
        if let Op::WriteToMemory(Payload::Fill(byte)) = program.op {
            page.fill(byte);
        }
        Self {
            engine,
            program,
            region,
            stop,
            waiting: None,
            page,
            crc32c: 0,
            bytes: 0,
            counted: (0, 0),
            end: ProgramEnd::default(),
        }
    }

    fn execute(mut self, producer: &Producer) -> ProgramEnd {
        let outcome = self.run(producer);
        self.publish_counts();
        self.end.finished_ns = clock::monotonic_ns();
        self.end.status = match outcome {
            Ok(()) | Err(Break::TimeIsUp) => STATUS_OK,
            Err(Break::Stopped) => STATUS_STOPPED,
            Err(Break::Failed(refusal)) => {
                log::debug!("program {} failed: {refusal}", self.program.tag);
                if let Refusal::Fault(errno) = refusal {
                    self.end.crc32c = errno;
                }
                refusal.status()
            }
        };
        let status = self.end.status;
        producer.record(Entry {
            generation: self.end.last_generation,
            detail: status,
            ..self.event(KIND_PROGRAM_END)
        });
        if status == STATUS_OK && self.engine.ledger.failure().is_some() {
            // What it wrote since the failure is in no record: that must not look like success.
            self.end.status = STATUS_DEVICE_ERROR;
        }
        self.end
    }

    fn run(&mut self, producer: &Producer) -> Result<(), Break> {
        let delay_ns = self.program.start_delay_us.saturating_mul(1000);
        if delay_ns > 0 {
            self.stop.sleep_until(clock::monotonic_ns().saturating_add(delay_ns));
        }
        self.make_room(producer)?;
        self.check_stop()?;
        self.end.started_ns = clock::monotonic_ns();
        producer.record(self.event(KIND_PROGRAM_START));
        let limit_ns = match self.program.duration_us {
            0 => u64::MAX,
            us => self.end.started_ns.saturating_add(us.saturating_mul(1000)),
        };
        let pace = Pace::new(self.program.rate_cells_per_s, self.end.started_ns);
        let mut schedule = self.program.schedule();
        while self.waiting.is_some() || !schedule.is_finished() {
            self.check_stop()?;
            let now = clock::monotonic_ns();
            if now >= limit_ns {
                return Err(Break::TimeIsUp);
            }
            match pace.due(now, self.end.cells_done) {
                Due::NotBefore(then) => self.stop.sleep_until(then.min(limit_ns)),
                Due::Cells(cells) => {
                    self.make_room(producer)?;
                    if let Some(missing) = self.batch(producer, &mut schedule, cells)? {
                        self.fault(producer, missing, limit_ns)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// At most `cells` cells under one view of the memory, and of the region's translations. Comes back before its time
    /// with the first byte of a run that has no page: it is the next to be moved.
    fn batch(
        &mut self,
        producer: &Producer,
        schedule: &mut Schedule,
        mut cells: u64,
    ) -> Result<Option<u64>, Break> {
        let view = self.engine.ram.view();
        let entered = self.region.translations.as_ref().map(|translations| translations.enter());
        let mut log = producer.begin();
        let first = log.len();
        let mut moved = Ok(None);
        for _ in 0..BATCH_RUNS {
            if cells == 0 || log.is_full() || !matches!(moved, Ok(None)) {
                break;
            }
            let Some(run) = self.waiting.take().or_else(|| schedule.next_run(cells)) else { break };
            cells = cells.saturating_sub(run.cells);
            let missing = entered.as_ref().and_then(|entered| self.missing(entered, &run));
            if missing.is_some() {
                self.waiting = Some(run);
                moved = Ok(missing);
                continue;
            }
            moved = self
                .check_stop()
                .and_then(|()| Ok(self.transfer(&view, entered.as_ref(), &mut log, &run)?))
                .map(|()| None);
            if moved.is_ok() {
                self.account(&run);
            }
        }
        // Under the view: who waits for the end of all views finds every write in the trace. And while entered: who
        // waits for that, too.
        self.engine.trace.record(log.since(first));
        drop((log, entered, view));
        self.publish_counts();
        moved
    }

    fn writes(&self) -> bool {
        self.program.op != Op::ReadFromMemory
    }

    fn missing(&self, entered: &Entered<'_>, run: &Run) -> Option<u64> {
        entered.first_missing(run.offset, run.len, self.writes())
    }

    /// Ask the driver for the page of `missing`, and wait.
    fn fault(&self, producer: &Producer, missing: u64, limit_ns: u64) -> Result<(), Break> {
        self.make_room(producer)?;
        let fault = PageFault {
            id: self.engine.faults.next_id(),
            region: self.program.region,
            program: self.program.tag,
            offset: missing - missing % PAGE_BYTES,
            length: PAGE_BYTES,
            write: self.writes(),
        };
        let entry = |kind, detail| Entry {
            len: fault.length,
            file_offset: self.region.label.file_offset.wrapping_add(fault.offset),
            detail,
            ..self.event(kind)
        };
        producer.record(entry(KIND_FAULT, u32::from(fault.write)));
        match self.engine.faults.raise(fault, self.stop, limit_ns) {
            // Unanswered: the loop finds out why.
            Faulted::Populated | Faulted::Unanswered => Ok(()),
            Faulted::Refused(errno) => {
                producer.record(entry(KIND_FAULT_REFUSED, errno));
                Err(Break::Failed(Refusal::Fault(errno)))
            }
        }
    }

    fn transfer(
        &mut self,
        view: &View<'_>,
        entered: Option<&Entered<'_>>,
        log: &mut Batch<'_>,
        run: &Run,
    ) -> Result<(), BadAddress> {
        if self.program.op == Op::WriteToMemory(Payload::Stamp) {
            self.stamp(run);
        }
        let (region, write) = (self.region, self.writes());
        match entered {
            None => region
                .pieces(run.offset, run.len)
                .try_for_each(|piece| self.transfer_piece(view, log, run, piece)),
            Some(entered) => entered
                .pieces(run.offset, run.len, write)
                .try_for_each(|piece| self.transfer_piece(view, log, run, piece)),
        }
    }

    fn transfer_piece(
        &mut self,
        view: &View<'_>,
        log: &mut Batch<'_>,
        run: &Run,
        piece: Segment,
    ) -> Result<(), BadAddress> {
        let from = (piece.offset - run.offset) as usize;
        let bytes = &mut self.page[from..from + piece.len as usize];
        let kind = match self.program.op {
            Op::WriteToMemory(_) => {
                view.write(piece.gpa, bytes)?;
                KIND_DMA_WRITE
            }
            Op::ReadFromMemory => {
                view.read(piece.gpa, bytes)?;
                self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
                KIND_DMA_READ
            }
        };
        log.record(Entry {
            dma_addr: piece.gpa.0,
            len: piece.len,
            generation: run.generation,
            file_offset: self.region.label.file_offset.wrapping_add(piece.offset),
            ..self.event(kind)
        });
        Ok(())
    }

    fn stamp(&mut self, run: &Run) {
        let cell_bytes = self.program.cell_bytes as usize;
        for (index, cell) in self.page[..run.len as usize].chunks_exact_mut(cell_bytes).enumerate() {
            let offset = run.offset + (index * cell_bytes) as u64;
            let stamp = Stamp {
                run: self.program.run,
                file_offset: self.region.label.file_offset.wrapping_add(offset),
                generation: run.generation,
                region: self.program.region,
                source: SOURCE_DMA,
            };
            stamp::encode(cell, &stamp);
        }
    }

    fn account(&mut self, run: &Run) {
        self.end.cells_done += run.cells;
        self.bytes += run.len;
        if run.ends_pass {
            self.end.last_generation = run.generation;
            if self.program.op == Op::ReadFromMemory {
                self.end.crc32c = std::mem::take(&mut self.crc32c);
            }
        }
    }

    /// Counters once a batch: an atomic addition for each page costs as much as its region lookup.
    fn publish_counts(&mut self) {
        let (cells, bytes) = (self.end.cells_done - self.counted.0, self.bytes - self.counted.1);
        self.counted = (self.end.cells_done, self.bytes);
        if self.writes() {
            self.engine.counters.wrote(cells, bytes);
        }
    }

    fn check_stop(&self) -> Result<(), Break> {
        if self.stop.is_set() { Err(Break::Stopped) } else { Ok(()) }
    }

    fn make_room(&self, producer: &Producer) -> Result<(), Break> {
        producer.make_room(Some(self.stop.flag())).map_err(|error| Refusal::from(error).into())
    }

    fn event(&self, kind: u32) -> Entry {
        Entry {
            region: self.program.region,
            run: self.program.run,
            program: self.program.tag as u32,
            ..ledger::entry(kind, clock::monotonic_ns())
        }
    }
}
