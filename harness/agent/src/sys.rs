// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System calls that have no safe wrapper elsewhere. The only file of the agent with unsafe code; what it exports is safe.
//!
//! # Why a mapping is never dereferenced
//!
//! Scenarios truncate files below their mappings, unplug disks and plant errors, so any access may raise SIGBUS, and
//! the agent is PID 1: its death ends the boot. [`UserMemory`] therefore lets the kernel touch the page on our behalf:
//!
//! * a load is `write(pipe, page)`: `copy_from_user` takes the ordinary read fault of the mapping,
//! * a store is `read(pipe, page)`: `copy_to_user` takes the ordinary write fault, with `page_mkwrite` of the file
//!   system, exactly as a store instruction would,
//! * a write touch is a `FUTEX_WAKE_OP` that ORs 0 into a word: an atomic read-modify-write with the same write fault,
//!   which cannot undo what a device writes to the word at that moment.
//!
//! None of the three pins the page (no GUP), and a fault that would be SIGBUS or SIGSEGV comes back as EFAULT.
#![expect(unsafe_code, reason = "ioctl, mmap and raw system calls; every block states why it is sound")]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{Advice as MmAdvice, MapFlags, MsyncFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use zerocopy::{FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Base page of x86-64, the only architecture of the lab.
pub const PAGE_BYTES: u64 = 4096;

/// A result with a raw errno.
pub type Result<T> = std::result::Result<T, Errno>;

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What is mapped by [`UserMemory::map`].
#[derive(Debug, Clone, Copy)]
pub enum MapSource<'a> {
    /// A file from this offset.
    File(&'a OwnedFd, u64),
    /// Anonymous memory.
    Anonymous,
    /// Anonymous hugetlb memory of 2 MiB pages.
    Hugetlb,
}

/// An address range of mmap(2). Dropping it unmaps.
///
/// # Invariants
///
/// `[addr, addr + len)` was returned by mmap and belongs to this value alone: no Rust reference points into it.
#[derive(Debug)]
struct Range {
    addr: NonNull<c_void>,
    len: u64,
}

// SAFETY: the address is a number that is handed to the kernel; no thread reads or writes memory by it (invariant).
unsafe impl Send for Range {}
// SAFETY: as above; the kernel orders what several threads ask of one range.
unsafe impl Sync for Range {}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone (invariant) and is not used after this. Unmapping a whole mapping of our
        // own fails only when the kernel cannot split (never needed here), and then it stays mapped: harmless.
        let _ = unsafe { rustix::mm::munmap(self.addr.as_ptr(), self.len as usize) };
    }
}

/// A mapping that is accessed only through the kernel (see the module's documentation). Dropping the last that shares
/// it unmaps.
#[derive(Debug)]
pub struct UserMemory {
    range: Arc<Range>,
    pipe: Pipe,
}

impl UserMemory {
    /// mmap(2).
    pub fn map(source: MapSource<'_>, len: u64, shared: bool, write: bool) -> Result<Self> {
        let prot = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let length = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let pipe = Pipe::new()?;
        // SAFETY: the kernel chooses a free address range (no MAP_FIXED), so no existing object is affected.
        let addr = unsafe {
            match source {
                MapSource::File(fd, offset) => rustix::mm::mmap(null_mut(), length, prot, flags, fd, offset),
                MapSource::Anonymous => rustix::mm::mmap_anonymous(null_mut(), length, prot, flags),
                MapSource::Hugetlb => {
                    let flags = flags | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
                    rustix::mm::mmap_anonymous(null_mut(), length, prot, flags)
                }
            }
        }?;
        let addr = NonNull::new(addr).ok_or(Errno::NOMEM)?;
        Ok(Self { range: Arc::new(Range { addr, len }), pipe })
    }

    /// The same mapping for another thread: an access that sleeps in one delays none in the other.
    pub fn share(&self) -> Result<Self> {
        Ok(Self { range: self.range.clone(), pipe: Pipe::new()? })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.range.len
    }

    /// Address of a byte, for ioctls that take user memory.
    pub fn address(&self, offset: u64) -> u64 {
        self.range.addr.as_ptr() as u64 + offset
    }

    /// Load bytes of one page. EFAULT if the page cannot be read, EINVAL if the range leaves the page or mapping.
    pub fn load(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = self.within_page(offset, out.len())?;
        // SAFETY: `from` is `out.len()` bytes of our mapping; the kernel answers EFAULT where it cannot be read.
        let n = unsafe { libc::write(self.pipe.input.as_raw_fd(), from.cast_const(), out.len()) };
        self.pipe.expect(n, out.len())?;
        rustix::io::read(&self.pipe.output, out).map(|_| ())
    }

    /// Store bytes into one page. Errors as [`UserMemory::load`].
    pub fn store(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let to = self.within_page(offset, bytes.len())?;
        rustix::io::write(&self.pipe.input, bytes)?;
        // SAFETY: `to` is `bytes.len()` bytes of our mapping, which no reference points into (invariant); the kernel
        // answers EFAULT where it cannot be written.
        let n = unsafe { libc::read(self.pipe.output.as_raw_fd(), to, bytes.len()) };
        self.pipe.expect(n, bytes.len())
    }

    /// Fault the page at `offset` in for writing and change nothing: OR 0 into its first word, atomically.
    pub fn touch_write(&self, offset: u64) -> Result<()> {
        static UNUSED: AtomicU32 = AtomicU32::new(0);
        let word = self.within_page(offset & !(PAGE_BYTES - 1), 4)?;
        // FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0): wake nobody, compare with anything.
        let operation = libc::FUTEX_OP_OR << 28;
        // SAFETY: wakes no waiter (0 and 0). `word` is an aligned word of our mapping; a plain OR with 0 leaves its
        // value, and the kernel answers EFAULT where it cannot be written.
        let n = unsafe {
            libc::syscall(
                libc::SYS_futex,
                UNUSED.as_ptr(),
                libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG,
                0,
                0usize,
                word,
                operation,
            )
        };
        if n < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// pread(2) into the mapping; with O_DIRECT the kernel pins its pages until the read is completed.
    pub fn read_from(&mut self, fd: impl AsFd, fd_offset: u64, offset: u64, len: u64) -> Result<u64> {
        let (to, length) = self.within(offset, len)?;
        let fd_offset = libc::off_t::try_from(fd_offset).map_err(|_| Errno::INVAL)?;
        // SAFETY: `to` is `length` bytes of our mapping, which no reference points into (invariant); the kernel answers
        // EFAULT where it cannot be written.
        let n = unsafe { libc::pread(fd.as_fd().as_raw_fd(), to, length, fd_offset) };
        u64::try_from(n).map_err(|_| last_errno())
    }

    /// madvise(2).
    pub fn advise(&self, offset: u64, len: u64, advice: MmAdvice) -> Result<()> {
        let (start, length) = self.within(offset, len)?;
        // SAFETY: the range is ours; whatever the advice does to its content, no reference observes it (invariant).
        unsafe { rustix::mm::madvise(start, length, advice) }
    }

    /// mincore(2): for each page, whether it is in the page cache. Says nothing of the mapping.
    pub fn in_core(&self) -> Result<Vec<bool>> {
        let (start, length) = self.within(0, self.range.len)?;
        let mut pages = vec![0u8; length.div_ceil(PAGE_BYTES as usize)];
        // SAFETY: the range is ours; the kernel writes one byte for each of its pages, and `pages` has as many.
        let n = unsafe { libc::mincore(start, length, pages.as_mut_ptr()) };
        if n < 0 { Err(last_errno()) } else { Ok(pages.into_iter().map(|page| page & 1 != 0).collect()) }
    }

    fn within(&self, offset: u64, len: u64) -> Result<(*mut c_void, usize)> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.range.len);
        if !inside {
            return Err(Errno::INVAL);
        }
        Ok((self.range.addr.as_ptr().wrapping_byte_add(offset as usize), len as usize))
    }

    /// One page at a time: a pipe takes or gives a page in one piece, so a fault never leaves a part of the data behind.
    fn within_page(&self, offset: u64, len: usize) -> Result<*mut c_void> {
        if offset % PAGE_BYTES + len as u64 > PAGE_BYTES {
            return Err(Errno::INVAL);
        }
        self.within(offset, len as u64).map(|(start, _)| start)
    }
}

/// msync(2) with MS_SYNC: writes dirty pages of what is mapped at an address, and waits for them.
pub fn msync(address: u64, len: u64) -> Result<()> {
    // SAFETY: with MS_SYNC the kernel changes no memory and no mapping, whatever lies there; where nothing is mapped it
    // says ENOMEM.
    unsafe { rustix::mm::msync(address as *mut c_void, len as usize, MsyncFlags::SYNC) }
}

/// fork(2). The child, whose number is the answer, does nothing until somebody kills it.
pub fn fork() -> Result<i32> {
    // SAFETY: the child has this thread alone, and other threads may have held locks: it calls nothing but pause(2).
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => loop {
            // SAFETY: pause(2) has no arguments and is async-signal-safe.
            unsafe { libc::pause() };
        },
        child => Ok(child),
    }
}

/// fcntl(F_SETLEASE): F_RDLCK, F_WRLCK or F_UNLCK. Nobody gets SIGIO for it, which would end a process that has no handler:
/// who holds the lease asks ([`lease`]).
pub fn set_lease(file: BorrowedFd<'_>, kind: i32) -> Result<()> {
    for (command, argument) in [(libc::F_SETLEASE, kind), (libc::F_SETOWN, 0)] {
        // SAFETY: the descriptor is open for as long as it is borrowed, and the argument is a number.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } != 0 {
            return Err(last_errno());
        }
    }
    Ok(())
}

/// fcntl(F_GETLEASE): what the lease is, or shall become if somebody waits for it.
pub fn lease(file: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the descriptor is open for as long as it is borrowed; there is no argument.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } {
        -1 => Err(last_errno()),
        kind => Ok(kind),
    }
}

/// process_vm_writev(2) within this process, from one range to another, which need not be there. Bytes that were copied.
pub fn process_vm_writev(to: u64, from: u64, len: u64) -> Result<u64> {
    let range = |address: u64| libc::iovec { iov_base: address as *mut c_void, iov_len: len as usize };
    let (to, from) = (range(to), range(from));
    // SAFETY: the kernel checks both ranges and answers EFAULT where one is not there. Callers give addresses of
    // mappings of theirs, into which no reference points.
    let n = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
    u64::try_from(n).map_err(|_| last_errno())
}

/// `struct uffdio_api` (linux/userfaultfd.h).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UffdioCopy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffd_msg` of a page fault.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UffdMessage {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// `_IOWR(0xaa, number, T)`.
const fn uffdio<T>(number: u32) -> u32 {
    (3 << 30) | ((size_of::<T>() as u32) << 16) | (0xaa << 8) | number
}
const UFFDIO_API: u32 = uffdio::<UffdioApi>(0x3f);
const UFFDIO_REGISTER: u32 = uffdio::<UffdioRegister>(0x00);
const UFFDIO_COPY: u32 = uffdio::<UffdioCopy>(0x03);
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;

/// userfaultfd(2) over the missing pages of a mapping. Dropping it lets everybody who sleeps in one go on.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// Be asked for every page of anonymous memory that is not there, also by the kernel.
    pub fn over(memory: &UserMemory) -> Result<Self> {
        use rustix::mm::UserfaultfdFlags as Flags;
        // SAFETY: a descriptor alone; what it does to memory it does by the ioctls below, to `memory` only.
        let fd = unsafe { rustix::mm::userfaultfd(Flags::CLOEXEC | Flags::NONBLOCK) }?;
        ioctl_struct(&fd, UFFDIO_API, &mut UffdioApi { api: UFFD_API, features: 0, ioctls: 0 })?;
        let (start, len) = (memory.address(0), memory.len());
        let mut register = UffdioRegister { start, len, mode: UFFDIO_REGISTER_MODE_MISSING, ioctls: 0 };
        ioctl_struct(&fd, UFFDIO_REGISTER, &mut register)?;
        Ok(Self(fd))
    }

    /// Address of the next page that somebody waits for, if there is one.
    pub fn next(&self) -> Result<Option<u64>> {
        let mut message = [0; size_of::<UffdMessage>()];
        match rustix::io::read(&self.0, &mut message) {
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
            Ok(n) => match UffdMessage::read_from_bytes(&message) {
                Ok(UffdMessage { event: UFFD_EVENT_PAGEFAULT, address, .. }) if n == message.len() => {
                    Ok(Some(address & !(PAGE_BYTES - 1)))
                }
                _ => Err(Errno::PROTO),
            },
        }
    }

    /// Give a missing page at an offset, and wake who waits for it.
    pub fn fill(&self, memory: &UserMemory, offset: u64, page: &[u8]) -> Result<()> {
        if page.len() as u64 != PAGE_BYTES {
            return Err(Errno::INVAL);
        }
        let (dst, _) = memory.within(offset, PAGE_BYTES)?;
        let (dst, src) = (dst as u64, page.as_ptr() as u64);
        let mut copy = UffdioCopy { dst, src, len: PAGE_BYTES, mode: 0, copy: 0 };
        // The kernel only fills pages that are missing, of `memory`, into which no reference points.
        ioctl_struct(&self.0, UFFDIO_COPY, &mut copy)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The pipe of a [`UserMemory`]: empty between calls.
#[derive(Debug)]
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
}

impl Pipe {
    fn new() -> Result<Self> {
        // Never blocks: a partial transfer must be an error here, not a hang.
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (output, input) = rustix::pipe::pipe_with(flags)?;
        Ok(Self { output, input })
    }

    /// All or nothing: after anything else the pipe may hold a rest, so it is replaced.
    fn expect(&mut self, moved: isize, wanted: usize) -> Result<()> {
        if moved == wanted as isize {
            return Ok(());
        }
        let errno = if moved < 0 { last_errno() } else { Errno::FAULT };
        *self = Self::new()?;
        Err(errno)
    }
}

/// Have the C library's heap grow in large steps by brk(2), never by mmap(2), and never shrink: allocation then needs
/// the process' mmap lock hardly ever, which a job may hold for as long as it sleeps (see `jobs`).
///
/// A request that the library does not know leaves it as it was: slower to answer, not wrong.
pub fn keep_heap() {
    /// More than the agent ever has at once: a few buffers of 1 MiB and a line of 8 MiB. Address space only.
    const STEP_BYTES: libc::c_int = 64 << 20;
    let options = [
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
        (libc::M_TOP_PAD, STEP_BYTES),
        // Arenas of threads would be mapped.
        (libc::M_ARENA_MAX, 1),
    ];
    for (option, value) in options {
        // SAFETY: mallopt takes two numbers and its own lock.
        unsafe { libc::mallopt(option, value) };
    }
}

/// ioctl(2) with a structure whose size is part of the request number.
///
/// # Panics
///
/// If the request encodes another size: a caller's bug.
pub fn ioctl_struct<T: IntoBytes + FromBytes>(fd: impl AsFd, request: u32, argument: &mut T) -> Result<()> {
    let encoded = (request >> 16) & 0x3fff;
    assert_eq!(encoded as usize, size_of::<T>(), "ioctl {request:#x} takes another structure");
    // SAFETY: by its number the ioctl reads and writes at most `size_of::<T>()` bytes at the argument, and any bytes
    // are a valid T.
    let n = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request.into(), std::ptr::from_mut(argument)) };
    if n < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `struct file_dedupe_range` (linux/fs.h) with one `struct file_dedupe_range_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DedupeRange {
    /// In: first byte in the source.
    pub source_offset: u64,
    /// In: bytes.
    pub source_len: u64,
    /// In: files that follow: 1.
    pub nr_destinations: u16,
    /// Zero.
    pub reserved1: u16,
    /// Zero.
    pub reserved2: u32,
    /// In: descriptor of the file that gets the source's blocks.
    pub destination: i64,
    /// In: first byte in it.
    pub destination_offset: u64,
    /// Out: bytes that are shared now.
    pub bytes_deduped: u64,
    /// Out: 0, 1 if the contents differ, or an errno below zero.
    pub status: i32,
    /// Zero.
    pub reserved3: u32,
}

/// FIDEDUPERANGE: `_IOWR(0x94, 54, struct file_dedupe_range)`, the size without the files that follow.
const FIDEDUPERANGE: u32 = (3 << 30) | (24 << 16) | (0x94 << 8) | 54;

/// ioctl(FIDEDUPERANGE).
pub fn dedupe(source: impl AsFd, range: &mut DedupeRange) -> Result<()> {
    range.nr_destinations = 1;
    // SAFETY: the kernel reads and writes the head and as many files behind it as the head says: one, which the structure
    // has.
    let n =
        unsafe { libc::ioctl(source.as_fd().as_raw_fd(), FIDEDUPERANGE.into(), std::ptr::from_mut(range)) };
    if n < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Head of `struct fiemap` (linux/fiemap.h), followed by the extents.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FiemapHead {
    /// In: first byte asked for.
    pub start: u64,
    /// In: bytes asked for.
    pub length: u64,
    /// In: FIEMAP_FLAG_ bits.
    pub flags: u32,
    /// Out: extents given.
    pub mapped_extents: u32,
    /// In: room for extents.
    pub extent_count: u32,
    /// Zero.
    pub reserved: u32,
}

/// `struct fiemap_extent`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FiemapExtent {
    /// File offset.
    pub logical: u64,
    /// Byte on the device, or in the file system's own address space.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// Zero.
    pub reserved64: [u64; 2],
    /// FIEMAP_EXTENT_ bits.
    pub flags: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// `struct fiemap` with room for a batch of extents.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fiemap {
    /// Parameters.
    pub head: FiemapHead,
    /// Extents; `head.mapped_extents` of them are filled.
    pub extents: [FiemapExtent; FIEMAP_BATCH],
}

/// Extents a call: 28 KiB of buffer.
pub const FIEMAP_BATCH: usize = 512;

/// FS_IOC_FIEMAP: `_IOWR('f', 11, struct fiemap)`, the size without extents.
const FS_IOC_FIEMAP: u32 = (3 << 30) | (32 << 16) | ((b'f' as u32) << 8) | 11;

/// ioctl(FS_IOC_FIEMAP).
pub fn fiemap(fd: impl AsFd, request: &mut Fiemap) -> Result<()> {
    request.head.extent_count = FIEMAP_BATCH as u32;
    // SAFETY: the kernel writes the head and at most `extent_count` extents behind it; `Fiemap` has room for both.
    let n = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), FS_IOC_FIEMAP.into(), std::ptr::from_mut(request)) };
    if n < 0 { Err(last_errno()) } else { Ok(()) }
}

/// FIBMAP and FIGETBSZ (linux/fs.h): `_IO(0x00, 1)` and `_IO(0x00, 2)`.
const FIBMAP: libc::Ioctl = 1;
const FIGETBSZ: libc::Ioctl = 2;

/// ioctl(FIGETBSZ): bytes of a block of FIBMAP.
pub fn block_bytes(fd: impl AsFd) -> Result<u32> {
    int_ioctl(fd, FIGETBSZ, 0)
}

/// ioctl(FIBMAP): the device's block that holds block `number` of the file; 0: none does.
pub fn fibmap(fd: impl AsFd, number: u32) -> Result<u32> {
    int_ioctl(fd, FIBMAP, number)
}

fn int_ioctl(fd: impl AsFd, request: libc::Ioctl, value: u32) -> Result<u32> {
    let mut value = value;
    // SAFETY: both requests read and write one int, which `value` is.
    let n = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(&mut value)) };
    if n < 0 { Err(last_errno()) } else { Ok(value) }
}

/// `struct btrfs_ioctl_search_args_v2` (linux/btrfs.h) with a buffer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TreeSearch {
    /// Tree to search.
    pub tree_id: u64,
    /// Key range: object ids.
    pub min_objectid: u64,
    /// See `min_objectid`.
    pub max_objectid: u64,
    /// Key range: offsets.
    pub min_offset: u64,
    /// See `min_offset`.
    pub max_offset: u64,
    /// Transactions.
    pub min_transid: u64,
    /// See `min_transid`.
    pub max_transid: u64,
    /// Key range: types.
    pub min_type: u32,
    /// See `min_type`.
    pub max_type: u32,
    /// In: items wanted; out: items given.
    pub nr_items: u32,
    /// Zero.
    pub unused: [u32; 9],
    /// Bytes of `buf`.
    pub buf_size: u64,
    /// Items, each with a 32-byte header.
    pub buf: [u8; TREE_SEARCH_BYTES],
}

/// Room for about 500 chunk items.
pub const TREE_SEARCH_BYTES: usize = 64 * 1024;

/// BTRFS_IOC_TREE_SEARCH_V2: `_IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)`, the size without the buffer.
const BTRFS_IOC_TREE_SEARCH_V2: u32 = (3 << 30) | (112 << 16) | (0x94 << 8) | 17;
const _: () = assert!(size_of::<TreeSearch>() == 112 + TREE_SEARCH_BYTES);

/// ioctl(BTRFS_IOC_TREE_SEARCH_V2).
pub fn btrfs_tree_search(fd: impl AsFd, search: &mut TreeSearch) -> Result<()> {
    search.buf_size = TREE_SEARCH_BYTES as u64;
    // SAFETY: the kernel writes the 112-byte head and at most `buf_size` bytes behind it; `TreeSearch` has both.
    let n = unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), BTRFS_IOC_TREE_SEARCH_V2.into(), std::ptr::from_mut(search))
    };
    if n < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `struct cachestat` (linux/mman.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CacheStat {
    /// Pages present.
    pub cached: u64,
    /// Pages dirty.
    pub dirty: u64,
    /// Pages under writeback.
    pub writeback: u64,
    /// Pages evicted.
    pub evicted: u64,
    /// Pages evicted not long ago.
    pub recently_evicted: u64,
}

/// cachestat(2), number 451, since Linux 6.5. A `len` of 0 means to the end of the file.
pub fn cachestat(fd: impl AsFd, offset: u64, len: u64) -> Result<CacheStat> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    let mut stat = CacheStat::default();
    // SAFETY: the kernel reads two u64 at the range and writes five u64 at the result.
    let n = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_fd().as_raw_fd(),
            range.as_ptr(),
            std::ptr::from_mut(&mut stat),
            0u32,
        )
    };
    if n < 0 { Err(last_errno()) } else { Ok(stat) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd as StdFd;

    fn file_of(len: u64) -> StdFd {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(len).expect("size");
        file.into()
    }

    #[test]
    fn a_store_is_loaded_again_and_reaches_the_file() {
        let file = file_of(8192);
        let mut memory = UserMemory::map(MapSource::File(&file, 0), 8192, true, true).unwrap();
        memory.store(4096 + 512, b"hello").unwrap();
        let mut loaded = [0u8; 5];
        memory.load(4096 + 512, &mut loaded).unwrap();
        assert_eq!(&loaded, b"hello");
        let mut read = [0u8; 5];
        rustix::io::pread(&file, &mut read, 4096 + 512).unwrap();
        assert_eq!(&read, b"hello");
    }

    #[test]
    fn a_page_beyond_the_end_of_the_file_is_efault_and_the_memory_stays_usable() {
        let file = file_of(8192);
        let mut memory = UserMemory::map(MapSource::File(&file, 0), 8192, true, true).unwrap();
        memory.store(4096, &[7; 4096]).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        assert_eq!(memory.load(4096, &mut [0; 16]), Err(Errno::FAULT));
        assert_eq!(memory.store(4096, &[1; 4096]), Err(Errno::FAULT));
        assert_eq!(memory.touch_write(4096), Err(Errno::FAULT));
        memory.store(0, b"still here").unwrap();
        let mut loaded = [0u8; 10];
        memory.load(0, &mut loaded).unwrap();
        assert_eq!(&loaded, b"still here");
    }

    #[test]
    fn a_write_touch_dirties_the_page_and_keeps_its_bytes() {
        let file = file_of(4096);
        rustix::io::pwrite(&file, &[0xa5; 4096], 0).unwrap();
        rustix::fs::fsync(&file).unwrap();
        let mut memory = UserMemory::map(MapSource::File(&file, 0), 4096, true, true).unwrap();
        memory.touch_write(100).unwrap();
        let mut loaded = [0u8; 4096];
        memory.load(0, &mut loaded).unwrap();
        assert_eq!(loaded, [0xa5; 4096]);
    }

    #[test]
    fn a_read_only_mapping_refuses_stores_and_write_touches() {
        let file = file_of(4096);
        let mut memory = UserMemory::map(MapSource::File(&file, 0), 4096, true, false).unwrap();
        assert_eq!(memory.store(0, b"x"), Err(Errno::FAULT));
        assert_eq!(memory.touch_write(0), Err(Errno::FAULT));
        memory.load(0, &mut [0; 1]).unwrap();
    }

    #[test]
    fn ranges_that_leave_page_or_mapping_are_einval() {
        let file = file_of(8192);
        let mut memory = UserMemory::map(MapSource::File(&file, 0), 8192, true, true).unwrap();
        assert_eq!(memory.load(4090, &mut [0; 16]), Err(Errno::INVAL));
        assert_eq!(memory.store(8192, b"x"), Err(Errno::INVAL));
        assert_eq!(memory.advise(u64::MAX, 2, MmAdvice::Normal), Err(Errno::INVAL));
    }
}
