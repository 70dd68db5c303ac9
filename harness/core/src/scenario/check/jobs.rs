// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps beside others: a job is begun once, joined once, and not forgotten. What it changes is there at its join.

use super::walk::{Checked, Walk, known};
use crate::scenario::step::Act;
use crate::scenario::{Pin, Step};

impl Walk<'_> {
    /// The step must be possible where it begins; its generation is taken from then on.
    pub fn spawn(&mut self, job: &str, step: &Step) -> Checked {
        if !self.job_names.insert(job.to_owned()) {
            return Err(format!("job `{job}` exists already; give the second one another name"));
        }
        if let Act::Pin { mode, .. } = &step.action
            && mode.unwrap_or(self.point.pin) == Pin::Dio
        {
            return Err("a dio pin runs beside the case by itself; do it without `job`".into());
        }
        let mut trial = self.clone();
        trial.act(&step.action)?;
        self.generations = trial.generations;
        self.jobs.insert(job.to_owned(), (step.action.clone(), step.line));
        Ok(())
    }

    pub fn join(&mut self, job: &str) -> Checked {
        known("job", &self.jobs, job)?;
        match self.jobs.remove(job) {
            Some((Act::Pin { region, map, pages, mode }, _)) => self.pin(&region, &map, pages, mode),
            Some((Act::Truncate { handle, pages }, _)) => self.truncate(&handle, pages),
            _ => Ok(()),
        }
    }

    /// Whatever follows needs a case in which nothing else goes on.
    pub fn nothing_beside(&self, verb: &str) -> Checked {
        match self.jobs.keys().next() {
            Some(job) => Err(format!("job `{job}` may still run at `{verb}`; put a `join` before")),
            None => Ok(()),
        }
    }

    /// What a case must not end with.
    pub fn left_over(&self) -> Option<(usize, String)> {
        let (job, (_, line)) = self.jobs.iter().next()?;
        Some((*line, format!("job `{job}` is never joined; add {{ do = \"join\", job = \"{job}\" }}")))
    }
}
