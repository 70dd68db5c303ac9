// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin shell`: a guest with the driver loaded, in the state that a scenario leaves behind if one is named, and a
//! shell on a port of its own, in the raw terminal.

use crate::args::ShellArgs;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::forced_end;
use crate::guest::{self, BootError, Guest};
use crate::library::Library;
use crate::output;
use crate::quote;
use crate::run::case::{self, Limits};
use crate::run::{self, Prepared};
use crate::vm::console;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_core::plan::Case;
use longpin_core::record::Trouble;
use longpin_proto::agent::{Fact, Outcome};
use longpin_proto::disk::MAX_HOLD_MS;
use longpin_proto::filesystem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Ctrl-], as telnet has it: it reaches us and not the guest.
const ESCAPE: u8 = 0x1d;
/// What a person finds ready beside our driver and the file systems: the disk.
const MODULES: [&str; 1] = ["virtio_blk"];
/// Far more than any scenario takes.
const STAGE_TIMEOUT: Duration = Duration::from_secs(600);
/// The answer of the agent follows the end of its port at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an end from outside is looked for; typing wakes us by itself.
const END_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Boot and connect until the shell exits or the escape is typed.
pub fn shell(args: &ShellArgs) -> Result<ExitCode> {
    session(args).map(|_| ExitCode::Good)
}

/// Boot, run the command and give its exit code.
pub fn command(args: &ShellArgs) -> Result<u8> {
    match session(args)? {
        Some(code) => Ok(code),
        None => Err(Error::Interrupted),
    }
}

/// Exit code of what ran in the guest; none if it was left before its end.
fn session(args: &ShellArgs) -> Result<Option<u8>> {
    let case = match args.library.scenarios.is_empty() {
        true => None,
        false => Library::load(&args.library)?.first_case(),
    };
    let needs = case.as_ref().map(Case::machine).unwrap_or_default();
    let Prepared { machine, notices, interrupt } = run::prepare(&args.machine, [&needs])?;
    notices.iter().for_each(|text| output::note(text));
    let dir = tempfile::Builder::new().prefix("longpin-shell-").tempdir().context("no directory for logs")?;
    let mut guest = match Guest::boot(&machine, &needs, dir.path(), true, &interrupt) {
        Ok(guest) => guest,
        Err(error) => {
            // The message names files in it.
            if matches!(error, BootError::Failed(_)) {
                let _ = dir.keep();
            }
            return Err(boot_error(error));
        }
    };
    guest.load_driver().map_err(boot_error)?;
    let absent = guest.lacks().modules.clone();
    let of_file_systems = filesystem::ALL.iter().flat_map(|fs| fs.modules);
    for module in MODULES.iter().chain(of_file_systems).filter(|module| !absent.contains(**module)) {
        guest.load_module(module).map_err(boot_error)?;
    }
    if let Some(case) = case {
        output::note(&format!("carrying out {}", case.id));
        let limits = Limits::new(machine.patience, STAGE_TIMEOUT);
        let staged = case::stage(&mut guest, &case, args.until, limits, &interrupt);
        let rules = match staged {
            Ok(rules) => rules,
            Err(Trouble::Interrupted) => return Err(Error::Interrupted),
            Err(other) => {
                drop(guest);
                // The message may name files in it.
                let (why, kept) = (guest::describe(&other), dir.keep());
                let kept = kept.display();
                return Err(Error::Infra(anyhow::anyhow!("{}: {why}; logs are kept in {kept}", case.id)));
            }
        };
        rules.iter().for_each(|rule| output::note(&standing(rule, guest.control_socket())));
    }
    let port = guest.take_shell().context("the guest has no shell port")?;
    // A pipe gets what the program prints and nothing else; who sits at a terminal wants to see what is typed.
    let plain = !args.command.is_empty() && !std::io::stdin().is_terminal();
    let shell = guest.start_shell(&args.command, plain).context("the shell cannot be started")?;
    if args.command.is_empty() {
        let driver = match &guest.lacks().driver {
            None => "/dev/longpin0 is there".to_owned(),
            Some(why) => format!("no /dev/longpin0 ({why})"),
        };
        output::note(&format!(
            "{driver}, the disks are /dev/vda and /dev/vdb; `exit` or Ctrl-] ends the guest"
        ));
    }
    let mut answer = None;
    let left = connect(port, || {
        answer = answer.take().or_else(|| guest.answer(shell, Deadline::after(Duration::ZERO)));
        interrupt.asked() || answer.is_some()
    })?;
    // The port can end before the answer is there.
    if !left && answer.is_none() && !interrupt.asked() {
        answer = guest.answer(shell, Deadline::after(machine.patience.of_any(ANSWER_TIMEOUT)));
    }
    drop(guest);
    if let Some(line) = console::panic_line(&dir.path().join("console.log")) {
        let kept = dir.keep();
        return Err(Error::Infra(anyhow::anyhow!(
            "the guest panicked: {line}; its console is kept in {}",
            kept.display()
        )));
    }
    match answer {
        Some(Ok(Outcome::Done { fact: Fact::Exec { code, .. } })) => {
            Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        Some(Ok(Outcome::Failed { message })) => Err(Error::Infra(anyhow::anyhow!(message))),
        Some(Ok(other)) => Err(Error::Infra(anyhow::anyhow!("the agent answered {other:?}"))),
        Some(Err(Trouble::Interrupted)) => Err(Error::Interrupted),
        Some(Err(trouble)) => Err(Error::Infra(anyhow::anyhow!(guest::describe(&trouble)))),
        None => Ok(None),
    }
}

/// A rule outlives the scenario's last step; a held write can be let go while one looks at what waits for it.
fn standing(rule: &str, control: &Path) -> String {
    let minutes = MAX_HOLD_MS / 60_000;
    let request = serde_json::json!({"request": "release-held", "rule": rule});
    format!(
        "rule `{rule}` stands on the disk, and what it holds stays held for up to {minutes} min; let it go on the host:\n    \
         echo {} | nc -N -U {}",
        quote::word(&request.to_string()),
        quote::word(&control.display().to_string())
    )
}

fn boot_error(error: BootError) -> Error {
    match error {
        BootError::Interrupted => Error::Interrupted,
        BootError::Failed(error) => Error::Infra(error),
    }
}

/// Copy both ways until it is over. True if the escape was typed.
fn connect(mut port: UnixStream, mut over: impl FnMut() -> bool) -> anyhow::Result<bool> {
    let raw = RawTerminal::enter()?;
    let (mut stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
    let (mut typing, mut in_line) = (true, false);
    let mut buffer = [0u8; 4096];
    loop {
        let mut fds = vec![PollFd::new(&port, PollFlags::IN)];
        if typing {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut fds, Some(&END_CHECK)) {
            // Nothing more to show: now an end is an end.
            Ok(0) if over() => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("terminal cannot be polled"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            match port.read(&mut buffer).context("shell port cannot be read")? {
                0 => return Ok(false),
                n => {
                    stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush()).context("standard output")?
                }
            }
        }
        if ready.get(1) == Some(&true) {
            let n = stdin.read(&mut buffer).context("standard input")?;
            let typed = &buffer[..n];
            if raw.0.is_some() && typed.contains(&ESCAPE) {
                return Ok(true);
            }
            port.write_all(typed).context("shell port cannot be written")?;
            // The end of a script: its output is still to come, and the program is told by an end of file, which in
            // the middle of a line takes two.
            if n == 0 {
                typing = false;
                port.write_all(if in_line { b"\x04\x04" } else { b"\x04" })
                    .context("shell port cannot be written")?;
            }
            in_line = typed.last().is_some_and(|byte| *byte != b'\n');
        }
    }
}

/// The terminal without line editing and signals, put back at the end. Nothing happens if input is no terminal.
struct RawTerminal(Option<(Termios, forced_end::Guard)>);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin).context("terminal attributes")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("terminal attributes")?;
        let restored = before.clone();
        let end = forced_end::register(move || restore(&restored));
        Ok(Self(Some((before, end))))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some((before, _)) = &self.0 {
            restore(before);
        }
    }
}

fn restore(before: &Termios) {
    // A terminal that is gone needs no restoring.
    let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
}
