// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The chunk tree of btrfs: from its logical address space, in which FIEMAP answers, to bytes of the device.
//!
//! One device; of a mirrored (DUP) chunk the first stripe. Chunks striped over devices (RAID0, 10, 5, 6) are not
//! translated: an extent in one is stated as not located.

use crate::error::{OrRefused, StepError};
use crate::sys::{self, TREE_SEARCH_BYTES, TreeSearch};
use longpin_proto::facts::Extent;
use rustix::fd::AsFd;
use zerocopy::FromBytes;
use zerocopy_derive::{FromBytes, Immutable, KnownLayout};

/// BTRFS_CHUNK_TREE_OBJECTID.
const CHUNK_TREE: u64 = 3;
/// BTRFS_FIRST_CHUNK_TREE_OBJECTID.
const FIRST_CHUNK: u64 = 256;
/// BTRFS_CHUNK_ITEM_KEY.
const CHUNK_ITEM: u32 = 228;
/// BTRFS_BLOCK_GROUP_ bits RAID0, RAID10, RAID5, RAID6: a stripe holds only a part of the chunk.
const STRIPED: u64 = 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8;

/// `struct btrfs_ioctl_search_header`.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ItemHeader {
    transid: u64,
    objectid: u64,
    offset: u64,
    kind: u32,
    len: u32,
}

/// `struct btrfs_chunk` with its first stripe (linux/btrfs_tree.h): packed on disk, little-endian.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct ChunkItem {
    length: u64,
    owner: u64,
    stripe_len: u64,
    kind: u64,
    io_align: u32,
    io_width: u32,
    sector_size: u32,
    num_stripes: u16,
    sub_stripes: u16,
    stripe_devid: u64,
    stripe_offset: u64,
    stripe_dev_uuid: [u8; 16],
}
const _: () = assert!(size_of::<ChunkItem>() == 80);

/// A piece of the logical address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    logical: u64,
    len: u64,
    /// Byte on the device; none if the chunk is striped.
    device: Option<u64>,
}

/// All chunks of a file system in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap(Vec<Chunk>);

impl ChunkMap {
    /// Read the chunk tree through any open file of the file system. Needs CAP_SYS_ADMIN.
    pub fn read(file: impl AsFd + Copy) -> Result<Self, StepError> {
        let mut chunks: Vec<Chunk> = Vec::new();
        loop {
            let mut search = search_from(chunks.last().map_or(0, |last| last.logical + 1));
            sys::btrfs_tree_search(file, &mut search).or_refused("ioctl(BTRFS_IOC_TREE_SEARCH_V2)")?;
            let found = parse_items(&search.buf, search.nr_items);
            if found.is_empty() {
                return Ok(Self(chunks));
            }
            chunks.extend(found);
        }
    }

    /// Split an extent at chunk borders and give each piece its device byte.
    pub fn translate(&self, extent: Extent) -> Vec<Extent> {
        if !extent.located {
            return vec![extent];
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < extent.len {
            let (device, room) = self.locate(extent.physical + done);
            let len = room.min(extent.len - done);
            pieces.push(Extent {
                logical: extent.logical + done,
                physical: device.unwrap_or(0),
                len,
                located: device.is_some(),
                ..extent
            });
            done += len;
        }
        pieces
    }

    /// Device byte of a logical address, and how many bytes from there on have the same answer.
    fn locate(&self, address: u64) -> (Option<u64>, u64) {
        let next = self.0.partition_point(|chunk| chunk.logical <= address);
        let chunk = next.checked_sub(1).map(|index| self.0[index]);
        match chunk.filter(|chunk| address - chunk.logical < chunk.len) {
            Some(chunk) => {
                let inside = address - chunk.logical;
                (chunk.device.map(|device| device + inside), chunk.len - inside)
            }
            None => (None, self.0.get(next).map_or(u64::MAX, |chunk| chunk.logical - address)),
        }
    }
}

fn search_from(min_offset: u64) -> TreeSearch {
    TreeSearch {
        tree_id: CHUNK_TREE,
        min_objectid: FIRST_CHUNK,
        max_objectid: FIRST_CHUNK,
        min_offset,
        max_offset: u64::MAX,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: CHUNK_ITEM,
        max_type: CHUNK_ITEM,
        nr_items: u32::MAX,
        unused: [0; 9],
        buf_size: TREE_SEARCH_BYTES as u64,
        buf: [0; TREE_SEARCH_BYTES],
    }
}

fn parse_items(mut bytes: &[u8], count: u32) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for _ in 0..count {
        let Ok((header, rest)) = ItemHeader::read_from_prefix(bytes) else { break };
        let Some((item, rest)) = rest.split_at_checked(header.len as usize) else { break };
        bytes = rest;
        let Ok((chunk, _)) = ChunkItem::read_from_prefix(item) else { continue };
        if header.kind != CHUNK_ITEM {
            continue;
        }
        let device = (chunk.kind & STRIPED == 0).then_some(chunk.stripe_offset);
        chunks.push(Chunk { logical: header.offset, len: chunk.length, device });
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DUP_METADATA: u64 = 1 << 2 | 1 << 5;
    const SINGLE_DATA: u64 = 1;
    const RAID0_DATA: u64 = 1 | 1 << 3;

    /// An item as the ioctl returns it: header, 48 bytes of chunk, 32 bytes a stripe.
    fn item(logical: u64, len: u64, kind: u64, stripes: &[u64]) -> Vec<u8> {
        let mut chunk = Vec::new();
        for word in [len, 2, 65536, kind] {
            chunk.extend(word.to_le_bytes());
        }
        for word in [65536u32, 65536, 4096] {
            chunk.extend(word.to_le_bytes());
        }
        chunk.extend((stripes.len() as u16).to_le_bytes());
        chunk.extend(1u16.to_le_bytes());
        for offset in stripes {
            chunk.extend(1u64.to_le_bytes());
            chunk.extend(offset.to_le_bytes());
            chunk.extend([0xee; 16]);
        }
        let mut bytes = Vec::new();
        for word in [7, FIRST_CHUNK, logical] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(CHUNK_ITEM.to_le_bytes());
        bytes.extend((chunk.len() as u32).to_le_bytes());
        bytes.extend(chunk);
        bytes
    }

    fn map() -> ChunkMap {
        let bytes = [
            item(13 * MIB, 8 * MIB, SINGLE_DATA, &[13 * MIB]),
            item(21 * MIB, 8 * MIB, DUP_METADATA, &[40 * MIB, 48 * MIB]),
            item(29 * MIB, 8 * MIB, SINGLE_DATA, &[100 * MIB]),
            item(64 * MIB, 8 * MIB, RAID0_DATA, &[200 * MIB, 300 * MIB]),
        ]
        .concat();
        ChunkMap(parse_items(&bytes, 4))
    }

    fn extent(physical: u64, len: u64) -> Extent {
        Extent { logical: 0, physical, len, flags: 0, located: true }
    }

    fn places(extent: Extent) -> Vec<(u64, u64, u64, bool)> {
        map().translate(extent).iter().map(|e| (e.logical, e.physical, e.len, e.located)).collect()
    }

    #[test]
    fn an_extent_inside_a_chunk_moves_by_the_stripe() {
        assert_eq!(places(extent(30 * MIB, MIB)), [(0, 101 * MIB, MIB, true)]);
    }

    #[test]
    fn the_first_copy_of_a_mirrored_chunk_is_taken() {
        assert_eq!(places(extent(22 * MIB, 4096)), [(0, 41 * MIB, 4096, true)]);
    }

    #[test]
    fn an_extent_over_a_border_is_split() {
        assert_eq!(
            places(extent(28 * MIB, 2 * MIB)),
            [(0, 47 * MIB, MIB, true), (MIB, 100 * MIB, MIB, true)]
        );
    }

    #[test]
    fn striped_chunks_and_gaps_are_not_located() {
        assert_eq!(places(extent(65 * MIB, 4096)), [(0, 0, 4096, false)]);
        assert_eq!(places(extent(63 * MIB, 2 * MIB)), [(0, 0, MIB, false), (MIB, 0, MIB, false)]);
        assert_eq!(places(extent(80 * MIB, 4096)), [(0, 0, 4096, false)]);
        assert_eq!(places(extent(0, 4096)), [(0, 0, 4096, false)]);
    }

    #[test]
    fn an_extent_that_was_not_located_is_left_alone() {
        let inline = Extent { logical: 0, physical: 0, len: 100, flags: 0x200, located: false };
        assert_eq!(map().translate(inline), [inline]);
    }

    #[test]
    fn cut_items_end_the_list() {
        let bytes = item(13 * MIB, 8 * MIB, SINGLE_DATA, &[0]);
        assert_eq!(parse_items(&bytes[..bytes.len() - 1], 1), []);
        assert_eq!(parse_items(&bytes, 5).len(), 1);
    }
}
