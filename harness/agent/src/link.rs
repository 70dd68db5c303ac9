// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The channel to the harness: hello, then one reply a command, and heartbeats while a step is slow.
//!
//! Nothing that arrives ends the agent: what is not a command is answered if it has a number, and noted if not. A peer
//! that goes away is waited for.

use crate::whereabouts::Watched;
use longpin_proto::agent::{Command, HEARTBEAT_MS, Hello, Message, Outcome, Step};
use longpin_proto::line::{self, MAX_LINE_BYTES};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Heartbeats go at half of the promised interval, so that a busy guest still keeps the promise.
const BEAT: Duration = Duration::from_millis(HEARTBEAT_MS / 2);
/// A wake-up that is lost costs at most this much.
const RECONNECT_CHECK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };

/// Sending side; shared by the step's thread and the heartbeat.
#[derive(Debug)]
struct Sender {
    port: Arc<File>,
    /// The step under way: its number and start. A heartbeat looks at it under the lock, so none follows a reply.
    running: Option<(u64, Instant)>,
}

impl Sender {
    fn send(&mut self, message: &Message) -> io::Result<()> {
        line::send(&mut &*self.port, message)
    }
}

/// The channel.
#[derive(Debug)]
pub struct Link {
    port: Arc<File>,
    sender: Arc<Mutex<Sender>>,
    lines: Lines,
}

impl Link {
    /// A channel on an open port. Starts the heartbeat's thread, which says where in the kernel `watched` is.
    pub fn new(port: File, watched: Watched) -> io::Result<Self> {
        let port = Arc::new(port);
        let sender = Arc::new(Mutex::new(Sender { port: port.clone(), running: None }));
        let beats = sender.clone();
        std::thread::Builder::new().name("heartbeat".into()).spawn(move || heartbeat(&beats, &watched))?;
        Ok(Self { port, sender, lines: Lines::default() })
    }

    /// Say hello and answer commands until [`Step::PowerOff`] arrives. `perform` may panic: that is a failed step.
    ///
    /// Errors: the port failed for good.
    pub fn serve(&mut self, hello: Hello, mut perform: impl FnMut(Step) -> Outcome) -> io::Result<()> {
        lock(&self.sender).send(&Message::Hello(hello))?;
        let wake = Wake::new(&self.port)?;
        loop {
            let line = self.next_line(&wake)?;
            let command = match parse(&line) {
                Ok(command) => command,
                Err(refusal) => {
                    self.refuse(refusal)?;
                    continue;
                }
            };
            if command.step == Step::PowerOff {
                return Ok(());
            }
            self.run(command, &mut perform)?;
        }
    }

    fn run(&mut self, command: Command, perform: &mut impl FnMut(Step) -> Outcome) -> io::Result<()> {
        let (seq, begin) = (command.seq, Instant::now());
        lock(&self.sender).running = Some((seq, begin));
        let outcome = catch_unwind(AssertUnwindSafe(|| perform(command.step))).unwrap_or_else(|panic| {
            Outcome::Failed { message: format!("bug in the agent: {}", text_of(&*panic)) }
        });
        self.reply(seq, begin.elapsed(), outcome)
    }

    fn reply(&self, seq: u64, elapsed: Duration, outcome: Outcome) -> io::Result<()> {
        let elapsed_us = elapsed.as_micros() as u64;
        let mut bytes = serde_json::to_vec(&Message::Reply { seq, elapsed_us, outcome })?;
        if bytes.len() as u64 >= MAX_LINE_BYTES {
            let message = format!(
                "the fact takes {} bytes, a line at most {MAX_LINE_BYTES}; ask for a smaller range",
                bytes.len()
            );
            bytes = serde_json::to_vec(&Message::Reply {
                seq,
                elapsed_us,
                outcome: Outcome::Failed { message },
            })?;
        }
        bytes.push(b'\n');
        let mut sender = lock(&self.sender);
        sender.running = None;
        (&*sender.port).write_all(&bytes)
    }

    fn refuse(&self, Refusal { seq, message }: Refusal) -> io::Result<()> {
        match seq {
            Some(seq) => self.reply(seq, Duration::ZERO, Outcome::Failed { message }),
            None => {
                crate::kmsg::note(&message);
                Ok(())
            }
        }
    }

    fn next_line(&mut self, wake: &Wake) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; 65536];
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(line);
            }
            match (&*self.port).read(&mut chunk) {
                // No peer: what it began to say is void.
                Ok(0) => {
                    self.lines = Lines::default();
                    wake.wait()?;
                }
                Ok(n) => self.lines.push(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Wakes when the peer's state changes.
///
/// A virtio-serial port without a peer is at end of file and says POLLHUP at once, for ever; edge-triggered epoll is
/// woken by the connection (drivers/char/virtio_console.c: handle_control_message() wakes the port's queue).
struct Wake(OwnedFd);

impl Wake {
    fn new(port: &File) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, port, epoll::EventData::new_u64(0), flags)?;
        Ok(Self(epoll))
    }

    fn wait(&self) -> io::Result<()> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        match epoll::wait(&self.0, &mut events, Some(&RECONNECT_CHECK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Cuts the stream into lines; drops a line that has no end.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// Bytes of `pending` known to hold no newline.
    searched: usize,
    /// In the middle of a line that was too long.
    skipping: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let Some(at) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.pending.len();
                if self.searched as u64 >= MAX_LINE_BYTES {
                    *self = Self { skipping: true, ..Self::default() };
                }
                return None;
            };
            let rest = self.pending.split_off(self.searched + at + 1);
            let line = std::mem::replace(&mut self.pending, rest);
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }
}

/// A line that is not a command.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    seq: Option<u64>,
    message: String,
}

fn parse(line: &[u8]) -> Result<Command, Refusal> {
    line::parse(line).map_err(|error| {
        let document: Option<serde_json::Value> = serde_json::from_slice(line).ok();
        let seq = document.and_then(|document| document.get("seq")?.as_u64());
        Refusal { seq, message: format!("not a command: {error}") }
    })
}

fn heartbeat(sender: &Mutex<Sender>, watched: &Watched) {
    loop {
        std::thread::sleep(BEAT);
        let Some((seq, begin)) = lock(sender).running else { continue };
        let elapsed_ms = begin.elapsed().as_millis() as u64;
        if u128::from(elapsed_ms) < BEAT.as_millis() {
            continue;
        }
        // Before the lock: a look at another process may take its time.
        let place = watched.place().to_string();
        let mut sender = lock(sender);
        if sender.running == Some((seq, begin)) {
            // A port that fails is the reader's to report.
            let _ = sender.send(&Message::Heartbeat { seq, elapsed_ms, place });
        }
    }
}

/// A panic elsewhere leaves the sender whole: it holds no state across its writes.
fn lock(sender: &Mutex<Sender>) -> MutexGuard<'_, Sender> {
    sender.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use longpin_proto::agent::Fact;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    struct Peer {
        stream: BufReader<UnixStream>,
        agent: JoinHandle<io::Result<()>>,
    }

    fn hello() -> Hello {
        Hello {
            page_state: longpin_proto::facts::PageStateSource::Cachestat,
            version: 1,
            kernel_release: "r".into(),
            kernel_version: "v".into(),
            cmdline: "c".into(),
            cpus: 1,
            memory_kib: 2,
            uptime_us: 3,
        }
    }

    fn serve(perform: impl FnMut(Step) -> Outcome + Send + 'static) -> Peer {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        ours.set_read_timeout(Some(Duration::from_secs(60))).expect("deadline");
        let port = File::from(OwnedFd::from(theirs));
        let agent = std::thread::spawn(move || Link::new(port, Watched::default())?.serve(hello(), perform));
        let mut peer = Peer { stream: BufReader::new(ours), agent };
        assert_eq!(peer.next(), Message::Hello(hello()));
        peer
    }

    impl Peer {
        fn say(&mut self, text: &str) {
            self.stream.get_mut().write_all(text.as_bytes()).expect("agent listens");
        }

        fn next(&mut self) -> Message {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("an answer within the deadline");
            line::parse(line.as_bytes()).expect("a message")
        }

        /// The next reply; a busy host may make any step slow enough for a heartbeat.
        fn outcome(&mut self) -> (u64, Outcome) {
            loop {
                match self.next() {
                    Message::Reply { seq, outcome, .. } => return (seq, outcome),
                    Message::Heartbeat { .. } => {}
                    Message::Hello(again) => panic!("{again:?}"),
                }
            }
        }

        fn end(mut self) {
            self.say("{\"seq\":99,\"op\":\"power-off\"}\n");
            self.agent.join().expect("no panic").expect("no error");
        }
    }

    fn done() -> Outcome {
        Outcome::Done { fact: Fact::Nothing }
    }

    #[test]
    fn each_command_is_answered_in_order() {
        let mut peer = serve(|step| Outcome::Failed { message: format!("{step:?}") });
        peer.say("{\"seq\":1,\"op\":\"sync\"}\n{\"seq\":2,\"op\":\"drop");
        peer.say("-caches\"}\n");
        assert_eq!(peer.outcome(), (1, Outcome::Failed { message: "Sync".into() }));
        assert_eq!(peer.outcome(), (2, Outcome::Failed { message: "DropCaches".into() }));
        peer.end();
    }

    #[test]
    fn garbage_is_survived_and_answered_where_it_has_a_number() {
        let mut peer = serve(|_| done());
        peer.say("\u{0}\u{1}garbage\n\n[]\n{\"seq\":7,\"op\":\"fly\"}\n{\"seq\":8,\"op\":\"sync\"}\n");
        let (seq, outcome) = peer.outcome();
        let Outcome::Failed { message } = outcome else { panic!("{outcome:?}") };
        assert_eq!(seq, 7);
        assert!(message.contains("unknown variant `fly`"), "{message}");
        assert_eq!(peer.outcome(), (8, done()));
        peer.end();
    }

    #[test]
    fn a_panic_in_a_step_is_a_failed_step() {
        let mut peer = serve(|step| if step == Step::Sync { panic!("planned") } else { done() });
        peer.say("{\"seq\":1,\"op\":\"sync\"}\n{\"seq\":2,\"op\":\"drop-caches\"}\n");
        assert_eq!(peer.outcome(), (1, Outcome::Failed { message: "bug in the agent: planned".into() }));
        assert_eq!(peer.outcome(), (2, done()));
        peer.end();
    }

    #[test]
    fn a_slow_step_sends_heartbeats_until_its_reply_and_none_after() {
        let (finish, wait) = std::sync::mpsc::channel::<()>();
        let mut peer = serve(move |_| {
            wait.recv_timeout(Duration::from_secs(60)).expect("the test ends the step");
            done()
        });
        peer.say("{\"seq\":5,\"op\":\"sync\"}\n");
        for _ in 0..2 {
            let Message::Heartbeat { seq, elapsed_ms, place } = peer.next() else {
                panic!("not a heartbeat")
            };
            assert_eq!(seq, 5);
            assert!(elapsed_ms >= HEARTBEAT_MS / 2);
            assert_eq!(place, "state R");
        }
        finish.send(()).expect("step waits");
        while let Message::Heartbeat { .. } = peer.next() {}
        peer.say("{\"seq\":6,\"op\":\"sync\"}\n");
        finish.send(()).expect("agent is there");
        assert_eq!(peer.outcome(), (6, done()));
        peer.end();
    }

    #[test]
    fn a_fact_too_long_for_a_line_is_refused_with_a_remedy() {
        let text = "x".repeat(MAX_LINE_BYTES as usize);
        let mut peer = serve(move |_| Outcome::Done { fact: Fact::Text(text.clone()) });
        peer.say("{\"seq\":1,\"op\":\"sync\"}\n");
        let (_, Outcome::Failed { message }) = peer.outcome() else { panic!("sent") };
        assert!(message.contains("ask for a smaller range"), "{message}");
        peer.end();
    }

    #[test]
    fn a_line_without_end_is_dropped_and_the_next_one_counts() {
        let mut lines = Lines::default();
        let chunk = vec![b'a'; 1 << 20];
        for _ in 0..=(MAX_LINE_BYTES >> 20) {
            lines.push(&chunk);
            assert_eq!(lines.next(), None);
        }
        assert!(lines.pending.len() as u64 <= MAX_LINE_BYTES);
        lines.push(b"rest\nnext\nlast");
        assert_eq!(lines.next().as_deref(), Some(&b"next\n"[..]));
        assert_eq!(lines.next(), None);
        lines.push(b"\n");
        assert_eq!(lines.next().as_deref(), Some(&b"last\n"[..]));
    }
}
