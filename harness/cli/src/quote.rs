// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Words for a POSIX shell, for lines that people copy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// The word, in single quotes if it needs any.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The same for a word that need not be text: other bytes are told to printf(1) in octal.
pub fn os_word(bytes: &OsStr) -> String {
    if let Some(text) = bytes.to_str() {
        return word(text);
    }
    let octal: String = bytes.as_bytes().iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("\"$(printf '{octal}')\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        for text in ["plain", "a b", "it's", "", "$HOME", "a;b", "--x=1,2"] {
            let script = format!("printf %s {}", word(text));
            let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
        }
        assert_eq!(word("--fs=ext4,xfs"), "--fs=ext4,xfs");
    }
}
