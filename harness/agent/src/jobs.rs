// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps that run beside others, each in a thread of its own, until somebody waits for them.
//!
//! # A job that sleeps must not stop the agent
//!
//! A job that waits inside a page fault holds the process' mmap lock for reading: the kernel takes it for every fault
//! of `copy_to_user` and of GUP (arch/x86/mm/fault.c: do_user_addr_fault() has its lock-free path for user mode only,
//! 7.3). Whoever then asks for the lock for writing sleeps too, and everybody's faults queue up behind him. So while
//! jobs run the agent neither maps nor unmaps memory for itself: threads are made before they are needed, and have begun
//! (a thread maps a stack for its signals first); the heap never gives back (`sys::keep_heap`); programs are started by
//! another process (`launcher`). Steps that change mappings by their nature are refused while a job works on one
//! ([`Jobs::may_change_mappings`]).

use crate::error::{OrRefused, StepError, failed};
use crate::whereabouts::Worker;
use crate::work::{End, MAPPING, Work};
use longpin_proto::facts::JobState;
use rustix::thread::CpuSet;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs at one time: a scenario has two or three.
const MAX_RUNNING: usize = 8;

/// How long a job took, and what came of it.
type Ended = (Duration, Result<End, StepError>);

/// A job as its thread and the agent see it.
#[derive(Debug)]
struct Progress {
    began: Instant,
    worker: Arc<Worker>,
    ended: Mutex<Option<Ended>>,
    end: Condvar,
}

impl Progress {
    fn new() -> Self {
        Self { began: Instant::now(), worker: Arc::default(), ended: Mutex::new(None), end: Condvar::new() }
    }

    fn ended(&self) -> MutexGuard<'_, Option<Ended>> {
        // A thread that panics does so outside of this lock.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_running(&self) -> bool {
        self.ended().is_none()
    }

    fn carry_out(&self, work: Work, cpus: &CpuSet) {
        self.worker.take_up();
        let result = rustix::thread::sched_setaffinity(None, cpus).or_failed("sched_setaffinity");
        let run = AssertUnwindSafe(|| result.and_then(|()| work.run(&self.worker.program)));
        let result = catch_unwind(run).unwrap_or_else(|_| failed!("bug in the agent: the job panicked"));
        *self.ended() = Some((self.began.elapsed(), result));
        self.end.notify_all();
    }

    fn state(&self) -> JobState {
        let place = self.worker.place();
        // Asked afterwards: who ended meanwhile has ended.
        match &*self.ended() {
            Some((took, _)) => {
                JobState { finished: true, elapsed_us: micros(*took), state: '-', stack: vec![] }
            }
            None => JobState {
                finished: false,
                elapsed_us: micros(self.began.elapsed()),
                state: place.state,
                stack: place.stack,
            },
        }
    }

    /// Wait for the end and take it; None at the deadline.
    fn take_end(&self, deadline: Instant) -> Option<Ended> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.end.wait_timeout_while(self.ended(), left, |ended| ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[derive(Debug)]
struct Job {
    progress: Arc<Progress>,
    uses: Vec<String>,
    makes: Option<String>,
}

struct Task {
    work: Work,
    cpus: CpuSet,
    progress: Arc<Progress>,
}

/// Jobs that were not waited for yet, by name, and the threads that run them.
#[derive(Debug, Default)]
pub struct Jobs {
    jobs: BTreeMap<String, Job>,
    /// Into the threads; none before the first job.
    tasks: Option<SyncSender<Task>>,
}

impl Jobs {
    /// Is the name free?
    pub fn claim(&self, name: &str) -> Result<(), StepError> {
        if self.jobs.contains_key(name) {
            return failed!("job `{name}` exists already; use another name or wait for it first");
        }
        Ok(())
    }

    /// Begin work under a claimed name, on the CPUs of the calling thread.
    pub fn spawn(&mut self, name: String, work: Work) -> Result<(), StepError> {
        let running = self.jobs.values().filter(|job| job.progress.is_running()).count();
        if running >= MAX_RUNNING {
            return failed!("{running} jobs run already; wait for one of them before job `{name}` begins");
        }
        let cpus = rustix::thread::sched_getaffinity(None).or_failed("sched_getaffinity")?;
        let progress = Arc::new(Progress::new());
        let job = Job {
            progress: progress.clone(),
            uses: work.uses().to_vec(),
            makes: work.makes().map(str::to_owned),
        };
        // There is a thread for it: each of the others has at most one job.
        if self.tasks()?.send(Task { work, cpus, progress }).is_err() {
            return failed!("bug in the agent: the threads of jobs are gone");
        }
        self.jobs.insert(name, job);
        Ok(())
    }

    /// Start the threads: with the agent, long before a job can hold the mmap lock.
    pub fn start(&mut self) -> Result<(), StepError> {
        self.tasks().map(|_| ())
    }

    fn tasks(&mut self) -> Result<&SyncSender<Task>, StepError> {
        match &mut self.tasks {
            Some(tasks) => Ok(tasks),
            none => Ok(none.insert(start_threads().or_failed("threads for jobs")?)),
        }
    }

    /// How far is it?
    pub fn state(&self, name: &str) -> Result<JobState, StepError> {
        self.get(name).map(|job| job.progress.state())
    }

    /// Who does it.
    pub fn worker(&self, name: &str) -> Result<Arc<Worker>, StepError> {
        self.get(name).map(|job| job.progress.worker.clone())
    }

    /// Wait for a job's end, what came of it is the inner result; its name is free then. Failed at the deadline: it
    /// stays.
    pub fn wait(&mut self, name: &str, timeout: Duration) -> Result<Result<End, StepError>, StepError> {
        let progress = &self.get(name)?.progress;
        let Some((_, result)) = progress.take_end(Instant::now() + timeout) else {
            let waited = timeout.as_millis();
            return failed!(
                "job `{name}` still runs after {waited} ms of waiting: {}",
                progress.worker.place()
            );
        };
        self.jobs.remove(name);
        Ok(result)
    }

    /// Nothing may happen to this object, as "file `a`", while a job works on it.
    pub fn release_check(&self, object: &str) -> Result<(), StepError> {
        let user = |job: &&Job| job.progress.is_running() && job.uses.iter().any(|used| used == object);
        match self.jobs.iter().find(|(_, job)| user(job)) {
            None => Ok(()),
            Some((name, job)) => {
                failed!(
                    "{object} is used by job `{name}`, which still runs: {}; wait for it first",
                    job.progress.worker.place()
                )
            }
        }
    }

    /// May mappings come and go? A job that works on one may be asleep with the mmap lock; see the module's
    /// documentation.
    pub fn may_change_mappings(&self) -> Result<(), StepError> {
        let holder =
            |job: &&Job| job.progress.is_running() && job.uses.iter().any(|used| used.starts_with(MAPPING));
        match self.jobs.iter().find(|(_, job)| holder(job)) {
            None => Ok(()),
            Some((name, job)) => failed!(
                "job `{name}` still works on a mapping and may hold the mmap lock: {}; wait for it before mappings \
                 change",
                job.progress.worker.place()
            ),
        }
    }

    /// Is a job going to make a region of this name, or has it made one that nobody has taken yet?
    pub fn claim_region(&self, region: &str) -> Result<(), StepError> {
        match self.jobs.iter().find(|(_, job)| job.makes.as_deref() == Some(region)) {
            None => Ok(()),
            Some((name, _)) => failed!("job `{name}` makes region `{region}`; use another name"),
        }
    }

    /// Names in order.
    pub fn names(&self) -> Vec<String> {
        self.jobs.keys().cloned().collect()
    }

    fn get(&self, name: &str) -> Result<&Job, StepError> {
        let unknown =
            || StepError::Failed(format!("no job `{name}`; there are: [{}]", self.names().join(", ")));
        self.jobs.get(name).ok_or_else(unknown)
    }
}

/// All of them at once, and for ever: see the module's documentation. Each has begun when this returns.
fn start_threads() -> std::io::Result<SyncSender<Task>> {
    let (sender, receiver) = sync_channel(MAX_RUNNING);
    let (begun, begins) = sync_channel(MAX_RUNNING);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..MAX_RUNNING {
        let tasks = receiver.clone();
        let begun = begun.clone();
        std::thread::Builder::new().name("job".to_owned()).spawn(move || {
            let _ = begun.send(());
            drop(begun);
            serve(&tasks);
        })?;
    }
    // Not one more than there are threads: each says it once.
    begins.iter().take(MAX_RUNNING).count();
    Ok(sender)
}

fn serve(tasks: &Mutex<Receiver<Task>>) {
    loop {
        // The guard goes at the end of the statement: the work is done without it.
        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task { work, cpus, progress }) = next else { return };
        progress.carry_out(work, &cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::agent::Fact;

    const SOON: Duration = Duration::from_secs(60);

    fn done() -> Result<End, StepError> {
        Ok(End::Fact(Fact::Nothing))
    }

    #[test]
    fn an_object_is_bound_while_its_job_runs_and_free_when_it_has_ended() {
        let mut jobs = Jobs::default();
        let (work, finish) = Work::endless();
        jobs.spawn("j".into(), work).unwrap();
        let Err(StepError::Failed(message)) = jobs.release_check("file `a`") else { panic!("free") };
        assert!(message.starts_with("file `a` is used by job `j`, which still runs: state "), "{message}");
        jobs.release_check("file `b`").unwrap();
        drop(finish);
        assert_eq!(jobs.wait("j", SOON).unwrap(), done());
        jobs.release_check("file `a`").unwrap();
    }

    #[test]
    fn mappings_stay_as_they_are_while_a_job_works_on_one() {
        let mut jobs = Jobs::default();
        let (on_file, finish_file) = Work::endless();
        jobs.spawn("f".into(), on_file).unwrap();
        jobs.may_change_mappings().unwrap();
        let (work, finish) = Work::endless();
        jobs.spawn("j".into(), work.on_mapping("m")).unwrap();
        let Err(StepError::Failed(message)) = jobs.may_change_mappings() else { panic!("they may") };
        assert!(
            message.starts_with("job `j` still works on a mapping and may hold the mmap lock: "),
            "{message}"
        );
        drop(finish);
        assert_eq!(jobs.wait("j", SOON).unwrap(), done());
        jobs.may_change_mappings().unwrap();
        drop(finish_file);
        assert_eq!(jobs.wait("f", SOON).unwrap(), done());
    }

    #[test]
    fn one_job_too_many_is_told_and_a_later_one_runs() {
        let mut jobs = Jobs::default();
        let mut finish = Vec::new();
        for index in 0..MAX_RUNNING {
            let (work, sender) = Work::endless();
            jobs.spawn(index.to_string(), work).unwrap();
            finish.push(sender);
        }
        let Err(StepError::Failed(message)) = jobs.spawn("j".into(), Work::endless().0) else {
            panic!("ran")
        };
        assert!(message.starts_with("8 jobs run already"), "{message}");
        finish.remove(0);
        assert_eq!(jobs.wait("0", SOON).unwrap(), done());
        jobs.spawn("j".into(), Work::endless().0).unwrap();
        assert_eq!(jobs.wait("j", SOON).unwrap(), done());
    }
}
