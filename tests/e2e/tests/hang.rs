// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that hangs says where, whether it takes interrupts or not: a module of the test stops all of its CPUs.

use longpin_e2e::{Lab, only_case, scenario, wait_for};
use longpin_images::{Bind, Store, report};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A module of one file.
const BUILD_DEADLINE: Duration = Duration::from_secs(600);

/// `hang.ko` of tests/hang for the stock kernel, in a tree for the guest's root.
fn overlay(lab: &Lab) -> PathBuf {
    let (work, tree) = (lab.path("build"), lab.path("tree"));
    for dir in [&work, &tree.join("root"), &tree.join("usr/bin")] {
        std::fs::create_dir_all(dir).expect("the test's directory is writable");
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hang");
    for name in ["hang.c", "Kbuild"] {
        std::fs::copy(sources.join(name), work.join(name)).expect("the source is there");
    }
    let store = Store::open_default().expect("the image store can be opened");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root was built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel was built");
    let (mut binds, inside) = kernel.build_binds().expect("the stock kernel has its build tree");
    binds.push(Bind::read_write(&work).at("/module"));
    let mut make = root.command("make", &binds);
    make.arg("-C").arg(inside).arg("M=/module");
    if let Some(localversion) = kernel.manifest().facts.get("localversion") {
        make.arg(format!("LOCALVERSION={localversion}"));
    }
    let mut child = make.arg("modules").spawn().expect("make starts");
    let status = wait_for("the module", BUILD_DEADLINE, || child.try_wait().expect("our own child"));
    assert!(status.success(), "tests/hang does not compile: {status}");
    std::fs::copy(work.join("hang.ko"), tree.join("root/hang.ko")).expect("make wrote it");
    // Busybox has more applets than the guest has names for.
    std::os::unix::fs::symlink("busybox", tree.join("usr/bin/insmod")).expect("the tree is new");
    tree
}

/// Hang in a case: its reason, and what was written.
fn hang(lab: &Lab, interrupts: &str, options: &[&str]) -> (String, String) {
    let tree = overlay(lab);
    let step = format!("{{ do = \"exec\", argv = [\"insmod\", \"/root/hang.ko\", \"irqs={interrupts}\"] }}");
    let file = scenario::write(&lab.path(""), "hanging", &[&step], "hang");
    let tree = tree.to_str().expect("temporary paths are UTF-8");
    let ended = lab.run(&[&[&file, "--overlay", tree], options].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    let case = only_case(&result);
    assert_eq!((&case["outcome"], &case["observations"]), (&json!("xfail"), &json!(["hang"])), "{case}");
    let reason = case["reason"].as_str().expect("a sentence").to_owned();
    assert!(reason.contains("see boot-1/hang.txt"), "{reason}");
    lab.assert_tidy();
    (reason, std::fs::read_to_string(lab.out().join("boot-1/hang.txt")).expect("the file is kept"))
}

#[test]
fn a_guest_with_interrupts_off_is_asked_by_an_nmi_and_its_memory_is_kept() {
    let lab = Lab::new();
    let (reason, text) = hang(&lab, "0", &["--memory", "512", "--dump"]);
    assert!(
        reason.contains("it takes no interrupts; CPUs 0, 1 are in hang_with_interrupts_off [hang]; its memory is in boot-1/memory.kdump"),
        "{reason}"
    );
    for part in ["irqs=0", "NMI received for unknown reason", "CPU#1", "RIP=", "taints kernel"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let dump = std::fs::read(lab.out().join("boot-1/memory.kdump")).expect("the dump is kept");
    assert!(dump.starts_with(b"makedumpfile"), "{:?}", &dump[..16]);
    assert!(dump.len() < 512 << 20, "{} bytes", dump.len());
}

#[test]
fn a_guest_with_interrupts_on_says_what_all_of_its_tasks_do() {
    let lab = Lab::new();
    let (reason, text) = hang(&lab, "1", &[]);
    assert!(reason.contains("CPUs 0, 1 are in hang_with_interrupts_on [hang]"), "{reason}");
    for part in ["sysrq: Show backtrace of all active CPUs", "sysrq: Show Blocked State", "task:agent"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
