// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What it costs to do without pins: a device that faults beside one whose pages are pinned, in one guest, round by round
//! in turn; medians. `tests/driver/mirror.c` measures and notes it.

use longpin_e2e::driver_check::all_are_ok;
use longpin_e2e::driver_guest;

fn main() {
    all_are_ok(&driver_guest::run(&["mirror-cost"], &[]), &["mirror-cost"]);
}
