// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What steps have made and named: jobs, files, mappings, regions, programs, mounts; and how all of it is let go.

use crate::error::{OrRefused, StepError, errno_name, failed};
use crate::jobs::Jobs;
use crate::mapping::Mapping;
use crate::over;
use crate::pinner::{Of, Pinner, Pinners};
use crate::sys;
use crate::work::End;
use longpin_proto::agent::Fact;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long [`Objects::release_all`] waits for one program: as the driver gives a silent device.
const PROGRAM_END_MS: u32 = 10_000;
/// How long it waits for all jobs together.
const JOBS_END: Duration = Duration::from_secs(20);

/// Objects of one kind by the names of the scenario.
#[derive(Debug)]
pub struct Table<T> {
    kind: &'static str,
    items: BTreeMap<String, T>,
}

impl<T> Table<T> {
    fn new(kind: &'static str) -> Self {
        Self { kind, items: BTreeMap::new() }
    }

    /// Is the name free? Asked before the object is made, so that a wrong name changes nothing.
    pub fn claim(&self, name: &str) -> Result<(), StepError> {
        if self.items.contains_key(name) {
            return failed!("{} `{name}` exists already; use another name or let it go first", self.kind);
        }
        Ok(())
    }

    /// Add an object under a claimed name.
    pub fn insert(&mut self, name: String, item: T) {
        self.items.insert(name, item);
    }

    /// The object of a name.
    pub fn get(&self, name: &str) -> Result<&T, StepError> {
        self.items.get(name).ok_or_else(|| self.unknown(name))
    }

    /// The object of a name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut T, StepError> {
        let unknown = self.unknown(name);
        self.items.get_mut(name).ok_or(unknown)
    }

    /// Forget a name.
    pub fn remove(&mut self, name: &str) -> Result<T, StepError> {
        let unknown = self.unknown(name);
        self.items.remove(name).ok_or(unknown)
    }

    /// No objects?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Drop every object; one line about each.
    fn clear(&mut self, done: &str) -> Vec<String> {
        let items = std::mem::take(&mut self.items);
        items.keys().map(|name| format!("{} {name}: {done}", self.kind)).collect()
    }

    fn unknown(&self, name: &str) -> StepError {
        let known: Vec<_> = self.items.keys().map(String::as_str).collect();
        StepError::Failed(format!("no {} `{name}`; there are: [{}]", self.kind, known.join(", ")))
    }
}

/// Everything that steps have made.
///
/// Field order is drop order, which matters when the agent ends without [`Objects::release_all`].
#[derive(Debug)]
pub struct Objects {
    /// Steps that run beside others.
    pub jobs: Jobs,
    /// DMA programs.
    pub programs: Table<Of<u64>>,
    /// Pinned regions.
    pub regions: Table<Of<u32>>,
    /// Who pins.
    pub pinners: Pinners,
    /// Mappings.
    pub maps: Table<Mapping>,
    /// Open files.
    pub files: Table<Arc<OwnedFd>>,
    /// Mount points in order of mounting.
    pub mounts: Vec<String>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            jobs: Jobs::default(),
            programs: Table::new("program"),
            regions: Table::new("region"),
            pinners: Pinners::default(),
            maps: Table::new("mapping"),
            files: Table::new("file"),
            mounts: Vec::new(),
        }
    }
}

impl Objects {
    /// Is the name free for a region, also after the jobs?
    pub fn claim_region(&self, name: &str) -> Result<(), StepError> {
        self.regions.claim(name)?;
        self.jobs.claim_region(name)
    }

    /// Close a file handle.
    pub fn close(&mut self, name: &str) -> Result<(), StepError> {
        self.jobs.release_check(&format!("file `{name}`"))?;
        self.files.remove(name).map(drop)
    }

    /// Unmap.
    pub fn unmap(&mut self, name: &str) -> Result<(), StepError> {
        self.jobs.release_check(&format!("mapping `{name}`"))?;
        self.jobs.may_change_mappings()?;
        self.maps.remove(name).map(drop)
    }

    /// Keep what work has made, and state its fact.
    pub fn accept(&mut self, end: End) -> Result<Fact, StepError> {
        match end {
            End::Fact(fact) => Ok(fact),
            End::Pinned { region, by, state } => {
                self.regions.insert(region, by);
                state
            }
            End::Unmounted { dir } => {
                if let Some(last) = self.mounts.iter().rposition(|mounted| *mounted == dir) {
                    self.mounts.remove(last);
                }
                Ok(Fact::Nothing)
            }
        }
    }

    /// Close the driver if nothing depends on it, so that its module can go.
    pub fn close_idle_pinner(&mut self) {
        if self.programs.is_empty() && self.regions.is_empty() {
            self.pinners.close_driver();
        }
    }

    /// The driver's open file is left to a child process, with all regions and programs, and the child is killed: who owned
    /// them dies without a word.
    pub fn kill_owner(&mut self) -> Result<(), StepError> {
        self.jobs.may_change_mappings()?;
        let of_driver = |pinner: &Arc<dyn Pinner>| self.pinners.is_driver(pinner);
        if !self.regions.items.values().any(|region| of_driver(&region.pinner)) {
            return failed!("no region is the driver's, so it has no owner to kill; pin one before");
        }
        let child = Pid::from_raw(sys::fork().or_refused("fork")?);
        self.programs.items.retain(|_, program| !of_driver(&program.pinner));
        self.regions.items.retain(|_, region| !of_driver(&region.pinner));
        let alone = self.pinners.close_driver();
        let Some(child) = child else { return failed!("fork(2) made a child without a number") };
        kill_process(child, Signal::KILL).or_failed("kill")?;
        // Its files are closed before it can be waited for (do_exit()).
        waitpid(Some(child), WaitOptions::empty()).or_failed("waitpid")?;
        match alone {
            true => Ok(()),
            false => failed!("a job has the driver open as well, so it still has an owner; join it before"),
        }
    }

    /// Wait for the jobs, then let go of everything: programs, regions (released clean), mappings, handles, mounts.
    /// One line about each.
    ///
    /// Failed if a job does not end, and nothing was let go; or if a mount stays. Either is tried again by the next
    /// call.
    pub fn release_all(&mut self) -> Result<String, StepError> {
        let mut report = Vec::new();
        self.end_jobs(&mut report, Instant::now() + JOBS_END)?;
        self.end_programs(&mut report);
        self.release_regions(&mut report);
        report.extend(self.maps.clear("unmapped"));
        report.extend(self.files.clear("closed"));
        self.unmount_all(&mut report);
        if self.mounts.is_empty() {
            return Ok(report.join("\n"));
        }
        failed!("{}", report.join("\n"))
    }

    fn end_jobs(&mut self, report: &mut Vec<String>, deadline: Instant) -> Result<(), StepError> {
        for name in self.jobs.names() {
            let left = deadline.saturating_duration_since(Instant::now());
            let result = match self.jobs.wait(&name, left) {
                Ok(result) => result,
                Err(error) => return failed!("{error}; nothing was let go"),
            };
            report.push(match result.and_then(|end| self.accept(end)) {
                Ok(_) => format!("job {name}: done"),
                Err(error) => format!("job {name}: {error}"),
            });
        }
        Ok(())
    }

    fn end_programs(&mut self, report: &mut Vec<String>) {
        for (name, Of { pinner, handle }) in std::mem::take(&mut self.programs.items) {
            // It may have ended by itself: the wait tells.
            let _ = pinner.stop(handle);
            report.push(match pinner.wait(handle, PROGRAM_END_MS) {
                Ok(end) => format!("program {name}: ended with status {}", end.status),
                Err(error) => format!("program {name}: {error}"),
            });
        }
    }

    fn release_regions(&mut self, report: &mut Vec<String>) {
        for (name, Of { pinner, handle }) in std::mem::take(&mut self.regions.items) {
            report.push(match pinner.release(handle, false) {
                Ok(()) => format!("region {name}: released clean"),
                Err(error) => format!("region {name}: {error}; left to the close of its pinner"),
            });
        }
        self.pinners.close_driver();
    }

    fn unmount_all(&mut self, report: &mut Vec<String>) {
        for dir in std::mem::take(&mut self.mounts).into_iter().rev() {
            match over::unmount(&dir) {
                Ok(()) => report.push(format!("mount {dir}: unmounted")),
                // A program of a step did it.
                Err(Errno::INVAL | Errno::NOENT) => report.push(format!("mount {dir}: gone already")),
                Err(errno) => {
                    let name = errno_name(errno.raw_os_error());
                    report.push(format!("mount {dir}: stays, {name}"));
                    self.mounts.insert(0, dir);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Work;

    #[test]
    fn a_name_is_given_once_and_must_exist() {
        let mut table = Table::new("file");
        table.claim("a").unwrap();
        table.insert("a".into(), 1);
        table.insert("b".into(), 2);
        assert_eq!(table.claim("a"), failed!("file `a` exists already; use another name or let it go first"));
        assert_eq!(table.get("c"), failed!("no file `c`; there are: [a, b]"));
        assert_eq!(table.remove("a"), Ok(1));
        table.claim("a").unwrap();
    }

    #[test]
    fn nothing_is_let_go_below_a_job_that_does_not_end() {
        let mut objects = Objects::default();
        objects.files.insert("a".into(), Arc::new(tempfile::tempfile().unwrap().into()));
        let (work, finish) = Work::endless();
        objects.jobs.spawn("j".into(), work).unwrap();
        let mut report = Vec::new();
        let Err(StepError::Failed(message)) = objects.end_jobs(&mut report, Instant::now()) else {
            panic!("ended")
        };
        assert!(message.starts_with("job `j` still runs after 0 ms of waiting: state "), "{message}");
        assert!(message.ends_with("; nothing was let go"), "{message}");
        let Err(StepError::Failed(message)) = objects.close("a") else { panic!("closed") };
        assert!(message.starts_with("file `a` is used by job `j`"), "{message}");
        drop(finish);
        assert_eq!(objects.release_all().unwrap(), "job j: done\nfile a: closed");
    }

    #[test]
    fn letting_go_of_everything_says_what_it_was() {
        let mut objects = Objects::default();
        objects.files.insert("a".into(), Arc::new(tempfile::tempfile().unwrap().into()));
        assert_eq!(objects.release_all().unwrap(), "file a: closed");
        objects.mounts.push("/no/such/mount".into());
        assert_eq!(objects.release_all().unwrap(), "mount /no/such/mount: gone already");
        assert_eq!(objects.release_all().unwrap(), "");
        assert!(objects.files.is_empty());
    }
}
