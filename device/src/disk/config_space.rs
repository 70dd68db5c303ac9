// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration space that a virtio-blk driver reads (virtio 1.3, 5.2.4), and its one field that a driver
//! writes: whether completed writes may still be in a cache.

use super::image::Image;
use super::request::MAX_TRANSFER_BYTES;
use zerocopy::IntoBytes as _;
use zerocopy_derive::{Immutable, IntoBytes};

/// Bytes of a serial id (VIRTIO_BLK_ID_BYTES).
pub const ID_BYTES: usize = 20;
/// Longest range of one discard or write-zeroes, in sectors: 2 GiB, as QEMU has it.
pub const MAX_RANGE_SECTORS: u32 = 1 << 22;
/// Bytes of a sector, the unit of addresses whatever the block size.
pub const SECTOR_BYTES: u64 = 512;
/// Offset of `writeback`.
const WRITEBACK_AT: u32 = 32;
/// What vhost-user may ask for at most; past the fields there are zeroes.
const SPACE_BYTES: usize = 256;

/// Fields up to those of VIRTIO_BLK_F_WRITE_ZEROES.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct Fields {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    cylinders: u16,
    heads: u8,
    sectors: u8,
    blk_size: u32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: u16,
    opt_io_size: u32,
    writeback: u8,
    unused0: u8,
    num_queues: u16,
    max_discard_sectors: u32,
    max_discard_seg: u32,
    discard_sector_alignment: u32,
    max_write_zeroes_sectors: u32,
    max_write_zeroes_seg: u32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}
const _: () = assert!(size_of::<Fields>() == 60);
const _: () = assert!(std::mem::offset_of!(Fields, writeback) == WRITEBACK_AT as usize);

/// The space of one disk.
pub struct ConfigSpace([u8; SPACE_BYTES]);

/// Longest segment with which the longest request that obeys both bounds is not refused.
fn size_max(seg_max: u32) -> u32 {
    let most = MAX_TRANSFER_BYTES as u32 / seg_max.max(1);
    1 << most.ilog2()
}

impl ConfigSpace {
    /// What a driver is told about `image`.
    pub fn new(image: &Image, queues: usize, queue_size: u16, writeback: bool) -> Self {
        let block_sectors = image.block_bytes / SECTOR_BYTES as u32;
        // A ring's descriptors, less header and status.
        let seg_max = u32::from(queue_size - 2);
        let fields = Fields {
            capacity: (image.bytes / SECTOR_BYTES).to_le(),
            size_max: size_max(seg_max).to_le(),
            seg_max: seg_max.to_le(),
            cylinders: 0,
            heads: 0,
            sectors: 0,
            blk_size: image.block_bytes.to_le(),
            // Pages of 4 KiB are what the host writes at once.
            physical_block_exp: (4096 / image.block_bytes).trailing_zeros() as u8,
            alignment_offset: 0,
            min_io_size: ((4096 / image.block_bytes) as u16).to_le(),
            opt_io_size: 0,
            writeback: writeback.into(),
            unused0: 0,
            num_queues: (queues as u16).to_le(),
            max_discard_sectors: MAX_RANGE_SECTORS.to_le(),
            max_discard_seg: 1u32.to_le(),
            discard_sector_alignment: block_sectors.to_le(),
            max_write_zeroes_sectors: MAX_RANGE_SECTORS.to_le(),
            max_write_zeroes_seg: 1u32.to_le(),
            write_zeroes_may_unmap: 1,
            unused1: [0; 3],
        };
        let mut space = [0; SPACE_BYTES];
        space[..size_of::<Fields>()].copy_from_slice(fields.as_bytes());
        Self(space)
    }

    /// The bytes at `offset`; nothing if they are not all in the space, which vhost-user answers with an error.
    pub fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        self.0.get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// What a write of `bytes` at `offset` asks of the cache, if it touches that field.
    pub fn writeback_in(offset: u32, bytes: &[u8]) -> Option<bool> {
        let index = WRITEBACK_AT.checked_sub(offset)? as usize;
        bytes.get(index).map(|value| *value != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(block_bytes: u32) -> ConfigSpace {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        ConfigSpace::new(&Image::open(file.path(), block_bytes, false).unwrap(), 3, 256, true)
    }

    fn u32_at(space: &ConfigSpace, offset: u32) -> u32 {
        u32::from_le_bytes(space.read(offset, 4).try_into().unwrap())
    }

    #[test]
    fn a_request_within_the_bounds_is_not_too_long() {
        for queue_size in [2u32, 4, 64, 128, 256, 512, 1024] {
            let seg_max = queue_size - 2;
            let longest = u64::from(seg_max) * u64::from(size_max(seg_max));
            assert!(longest <= MAX_TRANSFER_BYTES && size_max(seg_max) >= 4096, "{queue_size}");
        }
    }

    #[test]
    fn fields_are_where_the_standard_has_them() {
        let space = space(4096);
        assert_eq!(space.read(0, 8), 2048u64.to_le_bytes(), "capacity in sectors");
        assert_eq!(u32_at(&space, 8), 256 << 10, "size_max");
        assert_eq!(u32_at(&space, 12), 254, "seg_max");
        assert_eq!(u32_at(&space, 20), 4096, "blk_size");
        assert_eq!(space.read(24, 4), [0, 0, 1, 0], "physical_block_exp, alignment_offset, min_io_size");
        assert_eq!(space.read(32, 4), [1, 0, 3, 0], "writeback, num_queues");
        assert_eq!((u32_at(&space, 36), u32_at(&space, 40), u32_at(&space, 44)), (1 << 22, 1, 8), "discard");
        assert_eq!((u32_at(&space, 48), u32_at(&space, 52)), (1 << 22, 1), "write zeroes");
        assert_eq!(space.read(56, 1), [1], "write_zeroes_may_unmap");
    }

    #[test]
    fn small_blocks_have_a_physical_block_of_a_page() {
        let space = space(512);
        assert_eq!(space.read(24, 4), [3, 0, 8, 0]);
        assert_eq!(u32_at(&space, 44), 1);
    }

    #[test]
    fn past_the_fields_are_zeroes_and_past_the_space_nothing() {
        let space = space(512);
        assert_eq!(space.read(60, 196), [0; 196]);
        for (offset, size) in [(0, 257), (256, 1), (u32::MAX, u32::MAX)] {
            assert!(space.read(offset, size).is_empty(), "{offset}+{size}");
        }
    }

    #[test]
    fn only_a_write_to_its_field_changes_the_cache() {
        assert_eq!(ConfigSpace::writeback_in(32, &[0]), Some(false));
        assert_eq!(ConfigSpace::writeback_in(30, &[0, 0, 1, 0]), Some(true));
        assert_eq!(ConfigSpace::writeback_in(33, &[0]), None);
        assert_eq!(ConfigSpace::writeback_in(0, &[1; 32]), None);
    }
}
