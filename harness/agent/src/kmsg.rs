// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel log by `/dev/kmsg`: every record once, in order, from boot on; an overrun is a line of its own.

use crate::error::{OrRefused, StepError};
use longpin_proto::facts::{KERNEL_LOG_OVERRUN, KernelLine};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Records in one answer: a log that grows while it is read ends somewhere; the next call has the rest.
const MAX_LINES: usize = 20_000;
/// Largest record (kernel: PRINTK_MESSAGE_MAX, 2 KiB), with room.
const RECORD_BYTES: usize = 8192;

/// A reader with its own position.
#[derive(Debug)]
pub struct KernelLog {
    device: OwnedFd,
    last: Option<KernelLine>,
}

impl KernelLog {
    /// Opens the log at its oldest record.
    pub fn open() -> Result<Self, StepError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/kmsg", flags, Mode::empty()).or_refused("open(/dev/kmsg)")?;
        Ok(Self { device, last: None })
    }

    /// Records since the last call. Does not block.
    pub fn read(&mut self) -> Result<Vec<KernelLine>, StepError> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD_BYTES];
        while lines.len() < MAX_LINES {
            match rustix::io::read(&self.device, &mut record) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => lines.extend(parse_record(&record[..n])),
                Err(Errno::PIPE) => lines.push(self.overrun(lines.last())),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).or_refused("read(/dev/kmsg)"),
            }
        }
        self.last = lines.last().cloned().or(self.last.take());
        Ok(lines)
    }

    /// The kernel moves a reader that was overtaken to the oldest record and says EPIPE once.
    fn overrun(&self, before: Option<&KernelLine>) -> KernelLine {
        let before = before.or(self.last.as_ref());
        KernelLine {
            seq: before.map_or(0, |line| line.seq + 1),
            level: 4,
            time_us: before.map_or(0, |line| line.time_us),
            text: KERNEL_LOG_OVERRUN.to_owned(),
        }
    }
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,...];TEXT\n KEY=VALUE\n...` (Documentation/ABI/testing/dev-kmsg).
fn parse_record(record: &[u8]) -> Option<KernelLine> {
    let record = String::from_utf8_lossy(record);
    let (head, rest) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let seq = fields.next()?.parse().ok()?;
    let time_us = fields.next()?.parse().ok()?;
    let text = rest.lines().next().unwrap_or_default();
    Some(KernelLine { seq, level: (priority & 7) as u8, time_us, text: unescape(text) })
}

/// The kernel writes unprintable bytes and the backslash as `\xNN`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped =
            tail.strip_prefix(b"x").filter(|_| first == b'\\').and_then(|hex| hex_byte(hex.get(..2)?));
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A note of the agent itself in the kernel log, at level info. Best effort.
pub fn note(text: &str) {
    write_record(6, text);
}

/// Why the agent ends, at level err: that reaches the console of a quiet kernel too. Best effort.
pub fn last_words(text: &str) {
    write_record(3, text);
}

fn write_record(level: u8, text: &str) {
    /// Facility "user": not taken for a line of the kernel.
    const USER: u8 = 1 << 3;
    let record = format!("<{}>longpin-agent: {text}\n", USER | level);
    let log = std::fs::OpenOptions::new().write(true).open("/dev/kmsg");
    let _ = log.and_then(|mut log| std::io::Write::write_all(&mut log, record.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_level_sequence_time_and_first_line() {
        let record =
            b"12,339,5140900,-;EXT4-fs (vda): mounted filesystem\n SUBSYSTEM=block\n DEVICE=b254:0\n";
        let line = parse_record(record).unwrap();
        assert_eq!((line.level, line.seq, line.time_us), (4, 339, 5_140_900));
        assert_eq!(line.text, "EXT4-fs (vda): mounted filesystem");
    }

    #[test]
    fn records_with_a_caller_field_are_read_too() {
        let line = parse_record(b"6,1,0,-,caller=T1;hello; world\n").unwrap();
        assert_eq!(line.text, "hello; world");
    }

    #[test]
    fn escapes_become_their_bytes() {
        assert_eq!(unescape(r"a\x09b\x5cc\x0ad"), "a\tb\\c\nd");
        assert_eq!(unescape(r"\xzz \x4"), r"\xzz \x4");
        assert_eq!(unescape(r"gr\xc3\xbcn"), "grün");
    }

    #[test]
    fn what_is_not_a_record_is_left_out() {
        for garbage in [&b""[..], b"no semicolon", b"x,1,2,-;text", b"1,2;text"] {
            assert_eq!(parse_record(garbage), None);
        }
    }
}
