// SPDX-License-Identifier: GPL-2.0

//! The accelerator: its limits, its queues, all regions that it may write to, and the one way down.
//!
//! A device is up from probe until [`Device::shut_down`], which resets it. That happens when it is
//! removed, or when it is broken: it did not answer a control request in time, or answered nonsense
//! where the safety of memory depends on it. A device that went down stays down until the next
//! probe; files that are open see [`ENODEV`], and give their pages back without asking the device,
//! since a device in reset does no DMA.
//!
//! Lock order: `link`, then the queues. `regions` is a leaf.

use crate::{
    control::{
        Control,
        ControlMessage,
        SEGMENTS_PER_REQUEST, //
    },
    dma,
    mapping::DmaDevice,
    module_parameters,
    port::Port,
    program::ProgramQueue,
    region::Region, //
};
use kernel::{
    device,
    fmt::Arguments,
    new_mutex,
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
    // None before `connect()` and after `shut_down()`.
    #[pin]
    link: Mutex<Option<Port>>,
    down: Atomic<bool>,
    #[pin]
    regions: Mutex<Regions>,
    pages_pinned: Atomic<u64>,
}

impl Device {
    /// Reads and checks the configuration space and makes the queues' objects.
    ///
    /// Errors: [`ENODEV`] if this is not an accelerator of our protocol.
    pub(crate) fn new(port: &Port) -> Result<Arc<Self>> {
        let dev = port.dev();
        let limits = Self::check_config(&dev, &port.config())?;
        let dma_dev = port.dma_dev()?;
        let control = Control::new(port.control_queue()?, Self::timeout())?;
        let programs = ProgramQueue::new(port.dma_queue()?);
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
                link <- new_mutex!(None, "longpin_link"),
                down: Atomic::new(false),
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

    fn timeout() -> Jiffies {
        // At least one, or no device could be quick enough; at most a minute, below which the
        // hung-task detector keeps quiet about uninterruptible waits.
        msecs_to_jiffies(
            module_parameters::device_timeout_ms
                .value()
                .clamp(1, 60_000),
        )
    }

    /// Takes the handle of the started device; requests work from now on.
    pub(crate) fn connect(&self, port: Port) {
        *self.link.lock() = Some(port);
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

    /// Sends a control request and waits for the answer, see [`Control::call`]. A device that does
    /// not answer in time is reset. Must not be called with a leaf lock held.
    pub(crate) fn call(
        &self,
        op: u32,
        fill: impl FnOnce(&mut ControlMessage) -> Result,
    ) -> Result<dma::Response> {
        self.control.call(op, fill, || {
            self.declare_broken(fmt!("no answer to control request {op} in time"))
        })
    }

    /// Resets a device that cannot be trusted any more.
    pub(crate) fn declare_broken(&self, why: Arguments<'_>) {
        if self.shut_down() {
            dev_err!(self.dev, "{}: device is broken and was reset\n", why);
        }
    }

    /// Resets the device. When this returns, whoever called it first, the device does no DMA, and
    /// every message was handed back. Returns whether this call did it.
    pub(crate) fn shut_down(&self) -> bool {
        let mut link = self.link.lock();
        let Some(port) = link.take() else {
            return false;
        };
        let control = self.control.close();
        let programs = self.programs.close();
        let reset = port.reset();
        self.down.store(true, Release);
        self.control.abandon(control, &reset);
        self.programs.abandon(programs, &reset);
        true
    }

    /// Handles what the device has answered. Process context.
    pub(crate) fn drain(&self) {
        self.control.drain();
        self.programs.drain();
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
    pub(crate) fn revoke_regions(&self) {
        while let Some(region) = self.first_region() {
            region.revoke(self);
        }
    }

    fn first_region(&self) -> Option<Arc<Region>> {
        let regions = self.regions.lock();
        let first = regions.tree.values().next();
        first.cloned()
    }
}
