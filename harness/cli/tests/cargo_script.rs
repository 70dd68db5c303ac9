// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which cargo `scripts/cargo` takes, among played ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/cargo");

fn program(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().expect("a program lies in a directory")).expect("directory");
    fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

fn cargo(path: &Path, version: &str, name: &str) {
    program(
        path,
        &format!("case $1 in --version) echo 'cargo {version} (played)' ;; *) echo {name} $* ;; esac"),
    );
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(SCRIPT);
    command.args(arguments).env_clear();
    command.env("PATH", format!("{}:/usr/bin:/bin", home.join("bin").display()));
    command.env("CARGO_HOME", home.join("cargo"));
    command.output().expect("the script can be started")
}

fn said(home: &Path) -> String {
    String::from_utf8(run(home, &["build", "x"]).stdout).expect("text")
}

#[test]
fn an_old_cargo_in_path_does_not_win_over_a_good_one_elsewhere() {
    let dir = tempfile::tempdir().expect("scratch directory");
    let home = dir.path();
    cargo(&home.join("bin/cargo"), "1.63.0", "old");
    program(
        &home.join("bin/rustup"),
        "[ \"$1 $2 $3\" = 'run stable cargo' ] || exit 9\n\
         case $4 in --version) echo 'cargo 1.99.0 (played)' ;; *) shift 3; echo stable $* ;; esac",
    );
    assert_eq!(said(home), "stable build x\n");
    cargo(&home.join("cargo/bin/cargo"), "1.98.1-nightly", "home");
    assert_eq!(said(home), "home build x\n");
    cargo(&home.join("bin/cargo"), "1.100.0", "path");
    assert_eq!(said(home), "path build x\n");
}

#[test]
fn where_every_cargo_is_too_old_the_needed_version_is_named() {
    let dir = tempfile::tempdir().expect("scratch directory");
    cargo(&dir.path().join("bin/cargo"), "1.63.0", "old");
    cargo(&dir.path().join("cargo/bin/cargo"), "1.64.0", "old");
    program(&dir.path().join("bin/rustup"), "exit 1");
    let ended = run(dir.path(), &["build"]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    let oldest = String::from_utf8(run(dir.path(), &["--oldest"]).stdout).expect("text");
    assert!(!ended.status.success() && ended.stdout.is_empty());
    assert!(!oldest.trim().is_empty() && text.contains(oldest.trim()), "{text}");
}
