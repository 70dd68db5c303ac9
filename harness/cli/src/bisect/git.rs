// SPDX-License-Identifier: Apache-2.0 OR MIT
//! git: the user's repository, which is only read, and a worktree of ours, in which `git bisect` chooses and commits are
//! checked out.

use crate::error::{Error, Result};
use anyhow::{Context as _, bail};
use longpin_core::bisect::{Found, Question, Verdict};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Whoever calls us from a hook has these set, and they lead elsewhere.
const OF_CALLERS: [&str; 6] =
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"];

fn git<S: AsRef<OsStr>>(dir: &Path, words: impl IntoIterator<Item = S>) -> anyhow::Result<Output> {
    let mut command = Command::new("git");
    for name in OF_CALLERS {
        command.env_remove(name);
    }
    // Hooks of the user's are for the user's own work.
    command.arg("-C").arg(dir).args(["-c", "core.hooksPath=/dev/null"]).args(words);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command.output().context("git cannot be started; install it: apt-get install --yes git")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match text(&output.stderr) {
        words if words.is_empty() => text(&output.stdout),
        words => words,
    }
}

fn run(dir: &Path, words: &[&str]) -> anyhow::Result<String> {
    let output = git(dir, words)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => bail!("git {}: {}", words.join(" "), said(&output)),
    }
}

/// Files that are in no commit, ignored ones too.
pub fn untracked(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt as _;
    let output = git(dir, ["ls-files", "--others", "-z"])?;
    if !output.status.success() {
        bail!("git ls-files: {}", said(&output));
    }
    let names = output.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| dir.join(OsStr::from_bytes(name))).collect())
}

/// The user's repository.
pub struct Repo {
    top: PathBuf,
    /// The directory that is bisected, from the top; empty: all of it.
    pub prefix: String,
}

impl Repo {
    /// The repository that has `dir`.
    ///
    /// Errors: `Usage`; also for a part of a repository, unless it may be one.
    pub fn of(option: &str, dir: &Path, may_be_part: bool) -> Result<Self> {
        let usage = |why: String| Error::Usage(format!("{option} {}: {why}", dir.display()));
        if !dir.is_dir() {
            return Err(usage("there is no such directory".into()));
        }
        let find = |what| run(dir, &["rev-parse", what]).map_err(|error| usage(format!("{error:#}")));
        let (top, prefix) = (PathBuf::from(find("--show-toplevel")?), find("--show-prefix")?);
        if !may_be_part && !prefix.is_empty() {
            return Err(usage(format!("it is a part of a repository; name the whole: {}", top.display())));
        }
        Ok(Self { top, prefix: prefix.trim_end_matches('/').to_owned() })
    }

    /// Where it is.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// The id of a commit.
    pub fn commit(&self, option: &str, rev: &str) -> Result<String> {
        let name = format!("{rev}^{{commit}}");
        run(&self.top, &["rev-parse", "--verify", "--quiet", "--end-of-options", &name])
            .map_err(|_| Error::Usage(format!("{option} {rev}: {} has no such commit", self.top.display())))
    }

    /// First line of its message.
    pub fn subject(&self, commit: &str) -> anyhow::Result<String> {
        run(&self.top, &["log", "-1", "--format=%s", commit])
    }

    /// Is one an ancestor of the other?
    pub fn leads(&self, old: &str, new: &str) -> anyhow::Result<bool> {
        Ok(git(&self.top, ["merge-base", "--is-ancestor", old, new])?.status.success())
    }

    /// How many commits lie behind `old` up to `new`, with those that do not touch the directory left out.
    pub fn distance(&self, old: &str, new: &str) -> anyhow::Result<usize> {
        let range = format!("{old}..{new}");
        let mut words = vec!["rev-list", "--count", &range];
        words.extend(path(&self.prefix));
        let count = run(&self.top, &words)?;
        count.parse().with_context(|| format!("git rev-list --count says `{count}`"))
    }
}

fn path(prefix: &str) -> Vec<&str> {
    if prefix.is_empty() { Vec::new() } else { vec!["--", prefix] }
}

/// What `git bisect` wants next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Try this one.
    Commit(String),
    /// Nothing more.
    Found(Found),
}

/// A worktree of ours.
pub struct Tree<'r> {
    repo: &'r Repo,
    dir: PathBuf,
    reverse: bool,
}

impl<'r> Tree<'r> {
    /// Open it; one that was left by a run that was killed is used on.
    pub fn open(repo: &'r Repo, dir: &Path, question: &Question) -> anyhow::Result<Self> {
        let tree = Self { repo, dir: dir.to_owned(), reverse: question.reverse };
        let known = dir.join(".git").is_file().then(|| run(dir, &["rev-parse", "--absolute-git-dir"]));
        match known {
            Some(Ok(git_dir)) => {
                // Nobody else uses it: a git that still holds its lock was killed.
                for lock in ["index.lock", "HEAD.lock"] {
                    _ = fs::remove_file(Path::new(&git_dir).join(lock));
                }
            }
            _ => {
                if dir.exists() {
                    fs::remove_dir_all(dir)
                        .with_context(|| format!("{} cannot be removed", dir.display()))?;
                }
                run(&repo.top, &["worktree", "prune"])?;
                let place = dir.to_str().with_context(|| format!("{} is no text", dir.display()))?;
                let add = ["worktree", "add", "--quiet", "--force", "--detach", "--no-checkout", place];
                run(&repo.top, &[&add[..], &[question.new_end()]].concat())?;
            }
        }
        Ok(tree)
    }

    /// The directory that is bisected, as it is checked out.
    pub fn source(&self) -> PathBuf {
        self.dir.join(&self.repo.prefix)
    }

    /// Check a commit out. `clean`: and remove whatever an earlier one has left.
    pub fn check_out(&self, commit: &str, clean: bool) -> anyhow::Result<()> {
        run(&self.dir, &["checkout", "--quiet", "--force", "--detach", commit])?;
        if clean {
            run(&self.dir, &["clean", "-ffdxq"])?;
        }
        Ok(())
    }

    fn terms(&self) -> (&'static str, &'static str) {
        if self.reverse { ("broken", "fixed") } else { ("good", "bad") }
    }

    /// Begin the search, and tell git what is known already. No commit is checked out by it.
    pub fn begin<'m>(
        &self,
        question: &Question,
        marks: impl Iterator<Item = (&'m str, Verdict)>,
    ) -> anyhow::Result<()> {
        // Of a search that was cut off; there may be none.
        let _ = git(&self.dir, ["bisect", "reset"])?;
        let (old, new) = self.terms();
        let (term_old, term_new) = (format!("--term-old={old}"), format!("--term-new={new}"));
        let ends = [question.new_end(), question.old()];
        let mut words = vec!["bisect", "start", "--no-checkout", &term_old, &term_new];
        words.extend(ends);
        words.extend(path(&self.repo.prefix));
        run(&self.dir, &words)?;
        for (commit, verdict) in marks {
            self.mark(commit, verdict)?;
        }
        Ok(())
    }

    /// Tell git what a commit is.
    pub fn mark(&self, commit: &str, verdict: Verdict) -> anyhow::Result<()> {
        let (old, new) = self.terms();
        let word = match (verdict, self.reverse) {
            (Verdict::Good, false) | (Verdict::Bad, true) => old,
            (Verdict::Bad, false) | (Verdict::Good, true) => new,
            (Verdict::Skip | Verdict::Stop, _) => "skip",
        };
        let output = git(&self.dir, ["bisect", word, commit])?;
        match output.status.code() {
            // 2: only skipped ones are left.
            Some(0 | 2) => Ok(()),
            _ => bail!("git bisect {word} {commit}: {}", said(&output)),
        }
    }

    /// What is to be tried next.
    pub fn next(&self) -> anyhow::Result<Next> {
        let (old, new) = self.terms();
        let refs = |pattern: &str| -> anyhow::Result<Vec<String>> {
            let text = run(
                &self.dir,
                &["for-each-ref", "--format=%(objectname)", &format!("refs/bisect/{pattern}")],
            )?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let newest = refs(new)?.pop().context("git bisect has forgotten the newer end")?;
        let (olds, skipped) = (refs(&format!("{old}-*"))?, refs("skip-*")?);
        let mut words = vec!["rev-list", newest.as_str(), "--not"];
        words.extend(olds.iter().map(String::as_str));
        words.extend(path(&self.repo.prefix));
        let left: Vec<String> = run(&self.dir, &words)?.lines().map(str::to_owned).collect();
        if let [only] = left.as_slice() {
            return Ok(Next::Found(Found::First(only.clone())));
        }
        let skipped: BTreeSet<String> = skipped.into_iter().collect();
        if left.iter().all(|commit| *commit == newest || skipped.contains(commit)) {
            return Ok(Next::Found(Found::OneOf(left)));
        }
        let head = git(&self.dir, ["rev-parse", "--verify", "--quiet", "BISECT_HEAD"])?;
        match head.status.success() {
            true => Ok(Next::Commit(String::from_utf8_lossy(&head.stdout).trim().to_owned())),
            false => bail!("git bisect names no commit, and {} are left", left.len()),
        }
    }

    /// What git has to say of the search.
    pub fn log(&self) -> anyhow::Result<String> {
        run(&self.dir, &["bisect", "log"]).map(|log| log + "\n")
    }

    /// The search is over: nothing of it stays in the user's repository.
    pub fn remove(self) -> anyhow::Result<()> {
        let place = self.dir.to_str().context("the worktree's path is no text")?;
        run(&self.repo.top, &["worktree", "remove", "--force", place]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of so many commits, each with its number in a file; their ids.
    fn history(dir: &Path, commits: usize) -> Vec<String> {
        run(dir, &["init", "--quiet"]).unwrap();
        fs::create_dir(dir.join("driver")).unwrap();
        let mut ids = Vec::new();
        for n in 1..=commits {
            fs::write(dir.join("driver/a"), n.to_string()).unwrap();
            run(dir, &["add", "."]).unwrap();
            let who = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
            let subject = format!("commit {n}");
            run(dir, &[&who[..], &["commit", "--quiet", "-m", &subject]].concat()).unwrap();
            ids.push(run(dir, &["rev-parse", "HEAD"]).unwrap());
        }
        ids
    }

    fn search(
        tree: &Tree<'_>,
        question: &Question,
        known: &mut Vec<(String, Verdict)>,
        of: impl Fn(&str) -> Verdict,
    ) -> Found {
        tree.begin(question, known.iter().map(|(commit, verdict)| (commit.as_str(), *verdict))).unwrap();
        loop {
            match tree.next().unwrap() {
                Next::Found(found) => return found,
                Next::Commit(commit) => {
                    let verdict = of(&commit);
                    tree.mark(&commit, verdict).unwrap();
                    known.push((commit, verdict));
                }
            }
        }
    }

    #[test]
    fn a_search_finds_goes_on_after_a_cut_and_leaves_nothing_behind() {
        let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids = history(dir.path(), 24);
        let before = run(dir.path(), &["status", "--porcelain=v2", "--branch"]).unwrap();
        let repo = Repo::of("--module-only", &dir.path().join("driver"), true).unwrap();
        assert_eq!(repo.prefix, "driver");
        assert_eq!(repo.subject(&ids[4]).unwrap(), "commit 5");
        assert_eq!(repo.distance(&ids[0], &ids[15]).unwrap(), 15);
        assert!(repo.leads(&ids[0], &ids[15]).unwrap() && !repo.leads(&ids[15], &ids[0]).unwrap());
        let number = |commit: &str| ids.iter().position(|id| id == commit).unwrap() + 1;
        let verdict = |commit: &str| match number(commit) {
            8 | 12 => Verdict::Skip,
            1..=9 | 19.. => Verdict::Good,
            _ => Verdict::Bad,
        };
        let question = |bad: usize, good: usize, reverse| Question {
            bad: ids[bad - 1].clone(),
            good: ids[good - 1].clone(),
            reverse,
            options: String::new(),
        };
        let source = place.path().join("source");
        let bug = question(16, 1, false);
        let tree = Tree::open(&repo, &source, &bug).unwrap();
        let mut known = Vec::new();
        assert_eq!(search(&tree, &bug, &mut known, verdict), Found::First(ids[9].clone()));
        assert!(known.iter().any(|(commit, _)| number(commit) == 8), "{known:?}");

        // As if killed after the second commit, with a lock left: the same way from there.
        tree.check_out(&ids[2], true).unwrap();
        assert_eq!(fs::read_to_string(tree.source().join("a")).unwrap(), "3");
        fs::write(dir.path().join(".git/worktrees/source/index.lock"), "").unwrap();
        let mut again = known[..2].to_vec();
        let tree = Tree::open(&repo, &source, &bug).unwrap();
        tree.check_out(&ids[3], true).unwrap();
        assert_eq!(search(&tree, &bug, &mut again, verdict), Found::First(ids[9].clone()));
        assert_eq!(again, known);
        assert!(tree.log().unwrap().contains("git bisect skip"), "{}", tree.log().unwrap());

        let fix = question(16, 24, true);
        let tree = Tree::open(&repo, &source, &fix).unwrap();
        assert_eq!(search(&tree, &fix, &mut Vec::new(), verdict), Found::First(ids[18].clone()));
        // Only what cannot be tested is left.
        let tree = Tree::open(&repo, &source, &bug).unwrap();
        let none =
            |commit: &str| if (8..=10).contains(&number(commit)) { Verdict::Skip } else { verdict(commit) };
        let Found::OneOf(several) = search(&tree, &bug, &mut Vec::new(), none) else { panic!("found one") };
        let several: BTreeSet<usize> = several.iter().map(|commit| number(commit)).collect();
        assert_eq!(several, BTreeSet::from([8, 9, 10, 11]));

        tree.remove().unwrap();
        assert!(!source.exists());
        assert_eq!(run(dir.path(), &["status", "--porcelain=v2", "--branch"]).unwrap(), before);
        assert_eq!(run(dir.path(), &["worktree", "list"]).unwrap().lines().count(), 1);
        assert_eq!(run(dir.path(), &["for-each-ref", "refs/bisect"]).unwrap(), "");
    }

    #[test]
    fn what_is_no_repository_and_no_commit_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let why = |result: Result<Repo>| result.err().map(|error| error.to_string()).unwrap();
        assert!(why(Repo::of("--module-only", dir.path(), false)).contains("not a git repository"));
        assert!(why(Repo::of("--module-only", &dir.path().join("a"), true)).contains("no such directory"));
        history(dir.path(), 1);
        let repo = Repo::of("--module-only", dir.path(), false).unwrap();
        let error = repo.commit("--good", "v1.0").unwrap_err().to_string();
        assert!(error.starts_with("--good v1.0: ") && error.ends_with("has no such commit"), "{error}");
        assert!(repo.commit("--good", "--all").is_err());
        let part = why(Repo::of("--kernel", &dir.path().join("driver"), false));
        assert!(part.contains("name the whole: "), "{part}");
        fs::write(dir.path().join("driver/made.o"), "").unwrap();
        assert_eq!(untracked(dir.path()).unwrap(), [dir.path().join("driver/made.o")]);
    }
}
