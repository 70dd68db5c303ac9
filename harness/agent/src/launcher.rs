// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The process that starts programs for the agent, so that a job asleep in a page fault never stops one.
//!
//! Starting a program maps a stack for the child (posix_spawn), which takes the mmap lock of the process for writing. A
//! job that sleeps in a fault holds the agent's (see `jobs`), for as long as the file system is frozen or the disk holds
//! its WRITE: a program that was to end the wait would never start, and everybody's faults would queue up behind it.
//! This process has an address space of its own and touches nothing that a scenario makes.
//!
//! It is the agent's own binary with the argument [`ARGUMENT`], and the socket on which it listens as standard input.
//! One connection is one program: a [`Request`], then [`Answer::Started`] once it runs, then how it ended. Programs that
//! outlive their parent become children of PID 1, the agent.

use crate::error::{OrRefused, StepError, failed};
use crate::exec::{self, Finished, KILL_GRACE};
use longpin_proto::line;
use rustix::process::Pid;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// First argument of the process.
pub const ARGUMENT: &str = "launcher";
/// Of the agent itself, whatever its name in the initramfs.
const OWN_BINARY: &str = "/proc/self/exe";
/// How long after a program's deadline and the grace of a kill the launcher may still be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// In place of a process number: the launcher is about to start the program.
pub const LAUNCHING: i32 = -1;

/// What is to be run.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    argv: Vec<String>,
    timeout_ms: u64,
    /// CPUs on which it may run: those of the thread that asks.
    cpus: Vec<usize>,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// It runs, as this process.
    Started(i32),
    /// It ended.
    Finished { code: i32, output: String },
    /// It could not be run, or not to its end.
    Failed(String),
}

/// Where it listens, once it has been started.
static LAUNCHER: OnceLock<SocketAddr> = OnceLock::new();

/// Start the process, once, before any job runs; returns its number.
pub fn start() -> Result<i32, StepError> {
    let (address, listener) = listen().or_failed("launcher's socket")?;
    let mut process = Command::new(OWN_BINARY);
    process.arg(ARGUMENT).stdin(Stdio::from(OwnedFd::from(listener)));
    let child = process.spawn().or_failed("launcher")?;
    match LAUNCHER.set(address) {
        Ok(()) => Ok(Pid::from_child(&child).as_raw_nonzero().get()),
        Err(_) => failed!("bug in the agent: a second launcher"),
    }
}

/// The launcher's own life: serve the socket that is its standard input. Returns if that fails.
pub fn serve_stdin() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    serve(&UnixListener::from(socket))
}

/// Run a program to its end; see [`exec::run`]. Meanwhile `leader` is [`LAUNCHING`], then the program's process number;
/// before and after that 0.
pub fn run(argv: &[String], timeout: Duration, leader: &AtomicI32) -> Result<Finished, StepError> {
    leader.store(LAUNCHING, Ordering::Release);
    let end = ask(argv, timeout, leader);
    leader.store(0, Ordering::Release);
    end
}

fn ask(argv: &[String], timeout: Duration, leader: &AtomicI32) -> Result<Finished, StepError> {
    let cpus = rustix::thread::sched_getaffinity(None).or_failed("sched_getaffinity")?;
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).collect();
    let request = Request { argv: argv.to_vec(), timeout_ms: timeout.as_millis() as u64, cpus };
    let mut stream = UnixStream::connect_addr(launcher()?).or_failed("launcher")?;
    stream.set_read_timeout(Some(timeout + KILL_GRACE + SILENCE)).or_failed("launcher")?;
    line::send(&mut stream, &request).or_failed("launcher")?;
    let mut answers = BufReader::new(stream);
    loop {
        match line::receive(&mut answers) {
            Ok(Answer::Started(pid)) => leader.store(pid, Ordering::Release),
            Ok(Answer::Finished { code, output }) => return Ok(Finished { code, output }),
            Ok(Answer::Failed(message)) => return Err(StepError::Failed(message)),
            Err(error) => return failed!("launcher of programs: {error}"),
        }
    }
}

fn launcher() -> Result<&'static SocketAddr, StepError> {
    #[cfg(test)]
    return Ok(LAUNCHER.get_or_init(tests::in_a_thread));
    #[cfg(not(test))]
    match LAUNCHER.get() {
        Some(address) => Ok(address),
        None => failed!("bug in the agent: the launcher of programs was not started"),
    }
}

/// A socket without a file, so that nothing has to be mounted or removed.
fn listen() -> io::Result<(SocketAddr, UnixListener)> {
    let name = format!("longpin-launcher-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    Ok((address, listener))
}

fn serve(listener: &UnixListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // Without a thread the connection is closed, and who asked is told.
        let thread = std::thread::Builder::new().name("program".to_owned());
        if let Err(error) = thread.spawn(move || answer(stream)) {
            crate::kmsg::note(&format!("launcher: no thread for a program: {error}"));
        }
    }
}

/// One program. Who asked and has gone needs no answer.
fn answer(mut stream: UnixStream) {
    let end = match request(&stream) {
        Ok(request) => launch(request, &mut stream),
        Err(error) => Err(error),
    };
    let answer = match end {
        Ok(Finished { code, output }) => Answer::Finished { code, output },
        Err(error) => Answer::Failed(error.to_string()),
    };
    let _ = line::send(&mut stream, &answer);
}

fn request(stream: &UnixStream) -> Result<Request, StepError> {
    line::receive(&mut BufReader::new(stream))
        .map_err(|error| StepError::Failed(format!("launcher: not a request: {error}")))
}

fn launch(request: Request, stream: &mut UnixStream) -> Result<Finished, StepError> {
    let mut cpus = CpuSet::new();
    for cpu in request.cpus.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU) {
        cpus.set(cpu);
    }
    // Inherited by the program.
    rustix::thread::sched_setaffinity(None, &cpus).or_failed("sched_setaffinity")?;
    let started = |pid: Pid| _ = line::send(stream, &Answer::Started(pid.as_raw_nonzero().get()));
    exec::run(&request.argv, Duration::from_millis(request.timeout_ms), started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// The launcher of unit tests: the same requests and answers, not another address space.
    pub fn in_a_thread() -> SocketAddr {
        let (address, listener) = listen().expect("an abstract socket");
        std::thread::spawn(move || serve(&listener));
        address
    }

    fn sh(script: &str, leader: &AtomicI32) -> Result<Finished, StepError> {
        run(&["sh", "-c", script].map(String::from), Duration::from_secs(60), leader)
    }

    #[test]
    fn what_a_program_left_comes_back() {
        let leader = AtomicI32::new(0);
        let finished = sh("echo out; exit 3", &leader).unwrap();
        assert_eq!(finished, Finished { code: 3, output: "out\n".into() });
        assert_eq!(leader.into_inner(), 0);
    }

    #[test]
    fn the_number_of_a_program_is_known_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert_eq!(sh(&format!("mkfifo {}", fifo.display()), &AtomicI32::new(0)).unwrap().code, 0);
        let leader = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let program = scope.spawn(|| sh(&format!("echo $$; cat {}", fifo.display()), &leader));
            let deadline = Instant::now() + Duration::from_secs(60);
            while leader.load(Ordering::Relaxed) <= 0 {
                assert!(Instant::now() < deadline, "no number");
                std::thread::yield_now();
            }
            let pid = leader.load(Ordering::Relaxed);
            std::fs::write(&fifo, "").unwrap();
            assert_eq!(program.join().unwrap().unwrap().output, format!("{pid}\n"));
        });
    }

    #[test]
    fn a_program_runs_on_the_cpus_of_the_thread_that_asks() {
        std::thread::spawn(|| {
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            let last = (0..CpuSet::MAX_CPU).rfind(|cpu| all.is_set(*cpu)).unwrap();
            let mut one = CpuSet::new();
            one.set(last);
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            let script = "grep Cpus_allowed_list /proc/self/status | cut -f 2";
            assert_eq!(sh(script, &AtomicI32::new(0)).unwrap().output, format!("{last}\n"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_told_by_its_name() {
        let Err(StepError::Failed(message)) =
            run(&["no-such-tool".into()], Duration::ZERO, &AtomicI32::new(0))
        else {
            panic!("ran")
        };
        assert!(message.contains("`no-such-tool` is not in the initramfs"), "{message}");
    }
}
