// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One kind carried out: a run of this program in a directory of its own, what befalls it, its end, and what it left.

use super::debug_stub::DebugStub;
use super::kinds::{Act, Given, Kind};
use super::leftovers;
use super::verdict::{self, Ended};
use crate::child::Child;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::images::{Driver, Images};
use crate::interrupt::Interrupt;
use anyhow::{Context as _, bail};
use crossbeam_channel::select;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, kill_process, pidfd_getfd, pidfd_open};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For a whole run: a kind ends in seconds, or within a minute where a silent guest is waited for.
const RUN_DEADLINE: Duration = Duration::from_secs(300);
/// For the end of a run that is to stop.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// For what was killed to be gone.
const LEFTOVERS_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at how far a run is.
const LOOK: Duration = Duration::from_millis(20);

/// What a kind came to.
#[derive(Debug)]
pub enum Verdict {
    /// As it is due.
    Right,
    /// What differs.
    Wrong(Vec<String>),
    /// It could not be provoked, and why.
    NotTried(String),
}

/// What all trials have in common.
pub struct Trial<'a> {
    /// This very program.
    pub program: PathBuf,
    /// Word of `--accel`.
    pub accel: String,
    /// The stock kernel and its driver.
    pub images: &'a Images,
    /// A person may have no patience.
    pub interrupt: &'a Interrupt,
}

/// Places of one run.
struct Places<'a> {
    dir: &'a Path,
    tmp: PathBuf,
    out: PathBuf,
}

impl Trial<'_> {
    /// Carry a kind out in `dir`, which is made.
    ///
    /// Errors: `Interrupted`; anything else kept it from being tried.
    pub fn carry_out(&self, kind: &Kind, dir: &Path) -> Result<Verdict> {
        let places = Places { dir, tmp: dir.join("tmp"), out: dir.join("out") };
        fs::create_dir_all(&places.tmp).with_context(|| format!("{} cannot be made", dir.display()))?;
        let command = self.command(kind, &places)?;
        let log = dir.join("output");
        let mut run = Child::spawn("longpin", command, &log)?;
        let deadline = Deadline::after(RUN_DEADLINE);
        let acted = self.act(kind, &places, &mut run, deadline)?;
        if acted.is_ok() {
            self.wait(&run, deadline)?;
        }
        let in_time = run.ended().is_some();
        run.stop(STOP_GRACE);
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        if let Err(why) = acted {
            return Ok(Verdict::NotTried(format!("{why:#}; the run said: {}", said.trim())));
        }
        let result = fs::read(places.out.join("result.json")).ok();
        let result = result.and_then(|text| serde_json::from_slice(&text).ok());
        let code = run.ended().and_then(|status| status.code());
        let mut problems = match in_time {
            true => verdict::differences(&kind.due, &Ended { code, said, result }),
            false => vec![format!("the run did not end within {} s", RUN_DEADLINE.as_secs())],
        };
        problems.extend(left(&places));
        Ok(if problems.is_empty() { Verdict::Right } else { Verdict::Wrong(problems) })
    }

    fn command(&self, kind: &Kind, places: &Places<'_>) -> anyhow::Result<Command> {
        let file = places.dir.join(kind.scenario.file);
        fs::write(&file, kind.scenario.text)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        let mut command = self.program_in(&kind.given, places)?;
        command.arg("run").arg(&file).arg("--out").arg(&places.out).args(["--accel", &self.accel]);
        command.args(self.given(&kind.given, places)?);
        // What is tried is this source state, not a daemon of the user's.
        command.env("TMPDIR", &places.tmp).env_remove("LONGPIN_DEVICE");
        Ok(command)
    }

    /// This program, where it must be in a world with a small disk.
    fn program_in(&self, given: &Given, places: &Places<'_>) -> anyhow::Result<Command> {
        let (place, bytes) = match given {
            Given::SmallResultDisk(bytes) => (places.out.clone(), bytes),
            Given::SmallScratchDisk(bytes) => (disks(places), bytes),
            _ => return Ok(Command::new(&self.program)),
        };
        fs::create_dir(&place).with_context(|| format!("{} cannot be made", place.display()))?;
        let mut command = Command::new("bwrap");
        command.args(["--die-with-parent", "--dev-bind", "/", "/", "--size", &bytes.to_string(), "--tmpfs"]);
        command.arg(place).arg("--").arg(&self.program);
        Ok(command)
    }

    fn given(&self, given: &Given, places: &Places<'_>) -> anyhow::Result<Vec<OsString>> {
        Ok(match given {
            Given::Options(words) => words.iter().map(OsString::from).collect(),
            // Until it is full.
            Given::SmallResultDisk(_) => ["--repeat", "1000"].map(OsString::from).to_vec(),
            Given::SmallScratchDisk(_) => vec!["--disk-dir".into(), disks(places).into()],
            Given::DebugStub => {
                let mut socket = OsString::from("unix:");
                socket.push(debug_socket(places));
                socket.push(",server=on,wait=off");
                let words = [OsString::from("-gdb"), socket];
                words.into_iter().flat_map(|word| [OsString::from("--qemu-arg"), word]).collect()
            }
            Given::ForeignModule => {
                let file = places.dir.join("driver.ko");
                fs::write(&file, self.foreign_module()?).context("a driver for another kernel")?;
                self.kernel(self.images.kernel.vmlinuz().as_os_str(), Some(&file))
            }
            Given::NoKernelImage => {
                let file = places.dir.join("vmlinuz");
                fs::write(&file, "this is no kernel\n").context("a file that is no kernel")?;
                self.kernel(file.as_os_str(), None)
            }
        })
    }

    /// `--kernel IMAGE,modules=DIR[,module=FILE]` with the modules of the stock kernel.
    fn kernel(&self, image: &OsStr, module: Option<&Path>) -> Vec<OsString> {
        let mut word = image.to_owned();
        word.push(",modules=");
        word.push(self.images.kernel.modules_dir());
        if let Some(module) = module {
            word.push(",module=");
            word.push(module);
        }
        vec!["--kernel".into(), word]
    }

    /// The driver, with another release in its vermagic.
    fn foreign_module(&self) -> anyhow::Result<Vec<u8>> {
        let Driver::Module(module) = &self.images.driver else { bail!("the stock kernel has no driver") };
        let mut bytes = fs::read(module.path()).context("the driver cannot be read")?;
        let field = format!("\0vermagic={} ", self.images.kernel.release());
        let at = bytes.windows(field.len()).position(|window| window == field.as_bytes());
        let at = at.context("the driver's vermagic does not name its kernel")?;
        bytes[at + "\0vermagic=".len()] = b'0';
        Ok(bytes)
    }

    /// Wait until the run is where it is to be hit, and hit it.
    ///
    /// Errors: `Interrupted`. The inner error: it could not be hit.
    fn act(
        &self,
        kind: &Kind,
        places: &Places<'_>,
        run: &mut Child,
        deadline: Deadline,
    ) -> Result<anyhow::Result<()>> {
        if matches!(kind.act, Act::Nothing) {
            return Ok(Ok(()));
        }
        let Some(line) = kind.scenario.marked_line() else {
            return Ok(Err(anyhow::anyhow!("{} has no marked line", kind.scenario.file)));
        };
        while !is_at(&places.out, line) {
            if self.interrupt.asked() {
                return Err(Error::Interrupted);
            }
            if run.ended().is_some() && !is_at(&places.out, line) {
                return Ok(Err(anyhow::anyhow!("the run ended before it came to line {line}")));
            }
            if deadline.passed() {
                return Ok(Err(anyhow::anyhow!("the run did not come to line {line} in time")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(hit(&kind.act, places, run, deadline))
    }

    fn wait(&self, run: &Child, deadline: Deadline) -> Result<()> {
        select! {
            recv(run.exited()) -> _ => Ok(()),
            recv(self.interrupt.signalled()) -> _ => Err(Error::Interrupted),
            default(deadline.left()) => Ok(()),
        }
    }
}

fn hit(act: &Act, places: &Places<'_>, run: &Child, deadline: Deadline) -> anyhow::Result<()> {
    match act {
        Act::Nothing => {}
        Act::Signal(program, signal) => {
            let process =
                leftovers::find(places.dir, program).with_context(|| format!("no {program} runs"))?;
            let pid = Pid::from_raw(process.pid).context("a process number is not 0")?;
            kill_process(pid, *signal).with_context(|| format!("{program} takes no signal"))?;
        }
        Act::SignalRun(signal) => run.signal(*signal),
        Act::SpinWithoutInterrupts => {
            DebugStub::connect(&debug_socket(places))?.spin_without_interrupts(deadline)?;
        }
        Act::SpinUntilSoftLockup => {
            let console = places.out.join("boot-1/console.log");
            let spinning = DebugStub::connect(&debug_socket(places))?.spin_one(deadline)?;
            let told = deadline.poll(|| {
                let bytes = fs::read(&console).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains("soft lockup").then_some(())
            });
            DebugStub::connect(&debug_socket(places))?.release(&spinning, deadline)?;
            told.context("the guest's kernel says nothing of a soft lockup")?;
        }
        Act::Garble => garble(places)?,
    }
    Ok(())
}

/// Write something that is no message to the harness in QEMU's name: QEMU's own end of the agent's channel is taken from it.
fn garble(places: &Places<'_>) -> anyhow::Result<()> {
    let qemu = leftovers::find(places.dir, "qemu-system-x86_64").context("no QEMU runs")?;
    let pid = Pid::from_raw(qemu.pid).context("a process number is not 0")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("QEMU cannot be looked into")?;
    let files = fs::read_dir(format!("/proc/{}/fd", qemu.pid)).context("QEMU's files cannot be listed")?;
    let numbers = files.flatten().filter_map(|file| file.file_name().to_str()?.parse().ok());
    let agent = numbers.filter_map(|number| {
        let file = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let stream = UnixStream::from(file);
        let peer = stream.peer_addr().ok()?;
        peer.as_pathname()?.ends_with("agent").then_some(stream)
    });
    let mut agent = agent.take(1).next().context("QEMU has no channel to the agent")?;
    agent.write_all(b"selftest garbage\n").context("QEMU's channel to the agent takes nothing")
}

/// Where the disks of the guest are, if they are on a disk of their own.
fn disks(places: &Places<'_>) -> PathBuf {
    places.dir.join("disks")
}

/// In the directory of the boot, which QEMU can reach.
fn debug_socket(places: &Places<'_>) -> PathBuf {
    places.out.join("boot-1/gdb")
}

/// Is the run at this line of its scenario, or was it?
fn is_at(out: &Path, line: u64) -> bool {
    let text = fs::read_to_string(out.join("events.jsonl")).unwrap_or_default();
    // The last line may be half written.
    let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.any(|event| {
        event["event"] == "case-progress"
            && event["line"] == line
            && event["case"].as_str().is_some_and(|label| label.starts_with("selftest-"))
    })
}

/// What is left after a while: who was killed is not gone at once.
fn left(places: &Places<'_>) -> Vec<String> {
    let mut left = Vec::new();
    Deadline::after(LEFTOVERS_DEADLINE).poll(|| {
        left = leftovers::of_run(places.dir, &places.tmp);
        left.is_empty().then_some(())
    });
    left.into_iter().map(|what| format!("left behind: {what}")).collect()
}
