// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a thread is in the kernel, by `/proc`: its state and the functions in which it waits.

use std::path::Path;

/// What the kernel shows of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadState {
    /// `R`, `S`, `D`, ...
    pub state: char,
    /// Functions, innermost first; empty if it runs or the kernel does not tell.
    pub stack: Vec<String>,
}

impl ThreadState {
    /// Of the thread or process with this directory in /proc. None if it has ended.
    pub fn read(dir: &Path) -> Option<Self> {
        let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
        let state = state_of(&stat)?;
        Some(Self { state, stack: stack(dir) })
    }
}

impl std::fmt::Display for ThreadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "state {}", self.state)?;
        if self.stack.is_empty() { Ok(()) } else { write!(f, " in {}", self.stack.join(" < ")) }
    }
}

/// `stack` is for root, and needs CONFIG_STACKTRACE; `wchan` has the innermost function alone, "0" if it runs.
fn stack(dir: &Path) -> Vec<String> {
    match std::fs::read_to_string(dir.join("stack")) {
        Ok(text) => functions(&text),
        Err(_) => {
            let place = std::fs::read_to_string(dir.join("wchan")).unwrap_or_default();
            Some(place).filter(|place| !place.is_empty() && place != "0").into_iter().collect()
        }
    }
}

/// The third field; the second, the name in brackets, may hold anything.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// From lines as `[<0>] folio_wait_bit_common+0x136/0x330 [xfs]`. Offsets, and the suffixes of a compiler's clones
/// (`.isra.0`), go: they differ between builds of one source.
fn functions(text: &str) -> Vec<String> {
    let symbol = |line: &str| {
        let symbol = line.split_whitespace().nth(1)?;
        let name = symbol.split(['+', '.']).next()?;
        // A function in Rust, by the name that it has in the source.
        let name = rustc_demangle::try_demangle(name).map_or(name.to_owned(), |name| format!("{name:#}"));
        (!name.is_empty() && !name.starts_with("0x")).then_some(name)
    };
    text.lines().filter_map(symbol).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_names_of_functions_innermost_first() {
        let text = "[<0>] folio_wait_bit_common+0x136/0x330\n[<0>] xfs_file_fsync.isra.0+0x1a/0x20 [xfs]\n\
                    [<0>] __x64_sys_fsync+0x3b/0x70\n[<0>] 0xffffffffffffffff\n";
        assert_eq!(functions(text), ["folio_wait_bit_common", "xfs_file_fsync", "__x64_sys_fsync"]);
        let rust =
            "[<0>] _RNvMs3_NtCs3b9hGgoVBtd_12longpin_main6mirrorNtB5_6Mirror8bring_in+0x1/0x2 [longpin]";
        assert_eq!(functions(rust), ["<longpin_main::mirror::Mirror>::bring_in"]);
        assert!(functions("").is_empty());
    }

    #[test]
    fn the_state_stands_behind_a_name_of_any_kind() {
        assert_eq!(state_of("12 (job) D 1 1 1"), Some('D'));
        assert_eq!(state_of("12 (a) S (b) R 1 1"), Some('R'));
        assert_eq!(state_of("12"), None);
    }

    #[test]
    fn a_thread_that_ended_has_no_state() {
        assert_eq!(ThreadState::read(Path::new("/proc/self/task/0")), None);
        let own = ThreadState::read(Path::new("/proc/thread-self")).expect("this thread lives");
        assert_eq!(own.state, 'R');
    }

    #[test]
    fn it_reads_as_a_sentence() {
        let stack = ["a", "b"].map(String::from).to_vec();
        assert_eq!(ThreadState { state: 'D', stack }.to_string(), "state D in a < b");
        assert_eq!(ThreadState { state: 'R', stack: vec![] }.to_string(), "state R");
    }
}
