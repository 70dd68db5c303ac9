// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pins that are not the driver's: what the kernel's own users take, and programs of the user's.

use longpin_e2e::{Lab, only_case, read_json};
use longpin_images::{Store, report};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample-pinner").join(name)
}

/// A program of docs/sample-pinner, built as its first lines say.
fn sample(lab: &Lab, name: &str, more: &[&str]) -> PathBuf {
    let program = lab.path("pinner");
    let built = Command::new("cc")
        .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&program, &source(name)])
        .args(more)
        .output()
        .expect("a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// Modules of the stock kernel, unpacked, in the order in which they need each other.
fn modules(lab: &Lab, paths: &[&str]) -> Vec<String> {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let unpack = |path: &&str| {
        let packed = kernel.modules_dir().join(format!("kernel/{path}.ko.xz"));
        let unpacked = lab.path(&format!("{}.ko", path.rsplit('/').next().unwrap_or(path)));
        let done = Command::new("xz").arg("-dc").arg(&packed).output().expect("xz");
        assert!(done.status.success(), "{}: {}", packed.display(), String::from_utf8_lossy(&done.stderr));
        std::fs::write(&unpacked, done.stdout).expect("the place is writable");
        text(&unpacked).to_owned()
    };
    paths.iter().map(unpack).collect()
}

fn script(lab: &Lab, name: &str, arms: &str) -> PathBuf {
    let path = lab.path(name);
    let hello = "hello*) echo pinner 1 tale 7;; describe) echo ok nothing;; quit) exit 0;;";
    let script = format!("#!/bin/sh\nwhile read -r line; do case \"$line\" in {hello} {arms} esac; done\n");
    std::fs::write(&path, script).expect("the place is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

fn observed(result: &Value, id: &str) -> Value {
    let cases = result["cases"].as_array().expect("a list");
    let case = cases.iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("{id} did not run"));
    case["observations"].clone()
}

/// What the record of a case has of its pin.
fn pinned(lab: &Lab, case: &str) -> Value {
    let record = read_json(&lab.out().join(format!("cases/{case}.json")));
    let mut steps = record["evidence"].as_array().expect("a list").iter();
    let pinned = steps.find_map(|step| {
        let fact = &step["outcome"]["fact"];
        (fact["fact"] == "pinned").then(|| fact["value"].clone())
    });
    pinned.expect("a pin")
}

#[test]
fn the_kernels_own_pins_show_what_they_do_and_say_what_is_known() {
    let lab = Lab::new();
    let ended = lab.run(&["late-copy", "copy-bleed", "copy-in-flight", "--fs", "xfs,tmpfs"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for (id, words) in [
        ("late-copy/xfs/io_uring/clean", json!(["refused"])),
        ("late-copy/xfs/vm-writev/dirty", json!(["intact"])),
        ("late-copy/tmpfs/io_uring/clean", json!(["intact"])),
        ("copy-bleed/xfs/vm-writev/dirty", json!(["bleed"])),
        ("copy-in-flight/xfs/vm-writev/dirty", json!(["unstable"])),
    ] {
        assert_eq!(observed(&result, id), words, "{id}");
    }
    // 16 pages of a file that has large folios or not: references are counted by page.
    assert_eq!(pinned(&lab, "late-copy.xfs.vm-writev.dirty")["references"], json!(16));
    lab.assert_tidy();
}

#[test]
fn a_device_behind_an_iommu_writes_into_any_memory_that_is_not_a_file_s_on_a_disk() {
    let lab = Lab::new();
    let ended = lab.run(&["who-may-pin", "late-copy/tmpfs", "--fs", "ext4,tmpfs", "--pin", "vfio,vm-writev"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for (id, word) in [
        ("who-may-pin/ext4/vfio/dirty/shared", "refused"),
        ("who-may-pin/ext4/vfio/dirty/private", "intact"),
        ("who-may-pin/tmpfs/vfio/dirty/shared", "intact"),
        ("who-may-pin/tmpfs/vfio/dirty/hugetlb", "intact"),
        ("who-may-pin/tmpfs/vfio/dirty/anonymous", "intact"),
        ("late-copy/tmpfs/vfio/dirty", "intact"),
    ] {
        assert_eq!(observed(&result, id), json!([word]), "{id}");
    }
    // Only these cases have a guest with an IOMMU.
    for case in result["cases"].as_array().expect("a list") {
        let boot = lab.out().join(format!("boot-{}/qemu.cmd", case["boot"]));
        let command = std::fs::read_to_string(&boot).expect("QEMU's command");
        let id = case["id"].as_str().expect("an id");
        assert_eq!(command.contains("intel-iommu -device edu"), id.contains("/vfio/"), "{id}: {command}");
    }
    // The page from which the device takes the bytes is not counted.
    assert_eq!(pinned(&lab, "late-copy.tmpfs.vfio.dirty")["references"], json!(16));
    lab.assert_tidy();
}

#[test]
fn what_is_mapped_for_reading_only_is_pinned_on_every_file_system_and_not_written() {
    let lab = Lab::new();
    let ended = lab.run(&["late-copy", "who-may-pin/*/anonymous", "--fs", "ext4,tmpfs", "--pin", "vfio-ro"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for id in [
        "late-copy/ext4/vfio-ro/clean",
        "late-copy/tmpfs/vfio-ro/clean",
        "who-may-pin/tmpfs/vfio-ro/clean/anonymous",
    ] {
        assert_eq!(observed(&result, id), json!(["dma-blocked"]), "{id}");
        let cases = result["cases"].as_array().expect("a list");
        let case = cases.iter().find(|case| case["id"] == id).expect("a case");
        assert_eq!(case["generations"]["device"], Value::Null, "{id}");
        let reason = case["reason"].as_str().expect("a reason");
        assert!(reason.contains("none of it came to memory; it was told nothing"), "{reason}");
        assert!(reason.contains("kernel log: DMAR: [DMA Write NO_PASID] Request device"), "{reason}");
        assert!(reason.contains("PTE Write access is not set"), "{reason}");
    }
    lab.assert_tidy();
}

#[test]
fn packets_come_into_any_memory_that_is_not_a_file_s_on_a_disk() {
    let lab = Lab::new();
    let ended =
        lab.run(&["who-may-pin", "late-copy", "copy-in-flight", "--fs", "ext4,tmpfs", "--pin", "xdp"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for (id, word) in [
        ("who-may-pin/ext4/xdp/dirty/shared", "refused"),
        ("who-may-pin/ext4/xdp/dirty/private", "intact"),
        ("who-may-pin/tmpfs/xdp/dirty/shared", "intact"),
        ("who-may-pin/tmpfs/xdp/dirty/private", "intact"),
        ("who-may-pin/tmpfs/xdp/dirty/hugetlb", "intact"),
        ("who-may-pin/tmpfs/xdp/dirty/anonymous", "intact"),
        ("late-copy/ext4/xdp/dirty", "refused"),
        ("late-copy/tmpfs/xdp/dirty", "intact"),
        ("copy-in-flight/ext4/xdp/dirty", "refused"),
    ] {
        assert_eq!(observed(&result, id), json!([word]), "{id}");
    }
    let record = std::fs::read_to_string(lab.out().join("cases/late-copy.ext4.xdp.dirty.json"));
    assert!(record.expect("a record").contains("setsockopt(XDP_UMEM_REG)"));
    assert_eq!(pinned(&lab, "late-copy.tmpfs.xdp.dirty")["references"], json!(16));
    lab.assert_tidy();
}

#[test]
fn an_older_kernel_receives_packets_into_the_pages_of_a_file() {
    let lab = Lab::new();
    let args = ["late-copy", "copy-bleed", "copy-in-flight", "--fs", "ext4,xfs", "--pin", "xdp"];
    let ended = lab.run(&[&args[..], &["--kernel", "debian:6.1"]].concat());
    // The library expects what the stock kernel does: it refuses.
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    for (id, word) in [
        ("late-copy/ext4/xdp/dirty", "intact"),
        ("late-copy/xfs/xdp/dirty", "intact"),
        ("copy-bleed/xfs/xdp/dirty", "bleed"),
        ("copy-in-flight/ext4/xdp/dirty", "unstable"),
        ("copy-in-flight/xfs/xdp/dirty", "unstable"),
    ] {
        assert_eq!(observed(&result, id), json!([word]), "{id}");
        let cases = result["cases"].as_array().expect("a list");
        let case = cases.iter().find(|case| case["id"] == id).expect("a case");
        assert_eq!(case["generations"]["device"], json!(100), "{id}: nothing was received");
    }
    lab.assert_tidy();
}

#[test]
fn rdma_writes_into_what_is_registered_and_faults_for_what_is_registered_on_demand() {
    let lab = Lab::new();
    let ended =
        lab.run(&["who-may-pin", "late-copy", "copy-bleed", "--fs", "xfs,tmpfs", "--pin", "rxe,rxe-odp"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    for (id, word) in [
        ("who-may-pin/xfs/rxe/dirty/shared", "refused"),
        ("who-may-pin/xfs/rxe/dirty/private", "intact"),
        ("who-may-pin/tmpfs/rxe/dirty/hugetlb", "intact"),
        ("who-may-pin/tmpfs/rxe/dirty/anonymous", "intact"),
        ("late-copy/tmpfs/rxe/dirty", "intact"),
        ("who-may-pin/xfs/rxe-odp/clean/shared", "intact"),
        ("late-copy/xfs/rxe-odp/clean", "intact"),
        ("copy-bleed/xfs/rxe/dirty", "refused"),
        ("copy-bleed/xfs/rxe-odp/clean", "intact"),
    ] {
        assert_eq!(observed(&result, id), json!([word]), "{id}");
    }
    // The page from which the bytes are sent is not counted.
    assert_eq!(pinned(&lab, "late-copy.tmpfs.rxe.dirty")["references"], json!(16));
    assert_eq!(pinned(&lab, "late-copy.xfs.rxe-odp.clean")["references"], json!(0));
    let cases = result["cases"].as_array().expect("a list");
    let case = cases.iter().find(|case| case["id"] == "late-copy/xfs/rxe-odp/clean").expect("a case");
    assert_eq!(case["generations"]["device"], json!(100));
    lab.assert_tidy();
}

/// An rxe of before there was memory on demand, and its checksum by a module that nobody declares.
#[test]
fn an_older_kernel_writes_by_rdma_into_pages_of_a_file_and_has_no_memory_on_demand() {
    let lab = Lab::new();
    let ended = lab.run(&["copy-bleed/xfs", "--kernel", "debian:6.1", "--pin", "rxe,rxe-odp"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(observed(&result, "copy-bleed/xfs/rxe/dirty"), json!(["bleed"]));
    let cases = result["cases"].as_array().expect("a list");
    let case = cases.iter().find(|case| case["id"] == "copy-bleed/xfs/rxe-odp/clean").expect("a case");
    assert_eq!(case["outcome"], json!("skip"));
    let reason = case["reason"].as_str().expect("a reason");
    assert!(reason.contains("CONFIG_INFINIBAND_ON_DEMAND_PAGING"), "{reason}");
    lab.assert_tidy();
}

#[test]
fn the_sample_keeps_to_the_protocol_and_pins_in_the_guest() {
    let lab = Lab::new();
    let lines = std::fs::read_to_string(source("pinner.c")).expect("the sample is there").lines().count();
    assert!(lines < 200, "{lines} lines");
    let program = sample(&lab, "pinner.c", &[]);
    let checked = lab.start(&["pinner", "check", text(&program)]).end();
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.lines().all(|line| line.starts_with("ok     ")), "{}", checked.stdout);
    let pin = format!("exec:{}", text(&program));
    let ended = lab.run(&["late-copy", "--fs", "ext4,tmpfs", "--release", "clean", "--pin", &pin]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(observed(&result, "late-copy/ext4/exec/clean"), json!(["refused"]));
    assert_eq!(observed(&result, "late-copy/tmpfs/exec/clean"), json!(["intact"]));
    assert_eq!(result["environment"]["additions"]["pinner"]["path"], json!(text(&program)));
    let record = std::fs::read_to_string(lab.out().join("cases/late-copy.tmpfs.exec.clean.json"));
    assert!(record.expect("a record").contains("sample-io_uring 1.0: a registered buffer"));
    lab.assert_tidy();
}

#[test]
fn a_device_behind_an_iommu_writes_where_vfio_has_mapped_for_writing_only() {
    for (more, release, code, words) in
        [(&[][..], "dirty", 0, ["refused", "intact"]), (&["-DREAD_ONLY"], "clean", 1, ["refused", "refused"])]
    {
        let lab = Lab::new();
        let pin = format!("exec:{}", text(&sample(&lab, "vfio_edu.c", more)));
        let vfio = modules(
            &lab,
            &[
                "virt/lib/irqbypass",
                "drivers/vfio/vfio",
                "drivers/vfio/vfio_iommu_type1",
                "drivers/vfio/pci/vfio-pci-core",
                "drivers/vfio/pci/vfio-pci",
            ],
        );
        let mut args = vec!["late-copy", "--fs", "ext4,tmpfs", "--release", release, "--pin", &pin];
        args.extend(["--append", "intel_iommu=on iommu=pt"]);
        for arg in ["-device", "intel-iommu", "-device", "edu"] {
            args.extend(["--qemu-arg", arg]);
        }
        vfio.iter().for_each(|module| args.extend(["--module", module]));
        let ended = lab.run(&args);
        // Of a mapping for reading the library expects nothing: on tmpfs its refusal is a difference.
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        let result = lab.result();
        for (fs, word) in ["ext4", "tmpfs"].into_iter().zip(words) {
            assert_eq!(
                observed(&result, &format!("late-copy/{fs}/exec/{release}")),
                json!([word]),
                "{more:?}"
            );
        }
        let console = std::fs::read_to_string(lab.out().join("boot-1/console.log")).expect("a console");
        let kept_off = console.contains("PTE Write access is not set");
        assert_eq!(kept_off, code == 1, "{more:?}: {console}");
        lab.assert_tidy();
    }
}

#[test]
fn what_a_program_does_wrong_is_no_verdict_about_the_kernel() {
    let lab = Lab::new();
    for (arms, reason) in [
        ("pin*) kill -SEGV $$;;", "pinner tale 7 ended (signal 11) when it was asked to `pin 0 65536`"),
        // In one piece: of two, the second may come when the next question has been asked.
        ("*) printf 'ok\\nok\\n';;", "pinner tale 7 said more than one line of 512 bytes to `pin 0 65536`"),
        (
            "*) echo yes;;",
            "pinner tale 7 answered `yes` to `pin 0 65536`; it has to be ok, or errno NUMBER CALL",
        ),
        // It pins nothing, and writes nothing.
        ("*) echo ok;;", "the guest's count of pins did not grow when `r` was pinned"),
    ] {
        let lab = Lab::new();
        let pin = format!("exec:{}", text(&script(&lab, "tale", arms)));
        let ended = lab.run(&["late-copy", "--fs", "tmpfs", "--release", "dirty", "--pin", &pin]);
        assert_eq!(ended.code, Some(2), "{arms}: {}", ended.stderr);
        let result = lab.result();
        let case = only_case(&result);
        assert_eq!(case["outcome"], json!("error"), "{arms}");
        assert!(
            case["reason"].as_str().is_some_and(|text| text.contains(reason)),
            "{arms}: {}",
            case["reason"]
        );
        lab.assert_tidy();
    }
    let none = lab.run(&["late-copy", "--fs", "tmpfs", "--release", "dirty", "--pin", "exec"]);
    assert_eq!(none.code, Some(4), "{}", none.stderr);
    let result = lab.result();
    let reason = only_case(&result)["reason"].as_str().map(str::to_owned);
    assert!(reason.is_some_and(|text| text.contains("name yours: --pin exec:PATH")), "{result}");
}

#[test]
fn a_program_that_is_none_is_wrong_usage() {
    let lab = Lab::without_images();
    let data = lab.path("data");
    std::fs::write(&data, "no program").expect("the place is writable");
    for (args, said) in [
        (vec!["run", "late-copy", "--pin", "exec:/no/such"], "--pinner /no/such: No such file"),
        (vec!["run", "late-copy", "--pin", "exec:"], "one program that pins can be named"),
        (vec!["run", "late-copy", "--pin", "exec:/a,exec:/b"], "one program that pins can be named"),
        (vec!["run", "late-copy", "--pinner", text(&data)], "it is no file that may be executed"),
        (vec!["pinner", "check", "/no/such"], "/no/such: No such file"),
    ] {
        let ended = lab.start(&args).end();
        assert_eq!(ended.code, Some(3), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
    }
    let lie = script(&lab, "lie", "pin*) echo ok;; *) echo errno 22 no;;");
    let checked = lab.start(&["pinner", "check", text(&lie)]).end();
    assert_eq!(checked.code, Some(1), "{}", checked.stderr);
    let fault = "fault  writes all pages: it answers `errno 22 no`";
    assert!(checked.stdout.contains(fault), "{}", checked.stdout);
}
