// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files: made, opened, written, cut, cloned, made durable, read and compared.

use super::op::{Follow, Op, acts};
use super::paper::{Checked, Paper, fresh, known};
use super::parameters::{Pages, file, length, need_number, word};
use super::{Definition, Parse, Taken, Translation, Verb};
use crate::fields::{Fault, Fields};
use crate::record::Role;
use longpin_proto::agent::{self, OpenFlags, Step, Via};
use longpin_proto::disk::PAGE_BYTES;
use std::sync::Arc;

/// A snapshot of a file system with a few files, which is written out first.
const SNAPSHOT_MS: u32 = 120_000;

/// Until somebody who opens a file has come to its lease, which is a matter of microseconds.
const LEASE_BREAK_MS: u64 = 10_000;

pub const STEPS: &[Definition] = &[
    Definition::new::<Create>(
        "create",
        "`file`, `pages`, `generation` (1), `twin` (false)",
        "new file, stamped cells written by the CPU, fsync; stays open under the file's name. `twin`: with the generation of \
         a file that is there, whose content it has then",
    ),
    Definition::new::<CreateHole>("create-hole", "`file`, `pages`", "new file of holes, fsync; stays open"),
    Definition::new::<Open>(
        "open",
        "`file`, `as` (handle), `write` (true), `direct` (false)",
        "opens a file again",
    ),
    Definition::new::<Close>("close", "`file` (handle)", "closes a handle"),
    Definition::new::<Write>(
        "write",
        "`file`, range, `generation`, `direct` (false)",
        "writes stamped cells by pwrite, through a handle of its own",
    )
    .or_job(),
    Definition::new::<Fsync>(
        "fsync",
        "`file` (handle), `data_only` (false)",
        "fsync or fdatasync; an errno is recorded and the case goes on",
    )
    .or_job(),
    Definition::new::<Sync>("sync", "", "sync(2)").or_job(),
    Definition::new::<Syncfs>("syncfs", "", "syncfs(2)").or_job(),
    Definition::new::<ProveClean>(
        "prove-clean",
        "`file` (handle)",
        "asks cachestat(2) until no page is dirty or under writeback, for 15 s; else the case is an error (unproven)",
    ),
    Definition::new::<PageState>("page-state", "`file` (handle)", "records cachestat(2)"),
    Definition::new::<Snapshot>(
        "snapshot",
        "`file`",
        "records the cells of a file, read with O_DIRECT, for a later `compare`",
    ),
    Definition::new::<Compare>(
        "compare",
        "`file`, `against` (`writes` or `snapshot`)",
        "the guest reads the file; the host reads the raw image at the file's extents when the case is over. `writes`: \
         each cell must hold the last write that was completed, by CPU or DMA",
    ),
    Definition::new::<Truncate>("truncate", "`file` (handle), `pages`", "sets the length").or_job(),
    Definition::with("punch", "`file` (handle), range", "punches a hole", |f, _| {
        Fallocate::of(f, agent::Fallocate::PunchHole)
    })
    .or_job(),
    Definition::with("zero-range", "`file` (handle), range", "zeroes a range", |f, _| {
        Fallocate::of(f, agent::Fallocate::ZeroRange)
    })
    .or_job(),
    Definition::with("allocate", "`file` (handle), range", "preallocates", |f, _| {
        Fallocate::of(f, agent::Fallocate::Allocate)
    })
    .or_job(),
    Definition::new::<Reflink>(
        "reflink",
        "`from` (`a`), `to` (`b`)",
        "FICLONE into a new file, where the file system has it (xfs, btrfs)",
    )
    .or_job(),
    Definition::new::<Dedupe>(
        "dedupe",
        "`from` (`a`), `to` (`b`)",
        "FIDEDUPERANGE: the second file gets the blocks of the first, which hold the same; where the file system can \
         reflink",
    ),
    Definition::new::<CopyRange>(
        "copy-range",
        "`from` (`a`), `to` (`b`)",
        "copy_file_range(2) of a whole file into a new one: shared blocks where the file system can reflink, a copy by the \
         page cache elsewhere",
    ),
    Definition::new::<Lease>(
        "lease",
        "`file` (handle), `kind` (`read`, `write` or `none`)",
        "takes a lease of the file (F_SETLEASE), changes it, or gives it back",
    ),
    Definition::new::<AwaitLeaseBreak>(
        "await-lease-break",
        "`file` (handle)",
        "waits until the kernel asks for the write lease, since somebody opens the file; else the case is an error (infra)",
    ),
    Definition::new::<SubvolumeSnapshot>(
        "subvolume-snapshot",
        "`to` (`snap`)",
        "btrfs: a read-only snapshot of the file system's subvolume in a new directory, where every file `a` is `snap/a` \
         then",
    ),
];

impl Paper<'_> {
    fn new_file(&mut self, file: &str, pages: u64) -> Checked {
        self.is_mounted()?;
        fresh("file", &self.files, file)?;
        fresh("handle", &self.handles, file)?;
        self.files.insert(file.to_owned(), pages);
        self.handles.insert(file.to_owned(), file.to_owned());
        Ok(())
    }

    fn existing(&self, file: &str) -> Checked {
        self.is_mounted()?;
        known("file", &self.files, file).map(drop)
    }

    fn truncate(&mut self, handle: &str, pages: u64) -> Checked {
        let file = known("handle", &self.handles, handle)?.clone();
        self.files.insert(file, pages);
        Ok(())
    }
}

impl Translation {
    fn new_file(&mut self, file: &str, len: u64) -> Vec<Op> {
        self.objects.files.insert(file.to_owned(), len);
        self.objects.handles.insert(file.to_owned(), file.to_owned());
        let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
        vec![self.open(file.to_owned(), file, flags)]
    }

    fn open(&self, handle: String, file: &str, flags: OpenFlags) -> Op {
        Op::new(Role::Act, Step::Open { file: handle, path: self.path(file), flags })
    }

    /// A handle of a file, which is opened if it has none.
    fn handle_of(&mut self, file: &str) -> (String, Vec<Op>) {
        match self.objects.handles.iter().find(|(_, of)| *of == file) {
            Some((handle, _)) => (handle.clone(), Vec::new()),
            None => {
                self.objects.handles.insert(file.to_owned(), file.to_owned());
                let ops = vec![self.open(file.to_owned(), file, OpenFlags::default())];
                (file.to_owned(), ops)
            }
        }
    }

    fn page_state(&self, handle: &str) -> Step {
        let len = self.objects.file_len(&self.objects.file_of(handle));
        Step::PageState { file: handle.to_owned(), offset: 0, len }
    }

    fn read_cells(&self, file: &str, via: Via) -> Step {
        let (path, len) = (self.path(file), self.objects.file_len(file));
        Step::Read { path, offset: 0, len, cell_bytes: self.cell_bytes, via }
    }
}

parameters! {
    Create(f, default_pages) {
        file: String = file(f)?,
        pages: u64 = length(f, default_pages)?,
        generation: u64 = f.number_or("generation", 1)?,
        twin: bool = f.flag_or("twin", false)?,
    }
}

impl Verb for Create {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.new_file(&self.file, self.pages)?;
        match self.twin {
            true if paper.generations.contains(&self.generation) => Ok(()),
            true => Err(format!("no file has generation {}, so `{}` is no twin", self.generation, self.file)),
            false => paper.generation(self.generation, 1),
        }
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (file, len) = (self.file.clone(), self.pages * PAGE_BYTES);
        let mut ops = t.new_file(&file, len);
        ops.extend(acts([
            Step::Write { file: file.clone(), offset: 0, len, fill: t.fill(self.generation) },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }
}

parameters! {
    CreateHole(f, default_pages) {
        file: String = file(f)?,
        pages: u64 = length(f, default_pages)?,
    }
}

impl Verb for CreateHole {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.new_file(&self.file, self.pages)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (file, len) = (self.file.clone(), self.pages * PAGE_BYTES);
        let mut ops = t.new_file(&file, len);
        ops.extend(acts([
            Step::Truncate { file: file.clone(), len },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }
}

parameters! {
    Open(f, _) {
        file: String = file(f)?,
        handle: String = f.str_or("as", &file)?,
        write: bool = f.flag_or("write", true)?,
        direct: bool = f.flag_or("direct", false)?,
    }
}

impl Verb for Open {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.existing(&self.file)?;
        fresh("handle", &paper.handles, &self.handle)?;
        paper.handles.insert(self.handle.clone(), self.file.clone());
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (write, direct) = (self.write, self.direct);
        t.objects.handles.insert(self.handle.clone(), self.file.clone());
        vec![t.open(self.handle.clone(), &self.file, OpenFlags { write, direct, ..Default::default() })]
    }
}

parameters! {
    Close(f, _) { handle: String = file(f)? }
}

impl Verb for Close {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        known("handle", &paper.handles, &self.handle)?;
        paper.handles.remove(&self.handle);
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        t.objects.handles.remove(&self.handle);
        acts([Step::Close { file: self.handle.clone() }])
    }
}

parameters! {
    /// Through a handle of the step's own: whoever uses O_DIRECT for one write does not want it for the rest.
    Write(f, _) {
        file: String = file(f)?,
        pages: Pages = Pages::parse(f)?,
        generation: u64 = need_number(f, "generation")?,
        direct: bool = f.flag_or("direct", false)?,
    }
}

impl Verb for Write {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.existing(&self.file)?;
        paper.generation(self.generation, 1)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (offset, len) = self.pages.bytes(t.objects.file_len(&self.file));
        let handle = format!("{}.write", self.file);
        let flags = OpenFlags { write: true, direct: self.direct, ..Default::default() };
        let mut ops = vec![t.open(handle.clone(), &self.file, flags)];
        ops.extend(acts([
            Step::Write { file: handle.clone(), offset, len, fill: t.fill(self.generation) },
            Step::Close { file: handle },
        ]));
        ops
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation)
    }

    fn takes_pages_of(&self) -> Option<Taken<'_>> {
        Some(Taken::File(&self.file))
    }
}

parameters! {
    Fsync(f, _) {
        handle: String = file(f)?,
        data_only: bool = f.flag_or("data_only", false)?,
    }
}

impl Verb for Fsync {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::Fsync { file: self.handle.clone(), data_only: self.data_only }])
    }
}

parameters! {
    Sync(_f, _) {}
}

impl Verb for Sync {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::Sync])
    }
}

parameters! {
    Syncfs(_f, _) {}
}

impl Verb for Syncfs {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.is_mounted()
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        acts([Step::Syncfs { dir: t.env.dir.clone() }])
    }
}

parameters! {
    /// Wait until no page of the file is dirty or under writeback; else the case is unproven.
    ProveClean(f, _) { handle: String = file(f)? }
}

impl Verb for ProveClean {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        vec![Op::new(Role::ProveClean, t.page_state(&self.handle)).then(Follow::UntilClean)]
    }
}

parameters! {
    PageState(f, _) { handle: String = file(f)? }
}

impl Verb for PageState {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        acts([t.page_state(&self.handle)])
    }
}

parameters! {
    Snapshot(f, _) { file: String = file(f)? }
}

impl Verb for Snapshot {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.nothing_held("snapshot")?;
        paper.snapshots.insert(self.file.clone());
        paper.existing(&self.file)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let via = if t.point.fs.fs.direct { Via::Direct } else { Via::Buffered };
        vec![Op::new(Role::Snapshot, t.read_cells(&self.file, via))]
    }
}

parameters! {
    Compare(f, _) {
        file: String = file(f)?,
        /// With the `snapshot` of the same file taken before, not with what was written: the last completed write of
        /// each cell, by CPU or DMA.
        against_snapshot: bool =
            word(f, "against", "comparison", &[("writes", false), ("snapshot", true)])?.unwrap_or(false),
    }
}

impl Verb for Compare {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let file = &self.file;
        if self.against_snapshot && !paper.snapshots.contains(file) {
            return Err(format!("file `{file}` has no snapshot; put a `snapshot` step before"));
        }
        paper.nothing_held("compare")?;
        paper.no_jobs("compare")?;
        paper.existing(file)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let role = if self.against_snapshot { Role::CompareSnapshot } else { Role::CompareWrites };
        let mut ops = vec![Op::new(role, t.read_cells(&self.file, Via::Buffered))];
        if t.point.fs.fs.host_reads() {
            // On another device the host reads nothing; where the file lies there still tells what a line of the
            // kernel log speaks of.
            let role = if t.on_own_disk { role } else { Role::Act };
            ops.push(Op::new(role, Step::Extents { path: t.path(&self.file) }));
        }
        ops
    }
}

parameters! {
    Truncate(f, _) {
        handle: String = file(f)?,
        pages: u64 = need_number(f, "pages")?,
    }
}

impl Verb for Truncate {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.truncate(&self.handle, self.pages)
    }

    fn check_at_join(&self, paper: &mut Paper<'_>) -> Checked {
        paper.truncate(&self.handle, self.pages)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (file, len) = (t.objects.file_of(&self.handle), self.pages * PAGE_BYTES);
        t.objects.files.insert(file, len);
        acts([Step::Truncate { file: self.handle.clone(), len }])
    }

    fn takes_pages_of(&self) -> Option<Taken<'_>> {
        Some(Taken::Handle(&self.handle))
    }
}

parameters! {
    Fallocate(f, _) {
        handle: String = file(f)?,
        pages: Pages = Pages::parse(f)?,
        mode: agent::Fallocate = agent::Fallocate::Allocate,
    }
}

impl Fallocate {
    fn of(f: &mut Fields<'_, '_>, mode: agent::Fallocate) -> Result<Arc<dyn Verb>, Fault> {
        Ok(Arc::new(Self { mode, ..Self::parse(f, 0)? }))
    }
}

impl Verb for Fallocate {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let file = t.objects.file_of(&self.handle);
        let (offset, len) = self.pages.bytes(t.objects.file_len(&file));
        if self.mode == agent::Fallocate::Allocate {
            let end = t.objects.file_len(&file).max(offset + len);
            t.objects.files.insert(file, end);
        }
        acts([Step::Fallocate { file: self.handle.clone(), mode: self.mode, offset, len }])
    }

    fn takes_pages_of(&self) -> Option<Taken<'_>> {
        Some(Taken::Handle(&self.handle))
    }
}

parameters! {
    Reflink(f, _) {
        from: String = f.str_or("from", "a")?,
        to: String = f.str_or("to", "b")?,
    }
}

impl Verb for Reflink {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let (from, to) = (&self.from, &self.to);
        if !paper.point.fs.fs.reflink {
            return Err(format!("{} has no reflink; take it from matrix.fs", paper.point.fs));
        }
        paper.existing(from)?;
        fresh("file", &paper.files, to)?;
        paper.files.insert(to.clone(), paper.files[from]);
        Ok(())
    }

    fn check_at_join(&self, paper: &mut Paper<'_>) -> Checked {
        self.check(paper)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (from, to) = (&self.from, &self.to);
        let (source, mut ops) = t.handle_of(from);
        ops.extend(t.new_file(to, t.objects.file_len(from)));
        ops.extend(acts([Step::Reflink { from: source, to: to.clone() }]));
        ops
    }
}

parameters! {
    Dedupe(f, _) {
        from: String = f.str_or("from", "a")?,
        to: String = f.str_or("to", "b")?,
    }
}

impl Verb for Dedupe {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if !paper.point.fs.fs.reflink {
            return Err(format!("{} cannot share blocks; take it from matrix.fs", paper.point.fs));
        }
        paper.existing(&self.from)?;
        paper.existing(&self.to)?;
        if paper.files[&self.from] != paper.files[&self.to] {
            return Err(format!("`{}` and `{}` are not of the same length", self.from, self.to));
        }
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let (from, mut ops) = t.handle_of(&self.from);
        let (to, more) = t.handle_of(&self.to);
        ops.extend(more);
        ops.extend(acts([Step::Dedupe { from, to, len: t.objects.file_len(&self.from) }]));
        ops
    }

    fn takes_pages_of(&self) -> Option<Taken<'_>> {
        Some(Taken::File(&self.to))
    }
}

parameters! {
    CopyRange(f, _) {
        from: String = f.str_or("from", "a")?,
        to: String = f.str_or("to", "b")?,
    }
}

impl Verb for CopyRange {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.existing(&self.from)?;
        paper.new_file(&self.to, paper.files[&self.from])
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let len = t.objects.file_len(&self.from);
        let (from, mut ops) = t.handle_of(&self.from);
        ops.extend(t.new_file(&self.to, len));
        ops.extend(acts([Step::CopyRange { from, to: self.to.clone(), len }]));
        ops
    }
}

const LEASES: [(&str, agent::Lease); 3] =
    [("read", agent::Lease::Read), ("write", agent::Lease::Write), ("none", agent::Lease::None)];

parameters! {
    Lease(f, _) {
        handle: String = file(f)?,
        lease: agent::Lease = word(f, "kind", "lease", &LEASES)?.ok_or_else(|| f.missing("kind"))?,
    }
}

impl Verb for Lease {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::Lease { file: self.handle.clone(), lease: self.lease }])
    }
}

parameters! {
    AwaitLeaseBreak(f, _) { handle: String = file(f)? }
}

impl Verb for AwaitLeaseBreak {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.handle(&self.handle)
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let timeout_ms = u32::try_from(LEASE_BREAK_MS * t.env.patience_percent / 100).unwrap_or(u32::MAX);
        acts([Step::AwaitLeaseBreak { file: self.handle.clone(), timeout_ms }])
    }
}

parameters! {
    SubvolumeSnapshot(f, _) { to: String = f.str_or("to", "snap")? }
}

impl SubvolumeSnapshot {
    fn name(&self, file: &str) -> String {
        format!("{}/{file}", self.to)
    }
}

impl Verb for SubvolumeSnapshot {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if paper.point.fs.fs.name != "btrfs" {
            return Err(format!("{} has no subvolumes; take it from matrix.fs", paper.point.fs));
        }
        paper.is_mounted()?;
        let files: Vec<(String, u64)> =
            paper.files.iter().map(|(file, pages)| (self.name(file), *pages)).collect();
        for (file, pages) in files {
            fresh("file", &paper.files, &file)?;
            paper.files.insert(file, pages);
        }
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let files: Vec<(String, u64)> =
            t.objects.files.iter().map(|(file, len)| (self.name(file), *len)).collect();
        t.objects.files.extend(files);
        let argv = ["btrfs", "subvolume", "snapshot", "-r"].map(str::to_owned);
        let argv = argv.into_iter().chain([t.env.dir.clone(), t.path(&self.to)]).collect();
        acts([Step::Exec { argv, timeout_ms: SNAPSHOT_MS }])
    }
}
