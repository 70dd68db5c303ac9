// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was read, by whom, and what it is to be compared with.

use super::{FileContent, Replay};
use crate::record::Role;
use longpin_proto::facts::{Cells, Errno, Extent};

/// Who read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The guest, by a handle.
    Guest,
    /// The guest, through a mapping.
    Mapping,
    /// The host, from the image.
    Host,
}

/// Content as somebody read it.
#[derive(Debug)]
pub struct Reading<'r> {
    /// Who.
    pub reader: Reader,
    /// What for.
    pub role: Role,
    /// File, or what the memory is called.
    pub path: String,
    /// None: after the guest was gone, or the record has no times.
    pub at: Option<u64>,
    /// What was there.
    pub cells: Result<&'r Cells, &'r Errno>,
    /// Its place in [`Replay::compared`], if it is compared with something.
    pub compared: Option<usize>,
}

/// A file that was read, to be compared.
#[derive(Debug)]
pub struct Compared<'r> {
    /// File.
    pub path: String,
    /// What was there.
    pub cells: &'r Cells,
    /// By the host, from the image.
    pub host: bool,
    /// Ranges that this reader could not see as they are (inline, compressed, delayed extents).
    pub blind: Vec<(u64, u64)>,
    /// What the file should hold: by its writes, or by its snapshot.
    pub wanted: Wanted<'r>,
    /// The file system was unmounted between the last write and the reading.
    pub after_remount: bool,
}

/// What a reading is compared with.
#[derive(Debug)]
pub enum Wanted<'r> {
    /// What was written.
    Writes(FileContent),
    /// What was read before.
    Snapshot(&'r Cells),
}

impl<'r> Replay<'r> {
    pub(super) fn read_from(
        &mut self,
        reader: Reader,
        role: Role,
        path: String,
        at: u64,
        cells: Result<&'r Cells, &'r Errno>,
    ) {
        let at = (self.clock.timed && reader != Reader::Host).then_some(at);
        self.readings.push(Reading { reader, role, path, at, cells, compared: None });
    }

    pub(super) fn read(&mut self, role: Role, path: &str, cells: &'r Cells, at: u64) {
        self.read_from(Reader::Guest, role, path.to_owned(), at, Ok(cells));
        if role == Role::Snapshot {
            self.snapshots.insert(path.to_owned(), cells);
            return;
        }
        self.compare(role == Role::CompareSnapshot, path, cells, false, Vec::new());
    }

    /// The last reading is compared.
    pub(super) fn compare(
        &mut self,
        snapshot: bool,
        path: &str,
        cells: &'r Cells,
        host: bool,
        blind: Vec<(u64, u64)>,
    ) {
        let content = self.files.get(path).or_else(|| self.own.get(path));
        let wanted = match (snapshot, self.snapshots.get(path), content) {
            (true, Some(cells), _) => Wanted::Snapshot(cells),
            (true, None, _) => return self.faults.push(format!("{path} was compared and has no snapshot")),
            (false, _, Some(content)) => Wanted::Writes(content.clone()),
            (false, _, None) => return self.faults.push(format!("{path} was compared and never opened")),
        };
        let (path, after_remount) = (path.to_owned(), self.remounted);
        if let Some(reading) = self.readings.last_mut() {
            reading.compared = Some(self.compared.len());
        }
        self.compared.push(Compared { path, cells, host, blind, wanted, after_remount });
    }

    pub(super) fn image(&mut self, path: &'r str, extents: &'r [Extent], result: &'r Result<Cells, String>) {
        self.imaged.insert(path);
        self.extents.entry(path.to_owned()).or_default().extend(extents);
        let cells = match result {
            Ok(cells) => cells,
            Err(message) => return self.faults.push(format!("the host could not read {path}: {message}")),
        };
        let by_snapshot = |compared: &Compared<'_>| matches!(compared.wanted, Wanted::Snapshot(_));
        let snapshot = self.compared.iter().any(|compared| compared.path == path && by_snapshot(compared));
        let role = if snapshot { Role::CompareSnapshot } else { Role::CompareWrites };
        self.read_from(Reader::Host, role, path.to_owned(), 0, Ok(cells));
        let blind = extents.iter().filter(|e| is_blind(e)).map(|e| (e.logical, e.logical + e.len)).collect();
        self.compare(snapshot, path, cells, true, blind);
    }

    /// A compared file on a device that the host did not read. What it could not read is a fault already.
    pub fn host_missing(&self) -> Option<&String> {
        self.compared_extents.keys().find(|path| !self.imaged.contains(path.as_str()))
    }
}

/// FIEMAP_EXTENT_UNWRITTEN: allocated and not written yet; it reads as zeros, for the host as well.
const EXTENT_UNWRITTEN: u32 = 0x800;

fn is_blind(extent: &Extent) -> bool {
    !extent.located && extent.flags & EXTENT_UNWRITTEN == 0
}
