// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Speed of the disk beside qemu-storage-daemon's vhost-user-blk export: the same client (qemu-img bench through
//! virtio-blk-vhost-user), the same kind of image, one after the other in many rounds, each round begun by another.
//! A ratio is the median of the rounds' ratios, so that the machine and what else it does matter little.
//!
//! Twice: with images in memory (tmpfs), and as files in the page cache. The audited disk is in a case and keeps a
//! ledger in a file, as in a real run. LONGPIN_BENCH_ROUNDS sets the rounds (11).

use longpin_e2e::block::{Place, Reference};
use std::path::Path;

/// In the page cache of any machine, and not in that of its processor.
const IMAGE_BYTES: u64 = 256 << 20;
const DEPTH: &str = "32";
const DISKS: [&str; 4] = ["plain", "audited", "qemu", "qemu-uring"];
/// Least ratio to qemu-storage-daemon as it comes: without audit, and with audit, which works on writes only.
const GOALS: [f64; 2] = [1.0, 0.7];

/// One kind of load.
struct Load {
    name: &'static str,
    bytes: u64,
    count: u64,
    write: bool,
}

const LOADS: [Load; 4] = [
    Load { name: "4 KiB read", bytes: 4096, count: 60_000, write: false },
    Load { name: "4 KiB write", bytes: 4096, count: 60_000, write: true },
    Load { name: "128 KiB read", bytes: 128 << 10, count: 8_000, write: false },
    Load { name: "128 KiB write", bytes: 128 << 10, count: 8_000, write: true },
];

fn main() {
    let rounds = std::env::var("LONGPIN_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(11);
    println!("machine: {}", machine());
    for (title, parent) in
        [("images in tmpfs", Path::new("/dev/shm").to_owned()), ("images as files", std::env::temp_dir())]
    {
        println!(
            "\n{title} ({}), {rounds} rounds, queue depth {DEPTH}, one queue, medians",
            parent.display()
        );
        let medians = measure(&parent, rounds);
        print_table(&medians);
    }
}

/// Seconds of each round, by load.
fn measure(parent: &Path, rounds: usize) -> Vec<Vec<[f64; 4]>> {
    let place = Place::new(parent);
    for disk in DISKS {
        // Content, so that no read is of a hole and no write has to find room.
        let image = place.image(&format!("{disk}.img"), IMAGE_BYTES);
        let content: Vec<u8> = (0..IMAGE_BYTES).map(|i| (i ^ i >> 9 ^ i >> 17) as u8).collect();
        std::fs::write(image, content).expect("room for four images of 256 MiB");
    }
    let _servers = [
        place.serve(&["plain,audit=off,queues=1", "audited,audit=writes,queues=1"]),
        place.serve_by_qemu("qemu", Reference::Default),
        place.serve_by_qemu("qemu-uring", Reference::IoUring),
    ];
    assert_eq!(place.ask(r#"{"request":"case","run":1}"#)["answer"], "ok");
    let round = |load: &Load, number: usize| {
        let mut seconds = [0.0; 4];
        for disk in (0..4).map(|i| (i + number) % 4) {
            seconds[disk] = run(&place, DISKS[disk], load);
        }
        seconds
    };
    LOADS.iter().map(|load| (0..rounds).map(|number| round(load, number)).collect()).collect()
}

/// One run; seconds by the client's own clock.
fn run(place: &Place, disk: &str, load: &Load) -> f64 {
    let (count, bytes) = (load.count.to_string(), load.bytes.to_string());
    let option = place.client_option(disk);
    let mut args = vec!["bench", "-c", &count, "-d", DEPTH, "-s", &bytes, "--image-opts", &option];
    if load.write {
        args.insert(1, "-w");
    }
    let output = place.client("qemu-img", &args, "").expect("a run of qemu-img bench");
    let seconds = output.split("Run completed in ").nth(1).and_then(|rest| rest.split(' ').next());
    seconds.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("qemu-img bench said: {output}"))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(measured: &[Vec<[f64; 4]>]) {
    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>11} | {:>16} {:>16}",
        "MB/s", "audit off", "audit on", "qemu", "qemu uring", "audit off / qemu", "audit on / qemu"
    );
    for (load, rounds) in LOADS.iter().zip(measured) {
        let rate = |disk: usize| {
            (load.bytes * load.count) as f64 / median(rounds.iter().map(|round| round[disk])) / 1e6
        };
        let told = |disk: usize, goal: f64| {
            let ratio = median(rounds.iter().map(|round| round[2] / round[disk]));
            format!("{ratio:.2} {}", if ratio >= goal { "met" } else { "MISSED" })
        };
        println!(
            "{:<14} {:>9.0} {:>9.0} {:>9.0} {:>11.0} | {:>16} {:>16}",
            load.name,
            rate(0),
            rate(1),
            rate(2),
            rate(3),
            told(0, GOALS[0]),
            told(1, GOALS[1])
        );
    }
    println!(
        "goals: {:.1} without audit, {:.1} with, against qemu-storage-daemon as it comes (qemu);",
        GOALS[0], GOALS[1]
    );
    println!("qemu uring: the same with aio=io_uring and an I/O thread, which polls.");
}

/// What the numbers come from.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{count} x {}, Linux {}, load {}",
        model.unwrap_or("unknown processor"),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}
