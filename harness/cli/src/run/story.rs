// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The story of a run: every event goes to `events.jsonl` as it happens, to the screen, and into memory, from which
//! the result document is made.

use super::screen::Screen;
use anyhow::Context as _;
use longpin_core::events::{EventKind, RunEvent};
use longpin_core::report::RunResult;
use longpin_proto::line;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// Collects events.
pub struct Story {
    file: File,
    screen: Screen,
    start: Instant,
    events: Vec<RunEvent>,
}

impl Story {
    /// Begin a story in the result directory.
    pub fn begin(out: &Path, screen: Screen) -> anyhow::Result<Self> {
        let path = out.join("events.jsonl");
        let file = File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self { file, screen, start: Instant::now(), events: Vec::new() })
    }

    /// Something happened. It counts even if it cannot be written down; then the run should end.
    pub fn tell(&mut self, kind: EventKind) -> anyhow::Result<()> {
        let event = RunEvent { at_ms: self.start.elapsed().as_millis() as u64, kind };
        self.screen.show(&event);
        let written = line::send(&mut self.file, &event);
        self.events.push(event);
        written.context("events.jsonl in the result directory cannot be written")
    }

    /// The document so far.
    pub fn result(&self) -> RunResult {
        RunResult::from_events(&self.events)
    }
}
