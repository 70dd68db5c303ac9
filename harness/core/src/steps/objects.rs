// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case has open, mapped, pinned and held, as far as the translation of its steps must know.

use crate::matrix::Release;
use longpin_proto::facts::Extent;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub struct Mapping {
    /// File behind it, if there is one.
    pub file: Option<String>,
    /// Offset in the file.
    pub offset: u64,
    pub len: u64,
}

#[derive(Debug, Clone)]
pub struct Region {
    pub map: String,
    pub file: Option<String>,
    /// Offset in the mapping.
    pub offset: u64,
    pub len: u64,
    /// The driver pins it, or mirrors it.
    pub by_driver: bool,
    /// Somebody holds its pages, so they can leave their file under it.
    pub holds_pages: bool,
    /// The only way in which it is given back, if there is only one.
    pub given_back: Option<Release>,
    /// It is a direct read that the second disk holds.
    pub dio: Option<DioPin>,
}

/// A direct read as a pin.
#[derive(Debug, Clone)]
pub struct DioPin {
    /// Name of the rule that holds it and of the job that reads.
    pub name: String,
    /// Number of the region, in stamps and ledger.
    pub number: u32,
    /// Offset in its file of the first page.
    pub file_offset: u64,
}

/// Extent of a program in its region.
#[derive(Debug, Clone)]
pub struct Placed {
    pub region: String,
    pub offset: u64,
    pub len: u64,
}

/// Objects by name.
#[derive(Debug, Default)]
pub struct Objects {
    /// Files and their lengths in bytes.
    pub files: BTreeMap<String, u64>,
    /// Handles and their files.
    pub handles: BTreeMap<String, String>,
    pub maps: BTreeMap<String, Mapping>,
    pub regions: BTreeMap<String, Region>,
    pub programs: BTreeMap<String, Placed>,
    /// Rules that stand.
    pub rules: BTreeSet<String>,
    /// Where files are on the device, by path, as the kernel said last.
    pub extents: BTreeMap<String, Vec<Extent>>,
}

impl Objects {
    pub fn map_len(&self, map: &str) -> u64 {
        self.maps.get(map).map_or(0, |mapping| mapping.len)
    }

    pub fn file_len(&self, file: &str) -> u64 {
        self.files.get(file).copied().unwrap_or_default()
    }

    pub fn file_of(&self, handle: &str) -> String {
        self.handles.get(handle).cloned().unwrap_or_default()
    }

    /// A region that is a direct read.
    pub fn dio(&self, region: &str) -> Option<&DioPin> {
        self.regions.get(region)?.dio.as_ref()
    }

    /// Byte on the device and length of a piece of a file that lies there in one.
    pub fn place(&self, path: &str, at: u64, len: u64) -> Option<(u64, u64)> {
        let holds = |e: &&Extent| e.located && e.logical <= at && at + len <= e.logical + e.len;
        let extent = self.extents.get(path)?.iter().find(holds)?;
        Some((extent.physical + (at - extent.logical), len))
    }
}
