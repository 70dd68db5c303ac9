// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who pins pages and writes into them: the driver and its device, or another user of `pin_user_pages` in the kernel,
//! which needs no module of ours. All of them are a [`Pinner`].

mod copier;
mod driver;
mod executed;
mod rxe;
#[expect(unsafe_code, reason = "io_uring: the kernel keeps the pages of what is registered")]
mod uring;
#[expect(unsafe_code, reason = "VFIO: the kernel keeps the pages of what is mapped for a device")]
mod vfio;
mod vm_writev;
#[expect(unsafe_code, reason = "AF_XDP: the kernel keeps the pages of a umem, and shares its rings")]
mod xdp;

use crate::error::StepError;
use crate::modules::Modules;
use crate::vmstat::pin_counters;
use copier::Copier;
use driver::Driver;
use longpin_proto::agent::{Fact, PinMode, Program};
use longpin_proto::facts::DmaResult;
use longpin_proto::pinner::GUEST_PATH;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// What is to be pinned.
#[derive(Debug, Clone)]
pub struct PinRequest {
    /// Address of the first byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// How.
    pub mode: PinMode,
    /// Label of the first byte.
    pub file_offset: u64,
    /// Label of the case.
    pub run: u64,
    /// The file behind a shared mapping, in which the first byte stands at `file_offset`.
    pub file: Option<Arc<OwnedFd>>,
}

/// Somebody who pins. Regions and programs have handles of its own.
pub trait Pinner: Debug + Send + Sync {
    /// Pin user memory; returns a handle.
    fn pin(&self, request: &PinRequest) -> Result<u32, StepError>;
    /// What is known of a region.
    fn describe(&self, region: u32) -> Result<Fact, StepError>;
    /// Start a DMA program; returns a handle.
    fn submit(&self, region: u32, program: &Program, run: u64) -> Result<u64, StepError>;
    /// Wait for a program's end.
    fn wait(&self, program: u64, timeout_ms: u32) -> Result<DmaResult, StepError>;
    /// Ask a program to end.
    fn stop(&self, program: u64) -> Result<(), StepError>;
    /// Stop DMA to a region and unpin it.
    fn release(&self, region: u32, dirty: bool) -> Result<(), StepError>;
}

/// A region or a program of a pinner.
#[derive(Debug, Clone)]
pub struct Of<H> {
    /// Whose.
    pub pinner: Arc<dyn Pinner>,
    /// Its handle.
    pub handle: H,
}

impl<H: PartialEq> PartialEq for Of<H> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pinner, &other.pinner) && self.handle == other.handle
    }
}

impl<H: Eq> Eq for Of<H> {}

/// Every pinner that was asked for something, each made at first use.
#[derive(Debug, Default)]
pub struct Pinners {
    modules: Modules,
    driver: Option<Arc<Driver>>,
    others: BTreeMap<PinMode, Arc<Copier>>,
}

impl Pinners {
    /// In a guest that has these modules.
    pub fn new(modules: Modules) -> Self {
        Self { modules, ..Self::default() }
    }

    /// Who pins so.
    pub fn by(&mut self, mode: PinMode) -> Result<Arc<dyn Pinner>, StepError> {
        mode.modules().iter().try_for_each(|module| self.modules.load(module, ""))?;
        let take: copier::Take = match mode {
            PinMode::Longterm
            | PinMode::LongtermRo
            | PinMode::Pin
            | PinMode::Get
            | PinMode::Notifier
            | PinMode::NotifierRo => {
                let driver = match &mut self.driver {
                    Some(driver) => driver,
                    none => none.insert(Arc::new(Driver::open()?)),
                };
                return Ok(driver.clone());
            }
            PinMode::IoUring => |request| Ok(Box::new(uring::Registered::pin(request)?)),
            PinMode::VmWritev => |request| Ok(Box::new(vm_writev::HalfCopied::pin(request)?)),
            PinMode::Vfio | PinMode::VfioRo => |request| Ok(Box::new(vfio::Mapped::pin(request)?)),
            PinMode::Xdp => |request| Ok(Box::new(xdp::Umem::pin(request)?)),
            PinMode::Rxe | PinMode::RxeOdp => |request| Ok(Box::new(rxe::Registered::pin(request)?)),
            PinMode::Exec => |request| Ok(Box::new(executed::Executed::pin(Path::new(GUEST_PATH), request)?)),
        };
        Ok(self.others.entry(mode).or_insert_with(|| Arc::new(Copier::new(take, pin_counters))).clone())
    }

    /// It is the driver, which is open.
    pub fn is_driver(&self, pinner: &Arc<dyn Pinner>) -> bool {
        self.driver.as_ref().is_some_and(|driver| std::ptr::addr_eq(Arc::as_ptr(driver), Arc::as_ptr(pinner)))
    }

    /// Give the driver up, so that its module can go. It is closed with the last who uses it: true if that was this one.
    pub fn close_driver(&mut self) -> bool {
        self.driver.take().and_then(Arc::into_inner).is_some()
    }
}
