// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pinner of the user's as a process: started, asked one thing at a time, and ended. Whatever it does, an answer or a
//! [`Trouble`] comes within a deadline. The agent has one for each region, the command line one to be checked.
#![deny(unsafe_code, missing_docs)]

use longpin_proto::pinner::{ANSWER_MS, Answer, Ask, MAX_LINE_BYTES, Name, QUIT_MS};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For an answer.
    pub answer: Duration,
    /// For its end.
    pub quit: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_millis(ANSWER_MS), quit: Duration::from_millis(QUIT_MS) }
    }
}

/// What a pinner did wrong. It says nothing about the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It could not be started.
    #[error("pinner {program} cannot be started: {problem}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        problem: String,
    },
    /// It ended.
    #[error("pinner {name} ended ({how}) when it was asked to `{asked}`")]
    Ended {
        /// Who.
        name: String,
        /// Exit code or signal.
        how: String,
        /// The question.
        asked: String,
    },
    /// It did not answer.
    #[error("pinner {name} did not answer `{asked}` within {ms} ms")]
    Silent {
        /// Who.
        name: String,
        /// The question.
        asked: String,
        /// How long it was waited for.
        ms: u128,
    },
    /// It said more than one line.
    #[error(
        "pinner {name} said more than one line of {MAX_LINE_BYTES} bytes to `{asked}`; it has to say one for each question"
    )]
    Flood {
        /// Who.
        name: String,
        /// The last question.
        asked: String,
    },
    /// Its line is no answer.
    #[error("pinner {name} answered `{line}` to `{asked}`; it has to be {wanted}")]
    Garbled {
        /// Who.
        name: String,
        /// The question.
        asked: String,
        /// The answer.
        line: String,
        /// What it should be.
        wanted: String,
    },
    /// It goes on after its end was asked for.
    #[error("pinner {name} was killed, still running {ms} ms after `quit`")]
    Stays {
        /// Who.
        name: String,
        /// How long it was waited for.
        ms: u128,
    },
    /// It ended in another way than by exit code 0.
    #[error("pinner {name} ended with {how} after `quit`; it has to be exit code 0")]
    BadEnd {
        /// Who.
        name: String,
        /// Exit code or signal.
        how: String,
    },
    /// A call of ours failed.
    #[error("pinner {name}: {call}: {problem}")]
    Call {
        /// Who.
        name: String,
        /// Which.
        call: &'static str,
        /// Why.
        problem: String,
    },
}

/// A pinner that runs. Dropping it kills it: the kernel then unpins what it had.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    child: Child,
    pidfd: OwnedFd,
    name: String,
    patience: Patience,
    asked: String,
}

impl Client {
    /// Start it and have it introduce itself.
    pub fn start(
        program: &Path,
        file: BorrowedFd<'_>,
        bytes: BorrowedFd<'_>,
        patience: Patience,
    ) -> Result<(Self, Name), Trouble> {
        let name = program.display().to_string();
        let failed = |problem: String| Trouble::Start { program: name.clone(), problem };
        let or_failed = |error: std::io::Error| failed(error.to_string());
        let (stream, theirs) = UnixStream::pair().map_err(or_failed)?;
        let output = theirs.try_clone().map_err(or_failed)?;
        // A duplicate is kept over exec(2).
        let file = rustix::io::dup(file).map_err(|errno| or_failed(errno.into()))?;
        let bytes = rustix::io::dup(bytes).map_err(|errno| or_failed(errno.into()))?;
        let child = Command::new(program)
            .args([file.as_raw_fd().to_string(), bytes.as_raw_fd().to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(output)))
            .spawn()
            .map_err(or_failed)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(|errno| failed(format!("pidfd_open: {errno}")))?;
        let mut client = Self { stream, child, pidfd, name, patience, asked: String::new() };
        let line = client.ask(&Ask::Hello)?;
        match Name::parse(&line) {
            Ok(introduced) => {
                client.name = introduced.to_string();
                Ok((client, introduced))
            }
            Err(wanted) => Err(client.garbled(line, wanted)),
        }
    }

    /// Ask for something that is answered by `ok` or `errno`.
    pub fn request(&mut self, ask: &Ask) -> Result<Answer, Trouble> {
        self.request_line(&ask.to_string())
    }

    /// Any words.
    pub fn request_line(&mut self, words: &str) -> Result<Answer, Trouble> {
        let line = self.ask_line(words)?;
        Answer::parse(&line).map_err(|wanted| self.garbled(line, wanted))
    }

    /// Have it end, and see that it does, by exit code 0.
    pub fn quit(mut self) -> Result<(), Trouble> {
        self.send(&Ask::Quit.to_string())?;
        self.ends()
    }

    /// Say nothing more: it has to end as if it had been asked to.
    pub fn hang_up(self) -> Result<(), Trouble> {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(|error| self.call("shutdown", error.to_string()))?;
        self.ends()
    }

    fn ends(mut self) -> Result<(), Trouble> {
        let name = self.name.clone();
        if !self.ended_within(self.patience.quit)? {
            return Err(Trouble::Stays { name, ms: self.patience.quit.as_millis() });
        }
        match self.how() {
            how if how == "exit code 0" => Ok(()),
            how => Err(Trouble::BadEnd { name, how }),
        }
    }

    fn ask(&mut self, ask: &Ask) -> Result<String, Trouble> {
        self.ask_line(&ask.to_string())
    }

    fn ask_line(&mut self, words: &str) -> Result<String, Trouble> {
        self.send(words)?;
        let deadline = Instant::now() + self.patience.answer;
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.silent());
            }
            self.timeout(left)?;
            let mut part = [0; MAX_LINE_BYTES];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(self.ended()),
                Ok(n) => line.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(self.silent()),
                Err(_) => return Err(self.ended()),
            }
            let end = line.iter().position(|byte| *byte == b'\n');
            match end {
                Some(end) if end + 1 == line.len() && line.len() <= MAX_LINE_BYTES => {
                    return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
                }
                Some(_) => return Err(self.flood()),
                None if line.len() >= MAX_LINE_BYTES => return Err(self.flood()),
                None => {}
            }
        }
    }

    /// What it says without being asked is a flood, too.
    fn send(&mut self, words: &str) -> Result<(), Trouble> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).map_err(|errno| self.call("poll", errno.to_string()))?;
        if fds[0].revents().contains(PollFlags::IN) {
            let said = self.stream.read(&mut [0; 1]).unwrap_or(0);
            self.asked = words.to_owned();
            return Err(if said == 0 { self.ended() } else { self.flood() });
        }
        self.asked = words.to_owned();
        let limit = Some(self.patience.answer);
        self.stream.set_write_timeout(limit).map_err(|error| self.call("setsockopt", error.to_string()))?;
        match self.stream.write_all(format!("{words}\n").as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) if is_timeout(&error) => Err(self.silent()),
            Err(_) => Err(self.ended()),
        }
    }

    fn timeout(&self, left: Duration) -> Result<(), Trouble> {
        // Zero is no timeout at all.
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).map_err(|error| self.call("setsockopt", error.to_string()))
    }

    fn ended_within(&self, patience: Duration) -> Result<bool, Trouble> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(n) => return Ok(n > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.call("poll", errno.to_string())),
            }
        }
    }

    /// How it ended. PID 1 collects what it does not know, and then nobody knows.
    fn how(&mut self) -> String {
        use std::os::unix::process::ExitStatusExt;
        match self.child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => status.to_string(),
            },
            Err(_) => "nobody knows how".to_owned(),
        }
    }

    /// It has closed its end: if it is not about to end, it is killed.
    fn ended(&mut self) -> Trouble {
        let how = match self.ended_within(Duration::from_secs(1)) {
            Ok(true) => self.how(),
            _ => "it closed its output".to_owned(),
        };
        Trouble::Ended { name: self.name.clone(), how, asked: self.asked.clone() }
    }

    fn silent(&self) -> Trouble {
        let (name, asked) = (self.name.clone(), self.asked.clone());
        Trouble::Silent { name, asked, ms: self.patience.answer.as_millis() }
    }

    fn flood(&self) -> Trouble {
        Trouble::Flood { name: self.name.clone(), asked: self.asked.clone() }
    }

    fn garbled(&self, line: String, wanted: String) -> Trouble {
        let line = line.chars().take(80).flat_map(char::escape_debug).collect();
        Trouble::Garbled { name: self.name.clone(), asked: self.asked.clone(), line, wanted }
    }

    fn call(&self, call: &'static str, problem: String) -> Trouble {
        Trouble::Call { name: self.name.clone(), call, problem }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // By its descriptor, which means this process alone, whoever has its number now.
        if pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL).is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    const SHORT: Patience = Patience { answer: Duration::from_millis(300), quit: Duration::from_millis(300) };
    const LONG: Patience = Patience { answer: Duration::from_secs(60), quit: Duration::from_secs(60) };

    struct Story {
        dir: tempfile::TempDir,
        file: File,
    }

    impl Story {
        /// A pinner in sh: `case "$line" in ... esac` for each line that it reads.
        fn of(arms: &str) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let hello = "'hello 1') echo pinner 1 tale 7;;";
            let script =
                format!("#!/bin/sh\nwhile read -r line; do case \"$line\" in {arms} {hello} esac; done\n");
            let path = dir.path().join("pinner");
            std::fs::write(&path, script).expect("script");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
            let file = File::create(dir.path().join("file")).expect("file");
            Self { dir, file }
        }

        fn start(&self, patience: Patience) -> Result<Client, Trouble> {
            let path = self.dir.path().join("pinner");
            // Somebody else may still have the script open for writing, in a child that has not called exec yet.
            loop {
                match Client::start(&path, self.file.as_fd(), self.file.as_fd(), patience) {
                    Err(Trouble::Start { problem, .. }) if problem.contains("busy") => {}
                    other => return other.map(|(client, _)| client),
                }
            }
        }
    }

    #[test]
    fn a_conversation() {
        let story =
            Story::of("pin*) echo ok;; dma*) echo errno 5 ioctl;; describe) echo ok a tale;; quit) exit 0;;");
        let mut client = story.start(LONG).unwrap();
        assert_eq!(client.request(&Ask::Pin { offset: 0, len: 4096 }).unwrap(), Answer::Ok(String::new()));
        assert_eq!(client.request(&Ask::Describe).unwrap(), Answer::Ok("a tale".into()));
        let refused = Answer::Errno { number: 5, call: "ioctl".into() };
        assert_eq!(client.request(&Ask::Dma { offset: 0, len: 4096, at: 0 }).unwrap(), refused);
        client.quit().unwrap();
        story.start(LONG).unwrap().hang_up().unwrap();
    }

    #[test]
    fn it_gets_both_descriptors_by_number() {
        let story = Story::of("pin*) echo \"$line\" >/proc/self/fd/\"$1\"; echo ok;; quit) exit 0;;");
        let mut client = story.start(LONG).unwrap();
        client.request(&Ask::Pin { offset: 0, len: 4096 }).unwrap();
        client.quit().unwrap();
        assert_eq!(std::fs::read_to_string(story.dir.path().join("file")).unwrap(), "pin 0 4096\n");
    }

    fn told(arms: &str, patience: Patience) -> String {
        let story = Story::of(arms);
        let mut client = story.start(patience).expect("a start");
        client.request(&Ask::Pin { offset: 0, len: 4096 }).expect_err("trouble").to_string()
    }

    #[test]
    fn what_it_does_wrong_has_words_of_its_own() {
        assert_eq!(
            told("pin*) exit 3;;", LONG),
            "pinner tale 7 ended (exit code 3) when it was asked to `pin 0 4096`"
        );
        assert_eq!(
            told("pin*) kill -SEGV $$;;", LONG),
            "pinner tale 7 ended (signal 11) when it was asked to `pin 0 4096`"
        );
        assert_eq!(told("pin*) ;;", SHORT), "pinner tale 7 did not answer `pin 0 4096` within 300 ms");
        assert_eq!(
            told("pin*) printf ok;;", SHORT),
            "pinner tale 7 did not answer `pin 0 4096` within 300 ms"
        );
        assert_eq!(
            told("pin*) echo yes;;", LONG),
            "pinner tale 7 answered `yes` to `pin 0 4096`; it has to be ok, or errno NUMBER CALL"
        );
        for flood in ["printf 'ok\\nok\\n'", "cat /dev/zero"] {
            let text = told(&format!("pin*) {flood};;"), LONG);
            assert!(text.starts_with("pinner tale 7 said more than one line of 512 bytes to `pin"), "{text}");
        }
    }

    #[test]
    fn what_is_said_without_a_question_is_found_at_the_next_one() {
        let story = Story::of("pin*) echo ok; (echo more);;");
        let mut client = story.start(LONG).unwrap();
        let first = client.request(&Ask::Pin { offset: 0, len: 4096 });
        let trouble = match first {
            Err(trouble) => trouble,
            // It came later: when the line is there, it is found.
            Ok(_) => {
                let mut fds = [PollFd::new(&client.stream, PollFlags::IN)];
                poll(&mut fds, None).unwrap();
                client.request(&Ask::Describe).expect_err("a flood")
            }
        };
        assert!(matches!(trouble, Trouble::Flood { .. }), "{trouble}");
    }

    #[test]
    fn an_end_that_does_not_come_or_is_none_is_told() {
        let stays = Story::of("quit) ;;").start(SHORT).unwrap().quit().expect_err("it stays");
        assert_eq!(stays.to_string(), "pinner tale 7 was killed, still running 300 ms after `quit`");
        let bad = Story::of("quit) exit 2;;").start(LONG).unwrap().quit().expect_err("a bad end");
        assert_eq!(
            bad.to_string(),
            "pinner tale 7 ended with exit code 2 after `quit`; it has to be exit code 0"
        );
    }

    #[test]
    fn a_program_that_is_none_or_of_another_version_is_told_at_the_start() {
        let story = Story::of("'hello 1') echo pinner 2 tale 7;;");
        let text = story.start(LONG).expect_err("another version").to_string();
        assert!(
            text.contains("answered `pinner 2 tale 7` to `hello 1`; it has to be pinner 1 NAME RELEASE"),
            "{text}"
        );
        let nowhere = story.dir.path().join("nowhere");
        let (file, bytes) = (story.file.as_fd(), story.file.as_fd());
        let text = Client::start(&nowhere, file, bytes, LONG).expect_err("no program").to_string();
        assert!(text.ends_with("cannot be started: No such file or directory (os error 2)"), "{text}");
    }
}
