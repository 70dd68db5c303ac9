// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device rxe over `dummy0`: an interface with one address, over which no packet goes, since rxe gives itself what it
//! would send to its own address (`rxe_loopback()`).

use super::netlink::Message;
use crate::error::{OrRefused, StepError, failed};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The module `dummy` makes it when it is loaded.
const INTERFACE: &str = "dummy0";
const DEVICE: &str = "rxe0";
/// TEST-NET-1, of which no network has an address.
const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// linux/rtnetlink.h, linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
/// Room for a packet with a page in it: rxe then takes 4096 bytes at once, the most that RDMA has.
const MTU: u32 = 8192;
/// rdma/rdma_netlink.h: RDMA_NL_NLDEV << 10 | RDMA_NLDEV_CMD_NEWLINK, and RDMA_NLDEV_ATTR_ names.
const NLDEV_NEWLINK: u16 = 5 << 10 | 3;
const DEV_NAME: u16 = 2;
const NDEV_NAME: u16 = 51;
const LINK_TYPE: u16 = 65;

/// Port of rxe, the only one, whose table of addresses is in sysfs.
const PORT: &str = "ports/1";
/// Of 1024 places: the interface has this address and those that the kernel gives it.
const PLACES: u8 = 16;
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// A device that can be opened, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Of the verbs.
    pub device: PathBuf,
    /// As RoCE has it.
    pub gid: [u8; 16],
    /// Its place in the table of the port.
    pub gid_index: u8,
}

/// The link, made at first use.
pub fn shared() -> Result<Link, StepError> {
    static MADE: Mutex<Option<Link>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*made {
        Some(link) => Ok(link.clone()),
        None => Ok(made.insert(make()?).clone()),
    }
}

fn make() -> Result<Link, StepError> {
    let place = Path::new("/sys/class/net").join(INTERFACE);
    let Some(index) = read(&place.join("ifindex")).and_then(|text| text.parse().ok()) else {
        return failed!("there is no interface {INTERFACE}; the module dummy makes it (numdummies=1)");
    };
    up(index).ask(None, &format!("{INTERFACE} up"))?;
    address(index).ask(None, &format!("an address of {INTERFACE}"))?;
    Message::new(NLDEV_NEWLINK, &[])
        .with_text(DEV_NAME, DEVICE)
        .with_text(LINK_TYPE, "rxe")
        .with_text(NDEV_NAME, INTERFACE)
        .ask(Some(rustix::net::netlink::RDMA), &format!("rxe on {INTERFACE}"))?;
    let device = find_device(Path::new("/sys/class/infiniband_verbs"))?;
    let gid = gid();
    // The table is filled by a worker of the kernel.
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(gid_index) = find_gid(&Path::new("/sys/class/infiniband").join(DEVICE).join(PORT), &gid) {
            return Ok(Link { device, gid, gid_index });
        }
        if Instant::now() > end {
            return failed!("{DEVICE} has no RoCE v2 address {} after {PATIENCE:?}", text_of(&gid));
        }
        std::thread::sleep(POLL);
    }
}

/// `struct ifinfomsg`: family, type, index, flags, mask of flags. Before rxe is there, which asks for the MTU once.
fn up(index: u32) -> Message {
    let words = [0, index, IFF_UP, IFF_UP];
    Message::new(RTM_NEWLINK, &words.map(u32::to_ne_bytes).concat()).with(IFLA_MTU, &MTU.to_ne_bytes())
}

/// `struct ifaddrmsg`: family, length of the prefix, flags, scope, index.
fn address(index: u32) -> Message {
    let head = [libc::AF_INET as u8, 32, 0, 0];
    Message::new(RTM_NEWADDR, &[head, index.to_ne_bytes()].concat()).with(IFA_LOCAL, &ADDRESS)
}

/// An address of IPv4, mapped.
fn gid() -> [u8; 16] {
    let mut gid = [0; 16];
    gid[10..12].fill(0xff);
    gid[12..].copy_from_slice(&ADDRESS);
    gid
}

/// As sysfs writes it: `0000:0000:...:c000:0201`.
fn text_of(gid: &[u8; 16]) -> String {
    let parts: Vec<_> = gid.chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
    parts.join(":")
}

/// rxe speaks RoCE v2 alone; an address may stand in the table for other protocols, too.
fn find_gid(port: &Path, gid: &[u8; 16]) -> Option<u8> {
    let wanted = text_of(gid);
    (0..PLACES).find(|place| {
        read(&port.join(format!("gids/{place}"))).is_some_and(|text| text == wanted)
            && read(&port.join(format!("gid_attrs/types/{place}"))).is_some_and(|text| text == "RoCE v2")
    })
}

/// The character device whose verbs are those of ours.
fn find_device(verbs: &Path) -> Result<PathBuf, StepError> {
    let entries = std::fs::read_dir(verbs).or_failed(&verbs.display().to_string())?;
    let mut places = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let Some(place) = places.find(|dir| read(&dir.join("ibdev")).is_some_and(|name| name == DEVICE)) else {
        return failed!("{DEVICE} has no device in {}; load ib_uverbs", verbs.display());
    };
    Ok(Path::new("/dev/infiniband").join(place.file_name().unwrap_or_default()))
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directory");
        std::fs::write(path, format!("{text}\n")).expect("file");
    }

    #[test]
    fn the_address_is_found_where_it_stands_for_roce_v2() {
        let root = tempfile::tempdir().expect("directory");
        let gid = gid();
        let text = "0000:0000:0000:0000:0000:ffff:c000:0201";
        assert_eq!(text_of(&gid), text);
        assert_eq!(find_gid(root.path(), &gid), None);
        file(&root.path().join("gids/0"), "fe80:0000:0000:0000:0000:00ff:fe00:0001");
        file(&root.path().join("gid_attrs/types/0"), "RoCE v2");
        file(&root.path().join("gids/1"), text);
        file(&root.path().join("gid_attrs/types/1"), "IB/RoCE v1");
        assert_eq!(find_gid(root.path(), &gid), None);
        file(&root.path().join("gids/2"), text);
        file(&root.path().join("gid_attrs/types/2"), "RoCE v2");
        assert_eq!(find_gid(root.path(), &gid), Some(2));
    }

    #[test]
    fn the_device_is_that_of_rxe() {
        let root = tempfile::tempdir().expect("directory");
        file(&root.path().join("abi_version"), "6");
        file(&root.path().join("uverbs0/ibdev"), "mlx5_0");
        let Err(StepError::Failed(text)) = find_device(root.path()) else { panic!("found") };
        assert!(text.starts_with("rxe0 has no device in "), "{text}");
        file(&root.path().join("uverbs1/ibdev"), "rxe0");
        assert_eq!(find_device(root.path()), Ok(PathBuf::from("/dev/infiniband/uverbs1")));
    }
}
