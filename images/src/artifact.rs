// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How an artifact comes into being: once, whole, or not at all.
//!
//! A builder takes the artifact's lock exclusively, works in `NAME.partial` beside the final place, writes the manifest
//! as the last file and renames the directory to `NAME`. So `NAME` is always complete. Whoever dies on the way leaves a
//! `.partial` that the next holder of the lock removes, or where it goes on if the build can. A user keeps the lock shared, so that `gc` does not take the
//! artifact away from a running machine.

use crate::durable;
use crate::error::{Error, Result};
use crate::job::Log;
use crate::key::Inputs;
use crate::lock::{Lock, Mode};
use crate::manifest::{ArtifactId, Kind, Manifest};
use crate::report::{self, Reporter};
use crate::store::Store;
use crate::tree;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A finished artifact, kept from removal as long as this lives.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub dir: PathBuf,
    pub manifest: Manifest,
    _in_use: Lock,
}

/// What is wanted.
pub(crate) struct Plan<'a> {
    pub kind: Kind,
    /// For people: "kernel 7.3.4".
    pub title: String,
    pub series: String,
    pub parents: Vec<ArtifactId>,
    pub inputs: &'a Inputs,
}

/// What a build finds in its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Nothing.
    Empty,
    /// What an earlier one left.
    Left,
}

/// A build under way.
pub(crate) struct Build<'a> {
    /// Where the artifact's files go.
    pub dir: &'a Path,
    pub log: Log,
    pub reporter: &'a dyn Reporter,
    /// For the manifest.
    pub versions: BTreeMap<String, String>,
    /// For the manifest.
    pub facts: BTreeMap<String, String>,
}

impl Plan<'_> {
    pub(crate) fn id(&self) -> ArtifactId {
        ArtifactId { kind: self.kind, key: self.inputs.key() }
    }
}

impl Store {
    /// The artifact if it is there, else built. Blocks while another process builds it.
    pub(crate) fn ensure(
        &self,
        plan: &Plan<'_>,
        reporter: &dyn Reporter,
        build: impl FnOnce(&mut Build<'_>) -> Result<()>,
    ) -> Result<Artifact> {
        self.ensure_from(Start::Empty, plan, reporter, build)
    }

    /// As [`ensure`](Self::ensure), for a build of many minutes: it finds in its directory what an earlier one, which was
    /// interrupted or failed, has left there, and must tell by itself what of that is whole.
    pub(crate) fn ensure_resumable(
        &self,
        plan: &Plan<'_>,
        reporter: &dyn Reporter,
        build: impl FnOnce(&mut Build<'_>) -> Result<()>,
    ) -> Result<Artifact> {
        self.ensure_from(Start::Left, plan, reporter, build)
    }

    fn ensure_from(
        &self,
        start: Start,
        plan: &Plan<'_>,
        reporter: &dyn Reporter,
        build: impl FnOnce(&mut Build<'_>) -> Result<()>,
    ) -> Result<Artifact> {
        let mut build = Some(build);
        loop {
            if let Some(found) = self.find(plan, reporter)? {
                return Ok(found);
            }
            let lock = self.lock(plan, Mode::Exclusive, reporter)?;
            if !self.is_finished(plan)? {
                let Some(build) = build.take() else { return Err(self.vanished(plan)) };
                self.build(start, plan, reporter, build)?;
            }
            drop(lock);
        }
    }

    /// As [`ensure`](Self::ensure), but an artifact that is not younger than `max_age` is made anew, with no age always.
    /// One from the future too: a clock was wrong, and its age is unknown.
    pub(crate) fn ensure_younger(
        &self,
        plan: &Plan<'_>,
        max_age: Duration,
        reporter: &dyn Reporter,
        build: impl FnOnce(&mut Build<'_>) -> Result<()>,
    ) -> Result<Artifact> {
        let young = |manifest: &Manifest| {
            let created = UNIX_EPOCH + Duration::from_secs(manifest.created_unix_s);
            max_age == Duration::MAX
                || SystemTime::now().duration_since(created).is_ok_and(|age| age < max_age)
        };
        if let Some(found) = self.find(plan, reporter)?
            && young(&found.manifest)
        {
            return Ok(found);
        }
        let lock = self.lock(plan, Mode::Exclusive, reporter)?;
        if !Manifest::read(&self.dir(&plan.id()))?.is_some_and(|manifest| young(&manifest)) {
            self.build(Start::Empty, plan, reporter, build)?;
        }
        drop(lock);
        self.find(plan, reporter)?.ok_or_else(|| self.vanished(plan))
    }

    /// The artifact if it is there, with its lock held shared.
    pub(crate) fn find(&self, plan: &Plan<'_>, reporter: &dyn Reporter) -> Result<Option<Artifact>> {
        if !self.is_finished(plan)? {
            return Ok(None);
        }
        let lock = self.lock(plan, Mode::Shared, reporter)?;
        let dir = self.dir(&plan.id());
        // `gc` may have come first.
        let Some(manifest) = Manifest::read(&dir)? else { return Ok(None) };
        lock.touch()?;
        Ok(Some(Artifact { dir, manifest, _in_use: lock }))
    }

    fn is_finished(&self, plan: &Plan<'_>) -> Result<bool> {
        Ok(Manifest::read(&self.dir(&plan.id()))?.is_some())
    }

    fn lock(&self, plan: &Plan<'_>, mode: Mode, reporter: &dyn Reporter) -> Result<Lock> {
        Lock::take(&self.lock_path(&plan.id()), mode, &plan.title, self.lock_limit(), reporter)
    }

    /// With the lock held exclusively.
    fn build(
        &self,
        start: Start,
        plan: &Plan<'_>,
        reporter: &dyn Reporter,
        build: impl FnOnce(&mut Build<'_>) -> Result<()>,
    ) -> Result<()> {
        let id = plan.id();
        let partial = self.partial_dir(&id);
        if start == Start::Empty {
            tree::remove(&partial)?;
        }
        std::fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        let began = Instant::now();
        let log = Log::create(&self.log_path(&id))?;
        let mut work =
            Build { dir: &partial, log, reporter, versions: BTreeMap::new(), facts: BTreeMap::new() };
        let built = build(&mut work);
        let Build { versions, facts, .. } = work;
        if let Err(error) = built {
            // The first error is the one to tell; what cannot be removed now, the next build removes.
            if start == Start::Empty {
                let _ = tree::remove(&partial);
            }
            return Err(error);
        }
        let took = began.elapsed();
        let size_bytes = tree::size_on_disk(&partial);
        let manifest = Manifest {
            schema: Manifest::schema(),
            id: id.clone(),
            series: plan.series.clone(),
            parents: plan.parents.clone(),
            inputs: plan.inputs.recorded().clone(),
            versions,
            facts,
            created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            build_seconds: took.as_secs_f64(),
            size_bytes,
        };
        manifest.write(&partial)?;
        let dir = self.dir(&id);
        // Only there when it is made anew, or when its manifest was lost.
        tree::remove(&dir)?;
        durable::publish(&partial, &dir)?;
        reporter.finished(&report::summary(&plan.title, size_bytes, took));
        Ok(())
    }

    fn vanished(&self, plan: &Plan<'_>) -> Error {
        Error::Unreadable {
            what: self.dir(&plan.id()).display().to_string(),
            problem: "it was removed while it was being built".to_owned(),
            remedy: "do not run `longpin image gc --all` beside a build; build again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;
    use std::cell::Cell;
    use std::fs;

    fn inputs(text: &str) -> Inputs {
        let mut inputs = Inputs::new(1);
        inputs.value("text", text);
        inputs
    }

    fn plan(inputs: &Inputs) -> Plan<'_> {
        Plan {
            kind: Kind::Module,
            title: "module".to_owned(),
            series: "test".to_owned(),
            parents: vec![],
            inputs,
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn write(build: &mut Build<'_>, text: &str) -> Result<()> {
        fs::write(build.dir.join("file"), text).map_err(Error::io("write", build.dir))
    }

    #[test]
    fn it_is_built_once_and_found_afterwards() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let builds = Cell::new(0);
        for _ in 0..3 {
            let made = store.ensure(&plan(&inputs), &Silent, |build| {
                builds.set(builds.get() + 1);
                build.facts.insert("n".to_owned(), "1".to_owned());
                write(build, "content")
            });
            let made = made.unwrap();
            assert_eq!(fs::read_to_string(made.dir.join("file")).unwrap(), "content");
            assert_eq!(made.manifest.fact("n").unwrap(), "1");
            assert_eq!(made.manifest.inputs["text"], "a");
        }
        assert_eq!(builds.get(), 1);
    }

    #[test]
    fn other_inputs_make_another_artifact() {
        let (_dir, store) = store();
        let (a, b) = (inputs("a"), inputs("b"));
        let first = store.ensure(&plan(&a), &Silent, |build| write(build, "a")).unwrap();
        let second = store.ensure(&plan(&b), &Silent, |build| write(build, "b")).unwrap();
        assert_ne!(first.dir, second.dir);
    }

    #[test]
    fn a_failed_build_leaves_its_log_and_nothing_else() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let plan = plan(&inputs);
        let failed = store.ensure(&plan, &Silent, |build| {
            write(build, "half")?;
            let mut command = std::process::Command::new("/bin/false");
            build.log.run("fail", &mut command, Duration::from_secs(60))
        });
        assert!(matches!(failed.unwrap_err(), Error::CommandFailed { .. }));
        assert!(!store.partial_dir(&plan.id()).exists());
        assert!(!store.dir(&plan.id()).exists());
        assert!(store.log_path(&plan.id()).exists());
    }

    #[test]
    fn what_a_killed_builder_left_is_neither_used_nor_kept() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let plan = plan(&inputs);
        let partial = store.partial_dir(&plan.id());
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("leftover"), "half").unwrap();
        assert!(store.find(&plan, &Silent).unwrap().is_none());
        let made = store.ensure(&plan, &Silent, |build| write(build, "whole")).unwrap();
        assert!(!made.dir.join("leftover").exists());
        assert!(!partial.exists());
    }

    #[test]
    fn a_build_that_can_goes_on_from_what_was_left_and_is_published_whole() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let plan = plan(&inputs);
        let failed = store.ensure_resumable(&plan, &Silent, |build| {
            fs::write(build.dir.join("done"), "half").unwrap();
            build.log.run("fail", &mut std::process::Command::new("/bin/false"), Duration::from_secs(60))
        });
        assert!(failed.is_err() && store.find(&plan, &Silent).unwrap().is_none());
        let made = store.ensure_resumable(&plan, &Silent, |build| {
            assert_eq!(fs::read_to_string(build.dir.join("done")).unwrap(), "half");
            write(build, "whole")
        });
        assert_eq!(fs::read_to_string(made.unwrap().dir.join("file")).unwrap(), "whole");
        assert!(!store.partial_dir(&plan.id()).exists());
    }

    #[test]
    fn a_panic_in_a_build_leaves_nothing_usable_and_frees_the_lock() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let plan = plan(&inputs);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = store.ensure(&plan, &Silent, |build| {
                write(build, "half")?;
                panic!("interrupted")
            });
        }));
        assert!(caught.is_err());
        assert!(store.partial_dir(&plan.id()).exists(), "the interruption is simulated");
        let made = store.ensure(&plan, &Silent, |build| write(build, "whole")).unwrap();
        assert_eq!(fs::read_to_string(made.dir.join("file")).unwrap(), "whole");
    }

    #[test]
    fn two_builders_at_once_build_one_artifact() {
        let (_dir, store) = store();
        let builds = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let inputs = inputs("a");
                    let made = store.ensure(&plan(&inputs), &Silent, |build| {
                        builds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        write(build, "content")
                    });
                    assert!(made.unwrap().dir.join("file").exists());
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn an_artifact_over_its_age_is_made_anew_and_a_younger_one_is_not() {
        let (_dir, store) = store();
        let inputs = inputs("a");
        let plan = plan(&inputs);
        let get = |max_age, text: &'static str| {
            let made = store.ensure_younger(&plan, max_age, &Silent, |build| write(build, text)).unwrap();
            fs::read_to_string(made.dir.join("file")).unwrap()
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(get(hour, "first"), "first");
        assert_eq!(get(hour, "second"), "first");
        let manifest = Manifest::read(&store.dir(&plan.id())).unwrap().unwrap();
        let old = Manifest { created_unix_s: manifest.created_unix_s - 7200, ..manifest.clone() };
        old.write(&store.dir(&plan.id())).unwrap();
        assert_eq!(get(hour, "third"), "third");
        assert_eq!(get(Duration::ZERO, "asked again"), "asked again");
        let future = Manifest { created_unix_s: manifest.created_unix_s + (1 << 30), ..old };
        future.write(&store.dir(&plan.id())).unwrap();
        assert_eq!(get(Duration::MAX, "never"), "asked again");
        assert_eq!(get(hour, "after the clock was set"), "after the clock was set");
    }
}
