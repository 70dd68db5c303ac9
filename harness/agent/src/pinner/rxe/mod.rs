// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A memory region of RDMA, by the kernel's software device rxe on a dummy interface: REG_MR takes FOLL_PIN |
//! FOLL_LONGTERM | FOLL_WRITE (`__ib_umem_get_va()`), and DEREG_MR sets the pages dirty (`__ib_umem_release()`).
//!
//! One queue pair writes by RDMA WRITE into what is registered, and another one, which it is connected with, stands for
//! that memory. rxe copies by kmap (`rxe_mr_copy()`), past every page table of ours.
//!
//! `rxe-odp` registers on demand: no page is pinned, and rxe faults for each as our process would (`rxe_odp.c`).

mod link;
mod netlink;
mod queue;
#[expect(unsafe_code, reason = "a descriptor that the kernel has opened for us")]
mod verbs;

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, failed, refused};
use crate::sys::{MapSource, PAGE_BYTES, UserMemory};
use longpin_proto::agent::PinMode;
use queue::{Completions, Sends, Write};
use rustix::io::Errno;
use std::time::{Duration, Instant};
use verbs::{MemoryRegion, QueuePair, Verbs, access};

/// rxe tries again after a second, eight times.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);

/// How a pin is called where it is refused.
const REGISTER: &str = "write(uverbs REG_MR)";
/// The same where no kernel of that age has it.
const REGISTER_ON_DEMAND: &str =
    "write(uverbs REG_MR, IB_ACCESS_ON_DEMAND) (rxe of an older kernel, CONFIG_INFINIBAND_ON_DEMAND_PAGING)";

/// Memory that is registered, and two queue pairs.
#[derive(Debug)]
pub struct Registered {
    verbs: Verbs,
    sends: Sends,
    completions: Completions,
    writer: QueuePair,
    /// From which the bytes are sent.
    source: UserMemory,
    source_region: MemoryRegion,
    region: MemoryRegion,
    address: u64,
}

impl Registered {
    /// REG_MR. Makes the link if no region has done so.
    pub fn pin(request: &PinRequest) -> Result<Self, StepError> {
        let link = link::shared()?;
        let mut verbs = Verbs::open(&link.device)?;
        let domain = verbs.protection_domain()?;
        let (queue, completions) = verbs.completion_queue()?;
        let (writer, sends) = verbs.queue_pair(domain, queue)?;
        let (target, _) = verbs.queue_pair(domain, queue)?;
        verbs.connect(writer, target, &link)?;
        verbs.connect(target, writer, &link)?;
        let completions = Completions::map(verbs.file(), completions)?;
        let sends = Sends::map(verbs.file(), sends)?;

        let mut source = UserMemory::map(MapSource::Anonymous, PAGE_BYTES, false, true).or_failed("mmap")?;
        source.store(0, &[0; PAGE_BYTES as usize]).or_failed("store")?;
        let source_region = verbs
            .register(domain, source.address(0), PAGE_BYTES, access::LOCAL_READ)
            .or_failed("a page for rxe: REG_MR")?;

        let PinRequest { address, len, mode, .. } = *request;
        let on_demand = mode == PinMode::RxeOdp;
        let on_demand_flag = if on_demand { access::ON_DEMAND } else { 0 };
        let flags = access::LOCAL_WRITE | access::REMOTE_WRITE | on_demand_flag;
        let region = verbs.register(domain, address, len, flags).map_err(|errno| match errno {
            // ib_check_mr_access() of one kernel, rxe of another.
            Errno::INVAL | Errno::OPNOTSUPP if on_demand => refused(libc::ENOSYS, REGISTER_ON_DEMAND),
            errno => refused(errno.raw_os_error(), REGISTER),
        })?;
        Ok(Self { verbs, sends, completions, writer, source, source_region, region, address })
    }

    /// RDMA WRITE of what the source holds. The target acknowledges it when it has copied.
    fn write_page(&mut self, to: u64, len: u32) -> Result<(), StepError> {
        self.sends.post(&Write {
            to,
            key: self.region.remote_key,
            from: self.source.address(0),
            from_key: self.source_region.local_key,
            len,
        })?;
        self.verbs.ring(self.writer)?;
        let end = Instant::now() + WRITE_TIMEOUT;
        loop {
            match self.completions.next()? {
                Some(queue::SUCCESS) => return Ok(()),
                Some(status) => {
                    return failed!(
                        "an RDMA WRITE of {len} bytes to {to:#x} ended with {}",
                        queue::status_name(status)
                    );
                }
                None if Instant::now() > end => {
                    return failed!(
                        "an RDMA WRITE of {len} bytes to {to:#x} is not completed within {} s",
                        WRITE_TIMEOUT.as_secs()
                    );
                }
                None => std::thread::sleep(POLL),
            }
        }
    }
}

impl Hold for Registered {
    /// That of the source.
    fn pages_of_its_own(&self) -> i64 {
        1
    }

    fn can_write(&self, _offset: u64, _len: u64) -> Result<(), StepError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        for (index, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            self.source.store(0, page).or_failed("store")?;
            self.write_page(self.address + offset + index as u64 * PAGE_BYTES, page.len() as u32)?;
        }
        Ok(Arrived::There)
    }

    fn release(mut self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
        // The rest goes with the open file.
        self.verbs.deregister(self.region).or_failed("write(uverbs DEREG_MR)")?;
        self.verbs.deregister(self.source_region).or_failed("write(uverbs DEREG_MR)")
    }
}
