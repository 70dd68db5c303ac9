// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT, SIGTERM and SIGHUP as a condition that every wait can watch. The first one asks for an orderly end; the
//! second ends the process at once, and the children with it (their parent-death signal), after [`crate::forced_end`].

use crate::forced_end;
use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Handle on the wish to stop. Clones watch the same wish.
#[derive(Debug, Clone)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Disconnects when the first signal comes; nothing is ever sent.
    signalled: Receiver<()>,
}

impl Interrupt {
    /// Install the handlers, if that was not done before: two runs of one process watch the same wish.
    pub fn install() -> anyhow::Result<Self> {
        static INSTALLED: Mutex<Option<Interrupt>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*installed {
            Some(interrupt) => Ok(interrupt.clone()),
            None => Ok(installed.insert(Self::handlers()?).clone()),
        }
    }

    fn handlers() -> anyhow::Result<Self> {
        let mut wanted = vec![SIGINT, SIGTERM];
        // nohup(1): the run outlives its terminal.
        wanted.extend(Some(SIGHUP).filter(|signal| !is_ignored(*signal)));
        let mut signals = Signals::new(wanted).context("signal handlers cannot be installed")?;
        let asked = Arc::new(AtomicBool::new(false));
        let (keep, signalled) = bounded(0);
        let flag = Arc::clone(&asked);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut keep = Some(keep);
                for signal in signals.forever() {
                    if keep.is_none() {
                        forced_end::run();
                        std::process::exit(128 + signal);
                    }
                    flag.store(true, Ordering::SeqCst);
                    keep = None;
                }
            })
            .context("signal thread cannot be started")?;
        Ok(Self { asked, signalled })
    }

    /// Was the process asked to stop?
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Becomes ready (disconnected) when the process is asked to stop.
    pub fn signalled(&self) -> &Receiver<()> {
        &self.signalled
    }
}

/// Did whoever started us have the signal ignored? proc_pid_status(5), `SigIgn`: bit n - 1 is signal n.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_first_signal_asks_for_an_orderly_end() {
        let interrupt = Interrupt::install().unwrap();
        assert!(!interrupt.asked());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        let woken = interrupt.signalled().recv_timeout(Duration::from_secs(30));
        assert_eq!(woken, Err(crossbeam_channel::RecvTimeoutError::Disconnected));
        assert!(interrupt.asked());
    }
}
