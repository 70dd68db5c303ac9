// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file system and its device: made, mounted, unmounted, poked.

use super::op::{Op, acts};
use super::paper::{Checked, Paper, known, within};
use super::parameters::file;
use super::{Definition, Translation, Verb};
use crate::fields::{Fault, Fields};
use crate::record::Role;
use longpin_proto::agent::Step;
use longpin_proto::disk::PAGE_BYTES;
use longpin_proto::filesystem::OnDevice;

/// The step after which there is a file system that its checker can look at.
pub const MKFS: &str = "mkfs";

pub const STEPS: &[Definition] = &[
    Definition::new::<Mkfs>(
        MKFS,
        "`args`",
        "makes the file system; nothing where it has no block device of its own (tmpfs)",
    ),
    Definition::new::<Mount>("mount", "", "mounts it with the options of the case"),
    Definition::new::<Umount>("umount", "", "unmaps and closes what is open, unmounts, drops caches"),
    Definition::new::<Remount>(
        "remount",
        "",
        "`umount` and `mount`; only unmaps and closes where an unmount loses the files (tmpfs)",
    ),
    Definition::new::<AddLayer>(
        "add-layer",
        "",
        "overlay, fuse: `umount` and `mount` with an empty layer above those that are there: every file lies in a lower layer \
         then, and the first open for writing copies it up",
    ),
    Definition::new::<UseDevice>(
        "use-device",
        "`path`",
        "from here on `mkfs` and `mount` use this block device instead of the audited disk; the host then reads no image",
    ),
    Definition::new::<PokeDevice>(
        "poke-device",
        "`file`, `page` (0), `byte` (0xEE)",
        "overwrites a page of a file on the device while it is unmounted; for controls",
    ),
];

impl Translation {
    fn mount(&mut self) -> Op {
        self.mounted = true;
        let fs = self.point.fs.fs;
        let device = fs.mounted_from(&self.device).to_owned();
        let options = fs.options_with(&self.point.fs.options);
        Op::new(Role::Act, Step::Mount { fs: fs.to_string(), device, dir: self.env.dir.clone(), options })
    }

    /// Give up mappings and handles.
    fn close_all(&mut self) -> Vec<Op> {
        let maps = std::mem::take(&mut self.objects.maps).into_keys().map(|map| Step::Unmap { map });
        let handles = std::mem::take(&mut self.objects.handles).into_keys().map(|file| Step::Close { file });
        acts(maps.chain(handles).collect::<Vec<_>>())
    }

    pub(super) fn umount(&mut self) -> Vec<Op> {
        self.mounted = false;
        let mut ops = self.close_all();
        let wanted = self.steps.as_slice().iter().filter_map(|step| step.verb.needs_place_of());
        let extents: Vec<Step> = wanted.map(|file| Step::Extents { path: self.path(file) }).collect();
        ops.extend(acts(extents));
        ops.extend(acts([Step::Umount { dir: self.env.dir.clone() }, Step::DropCaches]));
        ops
    }
}

parameters! {
    Mkfs(f, _) {
        args: Vec<String> = f.strings("args")?.into_iter().map(|at| at.value).collect(),
    }
}

impl Verb for Mkfs {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.unmounted("mkfs")
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let fs = t.point.fs.fs;
        let Some(OnDevice { mkfs, .. }) = fs.device() else { return Vec::new() };
        let args = mkfs.args.iter().map(|arg| (*arg).to_owned()).chain(self.args.clone()).collect();
        acts([Step::Mkfs { fs: fs.to_string(), device: t.device.clone(), args }])
    }
}

parameters! {
    Mount(_f, _) {}
}

impl Verb for Mount {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.unmounted("mount")?;
        paper.nothing_held("mount")?;
        paper.mounted = true;
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        vec![t.mount()]
    }
}

parameters! {
    Umount(_f, _) {}
}

impl Verb for Umount {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if !paper.point.fs.fs.keeps_content {
            return Err(format!(
                "{} loses its files at an umount; use `remount`, or take it from matrix.fs",
                paper.point.fs
            ));
        }
        paper.quiet("umount")?;
        paper.mounted = false;
        Ok(())
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        t.umount()
    }
}

parameters! {
    Remount(_f, _) {}
}

impl Verb for Remount {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.quiet("remount")
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        if !t.point.fs.fs.keeps_content {
            return t.close_all();
        }
        let mut ops = t.umount();
        ops.push(t.mount());
        ops
    }
}

parameters! {
    /// What was written so far is in a lower layer from here on.
    AddLayer(_f, _) {}
}

impl Verb for AddLayer {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        let fs = &paper.point.fs;
        if fs.fs.over().is_none() {
            return Err(format!("{fs} has no layers; take it from matrix.fs"));
        }
        paper.quiet("add-layer")
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let mut ops = acts([Step::AddLayer { dir: t.env.dir.clone() }]);
        ops.extend(t.umount());
        ops.push(t.mount());
        ops
    }
}

fn device(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    let path = f.need_str("path")?;
    match path.value.strip_prefix("/dev/") {
        Some(name) if !name.is_empty() => Ok(path.value.to_owned()),
        _ => {
            let text = format!("`{}` is no block device; write a path below /dev/", path.value);
            Err(f.fault_at(path.line, text))
        }
    }
}

parameters! {
    /// From here on another device carries the file systems, whose bytes the host does not find in its image.
    UseDevice(f, _) { path: String = device(f)? }
}

impl Verb for UseDevice {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        paper.has_disk("another block device")?;
        paper.unmounted("use-device")
    }

    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        (t.on_own_disk, t.device) = (false, self.path.clone());
        Vec::new()
    }
}

parameters! {
    /// Overwrite a page of a file on the device, behind the file system's back.
    PokeDevice(f, _) {
        file: String = file(f)?,
        page: u64 = f.number_or("page", 0)?,
        byte: u8 = f.byte_or("byte", 0xEE)?,
    }
}

impl Verb for PokeDevice {
    fn check(&self, paper: &mut Paper<'_>) -> Checked {
        if !paper.point.fs.fs.host_reads() {
            let fs = &paper.point.fs;
            return Err(format!(
                "{fs} has no bytes of files at known places of a device; take it from matrix.fs"
            ));
        }
        paper.unmounted("poke-device")?;
        within("file", &self.file, self.page + 1, *known("file", &paper.files, &self.file)?)
    }

    /// The page's place by the extents taken before the unmount. A page without a place cannot be poked: the step
    /// then goes to offset 0 with length 0, which the agent refuses.
    fn ask(&self, t: &mut Translation) -> Vec<Op> {
        let place = t.objects.place(&t.path(&self.file), self.page * PAGE_BYTES, PAGE_BYTES);
        let (offset, len) = place.unwrap_or_default();
        acts([Step::PokeDevice { device: t.device.clone(), offset, len, byte: self.byte }])
    }

    fn needs_place_of(&self) -> Option<&str> {
        Some(&self.file)
    }
}
