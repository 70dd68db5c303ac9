// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Embeds the driver's source, so that the installed binary builds the module without the repository.

#[path = "src/source_files.rs"]
mod source_files;

use std::fmt::Write;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manifest = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let repository = manifest.parent().ok_or("the crate lies in no directory")?;
    for directory in source_files::DIRECTORIES {
        println!("cargo::rerun-if-changed={}", repository.join(directory).display());
    }
    let mut table = String::from("[\n");
    for (name, path) in source_files::collect(repository)? {
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(table, "    ({name:?}, include_bytes!({:?}).as_slice()),", path.display().to_string())?;
    }
    table.push_str("]\n");
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("module_source.rs");
    std::fs::write(out, table)?;
    Ok(())
}
