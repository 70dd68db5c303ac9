// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What came of a case, of a boot, and where it ran: the pieces of events and documents. `docs/result-schema.md` describes
//! each field.

use crate::dmesg::reports::Report;
use crate::plan::Case;
use crate::verdict::{
    Audit, Blocked, Cause, Finding, Fsck, Generations, Judgement, LogLine, MirrorCounts, Observation,
    Observed, Outcome,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where a run took place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Guest kernel.
    pub kernel: KernelInfo,
    /// Emulator.
    pub qemu: QemuInfo,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// How long a guest was waited for, in percent of the deadlines for hardware; 0: it is not known.
    #[serde(default)]
    pub deadline_percent: u32,
    /// What is under the file systems: `audited` or `qemu`.
    #[serde(default)]
    pub disk: String,
    /// Driver in the guest.
    pub module: ModuleInfo,
    /// Identity of the tool root: hash of its recipe.
    pub tool_root: String,
    /// What that recipe gave: hash of the installed packages and their versions.
    #[serde(default)]
    pub tool_root_packages: String,
    /// The harness.
    #[serde(default)]
    pub longpin: ProgramInfo,
    /// The device daemon.
    #[serde(default)]
    pub device: ProgramInfo,
    /// What the user added.
    #[serde(default)]
    pub additions: AdditionsInfo,
    /// Seed of everything that is random.
    pub seed: u64,
    /// This machine.
    pub host: HostInfo,
}

/// Guest kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// Package and version, or the build directory.
    pub source: String,
    /// Key of all that the kernel was made from: its content.
    #[serde(default)]
    pub key: String,
    /// The scenarios' expectations were measured on it; another kernel's verdicts are judged by them all the same.
    #[serde(default = "yes")]
    pub stock: bool,
    /// How the guest's agent finds the state of pages: `cachestat` or `kpageflags`.
    #[serde(default)]
    pub page_state: String,
    /// Modules of the guest's programs that it has not: cases that need them are skipped.
    #[serde(default)]
    pub absent_modules: Vec<String>,
}

/// Documents from before kernels could be brought.
fn yes() -> bool {
    true
}

/// Emulator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuInfo {
    /// `11.1.3`.
    pub version: String,
    /// Program as it was called.
    pub path: String,
}

/// Driver in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// File name.
    pub name: String,
    /// BLAKE3 of the file, hex.
    pub hash: String,
    /// Why there is none; null if there is one.
    #[serde(default)]
    pub missing: Option<String>,
}

/// A program of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// `0.1.0`.
    pub version: String,
    /// BLAKE3 of the file, hex.
    pub hash: String,
}

/// What the user added to a guest, or put in the place of something of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdditionsInfo {
    /// Words for the kernel's command line (`--append`), as they were given.
    pub append: Vec<String>,
    /// Arguments for QEMU (`--qemu-arg`).
    pub qemu_args: Vec<String>,
    /// Tree in the guest's root (`--overlay`), or null.
    pub overlay: Option<OverlayInfo>,
    /// Modules (`--driver`, `--module`).
    #[serde(default)]
    pub modules: Vec<AddedModule>,
    /// Path of the accelerator's daemon (`--device-program`); null: longpin-device.
    pub device_program: Option<String>,
    /// Program that pins (`--pinner`, `--pin exec:PATH`), or null.
    #[serde(default)]
    pub pinner: Option<PinnerInfo>,
}

/// A program of the user's that pins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnerInfo {
    /// File on the host.
    pub path: String,
    /// BLAKE3 of the file, hex.
    pub hash: String,
}

/// A module of the user's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedModule {
    /// File on the host.
    pub path: String,
    /// BLAKE3 of the file, hex.
    pub hash: String,
    /// `NAME=VALUE` each.
    pub params: Vec<String>,
    /// It is in the place of longpin.ko.
    pub driver: bool,
}

/// A tree in the guest's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayInfo {
    /// Directory on the host.
    pub path: String,
    /// BLAKE3 of paths, permissions and content, hex.
    pub hash: String,
}

/// This machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// `uname -r`.
    pub kernel: String,
    /// Model name of the CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: u32,
    /// MemTotal in KiB.
    pub memory_kib: u64,
}

/// One virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BootResult {
    /// Number, from 1.
    pub boot: u32,
    /// Seconds from start to the agent's hello; none: it never said hello.
    pub seconds_to_agent: Option<f64>,
    /// Seconds that it lived.
    pub seconds: f64,
    /// Cases that it ran, controls included.
    pub cases: u32,
    /// Why it ended: `done`, or what spoiled it.
    pub ended: String,
}

/// Why a case is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseError {
    /// `infra` or `unproven`.
    pub cause: Cause,
    /// What happened.
    pub message: String,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Stable id.
    pub id: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Scenario.
    pub scenario: String,
    /// File system, with mount options.
    pub fs: String,
    /// Pin mode.
    pub pin: String,
    /// Release mode.
    pub release: String,
    /// Variant, or null.
    pub variant: Option<String>,
    /// It is a control.
    pub control: bool,
    /// Boot in which it ran.
    pub boot: u32,
    /// What was seen, in the order of gravity.
    pub observations: BTreeSet<Observation>,
    /// The gravest; null if nothing was seen.
    pub headline: Option<Observation>,
    /// What the scenario expects.
    pub expected: BTreeSet<Observation>,
    /// pass, fail, xfail, xpass, skip, error.
    pub outcome: Outcome,
    /// Of an error; else null.
    pub error: Option<CaseError>,
    /// Sentence.
    pub reason: String,
    /// The three generations behind the verdict.
    pub generations: Generations,
    /// Name of the errno that matters, or null.
    pub errno: Option<String>,
    /// What differs, gravest first.
    pub findings: Vec<Finding>,
    /// What regions that nobody pins have counted; null where there was none.
    #[serde(default)]
    pub mirror: Option<MirrorCounts>,
    /// What the auditing disk saw; null where there was none.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// Jobs that `settle` found asleep.
    #[serde(default)]
    pub blocked: Vec<Blocked>,
    /// The word of the file system's own checker; null if it did not look.
    #[serde(default)]
    pub fsck: Option<Fsck>,
    /// Seconds from first step to verdict.
    pub seconds: f64,
    /// Kernel log lines that mean something.
    pub log: Vec<LogLine>,
    /// Reports that the kernel made of itself, each once.
    #[serde(default)]
    pub reports: Vec<Report>,
    /// Every attempt, in order, where the case was run again because it was not as expected; else empty. The other fields are
    /// then those of the attempt that decided.
    #[serde(default)]
    pub attempts: Vec<CaseResult>,
}

impl CaseResult {
    /// Put the pieces of a case together.
    pub fn new(case: &Case, boot: u32, seen: &Observed, judgement: &Judgement, seconds: f64) -> Self {
        let error = judgement.cause.map(|cause| CaseError {
            cause,
            message: seen.problem.as_ref().map_or_else(|| judgement.reason.clone(), |p| p.message.clone()),
        });
        Self {
            id: case.id.clone(),
            attempt: case.attempt,
            scenario: case.scenario.name.clone(),
            fs: case.point.fs.to_string(),
            pin: case.point.pin.to_string(),
            release: case.point.release.to_string(),
            variant: case.point.variant.clone(),
            control: case.control,
            boot,
            observations: seen.observations.clone(),
            headline: seen.headline(),
            expected: case.expectation().map(|row| row.observe.clone()).unwrap_or_default(),
            outcome: judgement.outcome,
            error,
            reason: judgement.reason.clone(),
            generations: seen.generations,
            errno: seen.errno.clone(),
            findings: seen.findings.clone(),
            mirror: seen.mirror,
            audit: seen.audit.clone(),
            blocked: seen.blocked.clone(),
            fsck: seen.fsck.clone(),
            seconds,
            log: seen.log.clone(),
            reports: seen.reports.clone(),
            attempts: Vec::new(),
        }
    }

    /// `fail`, `error (infra)`.
    pub fn outcome_words(&self) -> String {
        match &self.error {
            Some(error) => format!("{} ({})", self.outcome, error.cause),
            None => self.outcome.to_string(),
        }
    }

    /// Some attempt saw something worse than `refused`.
    pub fn saw_harm(&self) -> bool {
        let observations = self.attempts.iter().flat_map(|attempt| &attempt.observations);
        observations.chain(&self.observations).any(|word| word.is_bad())
    }

    /// Id and, where there are several, the attempt.
    pub fn label(&self) -> String {
        match self.attempt {
            1 => self.id.clone(),
            attempt => format!("{}#{attempt}", self.id),
        }
    }
}

/// Of a [label](CaseResult::label), without the attempt.
pub(crate) fn id_of(label: &str) -> &str {
    label.split_once('#').map_or(label, |(id, _)| id)
}
