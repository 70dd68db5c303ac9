// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An interactive shell, or a program of the user's, on the virtio-serial port `longpin.shell`: at a pty, until it exits.

use crate::error::{OrRefused, StepError};
use crate::{exec, port};
use longpin_proto::agent::Fact;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Name of the port.
const PORT_NAME: &str = "longpin.shell";
/// How long the port may take to appear.
const PORT_DEADLINE: Duration = Duration::from_secs(5);
/// Size of the terminal: a serial port cannot tell the peer's, and programs misbehave on one of 0 by 0.
const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
/// A port without a peer is looked at this often: poll(2) would return at once, for ever, with POLLHUP.
const PEER_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long the last output of a shell may take to be read.
const DELIVERY: Duration = Duration::from_secs(10);

/// Run a program, or a shell if `argv` is empty. Blocks until it exits.
pub fn run(argv: &[String], plain: bool) -> Result<Fact, StepError> {
    let port = port::open(PORT_NAME, PORT_DEADLINE).or_failed("shell")?;
    rustix::io::ioctl_fionbio(&port, true).or_failed("shell port")?;
    let (terminal, child) = spawn(argv, plain)?;
    rustix::io::ioctl_fionbio(&terminal, true).or_failed("shell terminal")?;
    let bridge = Bridge { port, terminal, to_terminal: Vec::new(), to_port: Vec::new() };
    Ok(Fact::Exec { code: bridge.run(child)?, output: String::new() })
}

fn spawn(argv: &[String], plain: bool) -> Result<(OwnedFd, Child), StepError> {
    let terminal = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .or_failed("openpt")?;
    rustix::pty::unlockpt(&terminal).or_failed("unlockpt")?;
    rustix::termios::tcsetwinsize(&terminal, SIZE).or_failed("tcsetwinsize")?;
    let name = rustix::pty::ptsname(&terminal, Vec::new()).or_failed("ptsname")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let side = rustix::fs::open(&name, flags, Mode::empty()).or_failed("open(pts)")?;
    if plain {
        let mut attributes = tcgetattr(&side).or_failed("tcgetattr")?;
        attributes.local_modes.remove(LocalModes::ECHO);
        attributes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&side, OptionalActions::Now, &attributes).or_failed("tcsetattr")?;
    }
    let copy = || side.try_clone().or_failed("dup(pts)");
    let mut command = Command::new(exec::find_program("busybox")?);
    // `setsid -c` makes a session and takes standard input as its controlling terminal.
    command.args(["setsid", "-c"]);
    match argv {
        [] => command.args(["sh", "-i"]),
        [program, arguments @ ..] => command.arg(exec::find_program(program)?).args(arguments),
    };
    let child = command
        .envs(exec::ENVIRONMENT)
        .env("TERM", "vt100")
        .stdin(copy()?)
        .stdout(copy()?)
        .stderr(side)
        .spawn()
        .or_failed("busybox setsid")?;
    Ok((terminal, child))
}

/// Bytes between the port and the terminal. Both ends do not block.
struct Bridge {
    port: File,
    terminal: OwnedFd,
    to_terminal: Vec<u8>,
    to_port: Vec<u8>,
}

impl Bridge {
    /// Exit code; 128 + signal.
    fn run(mut self, mut child: Child) -> Result<i32, StepError> {
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .or_failed("pidfd_open")?;
        let mut has_peer = true;
        loop {
            let mut fds = vec![
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&self.terminal, want(&self.to_port, &self.to_terminal)),
            ];
            if has_peer {
                fds.push(PollFd::new(&self.port, want(&self.to_terminal, &self.to_port)));
            }
            match poll(&mut fds, (!has_peer).then_some(&PEER_CHECK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).or_failed("poll"),
            }
            let ended = !fds[0].revents().is_empty();
            has_peer = fds.get(2).is_none_or(|port| !port.revents().contains(PollFlags::HUP));
            drop(fds);
            self.transfer(has_peer);
            if ended {
                break;
            }
        }
        if has_peer {
            self.deliver()?;
        }
        let status = child.wait().or_failed("waitpid")?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// The last output of a shell that has ended, to a peer that takes it.
    fn deliver(&mut self) -> Result<(), StepError> {
        let deadline = Instant::now() + DELIVERY;
        loop {
            fill(&self.terminal, &mut self.to_port);
            if self.to_port.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
            match poll(&mut fds, Some(&PEER_CHECK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).or_failed("poll"),
            }
            if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
            flush(&self.port, &mut self.to_port);
        }
    }

    /// Move what can be moved. Without a peer, output has no reader and is dropped.
    fn transfer(&mut self, has_peer: bool) {
        fill(&self.terminal, &mut self.to_port);
        fill(&self.port, &mut self.to_terminal);
        flush(&self.terminal, &mut self.to_terminal);
        flush(&self.port, &mut self.to_port);
        if !has_peer {
            self.to_port.clear();
        }
    }
}

/// An end is read only when what came from it has gone on, and written to only when there is something.
fn want(from_it: &[u8], to_it: &[u8]) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, from_it.is_empty());
    flags.set(PollFlags::OUT, !to_it.is_empty());
    flags
}

/// Read once more only when the last bytes are gone: a slow end slows the other down.
fn fill(from: impl rustix::fd::AsFd, pending: &mut Vec<u8>) {
    if pending.is_empty() {
        let mut chunk = [0; 4096];
        if let Ok(n) = rustix::io::read(from, &mut chunk) {
            pending.extend(&chunk[..n]);
        }
    }
}

fn flush(to: impl rustix::fd::AsFd, pending: &mut Vec<u8>) {
    if !pending.is_empty()
        && let Ok(n) = rustix::io::write(to, pending)
    {
        pending.drain(..n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn ends() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        theirs.set_nonblocking(true).expect("a socket");
        (ours, theirs)
    }

    #[test]
    fn all_output_of_a_shell_that_has_ended_arrives() {
        let (mut person, port) = ends();
        let (mut program, terminal) = ends();
        let said: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        program.write_all(&said).unwrap();
        let child = Command::new("true").spawn().unwrap();
        let (port, terminal) = (File::from(OwnedFd::from(port)), OwnedFd::from(terminal));
        let bridge = Bridge { port, terminal, to_terminal: Vec::new(), to_port: Vec::new() };
        let shell = std::thread::spawn(move || bridge.run(child));
        let mut heard = vec![0; said.len()];
        person.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        person.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
        drop(program);
        assert_eq!(shell.join().unwrap(), Ok(0));
    }

    #[test]
    fn an_end_that_has_to_wait_wakes_nobody() {
        assert_eq!(want(b"", b""), PollFlags::IN);
        assert_eq!(want(b"", b"x"), PollFlags::IN | PollFlags::OUT);
        assert_eq!(want(b"x", b""), PollFlags::empty());
    }
}
