// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Work for any thread: what it works on is kept alive by it, so that it borrows nothing from the tables of objects. The
//! same work is done at once by the step itself and beside others by a job.

use crate::error::StepError;
use crate::pinner::Of;
use longpin_proto::agent::Fact;
use std::sync::atomic::AtomicI32;

/// How a mapping is named among the objects of work.
pub const MAPPING: &str = "mapping ";

/// What came of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A fact, and nothing to keep.
    Fact(Fact),
    /// A region to be named; what is known of it was asked for right after the pin.
    Pinned { region: String, by: Of<u32>, state: Result<Fact, StepError> },
    /// A mount point that is one no longer.
    Unmounted { dir: String },
}

impl End {
    /// Nothing to state.
    pub fn nothing((): ()) -> Self {
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
    /// Work that runs no program.
    pub fn new(act: impl FnOnce() -> Result<End, StepError> + Send + 'static) -> Self {
        Self::of_program(|_| act())
    }

    /// Work that runs a program, and puts its number where it is told to.
    pub fn of_program(act: impl FnOnce(&AtomicI32) -> Result<End, StepError> + Send + 'static) -> Self {
        Self { act: Box::new(act), uses: vec![], makes: None }
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

    /// On a file, which must stay until it is done.
    pub fn on_file(mut self, name: &str) -> Self {
        self.uses.push(format!("file `{name}`"));
        self
    }

    /// The same on a mapping.
    pub fn on_mapping(mut self, name: &str) -> Self {
        self.uses.push(format!("{MAPPING}`{name}`"));
        self
    }

    /// It will make a region.
    pub fn making(mut self, region: &str) -> Self {
        self.makes = Some(region.to_owned());
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

    /// Do it, in the calling thread. Blocks as long as the kernel does. `leader` is as `launcher::run` sets it
    /// while a program runs, else 0.
    pub fn run(self, leader: &AtomicI32) -> Result<End, StepError> {
        (self.act)(leader)
    }
}
