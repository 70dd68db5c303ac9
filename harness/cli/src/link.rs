// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The channel to the agent: one command at a time, each with a deadline. Every line in both directions goes to the
//! agent log before anything is made of it. Owns the socket; judges nothing.

use crate::deadline::{Deadline, HAND_OVER};
use crate::patience::Patience;
use crate::vm::console;
use anyhow::Context as _;
use crossbeam_channel::{Receiver, bounded, select};
use longpin_proto::agent::{Command, Hello, Message, Outcome, Step, VERSION};
use longpin_proto::line::{self, LineError};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A guest that says nothing for so long, not even that a step is still running, is dead. Heartbeats come every
/// second of guest time; a host that runs several translated guests may stretch that tenfold.
const SILENCE: Duration = Duration::from_secs(30);
/// After an oops the task that ran the step is dead as a rule. Who still lives answers within this time.
const AFTER_OOPS: Duration = Duration::from_secs(5);
/// Between two looks at the console of a guest that has not said hello.
const GLANCE: Duration = Duration::from_secs(1);
/// Messages that were read and not yet looked at. A guest that sends more waits in its own port.
const QUEUED_MESSAGES: usize = 64;
/// Bytes of the log of a boot. A case writes some ten KiB.
const LOG_LIMIT: usize = 256 << 20;
/// Bytes of the console of a boot. A guest that has so much to say, even before an oops, says one thing for ever.
const CONSOLE_LIMIT: u64 = 1 << 30;
/// Time for the guest to take a command from the socket.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The user or the system asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// QEMU ended, or the agent closed the port.
    #[error("agent port closed by the guest")]
    Closed,
    /// The device daemon ended.
    #[error("device daemon ended")]
    DeviceGone,
    /// The step did not end in its time, though the agent lives.
    #[error("step `{step}` did not end within {seconds} s{}", last_seen(place))]
    Late {
        /// Name of the step.
        step: String,
        /// Its deadline.
        seconds: u64,
        /// Where the agent last saw who carries it out; empty if it never said.
        place: String,
    },
    /// The case was to be over, and the step that ran then was still within its own deadline.
    #[error("the case did not end in its time, step `{step}` was running; see --timeout")]
    Overdue {
        /// Name of the step.
        step: String,
    },
    /// The kernel killed a task, and no answer came after it.
    #[error("step `{step}` did not end within {} s of a kernel oops", grace.as_secs())]
    Oopsed {
        /// Name of the step.
        step: String,
        /// How long it was waited for then.
        grace: Duration,
    },
    /// The guest's kernel says more than anybody can keep.
    #[error("the guest's console has grown beyond {} MiB during step `{step}`; see console.log", CONSOLE_LIMIT >> 20)]
    Flood {
        /// Name of the step.
        step: String,
    },
    /// Neither an answer nor a heartbeat.
    #[error("agent silent for {seconds} s during step `{step}`")]
    Silent {
        /// Name of the step.
        step: String,
        /// How long.
        seconds: u64,
    },
    /// What came is not what the protocol says.
    #[error("agent broke the protocol: {0}")]
    Protocol(String),
    /// Our own side: the log or the socket cannot be written.
    #[error("{0}")]
    Io(String),
}

/// What else can end a wait.
#[derive(Debug, Clone)]
pub struct Lifelines {
    /// Disconnects when QEMU ends.
    pub qemu: Receiver<()>,
    /// Disconnects when the device daemon ends.
    pub device: Receiver<()>,
    /// Disconnects when we are asked to stop.
    pub interrupt: Receiver<()>,
    /// Where the guest's kernel says that it oopsed.
    pub console: PathBuf,
}

/// An answered command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Microseconds it took the agent.
    pub elapsed_us: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// The connected agent.
pub struct AgentLink {
    writer: UnixStream,
    incoming: Receiver<Result<Message, LineError>>,
    lifelines: Lifelines,
    log: LineLog,
    last_seq: u64,
    /// [`SILENCE`], by the guest's factor.
    silence: Duration,
    /// [`AFTER_OOPS`] likewise, but for tests.
    after_oops: Duration,
    /// [`CONSOLE_LIMIT`], but for tests.
    console_limit: u64,
}

impl AgentLink {
    /// Take over a connected socket. Every line goes to `log`.
    pub fn new(
        stream: UnixStream,
        lifelines: Lifelines,
        log: &Path,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reader = stream.try_clone().context("agent socket cannot be cloned")?;
        let (sender, incoming) = bounded(QUEUED_MESSAGES);
        std::thread::Builder::new()
            .name("agent-link".into())
            .spawn(move || {
                let mut reader = BufReader::new(reader);
                loop {
                    let message = line::receive(&mut reader);
                    // A line that is no message does not end the stream; a broken stream does.
                    let last = matches!(message, Err(ref e) if !matches!(e, LineError::Syntax { .. }));
                    if sender.send(message).is_err() || last {
                        break;
                    }
                }
            })
            .context("agent reader thread cannot be started")?;
        let log = LineLog::create(log)?;
        Ok(Self {
            writer: stream,
            incoming,
            lifelines,
            log,
            last_seq: 0,
            silence: patience.of_any(SILENCE),
            after_oops: patience.of_any(AFTER_OOPS),
            console_limit: CONSOLE_LIMIT,
        })
    }

    /// Wait for the agent's introduction. A kernel that panics before it has read `panic=` does not end, but stands still: it
    /// is not waited for.
    pub fn hello(&mut self, mut deadline: Deadline) -> Result<Hello, LinkError> {
        let started = Instant::now();
        let mut panicked = false;
        let message = loop {
            match self.next(deadline.min(Deadline::after(GLANCE)))? {
                Some(message) => break Some(message),
                None if deadline.passed() => break self.next_or_handed_over(deadline, &mut None)?,
                None if !panicked && console::panic_line(&self.lifelines.console).is_some() => {
                    panicked = true;
                    deadline = deadline.min(Deadline::after(self.after_oops));
                }
                None => {}
            }
        };
        let late = || LinkError::Silent { step: "boot".into(), seconds: started.elapsed().as_secs() };
        match message.ok_or_else(late)? {
            Message::Hello(hello) if hello.version == VERSION => Ok(hello),
            Message::Hello(hello) => Err(LinkError::Protocol(format!(
                "it speaks version {}, this harness speaks {VERSION}; rebuild the image",
                hello.version
            ))),
            other => Err(LinkError::Protocol(format!("a greeting was due and {other:?} came"))),
        }
    }

    /// Give one order and wait for its answer, at most for `timeout` and at most until the `case` is to be over.
    pub fn call(
        &mut self,
        step: Step,
        timeout: Duration,
        case: Option<Deadline>,
    ) -> Result<Reply, LinkError> {
        let own = Deadline::after(timeout);
        let deadline = case.map_or(own, |case| case.min(own));
        let name = step.name();
        let seq = self.send(step)?;
        let mut heard = Instant::now();
        let mut oops: Option<Instant> = None;
        let mut last_place = String::new();
        let mut late = None;
        loop {
            let patience = Deadline::after(self.silence.saturating_sub(heard.elapsed()));
            match self.next_or_handed_over(deadline.min(patience), &mut late)? {
                Some(Message::Heartbeat { seq: s, place, .. }) if s == seq => {
                    heard = Instant::now();
                    // The agent was silent and is no longer; a deadline that has passed stays so.
                    late = late.filter(|_| deadline.passed());
                    last_place = place;
                    if console::len(&self.lifelines.console) > self.console_limit {
                        return Err(LinkError::Flood { step: name });
                    }
                    if oops.is_none() && console::has_oops(&self.lifelines.console) {
                        oops = Some(heard);
                    }
                    if oops.is_some_and(|since| since.elapsed() >= self.after_oops) {
                        return Err(LinkError::Oopsed { step: name, grace: self.after_oops });
                    }
                }
                Some(Message::Reply { seq: s, elapsed_us, outcome }) if s == seq => {
                    return Ok(Reply { elapsed_us, outcome });
                }
                Some(other) => {
                    return Err(LinkError::Protocol(format!("during command {seq} ({name}) came {other:?}")));
                }
                None if own.passed() => {
                    return Err(LinkError::Late {
                        step: name,
                        seconds: timeout.as_secs(),
                        place: last_place,
                    });
                }
                None if deadline.passed() => return Err(LinkError::Overdue { step: name }),
                None => return Err(LinkError::Silent { step: name, seconds: self.silence.as_secs() }),
            }
        }
    }

    /// Give an order that has no answer.
    pub fn send(&mut self, step: Step) -> Result<u64, LinkError> {
        self.last_seq += 1;
        let command = Command { seq: self.last_seq, step };
        self.log.write('>', &command).map_err(log_error)?;
        line::send(&mut self.writer, &command).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LinkError::Closed,
            io::ErrorKind::WouldBlock => {
                LinkError::Silent { step: command.step.name(), seconds: WRITE_TIMEOUT.as_secs() }
            }
            _ => LinkError::Io(format!("agent socket cannot be written: {error}")),
        })?;
        Ok(self.last_seq)
    }

    /// What came of command `seq`, or why nothing can any more; none if it is still under way at the deadline.
    pub fn answer(&mut self, seq: u64, deadline: Deadline) -> Option<Result<Outcome, LinkError>> {
        loop {
            match self.next(deadline) {
                Ok(Some(Message::Reply { seq: s, outcome, .. })) if s == seq => return Some(Ok(outcome)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next message, also one that had come by the deadline and was not handed over yet: whoever was stopped and goes
    /// on (SIGSTOP and SIGCONT, a host that slept) finds deadlines passed and answers waiting in the socket. `late` is the
    /// end of that hand-over, from the first time on: what comes meanwhile does not put it off.
    fn next_or_handed_over(
        &mut self,
        deadline: Deadline,
        late: &mut Option<Deadline>,
    ) -> Result<Option<Message>, LinkError> {
        match self.next(deadline)? {
            None => self.next(*late.get_or_insert_with(|| Deadline::after(HAND_OVER))),
            message => Ok(message),
        }
    }

    /// Next message; `None` when the deadline passes. What has already come is taken before a death is noticed.
    fn next(&mut self, deadline: Deadline) -> Result<Option<Message>, LinkError> {
        let received = match self.incoming.try_recv() {
            Ok(received) => Some(received),
            Err(_) => select! {
                recv(self.incoming) -> received => received.ok(),
                recv(self.lifelines.interrupt) -> _ => return Err(LinkError::Interrupted),
                recv(self.lifelines.device) -> _ => return Err(LinkError::DeviceGone),
                recv(self.lifelines.qemu) -> _ => return Err(LinkError::Closed),
                default(deadline.left()) => return Ok(None),
            },
        };
        match received {
            Some(Ok(message)) => {
                self.log.write('<', &message).map_err(log_error)?;
                Ok(Some(message))
            }
            Some(Err(LineError::Syntax { source, excerpt })) => {
                Err(LinkError::Protocol(format!("{source}: {excerpt}")))
            }
            Some(Err(_)) | None => Err(LinkError::Closed),
        }
    }
}

/// The end of a sentence about a step.
fn last_seen(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("; it was last seen in {place}") }
}

fn log_error(error: io::Error) -> LinkError {
    LinkError::Io(format!("agent log cannot be written: {error}"))
}

/// `SECONDS > JSON` or `SECONDS < JSON`, one line a message, up to a bound: it is for people, and the guest decides how
/// much there is. What a case is judged by is kept elsewhere.
struct LineLog {
    file: File,
    start: Instant,
    /// Bytes that may still be written.
    room: usize,
}

impl LineLog {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self { file, start: Instant::now(), room: LOG_LIMIT })
    }

    fn write(&mut self, direction: char, message: &impl Serialize) -> io::Result<()> {
        if self.room == 0 {
            return Ok(());
        }
        let text = serde_json::to_string(message)?;
        let mut line = format!("{:10.6} {direction} {text}\n", self.start.elapsed().as_secs_f64());
        self.room = self.room.saturating_sub(line.len());
        if self.room == 0 {
            line = format!("the log ends here: it may have {} MiB\n", LOG_LIMIT >> 20);
        }
        self.file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Sender, never};
    use longpin_proto::agent::Fact;

    struct Peer {
        stream: UnixStream,
        _interrupt: Sender<()>,
        dir: tempfile::TempDir,
    }

    fn pair() -> (AgentLink, Peer) {
        pair_of(Patience::HARDWARE)
    }

    fn pair_of(patience: Patience) -> (AgentLink, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (interrupt, watched) = crossbeam_channel::bounded(0);
        let lifelines = Lifelines {
            qemu: never(),
            device: never(),
            interrupt: watched,
            console: dir.path().join("console.log"),
        };
        let link = AgentLink::new(ours, lifelines, &dir.path().join("agent.log"), patience).unwrap();
        (link, Peer { stream: theirs, _interrupt: interrupt, dir })
    }

    fn done(seq: u64) -> Message {
        Message::Reply { seq, elapsed_us: 5, outcome: Outcome::Done { fact: Fact::Nothing } }
    }

    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn an_order_gets_its_answer_across_heartbeats_and_both_are_logged() {
        let (mut link, mut peer) = pair();
        line::send(&mut peer.stream, &Message::Heartbeat { seq: 1, elapsed_ms: 1000, place: String::new() })
            .unwrap();
        line::send(&mut peer.stream, &done(1)).unwrap();
        let reply = link.call(Step::Sync, SOON, None).unwrap();
        assert_eq!(reply, Reply { elapsed_us: 5, outcome: Outcome::Done { fact: Fact::Nothing } });
        let log = std::fs::read_to_string(peer.dir.path().join("agent.log")).unwrap();
        let kinds: Vec<char> =
            log.lines().map(|l| l.split_whitespace().nth(1).unwrap().chars().next().unwrap()).collect();
        assert_eq!(kinds, ['>', '<', '<'], "{log}");
    }

    #[test]
    fn a_log_at_its_bound_says_so_and_grows_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut log = LineLog { room: 40, ..LineLog::create(&path).unwrap() };
        for word in ["first", "second, and longer than there is room for", "third"] {
            log.write('<', &word).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("< \"first\""), "{text}");
        assert_eq!(lines[1..], ["the log ends here: it may have 256 MiB"]);
    }

    #[test]
    fn a_console_that_grows_without_end_ends_the_wait() {
        let (mut link, mut peer) = pair();
        link.console_limit = 10;
        std::fs::write(peer.dir.path().join("console.log"), "one word and another\n").unwrap();
        line::send(&mut peer.stream, &Message::Heartbeat { seq: 1, elapsed_ms: 1000, place: String::new() })
            .unwrap();
        let error = link.call(Step::Sync, SOON, None).unwrap_err();
        assert!(matches!(error, LinkError::Flood { .. }), "{error}");
    }

    #[test]
    fn an_agent_that_lives_and_does_not_answer_is_late() {
        let (mut link, _peer) = pair();
        let error = link.call(Step::Sync, Duration::from_millis(50), None).unwrap_err();
        assert_eq!(error.to_string(), "step `sync` did not end within 0 s");
    }

    #[test]
    fn who_is_late_was_last_seen_where_the_heartbeat_said() {
        let (mut link, mut peer) = pair();
        let place = "state D in percpu_rwsem_wait < xfs_filemap_fault".to_owned();
        line::send(&mut peer.stream, &Message::Heartbeat { seq: 1, elapsed_ms: 1000, place }).unwrap();
        // Read before the deadline is looked at: what has come is taken first.
        while link.incoming.is_empty() {
            std::thread::yield_now();
        }
        let error = link.call(Step::Sync, Duration::ZERO, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "step `sync` did not end within 0 s; it was last seen in state D in percpu_rwsem_wait < xfs_filemap_fault"
        );
    }

    #[test]
    fn a_guest_that_floods_the_port_fills_no_memory_and_is_heard_to_the_end() {
        let (mut link, mut peer) = pair();
        let flood = std::thread::spawn(move || {
            for _ in 0..10 * QUEUED_MESSAGES {
                let beat = Message::Heartbeat { seq: 1, elapsed_ms: 1, place: String::new() };
                line::send(&mut peer.stream, &beat).unwrap();
            }
            line::send(&mut peer.stream, &done(1)).unwrap();
            peer
        });
        while link.incoming.len() < QUEUED_MESSAGES {
            std::thread::yield_now();
        }
        assert_eq!(link.incoming.capacity(), Some(QUEUED_MESSAGES));
        link.call(Step::Sync, SOON, None).unwrap();
        drop(flood.join().unwrap());
    }

    #[test]
    fn an_answer_that_has_come_wins_over_a_deadline_that_has_passed() {
        for _ in 0..50 {
            let (mut link, mut peer) = pair();
            line::send(
                &mut peer.stream,
                &Message::Heartbeat { seq: 1, elapsed_ms: 1000, place: String::new() },
            )
            .unwrap();
            line::send(&mut peer.stream, &done(1)).unwrap();
            link.call(Step::Sync, Duration::ZERO, Some(Deadline::after(Duration::ZERO))).unwrap();
        }
    }

    #[test]
    fn a_heart_that_beats_does_not_put_a_deadline_off() {
        let (mut link, mut peer) = pair();
        let beat = std::thread::spawn(move || {
            let heartbeat = Message::Heartbeat { seq: 1, elapsed_ms: 1000, place: String::new() };
            while line::send(&mut peer.stream, &heartbeat).is_ok() {
                std::thread::sleep(HAND_OVER / 50);
            }
        });
        let error = link.call(Step::Sync, Duration::from_millis(50), None).unwrap_err();
        assert!(matches!(error, LinkError::Late { .. }), "{error}");
        drop(link);
        beat.join().unwrap();
    }

    #[test]
    fn the_end_of_the_cases_time_is_no_word_about_the_step() {
        let (mut link, _peer) = pair();
        let case = Some(Deadline::after(Duration::from_millis(50)));
        let error = link.call(Step::Sync, SOON, case).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the case did not end in its time, step `sync` was running; see --timeout"
        );
        let error = link.call(Step::Sync, Duration::ZERO, case).unwrap_err();
        assert!(matches!(error, LinkError::Late { .. }), "{error}");
    }

    #[test]
    fn a_step_whose_task_an_oops_has_killed_is_not_waited_for() {
        let (mut link, mut peer) = pair();
        std::fs::write(peer.dir.path().join("console.log"), "[  12.2] Oops: Oops: 0002 [#1] SMP NOPTI\n")
            .unwrap();
        link.after_oops = Duration::from_secs(1);
        let began = Instant::now();
        let beat = std::thread::spawn(move || {
            // Until the link is dropped; the deadline below is far away.
            while line::send(
                &mut peer.stream,
                &Message::Heartbeat { seq: 1, elapsed_ms: 0, place: String::new() },
            )
            .is_ok()
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let error = link.call(Step::Sync, Duration::from_secs(600), None).unwrap_err();
        assert_eq!(error.to_string(), "step `sync` did not end within 1 s of a kernel oops");
        assert!(began.elapsed() >= Duration::from_secs(1));
        drop(link);
        beat.join().unwrap();
    }

    #[test]
    fn an_answer_to_another_order_breaks_the_protocol() {
        let (mut link, mut peer) = pair();
        line::send(&mut peer.stream, &done(9)).unwrap();
        assert!(matches!(link.call(Step::Sync, SOON, None), Err(LinkError::Protocol(_))));
    }

    #[test]
    fn garbage_breaks_the_protocol_and_a_closed_port_is_closed() {
        let (mut link, mut peer) = pair();
        peer.stream.write_all(b"\xff garbage\n").unwrap();
        assert!(matches!(link.call(Step::Sync, SOON, None), Err(LinkError::Protocol(_))));
        drop(peer);
        assert!(matches!(link.call(Step::Sync, SOON, None), Err(LinkError::Closed)));
    }

    #[test]
    fn a_newer_agent_is_refused_with_both_versions() {
        let (mut link, mut peer) = pair();
        let hello = Hello {
            page_state: longpin_proto::facts::PageStateSource::Cachestat,
            version: VERSION + 1,
            kernel_release: "7.3.4".into(),
            kernel_version: "#1".into(),
            cmdline: String::new(),
            cpus: 2,
            memory_kib: 1,
            uptime_us: 1,
        };
        line::send(&mut peer.stream, &Message::Hello(hello)).unwrap();
        let text = link.hello(Deadline::after(SOON)).unwrap_err().to_string();
        assert!(
            text.contains(&format!("speaks version {}", VERSION + 1))
                && text.contains(&format!("speaks {VERSION}")),
            "{text}"
        );
    }

    #[test]
    fn a_kernel_that_has_panicked_is_not_waited_for_and_one_that_says_hello_is_not_dead() {
        let panic = "[    0.000000] Kernel panic - not syncing: no memory\n";
        let (mut link, peer) = pair();
        link.after_oops = Duration::ZERO;
        std::fs::write(peer.dir.path().join("console.log"), panic).unwrap();
        let error = link.hello(Deadline::after(Duration::from_secs(3600))).unwrap_err();
        assert!(matches!(error, LinkError::Silent { .. }), "{error}");
        // What has come counts, whatever the console says.
        let (mut link, mut peer) = pair();
        std::fs::write(peer.dir.path().join("console.log"), panic).unwrap();
        line::send(&mut peer.stream, &done(1)).unwrap();
        let error = link.hello(Deadline::after(SOON)).unwrap_err();
        assert!(error.to_string().contains("a greeting was due"), "{error}");
    }

    #[test]
    fn each_lifeline_ends_a_wait_with_its_own_word() {
        let gone = || crossbeam_channel::bounded::<()>(0).1;
        for (lifelines, word) in [
            (
                Lifelines { qemu: gone(), device: never(), interrupt: never(), console: PathBuf::new() },
                "agent port closed by the guest",
            ),
            (
                Lifelines { qemu: never(), device: gone(), interrupt: never(), console: PathBuf::new() },
                "device daemon ended",
            ),
            (
                Lifelines { qemu: never(), device: never(), interrupt: gone(), console: PathBuf::new() },
                "interrupted",
            ),
        ] {
            let (mut link, _peer) = pair();
            link.lifelines = lifelines;
            assert_eq!(link.call(Step::Sync, SOON, None).unwrap_err().to_string(), word);
        }
    }

    #[test]
    fn a_slow_guest_may_be_silent_for_longer() {
        let times = [100, 300, 600].map(|percent| {
            let (link, _peer) = pair_of(Patience::of_percent(percent));
            (link.silence.as_secs(), link.after_oops.as_secs())
        });
        assert_eq!(times, [(30, 5), (30, 5), (60, 10)]);
    }
}
