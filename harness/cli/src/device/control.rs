// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's control socket: one request at a time, each with a deadline, and an end before it when the machine
//! behind it goes away. An answer that came too late for its request breaks the connection: nothing on the wire tells
//! whose answer it is.

use crate::deadline::{Deadline, HAND_OVER};
use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, select, unbounded};
use longpin_proto::control::{Answer, Request};
use longpin_proto::line::{self, LineError};
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The daemon reads requests at once.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The user or the system asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// QEMU ended while the answer was waited for.
    #[error("qemu ended during control request `{0}`")]
    QemuGone(String),
    /// The connection is over, by the daemon's end as a rule.
    #[error("longpin-device does not serve control request `{request}`: {problem}")]
    Broken {
        /// Name of the request.
        request: String,
        /// What was seen.
        problem: String,
    },
    /// No answer in time.
    #[error("longpin-device does not answer control request `{request}` within {} ms", .timeout.as_millis())]
    Late {
        /// Name of the request.
        request: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// An answer came, and nothing can be made of it.
    #[error("{0:#}")]
    Useless(#[from] anyhow::Error),
}

/// What else can end a wait. `never()` where there is no such thing yet.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Disconnects when QEMU ends.
    pub qemu: Receiver<()>,
    /// Disconnects when we are asked to stop.
    pub interrupt: Receiver<()>,
}

/// A connection.
pub struct Control {
    writer: UnixStream,
    incoming: Receiver<Result<Answer, LineError>>,
    broken: Option<String>,
}

impl Control {
    /// Take over a connected socket.
    pub fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let reader = stream.try_clone().context("control socket cannot be cloned")?;
        let (sender, incoming) = unbounded();
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let mut reader = BufReader::new(reader);
                loop {
                    let answer = line::receive(&mut reader);
                    let last = answer.is_err();
                    if sender.send(answer).is_err() || last {
                        break;
                    }
                }
            })
            .context("control reader thread cannot be started")?;
        Ok(Self { writer: stream, incoming, broken: None })
    }

    /// Ask. A refusal is an answer ([`Answer::Error`]).
    pub fn ask(&mut self, request: &Request, timeout: Duration, ends: &Ends) -> Result<Answer, ControlError> {
        let asked = self.broken.clone().map_or_else(
            || self.exchange(request, timeout, ends),
            |problem| Err(ControlError::Broken { request: name(request), problem }),
        );
        if let Err(error) = &asked {
            self.broken.get_or_insert_with(|| error.to_string());
        }
        asked
    }

    fn exchange(
        &mut self,
        request: &Request,
        timeout: Duration,
        ends: &Ends,
    ) -> Result<Answer, ControlError> {
        let broken = |problem: String| ControlError::Broken { request: name(request), problem };
        line::send(&mut self.writer, request).map_err(|error| broken(error.to_string()))?;
        let deadline = Deadline::after(timeout);
        let received = select! {
            recv(self.incoming) -> received => received,
            recv(ends.interrupt) -> _ => return Err(ControlError::Interrupted),
            recv(ends.qemu) -> _ => return self.last_word().ok_or_else(|| ControlError::QemuGone(name(request))),
            // As with the agent: an answer that has come wins over a deadline that has passed.
            default(deadline.left()) => match self.incoming.recv_timeout(HAND_OVER) {
                Err(RecvTimeoutError::Timeout) => {
                    return Err(ControlError::Late { request: name(request), timeout });
                }
                Err(RecvTimeoutError::Disconnected) => Err(RecvError),
                Ok(answer) => Ok(answer),
            },
        };
        match received {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(broken(error.to_string())),
            Err(_) => Err(broken("the connection is closed".to_owned())),
        }
    }

    /// An answer that had come before QEMU's end was noticed.
    fn last_word(&self) -> Option<Answer> {
        self.incoming.try_recv().ok()?.ok()
    }
}

/// The word of a request on the wire.
fn name(request: &Request) -> String {
    let value = serde_json::to_value(request).unwrap_or_default();
    value.get("request").and_then(|word| word.as_str()).unwrap_or("request").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::never;

    const SOON: Duration = Duration::from_secs(30);

    fn pair() -> (Control, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Control::new(ours).unwrap(), theirs)
    }

    fn quiet() -> Ends {
        Ends { qemu: never(), interrupt: never() }
    }

    fn gone() -> Receiver<()> {
        crossbeam_channel::bounded(0).1
    }

    #[test]
    fn a_request_gets_its_answer_and_a_refusal_is_one() {
        let (mut control, mut peer) = pair();
        let refusal = Answer::Error { message: "no such rule".into() };
        line::send(&mut peer, &Answer::Ok).unwrap();
        line::send(&mut peer, &refusal).unwrap();
        assert_eq!(control.ask(&Request::Case { run: 1 }, SOON, &quiet()).unwrap(), Answer::Ok);
        let release = Request::ReleaseHeld { rule: "w".into() };
        assert_eq!(control.ask(&release, SOON, &quiet()).unwrap(), refusal);
        let mut peer = BufReader::new(peer);
        assert_eq!(line::receive::<Request>(&mut peer).unwrap(), Request::Case { run: 1 });
        assert_eq!(line::receive::<Request>(&mut peer).unwrap(), release);
    }

    #[test]
    fn each_end_of_a_wait_has_its_own_word() {
        for (ends, word) in [
            (Ends { qemu: gone(), interrupt: never() }, "qemu ended during control request `audit`"),
            (Ends { qemu: never(), interrupt: gone() }, "interrupted"),
        ] {
            let (mut control, _peer) = pair();
            assert_eq!(control.ask(&Request::Audit, SOON, &ends).unwrap_err().to_string(), word);
        }
        let (mut control, peer) = pair();
        drop(peer);
        let error = control.ask(&Request::Audit, SOON, &quiet()).unwrap_err();
        assert!(matches!(error, ControlError::Broken { .. }), "{error}");
    }

    #[test]
    fn an_answer_that_has_come_wins_over_a_deadline_that_has_passed() {
        let (mut control, mut peer) = pair();
        for _ in 0..50 {
            line::send(&mut peer, &Answer::Ok).unwrap();
            assert_eq!(control.ask(&Request::Audit, Duration::ZERO, &quiet()).unwrap(), Answer::Ok);
        }
    }

    #[test]
    fn after_a_late_answer_no_other_is_believed() {
        let (mut control, mut peer) = pair();
        let error = control.ask(&Request::Audit, Duration::from_millis(20), &quiet()).unwrap_err();
        assert_eq!(error.to_string(), "longpin-device does not answer control request `audit` within 20 ms");
        line::send(&mut peer, &Answer::Ok).unwrap();
        let error = control.ask(&Request::Disks, SOON, &quiet()).unwrap_err().to_string();
        assert!(error.starts_with("longpin-device does not serve control request `disks`"), "{error}");
    }
}
