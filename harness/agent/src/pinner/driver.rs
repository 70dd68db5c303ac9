// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/dev/longpin0`: pins, programs and queries of the driver, by ioctl.
//!
//! Closing the file makes the kernel stop all programs and unpin all regions that are left.

use super::{PinRequest, Pinner};
use crate::error::{OrRefused, StepError, failed};
use crate::sys::ioctl_struct;
use longpin_proto::agent::{Fact, PinMode, Program};
use longpin_proto::facts::{DmaResult, MirrorState, RegionState};
use longpin_wire::{dma, uapi};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use zerocopy::FromZeros;

/// Device node of the driver.
pub const DEVICE: &str = "/dev/longpin0";

/// Cells a second of a program that has no end: as fast as it can it would fill ledgers with gigabytes.
const ENDLESS_PACE: u64 = 1000;

/// An open driver.
#[derive(Debug)]
pub struct Driver(OwnedFd);

impl Driver {
    /// Open the device. Failed if it is not there or speaks another version.
    pub fn open() -> Result<Self, StepError> {
        let driver = Self(open(DEVICE)?);
        let mut info = uapi::Info::new_zeroed();
        ioctl_struct(&driver.0, uapi::IOC_INFO, &mut info).or_refused("ioctl(LONGPIN_IOC_INFO)")?;
        if info.version != uapi::VERSION {
            return failed!(
                "{DEVICE} speaks version {} of the ioctl interface, this agent {}",
                info.version,
                uapi::VERSION
            );
        }
        Ok(driver)
    }

    fn query_page(&self, region: u32, page_index: u32) -> Result<uapi::Query, StepError> {
        let mut query = uapi::Query { region, page_index, ..uapi::Query::new_zeroed() };
        ioctl_struct(&self.0, uapi::IOC_QUERY, &mut query).or_refused("ioctl(LONGPIN_IOC_QUERY)")?;
        Ok(query)
    }

    fn mirror(&self, region: u32, pages: u32) -> Result<MirrorState, StepError> {
        let mut mirror = uapi::Mirror { region, ..uapi::Mirror::new_zeroed() };
        ioctl_struct(&self.0, uapi::IOC_MIRROR, &mut mirror).or_refused("ioctl(LONGPIN_IOC_MIRROR)")?;
        Ok(MirrorState {
            pages,
            known: mirror.pages,
            invalidations: mirror.invalidations,
            longest_invalidation_ns: mirror.longest_invalidation_ns,
            faults: mirror.faults,
            refused: mirror.refused,
            retries: mirror.retries,
        })
    }
}

impl Pinner for Driver {
    fn pin(&self, request: &PinRequest) -> Result<u32, StepError> {
        let Some((mode, access)) = mode_and_access(request.mode) else {
            return failed!("the driver does not know pin mode {:?}", request.mode);
        };
        let mut pin = uapi::Pin {
            addr: request.address,
            length: request.len,
            mode,
            access,
            file_offset: request.file_offset,
            run: request.run,
            ..uapi::Pin::new_zeroed()
        };
        ioctl_struct(&self.0, uapi::IOC_PIN, &mut pin).or_refused("ioctl(LONGPIN_IOC_PIN)")?;
        Ok(pin.region)
    }

    /// Asks once for each of its pages.
    fn describe(&self, region: u32) -> Result<Fact, StepError> {
        let first = self.query_page(region, 0)?;
        if first.mode == uapi::MODE_NOTIFIER {
            return self.mirror(region, first.nr_pages).map(Fact::Mirror);
        }
        let mut pages_with_mapping = first.page_has_mapping;
        for page_index in 1..first.nr_pages {
            pages_with_mapping += self.query_page(region, page_index)?.page_has_mapping;
        }
        Ok(Fact::Region(RegionState {
            pages: first.nr_pages,
            segments: first.nr_segments,
            running: first.nr_running,
            pages_with_mapping,
            zone: first.page_zone,
            folio_pages: first.folio_pages,
        }))
    }

    fn submit(&self, region: u32, program: &Program, run: u64) -> Result<u64, StepError> {
        let mut submit = submit_of(region, program, run);
        ioctl_struct(&self.0, uapi::IOC_SUBMIT, &mut submit).or_refused("ioctl(LONGPIN_IOC_SUBMIT)")?;
        Ok(submit.program)
    }

    /// Refused with ETIMEDOUT if it still runs; its handle then stays.
    fn wait(&self, program: u64, timeout_ms: u32) -> Result<DmaResult, StepError> {
        let mut wait = uapi::Wait { program, timeout_ms, ..uapi::Wait::new_zeroed() };
        ioctl_struct(&self.0, uapi::IOC_WAIT, &mut wait).or_refused("ioctl(LONGPIN_IOC_WAIT)")?;
        Ok(DmaResult {
            kept_off: 0,
            status: wait.status,
            fault_errno: (wait.status == dma::STATUS_FAULT).then_some(wait.crc32c),
            cells_done: wait.cells_done,
            last_generation: wait.last_generation,
            started_ns: wait.started_ns,
            finished_ns: wait.finished_ns,
        })
    }

    fn stop(&self, program: u64) -> Result<(), StepError> {
        let mut stop = uapi::Stop { program };
        ioctl_struct(&self.0, uapi::IOC_STOP, &mut stop).or_refused("ioctl(LONGPIN_IOC_STOP)")
    }

    fn release(&self, region: u32, dirty: bool) -> Result<(), StepError> {
        let how = if dirty { uapi::RELEASE_DIRTY } else { uapi::RELEASE_CLEAN };
        let mut release = uapi::Release { region, how };
        ioctl_struct(&self.0, uapi::IOC_RELEASE, &mut release).or_refused("ioctl(LONGPIN_IOC_RELEASE)")
    }
}

fn open(device: &str) -> Result<OwnedFd, StepError> {
    match rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(fd),
        Err(rustix::io::Errno::NOENT) => failed!("{device} is not there; load the module longpin first"),
        Err(errno) => Err(errno).or_refused(&format!("open({device})")),
    }
}

/// None: the driver does not pin so.
fn mode_and_access(mode: PinMode) -> Option<(u32, u32)> {
    match mode {
        PinMode::Longterm => Some((uapi::MODE_LONGTERM, uapi::ACCESS_WRITE)),
        PinMode::LongtermRo => Some((uapi::MODE_LONGTERM, uapi::ACCESS_READ)),
        PinMode::Pin => Some((uapi::MODE_PIN, uapi::ACCESS_WRITE)),
        PinMode::Get => Some((uapi::MODE_GET, uapi::ACCESS_WRITE)),
        PinMode::Notifier => Some((uapi::MODE_NOTIFIER, uapi::ACCESS_WRITE)),
        PinMode::NotifierRo => Some((uapi::MODE_NOTIFIER, uapi::ACCESS_READ)),
        _ => None,
    }
}

fn submit_of(region: u32, program: &Program, run: u64) -> uapi::Submit {
    uapi::Submit {
        region,
        order: dma::ORDER_SEQUENTIAL,
        direction: dma::DIRECTION_WRITE,
        payload: dma::PAYLOAD_STAMP,
        offset: program.offset,
        length: program.len,
        seed: 0,
        generation: program.generation,
        run,
        rate_cells_per_s: if program.passes == 0 { ENDLESS_PACE } else { 0 },
        passes: program.passes,
        duration_us: 0,
        cell_bytes: program.cell_bytes,
        fill: 0,
        start_delay_us: 0,
        program: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program { offset: 4096, len: 8192, generation: 3, passes: 1, cell_bytes: 512 };

    #[test]
    fn a_plain_program_is_sequential_and_stamped() {
        let submit = submit_of(7, &PROGRAM, 99);
        assert_eq!((submit.region, submit.run, submit.generation), (7, 99, 3));
        assert_eq!((submit.order, submit.payload), (dma::ORDER_SEQUENTIAL, dma::PAYLOAD_STAMP));
        assert_eq!((submit.offset, submit.length, submit.cell_bytes), (4096, 8192, 512));
        assert_eq!(submit.rate_cells_per_s, 0);
    }

    #[test]
    fn a_program_without_an_end_writes_at_a_pace() {
        let submit = submit_of(7, &Program { passes: 0, ..PROGRAM }, 99);
        assert_eq!((submit.passes, submit.rate_cells_per_s), (0, ENDLESS_PACE));
    }

    #[test]
    fn every_mode_writes_except_those_for_reading() {
        assert_eq!(mode_and_access(PinMode::Longterm), Some((uapi::MODE_LONGTERM, uapi::ACCESS_WRITE)));
        assert_eq!(mode_and_access(PinMode::LongtermRo), Some((uapi::MODE_LONGTERM, uapi::ACCESS_READ)));
        assert_eq!(mode_and_access(PinMode::Pin), Some((uapi::MODE_PIN, uapi::ACCESS_WRITE)));
        assert_eq!(mode_and_access(PinMode::Get), Some((uapi::MODE_GET, uapi::ACCESS_WRITE)));
        assert_eq!(mode_and_access(PinMode::Notifier), Some((uapi::MODE_NOTIFIER, uapi::ACCESS_WRITE)));
        assert_eq!(mode_and_access(PinMode::NotifierRo), Some((uapi::MODE_NOTIFIER, uapi::ACCESS_READ)));
    }

    #[test]
    fn a_missing_device_names_the_module() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("longpin0").display().to_string();
        let Err(StepError::Failed(message)) = open(&device) else { panic!("it is there") };
        assert_eq!(message, format!("{device} is not there; load the module longpin first"));
        // What is there and cannot be opened so is a refusal: this directory, for writing.
        let Err(StepError::Refused(errno)) = open(&dir.path().display().to_string()) else { panic!("open") };
        assert_eq!(errno.name, "EISDIR");
    }
}
