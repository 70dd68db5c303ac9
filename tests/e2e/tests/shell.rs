// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin shell`, typed into by a test.

use longpin_e2e::{Ended, Lab, RUN_DEADLINE, wait_for};
use std::io::Write as _;

/// Boot, type a script, and wait for the end.
fn typed(lab: &Lab, script: &str) -> Ended {
    let (mut running, mut typing) = lab.start_typing(&["shell"]);
    wait_for("the shell", RUN_DEADLINE, || {
        assert!(!running.has_ended(), "{}", running.said());
        running.said().contains("`exit` or Ctrl-]").then_some(())
    });
    typing.write_all(script.as_bytes()).expect("the program listens");
    running.end()
}

#[test]
fn the_last_output_of_a_shell_is_shown_to_its_end() {
    let lab = Lab::new();
    let ended = typed(&lab, "seq 100000 130000; exit\n");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let shown = ended.stdout.lines().filter(|line| line.trim_end().parse::<u32>().is_ok()).count();
    assert_eq!((shown, ended.stdout.contains("130000\r\n")), (30_001, true));
    lab.assert_tidy();
}

#[test]
fn a_guest_that_panics_below_its_shell_is_no_success_and_leaves_its_console() {
    let lab = Lab::new();
    let ended = typed(&lab, "echo c > /proc/sysrq-trigger\n");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("the guest panicked: Kernel panic - not syncing: sysrq"),
        "{}",
        ended.stderr
    );
    let kept = ended.stderr.lines().find_map(|line| line.split_once("its console is kept in ")?.1.into());
    let console = std::fs::read_to_string(format!("{}/console.log", kept.expect("a directory is named")));
    assert!(console.expect("the console is there").contains("Kernel panic"));
}

#[test]
fn a_command_has_its_input_its_output_unchanged_and_its_exit_code() {
    let lab = Lab::new();
    let script = "read word; printf 'got %s\\n' $word; ls /dev/longpin0; cat; exit 7";
    let (running, mut typing) = lab.start_typing(&["shell", "--", "sh", "-c", script]);
    typing.write_all(b"it\nand the rest").expect("the program listens");
    drop(typing);
    let ended = running.end();
    assert_eq!(ended.code, Some(7), "{}", ended.stderr);
    assert_eq!(ended.stdout, "got it\n/dev/longpin0\nand the rest");
    lab.assert_tidy();
}

#[test]
fn a_command_that_cannot_be_run_gives_125_and_says_why() {
    let lab = Lab::new();
    let (running, typing) = lab.start_typing(&["shell", "--", "no-such-program"]);
    drop(typing);
    let ended = running.end();
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("program `no-such-program` is not in the initramfs"), "{}", ended.stderr);
    lab.assert_tidy();
}
