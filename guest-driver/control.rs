// SPDX-License-Identifier: GPL-2.0

//! Requests on the control queue, and on that of the MMU: one at a time, each waited for.
//!
//! The one message is allocated when the device is probed and used again and again, so that a
//! region can always be taken away from the device, also when memory is short. One at a time, so
//! that the queue is never full; the device answers control requests one after the other anyway.
//!
//! Waiting takes no notice of signals. It is bounded by the caller's [`Patience`], and the device's
//! state would be unknown if a request were given up half-way.

use crate::{
    dma::{
        MapRequest,
        RequestHeader,
        Response,
        Segment, //
    },
    queue::{
        ClosedQueue,
        Message,
        Quiesced,
        Signal,
        VirtQueue, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex,
    time::Jiffies, //
};

/// Bytes of a request: an allocation of order 3, which the page allocator gives without fail
/// (`PAGE_ALLOC_COSTLY_ORDER`); one of [`crate::dma::MAX_SEGMENTS_PER_MAP`] segments would be of
/// order 4.
const REQUEST_BYTES: usize = 32 * 1024;
/// Most segments in a request.
pub(crate) const SEGMENTS_PER_REQUEST: u32 =
    ((REQUEST_BYTES - size_of::<RequestHeader>() - size_of::<MapRequest>()) / size_of::<Segment>())
        as u32;

/// A message on the control queue.
pub(crate) type ControlMessage = Message<()>;

/// How long the device may still take for the requests of one operation, all together: else one
/// that answers each of them at the last moment would hold its callers for minutes. The wait for
/// the turn is not counted, it depends on what others do.
pub(crate) struct Patience(Jiffies);

struct Channel {
    // None only while a request is under way, and after one that was never given back.
    idle: Option<KBox<ControlMessage>>,
    next_tag: u64,
}

/// The control queue. Lock order: `channel`, then whatever [`Control::call`]'s `give_up` takes.
#[pin_data]
pub(crate) struct Control {
    #[pin]
    channel: Mutex<Channel>,
    #[pin]
    queue: VirtQueue<()>,
    // Message and written bytes; None in place of the number if the device will not answer.
    #[pin]
    returned: Mutex<Option<(KBox<ControlMessage>, Option<usize>)>>,
    #[pin]
    signal: Signal,
    timeout: Jiffies,
}

impl Control {
    pub(crate) fn new(
        queue: impl PinInit<VirtQueue<()>>,
        timeout: Jiffies,
    ) -> Result<impl PinInit<Self>> {
        let channel = Channel {
            idle: Some(Message::new(REQUEST_BYTES, ())?),
            next_tag: 1,
        };
        Ok(pin_init!(Self {
            channel <- new_mutex!(channel, "longpin_control"),
            queue <- queue,
            returned <- new_mutex!(None, "longpin_returned"),
            signal <- Signal::new(),
            timeout,
        }))
    }

    /// For an operation that begins.
    pub(crate) fn patience(&self) -> Patience {
        Patience(self.timeout)
    }

    /// Sends the request `op`, with the body that `fill` appends, and waits for the answer.
    ///
    /// Errors: [`ENODEV`] if the device is down; [`ETIMEDOUT`] if it did not answer in time: then
    /// `give_up` was called, which must reset the device and hand all messages back; [`EIO`] if
    /// the answer makes no sense.
    pub(crate) fn call(
        &self,
        op: u32,
        patience: &mut Patience,
        fill: impl FnOnce(&mut ControlMessage) -> Result,
        give_up: impl FnOnce(),
    ) -> Result<Response> {
        let mut channel = self.channel.lock();
        let tag = channel.next_tag;
        channel.next_tag += 1;
        let mut message = channel.idle.take().ok_or(ENODEV)?;
        message.clear();
        let header = RequestHeader {
            op,
            reserved: 0,
            tag,
        };
        let filled = message.push(&header).and_then(|()| fill(&mut message));
        if let Err(error) = filled {
            channel.idle = Some(message);
            return Err(error);
        }
        if let Err((error, message)) = self.queue.submit(message) {
            channel.idle = Some(message);
            return Err(error);
        }
        let left = self.signal.wait(patience.0).or_else(|| self.last_look());
        match left {
            Some(left) => patience.0 = left,
            None => give_up(),
        }
        let in_time = left.is_some();
        let (message, written) = self.returned.lock().take().ok_or(ENODEV)?;
        let result = match written {
            Some(written) => message.answer(written, tag),
            None if in_time => Err(ENODEV),
            None => Err(ETIMEDOUT),
        };
        channel.idle = Some(message);
        result
    }

    /// The answer may be on the ring while its interrupt is still on the way, or the work behind
    /// the interrupt waits for a CPU.
    fn last_look(&self) -> Option<Jiffies> {
        self.drain();
        self.signal.wait(1)
    }

    /// Looks for an answer. Process context.
    pub(crate) fn drain(&self) {
        while let Some((message, written)) = self.queue.next_answered() {
            self.hand_back(message, Some(written));
        }
    }

    /// See [`VirtQueue::is_broken`].
    pub(crate) fn is_broken(&self) -> bool {
        self.queue.is_broken()
    }

    /// Ends the use of the queue.
    pub(crate) fn close(&self) -> ClosedQueue<()> {
        self.queue.close()
    }

    /// Hands the message of a request back that the device will not answer.
    pub(crate) fn abandon(&self, mut queue: ClosedQueue<()>, reset: &Quiesced) {
        while let Some(message) = queue.next_abandoned(reset) {
            self.hand_back(message, None);
        }
    }

    fn hand_back(&self, message: KBox<ControlMessage>, written: Option<usize>) {
        *self.returned.lock() = Some((message, written));
        self.signal.raise();
    }
}
