// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mappings: made, touched, stored through, read, paged out.

use super::objects::Mapping;
use super::op::{Op, acts};
use super::paper::{Checked, Paper, fresh, known};
use super::parameters::{Pages, file, map, need_number, word};
use super::{Definition, Translation, Verb};
use crate::record::Role;
use longpin_proto::agent::{Access, Advice, Backing, Step};

pub const STEPS: &[Definition] = &[
    Definition::new::<Map>(
        "map",
        "`map`, `file` (handle), range, `shared` (true), `write` (true), `backing` (`file`, `anonymous`, `hugetlb`)",
        "maps",
    ),
    Definition::new::<Unmap>("unmap", "`map`", "unmaps"),
    Definition::new::<Touch>(
        "touch",
        "`map`, range, `access` (`read` or `write`)",
        "faults pages in; a write fault stores the byte that was there",
    )
    .or_job(),
    Definition::new::<Store>(
        "store",
        "`map`, range, `generation`",
        "stores stamped cells through the mapping",
    )
    .or_job(),
    Definition::new::<Msync>(
        "msync",
        "`map`",
        "msync(2) of the whole mapping with MS_SYNC; an errno is recorded and the case goes on. It promises a file only where the mapping has \
         all of it",
    )
    .or_job(),
    Definition::new::<ReadMapping>("read-mapping", "`map`", "records the cells that the process sees"),
    Definition::new::<CompareMapping>(
        "compare-mapping",
        "`map`",
        "as `compare`, through the mapping: the process must see in each cell the last write that was completed, by CPU or \
         DMA. For memory that is no file's there is no other way",
    ),
    Definition::new::<Advise>(
        "advise",
        "`map`, range, `advice` (`hugepage`, `populate-read` or `populate-write`)",
        "MADV_HUGEPAGE, MADV_POPULATE_READ or MADV_POPULATE_WRITE; an errno is recorded and the case goes on",
    ),
    Definition::new::<Fork>(
        "fork",
        "",
        "fork(2) of the process that maps and pins; the child does nothing and lives to the end of the case, with its \
         mappings, so nothing can be unmounted that they are of",
    ),
    Definition::new::<Pageout>(
        "pageout",
        "`map`, range",
        "MADV_PAGEOUT; do it on one CPU, since it drains only its own LRU batch",
    ),
];

/// What backs a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backed {
    File,
    Anonymous,
    Hugetlb,
}

const BACKINGS: [(&str, Backed); 3] =
    [("file", Backed::File), ("anonymous", Backed::Anonymous), ("hugetlb", Backed::Hugetlb)];

parameters! {
    Map(f, _) {
        backed: Backed = word(f, "backing", "backing", &BACKINGS)?.unwrap_or(Backed::File),
        handle: String = file(f)?,
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
        shared: bool = f.flag_or("shared", true)?,
        write: bool = f.flag_or("write", true)?,
    }
}

impl Verb for Map {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let pages = self.pages;
        fresh("mapping", &paper.maps, &self.map)?;
        let whole = match self.backed {
            Backed::File => {
                let file = known("handle", &paper.handles, &self.handle)?;
                paper.files.get(file).copied().unwrap_or_default()
            }
            _ => pages.count.ok_or("step `map` of anonymous memory has no `pages`; add `pages = 16`")?,
        };
        paper.maps.insert(self.map.clone(), pages.count.unwrap_or(whole.saturating_sub(pages.first)));
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let Self { map, handle, shared, write, .. } = self;
        let (file, backing, offset, len) = match self.backed {
            Backed::File => {
                let file = t.objects.file_of(handle);
                let (offset, len) = self.pages.bytes(t.objects.file_len(&file));
                (Some(file), Backing::File { file: handle.clone(), offset }, offset, len)
            }
            Backed::Anonymous => (None, Backing::Anonymous, 0, self.pages.bytes(0).1),
            Backed::Hugetlb => (None, Backing::Hugetlb, 0, self.pages.bytes(0).1),
        };
        t.objects.maps.insert(map.clone(), Mapping { file, offset, len });
        acts([Step::Map { map: map.clone(), backing, len, shared: *shared, write: *write }])
    }
}

parameters! {
    Unmap(f, _) { map: String = map(f)? }
}

impl Verb for Unmap {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("mapping", &paper.maps, &self.map)?;
        paper.maps.remove(&self.map);
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        t.objects.maps.remove(&self.map);
        acts([Step::Unmap { map: self.map.clone() }])
    }
}

parameters! {
    Touch(f, _) {
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
        access: Access = word(f, "access", "access", &[("read", Access::Read), ("write", Access::Write)])?
            .ok_or_else(|| f.missing("access"))?,
    }
}

impl Verb for Touch {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = self.pages.bytes(t.objects.map_len(&self.map));
        acts([Step::Touch { map: self.map.clone(), offset, len, access: self.access }])
    }
}

parameters! {
    Store(f, _) {
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
        generation: u64 = need_number(f, "generation")?,
    }
}

impl Verb for Store {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("mapping", &paper.maps, &self.map)?;
        paper.generation(self.generation, 1)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = self.pages.bytes(t.objects.map_len(&self.map));
        acts([Step::Store { map: self.map.clone(), offset, len, fill: t.fill(self.generation) }])
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation)
    }
}

parameters! {
    Msync(f, _) { map: String = map(f)? }
}

impl Verb for Msync {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = (0, t.objects.map_len(&self.map));
        acts([Step::Msync { map: self.map.clone(), offset, len }])
    }
}

parameters! {
    ReadMapping(f, _) { map: String = map(f)? }
}

impl Verb for ReadMapping {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let len = t.objects.map_len(&self.map);
        acts(t.read_mapping(&self.map, 0, len))
    }
}

impl Translation {
    /// Read a piece of a mapping, if there is such a one.
    pub(super) fn read_mapping(&self, map: &str, offset: u64, len: u64) -> Option<Step> {
        let (cell_bytes, file_offset) = (self.cell_bytes, self.objects.maps.get(map)?.offset + offset);
        Some(Step::ReadMapping { map: map.to_owned(), offset, len, cell_bytes, file_offset })
    }
}

parameters! {
    CompareMapping(f, _) { map: String = map(f)? }
}

impl Verb for CompareMapping {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.no_jobs("compare-mapping")?;
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let len = t.objects.map_len(&self.map);
        let read = t.read_mapping(&self.map, 0, len);
        read.map(|step| Op::new(Role::CompareWrites, step)).into_iter().collect()
    }
}

const ADVICE: [(&str, Advice); 3] = [
    ("hugepage", Advice::Hugepage),
    ("populate-read", Advice::PopulateRead),
    ("populate-write", Advice::PopulateWrite),
];

parameters! {
    Advise(f, _) {
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
        advice: Advice = word(f, "advice", "advice", &ADVICE)?
            .ok_or_else(|| f.missing("advice"))?,
    }
}

impl Verb for Advise {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = self.pages.bytes(t.objects.map_len(&self.map));
        acts([Step::Madvise { map: self.map.clone(), offset, len, advice: self.advice }])
    }
}

parameters! {
    Fork(_f, _) {}
}

impl Verb for Fork {
    fn check(&self, _: &mut Paper<'_>) -> Checked {
        Ok(())
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::Fork])
    }
}

parameters! {
    Pageout(f, _) {
        map: String = map(f)?,
        pages: Pages = Pages::parse(f)?,
    }
}

impl Verb for Pageout {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.mapping(&self.map)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = self.pages.bytes(t.objects.map_len(&self.map));
        acts([Step::Madvise { map: self.map.clone(), offset, len, advice: Advice::Pageout }])
    }
}
