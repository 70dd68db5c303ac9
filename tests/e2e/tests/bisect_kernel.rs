// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bisection of a kernel's own history. The first kernel takes many minutes, each further one only what has changed:
//! `make test-long`.

use longpin_e2e::{Lab, read_json, wait_for};
use longpin_images::{Bind, Store, report};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A whole kernel, and one more for each step, on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(3 * 60 * 60);
/// Of [`COMMITS`], the one that lifts the refusal of long-term pins.
const PLANTED: usize = 6;
const COMMITS: usize = 8;
/// Where what is compiled lies that a small kernel for x86-64 has nothing of: most of the source, and of the time that a
/// worktree of it takes.
const NOT_BUILT: [&str; 9] = [
    "arch/arm",
    "arch/arm64",
    "drivers/gpu",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/staging",
    "sound",
];

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn git(repo: &Path, words: &[&str]) -> String {
    let who = [
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
        "-c",
        "gc.auto=0",
        "-c",
        "core.compression=0",
    ];
    done(Command::new("git").arg("-C").arg(repo).args(who).args(words))
}

/// The source of the guest's kernel in a repository, with small commits on mm/gup.c; their ids, the source's own at 0.
fn history(lab: &Lab) -> (PathBuf, Vec<String>) {
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let source = kernel.build_dir().expect("the stock kernel comes with its source");
    let repo = lab.path("linux");
    done(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(source).arg(&repo));
    let mut clean = root.command("make", &[Bind::read_write(&repo)]);
    done(clean.arg("-C").arg(&repo).arg("mrproper"));
    git(&repo, &["init", "--quiet"]);
    // By force: the distribution's source ignores all that lies at its top.
    let not_built = NOT_BUILT.iter().map(|place| format!(":(exclude,glob){place}/**/*.[chS]"));
    let words = ["add", "--force", "."].map(str::to_owned).into_iter().chain(not_built);
    git(&repo, &words.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
    git(&repo, &["commit", "--quiet", "-m", "source"]);
    let mut ids = vec![git(&repo, &["rev-parse", "HEAD"])];
    let patch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/recipes/lab-permissive.patch");
    let file = repo.join("mm/gup.c");
    for commit in 1..=COMMITS {
        if commit == PLANTED {
            git(&repo, &["apply", patch.to_str().expect("our path is text")]);
        }
        let text = std::fs::read_to_string(&file).expect("the source has it");
        std::fs::write(&file, format!("{text}/* revision {commit} */\n")).expect("the copy is ours");
        git(&repo, &["commit", "--quiet", "--all", "-m", &format!("gup: revision {commit}")]);
        ids.push(git(&repo, &["rev-parse", "HEAD"]));
    }
    (repo, ids)
}

#[test]
#[ignore = "builds a kernel: make test-long"]
fn the_commit_that_lifts_the_refusal_of_long_term_pins_is_found() {
    let lab = Lab::new();
    let (repo, ids) = history(&lab);
    let case = ["bisect", "longterm-refused", "--fs", "ext4", "--pin", "longterm", "--variant", "shared"];
    let place = ["--kernel", repo.to_str().expect("temporary paths are UTF-8"), "--out", "search"];
    let ends = ["--good", &*ids[0], "--bad", &*ids[COMMITS], "--tries-per-boot", "5"];
    let mut running = lab.start(&[&case[..], &place, &ends].concat());
    wait_for("the search to end", DEADLINE, || running.has_ended().then_some(()));
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let first = format!("first bad commit: {} gup: revision {PLANTED}\n", &ids[PLANTED][..12]);
    assert!(ended.stdout.starts_with(&first), "{}", ended.stdout);
    assert!(ended.stdout.contains("`intact` with the fault"), "{}", ended.stdout);
    assert!(ended.stdout.contains("`refused:EFAULT` without"), "{}", ended.stdout);
    assert!(ended.stderr.contains("configuration: as in the step before"), "{}", ended.stderr);
    let document = read_json(&lab.path("search/bisection.json"));
    for step in document["steps"].as_array().expect("steps is a list") {
        println!("step {}: {:.0} s", step["number"], step["seconds"].as_f64().expect("a number"));
    }
    assert_eq!(git(&repo, &["status", "--porcelain", "--untracked-files=no"]), "");
    lab.assert_tidy();
}
