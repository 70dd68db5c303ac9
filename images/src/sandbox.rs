// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entering the tool root by bubblewrap. The root itself stays read-only: /usr and /etc come from it, everything else is
//! an empty tmpfs on which any host path can be bound, so one finished root serves many builds and machines at once.

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host path that a command in the tool root sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    source: PathBuf,
    target: PathBuf,
    option: &'static str,
}

impl Bind {
    /// May be read.
    pub fn read_only(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), "--ro-bind")
    }

    /// May be read and written.
    pub fn read_write(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), "--bind")
    }

    /// A device node, such as /dev/kvm.
    pub fn device(path: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), "--dev-bind")
    }

    /// Seen under another path than on the host.
    pub fn at(mut self, target: impl Into<PathBuf>) -> Self {
        self.target = target.into();
        self
    }

    fn new(path: PathBuf, option: &'static str) -> Self {
        Self { source: path.clone(), target: path, option }
    }
}

/// How this host enters a root.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    bwrap: PathBuf,
    root: PathBuf,
    superuser: bool,
}

/// Inside the root. Not the host's: its entries may not exist there.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// What commands inside may know of the host's environment: how to show text, and how to reach a mirror.
const KEPT_ENVIRONMENT: [&str; 8] = [
    "TERM",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "RUST_BACKTRACE",
];

impl Sandbox {
    /// Errors: `MissingProgram` for bubblewrap.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let bwrap = find_program("bwrap", "bubblewrap", "enter the tool root")?;
        Ok(Self { bwrap, root: root.to_owned(), superuser: is_superuser() })
    }

    #[cfg(test)]
    pub(crate) fn played_by(player: &Path, root: &Path) -> Self {
        Self { bwrap: player.to_owned(), root: root.to_owned(), superuser: true }
    }

    /// `program` in the root, with a clean environment; arguments, directory and more variables are the caller's.
    /// The command ends with its parent process, and takes along all that it started.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, binds: &[Bind]) -> Command {
        let mut command = Command::new(&self.bwrap);
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
        for name in KEPT_ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if !self.superuser {
            command.args(["--unshare-user", "--uid", "0", "--gid", "0"]);
        }
        command.args(["--unshare-pid", "--die-with-parent"]);
        for dir in ["usr", "etc", "var/lib/dpkg"] {
            self.show(&mut command, Path::new(dir), binds);
        }
        for dir in ["bin", "sbin", "lib", "lib64"] {
            command.args(["--symlink", &format!("usr/{dir}"), &format!("/{dir}")]);
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]);
        for dir in ["/tmp", "/run", "/root", "/var/tmp", "/var/cache", "/var/log"] {
            command.args(["--dir", dir]);
        }
        for bind in binds {
            command.arg(bind.option).arg(&bind.source).arg(&bind.target);
        }
        command.args(["--chdir", "/", "--"]).arg(program);
        command
    }

    /// `dir` of the root, read-only. Where a bind is to lie below it (a checkout in /usr/src, a store in /usr/local), a
    /// place for that can only be made in a directory of the sandbox's own, which then shows each entry of the root's.
    fn show(&self, command: &mut Command, dir: &Path, binds: &[Bind]) {
        let (source, target) = (self.root.join(dir), Path::new("/").join(dir));
        let is_above = |bind: &Bind| bind.target != target && bind.target.starts_with(&target);
        // What cannot be listed is refused by bubblewrap, which names it.
        let entries = std::fs::read_dir(&source).ok().filter(|_| binds.iter().any(is_above));
        let Some(entries) = entries else {
            command.arg("--ro-bind").arg(source).arg(target);
            return;
        };
        command.arg("--dir").arg(target);
        for entry in entries.flatten() {
            let path = dir.join(entry.file_name());
            match std::fs::read_link(entry.path()) {
                Ok(link) => drop(command.arg("--symlink").arg(link).arg(Path::new("/").join(path))),
                Err(_) => self.show(command, &path, binds),
            }
        }
    }
}

/// Whether this process may do all that root may.
pub(crate) fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

/// Looks for a host program in PATH, and where distributions keep it for root.
pub(crate) fn find_program(program: &str, package: &str, purpose: &'static str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = std::env::split_paths(PATH).collect::<Vec<_>>();
    let found = std::env::split_paths(&path)
        .chain(standard)
        .map(|dir| dir.join(program))
        .find(|path| path.is_absolute() && is_executable(path));
    found.ok_or_else(|| Error::MissingProgram {
        program: program.to_owned(),
        package: package.to_owned(),
        purpose,
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(superuser: bool, binds: &[Bind]) -> String {
        let sandbox = Sandbox { bwrap: "/usr/bin/bwrap".into(), root: "/store/root".into(), superuser };
        let command = sandbox.command("make", binds);
        command.get_args().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_ordinary_user_becomes_root_inside_and_root_stays_what_it_is() {
        assert!(arguments(false, &[]).starts_with("--unshare-user --uid 0 --gid 0 --unshare-pid"));
        assert!(
            arguments(true, &[])
                .starts_with("--unshare-pid --die-with-parent --ro-bind /store/root/usr /usr")
        );
    }

    #[test]
    fn binds_come_last_before_the_program_so_that_they_lie_on_top() {
        let binds = [
            Bind::read_write("/artifact"),
            Bind::read_only("/store/kernel").at("/longpin/linux"),
            Bind::device("/dev/kvm"),
        ];
        let text = arguments(true, &binds);
        assert!(
            text.ends_with(
                "--bind /artifact /artifact --ro-bind /store/kernel /longpin/linux --dev-bind /dev/kvm /dev/kvm \
                 --chdir / -- make"
            ),
            "{text}"
        );
    }

    /// By the real program, on a root that is as good as empty: the checkout may be anywhere.
    #[test]
    fn what_lies_below_usr_on_the_host_has_a_place_beside_the_root_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let (root, store) = (dir.path().join("root"), dir.path().join("store"));
        for name in ["usr/bin", "usr/local/share", "etc", "var/lib/dpkg"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("file"), "of the host").unwrap();
        std::fs::write(root.join("usr/local/share/file"), "of the root").unwrap();
        std::os::unix::fs::symlink("share/file", root.join("usr/local/link")).unwrap();
        // The host's shell and what it is linked to, whatever that is: not a part of the root that is looked at.
        let binds = ["/usr/bin", "/usr/lib", "/usr/lib64"].map(Bind::read_only);
        let binds = binds.into_iter().filter(|bind| bind.source.exists());
        let below = Bind::read_only(&store).at("/usr/local/src/longpin");
        let binds: Vec<Bind> = binds.chain([below]).collect();
        let sandbox = Sandbox { root, ..Sandbox::new(Path::new("/")).unwrap() };
        let files = ["/usr/local/src/longpin/file", "/usr/local/share/file", "/usr/local/link"];
        let output = sandbox.command("cat", &binds).args(files).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "of the hostof the rootof the root", "{told}");
    }

    #[test]
    fn a_missing_program_names_its_package_and_the_command_that_installs_it() {
        let error = find_program("no-such-program", "its-package", "do it").unwrap_err().to_string();
        assert_eq!(
            error,
            "`no-such-program` is not in PATH, and it is needed to do it; \
             install it: apt-get install --yes its-package"
        );
    }
}
