// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress of a build, told to whoever asked for it. The builders know only [`Reporter`]; what a person sees is
//! decided by the caller: [`Terminal`] (a live line), [`Plain`] (a line a step) or [`Silent`].

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Receives the story of a build. Calls may come from any thread; none may block for long.
pub trait Reporter: Send + Sync {
    /// A new step has begun; the step before is over.
    fn step(&self, text: &str);
    /// Bytes that the current step has moved so far, of `total` if that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// Something worth a line of its own, such as waiting for another builder.
    fn note(&self, text: &str);
    /// The artifact is complete.
    fn finished(&self, text: &str);
}

/// Says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn step(&self, _text: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, _text: &str) {}
    fn finished(&self, _text: &str) {}
}

/// [`Terminal`] if standard error is one, else [`Plain`].
pub fn for_stderr() -> Box<dyn Reporter> {
    if std::io::stderr().is_terminal() { Box::new(Terminal::new()) } else { Box::new(Plain::new()) }
}

/// A live line on standard error: step, bytes, elapsed time.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    text: Mutex<String>,
}

impl Terminal {
    /// Draws nothing until the first step.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style);
        Self { bar, text: Mutex::new(String::new()) }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

/// A line on standard error, if anybody still listens.
fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

impl Reporter for Terminal {
    fn step(&self, text: &str) {
        if let Ok(mut current) = self.text.lock() {
            current.replace_range(.., text);
        }
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_message(text.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let Ok(text) = self.text.lock() else { return };
        self.bar.set_message(format!("{text}: {}", amount(done, total)));
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    fn finished(&self, text: &str) {
        self.bar.finish_and_clear();
        say(text);
        self.bar.reset_elapsed();
    }
}

/// Occasional lines on standard error for logs: one a step, and how far a long transfer has come.
#[derive(Debug)]
pub struct Plain {
    state: Mutex<PlainState>,
}

#[derive(Debug)]
struct PlainState {
    began: Instant,
    text: String,
    said: Instant,
}

/// Between two lines about the same transfer: a log needs to show life, not a film.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

impl Plain {
    /// Time counts from here.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { state: Mutex::new(PlainState { began: now, text: String::new(), said: now }) }
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter for Plain {
    fn step(&self, text: &str) {
        let Ok(mut state) = self.state.lock() else { return };
        say(&format!("[{:>4}s] {text}", state.began.elapsed().as_secs()));
        state.text = text.to_owned();
        state.said = Instant::now();
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let Ok(mut state) = self.state.lock() else { return };
        if state.said.elapsed() >= PLAIN_INTERVAL {
            say(&format!(
                "[{:>4}s] {}: {}",
                state.began.elapsed().as_secs(),
                state.text,
                amount(done, total)
            ));
            state.said = Instant::now();
        }
    }

    fn note(&self, text: &str) {
        say(text);
    }

    fn finished(&self, text: &str) {
        let Ok(state) = self.state.lock() else { return };
        say(&format!("[{:>4}s] {text}", state.began.elapsed().as_secs()));
    }
}

fn amount(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{} of {}", HumanBytes(done), HumanBytes(total)),
        None => HumanBytes(done).to_string(),
    }
}

/// "tool root ready: 1.6 GiB in 62 s".
pub(crate) fn summary(what: &str, size_bytes: u64, took: Duration) -> String {
    format!("{what} ready: {} in {:.0} s", HumanBytes(size_bytes), took.as_secs_f64())
}

/// The notes of a build, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<Vec<String>>);

#[cfg(test)]
impl Reporter for Notes {
    fn step(&self, _text: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn finished(&self, _text: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_show_the_total_only_when_it_is_known() {
        assert_eq!(amount(2048, Some(4096)), "2.00 KiB of 4.00 KiB");
        assert_eq!(amount(2048, None), "2.00 KiB");
    }

    #[test]
    fn a_summary_names_the_thing_its_size_and_time() {
        let text = summary("tool root", 3 << 30, Duration::from_secs(62));
        assert_eq!(text, "tool root ready: 3.00 GiB in 62 s");
    }
}
