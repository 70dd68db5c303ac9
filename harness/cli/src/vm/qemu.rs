// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which QEMU runs the guests: the user's (`--qemu`), the host's if it is new enough, else the tool root's.

use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use longpin_images::{Bind, ToolRoot};
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Program name.
const PROGRAM: &str = "qemu-system-x86_64";
/// First release in which a user can create the device below.
const MIN_VERSION: Version = Version { major: 10, minor: 2 };
/// Front end of the accelerator.
const DEVICE: &str = "vhost-user-test-device-pci";
/// Device node of KVM.
const KVM: &str = "/dev/kvm";
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
#[derive(Debug, Clone)]
pub enum Qemu {
    /// A program of the host.
    Host(PathBuf),
    /// The one inside the tool root.
    ToolRoot(Arc<ToolRoot>),
}

impl Qemu {
    /// The user's choice, which must fit, or the host's if it fits, or the tool root's.
    pub fn choose(given: Option<&Path>, tool_root: &Arc<ToolRoot>) -> anyhow::Result<Self> {
        if let Some(path) = given {
            suitable(path)?;
            return Ok(Self::Host(path.to_owned()));
        }
        Ok(Self::of_host().unwrap_or_else(|| Self::ToolRoot(Arc::clone(tool_root))))
    }

    /// The host's own, if it fits.
    pub fn of_host() -> Option<Self> {
        let program = Path::new(PROGRAM);
        suitable(program).is_ok().then(|| Self::Host(program.to_owned()))
    }

    /// The command. Of the host's files a machine in the tool root sees `read_only` and `read_write` alone.
    pub fn command(&self, args: Vec<OsString>, read_only: &[&Path], read_write: &[&Path]) -> Command {
        let mut command = match self {
            Self::Host(program) => Command::new(program),
            Self::ToolRoot(root) => {
                let mut binds: Vec<Bind> = read_only.iter().map(Bind::read_only).collect();
                binds.extend(read_write.iter().map(Bind::read_write));
                if Path::new(KVM).exists() {
                    binds.push(Bind::device(KVM));
                }
                root.command(PROGRAM, &binds)
            }
        };
        command.args(args);
        command
    }

    /// The same for the same program, and for no other.
    pub fn identity(&self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Host(program) => format!("{} {}", program.display(), ask(program, &["--version"])?.trim()),
            Self::ToolRoot(root) => format!("{} {}", root.key(), root.packages_hash()?),
        })
    }

    /// Where it comes from, for people and results.
    pub fn origin(&self) -> String {
        match self {
            Self::Host(program) => program.display().to_string(),
            Self::ToolRoot(_) => format!("{PROGRAM} of the tool root"),
        }
    }
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
    fn a_qemu_that_is_too_old_is_named_with_both_versions() {
        let (_dir, old) = fake("7.2.9", DEVICE);
        let error = suitable(&old).unwrap_err().to_string();
        assert!(error.contains("is QEMU 7.2, but") && error.contains("needs 10.2"), "{error}");
    }

    #[test]
    fn a_qemu_without_the_device_is_refused() {
        let (_dir, bare) = fake("11.0.0", "virtio-blk-pci");
        let error = suitable(&bare).unwrap_err().to_string();
        assert!(error.contains("built without vhost-user-test-device-pci"), "{error}");
    }

    #[test]
    fn a_qemu_that_has_both_is_suitable() {
        let (_dir, good) = fake("11.0.0", "name \"vhost-user-test-device-pci\", bus PCI");
        suitable(&good).unwrap();
    }

    #[test]
    fn a_program_that_is_no_qemu_is_named() {
        let error = suitable(Path::new("/bin/true")).unwrap_err().to_string();
        assert!(error.starts_with("/bin/true does not tell a QEMU version"), "{error}");
    }
}
