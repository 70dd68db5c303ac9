// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pin counters of `/proc/vmstat`. They are batched per CPU, so they are folded before they are read.

use crate::error::{OrRefused, StepError, failed};
use longpin_proto::facts::PinCounters;

/// Counters over all CPUs, as of now.
pub fn pin_counters() -> Result<PinCounters, StepError> {
    // mm/vmstat.c: vmstat_refresh() runs the fold on every CPU and waits for it.
    std::fs::write("/proc/sys/vm/stat_refresh", "1").or_refused("write(/proc/sys/vm/stat_refresh)")?;
    let text = std::fs::read_to_string("/proc/vmstat").or_refused("read(/proc/vmstat)")?;
    let (Some(acquired), Some(released)) =
        (field(&text, "nr_foll_pin_acquired"), field(&text, "nr_foll_pin_released"))
    else {
        return failed!("/proc/vmstat has no nr_foll_pin_acquired; the kernel is older than 5.7");
    };
    Ok(PinCounters { acquired, released })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nr_foll_pin_acquired_x 1\nnr_foll_pin_acquired 4711\nnr_foll_pin_released 4000\n";
        assert_eq!(field(text, "nr_foll_pin_acquired"), Some(4711));
        assert_eq!(field(text, "nr_foll_pin_released"), Some(4000));
        assert_eq!(field(text, "nr_foll_pin"), None);
    }
}
