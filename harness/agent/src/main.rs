// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest agent of longpin: PID 1 of the initramfs. It performs steps and states facts, never verdicts.
//!
//! It never ends by itself: a panic, or a channel that fails for good, powers the guest off with a line in the kernel
//! log, so that the harness sees an end and a reason.
#![deny(unsafe_code)]

mod btrfs_chunks;
mod cells;
mod error;
mod exec;
mod fiemap;
mod fsops;
mod init;
mod jobs;
mod kmsg;
mod launcher;
mod link;
mod mapping;
mod modules;
mod mounts;
mod objects;
mod over;
mod page_flags;
mod page_state;
mod pinner;
mod port;
mod prepare;
mod shell;
mod steps;
mod strays;
mod sys;
#[cfg(test)]
mod tests;
mod thread_state;
mod vmstat;
mod whereabouts;
mod work;

use error::{OrRefused, StepError, failed};
use link::Link;
use longpin_proto::agent::{Outcome, PORT_NAME, Step};
use modules::Modules;
use std::process::ExitCode;
use std::time::Duration;
use steps::Agent;

/// How long the harness' port may take to appear.
const PORT_DEADLINE: Duration = Duration::from_secs(30);
/// As much as the first thread of a process may have.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(launcher::ARGUMENT) {
        return serve_programs();
    }
    if std::env::args().nth(1).as_deref() == Some(page_flags::ARGUMENT) {
        return page_flags::program(std::env::args().skip(2));
    }
    if !rustix::process::getpid().is_init() {
        eprintln!("longpin-agent {}: runs as /init of a longpin guest only", env!("CARGO_PKG_VERSION"));
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|panic| kmsg::last_words(&format!("panic: {panic}"))));
    if let Err(error) = run_apart() {
        kmsg::last_words(&format!("cannot go on: {error}"));
    }
    init::power_off()
}

/// The life of the launcher's process. The agent finds its socket closed after that and says so.
fn serve_programs() -> ExitCode {
    if let Err(error) = launcher::serve_stdin() {
        kmsg::note(&format!("launcher: {error}"));
    }
    ExitCode::FAILURE
}

/// [`run`] in a thread, whose stack is there from the start: that of a process' first thread grows on demand, under the
/// mmap lock, which a job may hold (see `jobs`).
///
/// A thread that an oops kills neither returns nor unwinds: the channel then stays open, and PID 1 lives on beside the
/// heartbeat until the harness has seen enough. `join` would panic, and the guest's kernel with it.
fn run_apart() -> Result<(), StepError> {
    sys::keep_heap();
    let (sender, end) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        // Nobody listens only if the first thread is gone, and then so is the guest.
        let _ = sender.send(run());
    };
    let thread = std::thread::Builder::new().name("agent".to_owned()).stack_size(STACK_BYTES).spawn(body);
    thread.or_failed("the agent's thread")?;
    end.recv().unwrap_or_else(|_| failed!("a panic, told above"))
}

fn run() -> Result<(), StepError> {
    init::mount_all()?;
    let launcher = launcher::start()?;
    let modules = Modules::read()?;
    // Only what the port needs; the rest is loaded by the steps that use it.
    for driver in ["virtio_pci", "virtio_console"].into_iter().filter(|driver| modules.has(driver)) {
        modules.load(driver, "")?;
    }
    let port = port::open(PORT_NAME, PORT_DEADLINE).or_failed("control port")?;
    let mut agent = Agent::new(modules)?;
    let mut link = Link::new(port, agent.watched()).or_failed("control port")?;
    let hello = init::hello()?;
    link.serve(hello, |step| {
        // Before the file systems are unmounted that they may use.
        let strays = if step == Step::Cleanup { strays::kill(&[launcher]) } else { Ok(()) };
        let outcome = strays.map_or_else(Outcome::from, |()| agent.perform(step));
        exec::reap_orphans();
        outcome
    })
    .or_failed("control port")
}
