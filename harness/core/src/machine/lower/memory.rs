// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mappings: made, touched, stored through, read.

use super::Lowering;
use crate::machine::objects::Mapping;
use crate::machine::op::{Op, acts};
use crate::scenario::{Backed, Pages};
use longpin_proto::agent::{Backing, Step};

impl Lowering {
    pub(super) fn map(
        &mut self,
        map: String,
        backed: Backed,
        pages: Pages,
        shared: bool,
        write: bool,
    ) -> Vec<Op> {
        let (file, backing, offset, len) = match backed {
            Backed::File(handle) => {
                let file = self.objects.file_of(&handle);
                let (offset, len) = pages.bytes(self.objects.file_len(&file));
                (Some(file), Backing::File { file: handle, offset }, offset, len)
            }
            Backed::Anonymous => (None, Backing::Anonymous, 0, pages.bytes(0).1),
            Backed::Hugetlb => (None, Backing::Hugetlb, 0, pages.bytes(0).1),
        };
        self.objects.maps.insert(map.clone(), Mapping { file, offset, len });
        acts([Step::Map { map, backing, len, shared, write }])
    }

    pub(super) fn read_mapping(&self, map: &str) -> Vec<Op> {
        let Some(mapping) = self.objects.maps.get(map) else { return Vec::new() };
        acts([Step::ReadMapping {
            map: map.to_owned(),
            offset: 0,
            len: mapping.len,
            cell_bytes: self.cell_bytes,
            file_offset: mapping.offset,
        }])
    }
}
