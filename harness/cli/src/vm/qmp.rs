// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's monitor: the handshake, and the events that say how a guest ended or why it stands still. Never asks for
//! `x-query-virtio-status` (it crashes QEMU with the accelerator's front end).

use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use crossbeam_channel::{Receiver, unbounded};
use longpin_proto::line;
use serde_json::{Value, json};
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Why QEMU stopped running the guest: `reason` of the SHUTDOWN event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself: with `panic=-1` that is a panic.
    Reset,
    /// Somebody on the host ended QEMU.
    Host,
}

impl Shutdown {
    fn of(event: &Value) -> Option<Self> {
        if event.get("event")? != "SHUTDOWN" {
            return None;
        }
        Some(match event.pointer("/data/reason")?.as_str()? {
            "guest-shutdown" => Self::PowerOff,
            "guest-reset" | "guest-panic" | "subsystem-reset" => Self::Reset,
            _ => Self::Host,
        })
    }
}

/// A connected monitor.
pub struct Qmp {
    writer: UnixStream,
    incoming: Receiver<Value>,
    shutdown: Option<Shutdown>,
    /// The host failed a request of a disk and QEMU stopped the guest.
    io_error: Option<String>,
    version: String,
}

impl Qmp {
    /// Greet QEMU and switch the monitor to command mode.
    pub fn handshake(stream: UnixStream, deadline: Deadline) -> anyhow::Result<Self> {
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let reader = stream.try_clone().context("monitor socket cannot be cloned")?;
        let (sender, incoming) = unbounded();
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Ok(message) = line::receive(&mut reader) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        })?;
        let mut qmp =
            Self { writer: stream, incoming, shutdown: None, io_error: None, version: String::new() };
        let greeting = qmp.next(deadline).context("QEMU did not greet on its monitor")?;
        qmp.version = version(&greeting).context("QEMU's greeting names no version")?;
        qmp.execute("qmp_capabilities", deadline)?;
        Ok(qmp)
    }

    /// QEMU's version, `11.1.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Run a command without arguments.
    pub fn execute(&mut self, command: &str, deadline: Deadline) -> anyhow::Result<Value> {
        self.execute_with(command, json!({}), deadline)
    }

    /// Run a command of the monitor for people; its answer is text.
    pub fn human(&mut self, command: &str, deadline: Deadline) -> anyhow::Result<String> {
        let arguments = json!({ "command-line": command });
        let answer = self.execute_with("human-monitor-command", arguments, deadline)?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Run a command. One that got no answer must be the last: its answer would be taken for that of the next.
    pub fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Deadline,
    ) -> anyhow::Result<Value> {
        line::send(&mut self.writer, &json!({ "execute": command, "arguments": arguments }))
            .with_context(|| format!("monitor does not take `{command}`"))?;
        loop {
            let answer = self.next(deadline).with_context(|| format!("no answer to `{command}`"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses `{command}`: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// How the guest ended, if QEMU has said so.
    pub fn shutdown(&mut self) -> Option<Shutdown> {
        while let Ok(message) = self.incoming.try_recv() {
            self.note(&message);
        }
        self.shutdown
    }

    /// Why QEMU stopped the guest, if the host could not serve a disk of QEMU's own (`werror=enospc`: a full disk).
    pub fn io_error(&mut self) -> Option<&str> {
        self.shutdown();
        self.io_error.as_deref()
    }

    fn next(&mut self, deadline: Deadline) -> Option<Value> {
        let message = self.incoming.recv_deadline(deadline.instant()).ok()?;
        self.note(&message);
        Some(message)
    }

    /// The first word counts: a reset is followed by QEMU's own end.
    fn note(&mut self, message: &Value) {
        self.shutdown = self.shutdown.or_else(|| Shutdown::of(message));
        self.io_error = self.io_error.take().or_else(|| io_error(message));
    }
}

/// The event BLOCK_IO_ERROR (qapi/block-core.json), if the guest was stopped for it.
fn io_error(event: &Value) -> Option<String> {
    let data =
        event.get("data").filter(|_| event.get("event").is_some_and(|name| name == "BLOCK_IO_ERROR"))?;
    let word = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    (word("action") == "stop")
        .then(|| format!("a {} of {} failed: {}", word("operation"), word("node-name"), word("reason")))
}

fn version(greeting: &Value) -> Option<String> {
    let qemu = greeting.pointer("/QMP/version/qemu")?;
    let part = |name: &str| qemu.get(name).and_then(Value::as_u64);
    Some(format!("{}.{}.{}", part("major")?, part("minor")?, part("micro")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

    fn connect(lines: &[&str]) -> anyhow::Result<(Qmp, UnixStream)> {
        let (ours, mut theirs) = UnixStream::pair()?;
        for line in lines {
            writeln!(theirs, "{line}")?;
        }
        Ok((Qmp::handshake(ours, Deadline::after(Duration::from_secs(30)))?, theirs))
    }

    #[test]
    fn the_handshake_tells_the_version() {
        let (qmp, _peer) = connect(&[GREETING, r#"{"return": {}}"#]).unwrap();
        assert_eq!(qmp.version(), "11.1.3");
    }

    #[test]
    fn a_disk_error_counts_if_the_guest_was_stopped_for_it() {
        for (action, expected) in
            [("stop", Some("a write of disk0 failed: No space left on device")), ("report", None)]
        {
            let event = format!(
                r#"{{"event": "BLOCK_IO_ERROR", "data": {{"device": "", "node-name": "disk0", "operation": "write",
                "action": "{action}", "nospace": true, "reason": "No space left on device"}}}}"#
            )
            .replace('\n', " ");
            let (mut qmp, _peer) = connect(&[GREETING, &event, r#"{"return": {}}"#]).unwrap();
            assert_eq!(qmp.io_error(), expected);
        }
    }

    #[test]
    fn a_guests_reset_is_told_from_its_power_off_and_the_first_word_counts() {
        for (reasons, expected) in [
            (&["guest-reset", "host-qmp-quit"][..], Shutdown::Reset),
            (&["guest-shutdown"][..], Shutdown::PowerOff),
            (&["host-signal"][..], Shutdown::Host),
        ] {
            let (mut qmp, mut peer) = connect(&[GREETING, r#"{"return": {}}"#]).unwrap();
            for reason in reasons {
                let data = json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": reason}});
                writeln!(peer, "{data}").unwrap();
            }
            drop(peer);
            let seen = Deadline::after(Duration::from_secs(30)).poll(|| qmp.shutdown());
            assert_eq!(seen, Some(expected));
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_command() {
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no"}}"#;
        let error = connect(&[GREETING, refusal]).err().unwrap().to_string();
        assert!(error.starts_with("QEMU refuses `qmp_capabilities`"), "{error}");
    }
}
