// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that a user brings, here the stock one as image and modules: a kernel that longpin knows nothing of.

use longpin_e2e::Lab;
use longpin_images::{Bind, Kernel, Module, Store, report};
use serde_json::{Value, json};
use std::path::Path;

/// Kernel and driver of the store.
fn stock() -> (Kernel, Module) {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let module = store.module(&root, &kernel, None, &*reporter).expect("the driver is built");
    (kernel, module)
}

fn named(kernel: &Kernel, module: Option<&Path>) -> String {
    let (image, modules) = (kernel.vmlinuz().display(), kernel.modules_dir());
    let module = module.map(|path| format!(",module={}", path.display())).unwrap_or_default();
    format!("{image},modules={}{module}", modules.display())
}

fn case<'r>(result: &'r Value, id: &str) -> &'r Value {
    let cases = result["cases"].as_array().expect("cases is a list");
    cases.iter().find(|case| case["id"] == id).unwrap_or_else(|| panic!("{id} did not report"))
}

#[test]
fn a_kernel_without_driver_gives_the_verdicts_that_need_none_and_skips_the_rest() {
    let lab = Lab::new();
    let (kernel, _) = stock();
    let kernel = named(&kernel, None);
    let args = ["dio-buffer", "lost-update", "--fs", "ext4", "--pin", "dio,pin", "--kernel", &kernel];
    let ended = lab.run(&args);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("was measured on the stock kernel"), "{}", ended.stderr);
    let result = lab.result();
    let dio = case(&result, "dio-buffer/ext4/dio/dirty");
    assert_eq!((&dio["headline"], &dio["outcome"]), (&json!("intact"), &json!("pass")), "{dio}");
    let pin = case(&result, "lost-update/ext4/pin/clean");
    assert_eq!((&pin["headline"], &pin["outcome"]), (&json!(null), &json!("skip")), "{pin}");
    let reason = pin["reason"].as_str().expect("a sentence");
    assert!(reason.contains("needs the driver; there is none for kernel 7."), "{reason}");
    assert!(reason.contains("without a build directory") && reason.contains("module=FILE"), "{reason}");
    let environment = &result["environment"];
    assert_eq!(environment["kernel"]["stock"], false, "{environment}");
    assert_eq!(environment["kernel"]["page_state"], "cachestat", "{environment}");
    assert_eq!(environment["kernel"]["key"].as_str().map(str::len), Some(20), "{environment}");
    assert!(environment["module"]["missing"].is_string(), "{environment}");
    let controls = result["controls"].as_array().expect("controls is a list");
    let ids: Vec<&Value> = controls.iter().map(|control| &control["id"]).collect();
    assert_eq!(ids, ["control-intact/ext4/none/none", "control-corrupt/ext4/none/none"]);
    let script = std::fs::read_to_string(lab.out().join("repeat.sh")).expect("it was written");
    assert!(script.contains(&format!("--kernel {kernel}")), "{script}");
    lab.assert_tidy();
}

#[test]
fn a_driver_that_was_built_for_it_is_taken() {
    let lab = Lab::new();
    let (kernel, module) = stock();
    let kernel = named(&kernel, Some(module.path()));
    let ended = lab.run(&["lost-update", "--fs", "tmpfs", "--pin", "pin", "--kernel", &kernel]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(result["summary"]["pass"], 1, "{}", result["cases"]);
    assert_eq!(result["environment"]["module"]["name"], "longpin.ko");
    lab.assert_tidy();
}

/// Bookworm's: no Rust, no cachestat(2), crc32c by soft dependency, virtio drivers as modules.
#[test]
fn an_older_kernel_of_the_archive_gives_verdicts_and_says_how_it_looked() {
    let lab = Lab::new();
    let args = ["dio-buffer", "--fs", "ext4,btrfs,tmpfs", "--kernel", "debian:6.1"];
    let ended = lab.run(&args);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = lab.result();
    assert_eq!(result["summary"]["pass"], 3, "{}", result["cases"]);
    let kernel = &result["environment"]["kernel"];
    assert!(kernel["release"].as_str().is_some_and(|release| release.starts_with("6.1.")), "{kernel}");
    let source = kernel["source"].as_str().expect("a sentence");
    assert!(source.starts_with("Debian package 6.1.") && source.ends_with("(bookworm)"), "{kernel}");
    assert_eq!(kernel["page_state"], "kpageflags", "{kernel}");
    let missing = result["environment"]["module"]["missing"].as_str().expect("a sentence");
    assert!(missing.contains("has no CONFIG_RUST=y"), "{missing}");
    assert!(result["command"].as_str().is_some_and(|line| line.contains("--kernel debian:6.1")), "{result}");
    lab.assert_tidy();
}

#[test]
fn the_stock_kernel_lacks_nothing_that_kconfig_asks_for() {
    let lab = Lab::new();
    let (kernel, _) = stock();
    let config = kernel.modules_dir().join("config");
    let ended = lab.start(&["kconfig", "--check", config.to_str().expect("UTF-8")]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "nothing is missing\n"), "{}", ended.stderr);
}

/// With the tool root's programs, and on the source as it is now: half an hour before a build would find out.
#[test]
fn the_patch_of_the_permissive_kernel_applies_to_the_stock_source() {
    let lab = Lab::new();
    let (kernel, _) = stock();
    let store = Store::open_default().expect("the store was opened by the program too");
    let root = store.tool_root(&*report::for_stderr()).expect("the tool root is built");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/recipes");
    let script = std::fs::read_to_string(recipes.join("lab-patch.sh")).expect("the recipe is there");
    let source = kernel.build_dir().expect("it came with its source").join("mm/gup.c");
    let before = std::fs::read_to_string(source).expect("the source is whole");
    let tree = lab.path("linux");
    let file = tree.join("mm/gup.c");
    std::fs::create_dir_all(tree.join("mm")).expect("the place is new");
    std::fs::write(&file, &before).expect("ours");
    let binds = [
        Bind::read_write(&tree).at("/tree"),
        Bind::read_only(recipes.join("lab-permissive.patch")).at("/patch"),
    ];
    let mut bash = root.command("bash", &binds);
    let output = bash.args(["-euo", "pipefail", "-c", &script, "bash", "/tree", "/patch"]).output();
    let output = output.expect("bash starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = std::fs::read_to_string(&file).expect("ours");
    let refusals = |text: &str| {
        text.matches("return !vma_needs_dirty_tracking(vma);").count()
            + text.matches("reject_file_backed = true;").count()
    };
    assert_eq!((refusals(&before), refusals(&after)), (2, 0), "the slow path and the fast one");
}

#[test]
fn what_cannot_be_used_is_told_before_anything_boots() {
    let lab = Lab::new();
    let (kernel, module) = stock();
    let empty = lab.path("empty");
    std::fs::create_dir(&empty).expect("the place is new");
    // The same module, for another release.
    let bytes = std::fs::read(module.path()).expect("the driver is built");
    let at =
        find(&bytes, format!("vermagic={}", kernel.release()).as_bytes()).expect("a module has a vermagic");
    let mut other = bytes.clone();
    other[at + b"vermagic=".len()] = b'9';
    let wrong = lab.path("longpin.ko");
    std::fs::write(&wrong, other).expect("the place is writable");
    let (image, modules) = (kernel.vmlinuz().display(), kernel.modules_dir());
    let modules = modules.display();
    let (short, garbage) = (lab.path("short"), lab.path("garbage"));
    let bytes = std::fs::read(kernel.vmlinuz()).expect("the kernel is there");
    std::fs::write(&short, &bytes[..1 << 20]).expect("the place is writable");
    std::fs::write(&garbage, bytes.iter().map(|byte| !byte).collect::<Vec<u8>>()).expect("the same");
    let cases = [
        (
            empty.display().to_string(),
            "arch/x86/boot/bzImage is missing; build it there: make bzImage modules",
        ),
        (lab.path("absent").display().to_string(), "absent: No such file or directory"),
        (format!("{image},modules={}", empty.display()), "is release 7."),
        (format!("/bin/sh,modules={}", empty.display()), "it is not a bzImage; give arch/x86/boot/bzImage"),
        (format!("{},modules={modules}", short.display()), "it is cut short: 1048576 of "),
        (
            format!("{},modules={modules}", garbage.display()),
            "it is not a bzImage; give arch/x86/boot/bzImage",
        ),
        (named(&kernel, Some(&wrong)), "is for kernel `9."),
        (named(&kernel, Some(Path::new("/bin/sh"))), "it has no vermagic"),
        (named(&kernel, None), "every chosen case needs the driver, and there is none for kernel 7."),
        (format!("{image},module="), "use stock, debian:"),
    ];
    for (kernel, expected) in cases {
        let ended = lab.run(&["lost-update", "--fs", "ext4", "--pin", "pin", "--kernel", &kernel]);
        assert_eq!(ended.code, Some(3), "{kernel}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{kernel}: {}", ended.stderr);
        assert!(!lab.out().exists(), "{kernel}: a result directory for a run that never began");
    }
}

/// With too little memory it panics before it has a console, and before it knows that a panic is to end it.
#[test]
fn a_kernel_that_does_not_boot_is_told_with_its_last_words_and_the_fix() {
    let lab = Lab::new();
    let ended = lab.run(&["lost-update", "--fs", "ext4", "--pin", "pin", "--append", "mem=12M"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    for part in [
        "guest does not boot: guest kernel panicked: ",
        "Cannot find place for new RAMDISK",
        "give the guest more (--memory), or leave out what takes it away (--append mem=)",
        "boot-1/console.log",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let result = lab.result();
    let case = case(&result, "lost-update/ext4/pin/clean");
    assert_eq!((&case["outcome"], &case["error"]["cause"]), (&json!("error"), &json!("infra")), "{case}");
    lab.assert_tidy();
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
