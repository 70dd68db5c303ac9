// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `manifest.json` of an artifact: what it is, what it was made from, and what that took. Written last, so a directory
//! without one is not an artifact.

use crate::error::{Error, Result};
use crate::key::Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Version of the file's format.
const SCHEMA: u32 = 1;
/// Name of the file.
pub(crate) const FILE: &str = "manifest.json";

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Compilers, file system tools, QEMU.
    ToolRoot,
    /// Package lists, and the kernel version chosen from them.
    Packages,
    /// vmlinuz, modules, prepared source.
    Kernel,
    /// longpin.ko.
    Module,
    /// What the guest boots into.
    Initramfs,
}

impl Kind {
    /// All of them, in the order of building.
    pub const ALL: [Self; 5] = [Self::ToolRoot, Self::Packages, Self::Kernel, Self::Module, Self::Initramfs];

    /// As in directory names and lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToolRoot => "tool-root",
            Self::Packages => "packages",
            Self::Kernel => "kernel",
            Self::Module => "module",
            Self::Initramfs => "initramfs",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Name of an artifact: its kind and the key of its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArtifactId {
    /// Kind.
    pub kind: Kind,
    /// Key.
    pub key: Key,
}

impl ArtifactId {
    /// From a directory's name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (kind, key) = name.rsplit_once('-')?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        Some(Self { kind, key: Key::parse(key)? })
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.key)
    }
}

/// Record of a finished artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub schema: u32,
    /// Kind and key.
    pub id: ArtifactId,
    /// Which series it belongs to: of one series only the last used artifact is current.
    pub series: String,
    /// Artifacts that it was made from.
    pub parents: Vec<ArtifactId>,
    /// Everything that the key covers; long inputs by their hash.
    pub inputs: BTreeMap<String, String>,
    /// Versions of packages and programs that went in.
    pub versions: BTreeMap<String, String>,
    /// Facts about the result, such as the kernel's release.
    pub facts: BTreeMap<String, String>,
    /// Time of completion, seconds since 1970.
    pub created_unix_s: u64,
    /// Seconds that the build took.
    pub build_seconds: f64,
    /// Bytes on disk.
    pub size_bytes: u64,
}

impl Manifest {
    /// The format's version that this crate writes.
    pub(crate) const fn schema() -> u32 {
        SCHEMA
    }

    /// Reads the manifest of a directory; none if the directory is not a finished artifact.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let unreadable = |problem: String| Error::Unreadable {
            what: path.display().to_string(),
            problem,
            remedy: "remove that directory, and it is built again",
        };
        let manifest: Self = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        if manifest.schema != SCHEMA {
            return Err(unreadable(format!("schema is {}, this longpin knows {SCHEMA}", manifest.schema)));
        }
        Ok(Some(manifest))
    }

    /// Writes it into a directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).expect("maps of strings and numbers are valid JSON");
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// A fact that the builder always records.
    pub(crate) fn fact(&self, name: &str) -> Result<&str> {
        self.facts.get(name).map(String::as_str).ok_or_else(|| Error::Unreadable {
            what: format!("manifest of {}", self.id),
            problem: format!("no fact `{name}`"),
            remedy: "remove that directory, and it is built again",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_says_kind_and_key() {
        for kind in Kind::ALL {
            let id = ArtifactId { kind, key: Key::of_bytes(b"x") };
            assert_eq!(ArtifactId::parse(&id.to_string()), Some(id));
        }
        for other in ["tool-root", "logs", "tool-root-123", "thing-00000000000000000000", ""] {
            assert_eq!(ArtifactId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_without_manifest_is_not_an_artifact() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        assert_eq!(Manifest::read(&dir.path().join("absent")).unwrap(), None);
    }

    #[test]
    fn a_broken_manifest_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.json cannot be read"), "{error}");
        assert!(error.ends_with("remove that directory, and it is built again"), "{error}");
    }
}
