// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of pins that the kernel brings itself, tools/testing/selftests/mm, built from the source of the guest's kernel and
//! run in a guest on each file system.

use crate::Lab;
use longpin_images::{Bind, Store, report};
use std::collections::BTreeMap;
use std::path::Path;

/// What both programs share.
const SHARED: [&str; 2] = ["vm_util.c", "hugepage_settings.c"];
/// Lines by which the guest's script says where it is.
const MARK: &str = "== ";

/// One result of a test program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Pass,
    /// `not ok`.
    Fail,
    /// `ok # SKIP`.
    Skip,
}

/// Results by what they are of: file system, program, and the name of the test.
pub type Results = BTreeMap<(String, String, String), Outcome>;

/// Build `gup_longterm` and `cow`, and run them on these file systems in a guest with this kernel.
///
/// # Panics
///
/// If one cannot be built, or the guest does not run them to their end.
pub fn run(lab: &Lab, kernel: &str, file_systems: &[&str]) -> Results {
    let tree = lab.path("selftests");
    std::fs::create_dir_all(tree.join("usr/bin")).expect("the place is new");
    for program in ["gup_longterm", "cow"] {
        build(lab, program, &tree.join("usr/bin"));
    }
    let tree = tree.to_str().expect("temporary paths are UTF-8");
    let script = script(file_systems);
    let args =
        ["shell", "--kernel", kernel, "--overlay", tree, "--memory", "2048", "--", "sh", "-c", &script];
    let ended = lab.start(&args).end();
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stderr, ended.stdout);
    println!("{}", ended.stdout);
    parse(&ended.stdout)
}

/// Both as `mm/Makefile` builds them, without liburing, static: the guest has no place for libraries.
fn build(lab: &Lab, program: &str, to: &Path) {
    let store = Store::open_default().expect("the image store can be opened");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root was built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel was built");
    let source = kernel.build_dir().expect("the distribution's kernel comes with its source");
    let generated = lab.path("generated");
    std::fs::create_dir_all(&generated).expect("the place is writable");
    // What a probe for liburing would have written.
    std::fs::write(generated.join("local_config.h_gen"), "").expect("the place is writable");
    let binds = [
        Bind::read_only(source).at("/source"),
        Bind::read_only(&generated).at("/generated"),
        Bind::read_write(to).at("/out"),
    ];
    // The path of the source is the name of its temporary file: without a directory it lies in the current one.
    let compile = format!(
        "cd /source/tools/testing/selftests/mm && gcc -static -O2 -U_FORTIFY_SOURCE -I/generated -I/source \
         -I/source/tools/testing/selftests -I/source/tools/include/uapi -I/source/tools/include \
         -o /out/{program} {program}.c {} -lpthread -lrt -lm",
        SHARED.join(" ")
    );
    let output =
        root.command("sh", &binds).args(["-c", &compile]).output().expect("the tool root can be entered");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Temporary files of both kinds lie on the file system: in the current directory, and in /tmp.
fn script(file_systems: &[&str]) -> String {
    let mut lines = vec![
        "mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null".to_owned(),
        "echo 8 >/proc/sys/vm/nr_hugepages".to_owned(),
        "mkdir -p /tmp /selftest".to_owned(),
    ];
    for fs in file_systems {
        lines.push(match *fs {
            "tmpfs" => "mount -t tmpfs tmpfs /selftest || exit 1".to_owned(),
            "ext4" => "mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /selftest || exit 1".to_owned(),
            other => {
                format!(
                    "mkfs.{other} -f /dev/vda >/dev/null && mount -t {other} /dev/vda /selftest || exit 1"
                )
            }
        });
        lines.push("mount --bind /selftest /tmp || exit 1; cd /selftest".to_owned());
        for program in ["gup_longterm", "cow"] {
            // Its exit code says that a test failed or was skipped; the lines say which.
            lines.push(format!("echo '{MARK}{fs} {program}'; {program} 2>&1"));
        }
        lines.push("cd /; umount /tmp && umount /selftest || exit 1".to_owned());
    }
    lines.push(format!("echo '{MARK}end'"));
    lines.join("\n")
}

/// The programs' TAP behind the script's marks.
fn parse(text: &str) -> Results {
    let mut results = Results::new();
    let mut place: Option<(String, String)> = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(mark) = line.strip_prefix(MARK) {
            place = mark.split_once(' ').map(|(fs, program)| (fs.to_owned(), program.to_owned()));
            continue;
        }
        let Some((outcome, name)) = result_of(line) else { continue };
        let (fs, program) = place.clone().unwrap_or_else(|| panic!("a result outside of a program: {line}"));
        let key = (fs, program, name);
        assert!(results.insert(key.clone(), outcome).is_none(), "two results of {key:?}");
    }
    assert!(text.lines().any(|line| line.trim_end() == format!("{MARK}end")), "it ended early: {text}");
    results
}

/// From `not ok 3 NAME`, `ok 4 # SKIP NAME`, as `kselftest.h` has it.
fn result_of(line: &str) -> Option<(Outcome, String)> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, name) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let (name, skipped) = name.strip_prefix("# SKIP ").map_or((name, false), |name| (name, true));
    let outcome = match (ok, skipped) {
        (_, true) => Outcome::Skip,
        (true, false) => Outcome::Pass,
        (false, false) => Outcome::Fail,
    };
    Some((outcome, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_with_their_place() {
        let text = "== ext4 cow\nTAP version 13\n1..3\n# [RUN] x\nok 1 pin a ... with memfd\n\
                    not ok 2 pin b\nok 3 # SKIP pin c\n# Totals: pass:1\n== end\n";
        let key = |name: &str| ("ext4".to_owned(), "cow".to_owned(), name.to_owned());
        let expected = [
            (key("pin a ... with memfd"), Outcome::Pass),
            (key("pin b"), Outcome::Fail),
            (key("pin c"), Outcome::Skip),
        ];
        assert_eq!(parse(text), expected.into_iter().collect());
    }
}
