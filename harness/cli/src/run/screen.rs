// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a person sees while a run goes on, on standard error: a live line on a terminal; elsewhere only what matters
//! later, one line each, the same in every run. A view of events and nothing else.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longpin_core::events::{EventKind, RunEvent};
use longpin_core::report::CaseResult;
use longpin_core::verdict::Outcome;
use std::time::Duration;

/// The view.
pub struct Screen {
    bar: ProgressBar,
    boot: u32,
    /// Each verdict has a line.
    all: bool,
}

impl Screen {
    /// Live if `terminal`, else plain lines. Every verdict has one if `verbose`, or if nothing else would show life.
    pub fn new(terminal: bool, verbose: bool) -> Self {
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, boot: 0, all: verbose || !terminal }
    }

    /// Show one event.
    pub fn show(&mut self, event: &RunEvent) {
        match &event.kind {
            EventKind::RunStarted { cases, .. } => {
                self.bar.set_length(cases.len() as u64);
                self.bar.enable_steady_tick(Duration::from_millis(120));
            }
            EventKind::RetriesStarted { round, cases } => {
                self.bar.inc_length(cases.len() as u64);
                self.line(&format!(
                    "run again, time {round}: {} cases that were not as expected",
                    cases.len()
                ));
            }
            EventKind::Stopped { reason } => self.line(reason),
            EventKind::BootStarted { boot } => {
                self.boot = *boot;
                self.bar.set_message(format!("boot {boot}"));
            }
            EventKind::CaseStarted { case, .. } => self.bar.set_message(case.clone()),
            EventKind::CaseProgress { case, line } => self.bar.set_message(format!("{case} line {line}")),
            EventKind::CaseFinished(case) => self.finished(case),
            EventKind::BootEnded(boot) if boot.ended != "done" => {
                self.line(&format!("boot {} ended: {}", boot.boot, boot.ended));
            }
            EventKind::Notice { text } => self.line(text),
            EventKind::Interrupted => self.line("interrupted: stopping"),
            EventKind::RunFinished => self.bar.finish_and_clear(),
            EventKind::BootReady { .. } | EventKind::BootEnded(_) | EventKind::EnvironmentKnown { .. } => {}
        }
    }

    fn finished(&self, case: &CaseResult) {
        if !case.control {
            self.bar.inc(1);
        }
        match unexpected(case) {
            Some(text) => self.line(&text),
            None if self.all && !case.control => self.line(&verdict(case)),
            None => {}
        }
    }

    fn line(&self, text: &str) {
        match self.bar.is_hidden() {
            true => output::note(text),
            false => self.bar.suspend(|| output::note(text)),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The line of a verdict that was to be expected.
fn verdict(case: &CaseResult) -> String {
    let observed = case.observations.iter().rev().map(|word| word.as_str()).collect::<Vec<_>>().join(" ");
    format!("{}: {}: {observed} ({:.1} s)", case.outcome, case.label(), case.seconds)
}

/// The line of a verdict that somebody has to look at.
fn unexpected(case: &CaseResult) -> Option<String> {
    let good = matches!(case.outcome, Outcome::Pass | Outcome::Xfail | Outcome::Skip);
    (!good).then(|| format!("{}: {}: {}", case.outcome, case.label(), case.reason))
}
