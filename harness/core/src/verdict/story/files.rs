// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files, mappings, and what calls do to them.

use super::{Mapping, Story};
use crate::verdict::content::Content;
use crate::verdict::file::FileContent;
use longpin_proto::agent::{Backing, Fallocate};
use std::collections::BTreeMap;

/// Changes of each file at one moment.
pub type Moment = BTreeMap<String, u64>;

impl Story<'_> {
    pub(super) fn with_file(&mut self, handle: &str, change: impl FnOnce(&mut FileContent)) {
        let path = self.handles.get(handle).cloned().unwrap_or_default();
        if let Some(content) = self.files.get_mut(&path) {
            change(content);
            self.remounted = false;
        }
    }

    pub(super) fn write(&mut self, path: &str, offset: u64, len: u64, content: Content) {
        if let Some(file) = self.files.get_mut(path) {
            file.write(offset, len, content);
            self.remounted = false;
        }
    }

    pub(super) fn fallocate(&mut self, handle: &str, mode: Fallocate, offset: u64, len: u64) {
        if mode == Fallocate::Allocate {
            self.with_file(handle, |content| content.resize(content.size().max(offset + len)));
        } else {
            self.with_file(handle, |content| content.write(offset, len, Content::Zero));
            self.doubt(handle, offset, len);
        }
    }

    pub(super) fn reflink(&mut self, from: &str, to: &str) {
        let (Some(from), Some(to)) = (self.handles.get(from), self.handles.get(to)) else { return };
        if let Some(content) = self.files.get(from).cloned() {
            self.files.insert(to.clone(), content);
        }
    }

    pub(super) fn map(&mut self, map: &str, backing: &Backing, shared: bool) {
        let (file, offset) = match backing {
            Backing::File { file, offset } if shared => (self.handles.get(file).cloned(), *offset),
            _ => (None, 0),
        };
        self.maps.insert(map.to_owned(), Mapping { file, offset });
    }

    /// File and offset behind a shared mapping.
    pub(super) fn place(&self, map: &str) -> Option<(String, u64)> {
        let mapping = self.maps.get(map)?;
        Some((mapping.file.clone()?, mapping.offset))
    }

    /// Where every file stands now.
    pub(super) fn moment(&self) -> Moment {
        self.files.iter().map(|(path, file)| (path.clone(), file.changes())).collect()
    }

    /// A call that makes files durable, begun at this moment, has succeeded: for one file or for all.
    pub(super) fn promise(&mut self, handle: Option<&str>, moment: &Moment) {
        let path = handle.map(|handle| self.handles.get(handle).cloned().unwrap_or_default());
        for (name, change) in moment {
            if path.as_ref().is_none_or(|path| path == name)
                && let Some(file) = self.files.get_mut(name)
            {
                file.promise(*change);
            }
        }
    }
}
