// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin bisect`: from two ends to a commit, unattended. What is known stands in `bisection.json`, written whole or not at
//! all after each batch of tries: the same command goes on where a run was cut off, however that happened.

use super::git::{Next, Repo, Tree};
use super::log;
use super::step::{only_case, rule};
use super::subject::{Named, Subject};
use super::trial::Trial;
use crate::args::{BisectArgs, BisectionArgs, LibraryArgs};
use crate::earlier::IGNORED;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::library::Library;
use crate::output;
use crate::run::ignored;
use anyhow::Context as _;
use longpin_core::bisect::{
    self, BISECTION_SCHEMA, Bisection, Current, Difference, Found, Question, Rule, Ruling, Step, Try,
    Verdict, decide, difference, page, short,
};
use longpin_core::exit_code::ExitCode;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The document, in the directory of results.
const DOCUMENT: &str = "bisection.json";
/// Tries at the bad end after which one that shows the same in all of them is believed.
const ENOUGH_ALIKE: u32 = 5;
const BAD_END: &str = "bad end";
const GOOD_END: &str = "good end";

/// Find the commit.
pub fn bisect(args: &BisectArgs) -> Result<ExitCode> {
    let common = &args.common;
    let named = Named {
        module: ("--module-only", args.module_only.as_deref()),
        device: ("--device-only", args.device_only.as_deref()),
    };
    let (subject, option, dir) = Subject::of(named, common)?;
    let library = Library::load(&common.library)?;
    if !args.check_ends {
        rule(&common.tries, common.seen, &only_case(&library)?)?;
    }
    // The list as it was when the search began.
    let kept = common.out.join(IGNORED);
    let ignore_log =
        common.ignore_log.as_deref().map(|given| if kept.is_file() { kept.as_path() } else { given });
    let (_, ignore_list) = ignored::open(ignore_log)?;
    let repo = Repo::of(option, dir, !subject.is_kernel())?;
    let question = question(args, &library, &repo)?;
    let place = Place::open(&common.out)?;
    let state = place.state(question)?;
    if state.found.is_some() {
        return tell(&place, &state);
    }
    keep_scenarios(&library, &place.scenarios())?;
    subject.keep(dir, &place.dir)?;
    ignore_list.iter().try_for_each(|list| place.write(IGNORED, list))?;
    let tree = Tree::open(&repo, &place.dir.join("source"), &state.question)?;
    let interrupt = Interrupt::install()?;
    let mut search =
        Search { args, subject, library: &library, repo: &repo, tree, place: &place, state, interrupt };
    match search.search() {
        Ok(found) => {
            search.state.found = Some(found);
            search.end()
        }
        // Nothing to go on with.
        Err(Error::Usage(why)) => {
            search.tree.remove()?;
            Err(Error::Usage(why))
        }
        Err(error) => Err(error),
    }
}

fn tell(place: &Place, state: &Bisection) -> Result<ExitCode> {
    output::text(&state.text())?;
    output::note(&format!("log:    {}", place.dir.join(log::NAME).display()));
    output::note(&format!("report: {}", place.dir.join("report.html").display()));
    Ok(match state.found {
        Some(Found::First(_)) => ExitCode::Good,
        _ => ExitCode::Bad,
    })
}

fn question(args: &BisectArgs, library: &Library, repo: &Repo) -> Result<Question> {
    let (bad, good) = (repo.commit("--bad", &args.bad)?, repo.commit("--good", &args.good)?);
    // As text, since all that matters is whether it is the same. Where results lie does not matter.
    let cases: Vec<String> = library.cases(1).into_iter().map(|case| case.id).collect();
    let BisectArgs { common, end_tries, check_ends, .. } = args;
    let BisectionArgs {
        machine,
        tries,
        module_name,
        device_made,
        device_build,
        config,
        seen,
        ignore_log,
        ..
    } = common;
    let options = format!(
        "{} {} {cases:?} {machine:?} {tries:?} {module_name:?} {device_made:?} {device_build:?} {config:?} {end_tries} \
         {check_ends} {seen} {ignore_log:?}",
        repo.top().display(),
        repo.prefix
    );
    let question = Question { bad, good, reverse: common.reverse, options };
    let (old, new) = (question.old(), question.new_end());
    if repo.leads(new, old)? {
        let fix = if common.reverse { "leave --reverse out" } else { "add --reverse to look for the fix" };
        return Err(Error::Usage(match old == new {
            true => "--good and --bad are the same commit".into(),
            false => format!(
                "--good {} --bad {}: the {} one is older; change them, or {fix}",
                args.good,
                args.bad,
                if common.reverse { "good" } else { "bad" }
            ),
        }));
    }
    if repo.distance(old, new)? == 0 {
        return Err(Error::Usage(format!("no commit between the ends touches {}", repo.prefix)));
    }
    Ok(question)
}

/// The directory of results; one search at a time has it.
struct Place {
    dir: PathBuf,
    _lock: File,
}

impl Place {
    fn open(out: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("{} cannot be created", out.display()))?;
        let dir = out.canonicalize().with_context(|| format!("{} cannot be resolved", out.display()))?;
        let path = dir.join("lock");
        let lock = File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Infra(anyhow::anyhow!(
                "another longpin bisects in {}; wait for it, or name another --out",
                dir.display()
            ))),
            Err(fs::TryLockError::Error(error)) => {
                Err(Error::Infra(anyhow::anyhow!("{} cannot be locked: {error}", path.display())))
            }
        }
    }

    fn scenarios(&self) -> PathBuf {
        self.dir.join("scenarios")
    }

    /// What is known of this question; nothing, if none was asked here.
    fn state(&self, question: Question) -> Result<Bisection> {
        let path = self.dir.join(DOCUMENT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Bisection { schema: BISECTION_SCHEMA, question, ..Bisection::default() });
            }
            Err(error) => return Err(Error::Infra(anyhow::anyhow!("{}: {error}", path.display()))),
        };
        let state: Bisection = crate::earlier::parse(&path, &text, BISECTION_SCHEMA)?;
        if state.question != question {
            return Err(Error::Usage(format!(
                "--out {}: it holds another search (good {}, bad {}, or other options); repeat that command to go on with it, \
                 name another directory, or remove this one",
                self.dir.display(),
                short(&state.question.good),
                short(&state.question.bad)
            )));
        }
        output::note(&format!("going on: {} commits are judged already", state.steps.len()));
        Ok(state)
    }

    /// Whole or not at all.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Scenarios stay as they were when the search began.
fn keep_scenarios(library: &Library, dir: &Path) -> anyhow::Result<()> {
    let done = dir.join(".whole");
    if done.is_file() {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    for (name, text) in library.texts() {
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    fs::write(&done, "").with_context(|| format!("{} cannot be written", done.display()))
}

struct Search<'a> {
    args: &'a BisectArgs,
    subject: Subject<'a>,
    library: &'a Library,
    repo: &'a Repo,
    tree: Tree<'a>,
    place: &'a Place,
    state: Bisection,
    interrupt: Interrupt,
}

impl<'a> Search<'a> {
    fn search(&mut self) -> Result<Found> {
        let (old, new) = (self.state.question.old().to_owned(), self.state.question.new_end().to_owned());
        let commits = self.repo.distance(&old, &new)?;
        let steps = usize::BITS - commits.leading_zeros();
        output::note(&format!("{commits} commits, about {steps} steps"));
        if self.state.difference.is_none() {
            // One `good` more: that of the end.
            self.state.error = self.args.common.tries.error / f64::from(steps + 1);
            self.ends()?;
        }
        let between = self.state.steps.iter().filter(|step| step.role.is_empty());
        let marks: Vec<_> = between.map(|step| (step.commit.clone(), step.ruling.verdict)).collect();
        self.tree
            .begin(&self.state.question, marks.iter().map(|(commit, verdict)| (commit.as_str(), *verdict)))?;
        loop {
            match self.tree.next()? {
                Next::Commit(commit) => {
                    let verdict = self.commit(&commit)?;
                    self.tree.mark(&commit, verdict)?;
                    self.place.write("git-bisect.log", &self.tree.log()?)?;
                }
                Next::Found(found) => {
                    // The newer end may differ from it in what lies elsewhere.
                    if let Found::First(commit) = &found
                        && self.state.step_of(commit).is_none()
                    {
                        self.commit(commit)?;
                    }
                    return Ok(found);
                }
            }
        }
    }

    fn end(self) -> Result<ExitCode> {
        let Self { tree, state, place, .. } = self;
        let log = tree.log()?;
        place.write("git-bisect.log", &log)?;
        place.write("report.html", &page(&state, &log).context("the report as HTML")?)?;
        // A search whose document has an answer has nothing left in the user's repository.
        tree.remove()?;
        save(place, &state)?;
        tell(place, &state)
    }

    /// What the ends differ in, and how often.
    fn ends(&mut self) -> Result<()> {
        if !self.args.check_ends {
            let case = only_case(self.library)?;
            let rule = rule(&self.args.common.tries, self.args.common.seen, &case)?;
            let Rule { bad, good, rate, .. } = rule;
            self.state.difference = Some(Difference { case: case.id, bad, good, rate });
            return self.save();
        }
        self.state.steps.clear();
        self.state.current = None;
        let (bad_end, good_end) = (self.state.question.bad.clone(), self.state.question.good.clone());
        output::note(&format!("trying the bad end, {}", short(&bad_end)));
        let began = Instant::now();
        let bad_dir = self.step_dir(1, &bad_end)?;
        let trial = self.commit_trial(&bad_end, &bad_dir, self.whole_library())?;
        let at_bad = self.bad_end(&bad_dir, trial)?;
        let bad_seconds = began.elapsed().as_secs_f64();
        output::note(&format!("trying the good end, {}", short(&good_end)));
        let began = Instant::now();
        let good_dir = self.step_dir(2, &good_end)?;
        let mut trial = self.commit_trial(&good_end, &good_dir, self.whole_library())?;
        let at_good = match &trial {
            Ok(trial) => trial.batch(&good_dir, 0, 1)?,
            Err(one) => vec![(String::new(), one.clone())],
        };
        working(&at_good)?;
        let options = &self.args.common.tries;
        let found = difference(&at_bad, &at_good, options.bad_is.as_ref(), options.good_is.as_ref())
            .map_err(Error::Usage)?;
        let rule = self.rule(&found)?;
        output::note(&format!(
            "{}: `{}` with the fault, in {} tries; `{}` without; a good takes {} clean tries",
            found.case,
            found.bad,
            found.rate,
            found.good,
            rule.rate.needed(rule.error)
        ));
        let needed = rule.rate.needed(rule.error);
        if needed > rule.most_tries {
            return Err(Error::Usage(format!(
                "the fault shows in {} tries at the bad end, so each `good` takes {needed} clean tries; allow them \
                 (--max-tries {needed}), or a greater --error",
                found.rate
            )));
        }
        let of_case = |tries: Vec<(String, Try)>| -> Vec<Try> {
            tries.into_iter().filter(|(id, _)| *id == found.case).map(|(_, one)| one).collect()
        };
        let (bad_tries, mut good_tries) = (of_case(at_bad), of_case(at_good));
        let bad_ruling = match decide(&bad_tries, &rule) {
            bisect::Next::Done(ruling) if ruling.verdict == Verdict::Bad => ruling,
            _ => {
                return Err(Error::Usage(format!(
                    "the bad end shows the fault in {} tries, and {} are asked for (--hits); ask for fewer, or for more tries \
                     there (--end-tries)",
                    found.rate, rule.hits
                )));
            }
        };
        let library = self.one_case(&found.case);
        let good_ruling = match &mut trial {
            Ok(trial) => {
                trial.library = library;
                trial.judge(&good_dir, &rule, &mut good_tries, |_| self.go_on())?
            }
            Err(one) => return Err(Error::Infra(anyhow::anyhow!("{}", one.why()))),
        };
        if good_ruling.verdict != Verdict::Good {
            let fix = "name another --good";
            return Err(Error::Usage(format!("the good end is not good: {}; {fix}", good_ruling.reason)));
        }
        self.state.difference = Some(found);
        self.add(1, BAD_END, &bad_end, bad_ruling, bad_tries, &bad_dir, bad_seconds)?;
        let seconds = began.elapsed().as_secs_f64();
        self.add(2, GOOD_END, &good_end, good_ruling, good_tries, &good_dir, seconds)?;
        self.save()
    }

    /// Tries of all cases at the bad end: so many, or fewer if all of them are alike.
    fn bad_end(&self, dir: &Path, trial: std::result::Result<Trial<'_>, Try>) -> Result<Vec<(String, Try)>> {
        let trial = match trial {
            Ok(trial) => trial,
            Err(one) => {
                let tries = vec![(String::new(), one)];
                working(&tries)?;
                return Ok(tries);
            }
        };
        let (mut tries, mut made) = (Vec::new(), 0);
        while made < self.args.end_tries {
            let n = self.args.common.tries.tries_per_boot.min(self.args.end_tries - made);
            let batch = trial.batch(dir, made as usize, n)?;
            working(&batch)?;
            // A case that cannot be tried now cannot be later.
            let none = batch.iter().all(|(_, one)| matches!(one, Try::NoBoot { .. } | Try::NotRun { .. }));
            tries.extend(batch);
            made += n;
            self.go_on()?;
            if none || made >= ENOUGH_ALIKE && alike(&tries) {
                break;
            }
        }
        Ok(tries)
    }

    /// Judge a commit between the ends.
    fn commit(&mut self, commit: &str) -> Result<Verdict> {
        let difference = self.state.difference.clone().context("the ends were not measured")?;
        let rule = self.rule(&difference)?;
        let number = self.state.steps.iter().map(|step| step.number).max().unwrap_or(0) + 1;
        let mut tries = match self.state.current.take() {
            Some(current) if current.commit == commit && current.number == number => current.tries,
            _ => Vec::new(),
        };
        let began = Instant::now();
        let dir = self.step_dir(number, commit)?;
        let library = self.one_case(&difference.case);
        let ruling = match self.commit_trial(commit, &dir, library)? {
            Ok(trial) => {
                let place = self.place;
                let mut state = self.state.clone();
                trial.judge(&dir, &rule, &mut tries, |tries| {
                    state.current =
                        Some(Current { number, commit: commit.to_owned(), tries: tries.to_vec() });
                    save(place, &state)?;
                    self.go_on()
                })?
            }
            Err(one) => {
                tries = vec![one];
                match decide(&tries, &rule) {
                    bisect::Next::Done(ruling) => ruling,
                    bisect::Next::Try(_) => {
                        return Err(Error::Infra(anyhow::anyhow!("{commit}: {}", tries[0].why())));
                    }
                }
            }
        };
        let verdict = ruling.verdict;
        if verdict == Verdict::Stop {
            return Err(Error::Infra(anyhow::anyhow!(
                "stopped at {}: {}; the same command goes on from here",
                short(commit),
                ruling.reason
            )));
        }
        self.add(number, "", commit, ruling, tries, &dir, began.elapsed().as_secs_f64())?;
        self.save()?;
        Ok(verdict)
    }

    /// Check out and build a commit, and make ready to try it.
    fn commit_trial(
        &self,
        commit: &str,
        dir: &Path,
        library: LibraryArgs,
    ) -> Result<std::result::Result<Trial<'a>, Try>> {
        self.go_on()?;
        // Of a kernel only what has changed is built; a module takes seconds, and nothing of another commit is in it.
        self.tree.check_out(commit, !self.subject.is_kernel())?;
        let source = self.tree.source();
        if !source.is_dir() {
            return Ok(Err(Try::NoBuild { why: format!("it has no {}", self.repo.prefix) }));
        }
        let machine = self.subject.make(&self.args.common.machine, &source, &self.place.dir, dir)?;
        self.go_on()?;
        let only_driver = self.subject.is_module();
        let args = &self.args.common.tries;
        let ignore_log = self.args.common.ignore_log.as_ref().map(|_| self.place.dir.join(IGNORED));
        Ok(machine.map(|machine| Trial { library, machine, args, ignore_log, only_driver }))
    }

    fn rule(&self, difference: &Difference) -> Result<Rule> {
        let Difference { bad, good, rate, .. } = difference.clone();
        let (hits, most_tries) = (self.args.common.tries.hits, self.args.common.tries.max_tries);
        Ok(Rule { bad, good, rate, error: self.state.error, hits, most_tries })
    }

    /// As it was chosen, of the scenarios as they were.
    fn whole_library(&self) -> LibraryArgs {
        LibraryArgs {
            scenarios: self.library.words().to_vec(),
            scenario_dir: Some(self.place.scenarios()),
            ..self.args.common.library.clone()
        }
    }

    fn one_case(&self, id: &str) -> LibraryArgs {
        LibraryArgs { scenarios: vec![id.to_owned()], ..self.whole_library() }
    }

    fn step_dir(&self, number: u32, commit: &str) -> anyhow::Result<PathBuf> {
        let dir = self.place.dir.join(format!("{number:03}-{}", short(commit)));
        fs::create_dir_all(&dir).with_context(|| format!("{} cannot be created", dir.display()))?;
        Ok(dir)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a step")]
    fn add(
        &mut self,
        number: u32,
        role: &str,
        commit: &str,
        ruling: Ruling,
        tries: Vec<Try>,
        dir: &Path,
        seconds: f64,
    ) -> anyhow::Result<()> {
        let line = log::line(short(commit), &ruling, dir);
        output::note(&line);
        let step = Step {
            number,
            role: role.to_owned(),
            commit: commit.to_owned(),
            subject: self.repo.subject(commit)?,
            ruling,
            tries,
            dir: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            seconds,
            at: log::now(),
        };
        self.state.steps.push(step);
        self.state.current = None;
        Ok(())
    }

    fn save(&self) -> Result<()> {
        Ok(save(self.place, &self.state)?)
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupt.asked() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

fn save(place: &Place, state: &Bisection) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(state).context("the bisection as JSON")?;
    place.write(DOCUMENT, &(text + "\n"))?;
    // From the document: a run that was killed has written no line twice, and left none out.
    let lines = state.steps.iter().map(|step| {
        let dir = place.dir.join(&step.dir);
        format!("{} {}\n", step.at, log::line(short(&step.commit), &step.ruling, &dir))
    });
    place.write(log::NAME, &lines.collect::<String>())
}

/// Errors: the laboratory does not work.
fn working(tries: &[(String, Try)]) -> Result<()> {
    match tries.iter().find(|(_, one)| matches!(one, Try::Lab { .. })) {
        Some((_, one)) => Err(Error::Infra(anyhow::anyhow!("{}", one.why().to_owned()))),
        None => Ok(()),
    }
}

/// Each case showed the same in all of its tries.
fn alike(tries: &[(String, Try)]) -> bool {
    tries.iter().all(|(id, one)| {
        let first = tries.iter().find(|(other, _)| other == id).and_then(|(_, first)| first.fingerprint());
        first.is_some() && first == one.fingerprint()
    })
}
