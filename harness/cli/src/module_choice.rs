// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of `--module` and `--driver`: a module file and its parameters. Only what was typed: whether the file is
//! there and fits the kernel, `longpin-images` finds out before anything boots.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// A module of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleChoice {
    /// The .ko.
    pub path: PathBuf,
    /// `NAME=VALUE` each.
    pub params: Vec<String>,
}

const USAGE: &str = "use FILE.ko[,PARAM=VALUE...]";

impl ModuleChoice {
    /// `FILE[,PARAM=VALUE...]`. A part without `=` goes on with the value before it, as lists of the kernel do
    /// (`ports=1,2`).
    pub fn parse(text: OsString) -> Result<Self, String> {
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        let mut parts = text.as_bytes().split(|byte| *byte == b',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err(format!("no module is named; {USAGE}"));
        }
        let mut params: Vec<String> = Vec::new();
        for part in parts {
            let Ok(part) = std::str::from_utf8(part) else {
                return Err(format!("`{}` is not UTF-8; {USAGE}", String::from_utf8_lossy(part)));
            };
            // The kernel cuts parameters at spaces, and takes quotes away.
            if part.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"') {
                return Err(format!(
                    "`{part}` has a space or a quotation mark, which no parameter may have; {USAGE}"
                ));
            }
            match (part.split_once('='), params.last_mut()) {
                (Some(("", _)), _) => return Err(format!("`{part}` names no parameter; {USAGE}")),
                (Some(_), _) => params.push(part.to_owned()),
                (None, Some(last)) => {
                    last.push(',');
                    last.push_str(part);
                }
                (None, None) => return Err(format!("`{part}` is no parameter; {USAGE}")),
            }
        }
        Ok(Self { path: PathBuf::from(OsString::from_vec(path.to_vec())), params })
    }

    /// The text that gives this choice again, with the path as `path` says it.
    pub fn text(&self, path: impl Fn(&Path) -> OsString) -> OsString {
        let mut text = path(&self.path);
        for param in &self.params {
            text.push(",");
            text.push(OsStr::new(param));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModuleChoice, String> {
        ModuleChoice::parse(text.into())
    }

    #[test]
    fn a_file_and_its_parameters_are_told_again_as_they_were_typed() {
        let choice = parse("/v/vendor.ko,ports=1,2,debug=1").unwrap();
        assert_eq!(choice.path, Path::new("/v/vendor.ko"));
        assert_eq!(choice.params, ["ports=1,2", "debug=1"]);
        assert_eq!(choice.text(|path| path.as_os_str().to_owned()), "/v/vendor.ko,ports=1,2,debug=1");
        assert_eq!(parse("vendor.ko").unwrap().text(|_| "/abs.ko".into()), "/abs.ko");
    }

    #[test]
    fn other_texts_are_refused_with_the_form() {
        for text in ["", ",a=1", "v.ko,debug", "v.ko,=1", "v.ko,a=b c", "v.ko,a=\"b\""] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(USAGE), "{text}: {error}");
        }
    }
}
