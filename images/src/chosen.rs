// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which of the distribution's kernels is used: the last one that the driver was built for, one for each tool root. It is
//! a record of its own and not the newest of the package lists, so that asking the archive again cannot break what works.

use crate::durable;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::key::Key;
use crate::manifest::{ArtifactId, Kind};
use crate::packages::Choice;
use crate::store::Store;
use crate::tool_root::ToolRoot;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Directory of the records, `TOOL-ROOT-KEY.json` each.
pub(crate) const CHOSEN: &str = "chosen";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// The finished artifact.
    pub kernel: ArtifactId,
    /// Its packages.
    pub choice: Choice,
}

impl Store {
    /// Makes this kernel the one that [`kernel`](Self::kernel) gives from now on. To be called when it has been shown to
    /// work: at least, that the driver was built for it. A user's own kernel is nobody's choice but the user's.
    pub fn keep_kernel(&self, root: &ToolRoot, kernel: &Kernel) -> Result<()> {
        let Some(choice) = kernel.choice.clone() else { return Ok(()) };
        let chosen = Chosen { kernel: kernel.id().clone(), choice };
        if self.chosen(root.id()).as_ref() == Some(&chosen) {
            return Ok(());
        }
        let path = self.chosen_path(root.key());
        let parent = self.path().join(CHOSEN);
        std::fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let text = serde_json::to_string_pretty(&chosen).expect("strings are valid JSON");
        durable::write(&path, text.as_bytes())
    }

    /// The record of a tool root. One that cannot be read is none: the choice is then made anew.
    pub(crate) fn chosen(&self, root: &ArtifactId) -> Option<Chosen> {
        let text = std::fs::read_to_string(self.chosen_path(&root.key)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Removes the records of tool roots that are gone.
    pub(crate) fn forget_chosen(&self) -> Result<()> {
        let place = self.path().join(CHOSEN);
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(key) = name.strip_suffix(".json").and_then(Key::parse) else { continue };
            if !self.dir(&ArtifactId { kind: Kind::ToolRoot, key }).exists() {
                crate::tree::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn chosen_path(&self, root: &Key) -> PathBuf {
        self.path().join(CHOSEN).join(format!("{root}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_archive::{FakeArchive, release};
    use crate::report::{Notes, Silent};
    use crate::store::State;

    #[test]
    fn an_archive_that_has_moved_on_gives_the_newest_of_the_driver_s_series() {
        let archive = FakeArchive::new();
        archive.offers(&["7.3.4", "7.3.9", "7.4.1"]);
        let root = archive.root();
        let (kernel, _module) = archive.ensure(&root).unwrap();
        assert_eq!(kernel.release(), release("7.3.9"));
        let (kernel, _module) = archive.refresh(&root, &Silent).unwrap();
        assert_eq!(kernel.release(), release("7.3.9"));
    }

    #[test]
    fn a_new_user_succeeds_when_the_suite_has_dropped_the_driver_s_series() {
        let archive = FakeArchive::new();
        archive.offers(&["7.4.1"]);
        archive.offered_then(&["7.3.4"]);
        let root = archive.root();
        let notes = Notes::default();
        let (kernel, _module) = archive.refresh(&root, &notes).unwrap();
        assert_eq!(kernel.release(), release("7.3.4"));
        let note = notes.0.lock().unwrap().join("\n");
        assert!(note.contains("linux-source-7.4 7.4.1-1~bpo13+1"), "{note}");
        let time = crate::recipe::kernel().unwrap().snapshot;
        assert!(note.contains(&time), "{note}");
        let sources = archive.downloaded_from();
        assert!(sources.contains(&time) && sources.contains("check-valid-until=no"), "{sources}");
        let (kernel, _module) = archive.ensure(&root).unwrap();
        assert_eq!(kernel.release(), release("7.3.4"));
    }

    #[test]
    fn a_refresh_whose_module_does_not_build_leaves_what_worked_and_gc_does_too() {
        let archive = FakeArchive::new();
        archive.offers(&["7.3.4"]);
        let root = archive.root();
        let good = archive.ensure(&root).unwrap().0.id().clone();
        archive.offers(&["7.3.5"]);
        archive.breaks_on("7.3.5");
        let error = archive.refresh(&root, &Silent).unwrap_err().to_string();
        assert!(error.contains("error[E0433]: played"), "{error}");
        let newer = archive
            .store
            .list()
            .unwrap()
            .into_iter()
            .find(|entry| entry.id.kind == Kind::Kernel && entry.id != good);
        let newer = newer.expect("the kernel itself was built");
        assert!(matches!(newer.state, State::Stale(_)), "{:?}", newer.state);
        archive.gc(false);
        assert!(archive.has(&good) && !archive.has(&newer.id));
        let asked = archive.times_asked();
        let (kernel, _module) = archive.ensure(&root).unwrap();
        assert_eq!((kernel.id(), kernel.release()), (&good, release("7.3.4").as_str()));
        assert_eq!(archive.times_asked(), asked, "what is there needs no network");
    }

    #[test]
    fn a_refresh_that_works_is_kept_and_the_one_before_goes() {
        let archive = FakeArchive::new();
        archive.offers(&["7.3.4"]);
        let root = archive.root();
        let before = archive.ensure(&root).unwrap().0.id().clone();
        archive.offers(&["7.3.5"]);
        assert_eq!(archive.ensure(&root).unwrap().0.id(), &before, "only a refresh asks again");
        let after = archive.refresh(&root, &Silent).unwrap().0.id().clone();
        assert_eq!(archive.ensure(&root).unwrap().0.id(), &after);
        archive.gc(false);
        assert!(archive.has(&after) && !archive.has(&before));
    }

    #[test]
    fn a_record_that_cannot_be_read_or_whose_kernel_is_gone_is_made_anew() {
        let archive = FakeArchive::new();
        archive.offers(&["7.3.4"]);
        let root = archive.root();
        let good = archive.ensure(&root).unwrap().0.id().clone();
        let record = archive.store_path().join(CHOSEN).join(format!("{}.json", root.key()));
        std::fs::write(&record, "{").unwrap();
        assert_eq!(archive.ensure(&root).unwrap().0.id(), &good);
        assert!(std::fs::read_to_string(&record).unwrap().contains(good.key.as_str()));
        crate::tree::remove(&archive.store.dir(&good)).unwrap();
        assert_eq!(archive.ensure(&root).unwrap().0.id(), &good);
    }

    #[test]
    fn gc_of_all_forgets_the_choice() {
        let archive = FakeArchive::new();
        archive.offers(&["7.3.4"]);
        let root = archive.root();
        archive.ensure(&root).unwrap();
        let record = archive.store_path().join(CHOSEN).join(format!("{}.json", root.key()));
        assert!(record.exists());
        drop(root);
        archive.gc(true);
        assert!(!record.exists());
    }
}
