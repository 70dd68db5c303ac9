// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA programs: begun, waited for, ended, shown to have landed. A program writes into a region that is pinned, and ends
//! before its release.

use super::objects::Placed;
use super::op::{DMA_MS, Op, acts};
use super::paper::{Checked, Paper, Region, known, within};
use super::parameters::{Pages, need_number, program, region};
use super::{Definition, Translation, Verb};
use crate::matrix::Pin;
use crate::record::Role;
use longpin_proto::agent::{Program, Step};

pub const STEPS: &[Definition] = &[
    Definition::new::<Dma>(
        "dma",
        "`program`, `region`, range, `generation`, `passes` (1), `wait` (true)",
        "the device writes stamped cells; pass k writes `generation` + k; with `passes` = 0, without an end, 1000 cells a \
         second",
    ),
    Definition::new::<DmaWait>(
        "dma-wait",
        "`program`",
        "waits for the end of a program started with `wait = false`; as a job, `settle` shows whether the device waits \
         for a page",
    )
    .or_job(),
    Definition::new::<DmaStop>("dma-stop", "`program`", "asks a program to end"),
    Definition::new::<ProveDma>(
        "prove-dma",
        "`program`",
        "the program's bytes must be seen through the mapping, else the case is an error (unproven). Not where the \
         pages may have left the file: the mapping would fault in new ones",
    ),
];

/// What `edu` writes in half of the time that a slow step may take.
const EDU_PAGES: u64 = 128;

impl Translation {
    fn dma_wait(&self, program: &str) -> Vec<Op> {
        let timeout_ms = u64::from(DMA_MS) * self.env.patience_percent / 100;
        let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
        acts([Step::DmaWait { program: program.to_owned(), timeout_ms }])
    }

    /// The disk writes while it answers: such a program is over when it was begun.
    fn is_over(&self, program: &str) -> bool {
        let placed = self.objects.programs.get(program);
        placed.is_some_and(|placed| self.objects.dio(&placed.region).is_some())
    }
}

parameters! {
    Dma(f, _) {
        program: String = program(f)?,
        region: String = region(f)?,
        pages: Pages = Pages::parse(f)?,
        generation: u64 = need_number(f, "generation")?,
        passes: u64 = f.number_or("passes", 1)?,
        wait: bool = f.flag_or("wait", true)?,
    }
}

impl Verb for Dma {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let Self { program, region, pages, passes, wait, .. } = self;
        let Region { pages: whole, mode, front, .. } = *known("region", &paper.regions, region)?;
        let count = pages.count.unwrap_or(whole.saturating_sub(pages.first));
        within("region", region, pages.first + count.max(1), whole)?;
        if paper.running.contains_key(program) {
            return Err(format!("program `{program}` is still running; wait for it or name this one"));
        }
        if *wait && *passes == 0 {
            return Err("`passes` = 0 has no end to wait for; add `wait = false` and a dma-stop".into());
        }
        if !mode.by_driver() && *passes == 0 {
            return Err(format!("DMA into a {mode} pin is over when the step is; use `passes` = 1 or more"));
        }
        if mode == Pin::VmWritev && (pages.first != front || pages.first + count >= whole || *passes != 1) {
            return Err(format!(
                "process_vm_writev copies each page once, in order, and is over with the last: use `passes` = 1 and \
                 pages from {front} on, and leave page {} of `{region}` out",
                whole - 1
            ));
        }
        if mode == Pin::Xdp && pages.first == 0 {
            return Err(format!(
                "AF_XDP leaves 256 bytes before each packet, so that none comes into page 0 of `{region}`; begin with \
                 `first_page` = 1"
            ));
        }
        if mode.behind_iommu() && count.saturating_mul(*passes) > EDU_PAGES {
            return Err(format!(
                "the device behind a {mode} pin takes 0.2 s for a page; write {EDU_PAGES} of them in one step at most, \
                 `pages` x `passes`"
            ));
        }
        paper.programs.insert(program.clone(), region.clone());
        paper.regions.entry(region.clone()).and_modify(|region| {
            (region.written, region.front) = (true, pages.first + count);
        });
        if !wait {
            paper.running.insert(program.clone(), region.clone());
        }
        paper.generation(self.generation, (*passes).max(1))
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let Self { program, region, generation, passes, .. } = self;
        let (offset, len) = self.pages.bytes(t.objects.regions.get(region).map_or(0, |r| r.len));
        t.objects.programs.insert(program.clone(), Placed { region: region.clone(), offset, len });
        if let Some(dio) = t.objects.dio(region) {
            let generations = *generation..generation + passes;
            return generations.map(|generation| t.dma_into_held(dio, offset, len, generation)).collect();
        }
        let dma = Program { offset, len, generation: *generation, passes: *passes, cell_bytes: t.cell_bytes };
        let (program, region, run) = (program.clone(), region.clone(), t.env.run);
        let over_at_once = t.objects.regions.get(&region).is_some_and(|region| !region.by_driver);
        let begin = Op::new(Role::Act, Step::Dma { program: program.clone(), region, dma, run });
        let mut ops = vec![if over_at_once { begin.slow() } else { begin }];
        if self.wait {
            ops.extend(t.dma_wait(&program));
        }
        ops
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation)
    }
}

parameters! {
    DmaWait(f, _) { program: String = program(f)? }
}

impl Verb for DmaWait {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("running program", &paper.running, &self.program)?;
        paper.running.remove(&self.program);
        Ok(())
    }

    /// Only the driver's programs go on by themselves, and are waited for.
    fn check_as_job(&self, paper: &Paper<'_>) -> Checked {
        let region = known("running program", &paper.running, &self.program)?;
        match known("region", &paper.regions, region)?.mode {
            mode if mode.by_driver() => Ok(()),
            mode => Err(format!("DMA into a {mode} pin is over when the step is; wait for it without `job`")),
        }
    }

    fn check_at_join(&self, paper: &mut Paper<'_>) -> Checked {
        self.check(paper)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        if t.is_over(&self.program) { Vec::new() } else { t.dma_wait(&self.program) }
    }
}

parameters! {
    DmaStop(f, _) { program: String = program(f)? }
}

impl Verb for DmaStop {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("running program", &paper.running, &self.program).map(drop)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let program = self.program.clone();
        if t.is_over(&program) { Vec::new() } else { acts([Step::DmaStop { program }]) }
    }
}

parameters! {
    /// Show through the mapping that the last DMA program landed; else the case is unproven.
    ProveDma(f, _) { program: String = program(f)? }
}

impl Verb for ProveDma {
    /// The program has ended, and its region is still pinned and mapped.
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let program = &self.program;
        let region = paper.programs.get(program);
        let region = region.ok_or_else(|| format!("program `{program}` has not run; put a dma before"))?;
        if paper.running.contains_key(program) {
            return Err(format!("program `{program}` is still running; put a dma-wait before"));
        }
        let map = &known("region", &paper.regions, region)?.map;
        known("mapping", &paper.maps, map).map(drop)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let read = || {
            let Placed { region, offset, len } = t.objects.programs.get(&self.program)?;
            let region = t.objects.regions.get(region)?;
            t.read_mapping(&region.map, region.offset + offset, *len)
        };
        read().map(|step| Op::new(Role::ProveDma, step)).into_iter().collect()
    }
}
