// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KVM or TCG? `/dev/kvm` may exist, open and create a machine, and still run no guest, so KVM is believed only after
//! a guest of ours ran on it.

use super::probe;
use super::qemu::Qemu;
use super::spec::Accel;
use anyhow::{Context as _, bail};
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wish {
    /// KVM if it runs a guest, else TCG.
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG.
    Tcg,
}

/// The choice and why KVM was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What guests run on.
    pub accel: Accel,
    /// Why not KVM, if it was wanted.
    pub reason: Option<String>,
}

/// A probe guest on working hardware ends in a second, of which the BIOS takes most.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Decide. `scratch` is a directory that QEMU sees.
pub fn choose(wish: Wish, qemu: &Qemu, scratch: &Path) -> anyhow::Result<Choice> {
    if wish == Wish::Tcg {
        return Ok(Choice { accel: Accel::Tcg, reason: None });
    }
    match kvm_runs(qemu, scratch) {
        Ok(()) => Ok(Choice { accel: Accel::Kvm, reason: None }),
        Err(error) if wish == Wish::Kvm => {
            Err(error.context("--accel kvm cannot be had; use --accel auto or tcg"))
        }
        Err(error) => Ok(Choice { accel: Accel::Tcg, reason: Some(format!("{error:#}")) }),
    }
}

/// The three conditions, the cheap ones first.
fn kvm_runs(qemu: &Qemu, scratch: &Path) -> anyhow::Result<()> {
    kvm_present()?;
    probe::run(qemu, Accel::Kvm, scratch, PROBE_TIMEOUT).map(drop)
}

/// What can be said about KVM without starting anything.
pub fn kvm_present() -> anyhow::Result<()> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo cannot be read")?;
    if !has_virtualization(&cpuinfo) {
        bail!("the CPU shows neither vmx nor svm");
    }
    OpenOptions::new().read(true).write(true).open("/dev/kvm").context("/dev/kvm cannot be opened")?;
    Ok(())
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::probe::tests::fake_qemu;

    #[test]
    fn the_cpu_flag_is_a_word_of_its_own() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization("flags : svm"));
        assert!(!has_virtualization("flags : fpu vmx_fake sse\nmodel name : svm\n"));
        assert!(!has_virtualization(""));
    }

    #[test]
    fn tcg_is_taken_without_a_probe_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = Qemu::Host("/nonexistent/qemu".into());
        let choice = choose(Wish::Tcg, &qemu, dir.path()).unwrap();
        assert_eq!(choice, Choice { accel: Accel::Tcg, reason: None });
    }

    #[test]
    fn without_a_guest_that_runs_auto_takes_tcg_with_a_reason_and_kvm_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = fake_qemu(dir.path(), "exit 1");
        let choice = choose(Wish::Auto, &qemu, dir.path()).unwrap();
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.reason.is_some_and(|reason| !reason.is_empty()));
        assert!(choose(Wish::Kvm, &qemu, dir.path()).unwrap_err().to_string().contains("--accel kvm"));
    }
}
