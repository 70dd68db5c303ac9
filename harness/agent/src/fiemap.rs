// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a file is on its device: FIEMAP, and for btrfs the translation to device bytes; FIBMAP where there is no FIEMAP
//! (exfat).

use crate::btrfs_chunks::ChunkMap;
use crate::error::{OrRefused, StepError};
use crate::sys::{self, FIEMAP_BATCH, Fiemap, FiemapExtent, FiemapHead};
use longpin_proto::facts::Extent;
use rustix::fd::AsFd;

/// FIEMAP_FLAG_SYNC: write delayed allocations out first.
const FLAG_SYNC: u32 = 1;
/// FIEMAP_EXTENT_LAST.
const LAST: u32 = 0x1;
/// Extents whose bytes are not on the device as they are: UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, DATA_INLINE,
/// DATA_TAIL, UNWRITTEN (linux/fiemap.h).
const NOT_LOCATED: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x200 | 0x400 | 0x800;
/// BTRFS_SUPER_MAGIC.
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// Extents of a file in ascending order, in bytes of the device. Refused where the file system has neither FIEMAP nor
/// FIBMAP.
pub fn extents(file: impl AsFd + Copy) -> Result<Vec<Extent>, StepError> {
    let raw = match collect(file) {
        Err(StepError::Refused(errno)) if errno.name == "EOPNOTSUPP" => {
            return by_blocks(file, |block| sys::fibmap(file, block)).map_err(|_| StepError::Refused(errno));
        }
        raw => raw?,
    };
    let magic = rustix::fs::fstatfs(file).or_refused("fstatfs")?.f_type as u64;
    let located = raw.into_iter().map(extent_of);
    if magic != BTRFS_MAGIC {
        return Ok(located.collect());
    }
    let chunks = ChunkMap::read(file)?;
    Ok(located.flat_map(|extent| chunks.translate(extent)).collect())
}

fn collect(file: impl AsFd + Copy) -> Result<Vec<FiemapExtent>, StepError> {
    let mut all: Vec<FiemapExtent> = Vec::new();
    loop {
        let start = all.last().map_or(0, |last| last.logical.saturating_add(last.length));
        let head = FiemapHead { start, length: u64::MAX - start, flags: FLAG_SYNC, ..FiemapHead::default() };
        let mut request = Fiemap { head, extents: [FiemapExtent::default(); FIEMAP_BATCH] };
        sys::fiemap(file, &mut request).or_refused("ioctl(FS_IOC_FIEMAP)")?;
        let got = &request.extents[..(request.head.mapped_extents as usize).min(FIEMAP_BATCH)];
        all.extend_from_slice(got);
        if got.last().is_none_or(|last| last.flags & LAST != 0 || last.length == 0) {
            return Ok(all);
        }
    }
}

/// By FIBMAP, a block at a time. Nothing needs to be written out before: a file system with delayed allocation does it
/// by itself (iomap_bmap(), for instance).
fn by_blocks(
    file: impl AsFd + Copy,
    place_of: impl Fn(u32) -> rustix::io::Result<u32>,
) -> rustix::io::Result<Vec<Extent>> {
    let block = u64::from(sys::block_bytes(file)?);
    let len = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
    let mut all: Vec<Extent> = Vec::new();
    for number in 0..len.div_ceil(block) {
        let asked = u32::try_from(number).map_err(|_| rustix::io::Errno::FBIG)?;
        let (logical, physical) = (number * block, u64::from(place_of(asked)?) * block);
        if physical == 0 {
            continue;
        }
        match all.last_mut() {
            Some(last) if (last.logical + last.len, last.physical + last.len) == (logical, physical) => {
                last.len += block;
            }
            _ => all.push(Extent { logical, physical, len: block, flags: 0, located: true }),
        }
    }
    Ok(all)
}

fn extent_of(raw: FiemapExtent) -> Extent {
    let located = raw.flags & NOT_LOCATED == 0;
    Extent {
        logical: raw.logical,
        physical: if located { raw.physical } else { 0 },
        len: raw.length,
        flags: raw.flags,
        located,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(flags: u32) -> FiemapExtent {
        FiemapExtent { logical: 4096, physical: 1 << 20, length: 8192, flags, ..FiemapExtent::default() }
    }

    #[test]
    fn plain_and_shared_extents_are_located() {
        const SHARED: u32 = 0x2000;
        for flags in [0, LAST, SHARED, SHARED | LAST] {
            let extent = extent_of(raw(flags));
            assert_eq!((extent.located, extent.physical, extent.len), (true, 1 << 20, 8192), "{flags:#x}");
        }
    }

    #[test]
    fn delayed_unwritten_inline_and_encoded_extents_are_not() {
        for flags in [0x2, 0x4, 0x8, 0x80, 0x200 | 0x100, 0x400, 0x800 | LAST] {
            let extent = extent_of(raw(flags));
            assert_eq!((extent.located, extent.physical), (false, 0), "{flags:#x}");
        }
    }

    #[test]
    fn blocks_that_follow_one_another_are_one_extent_and_a_hole_is_none() {
        let file = tempfile::tempfile().unwrap();
        let block = u64::from(sys::block_bytes(&file).unwrap());
        file.set_len(5 * block - 1).unwrap();
        // A hole, two neighbours, two that are none.
        let extents = by_blocks(&file, |number| Ok([0, 7, 8, 20, 3][number as usize])).unwrap();
        let found: Vec<_> =
            extents.iter().map(|e| (e.logical / block, e.physical / block, e.len / block)).collect();
        assert_eq!(found, [(1, 7, 2), (3, 20, 1), (4, 3, 1)]);
        assert!(extents.iter().all(|extent| extent.located));
        let refused = by_blocks(&file, |_| Err(rustix::io::Errno::PERM));
        assert_eq!(refused, Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn a_sparse_file_of_this_host_has_its_data_extents() {
        // Skips by itself where the temporary directory has no FIEMAP (tmpfs): that refusal is the fact then.
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, &[1; 4096], 65536).unwrap();
        match extents(&file) {
            Ok(extents) => {
                assert_eq!(extents.iter().map(|e| (e.logical, e.len)).collect::<Vec<_>>(), [(65536, 4096)]);
            }
            Err(StepError::Refused(errno)) => assert_eq!(errno.name, "EOPNOTSUPP"),
            Err(other) => panic!("{other:?}"),
        }
    }
}
