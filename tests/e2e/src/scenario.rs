// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenario files that tests write for themselves.

use std::path::Path;

/// Line of the first step that was given.
pub const FIRST_STEP_LINE: u64 = 10;

/// Write a scenario that needs no disk and no pin: its steps, one a line, and what is expected.
pub fn write(dir: &Path, name: &str, steps: &[&str], observe: &str) -> String {
    write_on(dir, name, "tmpfs", "", steps, observe)
}

/// The same on another file system. `head` is one more line of the file's head.
pub fn write_on(dir: &Path, name: &str, fs: &str, head: &str, steps: &[&str], observe: &str) -> String {
    let steps: String = steps.iter().map(|step| format!("    {step},\n")).collect();
    let text = format!(
        "schema = 1\nname = \"{name}\"\ntitle = \"of a test\"\nmechanism = \"none\"\ngroups = [\"test\"]\n\
         {head}\nmatrix.fs = [\"{fs}\"]\n\nstep = [\n{steps}]\n\n[[expect]]\nobserve = \"{observe}\"\nreason = \"by the test\"\n"
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("the test's directory is writable");
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}
