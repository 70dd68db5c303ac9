// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files: made, written, cut, read, compared.

use super::Lowering;
use crate::machine::op::{Follow, Op, acts};
use crate::record::Role;
use crate::scenario::{Against, PAGE_BYTES, Pages};
use longpin_proto::agent::{Fallocate, OpenFlags, Step, Via};

impl Lowering {
    pub(super) fn create(&mut self, file: String, pages: u64, generation: u64) -> Vec<Op> {
        let len = pages * PAGE_BYTES;
        let mut ops = self.new_file(&file, len);
        ops.extend(acts([
            Step::WriteCells { file: file.clone(), offset: 0, len, fill: self.fill(generation) },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }

    pub(super) fn create_hole(&mut self, file: String, pages: u64) -> Vec<Op> {
        let len = pages * PAGE_BYTES;
        let mut ops = self.new_file(&file, len);
        ops.extend(acts([
            Step::Truncate { file: file.clone(), len },
            Step::Fsync { file, data_only: false },
        ]));
        ops
    }

    fn new_file(&mut self, file: &str, len: u64) -> Vec<Op> {
        self.objects.files.insert(file.to_owned(), len);
        self.objects.handles.insert(file.to_owned(), file.to_owned());
        let flags = OpenFlags { write: true, create: true, truncate: true, direct: false };
        vec![self.open(file.to_owned(), file, flags)]
    }

    /// Write through a handle of the step's own: whoever uses O_DIRECT for one write does not want it for the rest.
    pub(super) fn write(&mut self, file: &str, pages: Pages, generation: u64, direct: bool) -> Vec<Op> {
        let (offset, len) = pages.bytes(self.objects.file_len(file));
        let handle = format!("{file}.write");
        let mut ops =
            vec![self.open(handle.clone(), file, OpenFlags { write: true, direct, ..Default::default() })];
        ops.extend(acts([
            Step::WriteCells { file: handle.clone(), offset, len, fill: self.fill(generation) },
            Step::Close { file: handle },
        ]));
        ops
    }

    pub(super) fn page_state(&self, handle: String) -> Step {
        let len = self.objects.file_len(&self.objects.file_of(&handle));
        Step::PageState { file: handle, offset: 0, len }
    }

    pub(super) fn prove_clean(&self, handle: String) -> Vec<Op> {
        let step = self.page_state(handle);
        vec![Op::new(Role::ProveClean, step).then(Follow::UntilClean)]
    }

    pub(super) fn snapshot(&self, file: &str) -> Vec<Op> {
        let via = if self.point.fs.fs.direct { Via::Direct } else { Via::Buffered };
        vec![Op::new(Role::Snapshot, self.read_cells(file, via))]
    }

    fn read_cells(&self, file: &str, via: Via) -> Step {
        let (path, len) = (self.path(file), self.objects.file_len(file));
        Step::ReadCells { path, offset: 0, len, cell_bytes: self.cell_bytes, via }
    }

    pub(super) fn compare(&self, file: &str, against: Against) -> Vec<Op> {
        let role = match against {
            Against::Writes => Role::CompareWrites,
            Against::Snapshot => Role::CompareSnapshot,
        };
        let mut ops = vec![Op::new(role, self.read_cells(file, Via::Buffered))];
        if self.point.fs.fs.host_reads() {
            // On another device the host reads nothing; where the file lies there still tells what a line of the
            // kernel log speaks of.
            let role = if self.on_own_disk { role } else { Role::Act };
            ops.push(Op::new(role, Step::Extents { path: self.path(file) }));
        }
        ops
    }

    pub(super) fn truncate(&mut self, handle: String, pages: u64) -> Vec<Op> {
        let (file, len) = (self.objects.file_of(&handle), pages * PAGE_BYTES);
        self.objects.files.insert(file, len);
        acts([Step::Truncate { file: handle, len }])
    }

    pub(super) fn fallocate(&mut self, handle: String, mode: Fallocate, pages: Pages) -> Vec<Op> {
        let file = self.objects.file_of(&handle);
        let (offset, len) = pages.bytes(self.objects.file_len(&file));
        if mode == Fallocate::Allocate {
            let end = self.objects.file_len(&file).max(offset + len);
            self.objects.files.insert(file, end);
        }
        acts([Step::Fallocate { file: handle, mode, offset, len }])
    }

    pub(super) fn reflink(&mut self, from: &str, to: String) -> Vec<Op> {
        let mut ops = Vec::new();
        let source = match self.objects.handles.iter().find(|(_, file)| *file == from) {
            Some((handle, _)) => handle.clone(),
            None => {
                self.objects.handles.insert(from.to_owned(), from.to_owned());
                ops.push(self.open(from.to_owned(), from, OpenFlags::default()));
                from.to_owned()
            }
        };
        ops.extend(self.new_file(&to, self.objects.file_len(from)));
        ops.extend(acts([Step::Reflink { from: source, to }]));
        ops
    }
}
