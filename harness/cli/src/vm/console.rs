// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's console log, read after the fact: did the guest panic, and what were its last words? Only the words
//! of `kernel/panic.c` count; warnings are judged from the kernel log that the agent reads, and from here only where the
//! guest died before the agent could read them.

use longpin_core::dmesg;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// How much of a log is looked at for a panic or an oops: it stands at the end, with its backtrace.
const WINDOW_BYTES: u64 = 256 << 10;
/// How much of it is looked at for evidence, once.
const EVIDENCE_BYTES: u64 = 4 << 20;
/// Last lines of a log that go into evidence: an oops with its registers and its trace has some seventy.
const TAIL_LINES: usize = 120;
/// Lines before those that go into evidence since they mean something.
const TELLING_LINES: usize = 1000;
/// First words of `panic()`.
const PANIC: &str = "Kernel panic - not syncing";
/// Of `do_exit()`, kernel/exit.c.
const LOST_INIT: &str = "Attempted to kill init!";
/// First word of `die()`: the running task is killed, or the machine panics.
const OOPS: &str = "Oops: ";

/// The line in which the guest says that it panicked.
pub fn panic_line(log: &Path) -> Option<String> {
    window(log, 0, WINDOW_BYTES).lines().find(|line| line.contains(PANIC)).map(without_time)
}

/// The same line, if what panicked it is that its init, the agent, died, and not by an oops: no fault of the kernel.
pub fn lost_init(log: &Path) -> Option<String> {
    panic_line(log).filter(|line| line.contains(LOST_INIT) && !has_oops(log))
}

/// The guest says that it oopsed.
pub fn has_oops(log: &Path) -> bool {
    window(log, 0, WINDOW_BYTES).lines().any(|line| line.contains(OOPS))
}

/// What a kernel lacks that never got so far as to greet, by its last words. `longpin kconfig` has the whole list.
pub fn advice(log: &Path) -> Option<&'static str> {
    /// What is said where, and what is missing then.
    const WORDS: [(&[&str], &str); 4] = [
        (
            &[
                "Cannot find place for new RAMDISK",
                "System is deadlocked on memory",
                "Initramfs unpacking failed: write error",
            ],
            "the kernel has no memory for its initramfs: give the guest more (--memory), or leave out what takes it away \
             (--append mem=)",
        ),
        (
            &["Unable to mount root fs", "Cannot open root device"],
            "the kernel took no initramfs: it needs CONFIG_BLK_DEV_INITRD=y",
        ),
        (
            &["No working init found", "Requested init /init failed", "Failed to execute /init"],
            "the kernel cannot run the agent, a program for x86-64: it needs CONFIG_64BIT=y and CONFIG_BINFMT_ELF=y",
        ),
        (
            &["longpin-agent: cannot go on: control port"],
            "the agent found no port: the kernel needs CONFIG_VIRTIO_CONSOLE and CONFIG_VIRTIO_PCI",
        ),
    ];
    let text = window(log, 0, WINDOW_BYTES);
    if text.trim().is_empty() {
        return Some(
            "the kernel says nothing on ttyS0: it needs CONFIG_SERIAL_8250_CONSOLE=y, and must be for x86-64; one that dies \
             before it has its console says why with CONFIG_EARLY_PRINTK=y",
        );
    }
    let said = |words: &[&str]| words.iter().any(|word| text.contains(word));
    WORDS.iter().find(|(words, _)| said(words)).map(|(_, advice)| *advice)
}

/// Bytes that the log has now; 0 if it cannot be read.
pub fn len(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |meta| meta.len())
}

/// Evidence after the first `before` bytes: the last lines, and of those before them the ones that mean something.
/// Nobody else may have read them.
pub fn evidence(log: &Path, before: u64) -> Vec<String> {
    let text = window(log, before, EVIDENCE_BYTES);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let (head, tail) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
    let telling = head.iter().filter(|line| dmesg::classify(line).is_some()).take(TELLING_LINES);
    telling.chain(tail).map(|line| (*line).to_owned()).collect()
}

/// The last lines, whatever they mean.
pub fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let text = window(log, 0, WINDOW_BYTES);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|line| (*line).to_owned()).collect()
}

/// What follows the first `before` bytes, at most `limit` bytes of it.
pub fn after(log: &Path, before: u64, limit: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        let _ = file.seek(SeekFrom::Start(before));
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// A log that cannot be read has no lines: that the guest died is known without it.
fn window(log: &Path, before: u64, limit: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        let _ = file.seek(SeekFrom::Start(len(log).saturating_sub(limit).max(before)));
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `[    1.853] text` -> `text`.
fn without_time(line: &str) -> String {
    let line = line.trim();
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text.to_owned(),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_panic_is_found_and_told_without_its_time() {
        let file = log(
            "[    1.85] List of all bdev filesystems:\r\n[    1.853324] Kernel panic - not syncing: sysrq triggered crash\r\n[    1.9] CPU: 0\r\n",
        );
        assert_eq!(
            panic_line(file.path()).as_deref(),
            Some("Kernel panic - not syncing: sysrq triggered crash")
        );
    }

    #[test]
    fn an_agent_that_dies_is_told_from_a_kernel_that_kills_it() {
        let panic = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b";
        let lost = |before: &str| lost_init(log(&format!("{before}[    2.0] {panic}\n")).path());
        assert_eq!(lost("").as_deref(), Some(panic));
        assert_eq!(lost("[    1.9] Oops: Oops: 0002 [#1] SMP NOPTI\n"), None);
        assert_eq!(
            lost_init(log("[    2.0] Kernel panic - not syncing: sysrq triggered crash\n").path()),
            None
        );
    }

    #[test]
    fn a_warning_is_no_panic_and_an_absent_log_is_empty() {
        let file = log("[    1.0] WARNING: CPU: 0 PID: 1 at mm/gup.c:1 foo\n");
        assert_eq!(panic_line(file.path()), None);
        assert_eq!(panic_line(Path::new("/nonexistent/console.log")), None);
        assert!(evidence(Path::new("/nonexistent/console.log"), 0).is_empty());
    }

    #[test]
    fn a_kernel_that_does_not_get_to_the_agent_is_told_what_it_lacks() {
        let advice = |text: &str| advice(log(text).path()).unwrap_or_default();
        let panic = "[ 1.2] VFS: Cannot open root device \"\" or unknown-block(0,0): error -6\n\
                     [ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n";
        assert!(advice(panic).contains("CONFIG_BLK_DEV_INITRD=y"));
        let elf = "[ 1.2] Failed to execute /init (error -8)\n[ 1.2] Kernel panic - not syncing: No working init found.";
        assert!(advice(elf).contains("CONFIG_BINFMT_ELF=y"));
        let port = "[ 32.1] longpin-agent: cannot go on: control port: no port longpin.agent\n";
        assert!(advice(port).contains("CONFIG_VIRTIO_CONSOLE"));
        assert!(advice("").contains("CONFIG_SERIAL_8250_CONSOLE=y"));
        let small = "[ 0.0] Kernel panic - not syncing: Cannot find place for new RAMDISK of size 39502428\n";
        assert!(advice(small).contains("--memory"));
        assert_eq!(advice("[    0.000000] Linux version 7.3.4\n"), "");
    }

    #[test]
    fn an_oops_is_found_and_evidence_leaves_out_what_was_before_the_case() {
        let before = "[    1.0] BTRFS error (device vda): of the case before\n";
        let file = log(&format!("{before}[    2.0] Oops: Oops: 0002 [#1] SMP NOPTI\n"));
        assert!(has_oops(file.path()));
        assert_eq!(len(file.path()), before.len() as u64 + 42);
        assert_eq!(evidence(file.path(), before.len() as u64), ["[    2.0] Oops: Oops: 0002 [#1] SMP NOPTI"]);
        assert!(!has_oops(log(before).path()));
    }

    #[test]
    fn evidence_is_bounded_and_has_what_means_something_and_the_last_line() {
        let telling = "BTRFS warning (device vda): csum failed root 5 ino 257 off 0";
        let text: String = (0..20_000)
            .map(|n| if n == 7 { format!("{telling}\n") } else { format!("line {n}\n\n") })
            .collect();
        let lines = evidence(log(&text).path(), 0);
        assert_eq!(lines.len(), 1 + TAIL_LINES);
        assert_eq!(lines.first().map(String::as_str), Some(telling));
        assert_eq!(lines.last().map(String::as_str), Some("line 19999"));
    }
}
