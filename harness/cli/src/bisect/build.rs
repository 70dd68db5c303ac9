// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Building what a commit has, and whose fault it is when that fails: the commit's, or the host's.

use crate::error::{Error, Result};
use crate::images::{Brought, Images};
use crate::kernel_choice::KernelChoice;
use anyhow::Context as _;
use longpin_core::bisect::Try;
use longpin_images::Error as ImageError;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the compiler's words in the directory of a step.
const LOG: &str = "build.log";
/// How `longpin-images` names it, in the directory that it builds in.
const LOG_IN_PLACE: &str = "longpin-build.log";

/// What a compiler says when the host has no memory left: nothing that the commit could do anything for.
const NO_MEMORY: [&str; 4] = [
    "Killed signal terminated program",
    "virtual memory exhausted",
    "Cannot allocate memory",
    "out of memory allocating",
];

/// The module of `source` for a kernel, copied into `dir`; or why there is none. `name`: which, where it makes several.
///
/// Errors: `Usage` where the user has to choose.
pub fn module(
    kernel: &KernelChoice,
    source: &Path,
    name: Option<&Path>,
    dir: &Path,
) -> Result<std::result::Result<PathBuf, Try>> {
    let images = match Images::ensure(kernel, Brought::default(), false, []) {
        Ok(images) => images,
        Err(Error::Infra(error)) => return Ok(Err(Try::Lab { why: format!("{error:#}") })),
        Err(error) => return Err(error),
    };
    let include = tempfile::tempdir().context("no directory for a header")?;
    let built = images.build_modules(source, include.path());
    let log = source.join(LOG_IN_PLACE);
    if log.is_file() {
        let copy = dir.join(LOG);
        fs::copy(&log, &copy).with_context(|| format!("{} cannot be written", copy.display()))?;
    }
    let built = match built {
        Ok(built) => built,
        Err(error @ ImageError::UnfitKernel { .. }) => {
            return Err(Error::Usage(format!("--kernel: {error}")));
        }
        Err(error) => return Ok(Err(failure(&error, &dir.join(LOG)))),
    };
    let module = match chosen(&built, name) {
        Ok(module) => module,
        Err(Chosen::Several(names)) => {
            return Err(Error::Usage(format!(
                "--module-dir {}: it makes several modules; name the one to load: --module-name {}",
                source.display(),
                names.join(" or ")
            )));
        }
        Err(Chosen::None(why)) => return Ok(Err(Try::NoBuild { why })),
    };
    let copy = dir.join(module.file_name().unwrap_or_default());
    fs::copy(module, &copy).with_context(|| format!("{} cannot be written", copy.display()))?;
    Ok(Ok(copy))
}

/// Why there is not one module.
#[derive(Debug, PartialEq)]
enum Chosen {
    Several(Vec<String>),
    None(String),
}

fn chosen<'b>(built: &'b [PathBuf], name: Option<&Path>) -> std::result::Result<&'b Path, Chosen> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
    let names = || built.iter().map(|path| stem(path)).collect::<Vec<_>>();
    match (built, name.map(stem)) {
        ([], _) => Err(Chosen::None("it makes no module".to_owned())),
        ([only], None) => Ok(only),
        (_, None) => Err(Chosen::Several(names())),
        (built, Some(name)) => built
            .iter()
            .find(|path| stem(path) == name)
            .map(PathBuf::as_path)
            .ok_or_else(|| Chosen::None(format!("it makes {}, and no {name}", names().join(", ")))),
    }
}

/// A failed build is the commit's, unless the host kept it from its end.
fn failure(error: &ImageError, log: &Path) -> Try {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let host = text.lines().find(|line| NO_MEMORY.iter().any(|words| line.contains(words)));
    match error {
        _ if host.is_some() => {
            Try::Lab { why: format!("the host has no memory for the compiler: {}", host.unwrap_or_default()) }
        }
        ImageError::CommandFailed { tail, .. } => Try::NoBuild { why: complaint(tail).to_owned() },
        ImageError::Deadline { .. } | ImageError::ModuleMismatch { .. } | ImageError::Unreadable { .. } => {
            Try::NoBuild { why: error.to_string() }
        }
        // modules.order is not there: it made nothing.
        ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Try::NoBuild { why: error.to_string() }
        }
        _ => Try::Lab { why: error.to_string() },
    }
}

/// The first line that says what is wrong, else the last.
fn complaint(tail: &str) -> &str {
    let complains = |line: &&str| line.contains("error") || line.contains("ERROR") || line.contains("***");
    tail.lines().find(complains).or_else(|| tail.lines().last()).unwrap_or(tail).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(tail: &str, words: &str) -> Try {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join(LOG);
        fs::write(&log, words).unwrap();
        let error = ImageError::CommandFailed {
            what: "build".into(),
            status: "exit status: 2".into(),
            tail: tail.into(),
            log: log.clone(),
        };
        failure(&error, &log)
    }

    #[test]
    fn a_build_that_the_host_kept_from_its_end_says_nothing_of_the_commit() {
        let tail = "    a.c:3:1: error: expected `;`\n    make: *** Error 2";
        assert_eq!(failed(tail, tail), Try::NoBuild { why: "a.c:3:1: error: expected `;`".into() });
        let words = "cc1: fatal error: Killed signal terminated program cc1\nmake: *** Error 1";
        assert!(matches!(failed(words, words), Try::Lab { why } if why.contains("no memory")));
        let full = ImageError::StoreFull { action: "write", path: "/x".into() };
        assert!(matches!(failure(&full, Path::new("/nonexistent")), Try::Lab { .. }));
    }

    #[test]
    fn of_several_modules_one_must_be_named_and_of_one_none() {
        let built: Vec<PathBuf> = ["/d/a.ko", "/d/b-c.ko"].map(PathBuf::from).into();
        assert_eq!(chosen(&built, Some(Path::new("b_c"))), Ok(Path::new("/d/b-c.ko")));
        assert_eq!(chosen(&built, Some(Path::new("a.ko"))), Ok(Path::new("/d/a.ko")));
        assert_eq!(chosen(&built[..1], None), Ok(Path::new("/d/a.ko")));
        assert_eq!(chosen(&built, None), Err(Chosen::Several(vec!["a".into(), "b_c".into()])));
        assert_eq!(
            chosen(&built, Some(Path::new("d"))),
            Err(Chosen::None("it makes a, b_c, and no d".into()))
        );
        assert!(matches!(chosen(&[], None), Err(Chosen::None(_))));
    }
}
