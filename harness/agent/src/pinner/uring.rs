// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A registered buffer of io_uring: `io_pin_pages()` takes FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE for as long as it is
//! registered, and `io_release_ubuf()` sets no dirty bit. READ_FIXED from a pipe copies into the pinned pages; the
//! address only says which of them.

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, failed};
use crate::sys::PAGE_BYTES;
use io_uring::{IoUring, opcode, types};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};

/// Requests under way: one.
const ENTRIES: u32 = 2;

/// Memory that is registered.
pub struct Registered {
    ring: IoUring,
    output: OwnedFd,
    input: OwnedFd,
    address: u64,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Registered {
    /// io_uring_register(2) with IORING_REGISTER_BUFFERS.
    pub fn pin(request: &PinRequest) -> Result<Self, StepError> {
        let ring = IoUring::new(ENTRIES).or_refused("io_uring_setup")?;
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).or_failed("pipe")?;
        let buffer =
            libc::iovec { iov_base: request.address as *mut libc::c_void, iov_len: request.len as usize };
        // SAFETY: the kernel takes references of the pages and goes by them alone. The address lies in a mapping of the
        // scenario, into which no Rust reference points; if it is unmapped, the pages stay until they are unpinned.
        unsafe { ring.submitter().register_buffers(&[buffer]) }
            .or_refused("io_uring_register(IORING_REGISTER_BUFFERS)")?;
        Ok(Self { ring, output, input, address: request.address })
    }

    fn read_fixed(&mut self, offset: u64, len: u32) -> Result<u32, StepError> {
        const CALL: &str = "io_uring(READ_FIXED)";
        let to = (self.address + offset) as *mut u8;
        let entry = opcode::ReadFixed::new(types::Fd(self.output.as_raw_fd()), to, len, 0).build();
        // SAFETY: `to` and `len` lie in buffer 0, by whose pages the kernel goes; no Rust reference points there. The
        // pipe lives as long as the ring, and the request is over when this function returns, or the ring is given up.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return failed!("{CALL}: the queue is full");
        }
        self.ring.submit_and_wait(1).or_refused(CALL)?;
        let Some(done) = self.ring.completion().next() else {
            return failed!("{CALL}: no completion");
        };
        match u32::try_from(done.result()) {
            Ok(n) => Ok(n),
            Err(_) => Err(crate::error::refused(-done.result(), CALL)),
        }
    }
}

impl Hold for Registered {
    fn can_write(&self, _offset: u64, _len: u64) -> Result<(), StepError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        for (index, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            let at = offset + index as u64 * PAGE_BYTES;
            let put = rustix::io::write(&self.input, page).or_failed("write(pipe)")?;
            let got = self.read_fixed(at, page.len() as u32)? as usize;
            if (put, got) != (page.len(), page.len()) {
                return failed!(
                    "READ_FIXED moved {got} of {} bytes, of which the pipe had {put}",
                    page.len()
                );
            }
        }
        Ok(Arrived::There)
    }

    fn release(self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
        // At the close of the ring it would be done some time later.
        self.ring.submitter().unregister_buffers().or_refused("io_uring_register(IORING_UNREGISTER_BUFFERS)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::sys::MapSource;
    use longpin_proto::agent::PinMode;

    fn request(mapping: &Mapping, len: u64) -> PinRequest {
        let address = mapping.address(0, len).expect("a range");
        PinRequest { address, len, mode: PinMode::IoUring, file_offset: 0, run: 1, file: None }
    }

    #[test]
    fn what_the_pipe_carries_is_in_memory_when_the_write_returns() {
        let len = 4 * PAGE_BYTES;
        let mut mapping = Mapping::new(MapSource::Anonymous, len, false, true).unwrap();
        let mut pin = Box::new(Registered::pin(&request(&mapping, len)).unwrap());
        let bytes: Vec<u8> = (0..2 * PAGE_BYTES).map(|at| (at / 512) as u8).collect();
        pin.write(PAGE_BYTES, &bytes).unwrap();
        pin.write(PAGE_BYTES, &bytes).unwrap();
        let mut seen = vec![0; 512];
        for cell in 0..len / 512 {
            mapping.load(cell * 512, &mut seen).unwrap();
            let inside = (8..24).contains(&cell);
            let expected = if inside { cell as u8 - 8 } else { 0 };
            assert_eq!(seen, vec![expected; 512], "cell {cell}");
        }
        pin.release(true).unwrap();
    }

    #[test]
    fn pages_stay_pinned_below_a_mapping_that_is_gone() {
        let len = 2 * PAGE_BYTES;
        let mapping = Mapping::new(MapSource::Anonymous, len, false, true).unwrap();
        let mut pin = Box::new(Registered::pin(&request(&mapping, len)).unwrap());
        drop(mapping);
        pin.write(0, &[7; PAGE_BYTES as usize]).unwrap();
        pin.release(true).unwrap();
    }

    #[test]
    fn memory_that_is_not_there_is_refused_and_names_the_call() {
        let request = PinRequest {
            address: 0,
            len: PAGE_BYTES,
            mode: PinMode::IoUring,
            file_offset: 0,
            run: 1,
            file: None,
        };
        let Err(StepError::Refused(errno)) = Registered::pin(&request) else { panic!("pinned") };
        assert_eq!(errno.name, "EFAULT");
        assert_eq!(errno.call, "io_uring_register(IORING_REGISTER_BUFFERS)");
    }
}
