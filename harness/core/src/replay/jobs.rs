// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps that ran concurrently.

use super::files::{Moment, content_of};
use super::{FileContent, PinnedBy, Replay};
use crate::record::Role;
use longpin_proto::agent::{Outcome, Step};
use longpin_proto::facts::JobState;
use std::collections::BTreeMap;

/// Functions in which every sleeper sleeps: they say nothing of what it waits for.
const SLEEPERS: [&str; 12] = [
    "__schedule",
    "schedule",
    "schedule_timeout",
    "io_schedule",
    "io_schedule_timeout",
    "bit_wait_io",
    "__wait_on_bit",
    "out_of_line_wait_on_bit",
    "folio_wait_bit_common",
    "folio_wait_bit",
    "wait_for_completion",
    "__wait_for_common",
];

/// A job.
#[derive(Debug)]
pub struct Job<'r> {
    /// Its name.
    pub name: String,
    /// What it does.
    pub step: &'r Step,
    /// When it began.
    pub from: u64,
    /// When it was over at the latest; none: it never was.
    pub to: Option<u64>,
    /// Looks at it while it was not over.
    pub looks: Vec<Look<'r>>,
    /// A look found it over.
    pub seen_over: bool,
    /// What came of it; none: it was not joined.
    pub outcome: Option<&'r Outcome>,
    /// Where every file stood when it began: an fsync promises no more.
    moment: Moment,
}

/// A look at a job.
#[derive(Debug, Clone, Copy)]
pub struct Look<'r> {
    /// When.
    pub at: u64,
    /// The machine looked until the job was over or asleep.
    pub settling: bool,
    /// What was seen.
    pub state: &'r JobState,
}

impl<'r> Job<'r> {
    /// The first look that found it asleep.
    pub fn asleep(&self) -> Option<&Look<'r>> {
        self.looks.iter().find(|look| matches!(look.state.state, 'S' | 'D' | 'I'))
    }
}

impl<'r> Look<'r> {
    /// The function that tells what a sleeper waits for.
    pub fn place(&self) -> &'r str {
        let name = |line: &'r String| line.split(['+', ' ']).next().unwrap_or(line);
        let mut functions = self.state.stack.iter().map(name);
        let telling = functions.clone().find(|function| !SLEEPERS.contains(function));
        telling.or_else(|| functions.next()).unwrap_or("the kernel")
    }
}

impl<'r> Replay<'r> {
    pub(super) fn begin(&mut self, name: &str, step: &'r Step, from: u64, to: u64) {
        if let Step::ReadDirect { map, offset, len, device_offset, .. } = step {
            let read = super::DirectRead { device_offset: *device_offset, ..Default::default() };
            self.pin(name, map, *offset, *len, PinnedBy::DirectRead(read), to);
        }
        let (name, looks, moment) = (name.to_owned(), Vec::new(), self.moment());
        self.jobs.push(Job { name, step, from, to: None, looks, seen_over: false, outcome: None, moment });
    }

    pub(super) fn look(&mut self, role: Role, name: &str, state: &'r JobState, at: u64) {
        let Some(job) = self.jobs.iter_mut().rev().find(|job| job.name == name) else { return };
        if state.finished {
            job.seen_over = true;
            job.to = Some(at.min(job.from + state.elapsed_us * 1_000).max(job.from));
        } else {
            job.looks.push(Look { at, settling: role == Role::Settle, state });
        }
    }

    /// What came of a job is what came of its step.
    pub(super) fn joined(&mut self, role: Role, wait: &'r Step, name: &str, outcome: &'r Outcome, at: u64) {
        let running = self.jobs.iter_mut().rev().find(|job| job.name == name && job.outcome.is_none());
        let Some(job) = running else {
            let moment = self.moment();
            return self.came_of(role, wait, outcome, &moment, (at, at));
        };
        job.outcome = Some(outcome);
        let times = (job.from, *job.to.get_or_insert(at));
        let (step, moment) = (job.step, std::mem::take(&mut job.moment));
        self.came_of(role, step, outcome, &moment, times);
        if matches!(step, Step::ReadDirect { .. }) {
            self.read_is_over(name, outcome, at);
        }
    }

    /// The files as they are if every job that writes has written already: nobody knows how far one is that still runs.
    pub(super) fn with_jobs_under_way(&self) -> BTreeMap<String, FileContent> {
        let mut files = self.files.clone();
        for job in self.jobs.iter().filter(|job| job.outcome.is_none()) {
            match job.step {
                Step::Write { file, offset, len, fill } => {
                    if let Some(content) = files.get_mut(&self.path(file)) {
                        content.append(*offset, *len, content_of(fill));
                    }
                }
                Step::Store { map, offset, len, fill } => {
                    let place = self.place(map);
                    if let Some(content) = files.get_mut(&place.name).filter(|_| place.of_file) {
                        content.write(place.offset + offset, *len, content_of(fill));
                    }
                }
                _ => {}
            }
        }
        files
    }
}
