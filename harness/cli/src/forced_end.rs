// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must be put in order even if somebody has no patience and signals twice: the process then ends without its
//! destructors.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Action = Box<dyn Fn() + Send>;

/// Actions by number, numbers given out so far.
static ACTIONS: Mutex<(BTreeMap<u64, Action>, u64)> = Mutex::new((BTreeMap::new(), 0));

fn actions() -> MutexGuard<'static, (BTreeMap<u64, Action>, u64)> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The action counts as long as this lives.
#[derive(Debug)]
pub struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        actions().0.remove(&self.0);
    }
}

/// Have something done at a forced end.
pub fn register(action: impl Fn() + Send + 'static) -> Guard {
    let mut actions = actions();
    actions.1 += 1;
    let number = actions.1;
    actions.0.insert(number, Box::new(action));
    Guard(number)
}

/// Do it all, the newest first.
pub fn run() {
    let actions = std::mem::take(&mut actions().0);
    actions.values().rev().for_each(|action| action());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_what_is_still_needed_is_done() {
        let done = Arc::new(AtomicU32::new(0));
        let add = |n: u32| {
            let done = Arc::clone(&done);
            register(move || _ = done.fetch_add(n, Ordering::SeqCst))
        };
        let _kept = add(1);
        drop(add(10));
        run();
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }
}
