// SPDX-License-Identifier: Apache-2.0 OR MIT
//! process_vm_writev(2) into a mapping, kept in the middle of its copy: the kernel pins all pages of the target
//! (FOLL_PIN | FOLL_WRITE), copies one after the other from a source, and sets them all dirty when it gives them back.
//! The source has no pages, and userfaultfd(2) asks us for each: until we give it, the copy sleeps and the pins stand.
//!
//! Each page is written once, in ascending order. The last one never is: with it the call would be over.

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, failed};
use crate::sys::{MapSource, PAGE_BYTES, UserMemory, Userfault, process_vm_writev};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::thread::JoinHandle;

/// Pages that one call pins at once: `PVM_MAX_USER_PAGES` of mm/process_vm_access.c.
const MAX_PAGES: u64 = 2 * PAGE_BYTES / 8;
/// How long the copy may take from one page to the next.
const PATIENCE_S: i64 = 10;

/// A call in the middle of its copy. Field order is drop order: the source goes before what keeps the copy asleep in
/// it, so that the copy wakes up to find nothing and ends.
#[derive(Debug)]
pub struct HalfCopied {
    source: UserMemory,
    faults: Userfault,
    /// Hangs up when the call is over.
    over: OwnedFd,
    call: JoinHandle<Result<u64, Errno>>,
    len: u64,
    /// First byte that was not copied.
    next: u64,
}

impl HalfCopied {
    /// Begin the call; it has pinned everything when it asks for its first byte.
    pub fn pin(request: &PinRequest) -> Result<Self, StepError> {
        let PinRequest { address, len, .. } = *request;
        let pages = len.div_ceil(PAGE_BYTES);
        let whole = address.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES);
        if !whole || !(2..=MAX_PAGES).contains(&pages) {
            return failed!(
                "process_vm_writev is held over 2 to {MAX_PAGES} whole pages, not over {len} bytes"
            );
        }
        let source = UserMemory::map(MapSource::Anonymous, len, false, true).or_failed("mmap")?;
        let faults = Userfault::over(&source).or_refused("userfaultfd")?;
        let (over, running) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_failed("pipe")?;
        let from = source.address(0);
        let call = std::thread::Builder::new().name("vm-writev".into()).spawn(move || {
            let copied = process_vm_writev(address, from, len);
            drop(running);
            copied
        });
        let call = call.or_failed("thread")?;
        let mut this = Self { source, faults, over, call, len, next: 0 };
        match this.asks_for(0)? {
            true => Ok(this),
            false => match this.end()? {
                Err(errno) => Err(errno).or_refused("process_vm_writev"),
                Ok(copied) => failed!("process_vm_writev copied {copied} bytes that it was not given"),
            },
        }
    }

    /// Wait until the copy asks for this byte of the source, or is over.
    fn asks_for(&mut self, offset: u64) -> Result<bool, StepError> {
        let patience = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        loop {
            let mut fds = [PollFd::new(&self.faults, PollFlags::IN), PollFd::new(&self.over, PollFlags::IN)];
            if poll(&mut fds, Some(&patience)).or_failed("poll")? == 0 {
                return failed!("process_vm_writev did not go on to byte {offset} within {PATIENCE_S} s");
            }
            if let Some(address) = self.faults.next().or_failed("read(userfaultfd)")? {
                // A page may be asked for twice.
                if address == self.source.address(offset) {
                    return Ok(true);
                }
            } else if !fds[1].revents().is_empty() {
                return Ok(false);
            }
        }
    }

    /// Take the source away and wait for the call.
    fn end(self) -> Result<Result<u64, Errno>, StepError> {
        let Self { source, faults, over, call, .. } = self;
        drop(source);
        drop(faults);
        let patience = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        let mut fds = [PollFd::new(&over, PollFlags::IN)];
        if poll(&mut fds, Some(&patience)).or_failed("poll")? == 0 {
            return failed!("process_vm_writev did not end within {PATIENCE_S} s");
        }
        match call.join() {
            Ok(result) => Ok(result),
            Err(_) => failed!("the thread of process_vm_writev panicked"),
        }
    }
}

impl Hold for HalfCopied {
    fn can_write(&self, offset: u64, len: u64) -> Result<(), StepError> {
        if offset != self.next || offset + len >= self.len {
            return failed!(
                "process_vm_writev can now copy bytes {} to {} and no others: each page once, in order, and not the \
                 last",
                self.next,
                self.len - PAGE_BYTES
            );
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        // A second pass comes here unchecked.
        self.can_write(offset, bytes.len() as u64)?;
        for page in bytes.chunks(PAGE_BYTES as usize) {
            self.faults.fill(&self.source, self.next, page).or_failed("ioctl(UFFDIO_COPY)")?;
            self.next += PAGE_BYTES;
            // It has copied a page when it asks for the next.
            if !self.asks_for(self.next)? {
                return failed!("process_vm_writev was over before byte {}", self.next);
            }
        }
        Ok(Arrived::There)
    }

    fn release(self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
        match self.end()? {
            // Nothing was copied.
            Ok(_) | Err(Errno::FAULT) => Ok(()),
            Err(errno) => Err(errno).or_refused("process_vm_writev"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use longpin_proto::agent::PinMode;

    const LEN: u64 = 4 * PAGE_BYTES;

    fn memory() -> Mapping {
        Mapping::new(MapSource::Anonymous, LEN, false, true).expect("memory")
    }

    /// None: this user may not be told of faults of the kernel (vm.unprivileged_userfaultfd).
    fn pin(address: u64, len: u64) -> Option<Result<HalfCopied, StepError>> {
        let request =
            PinRequest { address, len, mode: PinMode::VmWritev, file_offset: 0, run: 1, file: None };
        match HalfCopied::pin(&request) {
            Err(StepError::Refused(errno)) if errno.call == "userfaultfd" => {
                eprintln!("not tested: {errno:?}");
                None
            }
            result => Some(result),
        }
    }

    fn page(mapping: &mut Mapping, index: u64) -> u8 {
        let mut seen = vec![0; PAGE_BYTES as usize];
        mapping.load(index * PAGE_BYTES, &mut seen).expect("a page");
        assert!(seen.iter().all(|byte| *byte == seen[0]));
        seen[0]
    }

    #[test]
    fn pages_arrive_one_by_one_and_the_last_never_does() {
        let mut memory = memory();
        let Some(pin) = pin(memory.address(0, LEN).unwrap(), LEN) else { return };
        let mut pin = Box::new(pin.unwrap());
        pin.write(0, &[7; PAGE_BYTES as usize]).unwrap();
        assert_eq!([0, 1].map(|index| page(&mut memory, index)), [7, 0]);
        pin.write(PAGE_BYTES, &[8; 2 * PAGE_BYTES as usize]).unwrap();
        assert_eq!([0, 1, 2, 3].map(|index| page(&mut memory, index)), [7, 8, 8, 0]);
        for (offset, len) in [(0, PAGE_BYTES), (3 * PAGE_BYTES, PAGE_BYTES)] {
            let Err(StepError::Failed(message)) = pin.can_write(offset, len) else {
                panic!("can be written")
            };
            assert!(message.starts_with("process_vm_writev can now copy bytes 12288 to 12288"), "{message}");
        }
        pin.release(true).unwrap();
        assert_eq!(page(&mut memory, 3), 0);
    }

    #[test]
    fn a_pin_that_nothing_was_written_through_is_given_back() {
        let memory = memory();
        if let Some(pin) = pin(memory.address(0, LEN).unwrap(), LEN) {
            Box::new(pin.unwrap()).release(true).unwrap();
        }
    }

    #[test]
    fn a_target_that_is_not_there_is_refused_and_odd_sizes_are_told() {
        if let Some(result) = pin(PAGE_BYTES, LEN) {
            let Err(StepError::Refused(errno)) = result else { panic!("pinned") };
            assert_eq!((errno.name.as_str(), errno.call.as_str()), ("EFAULT", "process_vm_writev"));
        }
        for len in [PAGE_BYTES, LEN + 512, (MAX_PAGES + 1) * PAGE_BYTES] {
            let Some(Err(StepError::Failed(message))) = pin(PAGE_BYTES, len) else { panic!("{len}") };
            assert!(message.contains("2 to 1024 whole pages"), "{message}");
        }
    }
}
