// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong while an artifact is made or looked for. Each message names the object, the value and a remedy;
//! a failed command also names the log with its whole output.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Trouble with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A host program is missing.
    #[error(
        "`{program}` is not in PATH, and it is needed to {purpose}; install it: apt-get install --yes {package}"
    )]
    MissingProgram {
        /// What was looked for.
        program: String,
        /// Debian package that has it.
        package: String,
        /// What it is for.
        purpose: &'static str,
    },
    /// No place for the store.
    #[error(
        "no place for the image store: none of LONGPIN_CACHE, XDG_CACHE_HOME and HOME is set to an absolute path; \
         set LONGPIN_CACHE to a directory with 6 GiB free"
    )]
    NoCacheDirectory,
    /// A time that names no state of the archive.
    #[error("LONGPIN_SNAPSHOT is `{given}`, which is no time of the archive; write it as 20261126T000000Z")]
    NoSuchDate {
        /// As it was given.
        given: String,
    },
    /// An operation on a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb.
        action: &'static str,
        /// Object.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
    /// The disk of the store is full.
    #[error(
        "cannot {action} {}: no space left on the device; remove what is stale with `longpin image gc`, or set \
         LONGPIN_CACHE to a directory with 6 GiB free", path.display()
    )]
    StoreFull {
        /// Verb.
        action: &'static str,
        /// Object.
        path: PathBuf,
    },
    /// A recipe that was compiled in cannot be read; a bug that a unit test catches.
    #[error("recipe {name} is not valid: {message}")]
    Recipe {
        /// File name.
        name: &'static str,
        /// Parser's words.
        message: String,
    },
    /// A command ended with a failure that we have no better words for.
    #[error("{what} failed ({status}):\n{tail}\nthe whole output is in {}", log.display())]
    CommandFailed {
        /// What the command was for.
        what: String,
        /// How it ended.
        status: String,
        /// Its telling lines.
        tail: String,
        /// All its lines.
        log: PathBuf,
    },
    /// A package server could not be reached.
    #[error(
        "{what} failed: package server `{host}` cannot be reached ({reason}); check the network, the proxy \
         (http_proxy) and LONGPIN_MIRROR; the whole output is in {}", log.display()
    )]
    NoNetwork {
        /// What was being done.
        what: String,
        /// Server, or the address as it was printed.
        host: String,
        /// apt's words.
        reason: String,
        /// All lines.
        log: PathBuf,
    },
    /// A package is not to be had.
    #[error(
        "{what} failed: package `{package}` is not in the suite; see `apt-cache policy {package}` on the mirror, or \
         change images/recipes; the whole output is in {}", log.display()
    )]
    NoPackage {
        /// What was being done.
        what: String,
        /// Name that was looked for.
        package: String,
        /// All lines.
        log: PathBuf,
    },
    /// The disk is full.
    #[error(
        "{what} failed: no space left on the device of {}; {remedy}; the whole output is in {}",
        place.display(), log.display()
    )]
    DiskFull {
        /// What was being done.
        what: String,
        /// Where.
        place: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// All lines.
        log: PathBuf,
    },
    /// The packages are signed by a key that this host does not know, or nothing there can look.
    #[error(
        "{what} failed: the signature of the package lists cannot be checked ({reason}); install the keys and gpg \
         (apt-get install --yes debian-archive-keyring gpg), or add the mirror's key to /etc/apt/trusted.gpg.d; the whole \
         output is in {}", log.display()
    )]
    Unsigned {
        /// What was being done.
        what: String,
        /// apt's words.
        reason: String,
        /// All lines.
        log: PathBuf,
    },
    /// Root without the rights of root, as in most containers.
    #[error(
        "{what} failed: {reason}; root here may not make namespaces and mounts, as in a container without rights: start \
         it with them (--privileged, or --cap-add SYS_ADMIN with seccomp and AppArmor off), or run longpin as an \
         ordinary user; the whole output is in {}", log.display()
    )]
    PowerlessRoot {
        /// What was being done.
        what: String,
        /// The program's words.
        reason: String,
        /// All lines.
        log: PathBuf,
    },
    /// A user may not make user namespaces, or has no subordinate ids.
    #[error(
        "{what} failed: user namespaces cannot be used ({reason}); as an ordinary user longpin needs the package \
         uidmap, a range in /etc/subuid and /etc/subgid (usermod --add-subuids 100000-165535 --add-subgids \
         100000-165535 USER) and unprivileged user namespaces; or run as root; the whole output is in {}",
        log.display()
    )]
    NoUserNamespace {
        /// What was being done.
        what: String,
        /// The program's words.
        reason: String,
        /// All lines.
        log: PathBuf,
    },
    /// A command took too long and was ended.
    #[error("{what} did not end within {} s and was stopped; its output so far is in {}", limit.as_secs(), log.display())]
    Deadline {
        /// What the command was for.
        what: String,
        /// How long it had.
        limit: Duration,
        /// Its lines.
        log: PathBuf,
    },
    /// Something must be built or removed in a store that may only be read.
    #[error(
        "cannot write {}: {source}; the image store belongs to another user or is read-only, and something in it has to \
         be built or removed: let its owner run `longpin image build`, or set LONGPIN_CACHE to a directory of yours",
        path.display()
    )]
    NotOurs {
        /// Lock or directory.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
    /// Another process kept the lock.
    #[error(
        "{artifact} is still locked by {holder} after {} s; wait for it to end, or end it", waited.as_secs()
    )]
    Locked {
        /// What was wanted.
        artifact: String,
        /// "pid 123", as the holder wrote it.
        holder: String,
        /// How long we waited.
        waited: Duration,
    },
    /// The suite has no kernel as the recipe wants it.
    #[error("no guest kernel: looked for {wanted} in {suite}, found {found}; {remedy}")]
    NoKernel {
        /// Names or versions that were looked for.
        wanted: String,
        /// Where.
        suite: String,
        /// What was there instead.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A kernel is not what the driver needs.
    #[error("kernel {kernel} cannot be used: {problem}; {remedy}")]
    UnfitKernel {
        /// Release or directory.
        kernel: String,
        /// Value found and value wanted.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The driver's source is not where it was looked for.
    #[error("no driver source in {}: {missing} is missing; give the directory that has guest-driver/", dir.display())]
    NoModuleSource {
        /// Where.
        dir: PathBuf,
        /// What.
        missing: String,
    },
    /// A module file is not for this kernel.
    #[error("module {} is for kernel `{found}`, not for `{wanted}`; build it again, or boot the kernel it was built for", path.display())]
    ModuleMismatch {
        /// The .ko.
        path: PathBuf,
        /// The release of its vermagic; all of it, if the releases are the same.
        found: String,
        /// The same of the kernel's.
        wanted: String,
    },
    /// A module has no such parameter.
    #[error("module {} has no parameter `{param}`; {known}", path.display())]
    NoSuchParameter {
        /// The .ko.
        path: PathBuf,
        /// Name that was given.
        param: String,
        /// Those that it has, as a sentence.
        known: String,
    },
    /// The kernel has no such module.
    #[error(
        "kernel {release} has no module `{module}`, neither as a file nor built in; name another one, or boot a kernel that has it"
    )]
    NoSuchModule {
        /// Kernel.
        release: String,
        /// Name.
        module: String,
    },
    /// The recipe has no such extra.
    #[error(
        "the guest has no program `{name}` on demand; there are: {known}; what it always has is in \
         images/recipes/initramfs.toml"
    )]
    NoSuchExtra {
        /// Name that was asked for.
        name: String,
        /// Names that are there.
        known: String,
    },
    /// A tree for the guest that cannot be added to it.
    #[error("overlay {}: {problem}; {remedy}", path.display())]
    UnfitOverlay {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A file that a program or kernel tool wrote is not as we know it.
    #[error("{what} cannot be read: {problem}; {remedy}")]
    Unreadable {
        /// Which file or output.
        what: String,
        /// Line or value.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull => Self::StoreFull { action, path },
            _ => Self::Io { action, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_the_command_that_makes_room() {
        let full = Path::new("/dev/full");
        let error = std::fs::write(full, "x").map_err(Error::io("write", full)).unwrap_err().to_string();
        let expected = "cannot write /dev/full: no space left on the device; remove what is stale with `longpin image gc`";
        assert!(error.starts_with(expected), "{error}");
    }
}
