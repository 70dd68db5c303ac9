// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether all connections of the daemon serve one guest. Pins, DMA and the disks' requests are joined by
//! guest-physical address, which means nothing between two guests.
//!
//! Each connection has a memory map of its own, and maps of one guest show the same memory wherever both show any.
//! Only there they are compared: while the front-end changes a map, one connection has it earlier than another.

use crate::mem::{Gpa, GuestRam, Map};
use parking_lot::RwLock;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion};

/// Two connections have different memory at one address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} and {} have different memory at {gpa:?}, so they serve two guests, and no change can be put down to DMA; give each guest a daemon of its own",
    connections[0],
    connections[1]
)]
pub struct TwoGuests {
    /// Their names.
    pub connections: [String; 2],
    /// The first such address.
    pub gpa: Gpa,
}

/// The connections. Asked under any lock; takes none but its own.
#[derive(Default)]
pub struct Guests(RwLock<Vec<Arc<GuestRam>>>);

impl Guests {
    /// Memory of one more connection.
    pub fn add(&self, ram: Arc<GuestRam>) {
        self.0.write().push(ram);
    }

    /// Whether every connection that has memory at this address has what `ram` has there.
    pub fn check_page(&self, ram: &GuestRam, gpa: Gpa) -> Result<(), TwoGuests> {
        let map = ram.snapshot();
        let source = |map: &Map| map.find_region(GuestAddress(gpa.0)).map(|region| source(region, gpa.0));
        let Some(own) = source(&map) else { return Ok(()) };
        for other in self.0.read().iter().filter(|other| !std::ptr::eq(other.as_ref(), ram)) {
            if source(&other.snapshot()).is_some_and(|theirs| theirs.differs(&own)) {
                return Err(two_guests(ram, other, gpa.0));
            }
        }
        Ok(())
    }

    /// Whether all connections have the same memory wherever two of them have any.
    pub fn check(&self) -> Result<(), TwoGuests> {
        let rams = self.0.read();
        let maps: Vec<_> = rams.iter().map(|ram| ram.snapshot()).collect();
        for (at, map) in maps.iter().enumerate() {
            for (other, with) in maps.iter().enumerate().skip(at + 1) {
                if let Some(gpa) = difference(map, with) {
                    return Err(two_guests(&rams[at], &rams[other], gpa));
                }
            }
        }
        Ok(())
    }
}

fn two_guests(one: &GuestRam, other: &GuestRam, gpa: u64) -> TwoGuests {
    TwoGuests { connections: [one, other].map(|ram| ram.name().to_owned()), gpa: Gpa(gpa) }
}

/// Where two maps show different memory at one address.
fn difference(one: &Map, other: &Map) -> Option<u64> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    let mut shared = pairs.filter_map(|(a, b)| {
        // A region is mapped in one piece, so what its first byte is settles the rest.
        let from = a.start_addr().max(b.start_addr()).0;
        (from <= a.last_addr().min(b.last_addr()).0).then_some((a, b, from))
    });
    shared.find(|(a, b, from)| source(*a, *from).differs(&source(*b, *from))).map(|(.., from)| from)
}

/// What lies behind an address of a region.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// Device, inode and offset of a file: a memfd has an inode of its own, whoever has mapped it, and where.
    File(u64, u64, u64),
    /// Memory of this process alone.
    Host(usize),
    /// The host does not say: a file that cannot be asked. Not taken for a difference.
    Unknown,
}

impl Source {
    fn differs(&self, other: &Self) -> bool {
        self != other && *self != Self::Unknown && *other != Self::Unknown
    }
}

fn source(region: &impl GuestMemoryRegion, gpa: u64) -> Source {
    let inside = gpa - region.start_addr().0;
    match region.file_offset() {
        Some(place) => place.file().metadata().map_or(Source::Unknown, |file| {
            Source::File(file.dev(), file.ino(), place.start().wrapping_add(inside))
        }),
        None => region
            .get_host_address(vm_memory::MemoryRegionAddress(inside))
            .map_or(Source::Unknown, |address| Source::Host(address.addr())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::AtomicMap;
    use std::fs::File;
    use vm_memory::FileOffset;

    const MIB: u64 = 1 << 20;

    fn memory() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file
    }

    /// Regions of 1 MiB: address, file, offset in it.
    fn ram(name: &str, regions: &[(u64, &File, u64)]) -> Arc<GuestRam> {
        let regions = regions.iter().map(|(gpa, file, offset)| {
            let place = FileOffset::new(file.try_clone().unwrap(), *offset);
            (GuestAddress(*gpa), MIB as usize, Some(place))
        });
        let map = Map::from_ranges_with_files(regions).unwrap();
        Arc::new(GuestRam::new(AtomicMap::new(map)).named(name))
    }

    fn check(rams: &[&Arc<GuestRam>]) -> Result<(), TwoGuests> {
        let guests = Guests::default();
        rams.iter().for_each(|ram| guests.add(Arc::clone(ram)));
        guests.check()
    }

    #[test]
    fn maps_of_one_guest_agree_however_it_is_cut_and_while_one_of_them_changes() {
        let file = memory();
        let whole = ram("a", &[(0, &file, 0), (MIB, &file, MIB), (8 * MIB, &file, 4 * MIB)]);
        let other_mapping = ram("b", &[(MIB / 2, &file, MIB / 2), (8 * MIB, &file, 4 * MIB)]);
        let not_yet = ram("c", &[(0, &file, 0)]);
        let nothing = Arc::new(GuestRam::default());
        assert_eq!(check(&[&whole, &other_mapping, &not_yet, &nothing]), Ok(()));
    }

    #[test]
    fn another_file_or_another_place_in_it_is_another_guest() {
        let [one, two] = [memory(), memory()];
        let ours = ram("ours", &[(0, &one, 0), (4 * MIB, &one, 4 * MIB)]);
        let theirs = ram("theirs", &[(4 * MIB, &two, 4 * MIB)]);
        let moved = ram("moved", &[(4 * MIB, &one, 5 * MIB)]);
        for (other, name) in [(&theirs, "theirs"), (&moved, "moved")] {
            let error = check(&[&ours, other]).unwrap_err();
            assert_eq!((error.gpa, error.connections), (Gpa(4 * MIB), ["ours".into(), name.into()]));
        }
        let guests = Guests::default();
        [&ours, &theirs].into_iter().for_each(|ram| guests.add(ram.clone()));
        assert_eq!(guests.check_page(&ours, Gpa(100)), Ok(()), "only one of them has memory there");
        assert_eq!(guests.check_page(&ours, Gpa(4 * MIB + 100)).unwrap_err().gpa, Gpa(4 * MIB + 100));
        assert_eq!(guests.check_page(&ours, Gpa(100 * MIB)), Ok(()), "nobody has");
    }

    #[test]
    fn memory_of_this_process_is_told_apart_by_its_place() {
        let map = || Map::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap();
        let [one, two] = [map(), map()];
        let ram = |map: &Map| Arc::new(GuestRam::new(AtomicMap::new(map.clone())));
        assert_eq!(check(&[&ram(&one), &ram(&one)]), Ok(()));
        assert!(check(&[&ram(&one), &ram(&two)]).is_err());
    }
}
