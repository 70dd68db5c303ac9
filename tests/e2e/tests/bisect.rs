// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bisection of a driver's history: what `bisect-step` says of a commit.

use longpin_e2e::{Ended, Lab};
use std::path::{Path, PathBuf};

const SOURCES: [&str; 5] =
    ["Kbuild", "sample_driver.h", "sample_wire.h", "sample_forgets.c", "sample_dirties.c"];

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A copy of docs/sample-driver.
fn sample(lab: &Lab) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample-driver");
    let copy = lab.path("driver");
    std::fs::create_dir(&copy).expect("the place is new");
    for name in SOURCES {
        std::fs::copy(source.join(name), copy.join(name)).expect("the example is there");
    }
    copy
}

fn step(lab: &Lab, driver: &Path, more: &[&str]) -> Ended {
    let out = lab.path("steps");
    let args = ["bisect-step", "late-dirty", "--fs", "ext4", "--pin", "pin", "--module-dir", text(driver)];
    lab.start(&[&args[..], &["--bad-is", "lost", "--out", text(&out)], more].concat()).end()
}

#[test]
fn a_step_says_good_bad_or_neither_and_keeps_what_it_saw() {
    let lab = Lab::new();
    let driver = sample(&lab);
    // Five of five: two clean tries are enough, and they share a boot.
    let tries = ["--seen", "5/5", "--tries-per-boot", "2"];
    let step = |more: &[&str]| step(&lab, &driver, &[&tries[..], more].concat());
    let bad = step(&["--module-name", "sample_forgets"]);
    assert_eq!(bad.code, Some(1), "{}", bad.stderr);
    assert!(bad.stdout.contains(" bad: 2 of 2 tries show `lost`; "), "{}", bad.stdout);
    let good = step(&["--module-name", "sample_dirties,timeout_ms=9000"]);
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    let words = "2 tries, 0 with the fault, 2 clean; P(all clean | fault) 0.0357; in 002-";
    assert!(good.stdout.contains(" good: ") && good.stdout.contains(words), "{}", good.stdout);
    // A fix is looked for: the same commit, the other word.
    let unknown = step(&["--module-name", "sample_dirties,no_such=1", "--reverse"]);
    assert_eq!(unknown.code, Some(125), "{}", unknown.stderr);
    assert!(unknown.stdout.contains("has no parameter `no_such`"), "{}", unknown.stdout);
    std::fs::write(driver.join("sample_forgets.c"), "#include \"sample_driver.h\"\nbroken\n").expect("ours");
    let broken = step(&["--module-name", "sample_forgets"]);
    assert_eq!(broken.code, Some(125), "{}", broken.stderr);
    assert!(broken.stdout.contains(" skip: it does not build: "), "{}", broken.stdout);

    let log = std::fs::read_to_string(lab.path("steps/bisect.log")).expect("a line for each step");
    let verdicts: Vec<&str> = log.lines().filter_map(|line| line.split([' ', ':']).nth(4)).collect();
    assert_eq!(verdicts, ["bad", "good", "skip", "skip"], "{log}");
    let steps = lab.path("steps");
    for file in
        ["001-unknown/tries-1-2/result.json", "002-unknown/sample_dirties.ko", "004-unknown/build.log"]
    {
        assert!(steps.join(file).is_file(), "{file}");
    }
    lab.assert_tidy();
}

/// git takes every code from 1 to 127 but 125 for bad.
#[test]
fn a_wrong_command_line_is_never_a_verdict() {
    let lab = Lab::without_images();
    let driver = sample(&lab);
    for (more, expected) in [
        (&["--nonsense"][..], "unexpected argument"),
        (&["--fs", "ext4,xfs"], "2 cases are chosen"),
        (&["--bad-is", "intact"], "are the same; say both"),
        (&["--bad-is", "lsot"], "`lsot` is no observation; use intact, refused"),
        (&["--bad-is", "hang"], "by its title"),
        (&["--seen", "0/4"], "with at least one hit, as 8/10"),
        (&["--seen", "1/20"], "allow them (--max-tries 72)"),
        (&["--error", "1"], "between 0 and 1"),
        (&["--driver", "a.ko"], "leave it out"),
        (&["--scenario-dir", "/nonexistent"], "No such file"),
    ] {
        let out = lab.path("steps");
        let args = ["bisect-step", "late-dirty", "--pin", "pin", "--module-dir", text(&driver)];
        let usual = [("--fs", "ext4"), ("--bad-is", "lost"), ("--out", text(&out))];
        let usual = usual.iter().filter(|(name, _)| !more.contains(name));
        let usual: Vec<&str> = usual.flat_map(|(name, value)| [*name, *value]).collect();
        let ended = lab.start(&[&args[..], &usual, more].concat()).end();
        assert_eq!(ended.code, Some(129), "{more:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{more:?}: {}", ended.stderr);
        assert!(!out.exists(), "{more:?}: a directory for a step that never began");
    }
    let none = lab.start(&[
        "bisect-step",
        "late-dirty",
        "--fs",
        "ext4",
        "--pin",
        "pin",
        "--module-dir",
        text(&driver),
    ]);
    let none = none.end();
    assert_eq!(none.code, Some(129), "{}", none.stderr);
    assert!(none.stderr.contains("--bad-is: say what the case shows with the fault"), "{}", none.stderr);
}
