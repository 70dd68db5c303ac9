// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A driver and a front-end in one: guest memory in a memfd, virtqueues, and the whole daemon behind a real
//! vhost-user socket. No virtual machine. [`Driver`] speaks to the accelerator, [`Blk`] to a disk.
#![allow(dead_code, unused_imports, reason = "each test crate uses a part of it")]

mod blk;
mod daemon;
mod program;
mod random;
mod requests;

pub use blk::{Blk, Done};
pub use daemon::{Control, Daemon, disk_config};
pub use program::{Program, refused};
pub use random::Random;
pub use requests::{
    await_fault, dma_request, endless, fault_done, invalidate, map_part, map_request, map_revocable,
    populate, raw_descriptor, stamps, stop_request, unmap_request,
};

use longpin_wire::dma::{self, DmaRequest, Response};
use longpin_wire::ledger::{Entry, Header};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes as _;

/// Guest memory: one range from 0.
pub const RAM_BYTES: u64 = 128 << 20;
/// Where tests put the pages that are written.
pub const DATA: u64 = 64 << 20;
/// Every wait of a test ends here; on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(600);

const USER_BASE: u64 = 0x7000_0000_0000;
const RING_BYTES: u64 = 0x10000;
const BUFFERS: u64 = 16 << 20;
const BUFFER_BYTES: u64 = 0x12000;
/// Request and response: two descriptors each.
pub const SLOTS: u16 = dma::QUEUE_SIZE / 2;
const RESPONSE_AT: u64 = 0x11000;

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
const PROTOCOL: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;

/// Poll until `condition` holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// All whole entries of a ledger file.
pub fn read_ledger(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap();
    let (_, rest) = Header::read_from_prefix(&bytes).expect("a header");
    rest.chunks_exact(size_of::<Entry>()).map(|e| Entry::read_from_bytes(e).unwrap()).collect()
}

/// One virtqueue, seen from the driver.
struct Queue {
    base: u64,
    kick: EventFd,
    call: EventFd,
    wake: Epoll,
    avail: u16,
    used: u16,
    free: Vec<u16>,
}

/// A driver with its guest.
pub struct Driver {
    pub mem: GuestMemoryMmap,
    file: File,
    pub frontend: Frontend,
    queues: Vec<Queue>,
    event_idx: bool,
    /// Used entries that came while another was awaited: queue, slot, bytes written.
    early: Vec<(usize, u16, u32)>,
    /// Seconds spent in vain.
    pub calls_missed: u32,
}

impl Driver {
    /// Connect to an accelerator.
    pub fn connect(path: &Path, features: u64) -> Self {
        Self::connect_queues(path, features, dma::NUM_QUEUES)
    }

    /// Connect to a device with so many queues of 256.
    pub fn connect_queues(path: &Path, features: u64, queues: usize) -> Self {
        let memfd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memfd);
        file.set_len(RAM_BYTES).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(0), RAM_BYTES as usize, Some(offset));
        let mem = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let mut frontend = Frontend::connect(path, queues as u64).unwrap();
        let offered = frontend.get_features().unwrap();
        let wanted = features | PROTOCOL;
        assert_eq!(offered & wanted, wanted, "features offered: {offered:#x}");
        frontend.set_owner().unwrap();
        let protocol = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK;
        assert!(frontend.get_protocol_features().unwrap().contains(protocol));
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(wanted).unwrap();
        let event_idx = features & EVENT_IDX != 0;
        let mut driver =
            Self { mem, file, frontend, queues: Vec::new(), event_idx, early: Vec::new(), calls_missed: 0 };
        driver.set_memory(RAM_BYTES);
        for index in 0..queues {
            let call = EventFd::new(EFD_NONBLOCK).unwrap();
            let wake = Epoll::new().unwrap();
            wake.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
            driver.queues.push(Queue {
                base: index as u64 * RING_BYTES,
                kick: EventFd::new(EFD_NONBLOCK).unwrap(),
                call,
                wake,
                avail: 0,
                used: 0,
                free: Vec::new(),
            });
            driver.start_queue(index);
        }
        driver
    }

    /// Tell the device that the guest's memory ends at `bytes`.
    pub fn set_memory(&self, bytes: u64) {
        self.set_memory_range(0, bytes);
    }

    /// Tell the device that the guest's memory begins at `gpa`.
    pub fn set_memory_from(&self, gpa: u64) {
        self.set_memory_range(gpa, RAM_BYTES - gpa);
    }

    fn set_memory_range(&self, guest_phys_addr: u64, memory_size: u64) {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr,
            memory_size,
            userspace_addr: USER_BASE + guest_phys_addr,
            mmap_offset: guest_phys_addr,
            mmap_handle: self.file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).unwrap();
    }

    /// Set a queue up anew, as a driver does when it loads.
    pub fn start_queue(&mut self, index: usize) {
        self.start_odd_queue(index, dma::QUEUE_SIZE, [0, 0x1000, 0x2000]);
    }

    /// Set a queue up with any size, and any places of its parts, counted from its base.
    pub fn start_odd_queue(&mut self, index: usize, size: u16, [table, avail, used]: [u64; 3]) {
        let queue = &mut self.queues[index];
        (queue.avail, queue.used) = (0, 0);
        queue.free = (0..SLOTS).rev().collect();
        let base = queue.base;
        self.mem.write_slice(&[0; RING_BYTES as usize], GuestAddress(base)).unwrap();
        self.frontend.set_vring_num(index, size).unwrap();
        self.try_addresses(index, size, [table, avail, used]).unwrap();
        self.frontend.set_vring_base(index, 0).unwrap();
        self.frontend.set_vring_call(index, &self.queues[index].call).unwrap();
        self.frontend.set_vring_kick(index, &self.queues[index].kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    /// Tell the device where a queue's parts are.
    pub fn try_addresses(
        &self,
        index: usize,
        size: u16,
        [table, avail, used]: [u64; 3],
    ) -> Result<(), vhost::Error> {
        let base = self.queues[index].base;
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: USER_BASE + base + table,
            avail_ring_addr: USER_BASE + base + avail,
            used_ring_addr: USER_BASE + base + used,
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &addresses)
    }

    /// Take a queue back; when this returns, DMA has ended. How many chains the device has taken from it.
    pub fn stop_queue(&mut self, index: usize) -> u32 {
        let taken = self.frontend.get_vring_base(index).unwrap();
        self.early.retain(|(queue, ..)| *queue != index);
        taken
    }

    pub fn config(&mut self) -> dma::Config {
        let wanted = [0; dma::CONFIG_SIZE];
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, bytes) = self.frontend.get_config(0, dma::CONFIG_SIZE as u32, flags, &wanted).unwrap();
        dma::Config::read_from_bytes(&bytes).unwrap()
    }

    pub fn read_u16(&self, gpa: u64) -> u16 {
        self.mem.read_obj(GuestAddress(gpa)).unwrap()
    }

    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    pub fn ring_base(&self, queue: usize) -> u64 {
        self.queues[queue].base
    }

    pub fn descriptor(&self, queue: usize, index: u16, gpa: u64, len: u32, flags: u32, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&gpa.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(self.queues[queue].base + u64::from(index) * 16, &bytes);
    }

    /// Make a head available and kick.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let avail = ring.base + 0x1000;
        let slot = u64::from(ring.avail % dma::QUEUE_SIZE);
        self.mem.write_obj(head, GuestAddress(avail + 4 + slot * 2)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.mem.store(ring.avail, GuestAddress(avail + 2), std::sync::atomic::Ordering::Release).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // With EVENT_IDX the device says from which index on it wants to be woken.
        let event = self.read_u16(ring_event(self.queues[queue].base));
        let ring = &self.queues[queue];
        if !self.event_idx || ring.avail.wrapping_sub(event).wrapping_sub(1) < 1 {
            ring.kick.write(1).unwrap();
        }
    }

    /// Submit a request; the slot that its answer will come for.
    pub fn submit(&mut self, queue: usize, request: &[u8]) -> u16 {
        let slot = self.queues[queue].free.pop().expect("a free slot");
        let buffer = self.buffer(queue, slot);
        self.write(buffer, request);
        self.write(buffer + RESPONSE_AT, &[0xee; size_of::<Response>()]);
        let (first, second) = (slot * 2, slot * 2 + 1);
        let response = buffer + RESPONSE_AT;
        if self.event_idx {
            // One indirect descriptor, to have these in the tests as well.
            let table = buffer + BUFFER_BYTES - 0x100;
            self.write(table, &raw_descriptor(buffer, request.len() as u32, VRING_DESC_F_NEXT, 1));
            self.write(table + 16, &raw_descriptor(response, 48, VRING_DESC_F_WRITE, 0));
            self.descriptor(queue, first, table, 32, VRING_DESC_F_INDIRECT, 0);
        } else {
            self.descriptor(queue, first, buffer, request.len() as u32, VRING_DESC_F_NEXT, second);
            self.descriptor(queue, second, response, 48, VRING_DESC_F_WRITE, 0);
        }
        self.publish(queue, first);
        slot
    }

    fn buffer(&self, queue: usize, slot: u16) -> u64 {
        BUFFERS + (queue as u64 * u64::from(SLOTS) + u64::from(slot)) * BUFFER_BYTES
    }

    /// The next used entry of a queue: slot (or whatever head) and bytes written.
    pub fn next_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.queues[queue];
        let used = ring.base + 0x2000;
        let index = || -> u16 {
            self.mem.load(GuestAddress(used + 2), std::sync::atomic::Ordering::Acquire).unwrap()
        };
        if index() == ring.used {
            // Ask for an interrupt at the next one, then look again: it may have come before the device saw that.
            self.mem.write_obj(ring.used, GuestAddress(ring.base + 0x1000 + 4 + 512)).unwrap();
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if index() == ring.used {
                return None;
            }
        }
        let at = used + 4 + u64::from(ring.used % dma::QUEUE_SIZE) * 8;
        let head: u32 = self.mem.read_obj(GuestAddress(at)).unwrap();
        let written: u32 = self.mem.read_obj(GuestAddress(at + 4)).unwrap();
        ring.used = ring.used.wrapping_add(1);
        Some((head as u16, written))
    }

    /// Wait for the answer to a slot.
    pub fn wait(&mut self, queue: usize, slot: u16) -> Response {
        self.wait_until(queue, slot, Instant::now() + DEADLINE).expect("an answer before the deadline")
    }

    pub fn wait_until(&mut self, queue: usize, slot: u16, deadline: Instant) -> Option<Response> {
        loop {
            if let Some(at) = self.early.iter().position(|(q, s, _)| (*q, *s) == (queue, slot)) {
                let (.., written) = self.early.remove(at);
                assert_eq!(written as usize, size_of::<Response>());
                self.queues[queue].free.push(slot);
                let bytes = self.read(self.buffer(queue, slot) + RESPONSE_AT, size_of::<Response>());
                return Some(Response::read_from_bytes(&bytes).unwrap());
            }
            match self.next_used(queue) {
                Some((head, written)) => self.early.push((queue, head / 2, written)),
                None if Instant::now() >= deadline => return None,
                None => self.wait_for_call(queue),
            }
        }
    }

    /// Until the device interrupts, or a second: a missed interrupt makes a test slow, `calls_missed` counts it.
    pub fn wait_for_call(&mut self, queue: usize) {
        let ring = &self.queues[queue];
        let mut events = [EpollEvent::default()];
        match ring.wake.wait(1000, &mut events) {
            Ok(woken) => self.calls_missed += u32::from(woken == 0),
            // A test that is stopped and goes on sees that here (signal(7)).
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}"),
        }
        let _ = ring.call.read();
    }

    /// Interrupts of a queue since this or a wait was called.
    pub fn interrupts(&self, queue: usize) -> u64 {
        self.queues[queue].call.read().unwrap_or(0)
    }

    pub fn call(&mut self, queue: u32, request: &[u8]) -> Response {
        let slot = self.submit(queue as usize, request);
        self.wait(queue as usize, slot)
    }

    pub fn map(&mut self, region: u32, segments: &[(u64, u64)]) -> Response {
        self.call(dma::QUEUE_CONTROL, &map_request(region, dma::MAP_FIRST | dma::MAP_LAST, segments))
    }

    pub fn unmap(&mut self, region: u32) -> Response {
        self.call(dma::QUEUE_CONTROL, &unmap_request(region))
    }

    pub fn stop_program(&mut self, program: u64) -> Response {
        self.call(dma::QUEUE_CONTROL, &stop_request(program))
    }

    pub fn start(&mut self, tag: u64, request: &DmaRequest) -> u16 {
        self.submit(dma::QUEUE_DMA as usize, &dma_request(tag, request))
    }

    pub fn run(&mut self, tag: u64, request: &DmaRequest) -> Response {
        self.call(dma::QUEUE_DMA, &dma_request(tag, request))
    }

    pub fn wait_dma(&mut self, slot: u16) -> Response {
        self.wait(dma::QUEUE_DMA as usize, slot)
    }
}

fn ring_event(base: u64) -> u64 {
    base + 0x2000 + 4 + u64::from(dma::QUEUE_SIZE) * 8
}
