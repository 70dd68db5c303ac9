// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KVM or TCG? `/dev/kvm` may exist, open and create a machine, and still run no guest, so KVM is believed only after
//! a guest of ours ran on it.

use super::qemu::Qemu;
use super::spec::Accel;
use crate::child::Child;
use crate::deadline::Deadline;
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
/// What the probe guest writes to the debug-exit port.
const PROBE_VALUE: u8 = 0x10;
/// Port of QEMU's isa-debug-exit device.
const PROBE_PORT: u8 = 0xf4;

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
    run_probe(qemu, Accel::Kvm, scratch)
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

/// Run a boot sector that writes one byte to a port which ends QEMU with a code of its own.
pub fn run_probe(qemu: &Qemu, accel: Accel, scratch: &Path) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(scratch).context("probe directory cannot be made")?;
    let disk = dir.path().join("sector");
    std::fs::write(&disk, boot_sector()).context("probe disk cannot be written")?;
    let machine = match accel {
        Accel::Kvm => "q35,accel=kvm",
        Accel::Tcg => "q35,accel=tcg",
    };
    let mut args: Vec<std::ffi::OsString> =
        ["-machine", machine, "-m", "64", "-nodefaults", "-no-user-config"].map(Into::into).to_vec();
    args.extend(["-display", "none", "-no-reboot", "-net", "none", "-device"].map(Into::into));
    args.push(format!("isa-debug-exit,iobase={PROBE_PORT:#x},iosize=1").into());
    args.push("-drive".into());
    args.push(
        format!("format=raw,if=ide,readonly=off,file={}", disk.display().to_string().replace(',', ",,"))
            .into(),
    );
    let mut child =
        Child::spawn("probe guest", qemu.command(args, &[], &[scratch]), &dir.path().join("log"))?;
    // isa-debug-exit ends QEMU with (value << 1) | 1.
    let expected = i32::from(PROBE_VALUE) << 1 | 1;
    match child.wait(Deadline::after(PROBE_TIMEOUT)) {
        Some(status) if status.code() == Some(expected) => Ok(()),
        Some(_) => bail!("{}", child.obituary()),
        None => bail!("a probe guest did not run within {PROBE_TIMEOUT:?}"),
    }
}

/// `mov al, VALUE; out PORT, al; hlt; jmp -3`, and the BIOS's mark at the end.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0u8; 512];
    sector[..7].copy_from_slice(&[0xb0, PROBE_VALUE, 0xe6, PROBE_PORT, 0xf4, 0xeb, 0xfd]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::tests::script;

    #[test]
    fn the_cpu_flag_is_a_word_of_its_own() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization("flags : svm"));
        assert!(!has_virtualization("flags : fpu vmx_fake sse\nmodel name : svm\n"));
        assert!(!has_virtualization(""));
    }

    fn fake_qemu(dir: &Path, text: &str) -> Qemu {
        let path = dir.join("qemu");
        script(&path, text);
        Qemu::Host(path)
    }

    #[test]
    fn only_the_probes_own_exit_code_counts_as_a_guest_that_ran() {
        let dir = tempfile::tempdir().unwrap();
        for (text, ran) in [("exit 33", true), ("exit 0", false), ("echo no KVM >&2; exit 1", false)] {
            let qemu = fake_qemu(dir.path(), text);
            assert_eq!(run_probe(&qemu, Accel::Kvm, dir.path()).is_ok(), ran, "{text}");
        }
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
