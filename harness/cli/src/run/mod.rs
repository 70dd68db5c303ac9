// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A run: from the command line to a result directory, a table or a document, and an exit code.

mod batches;
pub mod case;
pub mod environment;
mod executor;
pub mod ignored;
pub mod repeat;
mod replay;
mod rerun;
pub mod result_dir;
mod screen;
pub mod soak;
mod story;

use crate::args::{MachineArgs, OwnArgs, ReplayArgs, RunArgs};
use crate::device::Program;
use crate::earlier::{IGNORED, SCENARIOS, SCRIPT};
use crate::error::{Error, Result};
use crate::formats::{self, Form, Output};
use crate::guest::dump::Dumps;
use crate::guest::{Machine, kernel_words};
use crate::images::{Brought, Driver, Images, Pinner};
use crate::interrupt::Interrupt;
use crate::library::Library;
use crate::output;
use crate::patience;
use crate::symbols::Symbols;
use crate::terminal;
use crate::vm::accel;
use crate::vm::additions::Additions;
use crate::vm::qemu::Qemu;
use anyhow::Context as _;
use case::Limits;
use executor::Executor;
use longpin_core::dmesg::ignored::Ignored;
use longpin_core::events::EventKind;
use longpin_core::exit_code::ExitCode;
use longpin_core::plan::Case;
use longpin_core::report::{RunResult, TableStyle};
use longpin_core::scenario::MachineNeeds;
use longpin_images::{Overlay, Store};
use replay::Then;
use rerun::Again;
use result_dir::ResultDir;
use screen::Screen;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use story::Story;

/// Run and report. The exit code is that of the verdicts.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    formats::check(&args.format)?;
    let Some(dir) = &args.rerun_failed else { return run_cases(args) };
    match rerun::failed(args, dir)? {
        Again::Cases(args) => run_cases(&args),
        Again::Nothing(why) => {
            output::note(&why);
            Ok(ExitCode::Good)
        }
    }
}

fn run_cases(args: &RunArgs) -> Result<ExitCode> {
    let library = Library::load(&args.library)?;
    let cases = planned(args, &library)?;
    if args.dry_run {
        ignored::open(args.ignore_log.as_deref())?;
        return dry(&args.format, &cases);
    }
    let done = carry_out(args, &library, cases, None)?;
    let printed = print(args, &library, &done.result);
    output::note(&format!("results: {}", done.dir.display()));
    output::note(&format!("repeat:  {}", done.result.command));
    done.written.and(printed)?;
    Ok(done.result.exit_code(args.strict))
}

/// Run one case of an earlier run as it was, and say whether it came out so. The exit code is that of its verdict now.
pub fn replay(args: &ReplayArgs) -> Result<ExitCode> {
    formats::check(&args.format)?;
    let (args, then) = replay::open(args)?;
    let library = Library::load(&args.library)?;
    // An id may be the beginning of others.
    let cases: Vec<Case> = library.cases(1).into_iter().filter(|case| case.id == then.id).collect();
    if cases.is_empty() {
        return Err(Error::Usage(format!("{} is no case of the scenarios that lie there", then.id)));
    }
    let done = carry_out(&args, &library, cases, Some(&then))?;
    let printed = print(&args, &library, &done.result);
    output::note(&format!("results: {}", done.dir.display()));
    output::note(&then.compared(&done.result));
    done.written.and(printed)?;
    Ok(done.result.exit_code(args.strict))
}

/// A run that is over.
struct Done {
    result: RunResult,
    dir: PathBuf,
    /// Whether the run, and the writing of its result, came to their end.
    written: anyhow::Result<()>,
}

/// Run, and print nothing: the result, and where it lies.
pub fn run_silently(args: &RunArgs) -> Result<(RunResult, PathBuf)> {
    let library = Library::load(&args.library)?;
    let cases = planned(args, &library)?;
    let done = carry_out(args, &library, cases, None)?;
    done.written?;
    Ok((done.result, done.dir))
}

fn carry_out(args: &RunArgs, library: &Library, cases: Vec<Case>, then: Option<&Then>) -> Result<Done> {
    let (ignored, list) = ignored::open(args.ignore_log.as_deref())?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let out = ResultDir::create(args.out.as_deref(), seed)?;
    let (Prepared { machine, notices, interrupt }, differences) = match formats::make_ready(&args.format)
        .and_then(|()| prepare(&args.machine, &cases.iter().map(Case::machine).collect::<Vec<_>>()))
        .and_then(|prepared| with_cases_to_run(prepared, &cases))
        .and_then(|prepared| {
            let differences = then.map_or(Ok(Vec::new()), |then| then.check(&prepared.machine))?;
            Ok((prepared, differences))
        }) {
        Ok(prepared) => prepared,
        Err(error) => {
            out.remove_if_empty();
            return Err(error);
        }
    };
    out.announce()?;
    record_scenarios(library, &out)?;
    list.iter().try_for_each(|list| out.write(IGNORED, list.as_bytes()))?;
    let script =
        repeat::script(&std::env::current_exe().context("this program's path")?, args, library.words(), seed);
    out.write(SCRIPT, script.as_bytes())?;
    let mut story = Story::begin(out.path(), Screen::new(terminal::stderr_is_live(), args.verbose))?;
    let notices = notices.into_iter().chain(differences.iter().map(|it| format!("replay: {it}"))).collect();
    let label = then.map(|then| then.run);
    let told = tell(args, seed, label, cases, &machine, notices, &ignored, &out, &interrupt, &mut story);
    let result = story.result();
    drop(story);
    let written = told.and_then(|()| out.write_json("result.json", &result));
    Ok(Done { result, dir: out.path().to_owned(), written })
}

/// What the run knows of its cases stays with it: how they are done, what is expected and why.
fn record_scenarios(library: &Library, out: &ResultDir) -> anyhow::Result<()> {
    let dir = out.path().join(SCENARIOS);
    std::fs::create_dir(&dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    let mut texts = library.texts();
    texts.try_for_each(|(name, text)| out.write(&format!("{SCENARIOS}/{name}.toml"), text.as_bytes()))
}

/// Everything between the first event and the last.
#[expect(
    clippy::too_many_arguments,
    reason = "a private continuation of `run`, split for its error handling"
)]
fn tell(
    args: &RunArgs,
    seed: u32,
    label: Option<u64>,
    cases: Vec<Case>,
    machine: &Machine,
    notices: Vec<String>,
    ignored: &Ignored,
    out: &ResultDir,
    interrupt: &Interrupt,
    story: &mut Story,
) -> anyhow::Result<()> {
    let environment = environment::collect(machine, seed)?;
    let command = repeat::line(args, seed);
    story.tell(EventKind::RunStarted {
        environment: Box::new(environment.clone()),
        cases: cases.iter().map(Case::label).collect(),
        started: jiff::Timestamp::now().to_string(),
        command,
        allow_flaky: args.allow_flaky,
        races: cases.iter().filter_map(|case| Some((case.id.clone(), case.expectation()?.race()?))).collect(),
    })?;
    for text in notices.into_iter().chain(kernel_notices(machine)) {
        story.tell(EventKind::Notice { text })?;
    }
    let limits = Limits::new(machine.patience, args.timeout);
    let cases_per_boot = args.cases_per_boot as usize;
    let fail_fast = args.fail_fast || args.until_fail;
    let mut executor = Executor {
        machine,
        out,
        interrupt,
        story,
        limits,
        cases_per_boot,
        fail_fast,
        max_fail: args.max_fail,
        environment,
        ignored,
        seed,
        as_it_was: label,
        attempts: 0,
        last: None,
        boots: 0,
        unexpected: Vec::new(),
        stopped: false,
        symbols: Symbols::of(&machine.images),
    };
    executor.run(cases, args.retries)?;
    story.tell(EventKind::RunFinished)
}

/// What must be there before the first boot.
pub struct Prepared {
    /// What guests are made of.
    pub machine: Machine,
    /// What people should know about the accelerator and its deadlines.
    pub notices: Vec<String>,
    /// Signals are caught from now on.
    pub interrupt: Interrupt,
}

/// Images, emulator, accelerator. While images are built a signal ends us at once: the store copes with that, and
/// there is nothing else to tidy up yet.
pub fn prepare<'a>(
    args: &MachineArgs,
    needs: impl IntoIterator<Item = &'a MachineNeeds>,
) -> Result<Prepared> {
    let needs: Vec<&MachineNeeds> = needs.into_iter().collect();
    let own = Own::open(&args.own, args.memory)?;
    for needs in &needs {
        own.additions.check(&kernel_words(needs)).map_err(Error::Usage)?;
    }
    let programs: BTreeSet<_> = needs.into_iter().map(|needs| needs.programs.clone()).collect();
    let images = Images::ensure(&args.kernel, own.brought, false, programs)?;
    machine(args, images, own.device, own.additions)
}

/// What the user brings, looked at before anything is built.
struct Own {
    brought: Brought,
    device: Program,
    additions: Additions,
}

impl Own {
    fn open(args: &OwnArgs, memory_mib: u32) -> Result<Self> {
        let OwnArgs { append, qemu_arg, overlay, driver, module, pinner, device_program } = args;
        let device = match device_program {
            Some(path) => Program::open_given(path).map_err(|error| Error::Usage(format!("{error:#}")))?,
            None => Program::open()?,
        };
        // Archive and files are in memory together when the kernel unpacks them.
        let most_bytes = u64::from(memory_mib) << 20 >> 2;
        let overlay = overlay.as_deref().map(|dir| Overlay::read(dir, most_bytes)).transpose();
        let overlay = overlay.map_err(|error| Error::Usage(error.to_string()))?;
        let additions = Additions { kernel_words: append.clone(), qemu_args: qemu_arg.clone() };
        let pinner = pinner.as_deref().map(Pinner::read).transpose()?;
        let brought = Brought { overlay, driver: driver.clone(), modules: module.clone(), pinner };
        Ok(Self { brought, device, additions })
    }
}

/// A kernel without driver is of use to cases that need none. Errors: `Usage` if there is no such case.
fn with_cases_to_run(prepared: Prepared, cases: &[Case]) -> Result<Prepared> {
    match &prepared.machine.images.driver {
        Driver::Missing(why) if cases.iter().all(Case::needs_driver) => Err(Error::Usage(format!(
            "every chosen case needs the driver, and {why}; other cases run without it: --pin dio,none"
        ))),
        _ => Ok(prepared),
    }
}

/// The rest of [`prepare`], where the images are there.
pub fn machine(
    args: &MachineArgs,
    images: Images,
    device: Program,
    additions: Additions,
) -> Result<Prepared> {
    let interrupt = Interrupt::install()?;
    let qemu = Qemu::choose(args.qemu.as_deref(), &images.tool_root)?;
    let scratch = tempfile::tempdir().context("no scratch directory")?;
    let choice = accel::choose(args.accel, &qemu, scratch.path())?;
    let reason = choice.reason.map(|reason| format!("accel: tcg, since KVM is not usable here: {reason}"));
    let store = Store::open_default().context("image store cannot be opened")?;
    let cpu = environment::cpu_model();
    let explained = patience::patience(choice.accel, &qemu, &cpu, store.path(), scratch.path());
    let notices = reason.into_iter().chain(explained.text).collect();
    let MachineArgs { disk, memory: memory_mib, cpus, keep_disks, ref disk_dir, dump, .. } = *args;
    let dumps = dump.map(|mib| Arc::new(Dumps::new(mib, memory_mib)));
    let disk_dir = disk_dir.clone().unwrap_or_else(std::env::temp_dir);
    let accel = choice.accel;
    let machine = Machine {
        images,
        qemu,
        device,
        accel,
        patience: explained.patience,
        disk,
        disk_dir,
        keep_disks,
        dumps,
        memory_mib,
        cpus,
        additions,
    };
    Ok(Prepared { machine, notices, interrupt })
}

/// A run of so many cases takes weeks; all of them stand in memory.
const MAX_CASES: usize = 100_000;

fn planned(args: &RunArgs, library: &Library) -> Result<Vec<Case>> {
    let (once, attempts) = (library.cases(1).len(), args.attempts());
    match once.saturating_mul(attempts as usize) {
        0..=MAX_CASES => Ok(library.cases(attempts)),
        _ => Err(Error::Usage(format!(
            "{once} cases, {attempts} times each, are more than {MAX_CASES}; choose fewer scenarios or a smaller --repeat"
        ))),
    }
}

/// What would run.
fn dry(outputs: &[Output], cases: &[Case]) -> Result<ExitCode> {
    let labels: Vec<String> = cases.iter().map(Case::label).collect();
    match formats::to_stdout(outputs) {
        Some(Form::Json) => output::json(&labels)?,
        _ => output::text(&labels.iter().map(|label| format!("{label}\n")).collect::<String>())?,
    }
    Ok(ExitCode::Good)
}

/// Where nothing else goes to standard output, people see the table.
fn print(args: &RunArgs, library: &Library, result: &RunResult) -> anyhow::Result<()> {
    let mut outputs = args.format.clone();
    if formats::to_stdout(&outputs).is_none() {
        outputs.insert(0, Output { form: Form::Table, file: None });
    }
    let style =
        TableStyle { color: terminal::stdout_has_color(args.color), width: Some(terminal::stdout_width()) };
    formats::Content { run: result, style, places: &library.places() }.write(&outputs)
}

/// What people should know of a kernel that they brought.
fn kernel_notices(machine: &Machine) -> Vec<String> {
    let images = &machine.images;
    if !images.kernel.is_brought() {
        return Vec::new();
    }
    let release = images.kernel.release();
    let mut notices = vec![format!(
        "kernel: {release}; what the scenarios expect was measured on the stock kernel, so a fail or xpass is a difference \
         between the two"
    )];
    if let Driver::Missing(why) = &images.driver {
        notices.push(format!("driver: {why}; cases that need it are skipped"));
    }
    notices
}

/// Small enough to be typed again.
fn random_seed() -> u32 {
    let mut bytes = [0u8; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => u32::from_le_bytes(bytes),
        // Never on a kernel that is up; the clock is as good for telling runs apart.
        _ => jiff::Timestamp::now().as_microsecond() as u32,
    }
}
