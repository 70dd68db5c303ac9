// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong around a case, and what longpin must make of each: the one table of `longpin selftest`.

use rustix::process::Signal;

/// A kind of trouble, or of good end, that is provoked for real in a run of its own.
#[derive(Debug)]
pub struct Kind {
    /// Word on the command line and in the output.
    pub name: &'static str,
    /// What is provoked, for people.
    pub provoked: &'static str,
    /// The scenario that runs.
    pub scenario: Scenario,
    /// What the run is given beside the scenario.
    pub given: Given,
    /// What befalls it from outside.
    pub act: Act,
    /// What must come of it.
    pub due: Due,
}

/// A scenario file of tests/selftest.
#[derive(Debug)]
pub struct Scenario {
    /// File name.
    pub file: &'static str,
    /// Content.
    pub text: &'static str,
}

/// Comment on the line of a step during which something comes from outside.
const MARK: &str = "# provoked here";

impl Scenario {
    /// Line of the step during which something comes from outside, if there is one.
    pub fn marked_line(&self) -> Option<u64> {
        let line = self.text.lines().position(|line| line.ends_with(MARK))?;
        u64::try_from(line + 1).ok()
    }
}

/// Options and files of a run.
#[derive(Debug)]
pub enum Given {
    /// These options.
    Options(&'static [&'static str]),
    /// QEMU listens for a debugger.
    DebugStub,
    /// The stock kernel with a driver of another release.
    ForeignModule,
    /// A kernel image that is none.
    NoKernelImage,
    /// The result directory is a disk of so many bytes.
    SmallResultDisk(u64),
    /// The disks of the guest are on one of so many bytes.
    SmallScratchDisk(u64),
}

/// What is done to a run that stands in the marked step.
#[derive(Debug)]
pub enum Act {
    /// Nothing: the scenario does it, or it is in what the run is given.
    Nothing,
    /// A signal to the process of this name, one of those that the run started.
    Signal(&'static str, Signal),
    /// A signal to the run itself.
    SignalRun(Signal),
    /// Every CPU of the guest spins with interrupts off.
    SpinWithoutInterrupts,
    /// One CPU of the guest spins in its idle task, until the kernel says so.
    SpinUntilSoftLockup,
    /// Something that is no message comes out of the agent's channel.
    Garble,
}

/// What must come of a run.
#[derive(Debug)]
pub struct Due {
    /// Exit code.
    pub code: i32,
    /// What is known of the case.
    pub case: Reported,
    /// Pieces of the case's reason, or of what the run says if no case reports.
    pub words: &'static [&'static str],
}

/// What a run reports of its only case.
#[derive(Debug)]
pub enum Reported {
    /// An outcome, with the headline if something was observed.
    Outcome(&'static str, Option<&'static str>),
    /// An error of this cause.
    Error(&'static str),
    /// It is missing, and the result says that the run was interrupted.
    Interrupted,
    /// There is no result: nothing ran.
    Nothing,
}

macro_rules! scenario {
    ($file:literal) => {
        Scenario { file: $file, text: include_str!(concat!("../../../../tests/selftest/", $file)) }
    };
}

const QEMU: &str = "qemu-system-x86_64";
const DEVICE: &str = "longpin-device";
const NO_OPTIONS: Given = Given::Options(&[]);

/// All kinds, in the order in which they are tried.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "pass",
        provoked: "nothing: the device writes through a pin and the file has the bytes",
        scenario: scenario!("selftest-pass.toml"),
        given: NO_OPTIONS,
        act: Act::Nothing,
        due: Due { code: 0, case: Reported::Outcome("pass", Some("intact")), words: &[] },
    },
    Kind {
        name: "corruption",
        provoked: "a page of the file is overwritten on the disk",
        scenario: scenario!("selftest-corruption.toml"),
        given: NO_OPTIONS,
        act: Act::Nothing,
        due: Due {
            code: 1,
            case: Reported::Outcome("fail", Some("torn")),
            words: &["guest and host", "expected intact"],
        },
    },
    Kind {
        name: "refusal",
        provoked: "a long-term pin that the kernel denies",
        scenario: scenario!("selftest-refusal.toml"),
        given: NO_OPTIONS,
        act: Act::Nothing,
        due: Due { code: 0, case: Reported::Outcome("pass", Some("refused")), words: &["EFAULT"] },
    },
    Kind {
        name: "skip",
        provoked: "a case that needs the auditing disk, on a disk of QEMU's own",
        scenario: scenario!("selftest-skip.toml"),
        given: Given::Options(&["--disk", "qemu"]),
        act: Act::Nothing,
        due: Due { code: 4, case: Reported::Outcome("skip", None), words: &["needs the auditing disk"] },
    },
    Kind {
        name: "panic",
        provoked: "the guest's kernel panics (sysrq c)",
        scenario: scenario!("selftest-panic.toml"),
        given: NO_OPTIONS,
        act: Act::Nothing,
        due: Due {
            code: 1,
            case: Reported::Outcome("fail", Some("panic")),
            words: &["sysrq triggered crash"],
        },
    },
    Kind {
        name: "hang",
        provoked: "every CPU of the guest spins in the kernel with interrupts off",
        scenario: scenario!("selftest-waiting.toml"),
        given: Given::DebugStub,
        act: Act::SpinWithoutInterrupts,
        due: Due {
            code: 1,
            case: Reported::Outcome("fail", Some("hang")),
            words: &["agent silent", "during step `exec`"],
        },
    },
    Kind {
        name: "soft-lockup",
        provoked: "a CPU of the guest spins in the kernel until the watchdog says so",
        scenario: scenario!("selftest-lockup.toml"),
        given: Given::DebugStub,
        act: Act::SpinUntilSoftLockup,
        due: Due { code: 1, case: Reported::Outcome("fail", Some("splat")), words: &["soft lockup"] },
    },
    Kind {
        name: "agent-killed",
        provoked: "the agent crashes in the guest, and with it the guest loses its init",
        scenario: scenario!("selftest-agent.toml"),
        given: NO_OPTIONS,
        act: Act::Nothing,
        due: Due {
            code: 2,
            case: Reported::Error("infra"),
            words: &["the agent is lost", "Attempted to kill init!"],
        },
    },
    Kind {
        name: "agent-garbled",
        provoked: "garbage comes out of the agent's channel",
        scenario: scenario!("selftest-waiting.toml"),
        given: NO_OPTIONS,
        act: Act::Garble,
        due: Due {
            code: 2,
            case: Reported::Error("infra"),
            words: &["the agent is lost: agent broke the protocol", "selftest garbage"],
        },
    },
    Kind {
        name: "qemu-killed",
        provoked: "QEMU is killed while the disk holds a write",
        scenario: scenario!("selftest-holding.toml"),
        given: NO_OPTIONS,
        act: Act::Signal(QEMU, Signal::KILL),
        due: Due { code: 2, case: Reported::Error("infra"), words: &["QEMU ended: qemu"] },
    },
    Kind {
        name: "qemu-stopped",
        provoked: "QEMU is stopped (SIGSTOP)",
        scenario: scenario!("selftest-waiting.toml"),
        given: NO_OPTIONS,
        act: Act::Signal(QEMU, Signal::STOP),
        due: Due { code: 2, case: Reported::Error("infra"), words: &["QEMU does not answer on its monitor"] },
    },
    Kind {
        name: "device-killed",
        provoked: "the device daemon is killed while it holds a write",
        scenario: scenario!("selftest-holding.toml"),
        given: NO_OPTIONS,
        act: Act::Signal(DEVICE, Signal::KILL),
        due: Due {
            code: 2,
            case: Reported::Error("infra"),
            words: &["longpin-device was killed by signal 9"],
        },
    },
    Kind {
        name: "interrupt",
        provoked: "Ctrl-C in the middle of a case",
        scenario: scenario!("selftest-holding.toml"),
        given: NO_OPTIONS,
        act: Act::SignalRun(Signal::INT),
        due: Due { code: 2, case: Reported::Interrupted, words: &["interrupted"] },
    },
    Kind {
        name: "wrong-module",
        provoked: "a driver that was built for another kernel",
        scenario: scenario!("selftest-pass.toml"),
        given: Given::ForeignModule,
        act: Act::Nothing,
        due: Due { code: 3, case: Reported::Nothing, words: &["driver.ko is for kernel `0.", "not for `"] },
    },
    Kind {
        name: "unreadable-image",
        provoked: "a kernel image that is none",
        scenario: scenario!("selftest-pass.toml"),
        given: Given::NoKernelImage,
        act: Act::Nothing,
        due: Due { code: 3, case: Reported::Nothing, words: &["--kernel:", "it is not a bzImage"] },
    },
    Kind {
        name: "result-disk-full",
        provoked: "no space left for the results",
        scenario: scenario!("selftest-pass.toml"),
        given: Given::SmallResultDisk(200 << 10),
        act: Act::Nothing,
        due: Due { code: 2, case: Reported::Nothing, words: &["No space left on device"] },
    },
    Kind {
        name: "scratch-disk-full",
        provoked: "no space left for the guest's disk",
        scenario: scenario!("selftest-filling.toml"),
        given: Given::SmallScratchDisk(32 << 20),
        act: Act::Nothing,
        due: Due { code: 2, case: Reported::Error("infra"), words: &["No space left on device"] },
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_says_what_is_due() {
        let names: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for kind in KINDS {
            let good = matches!(kind.due.case, Reported::Outcome("pass", _));
            assert!(!kind.due.words.is_empty() || good, "{}: any reason would do", kind.name);
            assert!(!kind.provoked.is_empty(), "{}", kind.name);
        }
    }

    #[test]
    fn every_scenario_is_valid_has_one_case_and_a_mark_where_something_comes_from_outside() {
        for kind in KINDS {
            let Scenario { file, text } = kind.scenario;
            let scenario = longpin_core::scenario::Scenario::parse(file, text).unwrap();
            assert_eq!(scenario.matrix.points().len(), 1, "{file}");
            let from_outside = !matches!(kind.act, Act::Nothing);
            assert_eq!(kind.scenario.marked_line().is_some(), from_outside, "{}", kind.name);
        }
    }
}
