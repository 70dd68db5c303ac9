// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin pinner check`: a pinner of the user's against the protocol, on this host and without a guest. The file is
//! memory (a memfd), which the kernel lets everybody pin.

use crate::error::{Error, Result};
use anyhow::Context as _;
use longpin_pinner::{Client, Patience, Trouble};
use longpin_proto::pinner::{Answer, Ask};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::io::Write;
use std::path::Path;

const PAGE: u64 = 4096;
/// Pages of the file, and of the bytes.
const PAGES: u64 = 16;
/// What is pinned.
const PINNED: std::ops::Range<u64> = 2..12;

/// What was looked at, in order, and what is wrong with it, if something is.
#[derive(Debug, Default)]
pub struct Checked {
    lines: Vec<(&'static str, Option<String>)>,
}

impl Checked {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|(_, fault)| fault.is_none())
    }

    fn add(&mut self, what: &'static str, found: std::result::Result<(), String>) -> Option<()> {
        let fault = found.err();
        let good = fault.is_none();
        self.lines.push((what, fault));
        good.then_some(())
    }
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, fault) in &self.lines {
            match fault {
                None => writeln!(f, "ok     {what}")?,
                Some(fault) => writeln!(f, "fault  {what}: {fault}")?,
            }
        }
        Ok(())
    }
}

/// Check a program, and print what was found. Errors: `Usage` if it is no program; `Failed` is told by the result.
pub fn check(program: &Path) -> Result<bool> {
    let path =
        program.canonicalize().map_err(|error| Error::Usage(format!("{}: {error}", program.display())))?;
    let checked = look(&path, Patience::default()).map_err(Error::Infra)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe is the reader's own wish.
    let _ = write!(out, "{checked}");
    Ok(checked.is_good())
}

fn look(program: &Path, patience: Patience) -> anyhow::Result<Checked> {
    let mut checked = Checked::default();
    // Each part has a process of its own, and goes as far as it can.
    conversation(program, patience, &Memory::new()?, &mut checked);
    wrong_questions(program, patience, &Memory::new()?, &mut checked);
    let memory = Memory::new()?;
    if let Ok((client, _)) = memory.start(program, patience) {
        checked.add("ends when its input does, with exit code 0", told(client.hang_up()));
    }
    Ok(checked)
}

fn conversation(program: &Path, patience: Patience, memory: &Memory, checked: &mut Checked) -> Option<()> {
    let started = memory.start(program, patience);
    let mut client = match started {
        Ok((client, name)) => {
            let line =
                if name.name.len() <= 40 { Ok(()) } else { Err("its name is longer than 40 letters".into()) };
            checked.add("introduces itself", line)?;
            client
        }
        Err(trouble) => return checked.add("introduces itself", Err(trouble.to_string())),
    };
    let before = pins();
    let pin = Ask::Pin { offset: PINNED.start * PAGE, len: (PINNED.end - PINNED.start) * PAGE };
    checked.add("pins pages 2 to 11 of a file of 16", done(client.request(&pin)))?;
    if let (Some(before), Some(after)) = (before, pins()) {
        let grew = after > before;
        let fault = "the kernel's count of pins (nr_foll_pin_acquired of /proc/vmstat) did not grow";
        checked.add("what it says it pins is pinned", if grew { Ok(()) } else { Err(fault.into()) });
    }
    let described = match client.request(&Ask::Describe) {
        Ok(Answer::Ok(text)) if text.is_empty() => Err("it answers `ok` and no text".to_owned()),
        other => done(other),
    };
    checked.add("describes itself", described)?;
    for (what, offset, len, at) in [
        ("writes all pages", 0, 10, 0),
        ("writes one page, from the middle of the bytes", 3, 1, 7),
        ("writes the last page once more", 9, 1, 2),
    ] {
        let ask = Ask::Dma { offset: offset * PAGE, len: len * PAGE, at: at * PAGE };
        let expected = memory.expect(PINNED.start + offset, len, at);
        let found = done(client.request(&ask)).and_then(|()| memory.compare(&expected));
        checked.add(what, found)?;
    }
    let outside = Ask::Dma { offset: 9 * PAGE, len: 2 * PAGE, at: 0 };
    let before = memory.file_bytes();
    let found = denied(client.request(&outside)).and_then(|()| memory.compare(&before));
    checked.add("refuses to write behind what is pinned, and writes nothing", found)?;
    let clean = client.request(&Ask::Release { dirty: false });
    let released = match clean {
        // It may know only the other way.
        Ok(Answer::Errno { .. }) => done(client.request(&Ask::Release { dirty: true })),
        other => done(other),
    };
    checked.add("releases, clean or dirty", released)?;
    let again = Ask::Dma { offset: 0, len: PAGE, at: 0 };
    let before = memory.file_bytes();
    let found = denied(client.request(&again)).and_then(|()| memory.compare(&before));
    checked.add("refuses to write when it has released", found)?;
    checked.add("ends with `quit`, with exit code 0", told(client.quit()))
}

fn wrong_questions(program: &Path, patience: Patience, memory: &Memory, checked: &mut Checked) -> Option<()> {
    let (mut client, _) = memory.start(program, patience).ok()?;
    for (what, words) in [
        ("refuses to release what it has not pinned", "release dirty"),
        ("refuses to write where nothing is pinned", "dma 0 4096 0"),
        ("refuses an offset that is no page's", "pin 100 4096"),
        ("refuses a length that is none", "pin 0 0"),
        ("refuses pages behind the end of the file", "pin 1048576 4096"),
        ("answers words that it does not know with an errno", "teapot"),
    ] {
        checked.add(what, denied(client.request_line(words)))?;
    }
    let pin = Ask::Pin { offset: 0, len: PAGE };
    checked.add("pins all the same after that", done(client.request(&pin)))?;
    checked.add("ends with `quit` while it has pages pinned", told(client.quit()))
}

fn told(end: std::result::Result<(), Trouble>) -> std::result::Result<(), String> {
    end.map_err(|trouble| trouble.to_string())
}

fn done(answer: std::result::Result<Answer, Trouble>) -> std::result::Result<(), String> {
    match answer {
        Ok(Answer::Ok(_)) => Ok(()),
        Ok(Answer::Errno { number, call }) => Err(format!("it answers `errno {number} {call}`")),
        Err(trouble) => Err(trouble.to_string()),
    }
}

fn denied(answer: std::result::Result<Answer, Trouble>) -> std::result::Result<(), String> {
    match answer {
        Ok(Answer::Errno { .. }) => Ok(()),
        Ok(Answer::Ok(_)) => Err("it answers `ok`".into()),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// Pinned pages of the host, if that can be asked: the count is folded by who may write to stat_refresh.
fn pins() -> Option<i64> {
    std::fs::write("/proc/sys/vm/stat_refresh", "1").ok()?;
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<i64>().ok());
    Some(field("nr_foll_pin_acquired ")? - field("nr_foll_pin_released ")?)
}

/// A file, and the bytes that are to be written into it.
struct Memory {
    file: OwnedFd,
    bytes: OwnedFd,
}

impl Memory {
    fn new() -> anyhow::Result<Self> {
        let make = |name: &str, salt: u64| -> anyhow::Result<OwnedFd> {
            let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).context("memfd_create")?;
            rustix::fs::ftruncate(&fd, PAGES * PAGE).context("ftruncate(memfd)")?;
            for page in 0..PAGES {
                let content = content(page, salt);
                anyhow::ensure!(
                    rustix::io::pwrite(&fd, &content, page * PAGE)? == content.len(),
                    "a short write"
                );
            }
            Ok(fd)
        };
        Ok(Self { file: make("longpin-file", 1)?, bytes: make("longpin-bytes", 2)? })
    }

    fn start(
        &self,
        program: &Path,
        patience: Patience,
    ) -> std::result::Result<(Client, longpin_proto::pinner::Name), Trouble> {
        Client::start(program, self.file.as_fd(), self.bytes.as_fd(), patience)
    }

    fn file_bytes(&self) -> Vec<u8> {
        read(&self.file)
    }

    /// The file with `len` pages of the bytes from page `at` on, at page `to`.
    fn expect(&self, to: u64, len: u64, at: u64) -> Vec<u8> {
        let range = |page: u64| (page * PAGE) as usize..((page + len) * PAGE) as usize;
        let mut file = self.file_bytes();
        file[range(to)].copy_from_slice(&read(&self.bytes)[range(at)]);
        file
    }

    fn compare(&self, expected: &[u8]) -> std::result::Result<(), String> {
        let file = self.file_bytes();
        let differs = file.iter().zip(expected).position(|(is, should)| is != should);
        differs.map_or(Ok(()), |at| Err(format!("byte {at} of the file is not what it should be after that")))
    }
}

fn read(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES * PAGE) as usize];
    let n = rustix::io::pread(fd, &mut bytes[..], 0).unwrap_or(0);
    bytes.truncate(n);
    bytes
}

/// Differs in each word of each page.
fn content(page: u64, salt: u64) -> Vec<u8> {
    (0..PAGE / 8).flat_map(|word| (page << 32 | word << 8 | salt).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// One in sh, which pins nothing and copies with dd: an honest liar.
    const TALE: &str = r#"#!/bin/sh
pinned=
while read -r line; do
    set -- "$1" "$2" $line
    case "$line" in
    hello*) echo pinner 1 tale 7 ;;
    describe) echo ok nothing at all ;;
    "pin 8192 40960" | "pin 0 4096") pinned=$(($4 / 4096)); len=$5; echo ok ;;
    pin*) echo errno 22 pin ;;
    release*) if [ "$pinned" ]; then pinned=; echo ok; else echo errno 22 release; fi ;;
    dma*)
        if [ "$pinned" ] && [ $(($4 + $5)) -le "$len" ]; then
            dd if=/proc/self/fd/"$2" of=/proc/self/fd/"$1" bs=4096 conv=notrunc status=none \
                seek=$(($4 / 4096 + pinned)) skip=$(($6 / 4096)) count=$(($5 / 4096))
            echo ok
        else
            echo errno 22 dma
        fi
        ;;
    quit) exit 0 ;;
    *) echo errno 38 what ;;
    esac
done
"#;

    fn checked(text: &str) -> String {
        let dir = tempfile::tempdir().expect("directory");
        let program = dir.path().join("tale");
        std::fs::write(&program, text).expect("script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let patience = Patience { answer: Duration::from_secs(60), quit: Duration::from_secs(60) };
        loop {
            let checked = look(&program, patience).expect("a look").to_string();
            // A child of another test has the script open for writing until it calls exec.
            if !checked.contains("Text file busy") {
                return checked;
            }
        }
    }

    /// Faults but that of the count, which other programs of this host change and not every user can ask for.
    fn faults(text: &str) -> Vec<String> {
        let pinned = |line: &&str| !line.contains("is pinned: the kernel's count");
        let checked = checked(text);
        checked.lines().filter(|line| line.starts_with("fault")).filter(pinned).map(str::to_owned).collect()
    }

    #[test]
    fn one_that_keeps_to_the_protocol_has_no_fault() {
        let checked = checked(TALE);
        assert_eq!(faults(TALE), [""; 0], "{checked}");
        assert!(checked.lines().count() >= 19, "{checked}");
        assert!(checked.ends_with("ok     ends when its input does, with exit code 0\n"), "{checked}");
    }

    #[test]
    fn each_fault_is_found() {
        for (right, wrong, fault) in [
            ("pinner 1 tale 7", "pinner 9 tale 7", "introduces itself: pinner "),
            ("echo ok nothing at all", "echo ok", "describes itself: it answers `ok` and no text"),
            ("seek=$(($4 / 4096 + pinned))", "seek=$(($4 / 4096))", "writes all pages: byte 0 of the file"),
            ("skip=$(($6 / 4096))", "skip=0", "writes one page, from the middle of the bytes: byte 20484 of"),
            ("-le \"$len\"", "-le 999999", "writes nothing: it answers `ok`"),
            (
                "release*) if",
                "release*) echo errno 5 x; continue; if",
                "releases, clean or dirty: it answers `errno 5 x`",
            ),
            ("pinned=; echo ok", "echo ok", "refuses to write when it has released: it answers `ok`"),
            (
                "quit) exit 0",
                "quit) exit 1",
                "ends with `quit`, with exit code 0: pinner tale 7 ended with exit code 1",
            ),
            (
                "pin*) echo errno 22 pin",
                "pin*) exit 9",
                "refuses an offset that is no page's: pinner tale 7 ended (exit code 9)",
            ),
            ("echo errno 38 what", "echo ok", "does not know with an errno: it answers `ok`"),
        ] {
            let text = TALE.replacen(right, wrong, 1);
            assert_ne!(text, TALE, "{right}");
            let found = faults(&text);
            assert!(found.iter().any(|line| line.contains(fault)), "{wrong}: {found:#?}");
        }
        let found = faults(&format!("{TALE}exit 4\n"));
        assert!(
            found.iter().any(|line| line.contains("ends when its input does, with exit code 0: ")),
            "{found:#?}"
        );
    }
}
