// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Building what a commit has, and whose fault it is when that fails: the commit's, or the host's.

use super::git;
use crate::child::Child;
use crate::error::{Error, Result};
use crate::images::{Brought, Images, build_kernel};
use crate::interrupt::Interrupt;
use crate::kernel_choice::KernelChoice;
use crate::output;
use anyhow::Context as _;
use longpin_core::bisect::Try;
use longpin_images::{Error as ImageError, config_difference};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the build of a device may take: a large project from nothing, on a small machine.
const DEVICE_LIMIT: Duration = Duration::from_secs(3600);

/// Name of the compiler's words in the directory of a step.
const LOG: &str = "build.log";
/// How `longpin-images` names it, in the directory that it builds in.
const LOG_IN_PLACE: &str = "longpin-build.log";

/// A build was under way; it is there as long as one is, and after one that was killed.
const BUILDING: &str = "building";
/// What the step before was configured with.
const LAST_CONFIG: &str = "last.config";

/// Two releases differ in thousands of lines.
const MOST_CONFIG_LINES: usize = 40;

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

/// What `command` makes at `made` in `source`, copied into `dir`; or why there is none.
pub fn device(
    source: &Path,
    command: &str,
    made: &Path,
    dir: &Path,
) -> Result<std::result::Result<PathBuf, Try>> {
    let (log, made) = (dir.join(LOG), source.join(made));
    // What is there afterwards is this commit's.
    if let Err(error) = fs::remove_file(&made)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Ok(Err(Try::Lab { why: format!("{} cannot be removed: {error}", made.display()) }));
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(source);
    let interrupt = Interrupt::install()?;
    let mut build = match Child::spawn("the build of the device", shell, &log) {
        Ok(build) => build,
        Err(error) => return Ok(Err(Try::Lab { why: format!("{error:#}") })),
    };
    let late = crossbeam_channel::after(DEVICE_LIMIT);
    crossbeam_channel::select! {
        recv(build.exited()) -> _ => {}
        // Killed with its handle.
        recv(interrupt.signalled()) -> _ => return Err(Error::Interrupted),
        recv(late) -> _ => {
            let why = format!("`{command}` was not done within {} min", DEVICE_LIMIT.as_secs() / 60);
            return Ok(Err(Try::NoBuild { why }));
        }
    }
    let status = build.ended().context("a build that has ended has no status")?;
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if let Some(why) = no_memory(&text).filter(|_| !status.success()) {
        return Ok(Err(Try::Lab { why }));
    }
    let why = match (status.success(), made.is_file()) {
        (true, true) => {
            let copy = dir.join(made.file_name().unwrap_or_default());
            fs::copy(&made, &copy).with_context(|| format!("{} cannot be written", copy.display()))?;
            return Ok(Ok(copy));
        }
        (true, false) => format!("`{command}` makes no {}", made.display()),
        (false, _) => format!("`{command}`: {status}: {}", complaint(&text)),
    };
    Ok(Err(Try::NoBuild { why }))
}

/// Configure and build the kernel that is checked out in `source`, in place; why that cannot be, if it cannot. How its
/// configuration differs from the last step's is told, and kept.
pub fn kernel(source: &Path, base: Option<&str>, out: &Path, dir: &Path) -> Result<Option<Try>> {
    let marker = out.join(BUILDING);
    if marker.exists() {
        remove_half_built(source, &marker)?;
    }
    let write = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    };
    write(&marker, "")?;
    let built = build_kernel(source, base, &dir.join(LOG), |config| {
        let last = out.join(LAST_CONFIG);
        let before = fs::read_to_string(&last).unwrap_or_default();
        let lines = config_difference(&before, config);
        if !before.is_empty() {
            output::note(&told(&lines));
            write(&dir.join("config.diff"), &(lines.join("\n") + "\n"))?;
        }
        write(&dir.join("config"), config)?;
        write(&last, config)
    });
    let done = || fs::remove_file(&marker).with_context(|| format!("{} cannot be removed", marker.display()));
    match built {
        Ok(Ok(())) => {
            done()?;
            Ok(None)
        }
        Ok(Err(error)) => {
            // make has taken away what it had not finished, unless it was stopped.
            if matches!(error, ImageError::CommandFailed { .. }) {
                done()?;
            }
            Ok(Some(failure(&error, &dir.join(LOG))))
        }
        Err(error) => Ok(Some(Try::Lab { why: format!("{error:#}") })),
    }
}

/// The difference of two configurations, for people; all of it is in `config.diff`.
fn told(lines: &[String]) -> String {
    if lines.is_empty() {
        return "configuration: as in the step before".to_owned();
    }
    let shown = &lines[..lines.len().min(MOST_CONFIG_LINES)];
    let mut text = format!("configuration, against the step before:\n  {}", shown.join("\n  "));
    if shown.len() < lines.len() {
        text.push_str(&format!("\n  ... and {} lines more", lines.len() - shown.len()));
    }
    text
}

/// A compiler that was killed leaves half an object, which is newer than its source: make would take it for finished.
fn remove_half_built(source: &Path, marker: &Path) -> anyhow::Result<()> {
    let modified = |path: &Path| fs::symlink_metadata(path).and_then(|meta| meta.modified());
    let began = modified(marker).with_context(|| format!("{} cannot be looked at", marker.display()))?;
    let mut removed = 0;
    for path in git::untracked(source)? {
        if modified(&path).is_ok_and(|time| time >= began) {
            fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
            removed += 1;
        }
    }
    output::note(&format!("a build was cut off: {removed} files that it made are made again"));
    Ok(())
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

/// What a compiler says that was not let finish.
fn no_memory(log: &str) -> Option<String> {
    let line = log.lines().find(|line| NO_MEMORY.iter().any(|words| line.contains(words)))?;
    Some(format!("the host has no memory for the compiler: {line}"))
}

/// A failed build is the commit's, unless the host kept it from its end.
fn failure(error: &ImageError, log: &Path) -> Try {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if let Some(why) = no_memory(&text) {
        return Try::Lab { why };
    }
    match error {
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
    fn what_a_killed_compiler_left_is_made_again_and_nothing_else() {
        let (tree, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git = |words: &[&str]| {
            let who = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
            let status =
                std::process::Command::new("git").arg("-C").arg(tree.path()).args(who).args(words).status();
            assert!(status.unwrap().success());
        };
        let at = |name: &str| tree.path().join(name);
        git(&["init", "--quiet"]);
        fs::write(at(".gitignore"), "*.o\n").unwrap();
        fs::write(at("a.c"), "").unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "a"]);
        fs::write(at("whole.o"), "").unwrap();
        let marker = out.path().join(BUILDING);
        fs::write(&marker, "").unwrap();
        let began = fs::metadata(&marker).unwrap().modified().unwrap();
        let set = |name: &str, seconds: i64| {
            let time = match seconds < 0 {
                true => began - std::time::Duration::from_secs(seconds.unsigned_abs()),
                false => began + std::time::Duration::from_secs(seconds as u64),
            };
            fs::File::options().write(true).open(at(name)).unwrap().set_modified(time).unwrap();
        };
        fs::write(at("half.o"), "").unwrap();
        set("whole.o", -10);
        set("half.o", 10);
        set("a.c", 10);
        remove_half_built(tree.path(), &marker).unwrap();
        assert!(at("whole.o").exists() && at("a.c").exists() && !at("half.o").exists());
    }

    #[test]
    fn a_configuration_that_drifts_is_told_and_one_that_changes_wholly_is_cut() {
        let lines = |n: usize| (1..=n).map(|n| format!("+CONFIG_{n}=y")).collect::<Vec<_>>();
        assert_eq!(told(&[]), "configuration: as in the step before");
        assert!(told(&lines(2)).ends_with("before:\n  +CONFIG_1=y\n  +CONFIG_2=y"));
        let cut = told(&lines(100));
        assert!(cut.ends_with("+CONFIG_40=y\n  ... and 60 lines more"), "{cut}");
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
