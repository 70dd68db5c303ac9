// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins and DMA: a program writes into a region that is pinned, and ends before its release. A dio pin is a read that
//! the second disk holds: its DMA is over when the step is, and a read that nobody wrote to would bring the disk's own
//! bytes into the file.

use super::walk::{Checked, Walk, fresh, known, within};
use crate::scenario::{Pages, Pin, Release};

/// A pinned region.
#[derive(Clone)]
pub struct Region {
    pages: u64,
    map: String,
    dio: bool,
    /// A program wrote into it.
    written: bool,
}

impl Walk<'_> {
    pub fn pin(&mut self, region: &str, map: &str, pages: Pages, mode: Option<Pin>) -> Checked {
        let mode = mode.unwrap_or(self.point.pin);
        if mode == Pin::None {
            return Err("step `pin` has no mode in this case; add `matrix.pin` or `mode = ...`".into());
        }
        let whole = *known("mapping", &self.maps, map)?;
        fresh("region", &self.regions, region)?;
        let count = pages.count.unwrap_or(whole.saturating_sub(pages.first));
        within("mapping", map, pages.first + count, whole)?;
        let region_of = Region { pages: count, map: map.to_owned(), dio: mode == Pin::Dio, written: false };
        self.regions.insert(region.to_owned(), region_of);
        Ok(())
    }

    pub fn dma(&mut self, program: &str, region: &str, pages: Pages, passes: u64, wait: bool) -> Checked {
        let Region { pages: whole, dio, .. } = *known("region", &self.regions, region)?;
        within("region", region, pages.first + pages.count.unwrap_or(1), whole)?;
        if self.running.contains_key(program) {
            return Err(format!("program `{program}` is still running; wait for it or name this one"));
        }
        if wait && passes == 0 {
            return Err("`passes` = 0 has no end to wait for; add `wait = false` and a dma-stop".into());
        }
        if dio && passes == 0 {
            return Err("DMA into a dio pin is over when the step is; use `passes` = 1 or more".into());
        }
        self.programs.insert(program.to_owned(), region.to_owned());
        self.regions.entry(region.to_owned()).and_modify(|region| region.written = true);
        if !wait {
            self.running.insert(program.to_owned(), region.to_owned());
        }
        Ok(())
    }

    pub fn release(&mut self, region: &str, mode: Option<Release>) -> Checked {
        let Region { dio, written, .. } = *known("region", &self.regions, region)?;
        match (dio, mode) {
            (true, Some(Release::Clean)) => {
                return Err("the kernel releases a dio pin dirty; take `mode` away".into());
            }
            (true, _) if !written => {
                return Err(format!(
                    "no `dma` wrote into `{region}`: its read would bring the second disk's bytes into the file; \
                     put a dma before"
                ));
            }
            (false, None) if self.point.release == Release::None => {
                let text = "step `release` has no mode in this case";
                return Err(format!("{text}; add `matrix.release` or `mode = ...`"));
            }
            _ => {}
        }
        if let Some((program, _)) = self.running.iter().find(|(_, of)| *of == region) {
            return Err(format!("program `{program}` still writes into `{region}`; put a dma-wait before"));
        }
        self.regions.remove(region);
        Ok(())
    }

    /// The program has ended, and its region is still pinned and mapped.
    pub fn visible(&self, program: &str) -> Checked {
        let region = self
            .programs
            .get(program)
            .ok_or_else(|| format!("program `{program}` has not run; put a dma before"))?;
        if self.running.contains_key(program) {
            return Err(format!("program `{program}` is still running; put a dma-wait before"));
        }
        let map = &known("region", &self.regions, region)?.map;
        known("mapping", &self.maps, map).map(drop)
    }
}
