// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tests of the whole library share: where its files lie, and its scenarios.

use longpin_core::scenario::Scenario;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file or directory below tests/ of the sources.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(name)
}

/// Every scenario that is shipped, in the order of the names; each file must be valid.
pub fn scenarios() -> Vec<Arc<Scenario>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(file("scenarios"))
        .expect("scenario directory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path).expect("text");
            match Scenario::parse(&name, &text) {
                Ok(scenario) => Arc::new(scenario),
                Err(faults) => panic!("{}", faults.iter().map(|f| format!("{f}\n")).collect::<String>()),
            }
        })
        .collect()
}
