// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptor tables in guest memory, written by hand.

use crate::mem::{AtomicMap, GuestRam, Map, View};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT as _};
use vm_memory::{Bytes as _, GuestAddress};

/// Bytes of guest memory, from address 0.
pub const RAM_BYTES: u64 = 4 << 20;
pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// Address, length, flags, next.
pub type Raw = (u64, u32, u16, u16);

pub fn ram() -> GuestRam {
    GuestRam::new(AtomicMap::new(Map::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap()))
}

fn raw(&(gpa, len, flags, next): &Raw) -> RawDescriptor {
    Descriptor::new(gpa, len, flags, next).into()
}

/// Write an indirect table at `gpa`.
pub fn write_indirect(ram: &GuestRam, gpa: u64, table: &[Raw]) {
    for (index, descriptor) in table.iter().enumerate() {
        ram.view().map().write_obj(raw(descriptor), GuestAddress(gpa + index as u64 * 16)).unwrap();
    }
}

/// What `parse` makes of the chain whose head is descriptor 0 of `table`, in a queue of 16.
pub fn parse_table<T>(
    ram: &GuestRam,
    table: &[Raw],
    parse: impl FnOnce(DescriptorChain<&Map>, &View<'_>) -> T,
) -> T {
    let view = ram.view();
    let mock = MockSplitQueue::new(view.map(), 16);
    for (index, descriptor) in table.iter().map(raw).enumerate() {
        mock.desc_table().store(index as u16, descriptor).unwrap();
    }
    mock.avail().ring().ref_at(0).unwrap().store(0);
    mock.avail().idx().store(1);
    let mut ring: Queue = mock.create_queue().unwrap();
    let chain = ring.iter(view.map()).unwrap().next().unwrap();
    parse(chain, &view)
}
