// SPDX-License-Identifier: GPL-2.0

//! Page faults of the device.
//!
//! A few messages lie ready with the device. One that comes back tells of a fault, and is worked on
//! outside the interrupt's work, each by itself: to bring a page in may take long, when it has to
//! wait for writeback, or for another page to be given back, which is what the interrupt's work is
//! for. Then the message goes to the device again. Everything is allocated when the device is
//! probed, since the interrupt's work must not wait for memory.

use crate::{
    device::Device,
    dma::{
        FaultEvent,
        RequestHeader,
        Response,
        OP_AWAIT_FAULT,
        STATUS_OK, //
    },
    glue,
    queue::{
        ClosedQueue,
        Message,
        Quiesced,
        VirtQueue, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Queue,
        Work,
        WorkItem, //
    }, //
};

/// Faults that are worked on at once. More wait in the device.
const NR_SLOTS: usize = 16;

type FaultMessage = Message<Arc<FaultSlot>>;

/// A message that came back, and the fault that it tells of; None if the device talks nonsense.
struct Brought {
    message: KBox<FaultMessage>,
    fault: Option<FaultEvent>,
}

/// One message, and the work on what it brings.
#[pin_data]
pub(crate) struct FaultSlot {
    device: Arc<Device>,
    /// Of the request that is with the device.
    tag: Atomic<u64>,
    #[pin]
    work: Work<FaultSlot>,
    #[pin]
    brought: Mutex<Option<Brought>>,
}

impl_has_work! {
    impl HasWork<Self> for FaultSlot { self.work }
}

impl FaultSlot {
    fn new(device: &Arc<Device>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device: device.clone(),
                tag: Atomic::new(0),
                work <- new_work!("FaultSlot::work"),
                brought <- new_mutex!(None, "longpin_fault"),
            }),
            GFP_KERNEL,
        )
    }
}

impl WorkItem for FaultSlot {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(Brought { message, fault }) = this.brought.lock().take() else {
            return;
        };
        if let Some(event) = fault {
            this.device.fault(&event);
        }
        if let Some(faults) = this.device.page_faults() {
            faults.send(message);
        }
    }
}

/// The queue on which the device tells of its faults.
#[pin_data]
pub(crate) struct FaultQueue {
    #[pin]
    queue: VirtQueue<Arc<FaultSlot>>,
    next_tag: Atomic<u64>,
}

impl FaultQueue {
    pub(crate) fn new(queue: impl PinInit<VirtQueue<Arc<FaultSlot>>>) -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- queue,
            next_tag: Atomic::new(1),
        })
    }

    /// Gives the device its messages. Errors: [`ENOMEM`].
    pub(crate) fn start(&self, device: &Arc<Device>) -> Result {
        for _ in 0..NR_SLOTS {
            self.send(Message::new(
                size_of::<RequestHeader>(),
                FaultSlot::new(device)?,
            )?);
        }
        Ok(())
    }

    /// A message that cannot be sent is dropped: the queue was closed, or is broken.
    fn send(&self, mut message: KBox<FaultMessage>) {
        message.clear();
        let header = RequestHeader {
            op: OP_AWAIT_FAULT,
            reserved: 0,
            tag: self.next_tag.fetch_add(1, Relaxed),
        };
        if message.push(&header).is_ok() {
            message.cookie.tag.store(header.tag, Relaxed);
            drop(self.queue.submit(message));
        }
    }

    /// Looks for faults. Process context; does not wait for memory.
    pub(crate) fn drain(&self) {
        while let Some((message, written)) = self.queue.next_answered() {
            let answer = message.answer(written, message.cookie.tag.load(Relaxed));
            let fault = answer.ok().and_then(fault_of);
            let slot = message.cookie.clone();
            *slot.brought.lock() = Some(Brought { message, fault });
            // SAFETY: The queue is there until the driver is unregistered, which waits for this
            // work, and for everything that comes after.
            let queue = unsafe { Queue::from_raw(glue::longpin_fault_queue().cast()) };
            // It cannot be queued already: its message was with the device.
            let _ = queue.enqueue(slot);
        }
    }

    /// See [`VirtQueue::is_broken`].
    pub(crate) fn is_broken(&self) -> bool {
        self.queue.is_broken()
    }

    /// Ends the use of the queue.
    pub(crate) fn close(&self) -> ClosedQueue<Arc<FaultSlot>> {
        self.queue.close()
    }

    /// Takes the messages back.
    pub(crate) fn abandon(&self, mut queue: ClosedQueue<Arc<FaultSlot>>, reset: &Quiesced) {
        while let Some(message) = queue.next_abandoned(reset) {
            drop(message);
        }
    }
}

/// Both have one size, and the tag at one place.
fn fault_of(response: Response) -> Option<FaultEvent> {
    let event = FaultEvent::read_from_bytes(response.as_bytes()).ok()?;
    (event.status == STATUS_OK && event.id != 0).then_some(event)
}
