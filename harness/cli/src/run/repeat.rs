// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a run is repeated: the command line that a person types again, and `repeat.sh`, which needs nothing but the result
//! directory and the program: the scenarios are beside it, as they were.

use crate::args::{Color, LibraryArgs, MachineArgs, OwnArgs, RunArgs};
use crate::earlier::{IGNORED, SCENARIOS};
use crate::formats::{self, Form};
use crate::quote;
use clap::ValueEnum;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// `longpin run ...`: what was asked for, the seed made explicit, the result directory left out.
pub fn line(args: &RunArgs, seed: u32) -> String {
    if let Some(typed) = &args.typed {
        return typed.clone();
    }
    let mut words = vec![OsString::from("longpin"), "run".into()];
    match &args.rerun_failed {
        // Its scenarios and cases are that directory's.
        Some(dir) => words.extend(named("--rerun-failed", Some(dir))),
        None => {
            words.extend(args.library.scenarios.iter().map(OsString::from));
            words.extend(named("--scenario-dir", args.library.scenario_dir.as_deref()));
        }
    }
    words.extend(options(args, seed, |path| path.as_os_str().to_owned()));
    words.extend(named("--ignore-log", args.ignore_log.as_deref()));
    join(&words)
}

/// The script. `program` is ours, `words` name scenarios and cases of the files that lie below [`SCENARIOS`].
pub fn script(program: &Path, args: &RunArgs, words: &[String], seed: u32) -> String {
    // Whoever repeats the run stands somewhere else.
    let absolute =
        |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
    words.extend(options(args, seed, absolute));
    // The list lies beside the script, too.
    let ignored = args.ignore_log.as_ref().map(|_| format!(" --ignore-log \"$here/{IGNORED}\""));
    let ignored = ignored.unwrap_or_default();
    format!(
        "#!/bin/sh\n\
         # Repeats this run with the same program, scenarios and seed; more options may follow, as --out DIR.\n\
         here=$(CDPATH= cd -- \"$(dirname -- \"$0\")\" && pwd) || exit 3\n\
         exec {} run --scenario-dir \"$here/{SCENARIOS}\"{ignored} {} \"$@\"\n",
        quote::os_word(program.as_os_str()),
        join(&words)
    )
}

/// Every option that differs from what is usual. A new one does not compile before it stands here.
fn options(args: &RunArgs, seed: u32, path: impl Fn(&Path) -> OsString) -> Vec<OsString> {
    let RunArgs {
        library,
        machine,
        rerun_failed: _,
        repeat,
        retries,
        allow_flaky,
        max_fail,
        fail_fast,
        until_fail,
        dry_run: _,
        verbose,
        color,
        cases_per_boot,
        timeout,
        out: _,
        format,
        ignore_log: _,
        strict,
        seed: _,
        given: _,
        typed: _,
    } = args;
    let LibraryArgs { scenarios: _, scenario_dir: _, group, exclude, fs, pin, release, variant } = library;
    let MachineArgs { kernel, accel, qemu, disk, disk_dir, keep_disks, dump, memory, cpus, own } = machine;
    let OwnArgs { append, qemu_arg, overlay, driver, module, pinner, device_program } = own;
    let usual = MachineArgs::usual();
    let mut words = Vec::new();
    let mut say = |name: &str, value: Option<OsString>| {
        words.extend(value.into_iter().flat_map(|value| [OsString::from(name), value]));
    };
    for (name, list) in [
        ("--group", group),
        ("--exclude", exclude),
        ("--fs", fs),
        ("--pin", pin),
        ("--release", release),
        ("--variant", variant),
    ] {
        say(name, (!list.is_empty()).then(|| list.join(",").into()));
    }
    say("--kernel", unless(kernel, &usual.kernel, |kernel| kernel.text(&path)));
    say("--accel", unless(accel, &usual.accel, word_of));
    say("--qemu", qemu.as_deref().map(&path));
    say("--disk", unless(disk, &usual.disk, word_of));
    say("--disk-dir", disk_dir.as_deref().map(&path));
    say("--memory", unless(memory, &usual.memory, |n| n.to_string().into()));
    say("--cpus", unless(cpus, &usual.cpus, |n| n.to_string().into()));
    append.iter().for_each(|words| say("--append", Some(words.into())));
    qemu_arg.iter().for_each(|arg| say("--qemu-arg", Some(arg.clone())));
    say("--overlay", overlay.as_deref().map(&path));
    say("--driver", driver.as_ref().map(|module| module.text(&path)));
    module.iter().for_each(|module| say("--module", Some(module.text(&path))));
    say("--pinner", pinner.as_deref().map(&path));
    say("--device-program", device_program.as_deref().map(&path));
    say("--repeat", unless(repeat, &1, |n| n.to_string().into()));
    say("--retries", unless(retries, &0, |n| n.to_string().into()));
    say("--max-fail", max_fail.map(|n| n.to_string().into()));
    say("--cases-per-boot", unless(cases_per_boot, &100, |n| n.to_string().into()));
    say("--timeout", unless(&timeout.as_secs(), &180, |n| n.to_string().into()));
    // Files stay those of the first run, as its result directory does.
    let printed = formats::to_stdout(format).filter(|form| *form != Form::Table);
    say("--format", printed.map(|form| formats::word(&form).into()));
    say("--color", unless(color, &Color::Auto, word_of));
    for (name, given) in [
        ("--keep-disks", keep_disks),
        ("--allow-flaky", allow_flaky),
        ("--fail-fast", fail_fast),
        ("--until-fail", until_fail),
        ("--verbose", verbose),
        ("--strict", strict),
    ] {
        words.extend(given.then(|| OsString::from(name)));
    }
    words.extend(dump.map(|mib| OsString::from(format!("--dump={mib}"))));
    words.extend(["--seed".into(), seed.to_string().into()]);
    words
}

fn unless<T: PartialEq>(value: &T, usual: &T, word: impl Fn(&T) -> OsString) -> Option<OsString> {
    (value != usual).then(|| word(value))
}

fn word_of<T: ValueEnum>(value: &T) -> OsString {
    value.to_possible_value().map(|value| value.get_name().into()).unwrap_or_default()
}

fn named(name: &str, path: Option<&Path>) -> impl Iterator<Item = OsString> {
    path.into_iter().flat_map(move |path| [name.into(), path.as_os_str().to_owned()])
}

fn join(words: &[OsString]) -> String {
    words.iter().map(|word| quote::os_word(OsStr::new(word))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn run(words: &[&str]) -> RunArgs {
        match Cli::try_parse_from([&["longpin", "run"], words].concat()).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_seed_is_explicit_and_the_directory_left_out() {
        let args = run(&["lost-update", "--out", "/tmp/x", "--fs", "ext4", "--seed=3"]);
        assert_eq!(line(&args, 7), "longpin run lost-update --fs ext4 --seed 7");
        assert_eq!(line(&run(&["--format=junit=x.xml,ktap"]), 7), "longpin run --format ktap --seed 7");
        assert_eq!(line(&run(&["--format=junit=x.xml,table"]), 7), "longpin run --seed 7");
        assert_eq!(line(&run(&["--strict"]), 7), "longpin run --strict --seed 7");
        assert_eq!(line(&run(&["./my file.toml"]), 7), "longpin run './my file.toml' --seed 7");
    }

    #[test]
    fn what_a_run_was_told_is_what_its_line_tells() {
        let words = [
            "a",
            "b/ext4",
            "--scenario-dir",
            "/d",
            "--group",
            "x,y",
            "--exclude",
            "c-1,d",
            "--fs",
            "ext4:data=journal,xfs",
            "--pin",
            "pin",
            "--release",
            "dirty",
            "--variant",
            "v",
            "--kernel",
            "/k/bzImage,modules=/k/6.1,module=/k/longpin.ko",
            "--accel",
            "tcg",
            "--qemu",
            "/q",
            "--disk",
            "qemu",
            "--disk-dir",
            "/tmp/d",
            "--memory",
            "512",
            "--cpus",
            "1",
            "--append",
            "slab_nomerge",
            "--append",
            "page_poison=1",
            "--qemu-arg",
            "-rtc",
            "--qemu-arg",
            "base=localtime",
            "--overlay",
            "/o",
            "--driver",
            "/v/vendor.ko,debug=1",
            "--module",
            "/v/lib.ko",
            "--module",
            "/v/more.ko,ports=1,2",
            "--pinner",
            "/p/pins",
            "--device-program",
            "/d/accel",
            "--repeat",
            "3",
            "--max-fail",
            "2",
            "--cases-per-boot",
            "7",
            "--timeout",
            "60",
            "--format",
            "json",
            "--color",
            "never",
            "--fail-fast",
            "--until-fail",
            "--verbose",
            "--strict",
            "--seed",
            "9",
        ];
        assert_eq!(line(&run(&words), 9), format!("longpin run {}", words.join(" ")));
        let words = ["a", "--retries", "3", "--allow-flaky", "--seed", "9"];
        assert_eq!(line(&run(&words), 9), format!("longpin run {}", words.join(" ")));
    }

    #[test]
    fn what_runs_again_is_named_by_the_directory_that_has_it() {
        let args = run(&["--rerun-failed", "a b", "--fs", "ext4"]);
        assert_eq!(line(&args, 7), "longpin run --rerun-failed 'a b' --fs ext4 --seed 7");
    }

    #[test]
    fn the_script_names_the_program_its_own_scenarios_and_absolute_paths() {
        let args = run(&[
            "./mine.toml",
            "--disk-dir",
            "disks",
            "--kernel",
            "b,modules=m",
            "--overlay=o",
            "--driver=v.ko,debug=1",
            "--pin=exec",
            "--pinner=p",
            "--device-program=d",
            "--ignore-log=known.toml",
        ]);
        let script = script(Path::new("/opt/long pin/longpin"), &args, &["mine".into()], 7);
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        let command = format!(
            "exec '/opt/long pin/longpin' run --scenario-dir \"$here/scenarios\" \
             --ignore-log \"$here/ignore-log.toml\" mine --pin exec --kernel {here}/b,modules={here}/m \
             --disk-dir {here}/disks --overlay {here}/o --driver {here}/v.ko,debug=1 --pinner {here}/p \
             --device-program {here}/d --seed 7 \"$@\"\n"
        );
        assert!(script.ends_with(&command), "{script}");
    }

    #[test]
    fn a_path_that_is_no_text_reaches_the_shell_as_it_is() {
        use std::os::unix::ffi::OsStrExt as _;
        let odd = OsStr::from_bytes(b"/tmp/\xff'x");
        let out = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quote::os_word(odd))])
            .output()
            .unwrap();
        assert_eq!(out.stdout, odd.as_bytes());
    }
}
