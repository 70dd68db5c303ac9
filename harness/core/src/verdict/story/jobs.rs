// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps that ran beside others.

use super::Story;
use super::files::Moment;
use crate::verdict::content::Content;
use crate::verdict::file::FileContent;
use crate::verdict::observe::Blocked;
use longpin_proto::agent::Step;
use longpin_proto::facts::JobState;
use std::collections::BTreeMap;

/// A job that has begun.
#[derive(Debug)]
pub struct Begun<'r> {
    pub step: &'r Step,
    /// Where every file stood when it began: an fsync promises no more.
    pub moment: Moment,
}

impl<'r> Story<'r> {
    pub(super) fn begin(&mut self, job: &str, step: &'r Step) {
        self.pin_by_dio(job, step);
        self.jobs.insert(job.to_owned(), Begun { step, moment: self.moment() });
    }

    /// The files as they are if every job that writes has written already: nobody knows how far one is that still runs.
    pub(super) fn with_jobs_under_way(&self) -> BTreeMap<String, FileContent> {
        let mut files = self.files.clone();
        for begun in self.jobs.values() {
            let (path, offset, len, fill, grows) = match begun.step {
                Step::WriteCells { file, offset, len, fill } => {
                    (self.handles.get(file).cloned(), *offset, *len, fill, true)
                }
                Step::Store { map, offset, len, fill } => match self.place(map) {
                    Some((path, start)) => (Some(path), start + offset, *len, fill, false),
                    None => continue,
                },
                _ => continue,
            };
            let content = Content::Stamp { source: fill.source, generation: fill.generation };
            match path.and_then(|path| files.get_mut(&path)) {
                Some(file) if grows => file.append(offset, len, content),
                Some(file) => file.write(offset, len, content),
                None => {}
            }
        }
        files
    }

    /// The machine has looked until the job was over or asleep.
    pub(super) fn settled(&mut self, job: &str, state: &JobState) {
        if state.finished || self.blocked.iter().any(|blocked| blocked.job == job) {
            return;
        }
        let (job, stack, waited_us) = (job.to_owned(), state.stack.clone(), state.elapsed_us);
        self.blocked.push(Blocked { job, stack, waited_us });
    }
}
