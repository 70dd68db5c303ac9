// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which file a page belongs to that the disk, a pin or a stamp speaks of.

use super::Replay;
use longpin_proto::disk::Hit;
use longpin_proto::facts::Extent;
use std::collections::BTreeSet;

impl Replay<'_> {
    /// The file behind a region; without one the only file that had a page pinned, or the only file.
    pub fn file_of(&self, region: Option<u32>) -> Option<String> {
        if let Some(pin) = region.and_then(|number| self.pin_of(number)) {
            return Some(pin.path.clone());
        }
        let pinned: BTreeSet<&String> =
            self.pins.iter().filter(|pin| pin.of_file).map(|pin| &pin.path).collect();
        let only = |mut names: Box<dyn Iterator<Item = &String> + '_>| match (names.next(), names.next()) {
            (Some(name), None) => Some(name.clone()),
            _ => None,
        };
        only(Box::new(pinned.into_iter())).or_else(|| only(Box::new(self.files.keys())))
    }

    /// File and offset of a page that changed in flight: by the place of compared files on the disk, else by pin or
    /// stamp, which know the offset.
    pub fn place_of(&self, hit: &Hit) -> (Option<String>, Option<u64>) {
        let on_disk = self.compared_extents.iter().find_map(|(path, extents)| {
            let extent = extents.iter().find(|extent| holds(extent, hit))?;
            Some((path.clone(), extent.logical + (hit.byte - extent.physical)))
        });
        if let Some((path, offset)) = on_disk
            && hit.disk == 0
            && hit.file_offset.is_none_or(|known| known == offset)
        {
            return (Some(path), Some(offset));
        }
        (hit.file_offset.and_then(|_| self.file_of(hit.region)), hit.file_offset)
    }
}

fn holds(extent: &Extent, hit: &Hit) -> bool {
    extent.located && (extent.physical..extent.physical + extent.len).contains(&hit.byte)
}
