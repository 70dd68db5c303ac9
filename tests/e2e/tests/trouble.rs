// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What bad things get: the right word, the documented exit code, the artifacts kept, nothing left behind. One case of each
//! kind is in `longpin selftest`, which a test of its own carries out; here is what goes further.

use longpin_e2e::processes::{self, signal};
use longpin_e2e::scenario::{self, FIRST_STEP_LINE};
use longpin_e2e::{Lab, RUN_DEADLINE, only_case, read_json, wait_for};
use longpin_wire::ledger::{Entry, Header, KIND_DISK_SUBMIT, KIND_MAP};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A step that does not end while a test looks at the run.
const LONG_STEP: &str = "{ do = \"exec\", argv = [\"sleep\", \"600\"], timeout_ms = 600000 }";

/// A run that stands in the long step of scenario `waiting`.
fn waiting(lab: &Lab) -> longpin_e2e::Running {
    let file = scenario::write(&lab.path(""), "waiting", &["\"mkfs\"", LONG_STEP], "intact");
    let mut running = lab.start_run(&[&file, "--timeout", "3600"]);
    lab.wait_for_line(&mut running, "waiting", FIRST_STEP_LINE + 1);
    running
}

fn error_of_only_case(lab: &Lab) -> Value {
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!(case["outcome"], "error", "{case}");
    assert_eq!(case["error"]["cause"], "infra", "{case}");
    case["reason"].clone()
}

fn artifacts_are_kept(lab: &Lab) {
    for file in ["console.log", "agent.log", "device.log", "qemu.cmd"] {
        assert!(lab.out().join("boot-1").join(file).is_file(), "{file}");
    }
}

#[test]
fn the_ledger_of_a_boot_whose_qemu_is_killed_is_complete() {
    let lab = Lab::new();
    let pin = "{ do = \"pin\", mode = \"pin\" }";
    let release = "{ do = \"release\", mode = \"clean\" }";
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", "\"map\"", pin, LONG_STEP, release];
    let file = scenario::write_on(&lab.path(""), "pinning", "ext4", "", &steps, "intact");
    let mut running = lab.start_run(&[&file, "--timeout", "3600"]);
    lab.wait_for_line(&mut running, "pinning", FIRST_STEP_LINE + 5);
    let qemu = processes::find(&lab.tmp(), "qemu-system-x86_64").expect("QEMU runs");
    signal(qemu.pid as u32, Signal::KILL);
    let ended = running.end();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);

    let record = read_json(&lab.out().join("cases/pinning.ext4.none.none.json"));
    let run = record["run"].as_u64().expect("a label");
    let bytes = std::fs::read(lab.out().join("boot-1/ledger.bin")).expect("the ledger is kept");
    let (entries, rest) = bytes[size_of::<Header>()..].as_chunks::<{ size_of::<Entry>() }>();
    assert!(rest.is_empty(), "{} bytes after the last whole entry", rest.len());
    let of_case = entries.iter().map(|bytes| -> Entry { zerocopy::transmute!(*bytes) });
    let kinds: Vec<u32> = of_case.filter(|entry| entry.run == run).map(|entry| entry.kind).collect();
    for kind in [KIND_MAP, KIND_DISK_SUBMIT] {
        assert!(kinds.contains(&kind), "no entry of kind {kind} of case {run} in {kinds:?}");
    }
    lab.assert_tidy();
}

#[test]
fn an_interrupt_ends_the_run_and_keeps_what_there_is() {
    for stop in [Signal::INT, Signal::TERM] {
        let lab = Lab::new();
        let running = waiting(&lab);
        signal(running.id(), stop);
        let ended = running.end();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        let result = lab.result();
        assert_eq!(result["interrupted"], true);
        assert_eq!(result["missing"], json!(["waiting/tmpfs/none/none"]));
        assert!(ended.stderr.contains("interrupted"), "{}", ended.stderr);
        artifacts_are_kept(&lab);
        lab.assert_tidy();
    }
}

#[test]
fn a_killed_harness_takes_its_children_along() {
    let lab = Lab::new();
    let running = waiting(&lab);
    assert!(processes::find(&lab.tmp(), "qemu-system-x86_64").is_some());
    signal(running.id(), Signal::KILL);
    wait_for("the children to be gone", RUN_DEADLINE, || {
        processes::mentioning(&lab.tmp()).is_empty().then_some(())
    });
    assert_eq!(running.end().code, None);
}

#[test]
fn a_guest_panic_is_a_word_of_its_own_and_the_rest_goes_on_in_a_new_boot() {
    let lab = Lab::new();
    let crash = "{ do = \"write-sys\", path = \"/proc/sysrq-trigger\", value = \"c\" }";
    // What the agent has not read before the panic stands on the console alone.
    let told = "<4>BTRFS warning (device vdz): csum failed root 5 ino 257 off 0";
    let say = format!("{{ do = \"exec\", argv = [\"sh\", \"-c\", \"echo '{told}' > /dev/kmsg\"] }}");
    let file = scenario::write(&lab.path(""), "crashing", &["\"mkfs\"", &say, crash], "panic");
    let ended = lab.run(&[&file, "--repeat", "2"]);
    let result = lab.result();
    assert_eq!(result["cases"].as_array().map(Vec::len), Some(2), "{}", ended.stderr);
    for (index, boot) in [(0, 1), (1, 2)] {
        let case = &result["cases"][index];
        assert_eq!((&case["boot"], &case["headline"]), (&json!(boot), &json!("panic")), "{case}");
        assert_eq!(case["observations"], json!(["warned", "panic"]), "{case}");
        assert!(result["boots"][index]["ended"].as_str().is_some_and(|why| why.contains("crashing")));
    }
    let console = std::fs::read_to_string(lab.out().join("boot-1/console.log")).expect("the console is kept");
    assert!(console.contains("sysrq triggered crash"), "{console}");
    lab.assert_tidy();
}

#[test]
fn the_users_deadline_is_an_infrastructure_error_and_no_hang_of_the_kernel() {
    let lab = Lab::new();
    let file = scenario::write(&lab.path(""), "hanging", &[LONG_STEP], "hang");
    let ended = lab.run(&[&file, "--timeout", "5"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let reason = error_of_only_case(&lab).to_string();
    assert!(reason.contains("step `exec` was running; see --timeout"), "{reason}");
    lab.assert_tidy();
}

#[test]
fn a_full_host_disk_under_qemus_own_disk_is_no_hang_of_the_kernel() {
    let lab = Lab::new();
    let disks = lab.path("disks");
    std::fs::create_dir(&disks).expect("the place is new");
    let Some(_mounted) = TinyDisk::mount(&disks, "32m") else {
        eprintln!("skip: mounting a tmpfs needs root");
        return;
    };
    let fill = "{ do = \"exec\", argv = [\"dd\", \"if=/dev/urandom\", \"of=/mnt/x\", \"bs=1M\", \"count=64\", \"conv=fsync\"], timeout_ms = 600000 }";
    let file =
        scenario::write_on(&lab.path(""), "filling", "ext4", "", &["\"mkfs\"", "\"mount\"", fill], "intact");
    let disk_dir = disks.to_str().expect("temporary paths are UTF-8");
    let ended = lab.run(&[&file, "--disk", "qemu", "--disk-dir", disk_dir]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let reason = error_of_only_case(&lab).to_string();
    assert!(
        reason.contains("QEMU stopped the guest") && reason.contains("No space left on device"),
        "{reason}"
    );
    lab.assert_tidy();
}

/// A tmpfs with room for the start of a guest's disk only.
struct TinyDisk<'a>(&'a std::path::Path);

impl<'a> TinyDisk<'a> {
    fn mount(at: &'a std::path::Path, size: &str) -> Option<Self> {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        // A process that has just been killed gives its files back a little later than its arguments.
        wait_for("the file system to be unmounted", RUN_DEADLINE, || {
            let umount = std::process::Command::new("umount").arg(self.0).output();
            umount.is_ok_and(|output| output.status.success()).then_some(())
        });
    }
}

/// The agent powers off with the guest's own `sync`, which this scenario replaces by one that has a last word.
#[test]
fn what_the_kernel_says_while_it_powers_off_is_the_last_case_s() {
    let lab = Lab::new();
    let word = "WARNING: CPU: 0 PID: 1 at mm/gup.c:1 said while powering off";
    let program = format!("printf \"#!/bin/sh\\necho \\\"<4>{word}\\\" > /dev/kmsg\\n\" > /bin/sync");
    let script = format!("rm /bin/sync && {program} && chmod +x /bin/sync");
    let step = format!("{{ do = \"exec\", argv = [\"sh\", \"-c\", '{script}'] }}");
    let steps = ["\"mkfs\"", "\"mount\"", "\"create\"", &step, "\"compare\""];
    let file = scenario::write(&lab.path(""), "last-word", &steps, "intact");
    let ended = lab.run(&[&file]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!(case["observations"], json!(["intact", "splat"]), "{case}");
    assert!(case["reason"].to_string().contains(word), "{case}");
    lab.assert_tidy();
}
