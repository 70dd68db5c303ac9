// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The smallest guest, a boot sector. That it runs proves an accelerator; how long a loop takes in it says how fast
//! guests of this host are.

use super::qemu::Qemu;
use super::spec::Accel;
use crate::child::Child;
use crate::deadline::Deadline;
use anyhow::{Context as _, bail};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Times that the loop goes round between two signals; each time it stores into memory and counts.
pub const LOOPS: u32 = 30_000_000;
/// Signals, but for the first.
const ROUNDS: u16 = 5;
/// What the probe guest writes to the debug-exit port.
const VALUE: u8 = 0x10;
/// Port of QEMU's isa-debug-exit device.
const EXIT_PORT: u8 = 0xf4;
/// Port of QEMU's isa-debugcon device.
const SIGNAL_PORT: u8 = 0xe9;
/// The BIOS reads nothing from a disk of one sector.
const DISK_BYTES: usize = 1 << 20;

/// Run it. `scratch` is a directory that QEMU sees. Returns how long each round of the loop took, as far as that was heard.
///
/// Errors: it did not run, or not in this time.
pub fn run(qemu: &Qemu, accel: Accel, scratch: &Path, timeout: Duration) -> anyhow::Result<Vec<Duration>> {
    let deadline = Deadline::after(timeout);
    let dir = tempfile::tempdir_in(scratch).context("probe directory cannot be made")?;
    let [disk, socket] = ["disk", "signals"].map(|name| dir.path().join(name));
    std::fs::write(&disk, image()).context("probe disk cannot be written")?;
    let signals = UnixListener::bind(&socket).context("probe socket cannot be made")?;
    signals.set_nonblocking(true)?;
    let command = qemu.command(arguments(accel, &disk, &socket), &[], &[scratch]);
    let mut child = Child::spawn("probe guest", command, &dir.path().join("log"))?;
    let connected = deadline.poll(|| match signals.accept() {
        Ok((stream, _)) => Some(Some(stream)),
        Err(_) => child.ended().map(|_| None),
    });
    let heard = connected.flatten().map(|stream| listen(stream, deadline)).unwrap_or_default();
    // isa-debug-exit ends QEMU with (value << 1) | 1.
    let expected = i32::from(VALUE) << 1 | 1;
    match child.wait(deadline) {
        Some(status) if status.code() == Some(expected) => {
            Ok(heard.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect())
        }
        Some(_) => bail!("{}", child.obituary()),
        None => bail!("a probe guest did not run within {timeout:?}"),
    }
}

/// When each signal came, up to the end of the guest.
fn listen(mut stream: UnixStream, deadline: Deadline) -> Vec<Instant> {
    let mut heard = Vec::new();
    let mut byte = [0];
    while !deadline.passed()
        && stream.set_nonblocking(false).is_ok()
        && stream.set_read_timeout(Some(deadline.left().max(Duration::from_millis(1)))).is_ok()
        && matches!(stream.read(&mut byte), Ok(1))
    {
        heard.push(Instant::now());
    }
    heard
}

fn arguments(accel: Accel, disk: &Path, socket: &Path) -> Vec<OsString> {
    let machine = match accel {
        Accel::Kvm => "q35,accel=kvm",
        Accel::Tcg => "q35,accel=tcg",
    };
    let path = |path: &Path| path.display().to_string().replace(',', ",,");
    let mut args: Vec<OsString> =
        ["-machine", machine, "-m", "64", "-nodefaults", "-no-user-config"].map(Into::into).to_vec();
    args.extend(["-display", "none", "-no-reboot", "-net", "none"].map(Into::into));
    args.extend([
        "-device".into(),
        format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1").into(),
        "-chardev".into(),
        format!("socket,id=signals,path={}", path(socket)).into(),
        "-device".into(),
        format!("isa-debugcon,iobase={SIGNAL_PORT:#x},chardev=signals").into(),
        "-drive".into(),
        format!("format=raw,if=ide,readonly=off,file={}", path(disk)).into(),
    ]);
    args
}

/// A disk with the boot sector, and the BIOS's mark at its end.
fn image() -> Vec<u8> {
    let mut code = vec![0xfa]; // cli
    code.push(0xbf); // mov di, ROUNDS
    code.extend(ROUNDS.to_le_bytes());
    code.extend([0xe6, SIGNAL_PORT]); // out SIGNAL_PORT, al
    let round = code.len();
    code.extend([0x66, 0xb9]); // mov ecx, LOOPS
    code.extend(LOOPS.to_le_bytes());
    let turn = code.len();
    code.extend([0x66, 0x01, 0x0e, 0x00, 0x06]); // add [0x600], ecx
    code.extend([0x66, 0x49]); // dec ecx
    jump_back(&mut code, turn);
    code.extend([0xe6, SIGNAL_PORT]); // out SIGNAL_PORT, al
    code.push(0x4f); // dec di
    jump_back(&mut code, round);
    code.extend([0xb0, VALUE, 0xe6, EXIT_PORT, 0xf4, 0xeb, 0xfd]); // mov al, VALUE; out EXIT_PORT, al; hlt; jmp -3
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(DISK_BYTES, 0);
    code
}

/// `jnz to`.
fn jump_back(code: &mut Vec<u8>, to: usize) {
    let way = code.len() + 2 - to;
    code.extend([0x75, (way as u8).wrapping_neg()]);
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::child::tests::script;

    const MINUTE: Duration = Duration::from_secs(60);

    pub fn fake_qemu(dir: &Path, text: &str) -> Qemu {
        let path = dir.join("qemu");
        script(&path, text);
        Qemu::Host(path)
    }

    #[test]
    fn only_the_probes_own_exit_code_counts_as_a_guest_that_ran() {
        let dir = tempfile::tempdir().unwrap();
        for (text, ran) in [("exit 33", true), ("exit 0", false), ("echo no KVM >&2; exit 1", false)] {
            let qemu = fake_qemu(dir.path(), text);
            assert_eq!(run(&qemu, Accel::Kvm, dir.path(), MINUTE).is_ok(), ran, "{text}");
        }
    }

    #[test]
    fn a_guest_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = fake_qemu(dir.path(), "exec sleep 600");
        let error = run(&qemu, Accel::Tcg, dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not run within 50ms"), "{error}");
    }

    #[test]
    fn each_signal_is_heard_until_the_guest_ends() {
        use std::io::Write as _;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let guest = std::thread::spawn(move || theirs.write_all(b"UUU").unwrap());
        assert_eq!(listen(ours, Deadline::after(MINUTE)).len(), 3);
        guest.join().unwrap();
    }

    #[test]
    fn the_boot_sector_has_its_mark_and_the_disk_more_than_it() {
        let image = image();
        assert_eq!((&image[510..512], image.len()), (&[0x55, 0xaa][..], DISK_BYTES));
        // cli; mov di, 5; out 0xe9, al; mov ecx, ...: what the jumps aim at.
        assert_eq!((image[19], image[20], image[24], image[25]), (0x75, 0xf7, 0x75, 0xec));
    }
}
