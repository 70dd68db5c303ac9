// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's disk as the host sees it: a sparse raw image, made empty, and read back at the extents that the file
//! system in the guest has named. The host's page cache is shared with QEMU, so the guest's completed writes are seen.

use anyhow::{Context as _, bail};
use longpin_proto::facts::{Cells, Extent};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Largest file that is read back: scenarios use files of a few MiB, and a guest's word must not fill our memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Make an empty image.
pub fn create(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let file =
        File::create(path).with_context(|| format!("disk image {} cannot be created", path.display()))?;
    file.set_len(bytes)
        .with_context(|| format!("disk image {} cannot be made {bytes} bytes long", path.display()))
}

/// Cells of a file of `len` bytes that lies at `extents` of the image. What no extent covers reads as zeroes, as a
/// hole does.
pub fn read_cells(image: &Path, extents: &[Extent], len: u64, cell_bytes: u32) -> anyhow::Result<Cells> {
    if len > MAX_FILE_BYTES {
        bail!("a file of {len} bytes is larger than {MAX_FILE_BYTES} bytes");
    }
    if cell_bytes == 0 {
        bail!("a cell of 0 bytes");
    }
    let file =
        File::open(image).with_context(|| format!("disk image {} cannot be opened", image.display()))?;
    let mut content = vec![0u8; usize::try_from(len)?];
    for extent in extents.iter().filter(|extent| extent.located && extent.logical < len) {
        let count = extent.len.min(len - extent.logical);
        let part = usize::try_from(extent.logical)?..usize::try_from(extent.logical + count)?;
        file.read_exact_at(&mut content[part], extent.physical).with_context(|| {
            format!("{count} bytes at {} of the disk image cannot be read", extent.physical)
        })?;
    }
    let hash = blake3::hash(&content).to_hex().to_string();
    Ok(Cells::decode(&content, 0, cell_bytes, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::facts::{CellRun, CellState, Source, Writer};
    use longpin_wire::stamp::{self, Stamp};
    use std::os::unix::fs::MetadataExt as _;

    const CELL: u32 = 512;

    fn extent(logical: u64, physical: u64, len: u64) -> Extent {
        Extent { logical, physical, len, flags: 0, located: true }
    }

    fn image() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        create(&path, 1 << 20).unwrap();
        (dir, path)
    }

    fn write_cell(image: &Path, physical: u64, file_offset: u64, generation: u64) {
        let mut cell = [0u8; CELL as usize];
        let stamp = Stamp { run: 7, file_offset, generation, region: 1, source: stamp::SOURCE_DMA };
        stamp::encode(&mut cell, &stamp);
        File::options().write(true).open(image).unwrap().write_all_at(&cell, physical).unwrap();
    }

    fn whole(generation: u64) -> CellState {
        CellState::Whole(Writer { run: 7, region: 1, generation, source: Source::Dma })
    }

    #[test]
    fn an_image_is_sparse() {
        let (_dir, path) = image();
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!((meta.len(), meta.blocks()), (1 << 20, 0));
    }

    #[test]
    fn a_scattered_file_is_put_together_in_file_order_and_holes_are_zero() {
        let (_dir, path) = image();
        write_cell(&path, 65536, 0, 3);
        write_cell(&path, 8192, 1024, 4);
        let extents = [extent(1024, 8192, 512), extent(0, 65536, 512)];
        let cells = read_cells(&path, &extents, 2048, CELL).unwrap();
        let run = |offset, state| CellRun { offset, count: 1, state };
        assert_eq!(
            cells.runs,
            [run(0, whole(3)), run(512, CellState::Zero), run(1024, whole(4)), run(1536, CellState::Zero)]
        );
    }

    #[test]
    fn an_extent_past_the_end_of_the_file_is_cut_and_one_without_place_is_left_out() {
        let (_dir, path) = image();
        write_cell(&path, 4096, 0, 1);
        let inline = Extent { located: false, ..extent(0, 4096, 512) };
        let cells = read_cells(&path, &[inline], 512, CELL).unwrap();
        assert_eq!(cells.runs[0].state, CellState::Zero);
        let cells = read_cells(&path, &[extent(0, 4096, 1 << 19)], 512, CELL).unwrap();
        assert_eq!((cells.runs.len(), &cells.runs[0].state), (1, &whole(1)));
    }

    #[test]
    fn an_extent_past_the_end_of_the_disk_is_an_error_that_says_where() {
        let (_dir, path) = image();
        let error = read_cells(&path, &[extent(0, 1 << 20, 512)], 512, CELL).unwrap_err();
        assert!(error.to_string().starts_with("512 bytes at 1048576 of the disk image"), "{error:#}");
    }
}
