// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file system and its device: made, mounted, let go, put back.

use super::Lowering;
use crate::machine::op::{Op, acts};
use crate::record::Role;
use crate::scenario::{Act, FIRST_DISK, PAGE_BYTES};
use longpin_proto::agent::Step;
use longpin_proto::control::Request;
use longpin_proto::filesystem::OnDevice;

impl Lowering {
    pub(super) fn mkfs(&self, args: Vec<String>) -> Vec<Op> {
        let fs = self.point.fs.fs;
        let Some(OnDevice { mkfs, .. }) = fs.device() else { return Vec::new() };
        let args = mkfs.args.iter().map(|arg| (*arg).to_owned()).chain(args).collect();
        acts([Step::Mkfs { fs: fs.to_string(), device: self.device.clone(), args }])
    }

    pub(super) fn mount(&mut self) -> Op {
        self.mounted = true;
        let fs = self.point.fs.fs;
        let device = fs.mounted_from(&self.device).to_owned();
        let options = fs.options_with(&self.point.fs.options);
        Op::new(Role::Act, Step::Mount { fs: fs.to_string(), device, dir: self.env.dir.clone(), options })
    }

    /// Let go of mappings and handles.
    fn let_go(&mut self) -> Vec<Op> {
        let maps = std::mem::take(&mut self.objects.maps).into_keys().map(|map| Step::Unmap { map });
        let handles = std::mem::take(&mut self.objects.handles).into_keys().map(|file| Step::Close { file });
        acts(maps.chain(handles).collect::<Vec<_>>())
    }

    pub(super) fn umount(&mut self) -> Vec<Op> {
        self.mounted = false;
        let mut ops = self.let_go();
        let poked: Vec<Step> = self
            .steps
            .as_slice()
            .iter()
            .filter_map(|step| match &step.action {
                Act::PokeDevice { file, .. } => Some(Step::Extents { path: self.path(file) }),
                _ => None,
            })
            .collect();
        ops.extend(acts(poked));
        ops.extend(acts([Step::Unmount { dir: self.env.dir.clone() }, Step::DropCaches]));
        ops
    }

    pub(super) fn remount(&mut self) -> Vec<Op> {
        if !self.point.fs.fs.keeps_content {
            return self.let_go();
        }
        let mut ops = self.umount();
        ops.push(self.mount());
        ops
    }

    /// From here on another device carries the file systems, whose bytes the host does not find in its image.
    pub(super) fn use_device(&mut self, path: String) -> Vec<Op> {
        self.on_own_disk = false;
        self.device = path;
        Vec::new()
    }

    /// The noted content is the disk's again; nothing of the other content may stay in the guest.
    pub(super) fn restore(&mut self) -> Vec<Op> {
        let mut ops = if self.mounted { self.umount() } else { Vec::new() };
        ops.push(Op::disk(Request::Restore { disk: FIRST_DISK }));
        ops
    }

    /// The page's place by the extents taken before the unmount. A page without a place cannot be poked: the step
    /// then goes to offset 0 with length 0, which the agent refuses.
    pub(super) fn poke(&self, file: &str, page: u64, byte: u8) -> Vec<Op> {
        let (offset, len) =
            self.objects.place(&self.path(file), page * PAGE_BYTES, PAGE_BYTES).unwrap_or_default();
        acts([Step::PokeDevice { device: self.device.clone(), offset, len, byte }])
    }
}
