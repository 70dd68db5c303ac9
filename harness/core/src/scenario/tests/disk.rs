// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps of the auditing disk, and dio pins.

use super::{EXPECT, HEAD, Pin, faults, faults_of_steps, only, steps_of};

/// Faults of a scenario in one matrix; the steps begin on line 9.
fn faults_in(fs: &str, pin: &str, release: &str, steps: &str) -> Vec<String> {
    let matrix =
        format!("matrix.fs = [\"{fs}\"]\nmatrix.pin = [\"{pin}\"]\nmatrix.release = [\"{release}\"]\n");
    faults(&format!("{HEAD}{matrix}step = [\n{steps}\n]\n{EXPECT}"))
}

#[test]
fn what_is_not_said_has_its_default() {
    let short = [
        r#""hold-write""#,
        r#""await-held""#,
        r#""release-write""#,
        r#""drop-rule""#,
        r#""hold-read""#,
        r#""fail-write""#,
        r#"{ do = "delay-write", rule = "d", ms = 5 }"#,
        r#""power-cut""#,
    ];
    let long = [
        r#"{ do = "hold-write", rule = "w", match = "stamped", fetch = "late", cap_ms = 20000, disk = 0 }"#,
        r#"{ do = "await-held", rule = "w", pages = 16 }"#,
        r#"{ do = "release-write", rule = "w" }"#,
        r#"{ do = "drop-rule", rule = "w" }"#,
        r#"{ do = "hold-read", rule = "r", cap_ms = 20000, disk = 0 }"#,
        r#"{ do = "fail-write", rule = "w", match = "stamped", limit = 0, disk = 0 }"#,
        r#"{ do = "delay-write", rule = "d", ms = 5, match = "stamped", fetch = "late", disk = 0 }"#,
        r#"{ do = "power-cut", in_flight = "drop" }"#,
    ];
    assert_eq!(steps_of(&short), steps_of(&long));
    let other = r#"{ do = "hold-write", fetch = "early" }"#;
    assert_ne!(steps_of(&short[..1]), steps_of(&[other]), "a parameter makes a difference");
}

#[test]
fn words_and_numbers_of_a_rule() {
    only(
        &faults_of_steps("{ do = \"hold-write\", fetch = \"now\" }"),
        "story.toml:9: fetch `now` is unknown; use one of late, early, split",
    );
    only(
        &faults_of_steps("{ do = \"hold-write\", match = \"file\" }"),
        "story.toml:9: match `file` is unknown; use one of stamped, pinned, any",
    );
    only(
        &faults_of_steps("{ do = \"hold-write\", cap_ms = 600001 }"),
        "story.toml:9: `cap_ms` = 600001 is out of range; use 1 to 600000",
    );
    only(
        &faults_of_steps("{ do = \"hold-read\", disk = 2 }"),
        "story.toml:9: disk 2 does not exist; use 0 (the file systems) or 1 (the second disk)",
    );
    only(&faults_of_steps("\"delay-write\""), "story.toml:9: step `delay-write` has no `ms`; add `ms = ...`");
    only(
        &faults_of_steps("{ do = \"power-cut\", in_flight = \"keep\" }"),
        "story.toml:9: fate of writes in flight `keep` is unknown; use one of drop, tear",
    );
}

#[test]
fn a_rule_has_a_name_that_the_disk_takes() {
    for name in ["", "two words", &"x".repeat(65)] {
        only(
            &faults_of_steps(&format!("{{ do = \"fail-write\", rule = \"{name}\" }}")),
            &format!("story.toml:9: rule name `{name}` is not 1 to 64 letters, digits, `-`, `_` or `.`"),
        );
    }
}

#[test]
fn a_rule_stands_before_it_is_spoken_of() {
    only(&faults_of_steps("\"await-held\""), "story.toml:9: rule `w` does not exist here; there is none");
    only(
        &faults_of_steps("\"hold-read\",\n\"release-write\""),
        "story.toml:10: rule `w` does not exist here; there is r",
    );
    only(
        &faults_of_steps("\"fail-write\",\n\"await-held\""),
        "story.toml:10: rule `w` holds nothing; name one of a hold-write or hold-read",
    );
    only(
        &faults_of_steps("\"hold-write\",\n\"fail-write\""),
        "story.toml:10: rule `w` exists already; give the second one another name",
    );
    only(
        &faults_of_steps("\"hold-write\", \"drop-rule\",\n\"drop-rule\""),
        "story.toml:10: rule `w` does not exist here; there is none",
    );
}

#[test]
fn nothing_waits_for_what_is_held() {
    let held = "\"mount\", \"create\", \"hold-write\"";
    for verb in ["remount", "umount", "compare", "snapshot"] {
        only(
            &faults_of_steps(&format!("{held},\n\"{verb}\"")),
            &format!(
                "story.toml:10: rule `w` still holds at `{verb}`; put a `release-write` or `drop-rule` before"
            ),
        );
        for mend in ["release-write", "drop-rule"] {
            assert_eq!(faults_of_steps(&format!("{held}, \"{mend}\", \"{verb}\"")), [""; 0]);
        }
    }
    only(
        &faults_of_steps("\"hold-read\",\n\"mount\""),
        "story.toml:10: rule `r` still holds at `mount`; put a `release-write` or `drop-rule` before",
    );
    let delayed = "\"mount\", \"create\", { do = \"delay-write\", ms = 5 }, \"remount\"";
    assert_eq!(faults_of_steps(delayed), [""; 0], "a delay ends by itself");
}

#[test]
fn what_is_put_back_was_noted() {
    only(
        &faults_of_steps("\"mount\",\n\"restore\""),
        "story.toml:10: no content was noted here; put a `power-cut` before",
    );
    only(
        &faults_of_steps("\"mount\", \"create\", \"map\", \"pin\", \"power-cut\",\n\"restore\""),
        "story.toml:10: region `r` is still pinned at `restore`; put a `release` before",
    );
    only(
        &faults_of_steps("\"mount\", \"create\", \"power-cut\", \"restore\",\n\"compare\""),
        "story.toml:10: the file system is not mounted here; put a `mount` before",
    );
    let whole = "\"mount\", \"create\", \"power-cut\", \"restore\", \"mount\", \"compare\"";
    assert_eq!(faults_of_steps(whole), [""; 0]);
}

#[test]
fn a_file_system_without_a_disk_has_none_to_rule() {
    let mend = "changes nothing; take it from matrix.fs, or give the step a `when`";
    for (step, what) in [
        ("\"hold-write\"", "a rule of disk 0"),
        ("\"power-cut\"", "a loss of power"),
        ("{ do = \"use-device\", path = \"/dev/md0\" }", "another block device"),
    ] {
        only(
            &faults_in("tmpfs", "pin", "clean", step),
            &format!("story.toml:9: tmpfs has no disk: {what} {mend}"),
        );
    }
}

#[test]
fn another_device_is_taken_while_nothing_is_mounted() {
    only(
        &faults_of_steps("{ do = \"use-device\", path = \"md0\" }"),
        "story.toml:9: `md0` is no block device; write a path below /dev/",
    );
    only(
        &faults_of_steps("\"mount\",\n{ do = \"use-device\", path = \"/dev/md0\" }"),
        "story.toml:10: step `use-device` needs the file system unmounted; put an `umount` before",
    );
}

const DIO: &str = "\"mount\", \"create\", \"map\", \"pin\"";

#[test]
fn a_dio_pin_is_released_dirty() {
    let steps = format!("{DIO}, {{ do = \"dma\", generation = 100 }}, \"release\", \"compare\"");
    assert_eq!(faults_in("ext4", "dio", "dirty", &steps), [""; 0]);
    only(
        &faults_in("ext4", "dio", "clean", &steps),
        "story.toml:1: case ext4/dio/clean cannot be: a dio pin is released dirty, by the kernel; exclude { pin = \
         \"dio\", release = \"clean\" }",
    );
    let clean = steps.replace("\"release\"", "\n{ do = \"release\", mode = \"clean\" }");
    only(
        &faults_in("ext4", "dio", "dirty", &clean),
        "story.toml:10: the kernel releases a dio pin dirty; take `mode` away",
    );
}

#[test]
fn a_dio_pin_is_written_to_before_its_release_and_has_its_disk_alone() {
    let dio = |steps: &str| faults_in("ext4", "dio", "dirty", steps);
    only(
        &dio(&format!("{DIO},\n\"release\"")),
        "story.toml:10: no `dma` wrote into `r`: its read would bring the second disk's bytes into the file; put a \
         dma before",
    );
    only(
        &dio(&format!("{DIO},\n{{ do = \"dma\", generation = 100, passes = 0, wait = false }}")),
        "story.toml:10: DMA into a dio pin is over when the step is; use `passes` = 1 or more",
    );
    only(
        &dio("{ do = \"hold-read\", disk = 1 }"),
        "story.toml:9: disk 1 holds the dio pins of this case; use disk 0",
    );
    only(
        &dio("\"mount\", \"create\", \"map\",\n{ do = \"pin\", job = \"p\" }"),
        "story.toml:10: a dio pin runs concurrently by itself; do it without `job`",
    );
}

#[test]
fn a_step_may_pin_by_dio_in_any_case_and_not_by_nothing() {
    let steps = "\"mount\", \"create\", \"map\", { do = \"pin\", mode = \"dio\" }, \
         { do = \"dma\", generation = 100 }, \"release\", \"compare\"";
    assert_eq!(faults_of_steps(steps), [""; 0]);
    let all = Pin::list();
    let pinning = all.strip_suffix(", none").expect("the mode that pins nothing is the last");
    only(
        &faults_of_steps("\"mount\", \"create\", \"map\",\n{ do = \"pin\", mode = \"none\" }"),
        &format!("story.toml:10: pin mode `none` is unknown; use one of {pinning}"),
    );
}

#[test]
fn a_pin_of_the_kernels_own_is_given_back_in_its_own_way() {
    for (pin, release, other) in [
        ("io_uring", "clean", "dirty"),
        ("vm-writev", "dirty", "clean"),
        ("vfio", "dirty", "clean"),
        ("vfio-ro", "clean", "dirty"),
        ("xdp", "dirty", "clean"),
        ("rxe", "dirty", "clean"),
        ("rxe-odp", "clean", "dirty"),
    ] {
        // The first page, or the last, cannot be written by each.
        let first = u64::from(pin == "xdp");
        let steps = format!(
            "{DIO}, {{ do = \"dma\", generation = 100, first_page = {first}, pages = 1 }}, \"release\", \"compare\""
        );
        assert_eq!(faults_in("ext4", pin, release, &steps), [""; 0]);
        let fault = format!(
            "story.toml:1: case ext4/{pin}/{other} cannot be: a {pin} pin is released {release}, by the kernel; \
             exclude {{ pin = \"{pin}\", release = \"{other}\" }}"
        );
        only(&faults_in("ext4", pin, other, &steps), &fault);
        let asked = steps.replace("\"release\"", &format!("\n{{ do = \"release\", mode = \"{other}\" }}"));
        let fault = format!("story.toml:10: the kernel releases a {pin} pin {release}; take `mode` away");
        only(&faults_in("ext4", pin, release, &asked), &fault);
    }
    // Nothing need be written before.
    assert_eq!(faults_in("ext4", "io_uring", "clean", &format!("{DIO}, \"release\", \"compare\"")), [""; 0]);
    let endless = format!("{DIO},\n{{ do = \"dma\", generation = 100, passes = 0, wait = false }}");
    only(
        &faults_in("ext4", "io_uring", "clean", &endless),
        "story.toml:10: DMA into a io_uring pin is over when the step is; use `passes` = 1 or more",
    );
}

#[test]
fn a_device_that_is_slow_is_given_no_more_than_it_can_do_in_time() {
    let dma = |dma: &str| {
        let steps = format!("{DIO},\n{{ do = \"dma\", generation = 100, {dma} }}, \"release\", \"compare\"");
        faults_in("ext4", "vfio", "dirty", &steps)
    };
    assert_eq!(dma("passes = 8"), [""; 0]);
    only(
        &dma("passes = 9"),
        "story.toml:10: the device behind a vfio pin takes 0.2 s for a page; write 128 of them in one step at most, \
         `pages` x `passes`",
    );
}

#[test]
fn af_xdp_writes_any_page_but_the_first() {
    let dma = |dma: &str| {
        let steps = format!("{DIO},\n{{ do = \"dma\", generation = 100, {dma} }}, \"release\", \"compare\"");
        faults_in("ext4", "xdp", "dirty", &steps)
    };
    assert_eq!(dma("first_page = 1, passes = 3"), [""; 0]);
    assert_eq!(dma("first_page = 15"), [""; 0]);
    for wrong in ["pages = 2", "first_page = 0, pages = 1"] {
        only(
            &dma(wrong),
            "story.toml:10: AF_XDP leaves 256 bytes before each packet, so that none comes into page 0 of `r`; begin \
             with `first_page` = 1",
        );
    }
}

#[test]
fn process_vm_writev_copies_each_page_once_in_order_and_never_the_last() {
    let dma = |dma: &str| {
        let first = "{ do = \"dma\", generation = 100, pages = 3 }";
        let steps =
            format!("{DIO}, {first},\n{{ do = \"dma\", program = \"q\", {dma} }}, \"release\", \"compare\"");
        faults_in("ext4", "vm-writev", "dirty", &steps)
    };
    assert_eq!(dma("generation = 101, first_page = 3, pages = 12"), [""; 0]);
    for wrong in [
        "generation = 101, first_page = 3",
        "generation = 101, first_page = 2, pages = 2",
        "generation = 101, first_page = 4, pages = 2",
        "generation = 101, first_page = 3, pages = 2, passes = 2",
    ] {
        only(
            &dma(wrong),
            "story.toml:10: process_vm_writev copies each page once, in order, and is over with the last: use `passes` \
             = 1 and pages from 3 on, and leave page 15 of `r` out",
        );
    }
}
