// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A step made ready for any thread: names are resolved, and what it works on is kept alive by it, so that it borrows
//! nothing from the tables. The same work is done at once by the step itself and beside others by a job.

use crate::error::{OrRefused, StepError, failed};
use crate::jobs::MAPPING;
use crate::objects::Objects;
use crate::pinner::PinRequest;
use crate::{fsops, launcher, mounts};
use longpin_proto::agent::{Fact, Step};
use longpin_proto::facts::RegionState;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

/// What came of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A fact, and nothing to keep.
    Fact(Fact),
    /// A region to be named; its state was asked for right after the pin.
    Pinned { region: String, handle: u32, state: Result<RegionState, StepError> },
    /// A mount point that is one no longer.
    Unmounted { dir: String },
}

impl End {
    fn nothing((): ()) -> Self {
        Self::Fact(Fact::Nothing)
    }
}

/// Called with a place for the number of the program that it runs.
type Act = Box<dyn FnOnce(&AtomicI32) -> Result<End, StepError> + Send>;

/// Work not yet begun.
pub struct Work {
    act: Act,
    /// Objects that must stay until it is done, as `file a`.
    uses: Vec<String>,
    /// Region that it will make.
    makes: Option<String>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("uses", &self.uses).field("makes", &self.makes).finish_non_exhaustive()
    }
}

impl Work {
    /// Resolve what a step names. Failed if it names what is not there, or is no step that can run beside others.
    pub fn prepare(step: Step, objects: &mut Objects) -> Result<Self, StepError> {
        match step {
            Step::Fsync { file, data_only } => {
                let fd = objects.files.get(&file)?.clone();
                Ok(Self::new(move || fsops::fsync(fd, data_only).map(End::nothing)).on_file(&file))
            }
            Step::Sync => Ok(Self::new(|| {
                rustix::fs::sync();
                Ok(End::nothing(()))
            })),
            Step::Syncfs { dir } => Ok(Self::new(move || fsops::syncfs(&dir).map(End::nothing))),
            Step::Store { map, offset, len, fill } => {
                let mut mapping = objects.maps.get(&map)?.share()?;
                let act = move || mapping.store(offset, len, &fill).map(End::nothing);
                Ok(Self::new(act).on_mapping(&map))
            }
            Step::Touch { map, offset, len, access } => {
                let mut mapping = objects.maps.get(&map)?.share()?;
                let act = move || mapping.touch(offset, len, access).map(End::nothing);
                Ok(Self::new(act).on_mapping(&map))
            }
            Step::ReadDirect { map, offset, len, device, device_offset } => {
                let mut mapping = objects.maps.get(&map)?.share()?;
                let act = move || mapping.read_direct(offset, len, &device, device_offset).map(End::nothing);
                Ok(Self::new(act).on_mapping(&map))
            }
            Step::Pin { region, map, offset, len, mode, file_offset, run } => {
                objects.claim_region(&region)?;
                let mapping = objects.maps.get(&map)?.share()?;
                let address = mapping.address(offset, len)?;
                let request = PinRequest { address, len, mode, file_offset, run };
                let pinner = objects.pinner()?.clone();
                let makes = region.clone();
                let act = move || {
                    let handle = pinner.pin(&request)?;
                    drop(mapping);
                    Ok(End::Pinned { region, handle, state: pinner.query(handle) })
                };
                Ok(Self { makes: Some(makes), ..Self::new(act).on_mapping(&map) })
            }
            Step::WriteCells { file, offset, len, fill } => {
                let fd = objects.files.get(&file)?.clone();
                let act = move || fsops::write_cells(fd, offset, len, &fill).map(End::nothing);
                Ok(Self::new(act).on_file(&file))
            }
            Step::ReadCells { path, offset, len, cell_bytes, via } => Ok(Self::new(move || {
                fsops::read_cells(&path, offset, len, cell_bytes, via).map(Fact::Cells).map(End::Fact)
            })),
            Step::Unmount { dir } => {
                Ok(Self::new(move || mounts::unmount(&dir).map(|()| End::Unmounted { dir })))
            }
            Step::Truncate { file, len } => {
                let fd = objects.files.get(&file)?.clone();
                let act = move || rustix::fs::ftruncate(fd, len).or_refused("ftruncate").map(End::nothing);
                Ok(Self::new(act).on_file(&file))
            }
            Step::Fallocate { file, mode, offset, len } => {
                let fd = objects.files.get(&file)?.clone();
                let act = move || fsops::fallocate(fd, mode, offset, len).map(End::nothing);
                Ok(Self::new(act).on_file(&file))
            }
            Step::Exec { argv, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms.into());
                let act = move |leader: &AtomicI32| {
                    let finished = launcher::run(&argv, timeout, leader)?;
                    Ok(End::Fact(Fact::Exec { code: finished.code, output: finished.output }))
                };
                Ok(Self { act: Box::new(act), uses: vec![], makes: None })
            }
            other => failed!(
                "step `{}` cannot be a job; use one of exec, fallocate, fsync, pin, read-cells, read-direct, \
                 store, sync, syncfs, touch, truncate, unmount, write-cells",
                name_of(&other)
            ),
        }
    }

    fn new(act: impl FnOnce() -> Result<End, StepError> + Send + 'static) -> Self {
        Self { act: Box::new(|_| act()), uses: vec![], makes: None }
    }

    /// Work on the file `a` that lasts until the sender is dropped.
    #[cfg(test)]
    pub fn endless() -> (Self, std::sync::mpsc::Sender<()>) {
        let (finish, wait) = std::sync::mpsc::channel();
        let act = move || {
            let _ = wait.recv();
            Ok(End::nothing(()))
        };
        (Self::new(act).on_file("a"), finish)
    }

    fn on_file(mut self, name: &str) -> Self {
        self.uses.push(format!("file `{name}`"));
        self
    }

    /// The same on a mapping.
    pub fn on_mapping(mut self, name: &str) -> Self {
        self.uses.push(format!("{MAPPING}`{name}`"));
        self
    }

    /// Objects that must stay until it is done, as "file `a`".
    pub fn uses(&self) -> &[String] {
        &self.uses
    }

    /// Name of the region that it will make.
    pub fn makes(&self) -> Option<&str> {
        self.makes.as_deref()
    }

    /// Do it, in the calling thread. Blocks as long as the kernel does. `leader` is as [`launcher::run`] sets it
    /// while a program runs, else 0.
    pub fn run(self, leader: &AtomicI32) -> Result<End, StepError> {
        (self.act)(leader)
    }
}

/// The word by which the protocol names a step.
fn name_of(step: &Step) -> String {
    let document = serde_json::to_value(step).unwrap_or_default();
    document["op"].as_str().unwrap_or("?").to_owned()
}
