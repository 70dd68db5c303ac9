// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file of `--ignore-log`: read and checked before anything is built or booted, and kept with the results.

use crate::error::{Error, Result};
use longpin_core::dmesg::ignored::Ignored;
use std::path::Path;

/// What does not count, and the text of the file that says so; none: everything counts.
///
/// Errors: `Usage` with every fault of the file, entries that have expired among them.
pub fn open(path: Option<&Path>) -> Result<(Ignored, Option<String>)> {
    let Some(path) = path else { return Ok((Ignored::default(), None)) };
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Usage(format!("--ignore-log {shown}: {error}")))?;
    let today = jiff::Zoned::now().date().to_string();
    match Ignored::parse(&text, &today) {
        Ok(ignored) => Ok((ignored, Some(text))),
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(|fault| format!("{shown}:{fault}")).collect();
            Err(Error::Usage(format!("--ignore-log: {}", faults.join("\n"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_the_day_of_today() {
        assert_eq!(open(None).unwrap(), (Ignored::default(), None));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.toml");
        let list = |day| format!("[[ignore]]\ntitle = \"x\"\nreason = \"r\"\nexpires = {day}\n");
        std::fs::write(&path, list("9999-12-31")).unwrap();
        let (ignored, text) = open(Some(&path)).unwrap();
        assert_ne!(ignored, Ignored::default());
        assert_eq!(text, Some(list("9999-12-31")));
        std::fs::write(&path, list("2020-01-01")).unwrap();
        let Err(Error::Usage(why)) = open(Some(&path)) else { panic!("it has expired") };
        assert!(why.contains("list.toml:1: expired on 2020-01-01"), "{why}");
        let Err(Error::Usage(why)) = open(Some(&dir.path().join("none"))) else { panic!("it is not there") };
        assert!(why.contains("--ignore-log ") && why.contains("No such file"), "{why}");
    }
}
