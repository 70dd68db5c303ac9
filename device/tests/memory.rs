// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the daemon under a guest that asks for as much of it as it can. One test in this file: it reads the
//! process's own size.

mod driver;

use driver::{DATA, Daemon, EVENT_IDX, INDIRECT, VERSION_1, disk_config, raw_descriptor, wait_for};
use longpin_proto::control::Request;
use longpin_proto::disk::{Action, Fetch, Match, Rule};
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_OUT;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

const MIB: u64 = 1 << 20;
/// What docs/limits.md allows one disk with one busy queue, copies and tables together.
const BOUND: u64 = 512 * MIB;
/// Headers, tables and status bytes of the requests.
const TABLES: u64 = 32 << 20;

/// Memory of this process that is no file's, the guest's is.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel counts it");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_ring_full_of_the_longest_writes_stays_within_the_bound() {
    let daemon = Daemon::with(|config| {
        config.persist = true;
        for name in ["disk", "other"] {
            let disk = disk_config(config, name, 64 * MIB);
            config.disks.push(disk);
        }
    });
    let mut control = daemon.control();
    control.order(&Request::Case { run: 7 });
    let action = Action::Hold { fetch: Fetch::Late, cap_ms: 600_000 };
    control.order(&Request::AddRule(Rule {
        name: "w".into(),
        disk: 0,
        matching: Match::default(),
        action,
        limit: 0,
    }));
    let mut blk = daemon.connect_disk("disk", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    let mut other = daemon.connect_disk("other", VERSION_1 | EVENT_IDX | INDIRECT, 2);
    let before = anonymous_bytes();
    let mut most = 0;
    for head in 0..256u16 {
        let at = TABLES + u64::from(head) * 0x100;
        let mut header = u64::from(VIRTIO_BLK_T_OUT).to_le_bytes().to_vec();
        header.extend(0u64.to_le_bytes());
        blk.write(at, &header);
        // All of the upper half of the guest's memory, for each request.
        blk.write(at + 0x20, &raw_descriptor(at, 16, VRING_DESC_F_NEXT, 1));
        blk.write(at + 0x30, &raw_descriptor(DATA, 64 << 20, VRING_DESC_F_NEXT, 2));
        blk.write(at + 0x40, &raw_descriptor(at + 0x18, 1, VRING_DESC_F_WRITE, 0));
        blk.descriptor(0, head, at + 0x20, 48, VRING_DESC_F_INDIRECT, 0);
        blk.publish(0, head);
        most = most.max(anonymous_bytes());
    }
    wait_for("as many to be held as there is room for, and the others to be written", || {
        most = most.max(anonymous_bytes());
        let disk = control.disk();
        (disk.held, disk.in_flight) == (16, 16)
    });
    // Others go on.
    assert_eq!(other.write_disk(0, &[1; 4096]), 0);
    assert_eq!(other.read_disk(0, 4096), [1; 4096]);
    let grown = most.saturating_sub(before);
    println!("{} MiB more at most", grown / MIB);
    assert!(grown < BOUND, "{} MiB", grown / MIB);
    // The driver takes them back.
    assert!(control.disk().last_error.is_some(), "that some were not held is said");
    blk.restart();
    assert_eq!(control.disk().held, 0);
    control.ask(&Request::DropRule { rule: "w".into() });
    assert_eq!(blk.write_disk(0, &[2; 4096]), 0);
    daemon.stop().unwrap();
}
