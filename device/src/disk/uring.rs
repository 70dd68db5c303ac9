// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Operations on an image by io_uring. The ring owns everything that the host's kernel reads or writes, from the
//! moment when an operation is pushed until it is reaped.
//!
//! One kind is done by the caller's own thread: a write that ends in the page cache. It is a copy in memory, and
//! io_uring, which may not wait for a file system's locks, hands it to another thread first: with that, writes of
//! 128 KiB through qemu-img bench took 1.4 to 1.8 times as long (ext4 and tmpfs, two processors). When the host makes such a write wait (too many dirty pages, a
//! hung device), the next ones go the other way for a while, so that the rest of the queue does not wait with them.
#![expect(unsafe_code, reason = "addresses are handed to the host's kernel")]

use super::image::Image;
use crate::audit::Buffer;
use crate::mem::{BadAddress, Gpa, Lease, View};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use nix::libc::{self, iovec};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What write-zeroes writes where the image's file system cannot zero a range by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes that one submission writes by itself; then what is done is answered before it goes on.
const DIRECT_BYTES: u64 = 256 << 10;
/// A write into the page cache that takes longer than this has waited for something.
const DIRECT_LIMIT: Duration = Duration::from_millis(10);
/// So long the next ones are left to io_uring.
const DIRECT_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the kernel when a ring ends with operations in it.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Guest memory as a vector for the kernel.
///
/// # Invariants
///
/// Each entry was looked up in the map that `lease` keeps mapped.
pub struct GuestBuffers {
    vector: Vec<iovec>,
    /// Entries before it are done.
    first: usize,
    _lease: Arc<Lease>,
}

// SAFETY: the pointers are to shared mappings, which the lease keeps alive whatever thread holds it; nothing here
// reads or writes through them.
unsafe impl Send for GuestBuffers {}

impl GuestBuffers {
    /// The buffers at `segments`. `lease` was made under `view`.
    pub fn locate(view: &View<'_>, lease: &Arc<Lease>, segments: &[(Gpa, u32)]) -> Result<Self, BadAddress> {
        let mut vector: Vec<iovec> = Vec::with_capacity(segments.len());
        for (gpa, len) in segments {
            view.locate(*gpa, *len, |base, len| match vector.last_mut() {
                // Neighbours, as the pages of a large folio are.
                Some(last) if last.iov_base.addr() + last.iov_len == base.addr() => last.iov_len += len,
                _ => vector.push(iovec { iov_base: base.cast(), iov_len: len }),
            })?;
        }
        // INVARIANT: `locate` gave addresses of the map of `view`.
        Ok(Self { vector, first: 0, _lease: lease.clone() })
    }

    fn rest(&self) -> &[iovec] {
        &self.vector[self.first..]
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(entry) = self.vector.get_mut(self.first).filter(|_| bytes > 0) {
            let step = bytes.min(entry.iov_len);
            // INVARIANT: at most to the end of the entry.
            entry.iov_base = entry.iov_base.wrapping_byte_add(step);
            entry.iov_len -= step;
            bytes -= step;
            self.first += usize::from(entry.iov_len == 0);
        }
    }
}

/// What is done.
pub enum Io {
    /// Image to guest.
    Read(GuestBuffers),
    /// Guest to image.
    Write(GuestBuffers),
    /// Bytes that were copied before.
    WriteCopy {
        /// All of them.
        bytes: Arc<Buffer>,
        /// How many are written.
        done: usize,
    },
    /// Zeroes, written.
    WriteZeroes,
    /// fallocate(2) with this mode.
    Allocate(i32),
    /// fdatasync(2).
    Sync,
}

/// One operation. `J` is what it is done for.
pub struct Operation<J> {
    /// What for.
    pub job: J,
    /// What.
    pub io: Io,
    /// First byte that is still to be done.
    pub offset: u64,
    /// Bytes still to be done.
    pub len: u64,
    /// Writes are on stable storage when they are done.
    pub durable: bool,
}

impl<J> Operation<J> {
    /// Note that the next `bytes` are done.
    pub fn advance(&mut self, bytes: u64) {
        self.offset += bytes;
        self.len -= bytes;
        match &mut self.io {
            Io::Read(buffers) | Io::Write(buffers) => buffers.advance(bytes as usize),
            Io::WriteCopy { done, .. } => *done += bytes as usize,
            Io::WriteZeroes | Io::Allocate(_) | Io::Sync => {}
        }
    }

    fn entry(&self, file: Fd) -> squeue::Entry {
        let flags = if self.durable { libc::RWF_DSYNC } else { 0 };
        match &self.io {
            Io::Read(buffers) => match buffers.rest() {
                [one] => opcode::Read::new(file, one.iov_base.cast(), one.iov_len as u32)
                    .offset(self.offset)
                    .build(),
                many => {
                    opcode::Readv::new(file, many.as_ptr(), many.len() as u32).offset(self.offset).build()
                }
            },
            Io::Write(buffers) => match buffers.rest() {
                [one] => opcode::Write::new(file, one.iov_base.cast(), one.iov_len as u32)
                    .offset(self.offset)
                    .rw_flags(flags)
                    .build(),
                many => opcode::Writev::new(file, many.as_ptr(), many.len() as u32)
                    .offset(self.offset)
                    .rw_flags(flags)
                    .build(),
            },
            Io::WriteCopy { bytes, done } => {
                let rest = &bytes[*done..];
                opcode::Write::new(file, rest.as_ptr(), rest.len() as u32)
                    .offset(self.offset)
                    .rw_flags(flags)
                    .build()
            }
            Io::WriteZeroes => {
                let len = self.len.min(ZEROES.len() as u64) as u32;
                opcode::Write::new(file, ZEROES.as_ptr(), len).offset(self.offset).rw_flags(flags).build()
            }
            Io::Allocate(mode) => {
                opcode::Fallocate::new(file, self.len).offset(self.offset).mode(*mode).build()
            }
            Io::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        }
    }
}

/// Whether this host lets us use io_uring at all: containers and administrators may forbid it.
pub fn check_host() -> io::Result<()> {
    IoUring::new(1).map(drop)
}

/// A ring for one image.
///
/// # Invariants
///
/// For each entry that was pushed and not reaped, `slots[user_data]` holds its operation, unchanged.
pub struct Ring<J> {
    ring: IoUring,
    image: Arc<Image>,
    slots: Vec<Option<Operation<J>>>,
    free: Vec<usize>,
    /// Pushed since the last submission.
    queued: usize,
    /// To be done by this thread, in order.
    direct: VecDeque<Operation<J>>,
    /// Done by this thread.
    done: Vec<(Operation<J>, io::Result<u64>)>,
    /// Until then this thread does nothing by itself.
    paused_until: Option<Instant>,
}

impl<J> Ring<J> {
    /// A ring for up to `entries` operations.
    pub fn new(image: Arc<Image>, entries: usize) -> io::Result<Self> {
        let ring = IoUring::builder().setup_coop_taskrun().build(entries as u32);
        // Kernels before 5.19 do not know that flag, which only spares interrupts.
        let ring = ring.or_else(|_| IoUring::new(entries as u32))?;
        Ok(Self {
            ring,
            image,
            slots: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            queued: 0,
            direct: VecDeque::new(),
            done: Vec::new(),
            paused_until: None,
        })
    }

    /// With the kernel.
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether this thread has something to do or to reap that no event will tell of.
    pub fn is_busy(&self) -> bool {
        !self.direct.is_empty() || !self.done.is_empty()
    }

    /// Readable when there is something to reap.
    pub fn event(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Take an operation. The caller has no more than the ring's entries in flight.
    pub fn push(&mut self, operation: Operation<J>) {
        if self.does_itself(&operation) {
            self.direct.push_back(operation);
        } else {
            self.enqueue(operation);
        }
    }

    fn does_itself(&mut self, operation: &Operation<J>) -> bool {
        let into_cache = matches!(operation.io, Io::Write(_) | Io::WriteCopy { .. }) && !operation.durable;
        if self.paused_until.is_some_and(|until| Instant::now() >= until) {
            self.paused_until = None;
        }
        into_cache && !self.image.is_device && self.paused_until.is_none()
    }

    fn enqueue(&mut self, operation: Operation<J>) {
        let slot = self.free.pop().expect("no more operations than entries");
        let file = Fd(self.image.file.as_raw_fd());
        let operation = self.slots[slot].insert(operation);
        let entry = operation.entry(file).user_data(slot as u64);
        // SAFETY: the kernel may use the entry's addresses until its completion. They belong to the operation: guest
        // memory that its lease keeps mapped, a vector and a buffer on the heap, or a static. INVARIANT: the
        // operation stays in its slot until `reap` has seen the completion, and `drop` waits for that. The file is
        // open as long as `image`.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // As many entries as slots, and each submission takes all of them.
        pushed.expect("a submission entry for each slot");
        self.queued += 1;
    }

    /// Begin what was pushed: give it to the kernel, or do it, up to [`DIRECT_BYTES`] at once. On an error it still
    /// waits in the ring.
    pub fn submit(&mut self) -> io::Result<()> {
        self.submit_queued()?;
        let mut bytes = 0;
        while bytes < DIRECT_BYTES
            && let Some(operation) = self.direct.pop_front()
        {
            bytes += operation.len;
            let begin = Instant::now();
            let result = self.write(&operation);
            self.done.push((operation, result));
            if begin.elapsed() > DIRECT_LIMIT {
                self.paused_until = Some(Instant::now() + DIRECT_PAUSE);
                std::mem::take(&mut self.direct).into_iter().for_each(|operation| self.enqueue(operation));
                self.submit_queued()?;
            }
        }
        Ok(())
    }

    fn submit_queued(&mut self) -> io::Result<()> {
        while self.queued > 0 {
            match self.ring.submit() {
                // Nothing taken and no error: as if it had been EAGAIN.
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(taken) => self.queued -= taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Write what is left of an operation, by this thread.
    fn write(&self, operation: &Operation<J>) -> io::Result<u64> {
        let (file, offset) = (self.image.file.as_raw_fd(), operation.offset as i64);
        let written = match &operation.io {
            Io::Write(buffers) => {
                let rest = buffers.rest();
                // SAFETY: `rest` is a vector of its length, and its entries are ranges that the lease keeps mapped.
                // The kernel only reads them; that the guest writes there meanwhile means undefined bytes, no more.
                unsafe { libc::pwritev(file, rest.as_ptr(), rest.len() as i32, offset) }
            }
            Io::WriteCopy { bytes, done } => {
                return self.image.file.write_at(&bytes[*done..], operation.offset).map(|n| n as u64);
            }
            Io::Read(_) | Io::WriteZeroes | Io::Allocate(_) | Io::Sync => return Ok(0),
        };
        u64::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Move what is done into `out`, with bytes or error.
    pub fn reap(&mut self, out: &mut Vec<(Operation<J>, io::Result<u64>)>) {
        out.append(&mut self.done);
        for completion in self.ring.completion() {
            let slot = completion.user_data() as usize;
            // INVARIANT: reaped and removed together.
            let Some(operation) = self.slots.get_mut(slot).and_then(Option::take) else { continue };
            self.free.push(slot);
            let result = completion.result();
            let result = u64::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            out.push((operation, result));
        }
    }
}

impl<J> Drop for Ring<J> {
    fn drop(&mut self) {
        let (until, mut done) = (Instant::now() + DRAIN_DEADLINE, Vec::new());
        while self.in_flight() > 0 && Instant::now() < until {
            let waited = self.submit_queued().and_then(|()| self.ring.submit_and_wait(1));
            if waited.is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.reap(&mut done);
        }
        if self.in_flight() > 0 {
            log::error!("{} disk operations do not end; their memory is given up", self.in_flight());
            // The kernel may still write there.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{AtomicMap, GuestRam, Map};
    use vm_memory::GuestAddress;

    fn ring(bytes: u64) -> (Ring<u32>, Arc<Image>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let image = Arc::new(Image::open(file.path(), 512, false).unwrap());
        (Ring::new(image.clone(), 8).unwrap(), image)
    }

    fn run(ring: &mut Ring<u32>, operation: Operation<u32>) -> (Operation<u32>, io::Result<u64>) {
        ring.push(operation);
        ring.submit().unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            if !ring.is_busy() {
                ring.ring.submit_and_wait(1).unwrap();
            }
            ring.reap(&mut done);
        }
        done.pop().unwrap()
    }

    #[test]
    fn guest_memory_goes_out_and_comes_back_by_pieces() {
        let (mut ring, image) = ring(1 << 20);
        // Two ranges of memory that are neighbours for the guest.
        let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x2000)];
        let ram = Arc::new(GuestRam::new(AtomicMap::new(Map::from_ranges(&ranges).unwrap())));
        let view = ram.view();
        let lease = Arc::new(ram.lend(&view));
        let bytes: Vec<u8> = (0..0x2000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        view.write(Gpa(0x1000), &bytes).unwrap();
        // The second half comes first.
        let segments = [(Gpa(0x2000), 0x1000), (Gpa(0x1000), 0x1000)];
        let locate = || GuestBuffers::locate(&view, &lease, &segments).unwrap();
        let write = Operation { job: 7, io: Io::Write(locate()), offset: 512, len: 0x2000, durable: true };
        let (done, result) = run(&mut ring, write);
        assert_eq!((done.job, result.unwrap()), (7, 0x2000));
        let mut on_disk = vec![0; 0x2000];
        image.file.read_exact_at(&mut on_disk, 512).unwrap();
        assert!(on_disk[..0x1000] == bytes[0x1000..] && on_disk[0x1000..] == bytes[..0x1000]);
        view.write(Gpa(0x1000), &[0; 0x2000]).unwrap();
        let read = Operation { job: 8, io: Io::Read(locate()), offset: 512, len: 0x2000, durable: false };
        let (_, result) = run(&mut ring, read);
        assert_eq!(result.unwrap(), 0x2000);
        let mut back = vec![0; 0x2000];
        view.read(Gpa(0x1000), &mut back).unwrap();
        assert!(back == bytes);
    }

    #[test]
    fn an_operation_goes_on_where_a_short_one_ended() {
        let ram =
            Arc::new(GuestRam::new(AtomicMap::new(Map::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap())));
        let view = ram.view();
        let lease = Arc::new(ram.lend(&view));
        let segments = [(Gpa(0x2000), 0x1000), (Gpa(0), 0x1000)];
        let buffers = GuestBuffers::locate(&view, &lease, &segments).unwrap();
        let start = buffers.rest()[1].iov_base.addr();
        let mut operation =
            Operation { job: 0, io: Io::Read(buffers), offset: 0, len: 0x2000, durable: false };
        operation.advance(0x1800);
        let Io::Read(buffers) = &operation.io else { unreachable!("it was a read") };
        assert_eq!((operation.offset, operation.len), (0x1800, 0x800));
        let rest: Vec<_> = buffers.rest().iter().map(|v| (v.iov_base.addr(), v.iov_len)).collect();
        assert_eq!(rest, [(start + 0x800, 0x800)]);
    }

    #[test]
    fn errors_of_the_kernel_come_back() {
        let (mut ring, _image) = ring(4096);
        let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_PUNCH_HOLE;
        let bad = Operation { job: 1, io: Io::Allocate(mode), offset: 0, len: 512, durable: false };
        let (_, result) = run(&mut ring, bad);
        assert!(matches!(result.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)));
        let sync = Operation { job: 2, io: Io::Sync, offset: 0, len: 0, durable: false };
        assert_eq!(run(&mut ring, sync).1.unwrap(), 0);
    }

    /// A write of `len` bytes of the guest's memory.
    fn write_from(ram: &Arc<GuestRam>, gpa: u64, len: u32, offset: u64) -> Operation<u32> {
        let view = ram.view();
        let buffers = GuestBuffers::locate(&view, &Arc::new(ram.lend(&view)), &[(Gpa(gpa), len)]).unwrap();
        Operation { job: 1, io: Io::Write(buffers), offset, len: len.into(), durable: false }
    }

    #[test]
    fn writes_by_this_thread_are_done_in_portions_and_leave_the_rest_after_a_wait() {
        let (mut ring, image) = ring(4 << 20);
        let map = Map::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let ram = Arc::new(GuestRam::new(AtomicMap::new(map)));
        ram.view().write(Gpa(0), &[7; 100 << 10]).unwrap();
        ram.view().write(Gpa(0x80000), &[9; 512]).unwrap();
        let portion = |at| write_from(&ram, 0, 100 << 10, at);
        (0..5).for_each(|i| ring.push(portion(i * (100 << 10))));
        ring.submit().unwrap();
        let mut done = Vec::new();
        ring.reap(&mut done);
        assert_eq!((done.len(), ring.is_busy()), (3, true), "256 KiB are reached with the third");
        ring.submit().unwrap();
        ring.reap(&mut done);
        assert_eq!((done.len(), ring.is_busy()), (5, false));
        assert!(done.iter().all(|(operation, result)| *result.as_ref().unwrap() == operation.len));
        // The host made a write wait: the next one is the kernel's.
        ring.paused_until = Some(Instant::now() + Duration::from_secs(60));
        assert!(!ring.does_itself(&portion(0)));
        assert_eq!(run(&mut ring, write_from(&ram, 0x80000, 512, 0)).1.unwrap(), 512);
        ring.paused_until = Some(Instant::now());
        assert!(ring.does_itself(&portion(0)), "after a while it is tried again");
        let durable = Operation { durable: true, ..portion(0) };
        assert!(!ring.does_itself(&durable));
        let mut on_disk = vec![0; 1024];
        image.file.read_exact_at(&mut on_disk, 0).unwrap();
        assert_eq!(on_disk, [[9; 512], [7; 512]].concat());
    }
}
