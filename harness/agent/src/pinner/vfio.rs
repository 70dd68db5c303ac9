// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory mapped for a device behind an IOMMU, as that of a virtual machine is for a device passed through to it:
//! VFIO_IOMMU_MAP_DMA takes FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, and VFIO_IOMMU_UNMAP_DMA sets the pages dirty
//! (`vfio_unpin_pages_remote()`).
//!
//! The device is QEMU's `edu`: a buffer of one page, and a DMA engine between that and 28 bits of addresses. It is
//! given each page from one of ours, which is mapped for it beside the region.
//!
//! `vfio-ro` maps for reading only, which vfio-ioctls cannot: one ioctl of our own. The device writes all the same, and has
//! to read the pages back, since nobody tells it what became of that.

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, errno_name, failed, refused};
use crate::sys::{MapSource, PAGE_BYTES, UserMemory};
use longpin_proto::agent::PinMode;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    vfio_iommu_type1_dma_map,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

const PCI: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";
/// Vendor and device of `edu`, as sysfs has them.
const EDU: [(&str, &str); 2] = [("vendor", "0x1234"), ("device", "0x11e8")];
/// PCI_COMMAND with PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER: without them it has no registers and no DMA.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 6;
/// Registers of `edu` (docs/specs/edu.rst of QEMU), and its buffer in its own addresses.
const DMA_SOURCE: u64 = 0x80;
const DMA_TARGET: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
const DMA_START: u32 = 1;
const DMA_TO_MEMORY: u32 = 2;
const BUFFER: u64 = 0x40000;
/// Addresses from here on are given to what is mapped, up to the 28 bits that the device has.
const FIRST_ADDRESS: u64 = 0x10_0000;
const LAST_ADDRESS: u64 = 1 << 28;
/// A transfer takes 100 ms by the clock of the guest.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);

/// `_IO(VFIO_TYPE, VFIO_BASE + 13)` of linux/vfio.h, and how it is called where it is refused.
const VFIO_IOMMU_MAP_DMA: libc::Ioctl = 0x3b71;
const MAP: &str = "ioctl(VFIO_IOMMU_MAP_DMA)";

/// Pages that a device may write, or only read.
pub struct Mapped {
    /// Before the page that is the device's source: what is mapped is unmapped, or the container is closed, first.
    edu: Arc<Edu>,
    source: UserMemory,
    source_at: u64,
    at: u64,
    len: u64,
    read_only: bool,
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("at", &self.at).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Mapped {
    /// VFIO_IOMMU_MAP_DMA. Opens the device if no region has done so.
    pub fn pin(request: &PinRequest) -> Result<Self, StepError> {
        let edu = Edu::shared()?;
        let (source_at, at) = edu.addresses(request.len)?;
        let source = UserMemory::map(MapSource::Anonymous, PAGE_BYTES, false, true).or_failed("mmap")?;
        edu.map(source_at, source.address(0), PAGE_BYTES)
            .map_err(|error| StepError::Failed(format!("a page for the device: {error}")))?;
        let read_only = request.mode == PinMode::VfioRo;
        let mapped = match read_only {
            true => edu.map_for_reading(at, request.address, request.len),
            false => edu.map(at, request.address, request.len),
        };
        if let Err(error) = mapped {
            edu.unmap(source_at, PAGE_BYTES)?;
            return Err(error);
        }
        Ok(Self { edu, source, source_at, at, len: request.len, read_only })
    }

    /// What the device reads there.
    fn read_back(&mut self, from: u64, len: u32) -> Result<Vec<u8>, StepError> {
        self.edu.transfer(from, BUFFER, len, 0)?;
        self.edu.transfer(BUFFER, self.source_at, len, DMA_TO_MEMORY)?;
        let mut bytes = vec![0; len as usize];
        self.source.load(0, &mut bytes).or_failed("load")?;
        Ok(bytes)
    }
}

impl Hold for Mapped {
    fn pages_of_its_own(&self) -> i64 {
        1
    }

    fn can_write(&self, _offset: u64, _len: u64) -> Result<(), StepError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        let (mut pages, mut there) = (0, 0);
        for (index, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
            self.source.store(0, page).or_failed("store")?;
            let (len, to) = (page.len() as u32, self.at + offset + index as u64 * PAGE_BYTES);
            self.edu.transfer(self.source_at, BUFFER, len, 0)?;
            self.edu.transfer(BUFFER, to, len, DMA_TO_MEMORY)?;
            pages += 1;
            there += u64::from(self.read_only && self.read_back(to, len)? == page);
        }
        match there {
            0 if self.read_only => Ok(Arrived::KeptOff),
            there if self.read_only && there < pages => {
                failed!("of {pages} pages mapped for reading the device could write {there}")
            }
            // Of what is mapped for writing, a step of the scenario shows that it is there.
            _ => Ok(Arrived::There),
        }
    }

    fn release(self: Box<Self>, _dirty: bool) -> Result<(), StepError> {
        self.edu.unmap(self.at, self.len)?;
        self.edu.unmap(self.source_at, PAGE_BYTES)
    }
}

/// The device, open as long as a region is mapped for it: only one container can have it.
struct Edu {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    next: AtomicU64,
    /// It does one transfer at a time.
    turn: Mutex<()>,
}

impl Edu {
    fn shared() -> Result<Arc<Self>, StepError> {
        static OPEN: Mutex<Weak<Edu>> = Mutex::new(Weak::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edu) = open.upgrade() {
            return Ok(edu);
        }
        let edu = Arc::new(Self::open()?);
        *open = Arc::downgrade(&edu);
        Ok(edu)
    }

    fn open() -> Result<Self, StepError> {
        let place = find(Path::new(PCI))?;
        bind(&place)?;
        let container = Arc::new(VfioContainer::new(None).map_err(cannot)?);
        let device = VfioDevice::new(&place, container.clone(), false).map_err(cannot)?;
        let mut command = [0; 2];
        device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, &mut command, COMMAND);
        let command = u16::from_le_bytes(command) | MEMORY_AND_MASTER;
        device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, &command.to_le_bytes(), COMMAND);
        Ok(Self { device, container, next: AtomicU64::new(FIRST_ADDRESS), turn: Mutex::new(()) })
    }

    /// Of a page and of a region of this length, as the device will have them.
    fn addresses(&self, len: u64) -> Result<(u64, u64), StepError> {
        let all = PAGE_BYTES + len.next_multiple_of(PAGE_BYTES);
        let first = self.next.fetch_add(all, Ordering::Relaxed);
        if first.saturating_add(all) > LAST_ADDRESS {
            return failed!("{len} bytes do not fit into the 256 MiB of addresses that edu has; pin less");
        }
        Ok((first, first + PAGE_BYTES))
    }

    fn map(&self, at: u64, address: u64, len: u64) -> Result<(), StepError> {
        // SAFETY: the kernel takes references of the pages, and the device writes into those alone. The memory is a mapping
        // of the scenario's or the source page of a region, into neither of which a Rust reference points: both are
        // touched by system calls (see `sys`). If it is unmapped, the pages stay until they are unpinned.
        let mapped = unsafe { self.container.vfio_dma_map(at, len as usize, address as *mut u8) };
        mapped.map_err(|error| match error {
            VfioError::IommuDmaMap(errno) => refused(errno.errno(), MAP),
            other => cannot(other),
        })
    }

    fn map_for_reading(&self, at: u64, address: u64, len: u64) -> Result<(), StepError> {
        let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
        let flags = VFIO_DMA_MAP_FLAG_READ;
        let map = vfio_iommu_type1_dma_map { argsz, flags, vaddr: address, iova: at, size: len };
        // SAFETY: the kernel reads `argsz` bytes of the structure. What it maps the device may only read.
        let n = unsafe { libc::ioctl(self.container.as_raw_fd(), VFIO_IOMMU_MAP_DMA, &raw const map) };
        if n == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).or_refused(MAP) }
    }

    fn unmap(&self, at: u64, len: u64) -> Result<(), StepError> {
        self.container.vfio_dma_unmap(at, len as usize).map_err(cannot)
    }

    fn set(&self, register: u64, value: u32) {
        self.device.region_write(VFIO_PCI_BAR0_REGION_INDEX, &value.to_le_bytes(), register);
    }

    /// Have it move bytes, and wait until it has.
    fn transfer(&self, from: u64, to: u64, len: u32, direction: u32) -> Result<(), StepError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // All addresses have 28 bits.
        let registers = [(DMA_SOURCE, from as u32), (DMA_TARGET, to as u32), (DMA_COUNT, len)];
        registers.into_iter().for_each(|(register, value)| self.set(register, value));
        self.set(DMA_COMMAND, DMA_START | direction);
        let end = Instant::now() + TRANSFER_TIMEOUT;
        loop {
            // What cannot be read stays as it is here.
            let mut command = DMA_START.to_le_bytes();
            self.device.region_read(VFIO_PCI_BAR0_REGION_INDEX, &mut command, DMA_COMMAND);
            if u32::from_le_bytes(command) & DMA_START == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return failed!("edu does not end a transfer of {len} bytes to {to:#x}");
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The device among those on PCI. A guest without IOMMU does not have it in a group.
fn find(devices: &Path) -> Result<PathBuf, StepError> {
    let has = |dir: &Path, (file, value): (&str, &str)| {
        std::fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim() == value)
    };
    let entries = std::fs::read_dir(devices).or_failed(&devices.display().to_string())?;
    let places = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let Some(place) = places.into_iter().find(|dir| EDU.into_iter().all(|word| has(dir, word))) else {
        return failed!("this guest has no edu (1234:11e8); boot it with `-device intel-iommu -device edu`");
    };
    match place.join("iommu_group").exists() {
        true => Ok(place),
        false => Err(refused(libc::ENOSYS, "VFIO of a device without IOMMU (CONFIG_INTEL_IOMMU)")),
    }
}

/// Give it to vfio-pci, unless an earlier region did.
fn bind(place: &Path) -> Result<(), StepError> {
    let bound = |driver: &Path| driver.file_name() == Path::new(DRIVER).file_name();
    if std::fs::read_link(place.join("driver")).is_ok_and(|driver| bound(&driver)) {
        return Ok(());
    }
    std::fs::write(place.join("driver_override"), "vfio-pci").or_failed("driver_override of edu")?;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    std::fs::write(Path::new(DRIVER).join("bind"), name.as_bytes()).or_failed("vfio-pci cannot bind edu")
}

/// A call before the pin, or after it. A kernel without the files of groups and containers has nothing for us.
fn cannot(error: VfioError) -> StepError {
    match &error {
        VfioError::OpenContainer(io) | VfioError::OpenGroup(io, _)
            if io.kind() == std::io::ErrorKind::NotFound =>
        {
            refused(libc::ENOSYS, "open(/dev/vfio) (CONFIG_VFIO_GROUP, CONFIG_VFIO_CONTAINER)")
        }
        VfioError::ContainerSetIOMMU(errno)
        | VfioError::GroupGetDeviceFD(errno)
        | VfioError::VfioDeviceGetInfo(errno)
        | VfioError::IommuDmaUnmap(errno) => {
            StepError::Failed(format!("VFIO: {error} ({})", errno_name(errno.errno())))
        }
        _ => StepError::Failed(format!("VFIO: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(root: &Path, name: &str, id: &str, group: bool) {
        let dir = root.join(name);
        std::fs::create_dir(&dir).expect("directory");
        std::fs::write(dir.join("vendor"), "0x1234\n").expect("file");
        std::fs::write(dir.join("device"), format!("{id}\n")).expect("file");
        if group {
            std::fs::create_dir(dir.join("iommu_group")).expect("directory");
        }
    }

    #[test]
    fn the_device_is_found_by_its_numbers_and_one_without_iommu_is_a_kernel_that_has_none() {
        let root = tempfile::tempdir().expect("directory");
        device(root.path(), "0000:00:01.0", "0x1111", true);
        let Err(StepError::Failed(text)) = find(root.path()) else { panic!("found") };
        assert!(text.contains("no edu (1234:11e8)"), "{text}");
        device(root.path(), "0000:00:05.0", "0x11e8", false);
        let Err(StepError::Refused(errno)) = find(root.path()) else { panic!("found") };
        assert_eq!(errno.name, "ENOSYS");
        std::fs::create_dir(root.path().join("0000:00:05.0/iommu_group")).expect("directory");
        assert_eq!(find(root.path()), Ok(root.path().join("0000:00:05.0")));
    }

    #[test]
    fn a_kernel_without_the_files_of_vfio_is_told_from_one_that_fails() {
        let open = |kind: std::io::ErrorKind| cannot(VfioError::OpenContainer(kind.into()));
        let StepError::Refused(errno) = open(std::io::ErrorKind::NotFound) else { panic!("no refusal") };
        assert_eq!(errno.name, "ENOSYS");
        let StepError::Failed(text) = open(std::io::ErrorKind::PermissionDenied) else { panic!("a refusal") };
        assert!(text.starts_with("VFIO: failed to open /dev/vfio/vfio"), "{text}");
    }
}
