// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our disk with clients that are not ours: qemu-io and qemu-img do to it what they do to qemu-storage-daemon, and
//! must find the same.

use longpin_e2e::block::{Place, Reference};
use std::fmt::Write as _;

const IMAGE_BYTES: u64 = 32 << 20;

/// Commands for qemu-io: writes, reads that check a pattern, zeroes and discards, at places and of lengths that a
/// small generator gives. `pattern`: what each 512-byte block holds; none after a discard.
fn commands(seed: u64, count: usize) -> String {
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut pattern: Vec<Option<u8>> = vec![Some(0); (IMAGE_BYTES / 512) as usize];
    let mut text = String::new();
    let line = |text: &mut String, command: String| writeln!(text, "{command}").expect("memory");
    for _ in 0..count {
        let most = if below(10) == 0 { 2048 } else { 64 };
        let blocks = 1 + below(most) as usize;
        let first = below((pattern.len() - blocks) as u64) as usize;
        let (at, len) = (first * 512, blocks * 512);
        let range = first..first + blocks;
        let same = pattern[range.clone()].iter().all(|block| *block == pattern[first]);
        let byte = below(255) as u8 + 1;
        match below(12) {
            0..5 => {
                line(&mut text, format!("write -q -P {byte} {at} {len}"));
                pattern[range].fill(Some(byte));
            }
            5..7 => {
                // Side by side; the flush of qemu-io waits for all of them.
                let half = len / 1024 * 512;
                line(&mut text, format!("aio_write -q -P {byte} {at} {}", len - half));
                if half > 0 {
                    line(&mut text, format!("aio_write -q -P {byte} {} {half}", at + len - half));
                }
                line(&mut text, "aio_flush".into());
                pattern[range].fill(Some(byte));
            }
            7 => {
                line(&mut text, format!("write -q -z {at} {len}"));
                pattern[range].fill(Some(0));
            }
            8 => {
                line(&mut text, format!("write -q -z -u {at} {len}"));
                pattern[range].fill(Some(0));
            }
            9 => {
                line(&mut text, format!("discard -q {at} {len}"));
                pattern[range].fill(None);
            }
            10 => line(&mut text, "flush".into()),
            _ => match pattern[first].filter(|_| same) {
                Some(byte) => line(&mut text, format!("read -q -P {byte} {at} {len}")),
                None => line(&mut text, format!("read -q {at} {len}")),
            },
        }
    }
    // Discarded blocks may hold anything, so they are made the same.
    for (index, block) in pattern.iter().enumerate() {
        let begins = index == 0 || pattern[index - 1].is_some();
        if block.is_none() && begins {
            let len = pattern[index..].iter().take_while(|block| block.is_none()).count() * 512;
            line(&mut text, format!("write -q -P 85 {} {len}", index * 512));
        }
    }
    line(&mut text, "flush".into());
    text
}

fn qemu_io(place: &Place, disk: &str, commands: &str) -> Result<String, String> {
    place.client("qemu-io", &["--image-opts", &place.client_option(disk)], commands)
}

fn qemu_img(place: &Place, args: &[&str]) -> String {
    place.client("qemu-img", args, "").unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// The daemon has seen no error, and no byte that changed under way.
fn assert_clean(place: &Place) {
    let answer = place.ask(r#"{"request":"disks"}"#);
    for disk in answer["disks"].as_array().expect("disks") {
        for counter in ["errors", "in_flight", "held", "hits_by_dma", "hits_by_others"] {
            assert_eq!(disk[counter], 0, "{counter} of {disk}");
        }
        assert!(disk["last_error"].is_null(), "{disk}");
    }
}

#[test]
fn qemu_io_leaves_the_same_on_our_disk_as_on_qemus() {
    for seed in [1, 2, 3] {
        let place = Place::new(&std::env::temp_dir());
        let disks = ["audited", "plain", "qemu"];
        let images = disks.map(|name| place.image(&format!("{name}.img"), IMAGE_BYTES));
        let ours = place.serve(&["audited", "plain,audit=off,queues=4"]);
        let theirs = place.serve_by_qemu("qemu", Reference::Default);
        let commands = commands(seed, 400);
        for disk in disks {
            let done = qemu_io(&place, disk, &commands);
            done.unwrap_or_else(|error| panic!("seed {seed}, disk {disk}: {error}"));
        }
        let [audited, plain, qemu] = images.map(|path| std::fs::read(path).expect("an image"));
        assert!(audited == qemu, "seed {seed}: the audited disk differs from QEMU's");
        assert!(plain == qemu, "seed {seed}: the disk without audit differs from QEMU's");
        assert_clean(&place);
        drop((ours, theirs));
    }
}

#[test]
fn a_wrong_pattern_is_found() {
    // The check above is one: the client does complain.
    let place = Place::new(&std::env::temp_dir());
    place.image("disk.img", IMAGE_BYTES);
    let _server = place.serve(&["disk"]);
    let error = qemu_io(&place, "disk", "write -q -P 1 0 4096\nread -q -P 2 0 4096\n").unwrap_err();
    assert!(error.contains("Pattern verification failed"), "{error}");
}

#[test]
fn a_converted_image_compares_equal_through_both_disks() {
    let place = Place::new(&std::env::temp_dir());
    for name in ["ours.img", "qemu.img"] {
        place.image(name, IMAGE_BYTES);
    }
    // Data, holes and zeroes.
    let mut content = vec![0u8; IMAGE_BYTES as usize];
    for (index, byte) in content.iter_mut().enumerate().filter(|(index, _)| index / 300_000 % 3 == 0) {
        *byte = (index ^ index >> 11) as u8;
    }
    std::fs::write(place.path("source.img"), &content).expect("the place is writable");
    let source = place.path("source.img");
    let source = source.to_str().expect("temporary paths are UTF-8");
    let ours = place.serve(&["ours,block-size=4096,serial=under-test"]);
    let theirs = place.serve_by_qemu("qemu", Reference::Default);
    for disk in ["ours", "qemu"] {
        let target = place.client_option(disk);
        qemu_img(&place, &["convert", "-n", "-W", "-f", "raw", "--target-image-opts", source, &target]);
        let source = format!("driver=raw,file.driver=file,file.filename={source}");
        qemu_img(&place, &["compare", "--image-opts", &source, &target]);
    }
    let (ours_option, qemu_option) = (place.client_option("ours"), place.client_option("qemu"));
    qemu_img(&place, &["compare", "--image-opts", &ours_option, &qemu_option]);
    assert!(std::fs::read(place.path("ours.img")).expect("an image") == content);
    assert_clean(&place);
    drop((ours, theirs));
}

#[test]
fn qemu_img_bench_ends_on_a_disk_of_any_kind() {
    let place = Place::new(&std::env::temp_dir());
    for name in ["one.img", "many.img", "coarse.img"] {
        place.image(name, IMAGE_BYTES);
    }
    let _server =
        place.serve(&["one,queues=1", "many,queues=8,audit=off", "coarse,block-size=4096,queue-size=1024"]);
    for disk in ["one", "many", "coarse"] {
        let option = place.client_option(disk);
        for extra in [&["-w"][..], &["-w", "--flush-interval=64"], &[]] {
            let args = ["bench", "-c", "3000", "-d", "64", "-s", "8192", "--image-opts", &option];
            let output = qemu_img(&place, &[&args[..], extra].concat());
            assert!(output.contains("Run completed"), "{output}");
        }
    }
    assert_clean(&place);
}

#[test]
fn our_disk_and_qemu_keep_each_other_off_an_image() {
    let place = Place::new(&std::env::temp_dir());
    let image = place.image("disk.img", IMAGE_BYTES);
    let image = image.to_str().expect("temporary paths are UTF-8");
    let ours = place.serve(&["disk"]);
    let refused = place.client("qemu-io", &["-f", "raw", image], "read 0 512\n").unwrap_err();
    assert!(refused.contains("Failed to get") && refused.contains("lock"), "{refused}");
    // A reader that is told to look at it anyway, as the host-side checks do.
    place.client("qemu-io", &["-f", "raw", "-r", "-U", image], "read 0 512\n").expect("a look");
    drop(ours);
    std::fs::remove_file(place.path("disk")).expect("a killed daemon leaves its socket");
    let theirs = place.serve_by_qemu("disk", Reference::Default);
    let refused = place.refused("disk");
    assert!(refused.contains("is in use by") && refused.contains("qemu-storage-da"), "{refused}");
    drop(theirs);
}
