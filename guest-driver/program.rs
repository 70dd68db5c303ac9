// SPDX-License-Identifier: GPL-2.0

//! DMA programs: what one open file has submitted and not yet collected.
//!
//! A program is known by its tag. Its message stays with the device until the program has ended;
//! then its state in the owner's table changes to ended, and whoever waits or polls is woken. The
//! message holds a reference to the table, so a file may be closed while programs run.
//!
//! Lock order: the table is a leaf; the queue is never used with it locked.

use crate::{
    dma::{
        DmaRequest,
        RequestHeader,
        Response,
        OP_DMA, //
    },
    queue::{
        ClosedQueue,
        Message,
        Quiesced,
        VirtQueue, //
    },
};
use kernel::{
    fs::File,
    new_mutex,
    new_poll_condvar,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        CondVarTimeoutResult,
        Mutex, //
    },
    time::Jiffies, //
};

/// Most programs of a file that were not collected: more than the queue holds, so that it limits
/// only a file that never collects, and the kernel memory that it can use up.
const MAX_UNCOLLECTED: u32 = 4096;

/// Whom to tell when a program has ended.
pub(crate) struct Owner {
    programs: Arc<Programs>,
    tag: u64,
}

/// The device's queue for programs.
#[pin_data]
pub(crate) struct ProgramQueue {
    #[pin]
    queue: VirtQueue<Owner>,
    next_tag: Atomic<u64>,
}

impl ProgramQueue {
    pub(crate) fn new(queue: impl PinInit<VirtQueue<Owner>>) -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- queue,
            next_tag: Atomic::new(1),
        })
    }

    /// Looks for programs that have ended. Process context.
    pub(crate) fn drain(&self) {
        while let Some((message, written)) = self.queue.next_answered() {
            let tag = message.cookie.tag;
            message
                .cookie
                .programs
                .end(tag, message.answer(written, tag));
        }
    }

    /// See [`VirtQueue::is_broken`].
    pub(crate) fn is_broken(&self) -> bool {
        self.queue.is_broken()
    }

    /// Ends the use of the queue.
    pub(crate) fn close(&self) -> ClosedQueue<Owner> {
        self.queue.close()
    }

    /// Ends all programs that the device will not answer.
    pub(crate) fn abandon(&self, mut queue: ClosedQueue<Owner>, reset: &Quiesced) {
        while let Some(message) = queue.next_abandoned(reset) {
            message.cookie.programs.end(message.cookie.tag, Err(ENODEV));
        }
    }
}

#[derive(Clone, Copy)]
enum State {
    Running { region: u32 },
    Ended(Result<Response>),
}

struct Table {
    tree: RBTree<u64, State>,
    len: u32,
    nr_ended: u32,
}

impl Table {
    /// Removes a program; the node can be inserted again.
    fn remove(&mut self, tag: u64) -> Option<RBTreeNode<u64, State>> {
        let ended = matches!(self.tree.get(&tag)?, State::Ended(_));
        self.len -= 1;
        self.nr_ended -= u32::from(ended);
        self.tree.remove_node(&tag)
    }

    fn insert(&mut self, node: RBTreeNode<u64, State>, ended: bool) {
        self.len += 1;
        self.nr_ended += u32::from(ended);
        self.tree.insert(node);
    }
}

/// The programs of an open file. See the module.
#[pin_data]
pub(crate) struct Programs {
    #[pin]
    table: Mutex<Table>,
    #[pin]
    changed: PollCondVar,
}

impl Programs {
    pub(crate) fn new() -> Result<Arc<Self>> {
        let table = Table {
            tree: RBTree::new(),
            len: 0,
            nr_ended: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                table <- new_mutex!(table, "longpin_programs"),
                changed <- new_poll_condvar!("longpin_programs"),
            }),
            GFP_KERNEL,
        )
    }

    /// Starts a program. `announce` gets its tag before it runs, and may still prevent it.
    ///
    /// Errors: [`EAGAIN`] if the queue or the table is full, [`ENOMEM`], [`ENODEV`], and those of
    /// `announce`.
    pub(crate) fn submit(
        self: &Arc<Self>,
        queue: &ProgramQueue,
        request: &DmaRequest,
        announce: impl FnOnce(u64) -> Result,
    ) -> Result {
        let tag = queue.next_tag.fetch_add(1, Relaxed);
        let owner = Owner {
            programs: self.clone(),
            tag,
        };
        let capacity = size_of::<RequestHeader>() + size_of::<DmaRequest>();
        let mut message = Message::new(capacity, owner)?;
        message.push(&RequestHeader {
            op: OP_DMA,
            reserved: 0,
            tag,
        })?;
        message.push(request)?;

        // It may end before `submit()` returns, so it has to be in the table first.
        self.add(tag, request.region)?;
        let sent = announce(tag).and_then(|()| {
            queue.queue.submit(message).map_err(|(error, message)| {
                drop(message);
                match error {
                    e if e == ENOSPC => EAGAIN,
                    e if e == ENOMEM => ENOMEM,
                    _ => ENODEV,
                }
            })
        });
        if sent.is_err() {
            self.table.lock().remove(tag);
            self.changed.notify_all();
        }
        sent
    }

    fn add(&self, tag: u64, region: u32) -> Result {
        let node = RBTreeNode::new(tag, State::Running { region }, GFP_KERNEL)?;
        let mut table = self.table.lock();
        if table.len >= MAX_UNCOLLECTED {
            return Err(EAGAIN);
        }
        table.insert(node, false);
        Ok(())
    }

    fn end(&self, tag: u64, result: Result<Response>) {
        let mut table = self.table.lock();
        if let Some(state) = table.tree.get_mut(&tag) {
            *state = State::Ended(result);
            table.nr_ended += 1;
        }
        drop(table);
        self.changed.notify_all();
    }

    /// Waits up to `timeout` for a program's end, removes it and gives its result to `deliver`. If
    /// that fails, the program can be collected again.
    ///
    /// Errors: [`ENOENT`], [`ETIMEDOUT`], [`EINTR`], [`ENODEV`] if the device went down (and the
    /// program is gone), those of `deliver`.
    pub(crate) fn collect(
        &self,
        tag: u64,
        timeout: Jiffies,
        deliver: impl FnOnce(&Response) -> Result,
    ) -> Result {
        let mut table = self.table.lock();
        let mut left = timeout;
        let result = loop {
            match table.tree.get(&tag) {
                None => return Err(ENOENT),
                Some(State::Ended(result)) => break *result,
                Some(State::Running { .. }) if left == 0 => return Err(ETIMEDOUT),
                Some(State::Running { .. }) => {}
            }
            left = match self.changed.wait_interruptible_timeout(&mut table, left) {
                CondVarTimeoutResult::Woken { jiffies } => jiffies,
                CondVarTimeoutResult::Timeout => 0,
                CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
            };
        };
        let node = table.remove(tag).ok_or(ENOENT)?;
        drop(table);
        let delivered = deliver(&result?);
        if delivered.is_err() {
            self.table.lock().insert(node, true);
            self.changed.notify_all();
        }
        delivered
    }

    /// Whether the program still runs. Errors: [`ENOENT`].
    pub(crate) fn is_running(&self, tag: u64) -> Result<bool> {
        match self.table.lock().tree.get(&tag) {
            None => Err(ENOENT),
            Some(state) => Ok(matches!(state, State::Running { .. })),
        }
    }

    /// Number of programs that run on a region.
    pub(crate) fn nr_running(&self, region: u32) -> u32 {
        let table = self.table.lock();
        let on_region =
            |state: &&State| matches!(state, State::Running { region: r } if *r == region);
        table.tree.values().filter(on_region).count() as u32
    }

    /// Number of programs that were not collected.
    pub(crate) fn len(&self) -> u32 {
        self.table.lock().len
    }

    /// Whether an ended program was not collected. `poll_table` is told when that may change.
    pub(crate) fn poll(&self, file: &File, poll_table: &PollTable<'_>) -> bool {
        poll_table.register_wait(file, &self.changed);
        self.table.lock().nr_ended > 0
    }
}
