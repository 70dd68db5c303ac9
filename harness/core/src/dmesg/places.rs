// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the CPUs of a hanging kernel stand, from the backtraces that it prints when it is asked (sysrq-l, an NMI).

use std::collections::BTreeMap;

/// Function of each CPU that said where it was, by its number: `hang_init [hang]`, `idle`. Of several backtraces of a CPU
/// the first counts: a later one shows who asked.
pub fn places<'t>(lines: impl IntoIterator<Item = &'t str>) -> BTreeMap<u32, String> {
    let mut places = BTreeMap::new();
    let mut cpu = None;
    for line in lines {
        if let Some(rest) = after(line, "NMI backtrace for cpu ") {
            cpu = number(rest);
            if let (Some(cpu), true) = (cpu, rest.contains("skipped: idling")) {
                places.entry(cpu).or_insert_with(|| "idle".to_owned());
            }
        } else if let Some(rest) = after(line, "CPU: ") {
            cpu = number(rest);
            if let (Some(cpu), true) = (cpu, rest.contains(" Comm: swapper/")) {
                places.entry(cpu).or_insert_with(|| "idle".to_owned());
            }
        } else if let (Some(cpu), Some(place)) = (cpu, after(line, "RIP: 0010:")) {
            places.entry(cpu).or_insert_with(|| function(place));
        } else if let (Some(cpu), true) = (cpu, line.contains("RIP: 0033:")) {
            places.entry(cpu).or_insert_with(|| "a program".to_owned());
        }
    }
    places
}

/// `CPU 0 is in hang_init [hang], CPU 1 is idle`; CPUs of the same place stand together. None if nobody said.
pub fn sentence(places: &BTreeMap<u32, String>) -> Option<String> {
    let mut by_place: Vec<(&str, Vec<String>)> = Vec::new();
    for (cpu, place) in places {
        match by_place.iter_mut().find(|(known, _)| known == place) {
            Some((_, cpus)) => cpus.push(cpu.to_string()),
            None => by_place.push((place, vec![cpu.to_string()])),
        }
    }
    let clauses = by_place.iter().map(|(place, cpus)| {
        let (noun, verb) = if cpus.len() == 1 { ("CPU", "is") } else { ("CPUs", "are") };
        let inside = if *place == "idle" { "" } else { "in " };
        format!("{noun} {} {verb} {inside}{place}", cpus.join(", "))
    });
    Some(clauses.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}

fn after<'t>(line: &'t str, words: &str) -> Option<&'t str> {
    line.find(words).map(|at| &line[at + words.len()..])
}

fn number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `hang_init+0x15/0x20 [hang]` -> `hang_init [hang]`.
fn function(place: &str) -> String {
    let (name, rest) = place.split_once("+0x").unwrap_or((place.trim(), ""));
    match rest.split_whitespace().nth(1).filter(|module| module.starts_with('[')) {
        Some(module) => format!("{name} {module}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(log: &str) -> Option<String> {
        sentence(&places(log.lines()))
    }

    /// The answer to an NMI of Debian's 7.3.4, shortened.
    const NMI: &str = "\
[   46.971118] Uhhuh. NMI received for unknown reason 21 on CPU 0.
[   46.971888] Kernel panic - not syncing: NMI: Not continuing
[   46.974536] CPU: 0 UID: 0 PID: 18 Comm: migration/0 Tainted: G           OE       7.3.4+deb13-amd64 #1 PREEMPT(lazy)
[   46.977261] Call Trace:
[   46.978207]  <NMI>
[   46.978924]  dump_stack_lvl+0x5d/0x80
[   46.980595] RIP: 0010:hang_with_interrupts_off+0xb/0x10 [hang]
[   46.985201]  </NMI>
[   46.987067] Sending NMI from CPU 0 to CPUs 1:
[   46.987977] NMI backtrace for cpu 1
[   46.988067] CPU: 1 UID: 0 PID: 24 Comm: migration/1 Tainted: G           OE       7.3.4+deb13-amd64 #1 PREEMPT(lazy)
[   46.988146] RIP: 0010:__get_user_pages+0x1f3/0x1180
[   48.547831] NMI backtrace for cpu 0
[   48.547928] CPU: 0 UID: 0 PID: 18 Comm: migration/0 Tainted: G           OE       7.3.4+deb13-amd64 #1 PREEMPT(lazy)
[   48.549823] RIP: 0010:vpanic+0x166/0x360
";

    #[test]
    fn each_cpu_is_where_its_first_backtrace_has_it() {
        assert_eq!(
            said(NMI).unwrap(),
            "CPU 0 is in hang_with_interrupts_off [hang], CPU 1 is in __get_user_pages"
        );
    }

    #[test]
    fn cpus_of_one_place_stand_together_and_idle_ones_are_called_so() {
        let log = "\
[   45.98] CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 7.3.4+deb13-amd64 #1 PREEMPT(lazy)
[   45.98] RIP: 0010:pv_native_safe_halt+0xf/0x20
[   45.99] NMI backtrace for cpu 0 skipped: idling at default_idle+0x9/0x20
[   45.99] NMI backtrace for cpu 2
[   45.99] CPU: 2 UID: 0 PID: 9 Comm: awk Not tainted 7.3.4+deb13-amd64 #1 PREEMPT(lazy)
[   45.99] RIP: 0033:0x55d0c8a6f2b1
";
        assert_eq!(said(log).unwrap(), "CPUs 0, 1 are idle, CPU 2 is in a program");
    }

    #[test]
    fn a_log_without_backtraces_says_nothing() {
        assert_eq!(said("[    1.0] CPU: 0 of nothing\n[ 2.0] sysrq: Changing Loglevel\n"), None);
    }
}
