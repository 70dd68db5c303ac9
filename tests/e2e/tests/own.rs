// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What users add to a guest, or put in the place of something of ours.

use longpin_e2e::{Lab, only_case, program};
use longpin_images::{Store, report};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("the place is writable");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Our driver for the stock kernel.
fn longpin_module() -> std::path::PathBuf {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let module = store.module(&root, &kernel, None, &*reporter).expect("the driver is built");
    module.path().to_owned()
}

#[test]
fn words_files_and_devices_of_the_user_are_in_the_guest() {
    let lab = Lab::new();
    let tree = lab.path("tree");
    std::fs::create_dir_all(tree.join("usr/local/bin")).expect("the place is new");
    script(&tree.join("usr/local/bin/hello"), "echo hello from $0");
    symlink("hello", tree.join("usr/local/bin/alias")).expect("the place is new");
    std::fs::create_dir_all(tree.join("lib/firmware")).expect("the place is new");
    std::fs::write(tree.join("lib/firmware/vendor.bin"), "blob").expect("the place is writable");
    let look = "cat /proc/cmdline; /usr/local/bin/alias; cat /lib/firmware/vendor.bin; \
                grep -l 0x1234 /sys/bus/pci/devices/*/vendor";
    let args = ["shell", "--append", "slab_nomerge longpin_words=\"a b\"", "--overlay", text(&tree)];
    let more = ["--qemu-arg", "-device", "--qemu-arg", "edu", "--", "sh", "-c", look];
    let ended = lab.start(&[&args[..], &more].concat()).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for part in [
        " slab_nomerge longpin_words=\"a b\"",
        "hello from /usr/local/bin/alias",
        "blob",
        // QEMU's teaching device.
        "/vendor",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    lab.assert_tidy();
}

#[test]
fn a_run_records_what_was_added_and_repeats_it() {
    let lab = Lab::new();
    let tree = lab.path("tree");
    std::fs::create_dir_all(tree.join("opt")).expect("the place is new");
    std::fs::write(tree.join("opt/file"), "x").expect("the place is writable");
    let daemon = program("longpin-device");
    let device = lab.path("accel");
    // Another daemon as vendors have them: a script that starts the real one.
    script(&device, &format!("echo started >> {}; exec {} \"$@\"", text(&lab.path("log")), text(&daemon)));
    let args = ["lost-update", "--fs", "tmpfs", "--pin", "pin", "--append", "slab_nomerge"];
    let more =
        ["--overlay", text(&tree), "--device-program", text(&device), "--qemu-arg=-device", "--qemu-arg=edu"];
    let ended = lab.run(&[&args[..], &more].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    let added = &result["environment"]["additions"];
    assert_eq!(added["append"], json!(["slab_nomerge"]), "{added}");
    assert_eq!(added["qemu_args"], json!(["-device", "edu"]), "{added}");
    assert_eq!(added["overlay"]["path"], text(&tree), "{added}");
    assert_eq!(added["overlay"]["hash"].as_str().map(str::len), Some(64), "{added}");
    assert_eq!(added["device_program"], text(&device), "{added}");
    assert_eq!(std::fs::read_to_string(lab.path("log")).expect("it ran"), "started\n");
    let repeat = std::fs::read_to_string(lab.out().join("repeat.sh")).expect("it was written");
    let words = format!(
        "--append slab_nomerge --qemu-arg -device --qemu-arg edu --overlay {} --device-program {}",
        tree.display(),
        device.display()
    );
    assert!(repeat.contains(&words), "{repeat}");
    lab.assert_tidy();
}

/// What passes with a device that gives pages back must not with one that only says so.
#[test]
fn a_device_that_keeps_pages_which_the_kernel_took_loses_as_a_pin_does() {
    let lab = Lab::new();
    let (device, daemon) = (lab.path("accel"), program("longpin-device"));
    script(&device, &format!("exec {} --fault kept-pages \"$@\"", text(&daemon)));
    let case = ["lost-update", "--fs", "ext4", "--pin", "notifier", "--release", "clean"];
    let ended = lab.run(&[&case[..], &["--device-program", text(&device)]].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!((&case["outcome"], &case["observations"]), (&json!("fail"), &json!(["lost"])), "{case}");
    lab.assert_tidy();
}

#[test]
fn a_daemon_that_dies_is_an_infrastructure_error_with_its_last_words() {
    let lab = Lab::new();
    let device = lab.path("accel");
    script(&device, "echo no such board >&2; exit 4");
    let args = ["lost-update", "--fs", "tmpfs", "--pin", "pin", "--device-program", text(&device)];
    let ended = lab.run(&args);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!(case["error"]["cause"], "infra", "{case}");
    let reason = case["reason"].as_str().expect("a sentence");
    assert!(reason.contains("accel exited with code 4: no such board"), "{reason}");
    lab.assert_tidy();
}

/// The two makes of docs/sample-driver, built as its page says: the one that dirties, the one that forgets.
fn sample_modules(lab: &Lab) -> [String; 2] {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample-driver");
    let copy = lab.path("sample-driver");
    std::fs::create_dir(&copy).expect("the place is new");
    for name in ["Kbuild", "sample_driver.h", "sample_wire.h", "sample_forgets.c", "sample_dirties.c"] {
        std::fs::copy(source.join(name), copy.join(name)).expect("the example is there");
    }
    let built = lab.start(&["image", "build-module", text(&copy)]).end();
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let mut modules: Vec<String> = built.stdout.lines().map(str::to_owned).collect();
    modules.sort_unstable();
    modules.try_into().unwrap_or_else(|modules| panic!("not two modules: {modules:?}"))
}

/// The worked example of docs/own-driver.md: one source, two makes.
#[test]
fn a_driver_that_forgets_to_dirty_is_told_from_one_that_does_not() {
    let lab = Lab::new();
    let [dirties, forgets] = sample_modules(&lab);
    for (module, code, observed, outcome) in [(forgets, 1, "lost", "fail"), (dirties, 0, "intact", "pass")] {
        let lab = Lab::new();
        let ended = lab.run(&["late-dirty", "--fs", "ext4", "--pin", "pin", "--driver", &module]);
        assert_eq!(ended.code, Some(code), "{module}: {}", ended.stderr);
        let result = lab.result();
        let case = only_case(&result);
        assert_eq!((&case["headline"], &case["outcome"]), (&json!(observed), &json!(outcome)), "{case}");
        let environment = &result["environment"];
        let added = &environment["additions"]["modules"][0];
        assert_eq!((&added["path"], &added["driver"]), (&json!(module), &json!(true)), "{added}");
        assert_eq!(added["hash"], environment["module"]["hash"], "{environment}");
        lab.assert_tidy();
    }
}

/// A vendor's module beside ours, with a parameter: it binds the device first, and ours finds none.
#[test]
fn a_module_beside_the_driver_is_loaded_before_it_with_its_parameters() {
    let lab = Lab::new();
    let [dirties, _] = sample_modules(&lab);
    let option = format!("{dirties},timeout_ms=4321");
    let look = "cat /sys/module/sample_dirties/parameters/timeout_ms; cut -d' ' -f1 /proc/modules; \
                ls /sys/bus/virtio/drivers/sample_dirties";
    let ended = lab.start(&["shell", "--module", &option, "--", "sh", "-c", look]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"4321"), "{lines:?}");
    assert!(lines.contains(&"longpin") && lines.contains(&"sample_dirties"), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("virtio")), "{lines:?}");
    lab.assert_tidy();
}

#[test]
fn a_module_that_does_not_fit_is_told_before_anything_boots() {
    let lab = Lab::new();
    let mut bytes = std::fs::read(longpin_module()).expect("the driver is built");
    let wrong = lab.path("wrong.ko");
    let at = bytes.windows(9).position(|window| window == b"vermagic=").expect("a module has a vermagic");
    let built = bytes.clone();
    bytes[at + 9] = b'9';
    std::fs::write(&wrong, bytes).expect("the place is writable");
    let wrong = text(&wrong).to_owned();
    // Of the same release, but built without CONFIG_PREEMPT_BUILD by its own account.
    let mut bytes = built;
    let preempt =
        at + bytes[at..].windows(8).position(|window| window == b" preempt").expect("the stock kernel's");
    bytes[preempt + 1..preempt + 8].copy_from_slice(b"_______");
    let other = lab.path("other.ko");
    std::fs::write(&other, bytes).expect("the place is writable");
    let good = longpin_module();
    let good = text(&good);
    let unknown = format!("{good},nonsense=1");
    for (option, value, expected) in [
        ("--driver", "/nonexistent/vendor.ko", "No such file"),
        ("--driver", wrong.as_str(), "is for kernel `9."),
        ("--module", wrong.as_str(), "build it again, or boot the kernel it was built for"),
        ("--module", text(&other), "SMP _______ mod_unload`, not for `7."),
        ("--module", "/bin/sh", "it has no vermagic"),
        ("--driver", &unknown, "has no parameter `nonsense`; it has: device_timeout_ms"),
        ("--module", good, "two modules are named `longpin`"),
        ("--module", "", "use FILE.ko[,PARAM=VALUE...]"),
    ] {
        let ended = lab.run(&["lost-update", "--fs", "tmpfs", option, value]);
        assert_eq!(ended.code, Some(3), "{option} {value}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{option} {value}: {}", ended.stderr);
        assert!(!lab.out().exists(), "{option}: a result directory for a run that never began");
    }
}

#[test]
fn what_cannot_be_added_is_told_before_anything_boots() {
    let lab = Lab::without_images();
    let file = lab.path("file");
    std::fs::write(&file, "x").expect("the place is writable");
    let tree = lab.path("tree");
    std::fs::create_dir(&tree).expect("the place is new");
    std::fs::write(tree.join("init"), "x").expect("the place is writable");
    let long = "x".repeat(2000);
    for (option, value, expected) in [
        ("--append", "console=ttyS1", "`console` is longpin's to set: longpin reads the console on ttyS0"),
        ("--append", &long, "the kernel reads 2047"),
        ("--qemu-arg", "-kernel", "name the kernel with --kernel"),
        ("--overlay", text(&lab.path("absent")), "there is no such directory; give the directory"),
        ("--overlay", text(&file), "it is no directory"),
        ("--overlay", text(&tree), "/init is longpin's own in the guest; leave it out"),
        ("--device-program", text(&lab.path("absent")), "is missing; name the accelerator's daemon"),
        ("--device-program", text(&file), "chmod +x it"),
    ] {
        let ended = lab.run(&["lost-update", "--fs", "tmpfs", option, value]);
        assert_eq!(ended.code, Some(3), "{option} {value}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{option} {value}: {}", ended.stderr);
        assert!(!lab.out().exists(), "{option}: a result directory for a run that never began");
    }
}
