// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration space that the driver reads.

use crate::engine::MAX_PROGRAMS;
use longpin_wire::dma::{self, Config};
use zerocopy::IntoBytes as _;

/// Read-only configuration space.
pub struct ConfigSpace(Config);

impl Default for ConfigSpace {
    fn default() -> Self {
        Self(Config {
            magic: dma::CONFIG_MAGIC,
            version: dma::VERSION,
            max_regions: dma::MAX_REGIONS,
            max_segments_per_map: dma::MAX_SEGMENTS_PER_MAP,
            max_programs: MAX_PROGRAMS as u32,
            reserved0: 0,
            max_region_bytes: dma::MAX_REGION_BYTES,
            features: dma::FEATURE_REVOCABLE,
            reserved1: [0; 3],
        })
    }
}

impl ConfigSpace {
    /// The bytes at `offset`; nothing if they are not all in the space, which vhost-user answers with an error.
    pub fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        self.0.as_bytes().get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes as _;

    #[test]
    fn the_driver_reads_what_the_contract_says() {
        let bytes = ConfigSpace::default().read(0, dma::CONFIG_SIZE as u32);
        let config = Config::read_from_bytes(&bytes).unwrap();
        assert_eq!((config.magic, config.version), (dma::CONFIG_MAGIC, dma::VERSION));
        assert_eq!(config.max_programs, 256);
        assert_eq!(config.features, dma::FEATURE_REVOCABLE);
        assert_eq!((config.reserved0, config.reserved1), (0, [0; 3]));
    }

    #[test]
    fn a_part_is_read_and_a_range_outside_is_not() {
        let space = ConfigSpace::default();
        assert_eq!(space.read(4, 4), dma::VERSION.to_le_bytes());
        for (offset, size) in [(64, 1), (60, 8), (u32::MAX, u32::MAX)] {
            assert!(space.read(offset, size).is_empty(), "{offset}+{size}");
        }
    }
}
