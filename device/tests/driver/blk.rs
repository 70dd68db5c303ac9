// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtio-blk driver: requests with header, data and status, many at once, on several queues.

use super::{BUFFERS, DEADLINE, Driver, INDIRECT, RING_BYTES, raw_descriptor};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Instant;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

/// Requests of one queue at once: four descriptors each.
pub const SLOTS: u16 = 64;
/// Longest data of one request.
pub const MAX_DATA: usize = 128 << 10;
const SLOT_BYTES: u64 = 0x24000;
const STATUS_AT: u64 = 0x100;
const TABLE_AT: u64 = 0x200;
const DATA_AT: u64 = 0x1000;

/// What came back: status, and bytes written by the used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub status: u8,
    pub written: u32,
}

/// A connected disk.
pub struct Blk {
    driver: Driver,
    indirect: bool,
    free: Vec<Vec<u16>>,
    early: HashMap<(usize, u16), u32>,
}

impl Deref for Blk {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl DerefMut for Blk {
    fn deref_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }
}

impl Blk {
    pub fn connect(path: &Path, features: u64, queues: usize) -> Self {
        assert!(queues as u64 * RING_BYTES <= BUFFERS);
        let driver = Driver::connect_queues(path, features, queues);
        let free = vec![(0..SLOTS).rev().collect(); queues];
        Self { driver, indirect: features & INDIRECT != 0, free, early: HashMap::new() }
    }

    /// Stop and start every queue, as a driver does when it is loaded again.
    pub fn restart(&mut self) {
        for queue in 0..self.free.len() {
            self.driver.stop_queue(queue);
        }
        for queue in 0..self.free.len() {
            self.driver.start_queue(queue);
            self.free[queue] = (0..SLOTS).rev().collect();
        }
        self.early.clear();
    }

    /// Where a slot's data is in the guest's memory.
    pub fn data_at(&self, queue: usize, slot: u16) -> u64 {
        self.slot_at(queue, slot) + DATA_AT
    }

    fn slot_at(&self, queue: usize, slot: u16) -> u64 {
        BUFFERS + (queue as u64 * u64::from(SLOTS) + u64::from(slot)) * SLOT_BYTES
    }

    pub fn has_free_slot(&self, queue: usize) -> bool {
        !self.free[queue].is_empty()
    }

    /// Submit a request; `writable`: the device writes its `len` bytes of data. The data is in the slot already.
    fn submit(&mut self, queue: usize, slot: u16, op: u32, sector: u64, len: u32, writable: bool) {
        let at = self.slot_at(queue, slot);
        let mut header = op.to_le_bytes().to_vec();
        header.extend(0u32.to_le_bytes());
        header.extend(sector.to_le_bytes());
        self.driver.write(at, &header);
        self.driver.write(at + STATUS_AT, &[0xee]);
        let direction = if writable { VRING_DESC_F_WRITE } else { 0 };
        let mut chain = vec![(at, 16, 0)];
        if len > 0 {
            // In two pieces, so that vectors are tried too.
            let first = if len >= 1024 { len / 1024 * 512 } else { len };
            chain.push((at + DATA_AT, first, direction));
            if first < len {
                chain.push((at + DATA_AT + u64::from(first), len - first, direction));
            }
        }
        chain.push((at + STATUS_AT, 1, VRING_DESC_F_WRITE));
        let last = chain.len() - 1;
        for (index, (gpa, len, flags)) in chain.into_iter().enumerate() {
            let flags = flags | if index < last { VRING_DESC_F_NEXT } else { 0 };
            if self.indirect {
                let descriptor = raw_descriptor(gpa, len, flags, index as u16 + 1);
                self.driver.write(at + TABLE_AT + index as u64 * 16, &descriptor);
            } else {
                let number = slot * 4 + index as u16;
                self.driver.descriptor(queue, number, gpa, len, flags, number + 1);
            }
        }
        if self.indirect {
            let table = (last as u32 + 1) * 16;
            self.driver.descriptor(queue, slot * 4, at + TABLE_AT, table, VRING_DESC_F_INDIRECT, 0);
        }
        self.driver.publish(queue, slot * 4);
    }

    fn slot(&mut self, queue: usize) -> u16 {
        self.free[queue].pop().expect("a free slot")
    }

    pub fn start_read(&mut self, queue: usize, sector: u64, len: usize) -> u16 {
        let slot = self.slot(queue);
        self.driver.write(self.data_at(queue, slot), &vec![0xdd; len]);
        self.submit(queue, slot, VIRTIO_BLK_T_IN, sector, len as u32, true);
        slot
    }

    pub fn start_write(&mut self, queue: usize, sector: u64, bytes: &[u8]) -> u16 {
        let slot = self.slot(queue);
        self.driver.write(self.data_at(queue, slot), bytes);
        self.submit(queue, slot, VIRTIO_BLK_T_OUT, sector, bytes.len() as u32, false);
        slot
    }

    pub fn start_flush(&mut self, queue: usize) -> u16 {
        let slot = self.slot(queue);
        self.submit(queue, slot, VIRTIO_BLK_T_FLUSH, 0, 0, false);
        slot
    }

    fn start_range(&mut self, queue: usize, op: u32, sector: u64, sectors: u32, flags: u32) -> u16 {
        let slot = self.slot(queue);
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        self.driver.write(self.data_at(queue, slot), &bytes);
        self.submit(queue, slot, op, 0, 16, false);
        slot
    }

    pub fn start_discard(&mut self, queue: usize, sector: u64, sectors: u32) -> u16 {
        self.start_range(queue, VIRTIO_BLK_T_DISCARD, sector, sectors, 0)
    }

    pub fn start_write_zeroes(&mut self, queue: usize, sector: u64, sectors: u32, unmap: bool) -> u16 {
        self.start_range(queue, VIRTIO_BLK_T_WRITE_ZEROES, sector, sectors, unmap.into())
    }

    /// Collect an answer if one is there.
    fn collect(&mut self, queue: usize) -> bool {
        let used = self.driver.next_used(queue);
        if let Some((head, written)) = used {
            assert_eq!(head % 4, 0, "a head that was never published");
            assert!(self.early.insert((queue, head / 4), written).is_none(), "answered twice");
        }
        used.is_some()
    }

    fn settle(&mut self, queue: usize, slot: u16) -> Option<Done> {
        let written = self.early.remove(&(queue, slot))?;
        self.free[queue].push(slot);
        let status = self.driver.read(self.slot_at(queue, slot) + STATUS_AT, 1)[0];
        Some(Done { status, written })
    }

    /// The answer to a slot if it has come.
    pub fn poll(&mut self, queue: usize, slot: u16) -> Option<Done> {
        while self.collect(queue) {}
        self.settle(queue, slot)
    }

    /// Wait for the answer to a slot.
    pub fn wait(&mut self, queue: usize, slot: u16) -> Done {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(done) = self.settle(queue, slot) {
                return done;
            }
            assert!(Instant::now() < deadline, "waited {DEADLINE:?} for slot {slot} of queue {queue}");
            if !self.collect(queue) {
                self.driver.wait_for_call(queue);
            }
        }
    }

    /// Read, and expect that it succeeds.
    pub fn read_disk(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let slot = self.start_read(0, sector, len);
        assert_eq!(self.wait(0, slot), Done { status: 0, written: len as u32 + 1 });
        self.driver.read(self.data_at(0, slot), len)
    }

    /// Write; the status.
    pub fn write_disk(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let slot = self.start_write(0, sector, bytes);
        self.wait(0, slot).status
    }

    pub fn flush(&mut self) -> u8 {
        let slot = self.start_flush(0);
        self.wait(0, slot).status
    }

    /// The serial, with zeroes behind it.
    pub fn serial(&mut self) -> Vec<u8> {
        let slot = self.slot(0);
        self.submit(0, slot, VIRTIO_BLK_T_GET_ID, 0, 20, true);
        assert_eq!(self.wait(0, slot), Done { status: 0, written: 21 });
        self.driver.read(self.data_at(0, slot), 20)
    }

    /// A request of any type and direction; its answer.
    pub fn odd(&mut self, op: u32, sector: u64, len: u32, writable: bool) -> Done {
        let slot = self.slot(0);
        self.submit(0, slot, op, sector, len, writable);
        self.wait(0, slot)
    }
}
