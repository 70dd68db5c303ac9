// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files, mappings, and what calls do to them.

use super::{Content, FileContent, Handle, PageWrite, Replay};
use crate::operations::Durable;
use longpin_proto::agent::{Backing, Fallocate, Fill, OpenFlags};
use std::collections::BTreeMap;

/// Changes of each file at one moment.
pub type Moment = BTreeMap<String, u64>;

/// What a mapping shows.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file, or what the memory is called.
    pub name: String,
    /// It shows the file's own pages.
    pub of_file: bool,
    /// In the file.
    pub offset: u64,
}

impl Replay<'_> {
    pub(super) fn open(&mut self, file: &str, path: &str, flags: OpenFlags, at: u64) {
        self.handles.insert(file.to_owned(), Handle { path: path.to_owned(), direct: flags.direct });
        self.opened.entry(path.to_owned()).or_insert(at);
        let fresh = FileContent::new(self.record.cell_bytes);
        if flags.truncate {
            self.files.insert(path.to_owned(), fresh);
        } else {
            self.files.entry(path.to_owned()).or_insert(fresh);
        }
    }

    /// Path behind a handle.
    pub fn path(&self, file: &str) -> String {
        self.handles.get(file).map_or_else(|| file.to_owned(), |handle| handle.path.clone())
    }

    fn with_file(&mut self, path: &str, change: impl FnOnce(&mut FileContent)) {
        if let Some(content) = self.files.get_mut(path) {
            change(content);
            self.remounted = false;
        }
    }

    pub(super) fn write(&mut self, path: &str, offset: u64, len: u64, content: Content) {
        self.with_file(path, |file| file.write(offset, len, content));
    }

    /// Bytes of a mapping were written: of a file's own pages, or of memory that is no file's.
    pub(super) fn wrote(&mut self, name: &str, of_file: bool, offset: u64, len: u64, content: Content) {
        match self.own.get_mut(name) {
            _ if of_file => self.write(name, offset, len, content),
            Some(memory) => memory.write(offset, len, content),
            None => {}
        }
    }

    pub(super) fn write_cells(&mut self, file: &str, offset: u64, len: u64, fill: &Fill, times: (u64, u64)) {
        let path = self.path(file);
        self.with_file(&path, |content| content.append(offset, len, content_of(fill)));
        // Direct I/O drops the pages from the cache; ordinary writes go through them. Either way the driver is asked,
        // and a page that did not leave is not doubted for long.
        self.doubt(&path, offset, len, times.1);
        // A direct write is on the disk before the call returns.
        let direct = self.handles.get(file).is_some_and(|handle| handle.direct);
        self.by_cpu(&path, offset, len, fill, if direct { times.0 } else { times.1 });
    }

    pub(super) fn store(&mut self, map: &str, offset: u64, len: u64, fill: &Fill, at: u64) {
        let place = self.place(map);
        self.wrote(&place.name, place.of_file, place.offset + offset, len, content_of(fill));
        self.by_cpu(&place.name, place.offset + offset, len, fill, at);
    }

    fn by_cpu(&mut self, name: &str, offset: u64, len: u64, fill: &Fill, at: u64) {
        let (source, generation) = (fill.source, fill.generation);
        self.memory.wrote(name, offset, len, PageWrite { at, source, generation, whole: true });
    }

    pub(super) fn truncate(&mut self, file: &str, len: u64, at: u64) {
        let path = self.path(file);
        let old = self.files.get(&path).map_or(0, FileContent::size);
        self.with_file(&path, |content| content.resize(len));
        if len < old {
            self.pages_leave(&path, len, old - len, at);
        }
    }

    pub(super) fn fallocate(&mut self, file: &str, mode: Fallocate, offset: u64, len: u64, at: u64) {
        let path = self.path(file);
        match mode {
            Fallocate::Allocate => {
                self.with_file(&path, |content| content.resize(content.size().max(offset + len)));
            }
            Fallocate::PunchHole | Fallocate::ZeroRange => {
                self.write(&path, offset, len, Content::Zero);
                self.pages_leave(&path, offset, len, at);
            }
        }
    }

    /// Pages of this range are the file's no more; of pinned ones the driver must say so.
    fn pages_leave(&mut self, path: &str, offset: u64, len: u64, at: u64) {
        self.doubt(path, offset, len, at);
        let pins = &self.pins;
        let pinned = |page: u64| pins.iter().any(|pin| pin.is_held() && pin.covers(path, page));
        self.memory.cut_off(path, offset, len, at, pinned);
    }

    /// The whole of a file is another's content.
    pub(super) fn copied(&mut self, from: &str, to: &str) {
        let (Some(from), Some(to)) = (self.handles.get(from), self.handles.get(to)) else { return };
        if let Some(content) = self.files.get(&from.path).cloned() {
            self.files.insert(to.path.clone(), content);
        }
    }

    pub(super) fn map(&mut self, map: &str, backing: &Backing, shared: bool) {
        let (name, of_file, offset) = match backing {
            Backing::File { file, offset } if shared => (self.path(file), true, *offset),
            Backing::File { file, offset } => {
                (format!("the private copy of {}", self.path(file)), false, *offset)
            }
            Backing::Anonymous => (format!("anonymous memory {map}"), false, 0),
            Backing::Hugetlb => (format!("hugetlb memory {map}"), false, 0),
        };
        if !of_file {
            // A private copy is the file until it is written; memory of no file is zeros.
            let of = match backing {
                Backing::File { file, .. } => self.files.get(&self.path(file)).cloned(),
                _ => None,
            };
            self.own.insert(name.clone(), of.unwrap_or_else(|| FileContent::new(self.record.cell_bytes)));
        }
        self.maps.insert(map.to_owned(), Place { name, of_file, offset });
    }

    /// File or memory behind a mapping.
    pub(super) fn place(&self, map: &str) -> Place {
        let unknown = || Place { name: format!("mapping {map}"), of_file: false, offset: 0 };
        self.maps.get(map).cloned().unwrap_or_else(unknown)
    }

    /// Where every file stands now.
    pub(super) fn moment(&self) -> Moment {
        self.files.iter().map(|(path, file)| (path.clone(), file.changes())).collect()
    }

    /// What a call makes durable has all of this file.
    pub fn covers(&self, durable: Durable<'_>, path: &str) -> bool {
        match durable {
            Durable::File(file) => self.path(file) == path,
            // vfs_fsync_range() writes the range that it is given, and no more.
            Durable::Mapping { map, offset, len } => {
                let place = self.place(map);
                let size = self.files.get(path).map_or(0, FileContent::size);
                place.of_file && place.name == path && place.offset + offset == 0 && len >= size
            }
            Durable::All => true,
        }
    }

    /// A call that makes files durable, begun at this moment, has succeeded.
    pub(super) fn promise(&mut self, durable: Durable<'_>, moment: &Moment) {
        let kept: Vec<(&String, &u64)> =
            moment.iter().filter(|(path, _)| self.covers(durable, path)).collect();
        for (path, change) in kept {
            if let Some(content) = self.files.get_mut(path) {
                content.promise(*change);
            }
        }
    }
}

/// What a CPU writes.
pub(super) fn content_of(fill: &Fill) -> Content {
    Content::Stamp { source: fill.source, generation: fill.generation }
}
