// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was read, and what it is to be compared with.

use super::{Reading, Story, Wanted};
use crate::record::Role;
use longpin_proto::facts::{Cells, Extent};

impl<'r> Story<'r> {
    pub(super) fn read(&mut self, role: Role, path: &str, cells: &'r Cells) {
        if role == Role::Snapshot {
            self.snapshots.insert(path.to_owned(), cells);
            return;
        }
        self.reading(role == Role::CompareSnapshot, path, cells, false, Vec::new());
    }

    pub(super) fn reading(
        &mut self,
        snapshot: bool,
        path: &str,
        cells: &'r Cells,
        host: bool,
        blind: Vec<(u64, u64)>,
    ) {
        let wanted = match (snapshot, self.snapshots.get(path), self.files.get(path)) {
            (true, Some(cells), _) => Wanted::Snapshot(cells),
            (true, None, _) => return self.infra.push(format!("{path} was compared and has no snapshot")),
            (false, _, Some(content)) => Wanted::Writes(content.clone()),
            (false, _, None) => return self.infra.push(format!("{path} was compared and never opened")),
        };
        let (path, after_remount) = (path.to_owned(), self.remounted);
        self.readings.push(Reading { path, cells, host, blind, wanted, after_remount });
    }

    pub(super) fn image(&mut self, path: &str, extents: &[Extent], result: &'r Result<Cells, String>) {
        self.host_wanted.remove(path);
        let cells = match result {
            Ok(cells) => cells,
            Err(message) => return self.infra.push(format!("the host could not read {path}: {message}")),
        };
        let snapshot = self
            .readings
            .iter()
            .any(|reading| reading.path == path && matches!(reading.wanted, Wanted::Snapshot(_)));
        let blind = extents.iter().filter(|e| is_blind(e)).map(|e| (e.logical, e.logical + e.len)).collect();
        self.reading(snapshot, path, cells, true, blind);
    }

    /// A compared file on a device that the host did not read.
    pub fn host_missing(&self) -> Option<&String> {
        self.host_wanted.first()
    }
}

/// FIEMAP_EXTENT_UNWRITTEN: allocated and not written yet; it reads as zeros, for the host as well.
const EXTENT_UNWRITTEN: u32 = 0x800;

fn is_blind(extent: &Extent) -> bool {
    !extent.located && extent.flags & EXTENT_UNWRITTEN == 0
}
