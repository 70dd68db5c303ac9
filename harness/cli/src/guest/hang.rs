// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that did not answer in its time, asked where it stands while it is still there: QEMU for its state and the
//! registers, the kernel for its backtraces. All of it goes to one file beside the boot's logs.
//!
//! The kernel is asked by the keyboard's sysrq keys, which it takes as long as a CPU takes interrupts, whoever else is
//! stuck; then by an NMI, which gets through with interrupts off, and which the kernel answers with a panic
//! (`unknown_nmi_panic`). What was asked before and could not be printed comes out then.

use super::dump::Dumps;
use crate::deadline::Deadline;
use crate::patience::Patience as Factor;
use crate::vm::console;
use crate::vm::qmp::Qmp;
use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use longpin_core::dmesg::places;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the file in the boot's directory.
const FILE: &str = "hang.txt";
/// QEMU's monitor answers at once, whatever its guest does.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the kernel's answer that are kept; `console.log` has all of it.
const ANSWER_BYTES: u64 = 1 << 20;
/// Last lines of the console from before it was asked.
const CONSOLE_LINES: usize = 60;
/// What is read of the agent's log, and kept of it.
const AGENT_BYTES: u64 = 16 << 10;
const AGENT_LINES: usize = 12;
/// Bytes of one line of it: content of files has no end.
const LINE_BYTES: usize = 400;
/// What is asked: to print everything; the backtraces of all CPUs, of the blocked tasks, of all tasks.
const KEYS: [&str; 4] = ["9", "l", "w", "t"];

/// Where a guest left its traces.
pub struct Scene<'a> {
    /// The boot's directory.
    pub dir: &'a Path,
    /// Its console.
    pub console: &'a Path,
    /// Who may end the questions.
    pub interrupt: &'a Receiver<()>,
    /// Memory is wanted.
    pub dumps: Option<&'a Dumps>,
    /// How long an answer is waited for.
    pub patience: Patience,
}

/// How long an answer of the kernel is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until it begins.
    pub begin: Duration,
    /// Silence that ends it.
    pub quiet: Duration,
    /// All of it.
    pub whole: Duration,
}

impl Patience {
    /// The same for a slower guest. Silence between two lines stays what it is.
    pub fn stretched(self, by: Factor) -> Self {
        Self { begin: by.of_any(self.begin), whole: by.of_any(self.whole), ..self }
    }
}

/// For a translated guest on a busy host; all tasks go over a serial line.
pub const PATIENCE: Patience = Patience {
    begin: Duration::from_secs(10),
    quiet: Duration::from_secs(1),
    whole: Duration::from_secs(60),
};

/// Why a guest that did not answer was not at fault.
#[derive(Debug, PartialEq, Eq)]
pub struct NotTheGuest(pub String);

/// Ask, and write it down: the sentence that goes on from `waited`. QEMU runs on, or has ended with its guest's panic.
pub fn explain(qmp: &mut Qmp, scene: &Scene<'_>, waited: &str) -> Result<String, NotTheGuest> {
    let status = status(qmp).map_err(|error| NotTheGuest(format!("{error:#}; {waited}")))?;
    if status != "running" {
        return Err(NotTheGuest(format!("{waited}; QEMU says that its guest is not running but `{status}`")));
    }
    let mut monitor = Monitor::new(qmp);
    let mut text = format!("QEMU's word: the guest is {status}\n");
    section(&mut text, "Last words of the agent, `>` to it and `<` from it (agent.log)", &agent(scene.dir));
    let before = console::len(scene.console);
    let last_lines = console::last_lines(scene.console, CONSOLE_LINES);
    section(&mut text, "Last lines of the console (console.log)", &last_lines.join("\n"));
    let registers = monitor.ask("info registers -a", Qmp::human);
    let registers = registers.unwrap_or_else(|| "(QEMU does not say)".to_owned());
    let heard_at_once = ask_by_keys(&mut monitor, scene);
    // An NMI ends the guest.
    let dump = scene.dumps.map(|dumps| {
        let dump = dumps.take(monitor.qmp, scene.dir);
        monitor.note("dump-guest-memory", &dump);
        dump
    });
    if !heard_at_once {
        ask_by_nmi(&mut monitor, scene);
    }
    let Monitor { log, asked, .. } = monitor;
    let answer = console::after(scene.console, before, ANSWER_BYTES);
    let heard = Heard::of(heard_at_once, asked, &answer);
    section(&mut text, heard.title(), &answer);
    section(&mut text, "Registers (QEMU: info registers -a)", &registers);
    section(&mut text, "What QEMU was told to do, in seconds from the first question", &log);
    let place = places::sentence(&places::places(answer.lines()));
    let place = place.map(|place| format!("; {place}")).unwrap_or_default();
    let dump = dump.map(|dump| format!("; {dump}")).unwrap_or_default();
    let heading = format!("{waited}{}{place}{dump}", heard.clause(Interrupts::of(&registers)));
    let path = scene.dir.join(FILE);
    let written = std::fs::write(&path, format!("{heading}\n\n{text}"));
    let file = match written {
        Ok(()) => format!("see {}", shown(&path).display()),
        Err(error) => format!("{} cannot be written: {error}", path.display()),
    };
    Ok(format!("{heading}; {file}"))
}

fn status(qmp: &mut Qmp) -> anyhow::Result<String> {
    let answer = qmp
        .execute("query-status", Deadline::after(MONITOR_TIMEOUT))
        .context("QEMU does not answer on its monitor: it was stopped, or the host keeps it from running")?;
    let status = answer.get("status").and_then(Value::as_str);
    Ok(status.context("QEMU's status has no word for its guest")?.to_owned())
}

/// Who answered what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// The keys, at once.
    Keys,
    /// The keys, and it could not print.
    KeysByNmi,
    /// The NMI alone.
    Nmi,
    Nothing,
    /// Not all questions reached the guest, and what did had no answer.
    NotAsked,
}

impl Heard {
    fn of(at_once: bool, asked: bool, answer: &str) -> Self {
        match () {
            () if at_once => Self::Keys,
            () if answer.contains("sysrq: ") => Self::KeysByNmi,
            () if !answer.is_empty() => Self::Nmi,
            () if asked => Self::Nothing,
            () => Self::NotAsked,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Keys => "The kernel's answer to sysrq 9, l, w, t",
            Self::KeysByNmi => "The kernel's answer to sysrq 9, l, w, t, which came out with an NMI only",
            Self::Nmi => "The kernel's answer to an NMI; it took no sysrq key",
            Self::Nothing => "The kernel's answer to sysrq 9, l, w, t and to an NMI",
            Self::NotAsked => "The kernel's answer; it was not asked all, see the end",
        }
    }

    /// What it says of the kernel. That no key was taken does not say why: a kernel may have no driver of the keyboard.
    fn clause(self, interrupts: Option<Interrupts>) -> &'static str {
        match (self, interrupts) {
            (Self::Keys, _) => "",
            (Self::KeysByNmi, _) => "; it takes interrupts, and no CPU is free to print",
            (Self::Nmi, Some(Interrupts::Off)) => "; it takes no interrupts",
            (Self::Nmi, _) => "; it takes no sysrq key",
            (Self::Nothing, Some(Interrupts::Off)) => "; it takes neither interrupts nor an NMI",
            (Self::Nothing, _) => "; it answers neither sysrq keys nor an NMI",
            (Self::NotAsked, _) => "; it could not be asked where it stands",
        }
    }
}

/// Whether a CPU of the guest would take one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupts {
    On,
    Off,
}

impl Interrupts {
    /// Bit 9 of RFLAGS is the interrupt flag.
    fn of(registers: &str) -> Option<Self> {
        let flags = registers.split("RFL=").skip(1).filter_map(|rest| {
            let hex = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
            u64::from_str_radix(hex, 16).ok()
        });
        flags.fold(None, |found, flags| match flags & 1 << 9 {
            0 => found.or(Some(Self::Off)),
            _ => Some(Self::On),
        })
    }
}

/// QEMU's monitor, and what came of each command: a question that never reached the guest must not read as a kernel
/// that does not answer.
struct Monitor<'a> {
    qmp: &'a mut Qmp,
    began: Instant,
    log: String,
    /// Everything so far was passed on, and waited for.
    asked: bool,
}

impl<'a> Monitor<'a> {
    fn new(qmp: &'a mut Qmp) -> Self {
        Self { qmp, began: Instant::now(), log: String::new(), asked: true }
    }

    fn ask<T>(
        &mut self,
        command: &str,
        how: impl Fn(&mut Qmp, &str, Deadline) -> anyhow::Result<T>,
    ) -> Option<T> {
        match how(self.qmp, command, Deadline::after(MONITOR_TIMEOUT)) {
            Ok(answer) => {
                self.note(command, "done");
                Some(answer)
            }
            Err(error) => {
                self.note(command, &format!("{error:#}"));
                self.asked = false;
                None
            }
        }
    }

    /// Wait until the kernel says something, for `begin` at most, and then until it is quiet.
    fn settle(&mut self, scene: &Scene<'_>, begin: Duration) {
        let (begin, end) = (Deadline::after(begin), Deadline::after(scene.patience.whole));
        let start = console::len(scene.console);
        let mut len = start;
        loop {
            if scene.interrupt.recv_timeout(scene.patience.quiet) == Err(RecvTimeoutError::Disconnected) {
                self.note("(waiting for the kernel)", "cut short by a signal to longpin");
                self.asked = false;
                return;
            }
            let now = console::len(scene.console);
            let quiet = now == len && (now > start || begin.passed());
            len = now;
            if quiet || end.passed() {
                return;
            }
        }
    }

    fn note(&mut self, command: &str, outcome: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.log, "{:6.1} {command}: {outcome}", self.began.elapsed().as_secs_f64());
    }
}

/// False: nothing was printed.
fn ask_by_keys(monitor: &mut Monitor<'_>, scene: &Scene<'_>) -> bool {
    let before = console::len(scene.console);
    let mut heard = false;
    for (nth, key) in KEYS.iter().enumerate() {
        if monitor.ask(&format!("sendkey alt-sysrq-{key}"), press).is_none() {
            break;
        }
        // Who does not answer the first key may yet take the others, and print the answers when an NMI comes.
        let begin = if heard || nth == 0 { scene.patience.begin } else { scene.patience.quiet };
        monitor.settle(scene, begin);
        heard = console::len(scene.console) > before;
    }
    heard
}

/// The monitor for people has its errors in the answer, and says nothing of a key that it sent.
fn press(qmp: &mut Qmp, command: &str, deadline: Deadline) -> anyhow::Result<()> {
    let answer = qmp.human(command, deadline)?;
    anyhow::ensure!(answer.trim().is_empty(), "QEMU refuses it: {}", answer.trim());
    Ok(())
}

fn ask_by_nmi(monitor: &mut Monitor<'_>, scene: &Scene<'_>) {
    if monitor.ask("inject-nmi", Qmp::execute).is_some() {
        monitor.settle(scene, scene.patience.begin);
    }
}

/// The last lines, each cut: what was asked last, and what came.
fn agent(dir: &Path) -> String {
    let log = dir.join("agent.log");
    let text = console::after(&log, console::len(&log).saturating_sub(AGENT_BYTES), AGENT_BYTES);
    let mut lines: Vec<&str> = text.lines().rev().take(AGENT_LINES).collect();
    lines.reverse();
    let cut = |line: &&str| line.chars().take(LINE_BYTES).collect::<String>();
    lines.iter().map(cut).collect::<Vec<_>>().join("\n")
}

fn section(text: &mut String, title: &str, content: &str) {
    let content = if content.trim().is_empty() { "(nothing)" } else { content.trim_end() };
    // Writing to a String cannot fail.
    let _ = write!(text, "\n## {title}\n\n{content}\n");
}

/// As people find it from the result directory: `boot-1/hang.txt`.
pub fn shown(path: &Path) -> PathBuf {
    let dir = path.parent().and_then(Path::file_name);
    dir.map(Path::new).unwrap_or(Path::new("")).join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    /// What a QEMU does for one command: its answer, and what its guest then says on the console.
    type Act = fn(&str) -> (&'static str, &'static str);

    fn running(command: &str) -> (&'static str, &'static str) {
        match command {
            "query-status" => (r#"{"return": {"status": "running", "running": true}}"#, ""),
            "human-monitor-command info registers -a" => {
                (r#"{"return": "CPU#0\r\nRAX=00\r\nRFL=00000002\r\n"}"#, "")
            }
            _ => (r#"{"return": ""}"#, ""),
        }
    }

    struct Hung {
        dir: tempfile::TempDir,
        told: Result<String, NotTheGuest>,
        commands: Vec<String>,
    }

    impl Hung {
        fn file(&self) -> String {
            std::fs::read_to_string(self.dir.path().join(FILE)).unwrap()
        }
    }

    fn explained(act: Act, dumps: Option<&Dumps>) -> Hung {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        std::fs::write(&console, "[    1.0] the last line\n").unwrap();
        std::fs::write(dir.path().join("agent.log"), "  1.0 > {\"op\":\"sync\"}\n").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = console.clone();
        let qemu = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}}}"#;
            writeln!(writer, "{greeting}").unwrap();
            let mut commands = Vec::new();
            for line in BufReader::new(theirs).lines().map_while(Result::ok) {
                let order: Value = serde_json::from_str(&line).unwrap();
                let arguments = &order["arguments"];
                let words = [&order["execute"], &arguments["command-line"], &arguments["format"]];
                let command = words.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(" ");
                if command == "quit" {
                    break;
                }
                let (answer, said) = act(&command);
                // The guest is heard before the monitor's answer, so that no test waits for it.
                OpenOptions::new().append(true).open(&log).unwrap().write_all(said.as_bytes()).unwrap();
                commands.push(command);
                if answer.is_empty() {
                    break;
                }
                writeln!(writer, "{answer}").unwrap();
            }
            commands
        });
        let mut qmp = Qmp::handshake(ours, Deadline::after(Duration::from_secs(30))).unwrap();
        let (_asked, interrupt) = crossbeam_channel::bounded(0);
        let millis = Duration::from_millis;
        let scene = Scene {
            dir: dir.path(),
            console: &console,
            interrupt: &interrupt,
            dumps,
            patience: Patience { begin: millis(1), quiet: millis(1), whole: Duration::from_secs(30) },
        };
        let told = explain(&mut qmp, &scene, "step `sync` did not end within 1 s");
        // The monitor's reader keeps the socket open.
        let _ = qmp.execute("quit", Deadline::after(Duration::from_secs(30)));
        Hung { told, commands: qemu.join().unwrap(), dir }
    }

    const BACKTRACE: &str =
        "[    2.0] CPU: 0 UID: 0 PID: 9 Comm: x Not tainted\n[    2.0] RIP: 0010:spin+0x1/0x2\n";

    #[test]
    fn a_kernel_that_takes_keys_is_asked_by_them_and_gets_no_nmi() {
        let hung = explained(
            |command| match command {
                "human-monitor-command sendkey alt-sysrq-l" => (r#"{"return": ""}"#, BACKTRACE),
                other => running(other),
            },
            None,
        );
        let told = hung.told.as_ref().unwrap();
        assert!(told.starts_with("step `sync` did not end within 1 s; CPU 0 is in spin; see "), "{told}");
        assert!(told.ends_with("/hang.txt"), "{told}");
        let keys: Vec<_> =
            hung.commands.iter().filter_map(|c| c.strip_prefix("human-monitor-command sendkey ")).collect();
        assert_eq!(keys, ["alt-sysrq-9", "alt-sysrq-l", "alt-sysrq-w", "alt-sysrq-t"]);
        assert!(!hung.commands.contains(&"inject-nmi".to_owned()), "{:?}", hung.commands);
        let file = hung.file();
        for part in
            ["CPU 0 is in spin\n", "\"op\":\"sync\"", "the last line", "RIP: 0010:spin", "CPU#0\nRAX=00"]
        {
            assert!(file.contains(part), "{part} in {file}");
        }
    }

    #[test]
    fn a_kernel_that_takes_no_interrupt_gets_an_nmi_after_its_memory_was_kept() {
        let dumps = Dumps::new(1024, 1024);
        let hung = explained(
            |command| match command {
                "inject-nmi" => (r#"{"return": {}}"#, BACKTRACE),
                other => running(other),
            },
            Some(&dumps),
        );
        let told = hung.told.as_ref().unwrap();
        assert!(told.contains("; it takes no interrupts; CPU 0 is in spin; its memory is in "), "{told}");
        let last: Vec<_> = hung.commands.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(last, ["inject-nmi", "dump-guest-memory kdump-zlib"]);
    }

    #[test]
    fn keys_whose_answer_an_nmi_brings_out_are_told_from_keys_that_nobody_took() {
        assert_eq!(Heard::of(false, true, "[ 1.0] sysrq: Show Blocked State\n"), Heard::KeysByNmi);
        assert_eq!(Heard::of(false, true, ""), Heard::Nothing);
    }

    /// As QEMU 11.1 prints the line.
    #[test]
    fn that_no_interrupt_is_taken_is_said_only_where_no_cpu_would() {
        let flags = |cpus: &[&str]| {
            Interrupts::of(
                &cpus.iter().map(|rfl| format!("RIP=ffff RFL={rfl} [--S----] CPL=0\n")).collect::<String>(),
            )
        };
        assert_eq!(flags(&["00000002", "00000046"]), Some(Interrupts::Off));
        assert_eq!(flags(&["00000002", "00000282"]), Some(Interrupts::On));
        assert_eq!(flags(&["00000282", "00000002"]), Some(Interrupts::On));
        assert_eq!(flags(&[]), None);
        assert_eq!(Heard::Nmi.clause(flags(&["00000282"])), "; it takes no sysrq key");
    }

    #[test]
    fn a_question_that_qemu_does_not_pass_on_is_no_silence_of_the_kernel() {
        let hung = explained(
            |command| match command {
                "human-monitor-command sendkey alt-sysrq-9" => {
                    (r#"{"return": "invalid parameter: sysrq\r\n"}"#, "")
                }
                "inject-nmi" => (r#"{"error": {"class": "GenericError", "desc": "no NMI here"}}"#, ""),
                other => running(other),
            },
            None,
        );
        let told = hung.told.as_ref().unwrap();
        assert!(told.contains("within 1 s; it could not be asked where it stands; see "), "{told}");
        let file = hung.file();
        for part in ["sendkey alt-sysrq-9: QEMU refuses it: invalid parameter: sysrq\n", "no NMI here"] {
            assert!(file.contains(part), "{part} in {file}");
        }
    }

    #[test]
    fn a_guest_that_qemu_does_not_run_is_not_at_fault() {
        let hung = explained(
            |command| match command {
                "query-status" => (r#"{"return": {"status": "paused", "running": false}}"#, ""),
                other => running(other),
            },
            None,
        );
        let NotTheGuest(why) = hung.told.unwrap_err();
        assert!(why.ends_with("; QEMU says that its guest is not running but `paused`"), "{why}");
    }

    #[test]
    fn a_qemu_that_does_not_answer_is_named_and_not_its_guest() {
        let hung = explained(
            |command| match command {
                "query-status" => ("", ""),
                other => running(other),
            },
            None,
        );
        let NotTheGuest(why) = hung.told.unwrap_err();
        assert!(why.starts_with("QEMU does not answer on its monitor"), "{why}");
    }

    #[test]
    fn memory_beyond_the_bound_is_not_kept_and_the_reason_says_so() {
        let dumps = Dumps::new(512, 1024);
        let hung = explained(running, Some(&dumps));
        let told = hung.told.unwrap();
        assert!(
            told.contains("its memory is not kept: 512 MiB are left of --dump, a guest has 1024"),
            "{told}"
        );
        assert!(told.contains("takes neither interrupts nor an NMI"), "{told}");
    }
}
