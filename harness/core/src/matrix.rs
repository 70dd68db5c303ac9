// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The axes of a scenario: file system, pin mode, release mode, variant; and conditions over them.

use crate::fields::{Fault, Fields};
use longpin_proto::agent::PinMode;
use longpin_proto::filesystem::FileSystem;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A file system and its mount options: `ext4` or `ext4:data=journal`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flavour {
    /// File system.
    pub fs: &'static FileSystem,
    /// Mount options, as mount(8) takes them; empty: the defaults.
    pub options: String,
}

impl Flavour {
    /// From `FS` or `FS:OPTIONS`; the error is the unknown name of the file system.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let (fs, options) = text.split_once(':').unwrap_or((text, ""));
        let fs = FileSystem::find(fs).ok_or(fs)?;
        Ok(Self { fs, options: options.to_owned() })
    }

    /// A filter or condition names this flavour: by the name of the file system alone, or in full.
    pub fn is_named(&self, name: &str) -> bool {
        name == self.fs.name || name == self.to_string()
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.options.as_str() {
            "" => f.pad(self.fs.name),
            options => f.pad(&format!("{}:{options}", self.fs)),
        }
    }
}

vocabulary! {
    /// How a scenario's pages are pinned.
    pub enum Pin {
        /// FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
        Longterm = "longterm",
        /// FOLL_PIN | FOLL_LONGTERM without FOLL_WRITE; the device writes all the same.
        LongtermRo = "longterm-ro",
        /// FOLL_PIN | FOLL_WRITE, held.
        Pin = "pin",
        /// `get_user_pages` and `put_page`, as old drivers do.
        Get = "get",
        /// No reference: an mmu_interval_notifier, and a device that faults. What hardware could be; it is to be intact.
        Notifier = "notifier",
        /// The same, with all pages brought in for reading first; a write of the device faults for itself.
        NotifierRo = "notifier-ro",
        /// No driver: an O_DIRECT read from the second disk into the mapping, held by that disk.
        Dio = "dio",
        /// No driver: a registered buffer of io_uring; FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
        IoUring = "io_uring",
        /// No driver: process_vm_writev in the middle of its copy; FOLL_PIN | FOLL_WRITE.
        VmWritev = "vm-writev",
        /// No driver: mapped by VFIO for a device behind an IOMMU; FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
        Vfio = "vfio",
        /// The same for reading only, FOLL_PIN | FOLL_LONGTERM; the device writes all the same.
        VfioRo = "vfio-ro",
        /// No driver: the packet memory of an AF_XDP socket; FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
        Xdp = "xdp",
        /// No driver: a memory region of RDMA, by the software device rxe; FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE.
        Rxe = "rxe",
        /// The same on demand: no reference, and rxe faults for each page.
        RxeOdp = "rxe-odp",
        /// No driver: a program of the user's, as it likes.
        Exec = "exec",
        /// The scenario pins nothing.
        None = "none",
    }
}

impl Pin {
    /// The agent's mode; none: the agent pins nothing by itself.
    pub fn mode(self) -> Option<PinMode> {
        match self {
            Self::Longterm => Some(PinMode::Longterm),
            Self::LongtermRo => Some(PinMode::LongtermRo),
            Self::Pin => Some(PinMode::Pin),
            Self::Get => Some(PinMode::Get),
            Self::Notifier => Some(PinMode::Notifier),
            Self::NotifierRo => Some(PinMode::NotifierRo),
            Self::IoUring => Some(PinMode::IoUring),
            Self::VmWritev => Some(PinMode::VmWritev),
            Self::Vfio => Some(PinMode::Vfio),
            Self::VfioRo => Some(PinMode::VfioRo),
            Self::Xdp => Some(PinMode::Xdp),
            Self::Rxe => Some(PinMode::Rxe),
            Self::RxeOdp => Some(PinMode::RxeOdp),
            Self::Exec => Some(PinMode::Exec),
            Self::Dio | Self::None => None,
        }
    }

    /// References to the pages are held.
    pub fn holds_pages(self) -> bool {
        self.mode().is_none_or(PinMode::holds_pages)
    }

    /// The driver pins, and its device writes.
    pub fn by_driver(self) -> bool {
        self.mode().is_some_and(PinMode::by_driver)
    }

    /// Its cases run in guests of their own, with an IOMMU and a device behind it.
    pub fn behind_iommu(self) -> bool {
        self.mode().is_some_and(PinMode::behind_iommu)
    }

    /// Modules of the guest's kernel that it needs.
    pub fn modules(self) -> &'static [&'static str] {
        self.mode().map_or(&[], PinMode::modules)
    }

    /// The only way in which the kernel gives such a pin back; none: the driver or the program does as it is told.
    pub fn given_back(self) -> Option<Release> {
        match self {
            // bio_check_pages_dirty(), unpin_user_pages_dirty_lock(), vfio_unpin_pages_remote(), xdp_umem_unpin_pages(),
            // __ib_umem_release().
            Self::Dio | Self::VmWritev | Self::Vfio | Self::Xdp | Self::Rxe => Some(Release::Dirty),
            // io_release_ubuf() -> unpin_user_folio(), vfio_unpin_pages_remote(); what rxe has faulted in was set dirty by
            // the fault, and ib_umem_odp_unmap_dma_pages() sets nothing that no device has mapped.
            Self::IoUring | Self::VfioRo | Self::RxeOdp => Some(Release::Clean),
            Self::Longterm
            | Self::LongtermRo
            | Self::Pin
            | Self::Get
            | Self::Notifier
            | Self::NotifierRo
            | Self::Exec
            | Self::None => None,
        }
    }
}

vocabulary! {
    /// How pinned pages are given back.
    pub enum Release {
        /// Without setting a dirty bit, as drivers do that forget it; `io_uring`, `vfio-ro` and `rxe-odp` pins always.
        Clean = "clean",
        /// By `unpin_user_pages_dirty_lock`, or `set_page_dirty_lock` and `put_page`; `dio`, `vm-writev`, `vfio`,
        /// `xdp` and `rxe` pins always.
        Dirty = "dirty",
        /// The scenario releases nothing.
        None = "none",
    }
}

/// One point of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// File system and mount options.
    pub fs: Flavour,
    /// Pin mode.
    pub pin: Pin,
    /// Release mode.
    pub release: Release,
    /// Variant, if the scenario has some.
    pub variant: Option<String>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.fs, self.pin, self.release)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// A condition over the axes; an empty list accepts everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Names of file systems or of flavours.
    pub fs: Vec<String>,
    /// Pin modes.
    pub pin: Vec<Pin>,
    /// Release modes.
    pub release: Vec<Release>,
    /// Variants.
    pub variant: Vec<String>,
}

impl Condition {
    /// The point lies within.
    pub fn accepts(&self, point: &Point) -> bool {
        fn any<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
            list.is_empty() || list.iter().any(is)
        }
        any(&self.fs, |name| point.fs.is_named(name))
            && any(&self.pin, |pin| *pin == point.pin)
            && any(&self.release, |release| *release == point.release)
            && any(&self.variant, |variant| Some(variant) == point.variant.as_ref())
    }
}

/// The axes of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    /// File systems.
    pub fs: Vec<Flavour>,
    /// Those of them that run only when they are asked for.
    pub fs_on_request: Vec<Flavour>,
    /// Pin modes.
    pub pin: Vec<Pin>,
    /// Those of them that run only when they are asked for.
    pub pin_on_request: Vec<Pin>,
    /// Release modes.
    pub release: Vec<Release>,
    /// Variants; empty: the scenario has none.
    pub variant: Vec<String>,
    /// Points that make no sense.
    pub exclude: Vec<Condition>,
}

impl Matrix {
    /// Every point, file system first, in the order of the file.
    pub fn points(&self) -> Vec<Point> {
        let variants: Vec<Option<String>> = match self.variant.as_slice() {
            [] => vec![None],
            list => list.iter().cloned().map(Some).collect(),
        };
        let mut points = Vec::new();
        for fs in &self.fs {
            for &pin in &self.pin {
                for &release in &self.release {
                    points.extend(variants.iter().map(|variant| Point {
                        fs: fs.clone(),
                        pin,
                        release,
                        variant: variant.clone(),
                    }));
                }
            }
        }
        points.retain(|point| !self.exclude.iter().any(|condition| condition.accepts(point)));
        points
    }
}

/// The four axes as a condition, from whichever table holds them.
pub(crate) fn condition(fields: &mut Fields<'_, '_>) -> Result<Condition, Fault> {
    let fs = fields.words("fs", "file system", |word| Flavour::parse(word).ok(), FileSystem::list)?;
    Ok(Condition {
        fs: fs.iter().map(Flavour::to_string).collect(),
        pin: fields.words("pin", "pin mode", Pin::parse, Pin::list)?,
        release: fields.words("release", "release mode", Release::parse, Release::list)?,
        variant: fields.strings("variant")?.into_iter().map(|at| at.value).collect(),
    })
}
