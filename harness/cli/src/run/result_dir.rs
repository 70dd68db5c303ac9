// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory that a run leaves behind, and `latest` beside it.

use crate::error::{Error, Result};
use crate::whole_file;
use anyhow::Context as _;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Parent of directories that we name ourselves.
const DEFAULT_PARENT: &str = "longpin-results";
/// Link to the last of them.
const LATEST: &str = "latest";

/// A result directory of our own.
#[derive(Debug)]
pub struct ResultDir {
    path: PathBuf,
    /// The directory was not there before.
    ours: bool,
    /// The name was our choice, so `latest` may point to it.
    unnamed: bool,
}

impl ResultDir {
    /// Make `given`, which must be empty or absent, or a new directory named after time and seed.
    pub fn create(given: Option<&Path>, seed: u32) -> Result<Self> {
        let (path, ours) = match given {
            Some(path) => {
                let ours = !path.exists();
                fs::create_dir_all(path).map_err(|error| cannot_create(path, &error))?;
                let mut entries = fs::read_dir(path).map_err(|error| cannot_create(path, &error))?;
                if entries.next().is_some() {
                    return Err(Error::Usage(format!(
                        "--out {}: the directory is not empty; name another one or remove its content",
                        path.display()
                    )));
                }
                (path.to_owned(), ours)
            }
            None => (Self::create_default(Path::new(DEFAULT_PARENT), seed)?, true),
        };
        let cases = path.join("cases");
        fs::create_dir(&cases).map_err(|error| cannot_create(&cases, &error))?;
        Ok(Self { path, ours, unnamed: given.is_none() })
    }

    fn create_default(parent: &Path, seed: u32) -> Result<PathBuf> {
        let name = format!("{}-{seed}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
        fs::create_dir_all(parent).map_err(|error| cannot_create(parent, &error))?;
        // Two runs of one seed may begin in the same second.
        let names = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
        for path in names.map(|name| parent.join(name)) {
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_create(&path, &error)),
            }
        }
        unreachable!("numbers do not end")
    }

    /// The run begins: a directory of our own naming becomes `latest`.
    pub fn announce(&self) -> anyhow::Result<()> {
        match (self.unnamed, self.path.parent(), self.path.file_name().and_then(|name| name.to_str())) {
            (true, Some(parent), Some(name)) => {
                point_to(parent, name).with_context(|| format!("link {}/{LATEST}", parent.display()))
            }
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Write a document.
    pub fn write_json(&self, name: &str, document: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(document).context("document cannot be written as JSON")?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Write a file. It is there whole or not at all.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        whole_file::write(&path, content).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Write the record of a case. `name` may hold any character.
    pub fn write_case(&self, name: &str, record: &impl Serialize) -> anyhow::Result<()> {
        self.write_json(&format!("cases/{}.json", file_name(name)), record)
    }

    /// Take it away again if nothing came of the run. A directory that was there before stays.
    pub fn remove_if_empty(self) {
        // Directories that hold something stay: remove_dir refuses.
        let _ = fs::remove_dir(self.path.join("cases"));
        if self.ours {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn cannot_create(path: &Path, error: &io::Error) -> Error {
    Error::Infra(anyhow::anyhow!("result directory {} cannot be created: {error}", path.display()))
}

/// Make `parent/latest` point to `name`, in one step.
fn point_to(parent: &Path, name: &str) -> io::Result<()> {
    let new = parent.join(format!(".{LATEST}-{}", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(name, &new)?;
    fs::rename(&new, parent.join(LATEST))
}

/// `lost-update/ext4/pin/clean#2` -> `lost-update.ext4.pin.clean#2`; what a shell would mind becomes `_`.
pub fn file_name(label: &str) -> String {
    let safe = |c: char| match c {
        '/' => '.',
        c if c.is_ascii_alphanumeric() || "-_.#=:".contains(c) => c,
        _ => '_',
    };
    label.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_content_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        match ResultDir::create(Some(dir.path()), 1) {
            Err(Error::Usage(text)) => assert!(text.contains("not empty"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn latest_points_to_the_newest_run_that_began() {
        let parent = tempfile::tempdir().unwrap();
        let latest = || parent.path().join(LATEST).canonicalize();
        let new = || {
            let path = ResultDir::create_default(parent.path(), 1).unwrap();
            ResultDir { path, ours: true, unnamed: true }
        };
        let first = new();
        assert!(latest().is_err(), "nothing began yet");
        first.announce().unwrap();
        let second = new();
        assert_ne!(first.path, second.path, "the same seed in the same second");
        assert_eq!(latest().unwrap(), first.path.canonicalize().unwrap());
        second.announce().unwrap();
        assert_eq!(latest().unwrap(), second.path.canonicalize().unwrap());
    }

    #[test]
    fn an_empty_directory_of_the_user_s_stays_when_nothing_came_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        ResultDir::create(Some(dir.path()), 1).unwrap().remove_if_empty();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_stayed_empty_goes_and_one_with_results_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("r");
        ResultDir::create(Some(&path), 1).unwrap().remove_if_empty();
        assert!(!path.exists());
        let dir = ResultDir::create(Some(&path), 1).unwrap();
        dir.write_case("a/b#2", &1).unwrap();
        dir.remove_if_empty();
        assert_eq!(fs::read_to_string(path.join("cases/a.b#2.json")).unwrap(), "1\n");
    }

    #[test]
    fn a_case_label_becomes_one_file_name() {
        assert_eq!(
            file_name("x/ext4:data=journal,noatime/pin/clean#2"),
            "x.ext4:data=journal_noatime.pin.clean#2"
        );
    }
}
