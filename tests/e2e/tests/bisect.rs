// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bisection: what `bisect-step` says of a commit, of a driver or of a kernel, and which commit of a driver's history
//! `bisect` finds.

use longpin_e2e::{Ended, Lab, RUN_DEADLINE, processes, program, read_json, wait_for};
use longpin_images::{Bind, Store, report};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// A list for --ignore-log with one title.
fn ignore_list(lab: &Lab, title: &str, expires: &str) -> PathBuf {
    let path = lab.path("known.toml");
    let text = format!("[[ignore]]\ntitle = \"{title}\"\nreason = \"ours\"\nexpires = {expires}\n");
    std::fs::write(&path, text).expect("the place is ours");
    path
}

#[test]
fn a_report_of_the_kernel_is_known_by_its_title_and_does_not_count_where_it_is_ignored() {
    let lab = Lab::new();
    let driver = sample(&lab);
    let path = driver.join("sample_dirties.c");
    let source = std::fs::read_to_string(&path).expect("the example is there");
    let call = "\tunpin_user_pages_dirty_lock(";
    assert_eq!(source.matches(call).count(), 1, "the example gives pages back otherwise");
    // Not at the first, which is that of the boot's control.
    let warns = source
        .replace(call, &format!("\tstatic int given;\n\n\tWARN_ON(given++);\n{call}"))
        .replace("static void", "static noinline void");
    std::fs::write(&path, warns).expect("ours");
    let step = |more: &[&str]| {
        let tries = ["--seen", "5/5", "--tries-per-boot", "2", "--module-name", "sample_dirties"];
        step(&lab, &driver, &[&tries[..], more].concat())
    };
    let other = step(&[]);
    assert_eq!(other.code, Some(125), "{}", other.stderr);
    let shown = "a try shows `crash:WARNING in sample_unpin (";
    let (_, rest) = other.stdout.split_once(shown).unwrap_or_else(|| panic!("{}", other.stdout));
    let report = rest.split(')').next().unwrap_or_default();
    assert_eq!(report.len(), 12, "{}", other.stdout);

    let list = ignore_list(&lab, "WARNING in sample_unpin", "9999-12-31");
    let ignored = step(&["--ignore-log", text(&list)]);
    assert_eq!(ignored.code, Some(0), "{}", ignored.stderr);
    assert!(ignored.stdout.contains(" good: 2 of 2 tries show `intact`; "), "{}", ignored.stdout);

    // As the step before has it, and by its title.
    for (bad, code) in [
        (format!("crash:WARNING in sample_unpin ({report})"), 1),
        ("crash:WARNING in sample_unpin".to_owned(), 1),
        ("crash:WARNING in sample_unpin (000000000000)".to_owned(), 125),
    ] {
        let args =
            ["bisect-step", "late-dirty", "--fs", "ext4", "--pin", "pin", "--module-dir", text(&driver)];
        let more = ["--module-name", "sample_dirties", "--out", "steps", "--bad-is", &bad];
        let ended = lab.start(&[&args[..], &more].concat()).end();
        assert_eq!(ended.code, Some(code), "{bad}: {}{}", ended.stdout, ended.stderr);
    }
    lab.assert_tidy();
}

/// git takes every code from 1 to 127 but 125 for bad.
#[test]
fn a_wrong_command_line_is_never_a_verdict() {
    let lab = Lab::without_images();
    let driver = sample(&lab);
    let expired = ignore_list(&lab, "WARNING in f", "2020-01-01");
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
        (&["--ignore-log", text(&expired)], "known.toml:1: expired on 2020-01-01"),
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

/// git in a repository of the test.
fn git(dir: &Path, words: &[&str]) -> String {
    let who = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
    let output = Command::new("git").arg("-C").arg(dir).args(who).args(words).output().expect("git starts");
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Commits of [`history`], by their place in it. The first two lie where git looks first: halfway, and beside that.
const PANICS: usize = 8;
const NO_BUILD: usize = 9;
const FORGETS: usize = 12;
const FIX: usize = 19;
const LAST: usize = 23;

/// How pages are given back at a commit. From the one after [`FORGETS`] on, the fault shows in half of the releases.
fn release(commit: usize) -> &'static str {
    match commit {
        FORGETS => "unpin_user_pages(pages, nr);",
        NO_BUILD => "unpin_user_pages(pages nr);",
        13..FIX => "unpin_user_pages_dirty_lock(pages, nr, get_random_u32() & 1);",
        _ => "unpin_user_pages_dirty_lock(pages, nr, true);",
    }
}

/// The history of a driver in a repository of its own, and the ids of its commits, the first at 1.
fn history(lab: &Lab) -> (PathBuf, Vec<String>) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample-driver");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).expect("the example is there");
    let repo = lab.path("repo");
    let driver = repo.join("driver");
    std::fs::create_dir_all(&driver).expect("the place is new");
    let write = |name: &str, text: &str| std::fs::write(driver.join(name), text).expect("ours");
    git(&repo, &["init", "--quiet"]);
    write("Kbuild", "ccflags-y := -I$(LONGPIN_INCLUDE)\nobj-m := sample.o\n");
    write("sample_wire.h", &read("sample_wire.h"));
    let header = read("sample_driver.h");
    let probe = "\tvirtio_cread_bytes(vdev, 0, word, sizeof(word));\n";
    assert_eq!(header.matches(probe).count(), 1, "the example has another probe");
    let mut ids = vec![String::new()];
    for commit in 1..=LAST {
        let panics = header.replace(probe, &format!("\tpanic(\"no such board\");\n{probe}"));
        write("sample_driver.h", if commit == PANICS { &panics } else { &header });
        write(
            "sample.c",
            &format!(
                "// SPDX-License-Identifier: GPL-2.0\n/* revision {commit} */\n#include \"sample_driver.h\"\n#include <linux/random.h>\n\n\
                 static void sample_unpin(struct page **pages, unsigned long nr)\n{{\n\t{}\n}}\n\n\
                 static const u32 sample_release = LONGPIN_RELEASE_DIRTY;\n\n\
                 MODULE_DESCRIPTION(\"longpin sample driver with a history\");\n",
                release(commit)
            ),
        );
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "--quiet", "-m", &format!("sample: revision {commit}")]);
        ids.push(git(&repo, &["rev-parse", "HEAD"]));
    }
    // Work of the user's own, which nobody may touch.
    write("sample.c", "work in progress\n");
    (repo, ids)
}

/// What must be as it was in a repository when a search is over.
fn look(repo: &Path) -> [String; 4] {
    [
        git(repo, &["status", "--porcelain=v2", "--branch"]),
        git(repo, &["for-each-ref"]),
        git(repo, &["worktree", "list"]),
        std::fs::read_to_string(repo.join("driver/sample.c")).expect("it is there"),
    ]
}

fn search<'s>(repo: &'s str, bad: &'s str, good: &'s str, more: &[&'s str]) -> Vec<&'s str> {
    let case = ["bisect", "late-dirty", "--fs", "ext4", "--pin", "pin", "--module-only", repo];
    // What is random here is so at each release: tries may share a boot.
    let tries = ["--tries-per-boot", "8", "--end-tries", "16", "--out", "search"];
    [&case[..], &["--bad", bad, "--good", good], &tries, more].concat()
}

fn verdicts(document: &Value) -> BTreeMap<String, String> {
    let steps = document["steps"].as_array().expect("steps is a list");
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    steps.iter().map(|step| (word(&step["commit"]), word(&step["ruling"]["verdict"]))).collect()
}

#[test]
fn a_commit_is_found_among_broken_and_flaky_ones_even_after_a_kill() {
    let lab = Lab::new();
    let (repo, ids) = history(&lab);
    let before = look(&repo);
    let driver = repo.join("driver");
    let args = search(text(&driver), &ids[16], &ids[1], &[]);
    let document = lab.path("search/bisection.json");
    let known = || std::fs::read_to_string(&document).unwrap_or_default().matches("\"number\"").count();
    let mut running = lab.start(&args);
    // Both ends are measured, and a commit between them is under way or judged.
    wait_for("a commit to be tried", RUN_DEADLINE, || {
        assert!(!running.has_ended(), "it ended before: {}", running.said());
        (known() > 2).then_some(())
    });
    processes::signal(running.id(), Signal::KILL);
    running.end();
    wait_for("what the killed one started to be gone", RUN_DEADLINE, || {
        processes::mentioning(&lab.tmp()).is_empty().then_some(())
    });

    let ended = lab.start(&args).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("going on: "), "{}", ended.stderr);
    let first = format!("first bad commit: {} sample: revision {FORGETS}\n", &ids[FORGETS][..12]);
    assert!(ended.stdout.starts_with(&first), "{}", ended.stdout);
    for part in ["`lost` with the fault (", "bad end ", "good end ", "found "] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let document = read_json(&document);
    let verdicts = verdicts(&document);
    for (commit, verdict) in
        [(1, "good"), (PANICS, "skip"), (FORGETS, "bad"), (NO_BUILD, "skip"), (16, "bad")]
    {
        assert_eq!(verdicts.get(&ids[commit]).map(String::as_str), Some(verdict), "{commit}: {verdicts:?}");
    }
    let error = document["error"].as_f64().expect("a number");
    assert!(error > 0.0 && error < 0.05, "each step may err less than all of them: {error}");
    for step in document["steps"].as_array().expect("a list") {
        let wrong = step["ruling"]["wrong_good"].as_f64().expect("a number");
        assert!(step["ruling"]["verdict"] != "good" || wrong <= error, "{step}");
    }
    let log = std::fs::read_to_string(lab.path("search/bisect.log")).expect("a line for each step");
    assert_eq!(log.lines().count(), verdicts.len(), "{log}");
    assert!(log.contains(" skip: it does not build: ") && log.contains("no such board"), "{log}");
    let git_log = std::fs::read_to_string(lab.path("search/git-bisect.log")).expect("git's own");
    assert!(git_log.contains(&format!("git bisect bad {}", ids[FORGETS])), "{git_log}");
    let page = std::fs::read_to_string(lab.path("search/report.html")).expect("a page");
    assert!(page.contains(first.trim()), "{page}");
    assert_eq!(look(&repo), before, "the user's repository");

    // It is over: said again at once, and another question is not mixed with it.
    let again = lab.start(&args).end();
    assert_eq!((again.code, again.stdout), (Some(0), ended.stdout));
    let other = lab.start(&search(text(&driver), &ids[15], &ids[1], &[])).end();
    assert_eq!(other.code, Some(3), "{}", other.stderr);
    assert!(other.stderr.contains("it holds another search"), "{}", other.stderr);
}

/// A daemon's history: from this commit on its disks look at nothing.
const QUIET: usize = 6;
/// It ends at once.
const DIES: usize = 3;
/// Its Makefile is wrong.
const NO_MAKE: usize = 4;

/// The daemon that longpin has, in scripts of eight commits, and their ids, the first at 1.
fn device_history(lab: &Lab) -> (PathBuf, Vec<String>) {
    let daemon = program("longpin-device");
    let repo = lab.path("repo");
    std::fs::create_dir(&repo).expect("the place is new");
    git(&repo, &["init", "--quiet"]);
    let mut ids = vec![String::new()];
    for commit in 1..=8 {
        let audit = "for arg do shift; case $arg in socket=*) arg=$arg,audit=off;; esac; set -- \"$@\" \"$arg\"; done";
        let body = match commit {
            DIES => "echo no such board >&2; exit 4",
            QUIET.. => audit,
            _ => ":",
        };
        let script = format!("#!/bin/sh\n# revision {commit}\n{body}\nexec {} \"$@\"\n", text(&daemon));
        let recipe = if commit == NO_MAKE { "false" } else { "install -D -m 755 daemon.sh out/daemon" };
        std::fs::write(repo.join("daemon.sh"), script).expect("ours");
        std::fs::write(repo.join("Makefile"), format!("all:\n\t{recipe}\n")).expect("ours");
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "--quiet", "-m", &format!("daemon: revision {commit}")]);
        ids.push(git(&repo, &["rev-parse", "HEAD"]));
    }
    (repo, ids)
}

#[test]
fn a_commit_of_a_device_is_found_among_ones_that_die_or_are_not_made() {
    let lab = Lab::new();
    let (repo, ids) = device_history(&lab);
    let case = ["bisect", "inflight-change", "--fs", "ext4", "--pin", "pin", "--release", "dirty"];
    let search = ["--device-only", text(&repo), "--device-made", "out/daemon", "--out", "search"];
    let ends = ["--bad", &ids[8], "--good", &ids[1], "--tries-per-boot", "8"];
    // Where no disk looks, nothing is seen.
    let fault = ["--bad-is", "intact", "--good-is", "unstable"];
    let ended = lab.start(&[&case[..], &search, &ends, &fault].concat()).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let first = format!("first bad commit: {} daemon: revision {QUIET}\n", &ids[QUIET][..12]);
    assert!(ended.stdout.starts_with(&first), "{}", ended.stdout);
    let document = read_json(&lab.path("search/bisection.json"));
    let verdicts = verdicts(&document);
    for (commit, verdict) in [(1, "good"), (NO_MAKE, "skip"), (QUIET, "bad"), (8, "bad")] {
        assert_eq!(verdicts.get(&ids[commit]).map(String::as_str), Some(verdict), "{commit}: {verdicts:?}");
    }
    assert_eq!(git(&repo, &["status", "--porcelain"]), "", "the user's repository");

    // One by one, in place.
    let step = |commit: usize, more: &[&str]| {
        git(&repo, &["checkout", "--quiet", &ids[commit]]);
        let args = ["bisect-step", "inflight-change", "--fs", "ext4", "--pin", "pin", "--release", "dirty"];
        let device = ["--device-dir", text(&repo), "--device-made", "out/daemon", "--out", "steps"];
        lab.start(&[&args[..], &device, &["--bad-is", "intact"], more].concat()).end()
    };
    let dies = step(DIES, &[]);
    assert_eq!(dies.code, Some(125), "{}{}", dies.stdout, dies.stderr);
    assert!(dies.stdout.contains("no such board"), "{}", dies.stdout);
    let unmade = step(1, &["--device-build", "true"]);
    assert_eq!(unmade.code, Some(125), "{}{}", unmade.stdout, unmade.stderr);
    assert!(unmade.stdout.contains("it does not build: `true` makes no "), "{}", unmade.stdout);
    lab.assert_tidy();
}

#[test]
fn a_fix_is_found_by_looking_the_other_way_round() {
    let lab = Lab::new();
    let (repo, ids) = history(&lab);
    let before = look(&repo);
    let list = ignore_list(&lab, "WARNING in f", "9999-12-31");
    let more = ["--reverse", "--ignore-log", text(&list)];
    let ended = lab.start(&search(text(&repo.join("driver")), &ids[16], &ids[LAST], &more)).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let first = format!("first fixed commit: {} sample: revision {FIX}\n", &ids[FIX][..12]);
    assert!(ended.stdout.starts_with(&first), "{}", ended.stdout);
    assert_eq!(look(&repo), before, "the user's repository");
    // Every run had the list, as it was at the first.
    let list = std::fs::read_to_string(list).expect("the test wrote it");
    let steps = read_json(&lab.path("search/bisection.json"));
    for step in steps["steps"].as_array().expect("steps is a list") {
        let dir = lab.path("search").join(step["dir"].as_str().expect("a name"));
        for run in std::fs::read_dir(&dir).expect("a directory for each step") {
            let run = run.expect("an entry").path();
            if run.join("result.json").is_file() {
                let kept = std::fs::read_to_string(run.join("ignore-log.toml"));
                assert_eq!(kept.expect("it is kept"), list, "{}", run.display());
            }
        }
    }
    let kept = std::fs::read_to_string(lab.path("search/ignore-log.toml"));
    assert_eq!(kept.expect("a search that goes on has it"), list);
    lab.assert_tidy();
}

#[test]
fn ends_that_cannot_be_are_refused_before_anything_boots() {
    let lab = Lab::without_images();
    let (repo, ids) = history(&lab);
    let driver = repo.join("driver");
    let (driver, top) = (text(&driver), text(&repo));
    let expired = ignore_list(&lab, "WARNING in f", "2020-01-01");
    for (place, bad, good, more, expected) in [
        (driver, &*ids[16], "v1", &[][..], "--good v1: "),
        (driver, &ids[1], &ids[16], &[], "the bad one is older; change them, or add --reverse"),
        (
            driver,
            &ids[16],
            &ids[1],
            &["--reverse"],
            "the good one is older; change them, or leave --reverse out",
        ),
        (driver, &ids[16], &ids[16], &[], "are the same commit"),
        ("/", &ids[16], &ids[1], &[], "not a git repository"),
        ("/nonexistent", &ids[16], &ids[1], &[], "no such directory"),
        (top, &ids[16], &ids[1], &["--driver", "a.ko"], "leave it out"),
        (driver, &ids[16], &ids[1], &["--check-ends", "false"], "--bad-is: say what"),
        (driver, &ids[16], &ids[1], &["--ignore-log", text(&expired)], "known.toml:1: expired on 2020-01-01"),
    ] {
        let ended = lab.start(&search(place, bad, good, more)).end();
        assert_eq!(ended.code, Some(3), "{expected}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{expected}: {}", ended.stderr);
    }
}

/// Modules without which no guest with an ext4 comes up.
const NEEDED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

/// A tree whose Makefile makes a kernel as a kernel's source does, in no time: what comes out is the stock one.
fn kernel_tree(lab: &Lab) -> PathBuf {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let tree = lab.path("linux");
    let made = tree.join("made");
    std::fs::create_dir_all(&made).expect("the place is new");
    let copy = |from: PathBuf, to: &str| {
        std::fs::copy(&from, made.join(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    let modules = kernel.modules_dir();
    copy(kernel.vmlinuz().to_owned(), "bzImage");
    copy(kernel.build_dir().expect("it came with its source").join(".config"), "config");
    copy(modules.join("modules.builtin"), "modules.builtin");
    let text = std::fs::read_to_string(modules.join("modules.dep")).expect("depmod made it");
    let dep: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let name = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split('.').next().unwrap_or_default().replace('-', "_")
    };
    let mut wanted: Vec<&str> = dep.keys().copied().filter(|path| NEEDED.contains(&&*name(path))).collect();
    let mut order = BTreeSet::new();
    while let Some(path) = wanted.pop() {
        if order.insert(path) {
            wanted.extend(dep[path].split_whitespace());
        }
    }
    let mut lines = String::new();
    for path in order {
        let below = path.trim_start_matches("kernel/");
        let plain = below.trim_end_matches(".xz");
        let to = made.join("modules").join(plain);
        std::fs::create_dir_all(to.parent().expect("it has one")).expect("ours");
        let from = modules.join(path);
        match plain == below {
            true => drop(std::fs::copy(&from, &to).expect("the module is there")),
            false => {
                let mut xz = root.command("xz", &[Bind::read_only(&from)]);
                let output = xz.arg("-dc").arg(&from).output().expect("xz starts");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                std::fs::write(&to, output.stdout).expect("ours");
            }
        }
        lines.push_str(&plain.replace(".ko", ".o\n"));
    }
    std::fs::write(made.join("modules.order"), lines).expect("ours");
    tree
}

/// `configure` and `compile` are lines of its rules.
fn makefile(tree: &Path, configure: &str, compile: &str) {
    let text = format!(
        "tinyconfig:\n\tcp made/config .config\nolddefconfig:\n\t{configure}\nbzImage:\n\t{compile}\n\
         \tmkdir -p arch/x86/boot && cp made/bzImage arch/x86/boot/ && cp made/modules.builtin .\n\
         modules:\n\tcp -r made/modules/. . && cp made/modules.order . && touch Module.symvers\n"
    );
    std::fs::write(tree.join("Makefile"), text).expect("ours");
}

#[test]
fn a_kernel_is_configured_built_and_tried_and_what_it_cannot_do_is_no_verdict() {
    let lab = Lab::new();
    let tree = kernel_tree(&lab);
    let step = |pin: &str, configure: &str, compile: &str| {
        makefile(&tree, configure, compile);
        let case = ["bisect-step", "late-dirty", "--fs", "ext4", "--pin", pin, "--kernel", text(&tree)];
        let tries = ["--bad-is", "lost", "--seen", "5/5", "--tries-per-boot", "2", "--out", "steps"];
        lab.start(&[&case[..], &tries].concat()).end()
    };
    let good = step("dio", "true", "true");
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    assert!(good.stdout.contains(" good: 2 of 2 tries show `intact`; "), "{}", good.stdout);
    let config = lab.path("steps/001-unknown/config");
    let config = std::fs::read_to_string(config).expect("it is kept");
    assert!(config.ends_with("# CONFIG_LOCALVERSION_AUTO is not set\n"), "{config}");

    // No other pin mode is taken for the one that was asked for.
    let no_driver = step("pin", "echo CONFIG_DRIFT=y >> .config", "true");
    assert_eq!(no_driver.code, Some(125), "{}", no_driver.stderr);
    assert!(no_driver.stdout.contains("every chosen case needs the driver"), "{}", no_driver.stdout);
    let drift = "configuration, against the step before:\n  +CONFIG_DRIFT=y\n";
    assert!(no_driver.stderr.contains(drift), "{}", no_driver.stderr);

    let broken = step("dio", "true", "@echo 'mm/gup.c:1:1: error: no' >&2; exit 1");
    assert_eq!(broken.code, Some(125), "{}", broken.stderr);
    assert!(broken.stdout.contains(" it does not build: mm/gup.c:1:1: error: no; "), "{}", broken.stdout);
    let stock =
        lab.start(&["bisect-step", "late-dirty", "--fs", "ext4", "--pin", "dio", "--bad-is", "lost"]).end();
    assert_eq!(stock.code, Some(129), "{}", stock.stderr);
    assert!(stock.stderr.contains("name the directory of a driver (--module-dir DIR)"), "{}", stock.stderr);
    lab.assert_tidy();
}
