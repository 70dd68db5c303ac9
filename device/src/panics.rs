// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a panic means: a bug of ours, in a thread that somebody waits for. A queue's thread that is gone would look
//! like a device that hangs, and the guest would be blamed. A daemon that is gone is noticed at once.

/// Let every panic end the process, with its message in the log and SIGABRT.
pub fn end_the_process() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        log::error!("thread {}: {panic}", thread.name().unwrap_or("without a name"));
        std::process::abort();
    }));
}
