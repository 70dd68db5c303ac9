// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's ioctl interface in the stock kernel, used from C with the header that C users get: every result of the
//! tests in `tests/driver`, a kernel log without a complaint, and a ledger in which no pin that was given back is
//! written to.

use longpin_e2e::driver_check::{INTERFACE_TESTS, MIRROR_TESTS, STORMS, all_are_ok, complaints};
use longpin_e2e::driver_guest::{self, TestResult};

#[test]
fn every_promise_of_the_interface_is_kept() {
    all_are_ok(&driver_guest::run(&INTERFACE_TESTS, &[]), &INTERFACE_TESTS);
}

#[test]
fn memory_that_nobody_pins_is_written_while_it_is_there_and_never_after() {
    all_are_ok(&driver_guest::run(&MIRROR_TESTS, &[]), &MIRROR_TESTS);
}

#[test]
fn a_device_that_keeps_a_page_does_not_keep_the_kernel() {
    let told = driver_guest::run(&["mirror-silent", "anonymous"], &["invalidate_timeout_ms=2000"]);
    all_are_ok(&told, &["mirror-silent", "anonymous"]);
}

#[test]
fn pages_come_back_from_a_device_that_falls_silent() {
    let told = driver_guest::run(&["silent-device", "anonymous"], &["device_timeout_ms=2000"]);
    all_are_ok(&told, &["silent-device", "anonymous"]);
}

#[test]
fn pages_come_back_from_a_device_that_lies_or_is_slow() {
    let tests = ["lying-device", "slow-device", "anonymous"];
    all_are_ok(&driver_guest::run(&tests, &["device_timeout_ms=2000"]), &tests);
}

#[test]
fn pages_come_back_from_a_device_that_is_pulled_out() {
    let told = driver_guest::run(&["pulled-out", "anonymous"], &["device_timeout_ms=2000"]);
    all_are_ok(&told, &["pulled-out", "anonymous"]);
}

#[test]
fn pages_come_back_from_a_device_that_is_unplugged() {
    all_are_ok(&driver_guest::run(&["hot-removal"], &[]), &["hot-removal"]);
}

#[test]
fn pages_come_back_from_a_device_whose_process_dies() {
    let told = driver_guest::run(&["dead-daemon"], &["device_timeout_ms=2000"]);
    assert_eq!(told.results, [("dead-daemon".to_owned(), TestResult::Ok)]);
    assert_eq!(complaints(&told.console), Vec::<&str>::new(), "{}", told.console);
}

/// A thousand rounds are run by `make test-long`, on a kernel that watches itself.
#[test]
fn pages_come_back_each_time_whatever_goes() {
    all_are_ok(&driver_guest::run_storms(None, &STORMS, 20), &STORMS);
}

#[test]
fn what_the_kernel_cannot_do_is_skipped_with_the_reason_and_an_unknown_test_fails() {
    let told = driver_guest::run(&["failing-allocations", "no-such-test"], &[]);
    let reason = "this kernel has no /proc/thread-self/fail-nth (CONFIG_FAULT_INJECTION)".to_owned();
    let expected = [
        ("failing-allocations".to_owned(), TestResult::Skipped(reason)),
        ("no-such-test".to_owned(), TestResult::Failed),
    ];
    assert_eq!(told.results, expected);
}
