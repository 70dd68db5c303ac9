// SPDX-License-Identifier: Apache-2.0 OR MIT
//! docs/reports: each program shows its fault, and shows none on a control; a fix that comes with one ends the fault.

use longpin_e2e::Lab;
use longpin_images::{Store, report};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The reports, by name.
fn reports() -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reports");
    let entries = std::fs::read_dir(dir).expect("the reports are there");
    let dirs = entries.map(|entry| entry.expect("it can be read").path()).filter(|path| path.is_dir());
    let mut reports: Vec<_> =
        dirs.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path)).collect();
    reports.sort();
    reports
}

/// The exit codes of each report's program on each file system: the fault shows (1), or it does not (0). A race has both.
const SHOWN: &[(&str, &[(&str, &str)])] = &[
    ("btrfs-fsync-fixup", &[("btrfs", "1"), ("ext4", "0"), ("xfs", "0"), ("f2fs", "0")]),
    ("btrfs-umount-drops", &[("btrfs", "01"), ("ext4", "0"), ("xfs", "0"), ("f2fs", "0")]),
    // Its fault needs memory that is a disk: a guest of its own, below.
    (DAX_REPORT, &[("ext4", "0"), ("xfs", "0"), ("tmpfs", "0")]),
    ("exfat-page-mkwrite-retry", &[("exfat", "1"), ("ext4", "0"), ("xfs", "0")]),
    ("ext4-punch-dirty-folio", &[("ext4", "1"), ("xfs", "0"), ("btrfs", "0"), ("f2fs", "0"), ("tmpfs", "0")]),
    ("punch-drops-neighbours", &[("ext4", "1"), ("xfs", "1"), ("btrfs", "1"), ("f2fs", "0"), ("tmpfs", "0")]),
    // On btrfs it is the end of the kernel: in a guest of its own, below.
    (SPLIT_REPORT, &[("ext4", "1"), ("xfs", "0"), ("f2fs", "0"), ("tmpfs", "0")]),
    ("xfs-clone-changes", &[("xfs", "1"), ("btrfs", "0")]),
];

const DAX_REPORT: &str = "cachestat-dax";
const SPLIT_REPORT: &str = "split-strips-pinned-folio";

/// Makes a file system, mounts it, runs a report's program there, says `NAME FS CODE`. One that hangs is ended: its code has
/// more digits.
const GUEST: &str = r#"
set -u
try() {
    case $2 in
    tmpfs) mount -t tmpfs tmpfs /mnt ;;
    exfat) mkfs.exfat /dev/vda ;;
    ext4) mkfs.ext4 -qF /dev/vda ;;
    *) mkfs.$2 -f /dev/vda ;;
    esac >/dev/null 2>&1
    [ "$2" = tmpfs ] || mount -t "$2" /dev/vda /mnt
    if [ "$1" = btrfs-umount-drops ]; then
        timeout 60 /opt/reports/$1 /dev/vda /mnt $2
        echo "$1 $2 $?"
    elif [ "$1" = btrfs-fsync-fixup ]; then
        echo 0 > /sys/devices/system/cpu/cpu1/online
        timeout 60 /opt/reports/$1 /mnt /dev/vda
        echo "$1 $2 $?"
        echo 1 > /sys/devices/system/cpu/cpu1/online
    else
        timeout 60 /opt/reports/$1 /mnt
        echo "$1 $2 $?"
    fi
    umount /mnt
}
"#;

/// Every report's program in a tree for the guest, built as its first lines say, and with `more` for the compiler.
fn programs(lab: &Lab, more: &[&str]) -> PathBuf {
    let tree = lab.path("tree");
    let to = tree.join("opt/reports");
    std::fs::create_dir_all(&to).expect("the place is new");
    for (name, dir) in reports() {
        let source = dir.join("repro.c");
        let lines = std::fs::read_to_string(&source).expect("each report has its program").lines().count();
        assert!(lines < 100, "{name}: {lines} lines");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
        let built = cc.arg(to.join(&name)).arg(&source).args(more).output().expect("a C compiler");
        assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    }
    tree
}

/// What came of tries in one guest, by programs that were built as `programs` does; returns what was said.
fn tried(lab: &Lab, tree: &Path, more: &[&str], tries: &[(&str, &str, &str)]) -> String {
    let calls: Vec<String> = tries.iter().map(|(name, fs, _)| format!("try {name} {fs}")).collect();
    let script = format!("{GUEST}\n{}", calls.join("\n"));
    let args = [&["shell", "--overlay", text(tree)], more, &["--", "sh", "-c", &script]].concat();
    let ended = lab.start(&args).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    for (name, fs, codes) in tries {
        let code = |line: &str| line.strip_prefix(&format!("{name} {fs} ")).map(str::to_owned);
        let code = ended.stdout.lines().find_map(code);
        let right = code.as_ref().is_some_and(|code| code.len() == 1 && codes.contains(code.as_str()));
        assert!(right, "{name} on {fs} gave {code:?}, not one of {codes}: {}", ended.stdout);
    }
    ended.stdout
}

#[test]
fn every_program_shows_its_fault_and_none_on_the_controls() {
    let lab = Lab::new();
    let names: Vec<String> = reports().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, SHOWN.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "a report is not tried");
    let tries: Vec<(&str, &str, &str)> =
        SHOWN.iter().flat_map(|(name, tries)| tries.iter().map(|(fs, code)| (*name, *fs, *code))).collect();
    tried(&lab, &programs(&lab, &[]), &[], &tries);
    lab.assert_tidy();
}

#[test]
fn cachestat_of_a_file_on_dax_ends_its_caller() {
    let lab = Lab::new();
    let tree = programs(&lab, &[]);
    // The scenario mounts; the program comes in the place of what the scenario does then.
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/dax-cachestat.toml");
    let lines = std::fs::read_to_string(&scenario).expect("the scenario is there");
    let create = lines.lines().position(|line| line.trim() == "\"create\",").expect("it makes a file") + 1;
    let program = format!("/opt/reports/{DAX_REPORT}");
    let create = create.to_string();
    let args =
        ["shell", "dax-cachestat", "--until", &create, "--overlay", text(&tree), "--", &program, "/mnt"];
    let ended = lab.start(&args).end();
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("was killed by the kernel, signal 9: OOPS"), "{}", ended.stdout);
}

#[test]
fn a_split_beside_a_pin_ends_who_pinned_on_btrfs() {
    let lab = Lab::new();
    let tree = programs(&lab, &[]);
    let script = format!(
        "mkfs.btrfs -f /dev/vda >/dev/null 2>&1 && mount -t btrfs /dev/vda /mnt && /opt/reports/{SPLIT_REPORT} /mnt"
    );
    let ended = lab.start(&["shell", "--overlay", text(&tree), "--", "sh", "-c", &script]).end();
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("its thread is dead: OOPS"), "{}", ended.stdout);
}

/// What the linker puts in the place of the call, as a kernel without CONFIG_CROSS_MEMORY_ATTACH answers it.
const NO_WRITEV: &str =
    "#include <errno.h>\nlong __wrap_process_vm_writev(void) { errno = ENOSYS; return -1; }\n";

#[test]
fn a_kernel_without_process_vm_writev_ends_every_program_that_calls_it() {
    let lab = Lab::new();
    let none = lab.path("none.c");
    std::fs::write(&none, NO_WRITEV).expect("the place is writable");
    let tree = programs(&lab, &[text(&none), "-Wl,--wrap=process_vm_writev"]);
    let calls_it = |dir: &Path| {
        let source = std::fs::read_to_string(dir.join("repro.c")).expect("each report has its program");
        source.contains("process_vm_writev(")
    };
    let names: Vec<String> = reports().into_iter().filter(|(_, dir)| calls_it(dir)).map(|(n, _)| n).collect();
    assert!(names.len() > 3, "{names:?}");
    let tries: Vec<_> = names.iter().map(|name| (name.as_str(), "ext4", "2")).collect();
    let said = tried(&lab, &tree, &[], &tries);
    assert_eq!(said.matches("process_vm_writev: Function not implemented").count(), names.len(), "{said}");
    lab.assert_tidy();
}

/// The commands of a report's last section.
fn commands(dir: &Path) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(dir.join("README.md")).expect("each report has its text");
    let (_, last) = page.split_once("\n## With longpin\n").expect("a section `With longpin`");
    let lines = last.lines().filter_map(|line| line.trim().strip_prefix("longpin run "));
    let words = |line: &str| {
        line.split(" #").next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    lines.map(words).collect()
}

#[test]
fn the_longpin_command_of_every_report_plans_cases() {
    for (name, dir) in reports() {
        let commands = commands(&dir);
        assert!(!commands.is_empty(), "{name} names no command");
        for words in commands {
            let mut args = vec!["run", "--dry-run"];
            args.extend(words.iter().map(String::as_str));
            let ended = Lab::without_images().start(&args).end();
            assert_eq!(ended.code, Some(0), "{name}: {words:?}: {}", ended.stderr);
        }
    }
}

/// The source of the stock kernel.
fn source() -> PathBuf {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let source = kernel.modules_dir().ancestors().map(|dir| dir.join("linux")).find(|dir| dir.is_dir());
    source.expect("the stock kernel comes with its source")
}

/// A module of the stock kernel's source with a report's fix.
fn fixed(lab: &Lab, report: &str, module: &str) -> String {
    let place = lab.path(module);
    let source = source().join("fs").join(module);
    let copied = Command::new("cp").arg("-r").arg(&source).arg(&place).status().expect("cp");
    assert!(copied.success(), "{}", source.display());
    let (_, dir) = reports().into_iter().find(|(name, _)| name == report).expect("the report is there");
    let patch = dir.join("fix.patch").canonicalize().expect("it comes with a fix");
    let applied =
        Command::new("git").arg("-C").arg(&place).args(["apply", "-p3"]).arg(&patch).output().expect("git");
    assert!(applied.status.success(), "{report}: {}", String::from_utf8_lossy(&applied.stderr));
    let built = lab.start(&["image", "build-module", text(&place)]).end();
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    built.stdout.trim().to_owned()
}

fn observed(result: &Value) -> Vec<(String, String)> {
    let cases = result["cases"].as_array().expect("a list");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    cases.iter().map(|case| (word(&case["id"]), word(&case["headline"]))).collect()
}

/// The fix in its module: the program shows nothing, and the scenario is intact.
fn turns_good(report: &str, module: &str, scenario: &str) {
    let lab = Lab::new();
    let fixed = fixed(&lab, report, module);
    tried(&lab, &programs(&lab, &[]), &["--module", &fixed], &[(report, module, "0")]);
    lab.run(&[scenario, "--fs", module, "--module", &fixed]);
    let seen = observed(&lab.result());
    assert!(!seen.is_empty() && seen.iter().all(|(_, word)| word == "intact"), "{report}: {seen:?}");
    lab.assert_tidy();
}

#[test]
fn the_fix_of_exfat_turns_the_verdict_good() {
    turns_good("exfat-page-mkwrite-retry", "exfat", "store-beside-write");
}

#[test]
#[ignore = "it builds the whole of xfs: minutes of both CPUs"]
fn the_fix_of_xfs_turns_the_verdict_good() {
    turns_good("xfs-clone-changes", "xfs", "copy-bleed");
}

#[test]
fn every_fix_applies_to_the_stock_source() {
    longpin_e2e::images();
    for (name, dir) in reports() {
        let Ok(patch) = dir.join("fix.patch").canonicalize() else { continue };
        let checked =
            Command::new("git").arg("-C").arg(source()).args(["apply", "--check"]).arg(&patch).output();
        let checked = checked.expect("git");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}
