// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which QEMU runs the guests: the user's (`--qemu`), the host's if it is new enough, else the tool root's, entered
//! through bubblewrap.

use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Program name.
const PROGRAM: &str = "qemu-system-x86_64";
/// First release in which a user can create the device below.
const MIN_VERSION: Version = Version { major: 10, minor: 2 };
/// Front end of the accelerator.
const DEVICE: &str = "vhost-user-test-device-pci";
/// QEMU answers questions about itself in well under a second.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Major and minor number: what decides whether a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// From the first line of `qemu --version`: `QEMU emulator version 11.1.3 (Debian ...)`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.split_once("version ")?.1;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that can run our guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qemu {
    /// A program of the host.
    Host(PathBuf),
    /// The one inside a tool root.
    ToolRoot(PathBuf),
}

impl Qemu {
    /// The user's choice, which must fit, or the host's if it fits, or the tool root's.
    pub fn choose(given: Option<&Path>, tool_root: &Path) -> anyhow::Result<Self> {
        if let Some(path) = given {
            suitable(path)?;
            return Ok(Self::Host(path.to_owned()));
        }
        let host = Path::new(PROGRAM);
        Ok(if suitable(host).is_ok() { Self::Host(host.to_owned()) } else { Self::ToolRoot(tool_root.to_owned()) })
    }

    /// The whole command line. Of the host's files the guest machine sees `shared` only, if QEMU is the tool root's.
    pub fn argv(&self, args: Vec<OsString>, shared: &[&Path]) -> Vec<OsString> {
        let mut argv: Vec<OsString> = match self {
            Self::Host(program) => vec![program.into()],
            Self::ToolRoot(root) => enter(root, shared),
        };
        argv.extend(args);
        argv
    }

    /// Where it comes from, for people and results.
    pub fn origin(&self) -> String {
        match self {
            Self::Host(program) => program.display().to_string(),
            Self::ToolRoot(_) => "tool root".to_owned(),
        }
    }
}

/// Bubblewrap's part of the command line. `--die-with-parent` passes our end on to QEMU.
fn enter(root: &Path, shared: &[&Path]) -> Vec<OsString> {
    let mut argv: Vec<OsString> = ["bwrap", "--die-with-parent", "--ro-bind"].map(Into::into).to_vec();
    argv.push(root.into());
    argv.extend(["/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"].map(Into::into));
    for path in shared {
        argv.extend([OsString::from("--bind"), path.into(), path.into()]);
    }
    argv.extend(["--", PROGRAM].map(Into::into));
    argv
}

/// Is this program a QEMU that has what we need? The error says what is missing.
fn suitable(program: &Path) -> anyhow::Result<()> {
    let text = ask(program, &["--version"])?;
    let version = Version::parse(&text)
        .with_context(|| format!("{} does not tell a QEMU version: {}", program.display(), text.trim()))?;
    if version < MIN_VERSION {
        bail!(
            "{} is QEMU {version}, but {DEVICE} needs {MIN_VERSION} or later; leave --qemu out to use the tool root's",
            program.display()
        );
    }
    if !ask(program, &["-device", "help"])?.contains(DEVICE) {
        bail!(
            "{} is QEMU {version} built without {DEVICE}; leave --qemu out to use the tool root's",
            program.display()
        );
    }
    Ok(())
}

/// Standard output of a short-lived program.
fn ask(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let mut stdout = child.stdout.take().context("standard output was not piped")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let ended = Deadline::after(QUESTION_TIMEOUT).poll(|| child.try_wait().ok().flatten());
    if ended.is_none() {
        child.kill().and_then(|()| child.wait())?;
        bail!("{} {} did not end within {QUESTION_TIMEOUT:?}", program.display(), args.join(" "));
    }
    let Ok(text) = reader.join() else { bail!("output of {} cannot be read", program.display()) };
    Ok(text?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::tests::script;

    fn fake(version: &str, devices: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        let version = format!("QEMU emulator version {version}");
        script(&path, &format!("case $1 in --version) echo '{version}';; *) echo '{devices}';; esac"));
        (dir, path)
    }

    #[test]
    fn a_version_is_read_from_what_qemu_says() {
        let v = |text| Version::parse(text).map(|v| v.to_string());
        assert_eq!(v("QEMU emulator version 11.1.3 (Debian 1:11.1.3)\n"), Some("11.1".into()));
        assert_eq!(v("QEMU emulator version 7.2"), Some("7.2".into()));
        assert_eq!(v("something else"), None);
        assert!(Version::parse("version 9.9.0").unwrap() < MIN_VERSION);
    }

    #[test]
    fn a_given_qemu_that_is_too_old_is_named_with_both_versions() {
        let (_dir, old) = fake("7.2.9", DEVICE);
        let error = Qemu::choose(Some(&old), Path::new("/root")).unwrap_err().to_string();
        assert!(error.contains("is QEMU 7.2, but") && error.contains("needs 10.2"), "{error}");
    }

    #[test]
    fn a_given_qemu_without_the_device_is_refused() {
        let (_dir, bare) = fake("11.0.0", "virtio-blk-pci");
        let error = Qemu::choose(Some(&bare), Path::new("/root")).unwrap_err().to_string();
        assert!(error.contains("built without vhost-user-test-device-pci"), "{error}");
    }

    #[test]
    fn a_given_qemu_that_fits_is_taken() {
        let (_dir, good) = fake("11.0.0", "name \"vhost-user-test-device-pci\", bus PCI");
        assert_eq!(Qemu::choose(Some(&good), Path::new("/root")).unwrap(), Qemu::Host(good));
    }

    #[test]
    fn the_tool_roots_qemu_sees_only_what_is_shared() {
        let qemu = Qemu::ToolRoot("/cache/root".into());
        let argv = qemu.argv(vec!["-smp".into(), "2".into()], &[Path::new("/run/x")]);
        let text: Vec<_> = argv.iter().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(
            text.join(" "),
            "bwrap --die-with-parent --ro-bind /cache/root / --dev-bind /dev /dev --proc /proc --tmpfs /tmp \
             --bind /run/x /run/x -- qemu-system-x86_64 -smp 2"
        );
    }
}
