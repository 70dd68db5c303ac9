// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verbs of a device, as `/dev/infiniband/uverbsN` takes them (`ib_uverbs_write()`, structures of
//! rdma/ib_user_verbs.h): one write(2) has a header, where the answer is to go, and a structure. The answer is there when
//! the call returns. Whatever was made goes when the file is closed.

use super::link::Link;
use super::queue::PLACES;
use crate::error::{OrRefused, StepError};
use crate::sys::{self, MapSource, PAGE_BYTES, UserMemory};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IB_USER_VERBS_CMD_ numbers.
const GET_CONTEXT: u32 = 0;
const ALLOC_PD: u32 = 3;
const REG_MR: u32 = 9;
const DEREG_MR: u32 = 13;
const CREATE_CQ: u32 = 18;
const CREATE_QP: u32 = 24;
const MODIFY_QP: u32 = 26;
const POST_SEND: u32 = 28;

/// IB_ACCESS_ flags.
pub mod access {
    /// None: the device may read.
    pub const LOCAL_READ: u32 = 0;
    /// The device may write.
    pub const LOCAL_WRITE: u32 = 1;
    /// Another queue pair may.
    pub const REMOTE_WRITE: u32 = 2;
    /// Pages are not pinned, but faulted for.
    pub const ON_DEMAND: u32 = 64;
}

/// IB_QPT_RC: a reliable connection.
const RELIABLE: u8 = 2;
/// IB_QPS_ states.
const INIT: u8 = 1;
const READY_TO_RECEIVE: u8 = 2;
const READY_TO_SEND: u8 = 3;
/// IB_QP_ bits: what of the attributes is meant in each step.
const TO_INIT: u32 = STATE | 1 << 3 | 1 << 4 | 1 << 5;
const TO_RECEIVE: u32 = STATE | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 20;
const TO_SEND: u32 = STATE | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 16;
const STATE: u32 = 1;

const PORT: u8 = 1;
/// IB_MTU_4096: a packet for each page. Of several, rxe on demand puts each at the begin of the page, up to Linux 7.3:
/// `__rxe_odp_mr_copy()` reckons the offset in the page and does not add it.
const MTU_4096: u8 = 5;
/// 4.096 us * 2^18: a second until the first retry. The guest may be slow, and no packet can be lost.
const TIMEOUT: u8 = 18;
const RETRIES: u8 = 7;
/// Of `struct ib_uverbs_send_wr`, of which POST_SEND brings none.
const SEND_WR_BYTES: u32 = 56;

/// Where a queue can be mapped (`struct mminfo`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Area {
    /// In the file.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    pad: u32,
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Context {
    async_fd: u32,
    num_comp_vectors: u32,
}

/// `struct ib_uverbs_reg_mr` behind the answer's address.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct RegisterRegion {
    start: u64,
    length: u64,
    /// What it is called in a write: the same.
    hca_va: u64,
    pd_handle: u32,
    access_flags: u32,
}

/// Memory that is registered.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRegion {
    handle: u32,
    /// By which the device's own side knows it.
    pub local_key: u32,
    /// By which another queue pair knows it.
    pub remote_key: u32,
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct CreateCq {
    user_handle: u64,
    cqe: u32,
    comp_vector: u32,
    comp_channel: i32,
    reserved: u32,
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CreatedCq {
    handle: u32,
    cqe: u32,
    queue: Area,
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct CreateQp {
    user_handle: u64,
    pd_handle: u32,
    send_cq_handle: u32,
    recv_cq_handle: u32,
    srq_handle: u32,
    max_send_wr: u32,
    max_recv_wr: u32,
    max_send_sge: u32,
    max_recv_sge: u32,
    max_inline_data: u32,
    sq_sig_all: u8,
    qp_type: u8,
    is_srq: u8,
    reserved: u8,
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CreatedQp {
    pair: QueuePair,
    capabilities: [u32; 6],
    receives: Area,
    sends: Area,
}

/// A queue pair.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QueuePair {
    handle: u32,
    number: u32,
}

/// `struct ib_uverbs_qp_dest`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Destination {
    dgid: [u8; 16],
    flow_label: u32,
    dlid: u16,
    reserved: u16,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    sl: u8,
    src_path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port_num: u8,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModifyQp {
    dest: Destination,
    alt_dest: Destination,
    qp_handle: u32,
    attr_mask: u32,
    qkey: u32,
    rq_psn: u32,
    sq_psn: u32,
    dest_qp_num: u32,
    qp_access_flags: u32,
    pkey_index: u16,
    alt_pkey_index: u16,
    qp_state: u8,
    cur_qp_state: u8,
    path_mtu: u8,
    path_mig_state: u8,
    en_sqd_async_notify: u8,
    max_rd_atomic: u8,
    max_dest_rd_atomic: u8,
    min_rnr_timer: u8,
    port_num: u8,
    timeout: u8,
    retry_cnt: u8,
    rnr_retry: u8,
    alt_port_num: u8,
    alt_timeout: u8,
    reserved: [u8; 2],
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct PostSend {
    qp_handle: u32,
    wr_count: u32,
    sge_count: u32,
    wqe_size: u32,
}

// Sizes of the header, less 8 for the address of an answer; of an answer, with what rxe adds.
const _: () = assert!(size_of::<RegisterRegion>() == 40 - 8);
const _: () = assert!(size_of::<CreateCq>() == 32 - 8 && size_of::<CreatedCq>() == 8 + 16);
const _: () = assert!(size_of::<CreateQp>() == 56 - 8 && size_of::<CreatedQp>() == 32 + 32);
const _: () = assert!(size_of::<ModifyQp>() == 112 && std::mem::offset_of!(ModifyQp, qp_state) == 96);
const _: () = assert!(size_of::<PostSend>() == 24 - 8);

/// A protection domain: regions and queue pairs of one know each other.
#[derive(Debug, Clone, Copy)]
pub struct Domain(u32);

/// A queue of completions.
#[derive(Debug, Clone, Copy)]
pub struct CompletionQueue(u32);

/// An open device.
#[derive(Debug)]
pub struct Verbs {
    file: OwnedFd,
    /// Where answers go: memory into which no reference points.
    answer: UserMemory,
    /// Of events, none of which anybody reads.
    _events: Option<OwnedFd>,
}

impl Verbs {
    /// Open it.
    pub fn open(device: &Path) -> Result<Self, StepError> {
        let what = device.display().to_string();
        let file = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let mut this = Self::over(file.or_failed(&what)?)?;
        let context: Context = this.ask(GET_CONTEXT, &()).or_failed("write(uverbs GET_CONTEXT)")?;
        // SAFETY: the kernel has just opened this descriptor for us (`ib_uverbs_get_context()`), and nobody else knows of it.
        this._events = Some(unsafe { OwnedFd::from_raw_fd(context.async_fd as i32) });
        Ok(this)
    }

    fn over(file: OwnedFd) -> Result<Self, StepError> {
        let answer = UserMemory::map(MapSource::Anonymous, PAGE_BYTES, false, true).or_failed("mmap")?;
        Ok(Self { file, answer, _events: None })
    }

    /// For mapping queues.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// ALLOC_PD.
    pub fn protection_domain(&mut self) -> Result<Domain, StepError> {
        self.ask(ALLOC_PD, &()).map(Domain).or_failed("write(uverbs ALLOC_PD)")
    }

    /// CREATE_CQ.
    pub fn completion_queue(&mut self) -> Result<(CompletionQueue, Area), StepError> {
        let create = CreateCq { user_handle: 0, cqe: PLACES, comp_vector: 0, comp_channel: -1, reserved: 0 };
        let created: CreatedCq = self.ask(CREATE_CQ, &create).or_failed("write(uverbs CREATE_CQ)")?;
        Ok((CompletionQueue(created.handle), created.queue))
    }

    /// CREATE_QP; and where its queue of sends is.
    pub fn queue_pair(
        &mut self,
        domain: Domain,
        completions: CompletionQueue,
    ) -> Result<(QueuePair, Area), StepError> {
        let create = CreateQp {
            user_handle: 0,
            pd_handle: domain.0,
            send_cq_handle: completions.0,
            recv_cq_handle: completions.0,
            srq_handle: 0,
            max_send_wr: PLACES,
            max_recv_wr: 1,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
            sq_sig_all: 0,
            qp_type: RELIABLE,
            is_srq: 0,
            reserved: 0,
        };
        let created: CreatedQp = self.ask(CREATE_QP, &create).or_failed("write(uverbs CREATE_QP)")?;
        Ok((created.pair, created.sends))
    }

    /// MODIFY_QP, step by step, until it can send to the other and receive from it. Both have the address of the link.
    pub fn connect(&mut self, pair: QueuePair, other: QueuePair, link: &Link) -> Result<(), StepError> {
        let all = ModifyQp {
            dest: Destination {
                dgid: link.gid,
                sgid_index: link.gid_index,
                hop_limit: 64,
                is_global: 1,
                port_num: PORT,
                ..Destination::new_zeroed()
            },
            qp_handle: pair.handle,
            dest_qp_num: other.number,
            qp_access_flags: access::LOCAL_WRITE | access::REMOTE_WRITE,
            path_mtu: MTU_4096,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            min_rnr_timer: 1,
            port_num: PORT,
            timeout: TIMEOUT,
            retry_cnt: RETRIES,
            rnr_retry: RETRIES,
            ..ModifyQp::new_zeroed()
        };
        for (qp_state, attr_mask, what) in [
            (INIT, TO_INIT, "write(uverbs MODIFY_QP) to INIT"),
            (READY_TO_RECEIVE, TO_RECEIVE, "write(uverbs MODIFY_QP) to RTR"),
            (READY_TO_SEND, TO_SEND, "write(uverbs MODIFY_QP) to RTS"),
        ] {
            self.tell(MODIFY_QP, &ModifyQp { qp_state, attr_mask, ..all }).or_failed(what)?;
        }
        Ok(())
    }

    /// REG_MR.
    pub fn register(
        &mut self,
        domain: Domain,
        address: u64,
        len: u64,
        flags: u32,
    ) -> sys::Result<MemoryRegion> {
        let (start, length, hca_va) = (address, len, address);
        let region = RegisterRegion { start, length, hca_va, pd_handle: domain.0, access_flags: flags };
        self.ask(REG_MR, &region)
    }

    /// DEREG_MR.
    pub fn deregister(&mut self, region: MemoryRegion) -> sys::Result<()> {
        self.tell(DEREG_MR, &region.handle)
    }

    /// POST_SEND of nothing: the device looks into the queue of sends.
    pub fn ring(&mut self, pair: QueuePair) -> Result<(), StepError> {
        let post = PostSend { qp_handle: pair.handle, wr_count: 0, sge_count: 0, wqe_size: SEND_WR_BYTES };
        self.ask::<_, u32>(POST_SEND, &post).or_failed("write(uverbs POST_SEND)").map(drop)
    }

    fn ask<Q: IntoBytes + Immutable, A: FromBytes + IntoBytes>(
        &mut self,
        verb: u32,
        question: &Q,
    ) -> sys::Result<A> {
        let mut answer = A::new_zeroed();
        let place = (self.answer.address(0), size_of::<A>());
        self.send(&message(verb, Some(place), question.as_bytes()))?;
        self.answer.load(0, answer.as_mut_bytes())?;
        Ok(answer)
    }

    fn tell<Q: IntoBytes + Immutable>(&mut self, verb: u32, question: &Q) -> sys::Result<()> {
        self.send(&message(verb, None, question.as_bytes()))
    }

    fn send(&self, message: &[u8]) -> sys::Result<()> {
        match rustix::io::write(&self.file, message)? {
            n if n == message.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }
}

/// `struct ib_uverbs_cmd_hdr`: number, words of the message, words of the answer; then where that goes; then the rest.
fn message(verb: u32, answer: Option<(u64, usize)>, question: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: usize = 8;
    let place = answer.map_or(Vec::new(), |(address, _)| address.to_ne_bytes().to_vec());
    let words = |bytes: usize| ((bytes / 4) as u16).to_ne_bytes();
    let in_words = words(HEADER_BYTES + place.len() + question.len());
    let out_words = words(answer.map_or(0, |(_, len)| len));
    [&verb.to_ne_bytes()[..], &in_words, &out_words, &place, question].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_words_and_where_the_answer_goes() {
        let with = message(REG_MR, Some((0x1122, 12)), &[5; 32]);
        let head = [&9u32.to_ne_bytes()[..], &12u16.to_ne_bytes(), &3u16.to_ne_bytes()].concat();
        assert_eq!(with[..8], head);
        assert_eq!(with[8..16], 0x1122u64.to_ne_bytes());
        assert_eq!(with[16..], [5; 32]);
        let without = message(DEREG_MR, None, &7u32.to_ne_bytes());
        let head = [&13u32.to_ne_bytes()[..], &3u16.to_ne_bytes(), &0u16.to_ne_bytes()].concat();
        assert_eq!(without, [head, 7u32.to_ne_bytes().to_vec()].concat());
    }

    /// A file that is no device takes every message. The answer lies where the kernel would have put it.
    #[test]
    fn an_answer_is_read_from_where_it_was_asked_for() {
        let mut verbs = Verbs::over(tempfile::tempfile().expect("a file").into()).expect("memory");
        verbs.answer.store(0, &[1, 2, 3].map(u32::to_ne_bytes).concat()).expect("a store");
        let region = verbs.register(Domain(4), 0x5000, 4096, access::LOCAL_WRITE).expect("it is written");
        assert_eq!((region.handle, region.local_key, region.remote_key), (1, 2, 3));
        let Err(StepError::Failed(text)) = Verbs::open(Path::new("/no/such")) else { panic!("open") };
        assert_eq!(text, "/no/such: ENOENT");
    }
}
