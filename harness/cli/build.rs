// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the guest agent and hands its bytes to the program, so that a `longpin` can never boot an agent of another
//! source state. The agent is linked statically (its initramfs has no C library), which takes flags of its own and
//! therefore a cargo of its own, with a target directory of its own beside ours.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guests are x86-64; naming the target keeps the flags away from build scripts and proc macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the agent is made of, seen from the workspace.
const SOURCES: [&str; 5] = ["harness/agent", "proto", "wire", "Cargo.toml", "Cargo.lock"];
/// Variables by which the outer cargo talks to its own children. They would change how the inner one builds.
const FOREIGN: [&str; 6] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_MAKEFLAGS",
    "CARGO_PRIMARY_PACKAGE",
];

fn main() {
    let workspace = workspace();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let agent = build(&workspace, &target_dir());
    println!("cargo::rustc-env=LONGPIN_AGENT={}", agent.display());
}

fn workspace() -> PathBuf {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    manifest.join("../..").canonicalize().expect("this crate lies two levels below its workspace")
}

/// `TARGET_DIR/agent`: OUT_DIR is `TARGET_DIR/PROFILE/build/longpin-HASH/out` (with the triple in between if one was
/// given), and the profile's directory is the parent of `build`.
fn target_dir() -> PathBuf {
    let out = PathBuf::from(variable("OUT_DIR"));
    let build = out.ancestors().find(|dir| dir.ends_with("build")).expect("OUT_DIR lies below `build`");
    let profile = build.parent().expect("`build` lies in the profile's directory");
    profile.parent().expect("a profile lies in a target directory").join("agent")
}

fn build(workspace: &Path, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(workspace);
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--package", "longpin-agent", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    let status = cargo.status().expect("cargo runs us, so it can be started");
    assert!(status.success(), "the guest agent cannot be built; its errors stand above");
    target_dir.join(TARGET).join("release/longpin-agent")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
