// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which files are the driver's source: those that kbuild reads, and not what an earlier build left beside them. Used
//! by the build script, which embeds them, and by the library, which reads a directory instead.

use std::io;
use std::path::{Path, PathBuf};

/// Directories of the repository that the module is built from: it includes wire's files by relative path.
pub(crate) const DIRECTORIES: [&str; 2] = ["guest-driver", "wire/src"];

/// Source files below the directories that are there: path from `repository`, and where it is. Sorted.
pub(crate) fn collect(repository: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let path = repository.join(directory);
        if path.is_dir() {
            collect_below(&path, directory, &mut found)?;
        }
    }
    found.sort();
    Ok(found)
}

fn collect_below(path: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (path, below) = (entry.path(), format!("{prefix}/{name}"));
        if path.is_dir() && !name.starts_with('.') {
            collect_below(&path, &below, found)?;
        } else if is_source(&name) {
            found.push((below, path));
        }
    }
    Ok(())
}

fn is_source(name: &str) -> bool {
    let made = name.starts_with('.') || name.ends_with(".mod.c");
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    !made && (name == "Kbuild" || matches!(suffix, Some("rs" | "c" | "h" | "S")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kbuild_made_is_not_source() {
        for name in ["longpin.mod.c", "longpin.o", ".pins.o.cmd", "Module.symvers", "longpin.ko", "README.md"]
        {
            assert!(!is_source(name), "{name}");
        }
        for name in ["Kbuild", "pins.rs", "virtio_glue.c", "virtio_glue.h"] {
            assert!(is_source(name), "{name}");
        }
    }

    #[test]
    fn files_are_named_from_the_repository_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["guest-driver/Kbuild", "guest-driver/a.o", "wire/src/dma.rs", "other/x.rs"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let names: Vec<String> = collect(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["guest-driver/Kbuild", "wire/src/dma.rs"]);
    }
}
