// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Disks of the program itself: options, images that cannot be used, one process for many front-ends, an image that
//! takes no more.

mod driver;

use driver::{Program, refused, wait_for};
use longpin_proto::control::{Answer, Request};
use longpin_wire::{dma, ledger};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A directory with an image of `bytes`.
fn image(bytes: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    (dir, path)
}

fn option(dir: &Path, image: &Path, more: &str) -> String {
    format!("socket={},image={}{more}", dir.join("disk").display(), image.display())
}

fn start(bytes: u64, extra: &[&str], limits: &str) -> Program {
    let (dir, image) = image(bytes);
    let option = option(dir.path(), &image, "");
    Program::start_in(dir, &[&["--disk", &option], extra].concat(), Stdio::null(), limits)
}

#[test]
fn a_disk_needs_no_accelerator_and_ends_with_its_guest() {
    let mut program = start(1 << 20, &[], "");
    let mut blk = program.disk("disk", 2);
    assert_eq!(blk.write_disk(0, &[1; 4096]), 0);
    drop(blk);
    let (code, log) = program.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!program.path("disk").exists());
    assert_eq!(std::fs::read(program.path("image")).unwrap()[..4096], [1; 4096]);
}

#[test]
fn one_process_serves_an_accelerator_and_disks_until_the_last_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let disk = |name: &str| {
        File::create(at(&format!("{name}.img"))).unwrap().set_len(1 << 20).unwrap();
        format!("socket={},image={},queues=1", at(name).display(), at(&format!("{name}.img")).display())
    };
    let (first, second, socket) = (disk("first"), disk("second"), at("vhost"));
    let args = ["--socket-path", socket.to_str().unwrap(), "--disk", &first, "--disk", &second];
    let mut program = Program::start_in(dir, &args, Stdio::null(), "");
    let mut accelerator = program.driver();
    let [mut first, mut second] = ["first", "second"].map(|name| program.disk(name, 1));
    assert_eq!((first.write_disk(0, &[1; 512]), second.write_disk(0, &[2; 512])), (0, 0));
    assert_eq!(accelerator.map(1, &[(driver::DATA, 0x1000)]).status, dma::STATUS_OK);
    drop(first);
    drop(accelerator);
    assert_eq!(second.read_disk(0, 512), [2; 512]);
    let Answer::Disks { disks } = program.control().ask(&Request::Disks) else { panic!("no disks") };
    assert_eq!(disks.iter().map(|disk| &disk.serial[..]).collect::<Vec<_>>(), ["longpin-0", "longpin-1"]);
    assert!(program.child.try_wait().unwrap().is_none());
    drop(second);
    let (code, log) = program.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn images_that_make_no_disk_are_refused_with_a_reason() {
    let (dir, path) = image(0);
    let run = |image: &Path, more: &str| {
        let (code, log) = refused(&["--disk", &option(dir.path(), image, more)]);
        assert_eq!(code, Some(1), "{log}");
        assert!(!dir.path().join("disk").exists(), "no socket is left behind");
        log
    };
    let log = run(&path, "");
    assert!(log.contains("disk 0: image") && log.contains("is too small: it has 0 bytes"), "{log}");
    File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    assert!(run(&path, "").contains("has 1000 bytes, which are not whole blocks of 512"));
    assert!(run(Path::new("/nonexistent/image"), "").contains("No such file or directory"));
    assert!(run(Path::new("/dev/zero"), "").contains("neither a regular file nor a block device"));
    assert!(run(dir.path(), ",read-only=on").contains("neither a regular file nor a block device"));
}

#[test]
fn an_image_in_use_is_refused_and_its_user_named() {
    let program = start(1 << 20, &[], "");
    let dir = tempfile::tempdir().unwrap();
    let (code, log) = refused(&["--disk", &option(dir.path(), &program.path("image"), "")]);
    assert_eq!(code, Some(1));
    let by = format!("is in use by longpin-device (pid {})", program.child.id());
    assert!(log.contains(&by), "{log}");
    // Twice in one daemon, also only for reading.
    let (dir, path) = image(4096);
    let (first, second) = (option(dir.path(), &path, ""), option(dir.path(), &path, ",read-only=on"));
    let (code, log) = refused(&["--disk", &first, "--disk", &second]);
    assert_eq!(code, Some(1));
    assert!(log.contains("disk 1: image") && log.contains("another disk of this daemon"), "{log}");
}

#[test]
fn options_that_cannot_be_used_are_named() {
    for (option, reason) in [
        ("image=i", "socket=PATH is missing"),
        ("socket=s", "image=PATH is missing"),
        ("socket=s,image=i,queues=0", "queues=0: use 1 to 64"),
        ("socket=s,image=i,speed=9", "key `speed` is unknown"),
    ] {
        let (code, log) = refused(&["--disk", option]);
        assert_eq!(code, Some(2));
        assert!(log.contains(reason), "{log}");
    }
}

#[test]
fn an_image_that_takes_no_more_gives_errors_and_the_disk_lives_on() {
    // 512-byte blocks: the image may not grow past its first MiB.
    let mut program = start(4 << 20, &["--persist"], "ulimit -f 2048;");
    let mut blk = program.disk("disk", 2);
    let mut control = program.control();
    let sector = (2 << 20) / 512;
    for _ in 0..20 {
        assert_eq!(blk.write_disk(sector, &[1; 4096]), 1);
    }
    assert_eq!(blk.write_disk(0, &[1; 4096]), 0, "there is room here");
    // The first half fits.
    assert_eq!(blk.write_disk((1 << 20) / 512 - 8, &[2; 8192]), 1);
    assert_eq!(blk.read_disk(sector, 4096), [0; 4096]);
    let status = control.disk();
    assert_eq!((status.errors, status.in_flight), (21, 0));
    let error = status.last_error.unwrap();
    assert!(error.starts_with("write of image") && error.contains("File too large (os error 27)"), "{error}");
    drop(blk);
    wait_for("the front-end to have gone", || !control.disk().driver_ready);
    assert_eq!(control.ask(&Request::Shutdown), Answer::Ok);
    let (code, log) = program.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("the guest gets an I/O error").count(), 1, "once a burst: {log}");
}

#[test]
fn an_image_that_is_cut_short_gives_errors() {
    let program = start(4 << 20, &["--persist"], "");
    let mut blk = program.disk("disk", 2);
    File::options().write(true).open(program.path("image")).unwrap().set_len(1 << 20).unwrap();
    let done = blk.odd(0, (2 << 20) / 512, 4096, true);
    assert_eq!(done.status, 1);
    assert_eq!(blk.read_disk(0, 4096), [0; 4096]);
    assert!(program.control().disk().last_error.unwrap().contains("read of image"));
}

#[test]
fn requests_of_a_case_and_power_cuts_are_in_the_ledger() {
    let mut program = start(1 << 20, &["--persist"], "");
    let mut control = program.control();
    let mut blk = program.disk("disk", 2);
    assert_eq!(blk.write_disk(8, &[1; 4096]), 0);
    assert_eq!(control.sync(), 0, "before a case only its power cuts and holds are recorded");
    control.order(&Request::Case { run: 42 });
    assert_eq!(blk.write_disk(8, &[1; 4096]), 0);
    let cut = Request::PowerCut { disk: 0, in_flight: longpin_proto::disk::InFlight::Drop };
    control.order(&cut);
    control.order(&Request::Restore { disk: 0 });
    control.sync();
    let entries: Vec<ledger::DiskEntry> = driver::read_ledger(&program.path("ledger"))
        .into_iter()
        .map(|entry| zerocopy::transmute!(entry))
        .collect();
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    let expected = [
        ledger::KIND_DISK_SUBMIT,
        ledger::KIND_DISK_FETCH,
        ledger::KIND_DISK_COMPLETE,
        ledger::KIND_DISK_POWER_CUT,
        ledger::KIND_DISK_RESTORE,
    ];
    let mut by_time: Vec<_> = entries.iter().map(|entry| (entry.time_ns, entry.kind)).collect();
    by_time.sort_unstable();
    assert_eq!(by_time.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), expected, "{kinds:?}");
    assert!(entries.iter().all(|entry| (entry.run, entry.disk) == (42, 0)));
    drop(blk);
    assert_eq!(control.ask(&Request::Shutdown), Answer::Ok);
    assert_eq!(program.wait().0, Some(0));
}

#[test]
fn a_front_end_that_breaks_the_protocol_does_not_end_a_persistent_daemon() {
    let program = start(1 << 20, &["--persist"], "");
    for _ in 0..3 {
        let mut stream = UnixStream::connect(program.path("disk")).unwrap();
        let _ = stream.write_all(&[0xff; 4096]);
    }
    let mut blk = program.disk("disk", 2);
    assert_eq!(blk.write_disk(0, &[1; 512]), 0);
}
