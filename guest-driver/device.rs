// SPDX-License-Identifier: GPL-2.0

//! The accelerator: its limits, its queues, all regions that it may write to, and the one way down.
//!
//! A device is up from probe until [`Device::shut_down`], which resets it. That happens when it is
//! removed, or when it is broken: it did not answer control requests in time, answered nonsense
//! where the safety of memory depends on it, or spoiled a ring. A device that went down stays down until the next
//! probe; files that are open see [`ENODEV`], and give their pages back without asking the device,
//! since a device in reset does no DMA.
//!
//! Lock order: `link`, then the queues. `regions` is a leaf. `longpin_main.rs` has the whole.

use crate::{
    compat::number,
    control::{
        Control,
        ControlMessage,
        Patience,
        SEGMENTS_PER_REQUEST, //
    },
    dma,
    mapping::DmaDevice,
    module_parameters,
    page_faults::FaultQueue,
    port::Port,
    program::ProgramQueue,
    queue::Quiesced,
    region::Region, //
};
use kernel::{
    device,
    fmt::Arguments,
    fs::File,
    new_mutex, new_poll_condvar,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    },
};

/// Limits that hold for this device: its own, where they are smaller than the protocol's.
pub(crate) struct Limits {
    pub(crate) regions: u32,
    pub(crate) segments_per_map: u32,
    pub(crate) region_bytes: u64,
}

/// The way to the device.
enum Link {
    Up(Port),
    Down(Quiesced),
}

/// What a device with `dma::FEATURE_REVOCABLE` has in addition.
#[pin_data]
struct Revocable {
    #[pin]
    mmu: Control,
    #[pin]
    faults: FaultQueue,
}

impl Revocable {
    fn new(port: &Port, timeout: Jiffies) -> Result<Arc<Self>> {
        let mmu = Control::new(port.mmu_queue()?, timeout)?;
        let faults = FaultQueue::new(port.fault_queue()?);
        Arc::pin_init(
            pin_init!(Self {
                mmu <- mmu,
                faults <- faults,
            }),
            GFP_KERNEL,
        )
    }
}

struct Regions {
    tree: RBTree<u32, Arc<Region>>,
    len: u32,
    next_id: u32,
}

/// See the module.
#[pin_data]
pub(crate) struct Device {
    dev: ARef<device::Device>,
    dma_dev: DmaDevice,
    limits: Limits,
    #[pin]
    control: Control,
    #[pin]
    pub(crate) programs: ProgramQueue,
    revocable: Option<Arc<Revocable>>,
    #[pin]
    link: Mutex<Link>,
    // Set while `link` is locked.
    down: Atomic<bool>,
    // Notified when the device has gone down.
    #[pin]
    gone: PollCondVar,
    #[pin]
    regions: Mutex<Regions>,
    pages_pinned: Atomic<u64>,
}

impl Device {
    /// Reads and checks the configuration space and makes the queues' objects.
    ///
    /// Errors: [`ENODEV`] if this is not an accelerator of our protocol.
    pub(crate) fn new(port: Port) -> Result<Arc<Self>> {
        let dev = port.dev();
        let limits = Self::check_config(&dev, &port.config())?;
        let dma_dev = port.dma_dev()?;
        let timeout = Self::timeout(number(module_parameters::device_timeout_ms.value()));
        let control = Control::new(port.control_queue()?, timeout)?;
        let programs = ProgramQueue::new(port.dma_queue()?);
        let timeout = Self::timeout(number(module_parameters::invalidate_timeout_ms.value()));
        let revocable = match port.nr_queues() {
            dma::NUM_QUEUES => Some(Revocable::new(&port, timeout)?),
            _ => None,
        };
        let regions = Regions {
            tree: RBTree::new(),
            len: 0,
            next_id: 1,
        };
        Arc::pin_init(
            pin_init!(Self {
                dev,
                dma_dev,
                limits,
                control <- control,
                programs <- programs,
                revocable,
                link <- new_mutex!(Link::Up(port), "longpin_link"),
                down: Atomic::new(false),
                gone <- new_poll_condvar!("longpin_gone"),
                regions <- new_mutex!(regions, "longpin_regions"),
                pages_pinned: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    fn check_config(dev: &device::Device, config: &dma::Config) -> Result<Limits> {
        if config.magic != dma::CONFIG_MAGIC || config.version != dma::VERSION {
            dev_err!(
                dev,
                "not an accelerator of protocol {}: magic {:#x}, version {}\n",
                dma::VERSION,
                config.magic,
                config.version
            );
            return Err(ENODEV);
        }
        let limits = Limits {
            regions: config.max_regions.min(dma::MAX_REGIONS),
            segments_per_map: config
                .max_segments_per_map
                .min(dma::MAX_SEGMENTS_PER_MAP)
                .min(SEGMENTS_PER_REQUEST),
            region_bytes: config.max_region_bytes.min(dma::MAX_REGION_BYTES),
        };
        if limits.segments_per_map == 0 {
            dev_err!(dev, "accelerator takes no segments\n");
            return Err(ENODEV);
        }
        Ok(limits)
    }

    fn timeout(milliseconds: u32) -> Jiffies {
        // At least one, or no device could be quick enough; at most a minute, below which the
        // hung-task detector keeps quiet about uninterruptible waits.
        msecs_to_jiffies(milliseconds.clamp(1, 60_000))
    }

    /// Calls `work` with the way to the device, if there is one.
    pub(crate) fn when_up(&self, work: impl FnOnce(&Port)) {
        if let Link::Up(port) = &*self.link.lock() {
            work(port);
        }
    }

    /// The device to map DMA for.
    pub(crate) fn dma_dev(&self) -> &DmaDevice {
        &self.dma_dev
    }

    pub(crate) fn dev(&self) -> &device::Device {
        &self.dev
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the device was reset, and does no DMA any more. Pairs with the release in
    /// [`Device::shut_down`].
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Acquire)
    }

    pub(crate) fn pages_pinned(&self) -> u64 {
        self.pages_pinned.load(Relaxed)
    }

    pub(crate) fn count_pinned(&self, nr_pages: u32) {
        self.pages_pinned.add(u64::from(nr_pages), Relaxed);
    }

    pub(crate) fn count_unpinned(&self, nr_pages: u32) {
        self.pages_pinned.fetch_sub(u64::from(nr_pages), Relaxed);
    }

    /// Proof that the device does no DMA any more, if it is down.
    pub(crate) fn quiesced(&self) -> Option<Quiesced> {
        if !self.is_down() {
            return None;
        }
        match &*self.link.lock() {
            Link::Up(_) => None,
            Link::Down(reset) => Some(*reset),
        }
    }

    /// Has `table` told when the device goes down.
    pub(crate) fn poll(&self, file: &File, table: &PollTable<'_>) {
        table.register_wait(file, &self.gone);
    }

    /// For the control requests of an operation that begins.
    pub(crate) fn patience(&self) -> Patience {
        self.control.patience()
    }

    /// Sends a control request and waits for the answer, see [`Control::call`]. A device that uses
    /// up `patience` is reset. Must not be called with a leaf lock held.
    pub(crate) fn call(
        &self,
        op: u32,
        patience: &mut Patience,
        fill: impl FnOnce(&mut ControlMessage) -> Result,
    ) -> Result<dma::Response> {
        self.control.call(op, patience, fill, || {
            self.declare_broken(fmt!("no answer to control request {op} in time"));
        })
    }

    /// Whether the device can do without pins.
    pub(crate) fn is_revocable(&self) -> bool {
        self.revocable.is_some()
    }

    /// Leaves the device what it needs to tell of its faults, if it has any. Call it once, when
    /// requests may be added. Errors: [`ENOMEM`].
    pub(crate) fn await_faults(self: &Arc<Self>) -> Result {
        match &self.revocable {
            Some(revocable) => revocable.faults.start(self),
            None => Ok(()),
        }
    }

    /// The queue of the device's faults.
    pub(crate) fn page_faults(&self) -> Option<&FaultQueue> {
        self.revocable.as_ref().map(|revocable| &revocable.faults)
    }

    /// Sends a request on the MMU queue, as [`Device::call`] on the other, with a deadline of its
    /// own. Does not allocate memory, and waits for nothing but the device.
    pub(crate) fn call_mmu(
        &self,
        op: u32,
        fill: impl FnOnce(&mut ControlMessage) -> Result,
    ) -> Result<dma::Response> {
        let Revocable { mmu, .. } = self.revocable.as_deref().ok_or(ENODEV)?;
        mmu.call(op, &mut mmu.patience(), fill, || {
            self.declare_broken(fmt!("no answer to MMU request {op} in time"));
        })
    }

    /// Answers a page fault of the device. Process context, of a work that may wait for long.
    pub(crate) fn fault(&self, event: &dma::FaultEvent) {
        let regions = self.regions.lock();
        let region = regions.tree.get(&event.region).cloned();
        drop(regions);
        match region.and_then(|region| region.mirror()) {
            Some(mirror) => mirror.fault(event),
            // It was given up in the meantime, which has ended the program. Or the device lies.
            None => self.refuse_fault(event.id, EFAULT),
        }
    }

    /// Has the device end the program that waits for a fault.
    pub(crate) fn refuse_fault(&self, fault: u64, error: Error) {
        let done = dma::FaultDone {
            fault,
            error: error.to_errno().unsigned_abs(),
            reserved: 0,
        };
        if self
            .call_mmu(dma::OP_FAULT_DONE, |message| message.push(&done))
            .is_err()
            && !self.is_down()
        {
            self.declare_broken(fmt!("it did not take the end of fault {fault}"));
        }
    }

    /// Resets a device that cannot be trusted any more.
    pub(crate) fn declare_broken(&self, why: Arguments<'_>) -> Quiesced {
        let (reset, was_up) = self.shut_down();
        if was_up {
            dev_err!(self.dev, "{}: device is broken and was reset\n", why);
        }
        reset
    }

    /// Resets the device. When this returns, whoever called it first, the device does no DMA, and
    /// every message was handed back. Returns whether this call did it.
    pub(crate) fn shut_down(&self) -> (Quiesced, bool) {
        let mut link = self.link.lock();
        let port = match &*link {
            Link::Up(port) => port,
            Link::Down(reset) => return (*reset, false),
        };
        let control = self.control.close();
        let programs = self.programs.close();
        let revocable = self
            .revocable
            .as_ref()
            .map(|revocable| (revocable, revocable.mmu.close(), revocable.faults.close()));
        let reset = port.reset();
        *link = Link::Down(reset);
        self.down.store(true, Release);
        self.control.abandon(control, &reset);
        self.programs.abandon(programs, &reset);
        if let Some((revocable, mmu, faults)) = revocable {
            revocable.mmu.abandon(mmu, &reset);
            revocable.faults.abandon(faults, &reset);
        }
        self.gone.notify_all();
        (reset, true)
    }

    /// Handles what the device has answered. Returns false if a ring is broken: the device must be
    /// reset then, but not by the caller, for whom the reset waits. Process context.
    pub(crate) fn drain(&self) -> bool {
        let mut broken = false;
        if let Some(revocable) = &self.revocable {
            // First: the kernel may be waiting for it with locks held.
            revocable.mmu.drain();
            revocable.faults.drain();
            broken = revocable.mmu.is_broken() || revocable.faults.is_broken();
        }
        self.control.drain();
        self.programs.drain();
        !broken && !self.control.is_broken() && !self.programs.is_broken()
    }

    /// A new number for a region; never the same twice.
    ///
    /// Errors: [`ENOSPC`] after 2^32 regions: bind the driver anew.
    pub(crate) fn new_region_id(&self) -> Result<u32> {
        let mut regions = self.regions.lock();
        let id = regions.next_id;
        regions.next_id = id.checked_add(1).ok_or(ENOSPC)?;
        Ok(id)
    }

    /// Makes a region known, so that removal of the device finds it. Undone by
    /// [`Device::forget_region`].
    ///
    /// Errors: [`ENOSPC`], [`ENOMEM`].
    pub(crate) fn remember_region(&self, region: &Arc<Region>) -> Result {
        let node = RBTreeNode::new(region.id(), region.clone(), GFP_KERNEL)?;
        let mut regions = self.regions.lock();
        if regions.len >= self.limits.regions {
            return Err(ENOSPC);
        }
        regions.len += 1;
        regions.tree.insert(node);
        Ok(())
    }

    /// See [`Device::remember_region`]. Does nothing the second time.
    pub(crate) fn forget_region(&self, id: u32) {
        let mut regions = self.regions.lock();
        let forgotten = regions.tree.remove_node(&id);
        if forgotten.is_some() {
            regions.len -= 1;
        }
        drop(regions);
        // The last reference may go here: not under the lock.
        drop(forgotten);
    }

    /// Gives back the pages of all regions of a device that is down and about to be unbound:
    /// nothing may stay mapped for a device without a driver. Files keep the empty regions.
    pub(crate) fn revoke_regions(&self, reset: &Quiesced) {
        while let Some(region) = self.first_region() {
            region.revoke(self, reset);
        }
    }

    fn first_region(&self) -> Option<Arc<Region>> {
        let regions = self.regions.lock();
        let first = regions.tree.values().next();
        first.cloned()
    }
}
