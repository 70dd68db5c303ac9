// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a step to work: names are looked up among the objects, and what they stand for goes into the work.

use crate::error::{OrRefused, StepError, failed};
use crate::objects::Objects;
use crate::pinner::{Of, PinRequest};
use crate::whereabouts::DEVICE;
use crate::work::{End, Work};
use crate::{fsops, launcher, over, sys};
use longpin_proto::agent::{Fact, Step};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// Resolve what a step names. Failed if it names what is not there, or is no step that can run beside others.
pub fn prepare(step: Step, objects: &mut Objects) -> Result<Work, StepError> {
    match step {
        Step::Fsync { file, data_only } => {
            let fd = objects.files.get(&file)?.clone();
            Ok(Work::new(move || fsops::fsync(fd, data_only).map(End::nothing)).on_file(&file))
        }
        Step::Msync { map, offset, len } => {
            let address = objects.maps.get(&map)?.address(offset, len)?;
            let act = move || sys::msync(address, len).or_refused("msync(MS_SYNC)").map(End::nothing);
            Ok(Work::new(act).on_mapping(&map))
        }
        Step::Sync => Ok(Work::new(|| {
            rustix::fs::sync();
            Ok(End::nothing(()))
        })),
        Step::Syncfs { dir } => Ok(Work::new(move || fsops::syncfs(&dir).map(End::nothing))),
        Step::Store { map, offset, len, fill } => {
            let mut mapping = objects.maps.get(&map)?.share()?;
            let act = move || mapping.store(offset, len, &fill).map(End::nothing);
            Ok(Work::new(act).on_mapping(&map))
        }
        Step::Touch { map, offset, len, access } => {
            let mut mapping = objects.maps.get(&map)?.share()?;
            let act = move || mapping.touch(offset, len, access).map(End::nothing);
            Ok(Work::new(act).on_mapping(&map))
        }
        Step::ReadDirect { map, offset, len, device, device_offset } => {
            let mut mapping = objects.maps.get(&map)?.share()?;
            let act = move || mapping.read_direct(offset, len, &device, device_offset).map(End::nothing);
            Ok(Work::new(act).on_mapping(&map))
        }
        Step::Pin { region, map, offset, len, mode, file_offset, run } => {
            objects.claim_region(&region)?;
            let mapping = objects.maps.get(&map)?.share()?;
            let address = mapping.address(offset, len)?;
            // They map memory, or start a program.
            if !mode.by_driver() {
                objects.jobs.may_change_mappings()?;
            }
            let request = PinRequest { address, len, mode, file_offset, run, file: mapping.file() };
            let pinner = objects.pinners.by(mode)?;
            let makes = region.clone();
            let act = move || {
                let handle = pinner.pin(&request)?;
                drop(mapping);
                let state = pinner.describe(handle);
                Ok(End::Pinned { region, by: Of { pinner, handle }, state })
            };
            Ok(Work::new(act).on_mapping(&map).making(&makes))
        }
        Step::DmaWait { program, timeout_ms } => {
            // The job has it from now on: whoever waits for it next waits for the job.
            let Of { pinner, handle } = objects.programs.remove(&program)?;
            Ok(Work::of_program(move |who| {
                who.store(DEVICE, Ordering::Release);
                let end = pinner.wait(handle, timeout_ms);
                who.store(0, Ordering::Release);
                end.map(Fact::Dma).map(End::Fact)
            }))
        }
        Step::Write { file, offset, len, fill } => {
            let fd = objects.files.get(&file)?.clone();
            let act = move || fsops::write_cells(fd, offset, len, &fill).map(End::nothing);
            Ok(Work::new(act).on_file(&file))
        }
        Step::Read { path, offset, len, cell_bytes, via } => Ok(Work::new(move || {
            fsops::read_cells(&path, offset, len, cell_bytes, via).map(Fact::Cells).map(End::Fact)
        })),
        Step::Umount { dir } => {
            Ok(Work::new(move || over::unmount(&dir).or_refused("umount2").map(|()| End::Unmounted { dir })))
        }
        Step::Truncate { file, len } => {
            let fd = objects.files.get(&file)?.clone();
            let act = move || rustix::fs::ftruncate(fd, len).or_refused("ftruncate").map(End::nothing);
            Ok(Work::new(act).on_file(&file))
        }
        Step::Fallocate { file, mode, offset, len } => {
            let fd = objects.files.get(&file)?.clone();
            let act = move || fsops::fallocate(fd, mode, offset, len).map(End::nothing);
            Ok(Work::new(act).on_file(&file))
        }
        Step::Reflink { from, to } => {
            let (source, target) = (objects.files.get(&from)?.clone(), objects.files.get(&to)?.clone());
            let act = move || {
                rustix::fs::ioctl_ficlone(target, source).or_refused("ioctl(FICLONE)").map(End::nothing)
            };
            Ok(Work::new(act).on_file(&from).on_file(&to))
        }
        Step::Exec { argv, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms.into());
            let act = move |leader: &AtomicI32| {
                let finished = launcher::run(&argv, timeout, leader)?;
                Ok(End::Fact(Fact::Exec { code: finished.code, output: finished.output }))
            };
            Ok(Work::of_program(act))
        }
        other => failed!(
            "step `{}` cannot be a job; use one of exec, fallocate, fsync, msync, pin, read, read-direct, \
             reflink, store, sync, syncfs, touch, truncate, umount, write",
            other.name()
        ),
    }
}
