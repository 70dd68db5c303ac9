// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests by netlink(7) that are answered by an errno.

use crate::error::{OrRefused, StepError, failed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
/// Making a device waits for readers of RCU.
const PATIENCE_S: i64 = 20;

/// A request.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// Of a type, with the structure that this type has before its attributes.
    pub fn new(kind: u16, body: &[u8]) -> Self {
        let mut message = Self(vec![0; HEADER_BYTES]);
        message.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        message.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.pad(body);
        message
    }

    /// Add an attribute (`struct nlattr`: length, type, value).
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // Values are names and addresses.
        let len = (value.len() + 4) as u16;
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.pad(value);
        self
    }

    /// Add an attribute that is text: with a zero byte at its end.
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn pad(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn bytes(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }

    /// Send it, and wait for the answer. What is there already is as good as made.
    pub fn ask(self, protocol: Option<Protocol>, what: &str) -> Result<(), StepError> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
        let socket = socket.or_failed("socket(AF_NETLINK)")?;
        rustix::net::send(&socket, &self.bytes(), SendFlags::empty()).or_failed(what)?;
        let patience = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        if poll(&mut fds, Some(&patience)).or_failed("poll")? == 0 {
            return failed!("{what}: netlink does not answer within {PATIENCE_S} s");
        }
        let mut answer = [0; 512];
        let (_, len) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).or_failed(what)?;
        match errno_of(&answer[..len.min(answer.len())]) {
            Some(0) => Ok(()),
            Some(errno) if errno == Errno::EXIST.raw_os_error() => Ok(()),
            Some(errno) => Err(Errno::from_raw_os_error(errno)).or_failed(what),
            None => failed!("{what}: netlink answers {len} bytes that are no errno"),
        }
    }
}

/// Of an answer of type NLMSG_ERROR; 0: done.
fn errno_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let errno = i32::from_ne_bytes(*answer.get(HEADER_BYTES..)?.first_chunk()?);
    (kind == NLMSG_ERROR).then_some(errno.checked_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_and_attributes_begin_at_multiples_of_four() {
        let bytes = Message::new(0x1403, &[]).with_text(2, "rxe0").with(51, &[7; 2]).bytes();
        let (head, attributes) = bytes.split_at(HEADER_BYTES);
        assert_eq!(head[..4], 36u32.to_ne_bytes());
        assert_eq!(head[4..6], 0x1403u16.to_ne_bytes());
        let expected =
            [&9u16.to_ne_bytes()[..], &2u16.to_ne_bytes(), b"rxe0\0\0\0\0", &6u16.to_ne_bytes()].concat();
        assert_eq!(attributes[..14], expected);
        assert_eq!(attributes[14..], [&51u16.to_ne_bytes()[..], &[7, 7, 0, 0]].concat());
    }

    #[test]
    fn an_answer_is_an_errno_or_none() {
        let answer = |kind: u16, errno: i32| {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(errno.to_ne_bytes());
            bytes
        };
        assert_eq!(errno_of(&answer(NLMSG_ERROR, 0)), Some(0));
        assert_eq!(errno_of(&answer(NLMSG_ERROR, -17)), Some(17));
        assert_eq!(errno_of(&answer(3, -17)), None);
        assert_eq!(errno_of(&answer(NLMSG_ERROR, -17)[..HEADER_BYTES]), None);
    }

    /// An unknown type of NETLINK_ROUTE is refused to everybody.
    #[test]
    fn what_the_kernel_refuses_is_named() {
        let asked = Message::new(0xfff, &[0; 16]).ask(None, "a question");
        let Err(StepError::Failed(text)) = asked else { panic!("{asked:?}") };
        assert!(text.starts_with("a question: E"), "{text}");
    }
}
