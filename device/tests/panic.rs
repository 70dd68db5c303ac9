// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thread of the daemon that panics ends the daemon. The test runs itself, since the process does not survive it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "LONGPIN_TEST_PANIC";

#[test]
fn a_panic_in_any_thread_ends_the_process() {
    let name = "a_panic_in_any_thread_ends_the_process";
    if std::env::var_os(CHILD).is_some() {
        env_logger::init();
        longpin_device::panics::end_the_process();
        let thread = std::thread::Builder::new().name("vring_worker".into());
        let thread = thread.spawn(|| panic!("out of order")).unwrap();
        // Nobody joins a queue's thread.
        std::thread::sleep(Duration::from_secs(60));
        drop(thread);
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(6), "{child:?}");
    let log = String::from_utf8(child.stderr).unwrap();
    assert!(log.contains("thread vring_worker: ") && log.contains("out of order"), "{log}");
}
