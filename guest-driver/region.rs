// SPDX-License-Identifier: GPL-2.0

//! A region: memory that the device was told of, pinned or mirrored.
//!
//! The life of a region goes one way: pinned, mapped, announced; then taken from the device, which
//! acknowledges that its DMA has ended, unmapped, unpinned. Announced pages are given back for a
//! [`Quiet`] only, which is the device's acknowledgement or its reset. Nothing on that way
//! allocates memory or can fail.
//!
//! A mirrored region is announced without pages, which come and go by themselves ([`Mirror`]); it
//! is ended before it is taken from the device.
//!
//! Two may come to release a region: its file, and the device's removal. Whoever gets the pages out
//! of the region's slot gives them back, with the slot locked all the while: removal must not end
//! before the last page is unmapped, also if a file happens to be doing it. For the same reason a
//! region is mapped and announced with its slot locked. Announcing waits for the device, so the
//! slot is the outermost lock; removal resets the device first, which ends that wait.

use crate::{
    device::Device,
    dma::{
        MapRequest,
        Segment,
        MAP_FIRST,
        MAP_LAST,
        MAP_REVOCABLE,
        OP_MAP,
        STATUS_LIMIT,
        STATUS_OK, //
    },
    mapping::{
        AnnouncedPages,
        MappedPages, //
    },
    mirror::Mirror,
    pins::{
        killed,
        Access,
        Mode,
        PageFacts,
        PinnedPages, //
    },
    queue::Quiesced,
    quiet::{
        Announcement,
        Quiet, //
    },
    uapi, //
};
use kernel::{
    new_mutex,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// How the device comes to the memory.
#[derive(Clone, Copy)]
enum Kind {
    /// By references that GUP takes.
    Pinned(Mode),
    /// By its own faults.
    Mirrored,
}

impl TryFrom<u32> for Kind {
    type Error = Error;

    fn try_from(mode: u32) -> Result<Self> {
        match mode {
            uapi::MODE_NOTIFIER => Ok(Self::Mirrored),
            mode => Ok(Self::Pinned(mode.try_into()?)),
        }
    }
}

/// What user space asked for, checked.
pub(crate) struct PinRequest {
    addr: usize,
    nr_pages: u32,
    kind: Kind,
    access: Access,
    file_offset: u64,
    run: u64,
}

impl PinRequest {
    /// Errors: [`EINVAL`]; [`E2BIG`] for more than `max_bytes`.
    pub(crate) fn parse(pin: &uapi::Pin, max_bytes: u64) -> Result<Self> {
        let page_mask = PAGE_SIZE as u64 - 1;
        if pin.reserved != 0 || (pin.addr | pin.length) & page_mask != 0 || pin.length == 0 {
            return Err(EINVAL);
        }
        pin.addr.checked_add(pin.length).ok_or(EINVAL)?;
        let (kind, access) = (pin.mode.try_into()?, pin.access.try_into()?);
        if pin.length > max_bytes {
            return Err(E2BIG);
        }
        Ok(Self {
            addr: pin.addr.try_into()?,
            nr_pages: (pin.length >> PAGE_SHIFT).try_into()?,
            kind,
            access,
            file_offset: pin.file_offset,
            run: pin.run,
        })
    }

    fn total_bytes(&self) -> u64 {
        u64::from(self.nr_pages) << PAGE_SHIFT
    }
}

/// What the region stands on.
enum Backing {
    Pinned(AnnouncedPages),
    Mirror(Arc<Mirror>),
}

/// What is known of one page of a region.
pub(crate) struct PageQuery {
    /// Nothing, if the device does not have the page.
    pub(crate) facts: Option<PageFacts>,
    pub(crate) dma_addr: u64,
    pub(crate) nr_segments: u32,
}

/// See the module.
#[pin_data]
pub(crate) struct Region {
    id: u32,
    request: PinRequest,
    // None before the pages are mapped, and after they were given back.
    #[pin]
    slot: Mutex<Option<Backing>>,
}

impl Region {
    /// Pins, maps and announces a range of the calling process. The result is known to the device
    /// and must be released by [`Region::release`].
    ///
    /// Errors: as `LONGPIN_IOC_PIN` says; nothing is left behind then.
    pub(crate) fn pin(device: &Arc<Device>, request: PinRequest) -> Result<Arc<Self>> {
        if device.is_down() {
            return Err(ENODEV);
        }
        let region = Arc::pin_init(
            try_pin_init!(Self {
                id: device.new_region_id()?,
                request,
                slot <- new_mutex!(None, "longpin_region"),
            }? Error),
            GFP_KERNEL,
        )?;
        device.remember_region(&region)?;
        let filled = match region.request.kind {
            Kind::Pinned(mode) => region.fill(device, mode),
            Kind::Mirrored => region.mirror_memory(device),
        };
        match filled {
            Ok(()) => Ok(region),
            Err(error) => {
                device.forget_region(region.id);
                Err(error)
            }
        }
    }

    fn mirror_memory(&self, device: &Arc<Device>) -> Result {
        let PinRequest { addr, nr_pages, .. } = self.request;
        let mirror = Mirror::new(device, self.id, addr, nr_pages as usize)?;
        let announced = self.announce_mirror(device, &mirror);
        if announced.is_err() {
            mirror.end();
            return announced;
        }
        // Not with the slot locked: it takes the mmap lock, and the device may fault.
        let populated = match self.request.access {
            Access::Read => mirror.populate_for_reading(),
            Access::Write => Ok(()),
        };
        if populated.is_err() {
            self.release(device, uapi::RELEASE_CLEAN);
        }
        populated
    }

    fn announce_mirror(&self, device: &Device, mirror: &Arc<Mirror>) -> Result {
        let mut slot = self.slot.lock();
        if device.is_down() {
            return Err(ENODEV);
        }
        let map = self.map_request(MAP_FIRST | MAP_LAST | MAP_REVOCABLE, 0);
        let answer = device.call(OP_MAP, &mut device.patience(), |message| message.push(&map));
        let announced = answer.and_then(|answer| match answer.status {
            STATUS_OK => Ok(()),
            STATUS_LIMIT => Err(ENOSPC),
            _ => Err(EIO),
        });
        match announced {
            Ok(()) => *slot = Some(Backing::Mirror(mirror.clone())),
            Err(_) => {
                // Whatever it has understood: it may keep no region of this number.
                Quiet::after_unmap(device, self.id, Announcement::Failed, uapi::RELEASE_CLEAN);
            }
        }
        announced
    }

    fn fill(&self, device: &Device, mode: Mode) -> Result {
        let PinRequest {
            addr,
            nr_pages,
            access,
            ..
        } = self.request;
        let pinned = PinnedPages::pin(addr, nr_pages as usize, mode, access)?;

        let mut slot = self.slot.lock();
        if device.is_down() {
            return Err(ENODEV);
        }
        // SAFETY: The device is up, so it is bound. Its removal goes through all regions that it
        // remembers, this one among them, and locks the slot of each to give its pages back; ours
        // is locked until the pages are in it, or were dropped.
        let mapped = unsafe { MappedPages::new(pinned, device.dma_dev()) }?;
        let pages = mapped.for_device();
        if let Err(error) = self.announce(device, &pages) {
            let (failed, clean) = (Announcement::Failed, uapi::RELEASE_CLEAN);
            pages.release(Quiet::after_unmap(device, self.id, failed, clean), false);
            return Err(error);
        }
        device.count_pinned(nr_pages);
        *slot = Some(Backing::Pinned(pages));
        Ok(())
    }

    /// Tells the device of all segments, in as many requests as it takes.
    fn announce(&self, device: &Device, pages: &AnnouncedPages) -> Result {
        let mut segments = pages.segments();
        let mut left = pages.nr_segments();
        let mut patience = device.patience();
        let mut flags = MAP_FIRST;
        while left > 0 {
            if killed() {
                return Err(EINTR);
            }
            let nr_segments = left.min(device.limits().segments_per_map);
            left -= nr_segments;
            if left == 0 {
                flags |= MAP_LAST;
            }
            let map = self.map_request(flags, nr_segments);
            let answer = device.call(OP_MAP, &mut patience, |message| {
                message.push(&map)?;
                segments
                    .by_ref()
                    .take(nr_segments as usize)
                    .try_for_each(|(dma_addr, len)| message.push(&Segment { dma_addr, len }))
            })?;
            match answer.status {
                STATUS_OK => flags = 0,
                STATUS_LIMIT => return Err(ENOSPC),
                _ => return Err(EIO),
            }
        }
        Ok(())
    }

    fn map_request(&self, flags: u32, nr_segments: u32) -> MapRequest {
        MapRequest {
            region: self.id,
            flags,
            total_bytes: self.request.total_bytes(),
            file_offset: self.request.file_offset,
            run: self.request.run,
            pin_mode: self.mode(),
            nr_segments,
        }
    }

    /// Stops all DMA to the region, waits for the device, and gives the pages back. `how` is one
    /// of the `RELEASE_` constants.
    pub(crate) fn release(&self, device: &Device, how: u32) {
        self.end_mirror();
        let quiet = Quiet::after_unmap(device, self.id, Announcement::Complete, how);
        self.give_back(device, quiet, self.makes_dirty(how));
    }

    /// Gives the pages back without asking the device, which was reset.
    pub(crate) fn revoke(&self, device: &Device, reset: &Quiesced) {
        self.end_mirror();
        let dirty = self.makes_dirty(uapi::RELEASE_CLOSE);
        self.give_back(device, Quiet::after_reset(reset), dirty);
    }

    /// An owner who went away said nothing of dirty pages: they are dirty if they were pinned for
    /// writing, as `ib_umem_release()` has it.
    fn makes_dirty(&self, how: u32) -> bool {
        match how {
            uapi::RELEASE_CLEAN => false,
            uapi::RELEASE_DIRTY => true,
            _ => self.request.access == Access::Write,
        }
    }

    fn give_back(&self, device: &Device, quiet: Quiet, dirty: bool) {
        let mut slot = self.slot.lock();
        match slot.take() {
            Some(Backing::Pinned(pages)) => {
                pages.release(quiet, dirty);
                device.count_unpinned(self.nr_pages());
            }
            // Ended already, and of no use to anybody without the device.
            Some(Backing::Mirror(_)) | None => {}
        }
        drop(slot);
        device.forget_region(self.id);
    }

    /// The mirror, if the region is one and was announced.
    pub(crate) fn mirror(&self) -> Option<Arc<Mirror>> {
        match &*self.slot.lock() {
            Some(Backing::Mirror(mirror)) => Some(mirror.clone()),
            _ => None,
        }
    }

    /// Not with the slot locked: it waits for invalidations, and those for the device.
    fn end_mirror(&self) {
        if let Some(mirror) = self.mirror() {
            mirror.end();
        }
    }

    /// What is known of a page. Errors: [`ERANGE`]; [`ENODEV`] if the pages were given back.
    pub(crate) fn query(&self, page_index: u32) -> Result<PageQuery> {
        if page_index >= self.nr_pages() {
            return Err(ERANGE);
        }
        let index = page_index as usize;
        let slot = self.slot.lock();
        match slot.as_ref().ok_or(ENODEV)? {
            Backing::Pinned(pages) => Ok(PageQuery {
                facts: Some(pages.pinned().facts(index).ok_or(ERANGE)?),
                dma_addr: pages.dma_addr(index).ok_or(ERANGE)?,
                nr_segments: pages.nr_segments(),
            }),
            Backing::Mirror(mirror) => {
                let (known, nr_known) = mirror.query(index)?;
                Ok(PageQuery {
                    facts: known.map(|(facts, _)| facts),
                    dma_addr: known.map_or(0, |(_, dma_addr)| dma_addr),
                    nr_segments: nr_known as u32,
                })
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn mode(&self) -> u32 {
        match self.request.kind {
            Kind::Pinned(mode) => mode as u32,
            Kind::Mirrored => uapi::MODE_NOTIFIER,
        }
    }

    pub(crate) fn access(&self) -> u32 {
        self.request.access as u32
    }

    pub(crate) fn nr_pages(&self) -> u32 {
        self.request.nr_pages
    }

    pub(crate) fn length(&self) -> u64 {
        self.request.total_bytes()
    }
}
