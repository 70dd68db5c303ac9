// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queues that rxe shares with its users (`struct rxe_queue_buf` of rdma/rdma_user_rxe.h): indices, and places of equal
//! size. All that is here fits into one page, and is touched by system calls as all mappings are (see `sys`): before
//! rxe looks it is called, and of what it has written the index is read first.

use super::verbs::Area;
use crate::error::{OrRefused, StepError};
use crate::sys::{MapSource, UserMemory};
use rustix::fd::OwnedFd;
use zerocopy::IntoBytes;
use zerocopy_derive::{Immutable, IntoBytes};

/// Places asked for in each queue; only one is in use.
pub const PLACES: u32 = 3;

const LOG2_PLACE_BYTES: u64 = 0;
const INDEX_MASK: u64 = 4;
const PRODUCER: u64 = 128;
const CONSUMER: u64 = 256;
const FIRST_PLACE: u64 = 384;
/// Of `struct ib_uverbs_wc`.
const STATUS: u64 = 8;

/// IB_WC_SUCCESS.
pub const SUCCESS: u32 = 0;
/// IB_SEND_SIGNALED. The operation IB_WR_RDMA_WRITE is 0.
const SIGNALED: u32 = 2;

/// What the commonest endings are called in rdma/ib_verbs.h.
pub fn status_name(status: u32) -> String {
    match status {
        5 => "IB_WC_WR_FLUSH_ERR (the queue pair had failed before)".into(),
        10 => "IB_WC_REM_ACCESS_ERR (the region is not there, or not so large)".into(),
        11 => "IB_WC_REM_OP_ERR (the target could not copy)".into(),
        12 => "IB_WC_RETRY_EXC_ERR (no acknowledgement)".into(),
        status => format!("status {status} of ib_wc_status"),
    }
}

/// An RDMA WRITE.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Address in the region.
    pub to: u64,
    /// Key of the region.
    pub key: u32,
    /// Address of the bytes.
    pub from: u64,
    /// Key of the region in which they lie.
    pub from_key: u32,
    /// Bytes.
    pub len: u32,
}

/// `struct rxe_send_wqe` with one `struct rxe_sge`. What is not named here is the kernel's, or zero.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct SendWqe {
    // struct rxe_send_wr
    wr_id: u64,
    reserved: u32,
    opcode: u32,
    send_flags: u32,
    immediate: u32,
    remote_addr: u64,
    rkey: u32,
    rest_of_union: [u32; 27],
    // its state
    status: u32,
    state: u32,
    iova: u64,
    mask: u32,
    first_psn: u32,
    last_psn: u32,
    ack_length: u32,
    ssn: u32,
    has_rd_atomic: u32,
    // struct rxe_dma_info
    length: u32,
    resid: u32,
    cur_sge: u32,
    num_sge: u32,
    sge_offset: u32,
    dma_reserved: u32,
    // struct rxe_sge
    addr: u64,
    sge_length: u32,
    lkey: u32,
}

const _: () = assert!(size_of::<SendWqe>() == 208 + 16);
const _: () = assert!(std::mem::offset_of!(SendWqe, status) == 144);
const _: () = assert!(std::mem::offset_of!(SendWqe, length) == 184);

#[derive(Debug)]
struct Queue {
    memory: UserMemory,
    log2_place_bytes: u32,
    mask: u32,
    /// Ours: where we write next, or read next.
    index: u32,
}

impl Queue {
    fn map(file: &OwnedFd, area: Area) -> Result<Self, StepError> {
        let Area { offset, size, .. } = area;
        let memory = UserMemory::map(MapSource::File(file, offset), size.into(), true, true);
        Self::over(memory.or_failed("mmap of a queue of rxe")?)
    }

    fn over(mut memory: UserMemory) -> Result<Self, StepError> {
        let log2_place_bytes = word(&mut memory, LOG2_PLACE_BYTES)?;
        let mask = word(&mut memory, INDEX_MASK)?;
        Ok(Self { memory, log2_place_bytes, mask, index: 0 })
    }

    fn place(&self) -> u64 {
        FIRST_PLACE + (u64::from(self.index) << self.log2_place_bytes)
    }

    fn next(&mut self, index_at: u64) -> Result<(), StepError> {
        self.index = (self.index + 1) & self.mask;
        self.memory.store(index_at, &self.index.to_ne_bytes()).or_failed("a queue of rxe")
    }
}

fn word(memory: &mut UserMemory, at: u64) -> Result<u32, StepError> {
    let mut bytes = [0; 4];
    memory.load(at, &mut bytes).or_failed("a queue of rxe")?;
    Ok(u32::from_ne_bytes(bytes))
}

/// What a queue pair is to send.
#[derive(Debug)]
pub struct Sends {
    queue: Queue,
    posted: u32,
}

impl Sends {
    /// That of a queue pair which was just made.
    pub fn map(file: &OwnedFd, area: Area) -> Result<Self, StepError> {
        Ok(Self { queue: Queue::map(file, area)?, posted: 0 })
    }

    /// Add one. The device looks when it is rung.
    pub fn post(&mut self, write: &Write) -> Result<(), StepError> {
        let Write { to, key, from, from_key, len } = *write;
        let wqe = SendWqe {
            wr_id: self.posted.into(),
            reserved: 0,
            opcode: 0,
            send_flags: SIGNALED,
            immediate: 0,
            remote_addr: to,
            rkey: key,
            rest_of_union: [0; 27],
            status: 0,
            state: 0,
            iova: to,
            mask: 0,
            first_psn: 0,
            last_psn: 0,
            ack_length: 0,
            ssn: self.posted,
            has_rd_atomic: 0,
            length: len,
            resid: len,
            cur_sge: 0,
            num_sge: 1,
            sge_offset: 0,
            dma_reserved: 0,
            addr: from,
            sge_length: len,
            lkey: from_key,
        };
        self.queue.memory.store(self.queue.place(), wqe.as_bytes()).or_failed("a queue of rxe")?;
        self.posted = self.posted.wrapping_add(1);
        self.queue.next(PRODUCER)
    }
}

/// What was sent.
#[derive(Debug)]
pub struct Completions(Queue);

impl Completions {
    /// Those of a queue which was just made.
    pub fn map(file: &OwnedFd, area: Area) -> Result<Self, StepError> {
        Queue::map(file, area).map(Self)
    }

    /// How the next one ended, if it has.
    pub fn next(&mut self) -> Result<Option<u32>, StepError> {
        let Self(queue) = self;
        if word(&mut queue.memory, PRODUCER)? == queue.index {
            return Ok(None);
        }
        let at = queue.place() + STATUS;
        let status = word(&mut queue.memory, at)?;
        queue.next(CONSUMER)?;
        Ok(Some(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::PAGE_BYTES;

    /// As rxe lays it out: 4 places of so many bytes.
    fn queue(log2_place_bytes: u32) -> Queue {
        let mut memory = UserMemory::map(MapSource::Anonymous, PAGE_BYTES, false, true).expect("memory");
        memory.store(LOG2_PLACE_BYTES, &log2_place_bytes.to_ne_bytes()).expect("a store");
        memory.store(INDEX_MASK, &3u32.to_ne_bytes()).expect("a store");
        Queue::over(memory).expect("a queue")
    }

    fn words_at<const N: usize>(queue: &mut Queue, at: u64) -> [u32; N] {
        let mut index = 0;
        [(); N].map(|()| {
            index += 1;
            word(&mut queue.memory, at + 4 * (index - 1)).expect("a load")
        })
    }

    #[test]
    fn writes_go_to_one_place_after_the_other_and_around() {
        let mut sends = Sends { queue: queue(8), posted: 0 };
        for (posted, place) in [0, 1, 2, 3, 0].into_iter().enumerate() {
            let write = Write { to: 0x1000, key: 7, from: 0x2000 + posted as u64, from_key: 9, len: 4096 };
            sends.post(&write).expect("it is posted");
            let at = FIRST_PLACE + place * 256;
            let queue = &mut sends.queue;
            let from = 0x2000 + posted as u32;
            assert_eq!(words_at(queue, at + 12), [0, SIGNALED, 0, 0x1000, 0, 7]);
            assert_eq!(words_at(queue, at + 144), [0, 0, 0x1000, 0]);
            assert_eq!(words_at(queue, at + 176), [posted as u32, 0]);
            assert_eq!(words_at(queue, at + 184), [4096, 4096, 0, 1, 0, 0, from, 0, 4096, 9]);
            assert_eq!(words_at(queue, PRODUCER), [(place as u32 + 1) & 3]);
        }
    }

    #[test]
    fn completions_are_taken_once_each_in_order() {
        let mut completions = Completions(queue(6));
        assert_eq!(completions.next(), Ok(None));
        let memory = &mut completions.0.memory;
        memory.store(FIRST_PLACE + 64 + STATUS, &12u32.to_ne_bytes()).expect("a store");
        memory.store(PRODUCER, &2u32.to_ne_bytes()).expect("a store");
        assert_eq!(completions.next(), Ok(Some(SUCCESS)));
        assert_eq!(completions.next(), Ok(Some(12)));
        assert_eq!(completions.next(), Ok(None));
        assert_eq!(words_at(&mut completions.0, CONSUMER), [2]);
        assert!(status_name(12).starts_with("IB_WC_RETRY_EXC_ERR"));
    }
}
