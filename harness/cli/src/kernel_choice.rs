// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The word of `--kernel`: which kernel guests boot. Only what was typed: whether it is there and fit, `longpin-images`
//! finds out before anything boots.

use longpin_images::{ArchiveKernel, LabKernel, OwnKernel};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The distribution's kernel, on which the library's expectations were measured.
const STOCK: &str = "stock";
const ARCHIVE: &[u8] = b"debian:";
const LAB: &[u8] = b"lab:";
const MODULES: &[u8] = b"modules=";
const MODULE: &[u8] = b"module=";

/// Which kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The distribution's own of the recipe.
    #[default]
    Stock,
    /// One that the user brings.
    Own {
        /// Where it is.
        kernel: OwnKernel,
        /// The driver, built for it; none: it is built, if it can be.
        module: Option<PathBuf>,
    },
}

impl KernelChoice {
    /// `stock`, `debian:VERSION[/SUITE]`, `lab:NAME`, `DIR`, `BZIMAGE,modules=DIR` or `DEB[,DEB...]`, all but the first with
    /// `,module=FILE` behind.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = text.as_bytes().split(|byte| *byte == b',');
        let first = parts.next().unwrap_or_default();
        if first.is_empty() {
            return Err(format!("no kernel is named; {USAGE}"));
        }
        let (mut modules, mut module, mut debs) = (None, None, Vec::new());
        debs.extend(is_deb(first).then(|| path_of(first)));
        for part in parts {
            let (place, path) = match (part.strip_prefix(MODULES), part.strip_prefix(MODULE)) {
                (Some(path), _) => (&mut modules, path),
                (_, Some(path)) => (&mut module, path),
                _ if is_deb(part) && !debs.is_empty() => {
                    debs.push(path_of(part));
                    continue;
                }
                _ => return Err(format!("`{}` is not known there; {USAGE}", String::from_utf8_lossy(part))),
            };
            if path.is_empty() || place.is_some() {
                return Err(format!(
                    "`{}` names nothing, or comes twice; {USAGE}",
                    String::from_utf8_lossy(part)
                ));
            }
            *place = Some(path_of(path));
        }
        let kernel = match (first, modules) {
            (word, None) if word == STOCK.as_bytes() && module.is_none() => return Ok(Self::Stock),
            (word, _) if word == STOCK.as_bytes() => {
                return Err(format!("the stock kernel comes with its own modules; {USAGE}"));
            }
            (_, Some(_)) if !debs.is_empty() || first.starts_with(ARCHIVE) || first.starts_with(LAB) => {
                return Err(format!("that kernel comes with its own modules; {USAGE}"));
            }
            (word, None) if word.starts_with(LAB) => lab(&word[LAB.len()..])?,
            (word, None) if word.starts_with(ARCHIVE) => archive(&word[ARCHIVE.len()..])?,
            (_, None) if !debs.is_empty() => OwnKernel::Packages(debs),
            (image, Some(modules)) => OwnKernel::Files { image: path_of(image), modules },
            (dir, None) => OwnKernel::BuildDir(path_of(dir)),
        };
        Ok(Self::Own { kernel, module })
    }

    /// It can be looked up in the distribution's archive again.
    pub fn is_of_archive(&self) -> bool {
        matches!(self, Self::Stock | Self::Own { kernel: OwnKernel::Archive(_), .. })
    }

    /// The text that gives this choice again, with each path as `path` says it.
    pub fn text(&self, path: impl Fn(&Path) -> OsString) -> OsString {
        let Self::Own { kernel, module } = self else { return STOCK.into() };
        let (mut text, modules) = match kernel {
            OwnKernel::BuildDir(dir) => (path(dir), None),
            OwnKernel::Archive(kernel) => (kernel.name().into(), None),
            OwnKernel::Lab(kernel) => (kernel.title().into(), None),
            OwnKernel::Packages(debs) => {
                let debs: Vec<OsString> = debs.iter().map(|deb| path(deb)).collect();
                (debs.join(OsStr::new(",")), None)
            }
            OwnKernel::Files { image, modules } => (path(image), Some(modules)),
        };
        for (name, value) in [(MODULES, modules), (MODULE, module.as_ref())] {
            if let Some(value) = value {
                text.push(",");
                text.push(OsStr::from_bytes(name));
                text.push(path(value));
            }
        }
        text
    }
}

const USAGE: &str = "use stock, debian:VERSION[/SUITE], lab:NAME, DIR (where a kernel was built), BZIMAGE,modules=DIR or a linux-image \
                     .deb, and ,module=FILE behind all but the first for a longpin.ko that was built for it";

fn is_deb(part: &[u8]) -> bool {
    part.ends_with(b".deb") && !part.starts_with(MODULES) && !part.starts_with(MODULE)
}

/// `VERSION[/SUITE]`.
fn archive(name: &[u8]) -> Result<OwnKernel, String> {
    let words = std::str::from_utf8(name).ok().map(|name| name.split_once('/').unwrap_or((name, "")));
    let good = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.~:".contains(&b));
    match words {
        Some((version, suite)) if !version.is_empty() && good(version) && good(suite) => {
            let suite = (!suite.is_empty()).then(|| suite.to_owned());
            Ok(OwnKernel::Archive(ArchiveKernel { version: version.to_owned(), suite }))
        }
        _ => Err(format!("`{}` is no version of a package; {USAGE}", String::from_utf8_lossy(name))),
    }
}

/// A name; which there are is known where they are made.
fn lab(name: &[u8]) -> Result<OwnKernel, String> {
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() => Ok(OwnKernel::Lab(LabKernel { name: name.to_owned() })),
        _ => Err(format!("`lab:` has no name behind it; {USAGE}")),
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// For clap.
#[derive(Debug, Clone)]
pub struct Parser;

impl clap::builder::TypedValueParser for Parser {
    type Value = KernelChoice;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<KernelChoice, clap::Error> {
        KernelChoice::parse(value).map_err(|message| {
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("--kernel: {message}\n"))
                .with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(text: &str) -> KernelChoice {
        let choice = KernelChoice::parse(OsStr::new(text)).unwrap();
        assert_eq!(choice.text(|path| path.as_os_str().to_owned()), text);
        choice
    }

    #[test]
    fn what_was_typed_is_told_again() {
        assert_eq!(same("stock"), KernelChoice::Stock);
        let kernel = OwnKernel::BuildDir("../linux".into());
        assert_eq!(same("../linux"), KernelChoice::Own { kernel, module: None });
        let kernel = OwnKernel::Files { image: "/boot/vmlinuz".into(), modules: "/lib/modules/6.1".into() };
        let module = Some("longpin.ko".into());
        let text = "/boot/vmlinuz,modules=/lib/modules/6.1,module=longpin.ko";
        assert_eq!(same(text), KernelChoice::Own { kernel, module });
        same("./stock,module=m.ko");
        let of = |suite: Option<&str>| {
            let kernel = ArchiveKernel { version: "6.1".into(), suite: suite.map(str::to_owned) };
            KernelChoice::Own { kernel: OwnKernel::Archive(kernel), module: None }
        };
        assert_eq!(same("debian:6.1"), of(None));
        assert_eq!(same("debian:6.1/bookworm-backports"), of(Some("bookworm-backports")));
        let lab = OwnKernel::Lab(LabKernel { name: "debug".into() });
        assert_eq!(same("lab:debug"), KernelChoice::Own { kernel: lab, module: None });
        let debs = OwnKernel::Packages(vec!["a.deb".into(), "/b/c.deb".into()]);
        assert_eq!(same("a.deb,/b/c.deb"), KernelChoice::Own { kernel: debs, module: None });
    }

    #[test]
    fn other_texts_are_refused_with_the_form() {
        for text in [
            "debian:",
            "debian:6.1 x",
            "debian:6.1,modules=m",
            "lab:",
            "lab:debug,modules=m",
            "a.deb,modules=m",
            "d,b.deb",
            "",
            ",modules=a",
            "stock,module=a",
            "a,modul=b",
            "a,modules=",
            "a,module=b,module=c",
        ] {
            let error = KernelChoice::parse(OsStr::new(text)).unwrap_err();
            assert!(error.contains("use stock, debian:"), "{text}: {error}");
        }
    }

    #[test]
    fn relative_paths_become_what_the_caller_says() {
        let choice = KernelChoice::parse(OsStr::new("b,modules=m,module=k.ko")).unwrap();
        let text = choice.text(|path| Path::new("/here").join(path).into_os_string());
        assert_eq!(text, "/here/b,modules=/here/m,module=/here/k.ko");
    }
}
