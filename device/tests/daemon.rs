// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program itself: command line, sockets, readiness, signals, exit codes, control protocol.

mod driver;

use driver::{DATA, Program, endless, read_ledger, refused, stamps, wait_for};
use longpin_proto::control::{Answer, Request};
use longpin_wire::{dma, ledger};
use rustix::process::Signal;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn it_serves_a_guest_and_ends_with_it() {
    let mut program = Program::start(&[]);
    let mut driver = program.driver();
    assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
    assert_eq!(driver.run(1, &stamps(1, 0x1000)).status, dma::STATUS_OK);
    drop(driver);
    let (code, log) = program.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!program.path("vhost").exists() && !program.path("control").exists());
    // Segment, map, start, write, end, reset.
    assert_eq!(read_ledger(&program.path("ledger")).len(), 6);
}

#[test]
fn signals_and_a_request_end_it_with_and_without_a_guest() {
    for connected in [false, true] {
        for how in [Some(Signal::TERM), Some(Signal::INT), None] {
            let mut program = Program::start(&["--persist"]);
            let driver = connected.then(|| {
                let mut driver = program.driver();
                driver.map(1, &[(DATA, 0x1000)]);
                driver.start(1, &endless(1, 0x1000));
                let mut control = program.control();
                wait_for("the program to run", || control.status().cells > 0);
                driver
            });
            match how {
                Some(signal) => program.signal(signal),
                None => assert_eq!(program.control().ask(&Request::Shutdown), Answer::Ok),
            }
            let (code, log) = program.wait();
            assert_eq!(code, Some(0), "{how:?}, connected: {connected}: {log}");
            let ended = read_ledger(&program.path("ledger"));
            let ends = ended.iter().filter(|e| e.kind == ledger::KIND_PROGRAM_END).count();
            assert_eq!(ends, usize::from(connected), "the running program is in the record with its end");
            drop(driver);
        }
    }
}

#[test]
fn a_socket_in_use_is_refused_and_its_guest_is_not_disturbed() {
    let mut program = Program::start(&[]);
    let mut driver = program.driver();
    let socket = program.path("vhost");
    let (code, log) = refused(&["--socket-path", text(&socket)]);
    assert_eq!(code, Some(1));
    assert!(log.contains("is served by another process"), "{log}");
    assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
    drop(driver);
    assert_eq!(program.wait().0, Some(0));
}

#[test]
fn an_inherited_listening_socket_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("vhost")).unwrap();
    let input = Stdio::from(OwnedFd::from(listener));
    let mut program = Program::start_in(dir, &["--fd", "4"], input, "");
    let mut driver = program.driver();
    assert_eq!(driver.map(1, &[(DATA, 0x1000)]).status, dma::STATUS_OK);
    drop(driver);
    assert_eq!(program.wait().0, Some(0));
    assert!(program.path("vhost").exists(), "the socket is its owner's to remove");
}

#[test]
fn wrong_usage_and_wrong_descriptors_are_named() {
    assert_eq!(refused(&[]).0, Some(2));
    assert_eq!(refused(&["--socket-path", "a", "--fd", "3"]).0, Some(2));
    let (code, log) = refused(&["--fd", "77"]);
    assert_eq!(code, Some(1));
    assert!(log.contains("cannot use file descriptor 77: Bad file descriptor"), "{log}");
    let (code, log) = refused(&["--socket-path", "/nonexistent/s"]);
    assert_eq!(code, Some(1));
    assert!(log.contains("cannot listen on \"/nonexistent/s\": No such file or directory"), "{log}");
}

#[test]
fn a_ledger_that_exists_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, ledger) = (dir.path().join("vhost"), dir.path().join("ledger"));
    std::fs::write(&ledger, b"evidence").unwrap();
    let (code, log) = refused(&["--socket-path", text(&socket), "--ledger", text(&ledger)]);
    assert_eq!(code, Some(1));
    assert!(log.contains("exists already; remove it or name another file"), "{log}");
    assert!(!socket.exists());
}

#[test]
fn garbage_on_the_control_socket_gets_an_error_and_nothing_worse() {
    let program = Program::start(&[]);
    let mut control = program.control();
    for garbage in ["", "{", "null", "{\"request\":\"nonsense\"}", "\u{0}\u{1}"] {
        writeln!(control.stream, "{garbage}").unwrap();
        let mut line = String::new();
        control.input.read_line(&mut line).unwrap();
        assert!(line.contains("\"answer\":\"error\""), "{garbage:?}: {line}");
    }
    let Answer::Hello { version, program: name } = control.ask(&Request::Hello) else { panic!("no hello") };
    assert_eq!(version, longpin_proto::control::VERSION);
    assert!(name.starts_with("longpin-device "));
    // A line without an end is cut off at 8 MiB, and its client with it.
    let mut endless = program.control();
    let _ = endless.stream.write_all(&vec![b'x'; 9 << 20]);
    let mut rest = String::new();
    let _ = endless.input.read_to_string(&mut rest);
    assert!(rest.is_empty() || rest.contains("longer than"), "{rest}");
    assert_eq!(control.status().requests, 0);
}

#[test]
fn clients_over_the_limit_are_told_so() {
    let program = Program::start(&[]);
    let mut clients: Vec<_> = (0..longpin_device::control::MAX_CLIENTS).map(|_| program.control()).collect();
    clients.iter_mut().for_each(|client| drop(client.status()));
    let mut line = String::new();
    program.control().input.read_line(&mut line).unwrap();
    assert!(line.contains("clients are connected already"), "{line}");
    clients.pop();
    wait_for("a free place", || {
        let mut client = program.control();
        client.stream.write_all(b"{\"request\":\"status\"}\n").is_ok() && {
            let mut line = String::new();
            client.input.read_line(&mut line).is_ok() && line.contains("\"answer\":\"status\"")
        }
    });
}

#[test]
fn a_file_size_limit_ends_programs_and_not_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vhost");
    // 512-byte blocks: 64 KiB, a header and 1023 entries.
    let args = ["--socket-path", text(&socket)];
    let mut program = Program::start_in(dir, &args, Stdio::null(), "ulimit -f 128;");
    let mut driver = program.driver();
    driver.map(1, &[(DATA, 0x100000)]);
    let end = driver.run(1, &endless(1, 0x100000));
    assert_eq!(end.status, dma::STATUS_DEVICE_ERROR);
    let mut control = program.control();
    let failure = control.status().ledger_failure.expect("the status says so");
    assert!(failure.contains("File too large"), "{failure}");
    assert!(
        matches!(control.ask(&Request::LedgerSync), Answer::Error { message } if message.contains("File too large"))
    );
    assert_eq!(driver.map(2, &[(DATA, 0x1000)]).status, dma::STATUS_DEVICE_ERROR);
    assert_eq!(driver.unmap(1).status, dma::STATUS_OK, "quiet is quiet, recorded or not");
    drop(driver);
    let (code, log) = program.wait();
    assert_eq!(code, Some(3), "{log}");
    let bytes = std::fs::metadata(program.path("ledger")).unwrap().len();
    assert!(bytes <= 65536 && bytes.is_multiple_of(64), "whole entries only: {bytes} bytes");
}

#[test]
fn help_names_exit_codes_and_the_qemu_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_longpin-device")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for expected in
        ["virtio-id=38,num_vqs=4,vq_size=256,config_size=64", "Exit codes:", "--persist", "--ready-fd"]
    {
        assert!(help.contains(expected), "no {expected:?} in\n{help}");
    }
}
