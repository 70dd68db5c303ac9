// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The packet memory (umem) of an AF_XDP socket: XDP_UMEM_REG takes FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE for as long as
//! the socket lives (`xdp_umem_pin_pages()`), and `xdp_umem_unpin_pages()` sets all pages dirty, some time after it was
//! closed.
//!
//! Bytes come as packets over the loopback device of a network that the region has for itself. An XDP program takes the
//! ethernet header away and redirects the rest to the socket, into which `__xsk_rcv()` copies it by a mapping of the
//! kernel's own. Chunks are unaligned, so that the place may be any: a page is two packets, since a packet has the place
//! of its chunk behind a headroom. That is why nothing ever comes into the first page.

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, failed, refused};
use crate::sys::PAGE_BYTES;
use crate::vmstat::pin_counters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd as _, OwnedFd, RawFd};
use rustix::io::{Errno, Result as SysResult};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_UMEM_PGOFF_FILL_RING,
    XSK_UNALIGNED_BUF_OFFSET_SHIFT, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A chunk: as much as one may have.
const CHUNK_BYTES: u32 = PAGE_BYTES as u32;
/// XDP_PACKET_HEADROOM: what the kernel leaves free in a chunk before the packet.
const HEADROOM: u64 = 256;
/// Entries of a ring. One packet is under way.
const ENTRIES: u32 = 2;
/// The loopback device of every network.
const LOOPBACK: u32 = 1;
/// ETH_HLEN, and ETH_P_802_EX1, a type for experiments, as it stands in memory.
const HEADER_BYTES: usize = 14;
const ETHER_TYPE: u16 = 0x88b5_u16.to_be();
/// How long a packet may take, and the kernel to unpin.
const PATIENCE_S: i64 = 10;
const POLL: Duration = Duration::from_millis(1);
const REGISTER: &str = "setsockopt(XDP_UMEM_REG)";

/// Memory that is registered. Field order is drop order: a ring's mapping keeps the socket open.
#[derive(Debug)]
pub struct Umem {
    fill: Ring,
    received: Ring,
    network: Network,
    len: u64,
}

impl Umem {
    /// setsockopt(2) with XDP_UMEM_REG.
    pub fn pin(request: &PinRequest) -> Result<Self, StepError> {
        let PinRequest { address, len, .. } = *request;
        let whole = address.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES);
        if !whole || len < 2 * PAGE_BYTES {
            return failed!("a umem of AF_XDP is two whole pages or more, not {len} bytes");
        }
        // Only what this thread opens is in the new network.
        let network =
            std::thread::Builder::new().name("xdp".into()).spawn(Network::new).or_failed("thread")?;
        let Ok(network) = network.join() else { return failed!("the thread of a network panicked") };
        let network = network?;
        let socket = &network.socket;
        let memory = XdpUmemReg {
            addr: address,
            len,
            chunk_size: CHUNK_BYTES,
            headroom: 0,
            flags: XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(socket, memory).or_refused(REGISTER)?;
        sockopt::set_xdp_umem_fill_ring_size(socket, ENTRIES).or_failed("setsockopt(XDP_UMEM_FILL_RING)")?;
        sockopt::set_xdp_umem_completion_ring_size(socket, ENTRIES)
            .or_failed("setsockopt(XDP_UMEM_COMPLETION_RING)")?;
        sockopt::set_xdp_rx_ring_size(socket, ENTRIES).or_failed("setsockopt(XDP_RX_RING)")?;
        let places = sockopt::xdp_mmap_offsets(socket).or_failed("getsockopt(XDP_MMAP_OFFSETS)")?;
        let fill = Ring::map(socket, XDP_UMEM_PGOFF_FILL_RING, places.fr, 8).or_failed("mmap of a ring")?;
        let received = Ring::map(socket, XDP_PGOFF_RX_RING, places.rx, 16).or_failed("mmap of a ring")?;
        let queue = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, LOOPBACK, 0);
        rustix::net::bind(socket, &queue).or_failed("bind(AF_XDP)")?;
        // A map takes only a socket that has its rings.
        bpf::set(&network.map, socket).or_failed("bpf(BPF_MAP_UPDATE_ELEM)")?;
        Ok(Self { fill, received, network, len })
    }

    /// Have one packet come to a place of the umem.
    fn receive(&self, at: u64, bytes: &[u8]) -> Result<(), StepError> {
        self.fill.offer(at - HEADROOM);
        self.network.send(bytes).or_failed("sendto(AF_PACKET)")?;
        let patience = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.network.socket, PollFlags::IN)];
        poll(&mut fds, Some(&patience)).or_failed("poll")?;
        // A chunk, how far in it the packet begins, and its length without options.
        let expected = (at - HEADROOM) | HEADROOM << XSK_UNALIGNED_BUF_OFFSET_SHIFT;
        match self.received.take() {
            Some(packet) if packet == (expected, bytes.len() as u64) => Ok(()),
            Some(packet) => failed!("AF_XDP received {packet:x?}, not {:x?}", (expected, bytes.len())),
            None => failed!("AF_XDP did not receive {} bytes at {at} within {PATIENCE_S} s", bytes.len()),
        }
    }
}

impl Hold for Umem {
    fn can_write(&self, offset: u64, _len: u64) -> Result<(), StepError> {
        match offset {
            0 => failed!("AF_XDP leaves {HEADROOM} bytes before a packet; write from the second page on"),
            _ => Ok(()),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        for (index, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            let at = offset + index as u64 * PAGE_BYTES;
            // The chunk of the second begins with the page: it is the last that fits into the last page.
            let (head, rest) = page.split_at(HEADROOM as usize);
            self.receive(at, head)?;
            self.receive(at + HEADROOM, rest)?;
        }
        Ok(Arrived::There)
    }

    /// The kernel unpins after a grace period of RCU and in a worker (`xsk_destruct()`, `xp_release_deferred()`): seen by
    /// its count alone. What others unpin meanwhile may only make this return too early.
    fn release(self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
        let pages = self.len / PAGE_BYTES;
        let before = pin_counters()?.released;
        let end = Instant::now() + Duration::from_secs(PATIENCE_S.unsigned_abs());
        drop(self);
        loop {
            let released = pin_counters()?.released.wrapping_sub(before);
            if released >= pages {
                return Ok(());
            }
            if Instant::now() > end {
                return failed!(
                    "{PATIENCE_S} s after the close of an AF_XDP socket {released} of {pages} pages are unpinned"
                );
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A network of one loopback device, which redirects what it receives. Field order is drop order.
#[derive(Debug)]
struct Network {
    _program: [OwnedFd; 2],
    map: OwnedFd,
    sender: OwnedFd,
    socket: OwnedFd,
}

impl Network {
    /// Moves the thread that calls into a network of its own.
    fn new() -> Result<Self, StepError> {
        // SAFETY: descriptors stay shared, and so does memory; this thread only opens sockets, and ends.
        let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        there(unshared, Errno::INVAL, "unshare(CLONE_NEWNET) (CONFIG_NET_NS)")?;
        let open = |family| rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None);
        let socket =
            there(open(AddressFamily::XDP), Errno::AFNOSUPPORT, "socket(AF_XDP) (CONFIG_XDP_SOCKETS)")?;
        let sender =
            there(open(AddressFamily::PACKET), Errno::AFNOSUPPORT, "socket(AF_PACKET) (CONFIG_PACKET)")?;
        bring_up(&sender).or_failed("ioctl(SIOCSIFFLAGS)")?;
        let map = there(bpf::socket_map(), Errno::INVAL, "bpf(BPF_MAP_CREATE) (CONFIG_XDP_SOCKETS)")?;
        let program = bpf::load(&redirect_to(map.as_raw_fd())).or_failed("bpf(BPF_PROG_LOAD)")?;
        let link = bpf::attach(&program, LOOPBACK).or_failed("bpf(BPF_LINK_CREATE)")?;
        Ok(Self { _program: [link, program], map, sender, socket })
    }

    /// A packet of the type that is redirected.
    fn send(&self, bytes: &[u8]) -> SysResult<()> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[HEADER_BYTES - 2..].copy_from_slice(&ETHER_TYPE.to_ne_bytes());
        packet.extend_from_slice(bytes);
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ETHER_TYPE,
            sll_ifindex: LOOPBACK as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: the kernel reads as many bytes as the packet and the address have.
        let sent = unsafe {
            libc::sendto(
                self.sender.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of_val(&to) as u32,
            )
        };
        if sent == packet.len() as isize { Ok(()) } else { Err(last_errno()) }
    }
}

/// What has to be there before the pin. A kernel without it says so by an errno of its own.
fn there<T>(result: SysResult<T>, absent: Errno, call: &str) -> Result<T, StepError> {
    match result {
        Err(errno) if errno == absent || errno == Errno::NOSYS => Err(refused(libc::ENOSYS, call)),
        Err(Errno::PERM) => Err(refused(libc::EPERM, call)),
        result => result.or_failed(call),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Set IFF_UP of the loopback device in the socket's network.
fn bring_up(socket: &OwnedFd) -> SysResult<()> {
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    let flags = libc::__c_anonymous_ifr_ifru { ifru_flags: libc::IFF_UP as libc::c_short };
    let request = libc::ifreq { ifr_name: name, ifr_ifru: flags };
    // SAFETY: the kernel reads a `struct ifreq`, of which this request takes name and flags.
    let n = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) };
    if n == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The XDP program: packets of our type without their header go to socket 0 of the map, all others are dropped.
fn redirect_to(map: RawFd) -> [bpf::Instruction; 18] {
    use bpf::Instruction as I;
    const ADJUST_HEAD: i32 = 44;
    const REDIRECT_MAP: i32 = 51;
    const DROP: i32 = 1;
    [
        // r2 = data, r3 = data_end; the header is there, and its type is ours.
        I { code: 0x61, registers: 0x12, offset: 0, value: 0 },
        I { code: 0x61, registers: 0x13, offset: 4, value: 0 },
        I { code: 0xbf, registers: 0x24, offset: 0, value: 0 },
        I { code: 0x07, registers: 0x04, offset: 0, value: HEADER_BYTES as i32 },
        I { code: 0x2d, registers: 0x34, offset: 11, value: 0 },
        I { code: 0x69, registers: 0x25, offset: HEADER_BYTES as i16 - 2, value: 0 },
        I { code: 0x55, registers: 0x05, offset: 9, value: ETHER_TYPE as i32 },
        // bpf_xdp_adjust_head(packet, HEADER_BYTES)
        I { code: 0xb7, registers: 0x02, offset: 0, value: HEADER_BYTES as i32 },
        I { code: 0x85, registers: 0x00, offset: 0, value: ADJUST_HEAD },
        I { code: 0x55, registers: 0x00, offset: 6, value: 0 },
        // return bpf_redirect_map(map, 0, 0)
        I { code: 0x18, registers: 0x11, offset: 0, value: map },
        I { code: 0x00, registers: 0x00, offset: 0, value: 0 },
        I { code: 0xb7, registers: 0x02, offset: 0, value: 0 },
        I { code: 0xb7, registers: 0x03, offset: 0, value: 0 },
        I { code: 0x85, registers: 0x00, offset: 0, value: REDIRECT_MAP },
        I { code: 0x95, registers: 0x00, offset: 0, value: 0 },
        // return XDP_DROP
        I { code: 0xb7, registers: 0x00, offset: 0, value: DROP },
        I { code: 0x95, registers: 0x00, offset: 0, value: 0 },
    ]
}

/// bpf(2): the four calls that a redirection needs. Structures are those of `union bpf_attr` (linux/bpf.h).
mod bpf {
    use super::{OwnedFd, RawFd, SysResult, last_errno};
    use rustix::fd::{AsRawFd as _, FromRawFd as _};

    /// `struct bpf_insn`.
    #[derive(Debug)]
    #[repr(C)]
    pub struct Instruction {
        pub code: u8,
        /// The source in the high half, the destination in the low one.
        pub registers: u8,
        pub offset: i16,
        pub value: i32,
    }

    /// # Safety
    ///
    /// Addresses in the attributes are those of what the command takes there.
    unsafe fn call<T>(command: libc::c_long, attributes: &T) -> SysResult<RawFd> {
        // SAFETY: the kernel reads as many bytes of the attributes as they have; the caller vouches for the addresses.
        let n = unsafe {
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of_val(attributes))
        };
        RawFd::try_from(n).ok().filter(|n| *n >= 0).ok_or_else(last_errno)
    }

    /// A BPF_MAP_TYPE_XSKMAP for one socket.
    pub fn socket_map() -> SysResult<OwnedFd> {
        // map_type, key_size, value_size, max_entries
        let attributes: [u32; 4] = [17, 4, 4, 1];
        // SAFETY: BPF_MAP_CREATE takes no address; it returns a new descriptor.
        unsafe { call(0, &attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
    }

    /// The socket is number 0 of the map.
    pub fn set(map: &OwnedFd, socket: &OwnedFd) -> SysResult<()> {
        let (key, value) = (0_u32, socket.as_raw_fd());
        let (key, value) = (&raw const key as u64, &raw const value as u64);
        // map_fd, key, value, flags
        let attributes: [u64; 4] = [map.as_raw_fd() as u64, key, value, 0];
        // SAFETY: key and value are 4 bytes each, as the map says, and live until the call is over.
        unsafe { call(2, &attributes).map(drop) }
    }

    /// A program of BPF_PROG_TYPE_XDP.
    pub fn load(instructions: &[Instruction]) -> SysResult<OwnedFd> {
        #[repr(C)]
        struct Attributes {
            prog_type: u32,
            insn_cnt: u32,
            insns: u64,
            license: u64,
        }
        let (insn_cnt, insns) = (instructions.len() as u32, instructions.as_ptr() as u64);
        let attributes =
            Attributes { prog_type: 6, insn_cnt, insns, license: c"Dual MIT/GPL".as_ptr() as u64 };
        // SAFETY: there are as many instructions, and the license ends with a zero; BPF_PROG_LOAD returns a new
        // descriptor.
        unsafe { call(5, &attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
    }

    /// The program receives what comes to a device of this thread's network (XDP_FLAGS_SKB_MODE), until it is closed.
    pub fn attach(program: &OwnedFd, device: u32) -> SysResult<OwnedFd> {
        // prog_fd, target_ifindex, attach_type: BPF_XDP, flags
        let attributes: [u32; 4] = [program.as_raw_fd() as u32, device, 37, 1 << 1];
        // SAFETY: BPF_LINK_CREATE takes no address for this type; it returns a new descriptor.
        unsafe { call(28, &attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
    }
}

/// A ring that is shared with the kernel. Dropping it unmaps.
///
/// # Invariants
///
/// `[memory, memory + len)` was returned by mmap and belongs to this value alone; `places` and all entries lie in it, each
/// at a multiple of its size. It is accessed by atomics only.
#[derive(Debug)]
struct Ring {
    memory: NonNull<c_void>,
    len: usize,
    places: XdpRingOffset,
}

// SAFETY: nothing of the mapping belongs to a thread.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone (invariant) and is not used after this.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr(), self.len) };
    }
}

impl Ring {
    fn map(socket: &OwnedFd, offset: u64, places: XdpRingOffset, entry_bytes: u64) -> SysResult<Self> {
        let len = (places.desc + u64::from(ENTRIES) * entry_bytes) as usize;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: the kernel chooses a free address range, so no existing object is affected.
        let memory =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, flags, socket, offset) }?;
        Ok(Self { memory: NonNull::new(memory).ok_or(Errno::NOMEM)?, len, places })
    }

    fn index(&self, place: u64) -> &AtomicU32 {
        // SAFETY: an aligned word of the mapping (invariant), which lives as long as the ring.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().wrapping_byte_add(place as usize).cast()) }
    }

    fn entry(&self, number: u64) -> &AtomicU64 {
        let place = self.places.desc + number * 8;
        // SAFETY: as above, for 8 bytes of an entry.
        unsafe { AtomicU64::from_ptr(self.memory.as_ptr().wrapping_byte_add(place as usize).cast()) }
    }

    /// Of the fill ring: the chunk at this address is for the next packet.
    fn offer(&self, address: u64) {
        let produced = self.index(self.places.producer);
        let number = produced.load(Ordering::Relaxed);
        self.entry(u64::from(number % ENTRIES)).store(address, Ordering::Relaxed);
        produced.store(number.wrapping_add(1), Ordering::Release);
    }

    /// Of the receive ring: address of the next packet, its length and, above it, its options.
    fn take(&self) -> Option<(u64, u64)> {
        let (produced, consumed) = (self.index(self.places.producer), self.index(self.places.consumer));
        let number = consumed.load(Ordering::Relaxed);
        if produced.load(Ordering::Acquire) == number {
            return None;
        }
        let entry = u64::from(number % ENTRIES) * 2;
        let packet =
            (self.entry(entry).load(Ordering::Relaxed), self.entry(entry + 1).load(Ordering::Relaxed));
        consumed.store(number.wrapping_add(1), Ordering::Release);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::sys::MapSource;
    use longpin_proto::agent::PinMode;

    const LEN: u64 = 4 * PAGE_BYTES;

    /// None: this user may have no network of his own.
    fn pin(address: u64, len: u64) -> Option<Result<Umem, StepError>> {
        let request = PinRequest { address, len, mode: PinMode::Xdp, file_offset: 0, run: 1, file: None };
        match Umem::pin(&request) {
            Err(StepError::Refused(errno)) if errno.call != REGISTER => {
                eprintln!("not tested: {errno:?}");
                None
            }
            result => Some(result),
        }
    }

    #[test]
    fn every_byte_from_the_second_page_on_comes_to_its_place() {
        let mut mapping = Mapping::new(MapSource::Anonymous, LEN, false, true).unwrap();
        let address = mapping.address(0, LEN).unwrap();
        // Two at once: each has its network.
        let (Some(one), Some(other)) = (pin(address, LEN), pin(address, LEN)) else { return };
        let (mut one, mut other) = (Box::new(one.unwrap()), Box::new(other.unwrap()));
        let bytes = |seed: u64| (0..3 * PAGE_BYTES).map(|at| (at * seed / 7) as u8).collect::<Vec<u8>>();
        other.write(PAGE_BYTES, &bytes(2)).unwrap();
        one.write(PAGE_BYTES, &bytes(3)).unwrap();
        other.write(2 * PAGE_BYTES, &bytes(5)[..PAGE_BYTES as usize]).unwrap();
        let mut expected = vec![0; PAGE_BYTES as usize];
        expected.extend(bytes(3));
        expected[2 * PAGE_BYTES as usize..3 * PAGE_BYTES as usize]
            .copy_from_slice(&bytes(5)[..PAGE_BYTES as usize]);
        let mut seen = vec![0; PAGE_BYTES as usize];
        for (page, expected) in expected.chunks(PAGE_BYTES as usize).enumerate() {
            mapping.load(page as u64 * PAGE_BYTES, &mut seen).unwrap();
            assert_eq!(seen, expected, "page {page}");
        }
        let Err(StepError::Failed(message)) = one.can_write(0, LEN) else { panic!("it can be written") };
        assert_eq!(message, "AF_XDP leaves 256 bytes before a packet; write from the second page on");
        one.release(true).unwrap();
        other.release(true).unwrap();
    }

    #[test]
    fn pages_stay_pinned_below_a_mapping_that_is_gone() {
        let mapping = Mapping::new(MapSource::Anonymous, LEN, false, true).unwrap();
        let Some(umem) = pin(mapping.address(0, LEN).unwrap(), LEN) else { return };
        let mut umem = Box::new(umem.unwrap());
        drop(mapping);
        umem.write(PAGE_BYTES, &[7; PAGE_BYTES as usize]).unwrap();
        umem.release(true).unwrap();
    }

    #[test]
    fn memory_that_is_not_there_is_refused_and_odd_sizes_are_told() {
        if let Some(result) = pin(PAGE_BYTES, LEN) {
            let Err(StepError::Refused(errno)) = result else { panic!("pinned") };
            assert_eq!((errno.name.as_str(), errno.call.as_str()), ("EFAULT", REGISTER));
        }
        for len in [PAGE_BYTES, LEN + 512] {
            let Some(Err(StepError::Failed(message))) = pin(PAGE_BYTES, len) else { panic!("{len}") };
            assert!(message.contains("two whole pages or more"), "{message}");
        }
    }

    #[test]
    fn a_kernel_without_it_is_told_from_one_that_fails() {
        let of = |errno| there::<()>(Err(errno), Errno::AFNOSUPPORT, "socket(AF_XDP)");
        for (errno, name) in
            [(Errno::AFNOSUPPORT, "ENOSYS"), (Errno::NOSYS, "ENOSYS"), (Errno::PERM, "EPERM")]
        {
            let Err(StepError::Refused(errno)) = of(errno) else { panic!("{name}") };
            assert_eq!((errno.name.as_str(), errno.call.as_str()), (name, "socket(AF_XDP)"));
        }
        assert_eq!(of(Errno::NOMEM), failed!("socket(AF_XDP): ENOMEM"));
        assert_eq!(there(Ok(7), Errno::INVAL, "a call"), Ok(7));
    }
}
