// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a plan has open, mapped, pinned and under way. Two rules keep every cell's last writer certain, so that what is found
//! can be judged: while a program or a job writes to pages of a file, nothing else does; and a file is copied only while
//! nobody writes to it.

/// Pages of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Index of the file.
    pub file: usize,
    pub first: u64,
    pub pages: u64,
}

impl Range {
    pub fn meets(&self, other: &Self) -> bool {
        self.file == other.file
            && self.first < other.first + other.pages
            && other.first < self.first + self.pages
    }

    /// All of the other, or nothing of it.
    pub fn is_clear_of(&self, other: &Self) -> bool {
        let covers = self.first <= other.first && other.first + other.pages <= self.first + self.pages;
        !self.meets(other) || covers
    }
}

/// A pinned region.
#[derive(Debug, Clone)]
pub struct Region {
    pub name: String,
    pub at: Range,
    /// How it is pinned.
    pub mode: &'static str,
    /// Program that writes into it.
    pub program: Option<String>,
    /// A program wrote into it.
    pub written: bool,
}

/// A step that runs concurrently.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    /// Pages that it writes; none: it only looks, or writes back.
    pub writes: Option<Range>,
    /// The file that it has open to write to it.
    pub writes_by_handle: Option<usize>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub regions: Vec<Region>,
    pub jobs: Vec<Job>,
}

impl State {
    /// Nobody is writing there.
    pub fn is_free(&self, range: &Range) -> bool {
        let programs = self.regions.iter().filter(|region| region.program.is_some());
        !programs.map(|region| &region.at).chain(self.writing()).any(|busy| busy.meets(range))
    }

    fn writing(&self) -> impl Iterator<Item = &Range> {
        self.jobs.iter().filter_map(|job| job.writes.as_ref())
    }

    /// No job writes there; programs do not count.
    pub fn is_free_of_jobs(&self, range: &Range) -> bool {
        !self.writing().any(|busy| busy.meets(range))
    }

    /// Pages can leave the file there, and the driver's answer will tell which: of each region all may, or none.
    pub fn may_leave(&self, range: &Range) -> bool {
        self.regions.iter().all(|region| range.is_clear_of(&region.at))
    }

    /// Somebody has pinned pages of the file.
    pub fn is_pinned(&self, file: usize) -> bool {
        self.regions.iter().any(|region| region.at.file == file)
    }

    pub fn is_quiet(&self) -> bool {
        self.regions.is_empty() && self.jobs.is_empty()
    }
}
