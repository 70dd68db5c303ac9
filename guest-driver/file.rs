// SPDX-License-Identifier: GPL-2.0

//! One open file of the device: the owner of regions and programs. What each ioctl does.
//!
//! Threads may call anything at the same time. A region that is being released is taken out of the
//! table first, so of two releases one gets [`ENOENT`]; a program that is submitted while its
//! region goes away is ended, or refused by the device, which knows each region by a number that is
//! never used twice.
//!
//! Lock order: `regions` is a leaf.

use crate::{
    device::Device,
    dma::{
        DmaRequest,
        StopRequest,
        DIRECTION_READ,
        MAX_CELL_BYTES,
        MIN_CELL_BYTES,
        OP_STOP,
        ORDER_RANDOM,
        PAYLOAD_FILL,
        PAYLOAD_STAMP,
        STATUS_NOT_FOUND,
        STATUS_OK, //
    },
    pins::PageFacts,
    program::Programs,
    region::{
        PinRequest,
        Region, //
    },
    uapi,
    user_arg::UserArg, //
};
use kernel::{
    fs::File,
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        poll::PollTable,
        Arc,
        Mutex, //
    },
    time::msecs_to_jiffies, //
};

struct Regions {
    tree: RBTree<u32, Arc<Region>>,
    len: u32,
}

impl Regions {
    fn remove(&mut self, id: u32) -> Option<Arc<Region>> {
        let region = self.tree.remove(&id)?;
        self.len -= 1;
        Some(region)
    }
}

/// What `poll(2)` finds.
pub(crate) struct Readiness {
    /// WAIT would find a program that has ended.
    pub(crate) ended: bool,
    /// The device is gone or broken.
    pub(crate) down: bool,
}

/// See the module.
#[pin_data(PinnedDrop)]
pub(crate) struct OpenFile {
    device: Arc<Device>,
    #[pin]
    regions: Mutex<Regions>,
    programs: Arc<Programs>,
}

impl OpenFile {
    pub(crate) fn new(device: Arc<Device>) -> Result<Pin<KBox<Self>>> {
        let programs = Programs::new()?;
        let regions = Regions {
            tree: RBTree::new(),
            len: 0,
        };
        KBox::pin_init(
            pin_init!(Self {
                device,
                regions <- new_mutex!(regions, "longpin_file"),
                programs,
            }),
            GFP_KERNEL,
        )
    }

    /// `LONGPIN_IOC_INFO`.
    pub(crate) fn info(&self, arg: UserArg) -> Result {
        // Not in the expression that writes: the lock would be held until its end.
        let nr_regions = self.regions.lock().len;
        let info = uapi::Info {
            version: uapi::VERSION,
            device_alive: u32::from(!self.device.is_down()),
            max_region_bytes: self.device.limits().region_bytes,
            nr_regions,
            nr_programs: self.programs.len(),
            pages_pinned: self.device.pages_pinned(),
        };
        arg.write(&info)
    }

    /// `LONGPIN_IOC_PIN`.
    pub(crate) fn pin(&self, arg: UserArg) -> Result {
        let mut pin: uapi::Pin = arg.read()?;
        let request = PinRequest::parse(&pin, self.device.limits().region_bytes)?;
        let region = Region::pin(&self.device, request)?;
        pin.region = region.id();
        pin.nr_pages = region.nr_pages();
        let kept = region
            .query(0)
            .and_then(|page| {
                pin.nr_segments = page.nr_segments;
                arg.write(&pin)
            })
            .and_then(|()| self.keep(&region));
        if kept.is_err() {
            region.release(&self.device, uapi::RELEASE_CLEAN);
        }
        kept
    }

    fn keep(&self, region: &Arc<Region>) -> Result {
        let node = RBTreeNode::new(region.id(), region.clone(), GFP_KERNEL)?;
        let mut regions = self.regions.lock();
        regions.tree.insert(node);
        regions.len += 1;
        Ok(())
    }

    fn region(&self, id: u32) -> Result<Arc<Region>> {
        self.regions.lock().tree.get(&id).cloned().ok_or(ENOENT)
    }

    /// `LONGPIN_IOC_RELEASE`.
    pub(crate) fn release(&self, arg: UserArg) -> Result {
        let release: uapi::Release = arg.read()?;
        if !matches!(release.how, uapi::RELEASE_CLEAN | uapi::RELEASE_DIRTY) {
            return Err(EINVAL);
        }
        let region = self.regions.lock().remove(release.region);
        region.ok_or(ENOENT)?.release(&self.device, release.how);
        Ok(())
    }

    /// `LONGPIN_IOC_SUBMIT`.
    pub(crate) fn submit(&self, arg: UserArg) -> Result {
        let mut submit: uapi::Submit = arg.read()?;
        let request = parse_submit(&submit)?;
        let region = self.region(submit.region)?;
        let end = submit.offset.checked_add(submit.length).ok_or(ERANGE)?;
        if end > region.length() {
            return Err(ERANGE);
        }
        self.programs
            .submit(&self.device.programs, &request, |tag| {
                submit.program = tag;
                arg.write(&submit)
            })
    }

    /// `LONGPIN_IOC_WAIT`.
    pub(crate) fn wait(&self, arg: UserArg) -> Result {
        let mut wait: uapi::Wait = arg.read()?;
        if wait.reserved != 0 {
            return Err(EINVAL);
        }
        let timeout = msecs_to_jiffies(wait.timeout_ms);
        self.programs.collect(wait.program, timeout, |answer| {
            wait.status = answer.status;
            wait.crc32c = answer.crc32c;
            wait.cells_done = answer.cells_done;
            wait.last_generation = answer.last_generation;
            wait.started_ns = answer.started_ns;
            wait.finished_ns = answer.finished_ns;
            arg.write(&wait)
        })
    }

    /// `LONGPIN_IOC_STOP`.
    pub(crate) fn stop(&self, arg: UserArg) -> Result {
        let stop: uapi::Stop = arg.read()?;
        if !self.programs.is_running(stop.program)? {
            return Ok(());
        }
        let request = StopRequest {
            program: stop.program,
        };
        let answer = self
            .device
            .call(OP_STOP, &mut self.device.patience(), |message| {
                message.push(&request)
            })?;
        match answer.status {
            // Not found: it has ended by itself in the meantime.
            STATUS_OK | STATUS_NOT_FOUND => Ok(()),
            _ => Err(EIO),
        }
    }

    /// `LONGPIN_IOC_QUERY`.
    pub(crate) fn query(&self, arg: UserArg) -> Result {
        let mut query: uapi::Query = arg.read()?;
        let region = self.region(query.region)?;
        let page = region.query(query.page_index)?;
        query.mode = region.mode();
        query.access = region.access();
        query.length = region.length();
        query.nr_pages = region.nr_pages();
        query.nr_segments = page.nr_segments;
        query.nr_running = self.programs.nr_running(region.id());
        query.page_dma_addr = page.dma_addr;
        let facts = page.facts.unwrap_or(UNKNOWN);
        query.page_zone = facts.zone;
        query.page_flags = facts.flags;
        query.page_has_mapping = facts.has_mapping;
        query.folio_pages = facts.folio_pages;
        arg.write(&query)
    }

    /// `LONGPIN_IOC_MIRROR`.
    pub(crate) fn mirror(&self, arg: UserArg) -> Result {
        let mut mirror: uapi::Mirror = arg.read()?;
        if mirror.reserved != 0 {
            return Err(EINVAL);
        }
        let region = self.region(mirror.region)?;
        region.mirror().ok_or(EINVAL)?.fill(&mut mirror);
        arg.write(&mirror)
    }

    /// `poll(2)`. `table` is told when the answer may change.
    pub(crate) fn poll(&self, file: &File, table: &PollTable<'_>) -> Readiness {
        self.device.poll(file, table);
        Readiness {
            ended: self.programs.poll(file, table),
            down: self.device.is_down(),
        }
    }

    fn take_first(&self) -> Option<Arc<Region>> {
        let mut regions = self.regions.lock();
        let id = *regions.tree.keys().next()?;
        regions.remove(id)
    }
}

#[pinned_drop]
impl PinnedDrop for OpenFile {
    fn drop(self: Pin<&mut Self>) {
        while let Some(region) = self.take_first() {
            region.release(&self.device, uapi::RELEASE_CLOSE);
        }
    }
}

/// Of a page of a mirrored region that the device does not have: nobody holds it, so nothing can be
/// said of it.
const UNKNOWN: PageFacts = PageFacts {
    flags: 0,
    zone: u32::MAX,
    folio_pages: 0,
    has_mapping: 0,
};

/// Checks what does not depend on the region. Errors: [`EINVAL`].
fn parse_submit(submit: &uapi::Submit) -> Result<DmaRequest> {
    let known = submit.order <= ORDER_RANDOM
        && submit.direction <= DIRECTION_READ
        && submit.payload <= PAYLOAD_FILL
        && submit.length != 0;
    let cell = u64::from(submit.cell_bytes);
    let cells = submit.cell_bytes.is_power_of_two()
        && (MIN_CELL_BYTES..=MAX_CELL_BYTES).contains(&submit.cell_bytes);
    let payload = match submit.payload {
        PAYLOAD_STAMP => {
            submit.fill == 0 && cells && submit.offset % cell == 0 && submit.length % cell == 0
        }
        _ => submit.fill <= 0xff && cells,
    };
    if !known || !payload {
        return Err(EINVAL);
    }
    Ok(DmaRequest {
        region: submit.region,
        order: submit.order,
        direction: submit.direction,
        payload: submit.payload,
        offset: submit.offset,
        length: submit.length,
        seed: submit.seed,
        generation: submit.generation,
        run: submit.run,
        rate_cells_per_s: submit.rate_cells_per_s,
        passes: submit.passes,
        duration_us: submit.duration_us,
        cell_bytes: submit.cell_bytes,
        fill: submit.fill,
        start_delay_us: submit.start_delay_us,
    })
}
